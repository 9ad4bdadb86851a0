"""The protocol of all kernels: add a new kernel to KERNELS and it must pass every test here."""

import dataclasses
import io
import pathlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lv_core
from lv_core import (
    Annealed,
    ChainState,
    Draws,
    GradientStep,
    Hmc,
    Langevin,
    Linear,
    Mala,
    Nuts,
    ParallelTempering,
    Psgld,
    Sequence,
    Shard,
    Sum,
    Svgd,
    Underdamped,
    stream,
)
from lv_core.kernels.compiled import recorded_draws
from lv_core.nn import mlp

KERNELS = {
    "langevin": Langevin(steps=5, step_size=0.3),
    "langevin, clipped and cold": Langevin(steps=5, step_size=0.3, temperature=0.5, clip=0.4),
    "gradient step": GradientStep(steps=5, step_size=0.3),
    "mala": Mala(steps=5, step_size=0.9),
    "sequence": Sequence(
        stages=(
            (Langevin(steps=1, step_size=0.5, temperature=0.25), ("prior",)),
            (GradientStep(step_size=0.5), ("x",)),
        ),
        steps=5,
    ),
    "sequence with mala": Sequence(
        stages=((Mala(steps=1, step_size=0.7), ()), (GradientStep(step_size=0.2), ("x",))),
        steps=5,
    ),
    "hmc": Hmc(steps=5, step_size=0.5, leapfrog=3),
    "hmc with jitter": Hmc(steps=5, step_size=0.5, leapfrog=2, jitter=0.2, temperature=0.5),
    "nuts": Nuts(steps=5, step_size=0.5, max_depth=4),
    "baoab": Underdamped(steps=5, step_size=0.5),
    "obabo": Underdamped(steps=5, step_size=0.5, friction=2.0, scheme="obabo"),
    "psgld": Psgld(steps=5, step_size=0.3),
    "svgd": Svgd(steps=5, step_size=0.5),
    "annealed mala": Annealed(
        kernel=Mala(steps=1, step_size=0.7), schedule=Linear(start=0.3, end=1.0, steps=5), steps=5
    ),
    "tempered mala": ParallelTempering(
        kernel=Mala(steps=1, step_size=0.7), betas=(1.0, 0.5, 0.2), steps=5
    ),
}

DETERMINISTIC = (GradientStep, Svgd)
"""Kernels that draw nothing."""
INTERACTING = (Svgd,)
"""Kernels whose chains see each other, and whose last batch axis is no mere grouping."""


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernel(request):
    return request.param


def target_of(event_ndim: int = 1) -> Sum:
    axes = tuple(range(-event_ndim, 0))

    def prior(u: Tensor) -> Tensor:
        return (-0.5 * u.square()).sum(axes) if axes else -0.5 * u.square()

    def likelihood(u: Tensor) -> Tensor:
        return (u - 1).cos().sum(axes) if axes else (u - 1).cos()

    return Sum({"prior": prior, "x": likelihood})


TARGET = target_of()


@given(
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    event=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    double=st.booleans(),
)
@pytest.mark.parametrize("name", KERNELS)
def test_keeps_shape_and_dtype_for_any_batch_and_event(name, batch, event, double) -> None:
    u = torch.randn(*batch, *event, dtype=torch.float64 if double else torch.float32)
    before = u.clone()
    trace = KERNELS[name].run(target_of(len(event)), u, generator=stream(0), steps=2, thin=1)
    assert (trace.state.u.shape, trace.state.u.dtype) == (u.shape, u.dtype)
    assert trace.u.shape == (2, *u.shape)
    assert trace.displacement.shape == tuple(batch)
    assert torch.equal(u, before)


def test_batch_axes_are_only_a_grouping_of_chains(kernel) -> None:
    if isinstance(kernel, INTERACTING):
        pytest.skip("its last batch axis holds interacting particles")
    u = torch.randn(2, 3, 4, dtype=torch.float64)
    grouped = kernel(TARGET, u, generator=stream(0))
    flat = kernel(TARGET, u.reshape(6, 4), generator=stream(0))
    torch.testing.assert_close(grouped.reshape(6, 4), flat, rtol=1e-12, atol=1e-12)


