"""The bank of chains tied to data: starts, rows, ages, files, shards and resuming."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lv_core import ChainBank, ChainState, Mala, stream
from lv_core.storage import TensorFile
from lv_core.targets import Gaussian


def python(script: str, *arguments: object, check: bool = True) -> str:
    """Runs a script in a process of its own and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout if check else str(done.returncode)


def saved(record: dict) -> dict:
    """Returns a record after a round trip through a file."""
    file = io.BytesIO()
    torch.save(record, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def on_disk(path: Path) -> int:
    """Returns how many bytes a file takes on the disk."""
    return path.stat().st_blocks * 512


def visit(bank: ChainBank, *, rounds: range, n: int = 8) -> None:
    """Moves some chains at random, the same ones whatever the bank, as far as it owns them."""
    rank, world = bank.shard
    for k in rounds:
        index = torch.randperm(bank.n_items, generator=stream(0, "order", k))[:n]
        noise = torch.randn((n, *bank.event), generator=stream(0, "noise", k))
        mine = index % world == rank
        u = bank.get(index[mine])
        bank.put(index[mine], 0.9 * u + 0.1 * noise[mine].to(u))
    bank.reset(torch.tensor([index[mine][0]]))


def same(one: ChainBank, two: ChainBank) -> bool:
    """Whether two banks serve the same rows and ages."""
    index = torch.arange(one.n_items)
    return all(
        torch.equal(getattr(one, name)(index), getattr(two, name)(index))
        for name in ("get", "age", "staleness")
    )


# Starts.


def test_starts_are_the_rows_of_their_blocks_stream() -> None:
    items = torch.tensor([1500, 3, 1024])
    blocks = [
        torch.empty(1024, 2, 3).normal_(generator=stream(7, "bank", block)) for block in range(2)
    ]
    expected = 0.5 * torch.stack([blocks[1][476], blocks[0][3], blocks[1][0]])
    assert torch.equal(ChainBank(2000, (2, 3), seed=7, scale=0.5).get(items), expected)


def test_starts_do_not_depend_on_the_order_of_visits() -> None:
    items = torch.tensor([3, 1500, 0, 2047, 1024, 7])
    banks = [ChainBank(3000, (2, 3), seed=1) for _ in range(3)]
    whole = banks[0].get(items)
    backwards = torch.cat([banks[1].get(items[k : k + 1]) for k in range(5, -1, -1)]).flip(0)
    assert torch.equal(whole, backwards)
    banks[2].get(torch.arange(3000))
    assert torch.equal(banks[2].get(items), whole)


def test_starts_depend_on_the_seed_but_not_on_the_size() -> None:
    items = torch.tensor([3, 1500])
    start = ChainBank(3000, (4,), seed=1).get(items)
    assert torch.equal(ChainBank(2000, (4,), seed=1).get(items), start)
    assert not torch.equal(ChainBank(3000, (4,), seed=2).get(items), start)


def test_starts_are_normal_with_the_given_scale_and_without_repeats() -> None:
    n = 5000
    start = ChainBank(n, (2,), seed=1, scale=0.5).get(torch.arange(n))
    # The variance of 2 n normal numbers has the relative standard error sqrt(1 / n).
    assert abs(start.var().item() / 0.25 - 1) < 5 * (1 / n) ** 0.5
    assert abs(start.mean().item()) < 5 * 0.5 / (2 * n) ** 0.5
    assert torch.unique(start, dim=0).shape == (n, 2)


def test_starts_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    ChainBank(10, (3,), seed=1).get(torch.tensor([4]))
    stream(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensor_says_where_chains_start() -> None:
    init, items = torch.randn(3000, 4), torch.tensor([2999, 4, 1030])
    bank = ChainBank(3000, (4,), seed=1, init=init.requires_grad_())
    assert torch.equal(bank.get(items), init[items])
    assert not bank.get(items).requires_grad
    shard = ChainBank(3000, (4,), seed=1, init=init, shard=(1, 3))
    assert torch.equal(shard.get(items[1:2]), init[4:5])


def test_a_function_says_where_chains_start_whatever_the_order_of_visits() -> None:
    data, calls = torch.arange(2500.0), []

    def init(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        calls.append((int(index[0]), len(index)))
        return data[index, None] + 0.1 * torch.randn(len(index), 2, generator=generator)

    items = torch.tensor([2499, 3, 1024, 5])
    start = ChainBank(2500, (2,), seed=1, init=init).get(items)
    assert sorted(calls) == [(0, 1024), (1024, 1024), (2048, 452)]
    assert torch.equal(start.round().mean(1), data[items])  # noise of 0.1 rounds away
    one_by_one = ChainBank(2500, (2,), seed=1, init=init)
    assert torch.equal(torch.cat([one_by_one.get(items[k : k + 1]) for k in range(4)]), start)
    other = ChainBank(2500, (2,), seed=2, init=init)
    assert not torch.equal(other.get(items), start)


def test_a_wrong_init_is_refused() -> None:
    with pytest.raises(ValueError, match=r"init must have shape \(10, 3\), got \(9, 3\)"):
        ChainBank(10, (3,), seed=1, init=torch.zeros(9, 3))
    with pytest.raises(ValueError, match=r"scale must be left at 1 .* given, got 0\.5"):
        ChainBank(10, (3,), seed=1, init=torch.zeros(10, 3), scale=0.5)
    bank = ChainBank(10, (3,), seed=1, init=lambda index, generator: torch.zeros(len(index)))
    with pytest.raises(ValueError, match=r"the result of init must have shape \(10, 3\), got"):
        bank.get(torch.tensor([1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_rows_have_the_type_asked_for_and_the_starts_of_single_precision(dtype, tmp_path) -> None:
    items = torch.tensor([3, 7])
    single = ChainBank(10, (3,), seed=1).get(items)
    bank = ChainBank(10, (3,), seed=1, dtype=dtype)
    mapped = ChainBank(10, (3,), seed=1, dtype=dtype, path=tmp_path / "bank")
    assert bank.get(items).dtype == dtype
    assert torch.equal(bank.get(items), single.to(dtype))
    u = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    for one in (bank, mapped):
        one.put(items, u)
        assert torch.equal(one.get(items), u.to(dtype))
    assert bank.digest() == mapped.digest()
    other = ChainBank(10, (3,), seed=1, dtype=dtype)
    other.load_state_dict(saved(mapped.state_dict()))
    assert same(other, bank)
    with pytest.raises(ValueError, match=r"u is .* \(10, 3\), expected F32 \(10, 3\)"):
        ChainBank(10, (3,), seed=1).load_state_dict(bank.state_dict())


# Rows and ages.


def test_a_stored_position_is_what_is_served_next() -> None:
    bank = ChainBank(10, (3,), seed=1)
    items, u = torch.tensor([7, 2]), torch.randn(2, 3)
    other = bank.get(torch.tensor([3]))
    bank.put(items, u.requires_grad_())
    served = bank.get(items)
    assert torch.equal(served, u)
    assert not served.requires_grad
    assert torch.equal(bank.get(torch.tensor([3])), other)
    served.zero_()
    assert torch.equal(bank.get(items), u)


def test_an_item_may_be_served_twice_at_once() -> None:
    bank = ChainBank(10, (3,), seed=1)
    served = bank.get(torch.tensor([4, 4]))
    assert torch.equal(served[0], served[1])


def test_age_counts_how_often_an_item_was_stored() -> None:
    bank, items = ChainBank(10, (3,), seed=1), torch.tensor([7, 2])
    assert bank.age(items).tolist() == [0, 0]
    bank.put(items, bank.get(items))
    bank.put(items[:1], torch.zeros(1, 3))
    assert bank.age(items).tolist() == [2, 1]
    bank.get(torch.tensor([5]))
    assert bank.age(torch.tensor([5, 0])).tolist() == [0, 0]
    assert bank.touched().tolist() == [2, 7]


def test_staleness_counts_the_puts_since() -> None:
    bank = ChainBank(4, (3,), seed=1)
    for item in (2, 0, 2, 1):
        bank.put(torch.tensor([item]), torch.zeros(1, 3))
    assert bank.staleness(torch.arange(4)).tolist() == [2, 0, 1, 4]
    assert bank.oldest(3).tolist() == [3, 0, 2]
    assert bank.oldest(9).tolist() == [3, 0, 2, 1]


def test_a_reset_chain_is_back_at_its_start() -> None:
    bank, items = ChainBank(10, (3,), seed=1), torch.tensor([7, 2])
    start = bank.get(items)
    bank.put(items, start + 1)
    bank.reset(items[:1])
    assert torch.equal(bank.get(items), torch.stack([start[0], start[1] + 1]))
    assert bank.age(items).tolist() == [0, 1]
    assert bank.touched().tolist() == [2]


def test_an_empty_index_is_fine() -> None:
    bank, none = ChainBank(10, (3,), seed=1), torch.zeros(0, dtype=torch.int64)
    bank.put(none, torch.zeros(0, 3))
    assert bank.get(none).shape == (0, 3)


def test_a_position_may_be_a_number() -> None:
    bank, items = ChainBank(10, (), seed=1), torch.tensor([7, 2])
    bank.put(items, bank.get(items) + 1)
    assert torch.equal(bank.get(items), ChainBank(10, (), seed=1).get(items) + 1)


def test_a_bank_tells_its_size_and_place(tmp_path) -> None:
    assert len(ChainBank(10, (3,), seed=1)) == 10
    assert repr(ChainBank(10, (3,), seed=1)) == "ChainBank(10, (3,), torch.float32, cpu)"
    shard = ChainBank(10, (3,), seed=1, shard=(1, 3), path=tmp_path / "bank")
    assert len(shard) == 3
    assert repr(shard).endswith("bank, shard=(1, 3))")


def test_duplicates_are_refused_in_put() -> None:
    with pytest.raises(ValueError, match="must not contain an item twice"):
        ChainBank(10, (3,), seed=1).put(torch.tensor([4, 4]), torch.zeros(2, 3))


def test_positions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"u must have shape \(2, 3\), got \(2, 4\)"):
        ChainBank(10, (3,), seed=1).put(torch.tensor([4, 5]), torch.zeros(2, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_position_that_is_not_finite_is_refused_and_nothing_is_stored(value) -> None:
    bank, items, u = ChainBank(10, (3,), seed=1), torch.tensor([4, 5]), torch.zeros(2, 3)
    u[1, 2] = value
    with pytest.raises(ValueError, match=r"u must be finite, but is not for items \[5\]"):
        bank.put(items, u)
    assert bank.age(items).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"not for items \[4\]"):  # 1e6 overflows in the bank
        ChainBank(10, (3,), seed=1, dtype=torch.float16).put(items[:1], torch.full((1, 3), 1e6))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([10]), r"index must lie in 0\.\.9, got 10\.\.10"),
        (torch.tensor([3, -1]), r"index must lie in 0\.\.9, got -1\.\.3"),
    ],
)
def test_indices_outside_the_bank_are_refused(index, message) -> None:
    bank = ChainBank(10, (3,), seed=1)
    for act in (bank.get, bank.age, bank.reset, bank.staleness, bank.get_state):
        with pytest.raises(ValueError, match=message):
            act(index)


@pytest.mark.parametrize("index", [torch.tensor([1.0]), torch.tensor(1)])
def test_an_index_of_another_type_is_refused(index, wrong_types) -> None:
    with pytest.raises(ValueError, match="index must be a vector of int64"):
        ChainBank(10, (3,), seed=1).get(index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_items": 0}, "n_items must be positive, got 0"),
        ({"event": (3, 0)}, r"event and fields must not be empty, got a 0 in shape of \['u'\]"),
        ({"shard": (2, 2)}, r"shard must be \(rank, world\) with 0 <= rank < world, got \(2, 2\)"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type, got torch.int64"),
        ({"fields": {"mark": ()}}, r"fields must not have the names .* got \['mark'\]"),
        ({"fields": {"p": (0,)}}, r"must not be empty, got a 0 in shape of \['p'\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ChainBank(**{"n_items": 10, "event": (3,), "seed": 1, **settings})


# Fields.


def fielded(**settings) -> ChainBank:
    fields = {"step_size": torch.tensor(0.1), "momentum": (2, 3), "seen": torch.tensor(False)}
    return ChainBank(2000, (2, 3), seed=1, fields=fields, **settings)


def test_a_bank_keeps_what_a_kernel_knows_of_each_chain(tmp_path) -> None:
    items = torch.tensor([1500, 3])
    for bank in (fielded(), fielded(path=tmp_path / "bank")):
        state = bank.get_state(items)
        assert torch.equal(state.u, ChainBank(2000, (2, 3), seed=1).get(items))
        assert state.extra["step_size"].tolist() == pytest.approx([0.1, 0.1])
        assert torch.equal(state.extra["momentum"], torch.zeros(2, 2, 3))
        extra = {
            "step_size": torch.tensor([0.2, 0.3]),
            "momentum": torch.randn(2, 2, 3),
            "seen": torch.tensor([True, False]),
        }
        moved = ChainState(u=state.u + 1, extra={**extra, "part/prior": torch.zeros(2)})
        bank.put_state(items, moved)
        served = bank.get_state(items.flip(0))
        assert torch.equal(served.u, moved.u.flip(0))
        assert set(served.extra) == set(extra)
        assert all(torch.equal(served.extra[name], extra[name].flip(0)) for name in extra)
        bank.reset(items[:1])
        assert bank.get_state(items).extra["step_size"].tolist() == pytest.approx([0.1, 0.3])
        other = fielded()
        other.load_state_dict(saved(bank.state_dict()))
        assert torch.equal(other.get_state(items).extra["momentum"][1], extra["momentum"][1])
        assert other.digest() == bank.digest()


def test_a_bare_put_leaves_the_fields_of_an_item_alone() -> None:
    bank, items = fielded(), torch.tensor([3])
    bank.put(items, torch.zeros(1, 2, 3))
    assert bank.get_state(items).extra["step_size"].tolist() == pytest.approx([0.1])
    state = bank.get_state(items)
    bank.put_state(
        items, ChainState(u=state.u, extra={**state.extra, "step_size": state.u[:, 0, 0]})
    )
    bank.put(items, torch.ones(1, 2, 3))
    assert bank.get_state(items).extra["step_size"].tolist() == [0.0]


def test_a_state_without_the_fields_is_refused() -> None:
    bank, items = fielded(), torch.tensor([3])
    state = bank.get_state(items)
    with pytest.raises(ValueError, match=r"every field of the bank, \['step_size', .* missing"):
        bank.put_state(items, ChainState(u=state.u))
    wrong = {**state.extra, "step_size": torch.zeros(1, 1)}
    with pytest.raises(ValueError, match=r"step_size must have shape \(1,\), got \(1, 1\)"):
        bank.put_state(items, ChainState(u=state.u, extra=wrong))
    with pytest.raises(ValueError, match="seen is missing, expected BOOL"):
        bank.load_state_dict(ChainBank(2000, (2, 3), seed=1).state_dict())


def test_persistent_chains_with_their_own_step_sizes_reach_the_target() -> None:
    # Two groups of targets, of scale 1 and 0.01: no common step size suits both.
    n = 400
    scale = torch.where(torch.arange(n) % 2 == 0, 1.0, 0.01)
    bank = ChainBank(n, (1,), seed=1, scale=0.01, fields={"step_size": torch.tensor(0.1)})
    generator = stream(0, "adaptive bank")
    for sweep in range(60):
        index = torch.randperm(n, generator=generator)
        for items in index.split(100):
            state = bank.get_state(items)
            s = state.extra["step_size"]
            target = lambda u, items=items: -0.5 * (u[:, 0] / scale[items]).square()  # noqa: E731
            trace = Mala(steps=5, step_size=s[:, None]).run(target, state, generator=generator)
            # Robbins and Monro towards an acceptance of 0.6, frozen in the second half.
            rate = 0.5 if sweep < 30 else 0.0
            s = s * (rate * (trace.accept.mean(0) - 0.6)).exp()
            bank.put_state(items, ChainState(u=trace.state.u, extra={"step_size": s}))
    state = bank.get_state(torch.arange(n))
    ratio = state.extra["step_size"][::2].median() / state.extra["step_size"][1::2].median()
    assert 50 < ratio < 200  # the scales are 100 apart
    for start in (0, 1):
        z = state.u[start::2, 0] / scale[start::2]
        # 200 nearly independent chains: the variance has the standard error sqrt(2 / 200) = 0.1.
        assert abs(z.var().item() - 1) < 0.5
    # Wrong control: one step size of the wide targets freezes the narrow ones.
    u = bank.get(torch.arange(n)[1::2])
    trace = Mala(steps=5, step_size=1.0).run(Gaussian(torch.zeros(1), torch.tensor([[1e-4]])), u)
    assert trace.accept.mean() < 0.1


# Saving.


def test_a_bank_survives_saving_fresh_rows_included() -> None:
    bank, items = ChainBank(10, (3,), seed=1, scale=0.5), torch.tensor([7, 2])
    bank.put(items, torch.randn(2, 3))
    other = ChainBank(10, (3,), seed=99)
    other.load_state_dict(saved(bank.state_dict()))
    assert same(other, bank)
    assert (other.seed, other.scale) == (1, 0.5)
    assert saved(other.state_dict())["settings"] == bank.state_dict()["settings"]


def test_the_record_is_a_copy_and_says_nothing_of_starts() -> None:
    bank = ChainBank(10, (3,), seed=1)
    before = bank.state_dict()
    bank.get(torch.arange(10))
    assert torch.equal(bank.state_dict()["rows"]["u"], torch.zeros(10, 3))
    bank.put(torch.tensor([7]), torch.ones(1, 3))
    assert torch.equal(before["rows"]["u"], torch.zeros(10, 3))
    bank.load_state_dict(before)
    assert same(bank, ChainBank(10, (3,), seed=1))


def test_a_record_of_another_bank_is_refused() -> None:
    bank = ChainBank(10, (3,), seed=1)
    with pytest.raises(ValueError, match=r"u is F32 \(9, 3\), expected F32 \(10, 3\)"):
        bank.load_state_dict(ChainBank(9, (3,), seed=1).state_dict())
    with pytest.raises(ValueError, match="init is tensor, expected normal"):
        bank.load_state_dict(ChainBank(10, (3,), seed=1, init=torch.zeros(10, 3)).state_dict())


FIRST_HALF = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_bank import visit
from lv_core import ChainBank
folder, live = sys.argv[2:]
bank = ChainBank(3000, (4,), seed=1)
visit(bank, rounds=range(4), n=200)
torch.save(bank.state_dict(), folder + "/record")
bank = ChainBank(3000, (4,), seed=1, path=live)
visit(bank, rounds=range(4), n=200)
torch.save(bank.snapshot(folder + "/snapshot"), folder + "/digest")
visit(bank, rounds=range(100, 102), n=200)  # what is lost in a crash
"""


@pytest.mark.dist
def test_another_process_goes_on_to_the_bit(tmp_path) -> None:
    straight = ChainBank(3000, (4,), seed=1)
    visit(straight, rounds=range(4), n=200)
    visit(straight, rounds=range(4, 8), n=200)
    python(FIRST_HALF, Path(__file__).parent, tmp_path, tmp_path / "live")
    record = torch.load(tmp_path / "record", weights_only=True)
    digest = torch.load(tmp_path / "digest", weights_only=True)
    bank = ChainBank(3000, (4,), seed=1)
    bank.load_state_dict(record)
    mapped = ChainBank(3000, (4,), seed=1, path=tmp_path / "live")
    unwound = ChainBank(3000, (4,), seed=1)
    unwound.load_state_dict(mapped.state_dict())
    mapped.restore(tmp_path / "snapshot", digest=digest)
    for one in (bank, mapped, unwound):
        visit(one, rounds=range(4, 8), n=200)
    assert same(bank, straight)
    assert same(mapped, straight)
    # Wrong control: the live file went on after the checkpoint.
    assert not same(unwound, straight)


# Files.


def test_a_mapped_bank_equals_one_in_memory_to_the_bit(tmp_path) -> None:
    bank = ChainBank(3000, (4,), seed=1)
    mapped = ChainBank(3000, (4,), seed=1, path=tmp_path / "bank")
    for one in (bank, mapped):
        visit(one, rounds=range(5), n=100)
    assert same(bank, mapped)
    assert bank.digest() == mapped.digest()
    one, two = bank.state_dict(), mapped.state_dict()
    assert all(torch.equal(one["rows"][name], two["rows"][name]) for name in one["rows"])
    mapped.flush()
    again = ChainBank(3000, (4,), seed=1, path=tmp_path / "bank")
    assert same(again, bank)
    visit(again, rounds=range(5, 7), n=100)
    everything = torch.arange(3000)  # one file, one memory
    assert torch.equal(mapped.get(everything), again.get(everything))
    assert torch.equal(mapped.age(everything), again.age(everything))
    assert not same(mapped, bank)
    mapped.load_state_dict(one)
    assert same(mapped, bank)
    bank.flush()  # nothing to wait for


def test_a_large_mapped_bank_is_made_at_once_and_takes_room_for_visited_blocks_only(
    tmp_path,
) -> None:
    path = tmp_path / "bank"
    bank = ChainBank(25_000_000, (100,), seed=1, path=path)
    assert path.stat().st_size > 10e9
    assert on_disk(path) < 1e6
    items = torch.tensor([0, 12_345_678, 24_999_999])
    bank.put(items, bank.get(items) + 1)
    bank.flush()
    # Three blocks of 1024 rows, 400 bytes each, and pages of marks.
    assert on_disk(path) < 3e6
    assert bank.age(items).tolist() == [1, 1, 1]
    record = bank.snapshot(tmp_path / "copy")
    assert on_disk(tmp_path / "copy") < 3e6
    other = ChainBank(25_000_000, (100,), seed=1, path=tmp_path / "other")
    other.restore(tmp_path / "copy", digest=record)
    assert torch.equal(other.get(items), bank.get(items))


def test_a_mapped_file_is_a_safetensors_file(tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors")
    bank = ChainBank(5, (3,), seed=1, dtype=torch.bfloat16, path=tmp_path / "bank")
    bank.put(torch.tensor([3]), torch.ones(1, 3))
    bank.flush()
    with safetensors.safe_open(tmp_path / "bank", framework="pt") as file:
        assert torch.equal(file.get_tensor("u")[3], torch.ones(3, dtype=torch.bfloat16))
        assert file.get_tensor("mark").tolist() == [0, 0, 0, 1, 0]
        assert file.metadata()["seed"] == "1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 2}, "seed is 1, expected 2"),
        ({"scale": 0.5}, r"scale is 1\.0, expected 0\.5"),
        ({"n_items": 11}, r"u is F32 \(10, 3\), expected F32 \(11, 3\)"),
        ({"event": (4,)}, r"u is F32 \(10, 3\), expected F32 \(10, 4\)"),
        ({"dtype": torch.float64}, r"u is F32 \(10, 3\), expected F64 \(10, 3\)"),
        ({"fields": {"p": ()}}, r"p is missing, expected F32 \(10,\)"),
        ({"init": torch.zeros(10, 3)}, "init is normal, expected tensor"),
    ],
)
def test_a_file_of_another_bank_is_refused(settings, message, tmp_path) -> None:
    same = {"n_items": 10, "event": (3,), "seed": 1}
    live = ChainBank(**same, path=tmp_path / "bank")
    live.snapshot(tmp_path / "copy")
    with pytest.raises(ValueError, match=message):
        ChainBank(**{**same, **settings}, path=tmp_path / "bank")
    with pytest.raises(ValueError, match=message):
        ChainBank(**{**same, **settings}).restore(tmp_path / "copy")


def test_a_record_with_another_seed_is_refused_by_a_mapped_bank(tmp_path) -> None:
    mapped = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    with pytest.raises(ValueError, match=r"the record was made .* seed is 2, expected 1"):
        mapped.load_state_dict(ChainBank(10, (3,), seed=2).state_dict())


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\x02" + b"\x00" * 7 + b"[]", b"\x99" * 7])
def test_a_file_of_something_else_is_refused(content, tmp_path) -> None:
    (tmp_path / "bank").write_bytes(content)
    with pytest.raises(ValueError, match="is no file of tensors: its header is damaged"):
        ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == content


def test_a_file_that_was_cut_short_is_refused(tmp_path) -> None:
    ChainBank(10, (3,), seed=1).snapshot(tmp_path / "copy")
    os.truncate(tmp_path / "copy", 4200)
    with pytest.raises(ValueError, match="is cut short: it has 4200 bytes and needs 4384"):
        ChainBank(10, (3,), seed=1).restore(tmp_path / "copy")


def test_a_snapshot_with_other_content_is_refused(tmp_path) -> None:
    bank = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    visit(bank, rounds=range(3))
    digest = bank.snapshot(tmp_path / "copy")
    assert digest == bank.digest()
    kept = bank.state_dict()
    visit(bank, rounds=range(3, 4))
    assert bank.snapshot(tmp_path / "later") != digest
    with pytest.raises(ValueError, match=f"is not the snapshot asked for: .* expected {digest}"):
        bank.restore(tmp_path / "later", digest)
    with TensorFile(tmp_path / "copy")._map as content:  # one bit of one position
        content[-1] ^= 1
    with pytest.raises(ValueError, match="it was overwritten or damaged"):
        bank.restore(tmp_path / "copy", digest)
    bank.load_state_dict(kept)
    assert bank.digest() == digest


def test_a_snapshot_does_not_replace_the_live_file(tmp_path) -> None:
    bank = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    with pytest.raises(ValueError, match="path must not be the file that holds the rows"):
        bank.snapshot(tmp_path / "bank")


def test_no_stray_files_are_left(tmp_path) -> None:
    bank = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    bank.snapshot(tmp_path / "copy")
    bank.snapshot(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "copy"]


def test_a_file_made_by_another_process_meanwhile_is_kept(tmp_path, monkeypatch) -> None:
    first = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    first.put(torch.tensor([4]), torch.ones(1, 3))
    # As if the file had appeared just after this process found none.
    monkeypatch.setattr(Path, "exists", lambda path: False)
    second = ChainBank(10, (3,), seed=1, path=tmp_path / "bank")
    assert same(first, second)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from lv_core import ChainBank
folder, when = sys.argv[1:]
bank = ChainBank(20000, (64,), seed=1, path=folder + "/live")
everything = torch.arange(20000)
bank.put(everything, torch.ones(20000, 64))
print(bank.snapshot(folder + "/copy"), flush=True)
bank.put(everything, torch.full((20000, 64), 2.0))
if when == "before the rename":
    Path.replace = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
else:
    from lv_core import rows
    whole = rows._chunks  # the copy dies after the first of its chunks
    rows._CHUNK = 2**20
    def chunks(tensors):
        yield whole(tensors)[0]
        os.kill(os.getpid(), signal.SIGKILL)
    rows._chunks = chunks
bank.snapshot(folder + "/copy")
"""


@pytest.mark.dist
@pytest.mark.parametrize("when", ["before the rename", "in the middle"])
def test_a_killed_writer_leaves_the_last_snapshot(when, tmp_path) -> None:
    assert python(KILLED, tmp_path, when, check=False) == str(-signal.SIGKILL)
    bank = ChainBank(20000, (64,), seed=1)
    bank.restore(tmp_path / "copy")
    assert torch.equal(bank.get(torch.arange(20000)), torch.ones(20000, 64))
    assert (tmp_path / "copy.partial").exists()
    if when == "in the middle":  # wrong control: what a writer in place would have left
        (tmp_path / "copy.partial").replace(tmp_path / "mixed")
        torn = ChainBank(20000, (64,), seed=1)
        torn.restore(tmp_path / "mixed")
        assert 0 < len(torn.touched()) < 20000
        with pytest.raises(ValueError, match="is not the snapshot asked for"):
            torn.restore(tmp_path / "mixed", bank.digest())
    bank.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy.partial").exists()


# Shards.


def sweep(banks: list[ChainBank], rounds: range, n: int = 600) -> None:
    """Moves chains in the banks that own them."""
    for k in rounds:
        index = torch.randperm(banks[0].n_items, generator=stream(0, "order", k))[:n]
        noise = torch.randn((n, *banks[0].event), generator=stream(0, "noise", k))
        for bank in banks:
            mine = index % bank.shard[1] == bank.shard[0]
            bank.put(index[mine], 0.9 * bank.get(index[mine]) + 0.1 * noise[mine])


def shards(world: int, **settings) -> list[ChainBank]:
    return [ChainBank(2500, (4,), seed=1, shard=(r, world), **settings) for r in range(world)]


def test_dealing_rows_anew_changes_no_row() -> None:
    straight = ChainBank(2500, (4,), seed=1)
    sweep([straight], range(6))
    record, done = ChainBank(2500, (4,), seed=1).state_dict(), 0
    for world in (2, 1, 3):
        banks = shards(world)
        for bank in banks:
            bank.load_state_dict(record)
        sweep(banks, range(done, done + 2))
        record, done = ChainBank.merge([saved(b.state_dict()) for b in reversed(banks)]), done + 2
    end = ChainBank(2500, (4,), seed=1)
    end.load_state_dict(record)
    assert same(end, straight)
    # Wrong control: rows put together in blocks, where they were dealt in turn.
    blocks = torch.cat([bank.state_dict()["rows"]["u"] for bank in banks])
    record["rows"]["u"] = blocks
    end.load_state_dict(record)
    assert not same(end, straight)


def test_shards_of_one_file_are_the_whole_file(tmp_path) -> None:
    straight = ChainBank(2500, (4,), seed=1)
    sweep([straight], range(4))
    banks = shards(3, path=tmp_path / "bank")
    sweep(banks, range(4))
    whole = ChainBank(2500, (4,), seed=1, path=tmp_path / "bank")
    assert same(whole, straight)
    assert whole.snapshot(tmp_path / "copy") == straight.digest()
    others = shards(2)
    for bank in others:
        bank.restore(tmp_path / "copy", straight.digest())
    end = ChainBank(2500, (4,), seed=1)
    end.load_state_dict(ChainBank.merge([bank.state_dict() for bank in others]))
    assert same(end, straight)


def test_a_shard_goes_on_from_its_own_snapshot_but_not_from_another_one(tmp_path) -> None:
    banks = shards(2)
    sweep(banks, range(2))
    digest = banks[1].snapshot(tmp_path / "copy")
    other = ChainBank(2500, (4,), seed=1, shard=(1, 2))
    other.restore(tmp_path / "copy", digest)
    assert other.digest() == digest
    assert torch.equal(other.touched(), banks[1].touched())
    with pytest.raises(ValueError, match="shard is 1 of 2, expected 0 of 2"):
        banks[0].restore(tmp_path / "copy")
    with pytest.raises(ValueError, match="shard is 1 of 2, expected 0 of 1"):
        ChainBank(2500, (4,), seed=1, path=tmp_path / "copy")


def test_a_shard_refuses_rows_that_it_does_not_own() -> None:
    bank = ChainBank(10, (3,), seed=1, shard=(1, 3))
    assert bank.get(torch.tensor([1, 7])).shape == (2, 3)
    message = r"items of shard 1 of 3 \(index % 3 == 1\), got \[0, 5\]"
    with pytest.raises(ValueError, match=message):
        bank.get(torch.tensor([1, 0, 5]))
    with pytest.raises(ValueError, match=message):
        bank.put(torch.tensor([0, 5]), torch.zeros(2, 3))


def test_a_shard_holds_its_own_rows_alone() -> None:
    assert [len(bank.state_dict()["rows"]["u"]) for bank in shards(3)] == [834, 833, 833]
    assert len(ChainBank(2, (3,), seed=1, shard=(4, 5))) == 0


def test_records_that_make_no_whole_are_refused() -> None:
    records = [bank.state_dict() for bank in shards(2)]
    with pytest.raises(ValueError, match=r"all shards, each once, got \[\(1, 2\)\]"):
        ChainBank.merge(records[1:])
    with pytest.raises(ValueError, match=r"each once, got \[\(0, 2\), \(0, 2\)\]"):
        ChainBank.merge([records[0], records[0]])
    with pytest.raises(ValueError, match=r"each once, got \[\]"):
        ChainBank.merge([])
    other = ChainBank(2500, (4,), seed=2, shard=(1, 2)).state_dict()
    with pytest.raises(ValueError, match=r"a shard was made .* seed is 2, expected 1"):
        ChainBank.merge([records[0], other])
    with pytest.raises(ValueError, match=r"holds the shard \(1, 2\), this store is \(0, 1\)"):
        ChainBank(2500, (4,), seed=1).load_state_dict(records[1])


TOGETHER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_bank import sweep
from lv_core import ChainBank
folder, rank = sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
bank = ChainBank(2500, (4,), seed=1, shard=(rank, 2))
mapped = ChainBank(2500, (4,), seed=1, shard=(rank, 2), path=f"{folder}/live")
dist.barrier()  # all have opened the file
sweep([bank], range(4))
sweep([mapped], range(4))
records = [None, None]
dist.all_gather_object(records, bank.state_dict())
if rank == 0:
    torch.save(ChainBank.merge(records), f"{folder}/record")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.dist
def test_two_processes_together_are_one(tmp_path) -> None:
    straight = ChainBank(2500, (4,), seed=1)
    sweep([straight], range(4))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(Path(__file__).parent), tmp_path, str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    bank = ChainBank(2500, (4,), seed=1)
    bank.load_state_dict(torch.load(tmp_path / "record", weights_only=True))
    assert same(bank, straight)
    assert same(ChainBank(2500, (4,), seed=1, path=tmp_path / "live"), straight)


def test_a_field_of_a_type_that_files_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"field 'phase' has type torch\.complex64"):
        ChainBank(4, (2,), seed=0, fields={"phase": torch.zeros((), dtype=torch.complex64)})
