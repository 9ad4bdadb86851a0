"""The replay buffer: draws, re-insertion by slot, new starts, what is never stored, resuming."""

import io

import pytest
import torch

from lv_core import ChainBank, Draws, Shard, stream
from lv_core.replay import ReplayBuffer


def saved(record: dict) -> dict:
    """Returns a record after a round trip through a file."""
    file = io.BytesIO()
    torch.save(record, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rounds(buffer: ReplayBuffer, count: range, n: int = 8) -> list[torch.Tensor]:
    """Draws, moves and puts back; returns what was drawn."""
    drawn = []
    for k in count:
        generator = stream(0, "round", k)
        u, slots, _ = buffer.draw(n, generator=generator)
        drawn.append(u)
        noise = torch.randn(u.shape, generator=generator)
        buffer.put(slots, 0.9 * u + 0.4 * noise.to(u))
    return drawn


def same(one: ReplayBuffer, two: ReplayBuffer) -> bool:
    """Whether two buffers hold the same chains and would go on alike."""
    slots = torch.arange(one.capacity)
    alike = one.digest() == two.digest() and torch.equal(one.age(slots), two.age(slots))
    return alike and len(one) == len(two) and one.refused == two.refused


# Draws.


def test_a_draw_has_no_slot_twice_and_every_slot_equally_often(generator) -> None:
    buffer, times, n = ReplayBuffer(40, ()), 4000, 10
    slots = torch.stack([buffer.draw(n, generator=generator).slots for _ in range(times)])
    assert all(len(torch.unique(row)) == n for row in slots)
    # How often a slot is drawn is binomial(times, n / capacity).
    p = n / 40
    z = (torch.bincount(slots.flatten(), minlength=40) - times * p) / (times * p * (1 - p)) ** 0.5
    assert z.abs().max() < 5
    assert z.square().mean() > 0.2  # wrong control: turn by turn would be exactly equal
    # Without replacement, also the place within a draw says nothing.
    z = (torch.bincount(slots[:, 0], minlength=40) - times / 40) / (times / 40 * 39 / 40) ** 0.5
    assert z.abs().max() < 5


def test_the_whole_buffer_may_be_drawn(generator) -> None:
    buffer = ReplayBuffer(7, (2,))
    assert sorted(buffer.draw(7, generator=generator).slots.tolist()) == list(range(7))


def test_draws_depend_on_the_generator_alone() -> None:
    full, empty = ReplayBuffer(30, (2,)), ReplayBuffer(30, (2,))
    full.fill(torch.zeros(30, 2))
    generators = stream(0, "draw"), stream(0, "draw")
    for _ in range(3):
        one, two = full.draw(9, generator=generators[0]), empty.draw(9, generator=generators[1])
        assert torch.equal(one.slots, two.slots)
        assert torch.equal(one.u[one.fresh], two.u[one.fresh])
        assert torch.equal(generators[0].get_state(), generators[1].get_state())
    other = full.draw(9, generator=stream(0, "other"))
    assert not torch.equal(other.slots, one.slots)
    before = torch.get_rng_state()
    full.draw(9, generator=stream(0, "other"))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_one_draws() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(ReplayBuffer(30, (2,)).draw(9))
    assert all(torch.equal(one, two) for one, two in zip(*drawn, strict=True))


def test_given_numbers_say_exactly_what_is_drawn() -> None:
    buffer = ReplayBuffer(4, (2,), reinit_prob=0.3, scale=2.0)
    buffer.fill(torch.arange(8.0).view(4, 2))
    keys, eps = torch.tensor([0.9, 0.1, 0.5, 0.4]), torch.randn(3, 2)
    source = Draws(uniforms=[keys, torch.tensor([0.31, 0.29, 0.99])], normals=[eps])
    u, slots, fresh = buffer.draw(3, generator=source)
    assert slots.tolist() == [1, 3, 2]
    assert fresh.tolist() == [False, True, False]
    assert torch.equal(
        u, torch.stack([torch.tensor([2.0, 3.0]), 2 * eps[1], torch.tensor([4, 5])])
    )


def test_processes_with_parts_of_one_stream_draw_differently() -> None:
    drawn = [
        ReplayBuffer(30, (2,)).draw(9, generator=Shard(generator=stream(0), rank=r, world=2))
        for r in range(2)
    ]
    assert not torch.equal(drawn[0].slots, drawn[1].slots)
    assert not torch.isin(drawn[0].u, drawn[1].u).any()


# New starts.


def test_new_starts_are_binomial(generator) -> None:
    p, n, times = 0.05, 50, 2000
    buffer = ReplayBuffer(60, (), reinit_prob=p)
    buffer.fill(torch.zeros(60))
    counts = torch.tensor(
        [int(buffer.draw(n, generator=generator).fresh.sum()) for _ in range(times)]
    ).double()
    error = (p * (1 - p) / (n * times)) ** 0.5
    assert abs(counts.mean() / n - p) < 5 * error
    # The sample variance of about Poisson counts has the relative standard error of
    # sqrt((2 + 1 / (n p)) / times), 0.035.
    assert abs(counts.var() / (n * p * (1 - p)) - 1) < 5 * 0.035
    for wrong in (0.04, 0.06):
        assert abs(counts.mean() / n - wrong) > 5 * error


@pytest.mark.parametrize(("p", "renewed"), [(0.0, 0), (1.0, 9)])
def test_the_extremes_of_the_probability_are_exact(p, renewed, generator) -> None:
    buffer = ReplayBuffer(30, (2,), reinit_prob=p)
    buffer.fill(torch.zeros(30, 2))
    for _ in range(20):
        drawn = buffer.draw(9, generator=generator)
        assert drawn.fresh.sum() == renewed
        assert (drawn.u != 0).all(1).sum() == renewed
        buffer.fill(torch.zeros(30, 2))


def test_ages_are_geometric(generator) -> None:
    p, n = 0.25, 20_000
    buffer = ReplayBuffer(n, (), reinit_prob=p)
    for _ in range(60):  # 0.75^60 = 3e-8: the beginning is forgotten
        u, slots, fresh = buffer.draw(n, generator=generator)
        ages = buffer.age(slots)
        buffer.put(slots, u)
    assert torch.equal(ages == 0, fresh)
    for k in range(6):
        expected = p * (1 - p) ** k
        # Slots are independent of each other, so the count is binomial.
        error = (expected * (1 - expected) / n) ** 0.5
        share = (ages == k).double().mean()
        assert abs(share - expected) < 5 * error
        assert abs(share - 1.5 * expected) > 5 * error  # wrong control
    assert torch.equal(buffer.age(slots), ages + 1)


def test_a_new_start_takes_the_place_of_the_chain(generator) -> None:
    buffer = ReplayBuffer(5, (2,), reinit_prob=1.0)
    buffer.fill(torch.zeros(5, 2))
    buffer.put(torch.tensor([0, 1, 2, 3, 4]), torch.ones(5, 2))
    u, slots, _ = buffer.draw(5, generator=generator)
    assert buffer.age(slots).tolist() == [0] * 5
    assert torch.equal(buffer.state_dict()["rows"]["u"][slots], u)


def test_a_function_gives_the_starts(generator) -> None:
    asked = []

    def init(n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        asked.append(n)
        return 100 + torch.randn(n, 2, generator=generator).requires_grad_()

    buffer = ReplayBuffer(30, (2,), init=init)
    u = buffer.draw(9, generator=generator).u
    assert asked == [9]
    assert (u > 90).all()
    assert not u.requires_grad
    wrong = ReplayBuffer(30, (2,), init=lambda n, generator: torch.zeros(n))
    with pytest.raises(ValueError, match=r"the result of init must have shape \(9, 2\), got"):
        wrong.draw(9, generator=generator)


def test_persistent_chains_have_the_variance_of_their_ages(generator) -> None:
    # The exact kernel u' = a u + sqrt(1 - a^2) eps has the target N(0, 1). A chain of age k that
    # started from N(0, s^2) has the variance 1 + (s^2 - 1) a^(2k); over geometric ages this is
    # 1 + (s^2 - 1) rho / (1 - (1 - rho) a^2) in the mean.
    a, s, rho, n = 0.9, 3.0, 0.05, 20_000
    buffer = ReplayBuffer(n, (), reinit_prob=rho, scale=s)
    for _ in range(150):  # 0.95^150 = 5e-4
        u, slots, _ = buffer.draw(n, generator=generator)
        buffer.put(slots, a * u + (1 - a**2) ** 0.5 * torch.randn(n, generator=generator))
    expected = 1 + (s**2 - 1) * rho / (1 - (1 - rho) * a**2)
    error = u.square().std() / n**0.5
    assert abs(u.square().mean() - expected) < 5 * error
    for wrong in (1.0, s**2):  # converged chains; chains that do not persist
        assert abs(u.square().mean() - wrong) > 5 * error


# Re-insertion.


def test_each_chain_goes_back_to_its_slot_whatever_the_order(generator) -> None:
    n, capacity = 12, 40
    buffer = ReplayBuffer(capacity, (2,), reinit_prob=0.0)
    identity = torch.arange(float(capacity))
    start = torch.stack([identity, torch.zeros(capacity)], dim=1)
    buffer.fill(start)
    queue, head = start.clone(), 0  # wrong control: re-insertion at the oldest place
    for _ in range(50):
        u, slots, _ = buffer.draw(n, generator=generator)
        moved = u + torch.tensor([0.0, 1.0])
        order = torch.randperm(n, generator=generator)
        buffer.put(slots[order], moved[order])
        queue[(head + torch.arange(n)) % capacity] = queue[slots]
        head += n
    every = torch.arange(capacity)
    held = buffer.state_dict()["rows"]["u"]
    assert torch.equal(held[:, 0], identity)
    assert torch.equal(held[:, 1], buffer.age(every).float())
    assert len(torch.unique(queue[:, 0])) < capacity / 2  # most chains are lost, others mixed up


def test_a_stored_chain_is_a_detached_copy() -> None:
    buffer, u = ReplayBuffer(5, (2,), reinit_prob=0.0), torch.randn(5, 2, requires_grad=True)
    buffer.put(torch.arange(5), u)
    drawn = buffer.draw(5)
    assert torch.equal(drawn.u, u[drawn.slots])
    assert not drawn.u.requires_grad
    drawn.u.zero_()
    again = buffer.draw(5)
    assert torch.equal(again.u, u[again.slots])
    assert buffer.age(torch.arange(5)).tolist() == [1] * 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_stored(value, generator) -> None:
    buffer = ReplayBuffer(6, (2,), reinit_prob=0.0)
    buffer.fill(torch.ones(6, 2))
    u = torch.full((3, 2), 2.0)
    u[1, 0] = value
    buffer.put(torch.tensor([4, 0, 2]), u)
    assert buffer.refused == 1
    assert len(buffer) == 5
    drawn = buffer.draw(6, generator=generator)
    assert torch.isfinite(drawn.u).all()
    assert drawn.slots[drawn.fresh].tolist() == [0]
    assert len(buffer) == 6
    assert sorted(drawn.u[~drawn.fresh][:, 0].tolist()) == [1, 1, 1, 2, 2]
    buffer.put(drawn.slots, torch.full((6, 2), value))
    assert buffer.refused == 7
    assert len(buffer) == 0
    assert torch.isfinite(buffer.state_dict()["rows"]["u"]).all()
    half = ReplayBuffer(6, (2,), dtype=torch.float16)
    half.put(torch.tensor([1]), torch.full((1, 2), 1e6))  # overflows in the buffer
    assert half.refused == 1


def test_a_buffer_may_start_from_data() -> None:
    buffer, data = ReplayBuffer(6, (2,), reinit_prob=0.0), torch.randn(4, 2)
    buffer.fill(data)
    assert len(buffer) == 4
    drawn = buffer.draw(6)
    assert drawn.fresh.sum() == 2
    assert torch.equal(drawn.u[~drawn.fresh], data[drawn.slots[~drawn.fresh]])
    with pytest.raises(ValueError, match=r"shape \(n, \*\(2,\)\) with n <= 6, got \(7, 2\)"):
        buffer.fill(torch.zeros(7, 2))
    with pytest.raises(ValueError, match=r"u must have shape .* got \(4, 3\)"):
        buffer.fill(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="u must be finite"):
        buffer.fill(torch.full((1, 2), float("nan")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_chains_have_the_type_asked_for(dtype, generator) -> None:
    buffer = ReplayBuffer(6, (2,), dtype=dtype)
    u, slots, _ = buffer.draw(6, generator=generator)
    assert u.dtype == dtype
    if dtype == torch.float64:
        assert not torch.equal(u, u.float().double())  # drawn in double precision
    buffer.put(slots, torch.full((6, 2), 1 / 3, dtype=torch.float64))
    other = ReplayBuffer(6, (2,), dtype=dtype)
    other.load_state_dict(saved(buffer.state_dict()))
    assert same(other, buffer)


# Wrong input.


@pytest.mark.parametrize("n", [0, -1, 31])
def test_more_chains_than_slots_are_refused(n) -> None:
    with pytest.raises(ValueError, match=rf"n must lie in 1\.\.30, got {n}: a slot cannot"):
        ReplayBuffer(30, (2,)).draw(n)


@pytest.mark.parametrize(
    ("slots", "u", "message"),
    [
        ([1, 1], (2, 2), "slots must not contain a slot twice"),
        ([1, 30], (2, 2), r"slots must lie in 0\.\.29, got 1\.\.30"),
        ([-1, 3], (2, 2), r"slots must lie in 0\.\.29, got -1\.\.3"),
        ([1, 3], (2, 3), r"u must have shape \(2, 2\), got \(2, 3\)"),
    ],
)
def test_wrong_slots_and_positions_are_refused(slots, u, message) -> None:
    buffer = ReplayBuffer(30, (2,))
    with pytest.raises(ValueError, match=message):
        buffer.put(torch.tensor(slots), torch.zeros(u))
    assert len(buffer) == 0


def test_slots_of_another_type_are_refused(wrong_types) -> None:
    with pytest.raises(ValueError, match=r"slots must be a vector of int64, got torch\.float32"):
        ReplayBuffer(30, (2,)).age(torch.zeros(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "capacity and event must be positive, got 0"),
        ({"event": (2, 0)}, r"capacity and event must be positive, got 30 and \(2, 0\)"),
        ({"reinit_prob": -0.1}, r"reinit_prob must lie in 0\.\.1, got -0\.1"),
        ({"reinit_prob": 1.1}, r"reinit_prob must lie in 0\.\.1, got 1\.1"),
        ({"init": torch.zeros, "scale": 0.5}, "scale must be left at 1 where init is given"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**{"capacity": 30, "event": (2,), **settings})


# Saving.


def test_a_buffer_goes_on_to_the_bit(tmp_path) -> None:
    straight = ReplayBuffer(30, (2,))
    rounds(straight, range(10))
    straight.put(torch.tensor([3]), torch.full((1, 2), float("nan")))
    record = saved(straight.state_dict())
    digest = straight.snapshot(tmp_path / "copy")
    expected = rounds(straight, range(10, 20))
    for place in ("record", "file"):
        buffer = ReplayBuffer(30, (2,))
        if place == "record":
            buffer.load_state_dict(record)
        else:
            buffer.restore(tmp_path / "copy", digest)
        assert buffer.refused == 1
        drawn = rounds(buffer, range(10, 20))
        assert all(torch.equal(one, two) for one, two in zip(drawn, expected, strict=True))
        assert same(buffer, straight)
    cold = rounds(ReplayBuffer(30, (2,)), range(10, 20))  # wrong control
    assert not all(torch.equal(one, two) for one, two in zip(cold, expected, strict=True))


def test_a_mapped_buffer_equals_one_in_memory_to_the_bit(tmp_path) -> None:
    buffer = ReplayBuffer(30, (2,))
    mapped = ReplayBuffer(30, (2,), path=tmp_path / "buffer")
    one, two = rounds(buffer, range(20)), rounds(mapped, range(20))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    mapped.flush()
    assert same(ReplayBuffer(30, (2,), path=tmp_path / "buffer"), buffer)
    assert repr(mapped) == f"ReplayBuffer(30, (2,), torch.float32, {tmp_path / 'buffer'})"
    assert repr(buffer) == "ReplayBuffer(30, (2,), torch.float32, cpu)"


def test_records_of_others_are_refused(tmp_path) -> None:
    buffer = ReplayBuffer(30, (2,))
    with pytest.raises(ValueError, match=r"u is F32 \(31, 2\), expected F32 \(30, 2\)"):
        buffer.load_state_dict(ReplayBuffer(31, (2,)).state_dict())
    with pytest.raises(ValueError, match="kind is chain bank, expected replay buffer"):
        buffer.load_state_dict(ChainBank(30, (2,), seed=1).state_dict())
    ReplayBuffer(31, (2,)).snapshot(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"u is F32 \(31, 2\), expected F32 \(30, 2\)"):
        buffer.restore(tmp_path / "copy")