def test_moves_and_returns_detached_positions(kernel) -> None:
    u = torch.randn(6, 3)
    ends = kernel(TARGET, u)
    assert not ends.requires_grad
    assert not torch.equal(ends, u)


def test_one_seed_gives_one_result_and_leaves_the_global_generator_alone(kernel) -> None:
    u = torch.randn(6, 3)
    state = torch.get_rng_state()
    ends = [kernel(TARGET, u, generator=stream(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2]) == isinstance(kernel, DETERMINISTIC)


def test_none_draws_from_the_global_generator(kernel) -> None:
    u = torch.randn(6, 3)
    torch.manual_seed(3)
    one = kernel(TARGET, u)
    assert torch.equal(one, kernel(TARGET, u, generator=torch.Generator().manual_seed(3)))


def test_given_draws_equal_drawn_ones(kernel) -> None:
    if isinstance(kernel, Nuts):
        pytest.skip("the number of its draws depends on the trajectory")
    u = torch.randn(6, 3)
    state = kernel.init(TARGET, u)
    drawn, _ = kernel.step(TARGET, state, generator=stream(0))
    draws = recorded_draws(kernel, TARGET, state, generator=stream(0))
    given, _ = kernel.step(TARGET, state, generator=Draws(normals=draws[0], uniforms=draws[1]))
    assert torch.equal(drawn.u, given.u)
    if not isinstance(kernel, DETERMINISTIC):
        normals = [-eps for eps in draws[0]]
        other, _ = kernel.step(TARGET, state, generator=Draws(normals=normals, uniforms=draws[1]))
        assert not torch.equal(drawn.u, other.u)


@pytest.mark.parametrize("world", [2, 4])
def test_shards_together_equal_the_whole_batch(kernel, world) -> None:
    if isinstance(kernel, INTERACTING):
        pytest.skip("its particles interact")
    u = torch.randn(8, 3, dtype=torch.float64)
    parts = [
        kernel(TARGET, part, generator=Shard(generator=stream(0), rank=rank, world=world))
        for rank, part in enumerate(u.chunk(world))
    ]
    whole = kernel(TARGET, u, generator=stream(0))
    # Vectorised arithmetic may round the end of a batch otherwise: not to the bit.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    wrong = kernel(TARGET, u[: 8 // world], generator=stream(5))
    same = torch.allclose(wrong, whole[: 8 // world])
    assert same == isinstance(kernel, DETERMINISTIC)


def test_works_under_no_grad_and_leaves_parameters_alone(kernel) -> None:
    network = mlp((3, 8, 1))
    target = Sum({"prior": TARGET, "x": lambda u: network(u).squeeze(-1)})
    u = torch.randn(6, 3)
    expected = kernel(target, u, generator=stream(0))
    with torch.no_grad():
        assert torch.equal(kernel(target, u, generator=stream(0)), expected)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_calling_is_init_then_steps(kernel) -> None:
    u, generator = torch.randn(6, 3), stream(0)
    state = kernel.init(TARGET, u)
    for k in range(kernel.steps):
        assert state.step == k
        state, info = kernel.step(TARGET, state, generator=generator)
        assert info.log_density.shape == info.grad_norm.shape == (6,)
        assert info.bad is None or not info.bad.any()
    assert torch.equal(state.u, kernel(TARGET, u, generator=stream(0)))


def test_continues_exactly_from_a_saved_state(kernel) -> None:
    u, generator = torch.randn(6, 3), stream(0)
    state = kernel.run(TARGET, u, generator=generator).state
    file = io.BytesIO()
    torch.save({"chain": state.state_dict(), "noise": generator.get_state()}, file)
    expected = kernel.run(TARGET, state, generator=generator).state
    file.seek(0)
    record = torch.load(file, weights_only=True)
    generator = torch.Generator()
    generator.set_state(record["noise"])
    loaded = ChainState.from_state_dict(record["chain"])
    again = kernel.run(TARGET, loaded, generator=generator).state
    assert torch.equal(again.u, expected.u)
    assert again.step == expected.step == 2 * kernel.steps
    assert again.extra.keys() == expected.extra.keys()


def test_two_runs_are_one_longer_run(kernel) -> None:
    u, generator = torch.randn(6, 3), stream(0)
    half = kernel.run(TARGET, u, generator=generator, steps=3).state
    parts = kernel.run(TARGET, half, generator=generator, steps=4).state
    whole = kernel.run(TARGET, u, generator=stream(0), steps=7).state
    assert torch.equal(parts.u, whole.u)
    assert parts.step == whole.step == 7


def test_extra_tensors_travel_with_the_state(kernel) -> None:
    state = kernel.init(TARGET, torch.randn(6, 3))
    state = dataclasses.replace(state, extra={**state.extra, "tag": torch.arange(6)})
    state, _ = kernel.step(TARGET, state)
    state = kernel.refresh(TARGET, state)
    assert torch.equal(state.extra["tag"], torch.arange(6))


def test_reports_the_parts_of_a_sum_at_the_start_of_the_step(kernel) -> None:
    u = torch.randn(6, 3)
    trace = kernel.run(TARGET, u, generator=stream(0), steps=1)
    assert set(trace.parts) == {"prior", "x"}
    weight = 0.3 if isinstance(kernel, Annealed) else 1.0  # its first inverse temperature
    torch.testing.assert_close(trace.parts["prior"][0], weight * TARGET.only("prior")(u))


def test_is_an_immutable_record_of_its_settings(kernel) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.steps = 3
    names = {name: getattr(lv_core, name) for name in lv_core.__all__}
    copy = eval(repr(kernel), names)
    assert copy == kernel
    assert hash(copy) == hash(kernel)
    assert dataclasses.replace(kernel, steps=99) != kernel
    assert [k == kernel for k in KERNELS.values()].count(True) == 1


def test_settings_are_keywords_only(kernel) -> None:
    with pytest.raises(TypeError):
        type(kernel)(5, 0.1)


def test_a_mean_over_the_batch_is_refused(kernel) -> None:
    bad = Sum({"prior": lambda u: -u.square().mean(), "x": lambda u: -u.square().mean()})
    with pytest.raises(ValueError, match="returned a scalar; return one value per chain"):
        kernel(bad, torch.randn(6, 3))


def test_chains_do_not_see_each_other(kernel) -> None:
    if isinstance(kernel, (*INTERACTING, Nuts)):
        pytest.skip("its particles interact, or its draws cannot be permuted from outside")
    u = torch.randn(6, 3, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    state = kernel.init(TARGET, u)
    draws = recorded_draws(kernel, TARGET, state, generator=stream(0))
    permuted = [[draw[order] for draw in kind] for kind in draws]
    one, _ = kernel.step(TARGET, state, generator=Draws(normals=draws[0], uniforms=draws[1]))
    two, _ = kernel.step(
        TARGET,
        kernel.init(TARGET, u[order]),
        generator=Draws(normals=permuted[0], uniforms=permuted[1]),
    )
    torch.testing.assert_close(one.u[order], two.u, rtol=1e-12, atol=1e-12)


def test_a_chain_at_the_border_of_the_support_never_touches_the_others(kernel) -> None:
    if isinstance(kernel, INTERACTING):
        pytest.skip("its particles interact")

    def wall(u: Tensor) -> Tensor:
        # Beyond 25 everything is pushed over the edge at 30.
        return torch.where(u.amax(-1) > 30, torch.nan, 90 * (u - 25).relu().sum(-1))

    walled = Sum({"prior": TARGET, "x": wall})
    u = torch.randn(6, 3)
    traces = []
    for first in (29.5, 0.0):
        u[0] = first
        # A sixth of the chains goes bad where the default tolerates a tenth.
        tolerant = dataclasses.replace(kernel, **_tolerance(kernel))
        traces.append(tolerant.run(walled, u, generator=stream(0), steps=20))
    pushed, free = traces
    assert pushed.bad[:, 0].any()
    assert torch.isfinite(pushed.state.u).all()
    assert free.bad is None or not free.bad.any()
    assert torch.equal(pushed.state.u[1:], free.state.u[1:])


def _tolerance(kernel):
    return {"max_bad": 0.5} if hasattr(kernel, "max_bad") else {}


PROCESS = """
import sys, torch
sys.path.insert(0, sys.argv[3])
from test_kernels import KERNELS, TARGET
from lv_core import ChainState
results = {}
for name, record in torch.load(sys.argv[1], weights_only=True).items():
    generator = torch.Generator()
    generator.set_state(record["noise"])
    state = ChainState.from_state_dict(record["chain"])
    end = KERNELS[name].run(TARGET, state, generator=generator).state
    results[name] = end.state_dict()
torch.save(results, sys.argv[2])
"""


def test_every_kernel_continues_to_the_bit_in_another_process(tmp_path) -> None:
    before, after = tmp_path / "before.pt", tmp_path / "after.pt"
    records, expected = {}, {}
    for name, kernel in KERNELS.items():
        generator = stream(0, name)
        state = kernel.run(TARGET, torch.randn(6, 3), generator=generator).state
        records[name] = {"chain": state.state_dict(), "noise": generator.get_state()}
        expected[name] = kernel.run(TARGET, state, generator=generator).state
    torch.save(records, before)
    here = str(pathlib.Path(__file__).parent)
    words = [sys.executable, "-c", PROCESS, str(before), str(after), here]
    subprocess.run(words, check=True, timeout=120)
    for name, record in torch.load(after, weights_only=True).items():
        other, same = ChainState.from_state_dict(record), expected[name]
        assert torch.equal(other.u, same.u), name
        assert other.step == same.step
        assert other.extra.keys() == same.extra.keys()
        assert all(torch.equal(other.extra[n], same.extra[n]) for n in same.extra), name


# Running with a record.


def test_thinning_keeps_every_nth_position(kernel) -> None:
    u = torch.randn(6, 3)
    every = kernel.run(TARGET, u, generator=stream(0), steps=7, thin=1)
    third = kernel.run(TARGET, u, generator=stream(0), steps=7, thin=3)
    none = kernel.run(TARGET, u, generator=stream(0), steps=7)
    assert torch.equal(third.u, every.u[2::3])
    assert torch.equal(every.u[-1], every.state.u)
    assert none.u.shape == (0, 6, 3)


def test_trace_has_one_entry_per_step_and_chain(kernel) -> None:
    u = torch.randn(2, 3, 4)
    trace = kernel.run(TARGET, u, steps=7)
    tensors = [trace.log_density, trace.grad_norm, *trace.parts.values()]
    tensors += [t for t in (trace.accept, trace.clipped) if t is not None]
    assert all(t.shape == (7, 2, 3) for t in tensors)
    assert trace.displacement.shape == (2, 3)
    torch.testing.assert_close(trace.displacement, (trace.state.u - u).norm(dim=-1))
    adjusted = any(name in repr(kernel) for name in ("Mala", "Hmc", "Nuts"))
    assert (trace.accept is not None) == adjusted


def test_callback_sees_each_step_and_can_stop(kernel) -> None:
    seen = []

    def callback(k, state, info):
        seen.append((k, state.step, info.log_density.shape))
        return k == 3

    trace = kernel.run(TARGET, torch.randn(6, 3), steps=7, callback=callback)
    assert seen == [(1, 1, (6,)), (2, 2, (6,)), (3, 3, (6,))]
    assert len(trace.log_density) == trace.state.step == 3


@pytest.mark.parametrize("settings", [{"steps": 0}, {"thin": 0}, {"steps": -1}])
def test_run_refuses_numbers_below_one(kernel, settings) -> None:
    with pytest.raises(ValueError, match="steps and thin must be positive"):
        kernel.run(TARGET, torch.randn(6, 3), **settings)


def test_a_state_goes_on_with_a_target_of_other_parts(kernel) -> None:
    if isinstance(kernel, Sequence):
        pytest.skip("its stages name the parts")
    state = kernel.run(TARGET, torch.randn(6, 3), generator=stream(0)).state
    trace = kernel.run(Sum({"other": TARGET}), state, generator=stream(1))
    assert set(trace.parts) == {"other"}
    plain = kernel.run(lambda u: TARGET(u), state, generator=stream(1))
    assert not plain.parts
    torch.testing.assert_close(plain.state.u, trace.state.u)
