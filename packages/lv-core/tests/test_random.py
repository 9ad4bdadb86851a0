"""Derived streams, shards, and draws."""

import enum

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lv_core import Rows, Shard, normal, stream, uniform

names = st.lists(st.one_of(st.text(max_size=3), st.integers(-3, 3)), max_size=3)


def first(*arguments) -> float:
    return torch.rand(1, generator=stream(*arguments), dtype=torch.float64).item()


@given(seed=st.integers(0, 2**70), names=names)
def test_a_stream_is_a_function_of_its_arguments(seed, names) -> None:
    assert first(seed, *names) == first(seed, *names)


@given(one=names, two=names)
def test_other_names_give_another_stream(one, two) -> None:
    assert (first(0, *one) == first(0, *two)) == (one == two)


def test_the_seed_and_every_name_count() -> None:
    arguments = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a", 1, 0)]
    assert len({first(*a) for a in arguments}) == len(arguments)


def test_names_are_not_glued_together() -> None:
    glued = [("a", 1), ("a1",), ("a", "1"), ("a, 1",), (1, "a")]
    assert len({first(0, *a) for a in glued}) == len(glued)


def test_the_first_numbers_never_change() -> None:
    # Written down once: saved runs go on with these numbers in later versions.
    assert stream(0).initial_seed() == 2631537505891389924
    assert stream(3435, "posterior", 7, 0).initial_seed() == 5424121857872023484


def test_equal_strings_of_other_types_are_equal_names() -> None:
    class Split(enum.StrEnum):
        TRAIN = "train"

    assert first(0, np.str_("train")) == first(0, Split.TRAIN) == first(0, "train")


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("name", [1.0, None, ("a",), b"a"])
def test_names_that_hash_by_accident_are_refused(name) -> None:
    with pytest.raises(TypeError, match="names must be strings or integers"):
        stream(0, "a", name)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    generator = stream(0, "a")
    normal(torch.zeros(3), generator)
    uniform((3,), torch.zeros(1), generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_none_draws_from_the_global_generator() -> None:
    torch.manual_seed(5)
    one = normal(torch.zeros(3)), uniform((3,), torch.zeros(3))
    torch.manual_seed(5)
    assert torch.equal(one[0], torch.randn(3))
    assert torch.equal(one[1], torch.rand(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_take_shape_dtype_and_device_of_the_example(dtype, device) -> None:
    like = torch.zeros(4, 3, dtype=dtype, device=device)
    for source in (None, stream(0, device=device)):
        draw, flat = normal(like, source), uniform((4,), like, source)
        assert (draw.shape, draw.dtype, draw.device) == (like.shape, dtype, like.device)
        assert (flat.shape, flat.dtype, flat.device) == ((4,), dtype, like.device)


def test_a_buffer_is_filled_in_place() -> None:
    buffer = torch.empty(4, 3)
    assert normal(buffer, stream(0), out=buffer) is buffer
    assert torch.equal(buffer, normal(torch.empty(4, 3), stream(0)))


def test_draws_do_not_depend_on_memory_layout() -> None:
    # 30 numbers: beyond 16 the CPU fills contiguous tensors by another routine.
    plain, transposed = torch.zeros(6, 5), torch.zeros(5, 6).T
    assert torch.equal(normal(plain, stream(0)), normal(transposed, stream(0)))


@given(world=st.integers(1, 4), rows=st.integers(1, 5), width=st.integers(1, 6))
def test_shards_together_are_the_whole_draw(world, rows, width) -> None:
    def part(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        shard = Shard(generator=stream(0, "step"), rank=rank, world=world)
        like = torch.zeros(rows, width)
        return normal(like, shard), uniform((rows, width), like, shard)

    whole = stream(0, "step")
    like = torch.zeros(rows * world, width)
    parts = [part(rank) for rank in range(world)]
    assert torch.equal(torch.cat([p[0] for p in parts]), normal(like, whole))
    assert torch.equal(torch.cat([p[1] for p in parts]), uniform(like.shape, like, whole))


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank, world) -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        Shard(generator=stream(0), rank=rank, world=world)


def test_numbers_are_standard_normal_and_uniform() -> None:
    n = 100_000
    draw, flat = normal(torch.zeros(n), stream(1)), uniform((n,), torch.zeros(1), stream(1))
    # Standard errors: mean 1/sqrt(n), variance sqrt(2/n), mean of uniforms sqrt(1/(12 n)).
    assert abs(draw.mean().item()) < 5 / n**0.5
    assert abs(draw.var().item() - 1) < 5 * (2 / n) ** 0.5
    assert abs(flat.mean().item() - 0.5) < 5 * (1 / (12 * n)) ** 0.5
    assert flat.min().item() >= 0
    assert flat.max().item() < 1


def test_rows_get_their_noise_in_any_company() -> None:
    like = torch.empty(4, 3, 2, dtype=torch.float64)
    whole = normal(like, Rows.of(7, [3, 1, 9, 4], "posterior", 2))
    part = normal(like[:2], Rows.of(7, torch.tensor([9, 1]), "posterior", 2))
    assert torch.equal(part, whole[[2, 1]])
    assert whole.dtype == torch.float64
    alone = normal(like[0], stream(7, "posterior", 2, 3))
    assert torch.equal(whole[0], alone)
    for other in (Rows.of(8, [3], "posterior", 2), Rows.of(7, [3], "posterior", 1)):
        assert not torch.equal(normal(like[:1], other)[0], whole[0])


def test_rows_draw_uniform_numbers_and_go_on() -> None:
    rows, like = Rows.of(0, range(3)), torch.empty(3, 5)
    first, second = uniform((3, 5), like, rows), uniform((3, 5), like, rows)
    assert ((first >= 0) & (first < 1)).all()
    assert not torch.equal(first, second)
    again = uniform((3, 10), torch.empty(3, 10), Rows.of(0, range(3)))
    assert torch.equal(again[:, :5], first)


@pytest.mark.parametrize("shape", [(2, 3), (), (4,)])
def test_rows_refuse_another_number_of_rows(shape) -> None:
    with pytest.raises(ValueError, match="a source of 3 rows draws for as many"):
        normal(torch.empty(shape), Rows.of(0, range(3)))
