"""The no-U-turn sampler: invariance, its criterion by recursion, and independence of chains."""

import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import ChainState, Draws, Evaluation, Sum, stream
from lv_core.kernels import trajectory
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.tree import CHUNK, Candidate, Tally, Turns, pick, uniforms_per_step
from lv_core.targets import Banana, Funnel, Gaussian


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def quartic(u: Tensor) -> Tensor:
    return -(0.25 * u**4 + 0.5 * u.square()).sum(-1)


def off_quantiles(samples: Tensor, exact: Tensor) -> float:
    """Returns the largest difference of distribution functions, in standard errors.

    At quantiles of `exact`, a large independent sample, for each coordinate, and for the squared
    length. The share below a point has variance q (1 - q) / n in either sample.
    """
    worst = 0.0
    for q in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
        for k in range(samples.shape[-1] + 1):
            a, b = (x[:, k] if k < x.shape[-1] else x.square().sum(-1) for x in (samples, exact))
            share = (a < b.quantile(q)).double().mean().item()
            error = math.sqrt(q * (1 - q) * (1 / len(a) + 1 / len(b)))
            worst = max(worst, abs(share - q) / error)
    return worst


def take_last(points: list[Candidate], v: Tensor) -> Candidate:
    total = torch.stack([point.log_weight for point in points]).logsumexp(0)
    return points[-1]._replace(log_weight=total)


def take_evenly(points: list[Candidate], v: Tensor) -> Candidate:
    flat = [point._replace(log_weight=torch.zeros_like(point.value)) for point in points]
    return pick(flat, v)


# Coarse steps: half the leaves have an energy error that the weights must make up for.
CASES = {
    "banana": (Banana(scale=1.0, bend=1.0), 0.7, 10),
    "banana, shallow": (Banana(scale=1.0, bend=1.0), 0.4, 2),
    "correlated": (
        Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])),
        0.4,
        10,
    ),
    "funnel": (Funnel(3, scale=1.0), 0.6, 10),
}


@pytest.mark.parametrize("name", CASES)
def test_leaves_exact_draws_exact(name) -> None:
    target, step_size, depth = CASES[name]
    n = 20_000
    start, exact = (target.sample(n, generator=stream(0, name, k)) for k in range(2))
    kernel = Nuts(steps=5, step_size=step_size, max_depth=depth)
    trace = kernel.run(target, start, generator=stream(1, name))
    assert trace.accept.mean() < 0.95
    assert trace.stats["depth"].max() > 1
    assert off_quantiles(trace.state.u, exact) < 5
    # The chains have moved away: the test is not about the draws they began with.
    assert abs(torch.corrcoef(torch.stack((trace.state.u[:, 0], start[:, 0])))[0, 1]) < 0.6


@pytest.mark.parametrize("wrong", [take_last, take_evenly])
def test_invariance_finds_wrong_ways_to_choose_a_point(wrong, monkeypatch) -> None:
    target, step_size, depth = CASES["banana"]
    n = 20_000
    start, exact = (target.sample(n, generator=stream(0, "banana", k)) for k in range(2))
    monkeypatch.setattr(trajectory, "pick", wrong)
    ends = Nuts(steps=8, step_size=step_size, max_depth=depth)(target, start, generator=stream(1))
    assert off_quantiles(ends, exact) > 6


def test_finds_the_moments_of_a_badly_scaled_normal_from_afar() -> None:
    scale = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)
    n = 2000
    start = 2 + torch.randn(n, 3, dtype=torch.float64, generator=stream(0))
    kernel = Nuts(steps=12, step_size=0.3)
    ends = kernel(lambda u: normal_density(u / scale), start, generator=stream(1))
    # Standard errors of mean and variance of n normal numbers.
    assert (ends.mean(0).abs() < 5 * scale / math.sqrt(n)).all()
    assert ((ends.var(0) / scale**2 - 1).abs() < 5 * math.sqrt(2 / n)).all()
    # Wrong control: as many steps of a random walk of one leapfrog each have not come so far.
    walk = Nuts(steps=12, step_size=0.3, max_depth=1)
    short = walk(lambda u: normal_density(u / scale), start, generator=stream(1))
    assert abs(short.var(0)[2] / 16 - 1) > 5 * math.sqrt(2 / n)


def test_step_sizes_of_components_are_a_mass_matrix() -> None:
    scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    u = torch.randn(100, 3, dtype=torch.float64, generator=stream(0))
    whole = Nuts(steps=1, step_size=0.5).run(quartic, u, generator=stream(1))
    scaled = Nuts(steps=1, step_size=0.5 * scale)
    trace = scaled.run(lambda u: quartic(u / scale), u * scale, generator=stream(1))
    torch.testing.assert_close(trace.state.u / scale, whole.state.u)
    assert torch.equal(trace.stats["leapfrogs"], whole.stats["leapfrogs"])


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_samples_the_tempered_density(temperature) -> None:
    generator, n = stream(0, "temperature", repr(temperature)), 20_000
    u = torch.randn(n, 1, generator=generator)
    kernel = Nuts(steps=10, step_size=0.9, temperature=temperature)
    ends = kernel(normal_density, u, generator=generator)

    def off(variance: float) -> float:
        return abs(ends.var().item() / variance - 1) / math.sqrt(2 / n)

    assert off(temperature) < 5
    assert off(1.0) > 5


def turns_back(p: list[Tensor], *, seams: bool = True) -> bool:
    """Checks one balanced subtree by its definition, momenta of the leaves given in order."""

    def bad(a: Tensor, b: Tensor, leaves: list[Tensor]) -> bool:
        rho = torch.stack(leaves).sum(0)
        return bool(a @ rho <= 0) or bool(b @ rho <= 0)

    if bad(p[0], p[-1], p):
        return True
    half = len(p) // 2
    left, right = p[:half], p[half:]
    return seams and (
        bad(p[0], right[0], [*left, right[0]]) or bad(left[-1], p[-1], [left[-1], *right])
    )


def recursive(p: list[Tensor], *, seams: bool = True) -> bool:
    """Says whether a subtree or any of its subtrees turns back."""
    if len(p) == 1:
        return False
    half = len(p) // 2
    inner = recursive(p[:half], seams=seams) or recursive(p[half:], seams=seams)
    return inner or turns_back(p, seams=seams)


def test_iterative_u_turn_checks_are_the_recursive_ones() -> None:
    # Momenta that turn slowly, or so fast that one trajectory passes several periods and only
    # the checks across seams see it: over 16 leaves some chains turn early, some late, some never.
    n, leaves = 400, 16
    generator = stream(0)
    phase = torch.rand(n, 1, 1, dtype=torch.float64, generator=generator) * 6
    speed = torch.rand(n, 1, 3, dtype=torch.float64, generator=generator)
    speed = speed * torch.tensor([0.3, 6.3], dtype=torch.float64).repeat(n // 2)[:, None, None]
    time = torch.arange(leaves, dtype=torch.float64)[None, :, None]
    p = (phase + speed * time).cos()
    turns, going, since = Turns((1,)), torch.ones(n, dtype=torch.bool), []
    for k in range(leaves):
        ok = turns.add(p[:, k])
        going = going if ok is None else going & ok
        since.append(going)
    torch.testing.assert_close(turns.total, p.sum(1))
    for size in (2, 4, 8, 16):
        expected = torch.tensor([not recursive(list(chain[:size])) for chain in p])
        assert torch.equal(since[size - 1], expected)
    ends = torch.tensor([not recursive(list(chain), seams=False) for chain in p])
    assert 0.1 < since[-1].double().mean() < 0.9
    # Wrong control: without the checks across seams some chains go on.
    assert (ends & ~since[-1]).sum() > 3


def test_points_are_picked_in_proportion_to_their_weights() -> None:
    n, weights = 20_000, torch.tensor([0.1, 0.0, 0.6, 0.3])

    def point(k: int) -> Candidate:
        index = torch.full((n,), float(k))
        log_weight = weights[k].log().expand(n)
        return Candidate(log_weight, index, index, index[:, None], index[:, None], {"a": index})

    v = torch.rand(n, generator=stream(0))
    chosen = pick([point(k) for k in range(4)], v)
    share = torch.bincount(chosen.u[:, 0].long(), minlength=4) / n
    assert ((share - weights).abs() <= 5 * (weights * (1 - weights) / n).sqrt()).all()
    torch.testing.assert_close(chosen.log_weight, torch.zeros(n), rtol=0, atol=1e-6)
    for field in (chosen.error, chosen.value, chosen.grad[:, 0], chosen.parts["a"]):
        assert torch.equal(field, chosen.u[:, 0])
    assert abs(share[0] - 0.25) > 5 * math.sqrt(0.25 / n)
    single = point(2)
    assert pick([single], v) is single


def test_evaluates_no_more_than_the_longest_trajectory() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return quartic(u)

    kernel = Nuts(steps=1, step_size=0.2)
    state = kernel.init(density, torch.randn(30, 2, generator=stream(0)))
    generator = stream(1)
    for _ in range(5):
        calls.clear()
        state, info = kernel.step(density, state, generator=generator)
        assert len(calls) == info.stats["leapfrogs"].max()
        assert info.stats["leapfrogs"].min() < info.stats["leapfrogs"].max()


def test_depth_and_leapfrogs_agree_and_end_at_the_limit() -> None:
    u = torch.randn(50, 2, generator=stream(0))
    trace = Nuts(steps=3, step_size=1e-3, max_depth=6).run(normal_density, u, generator=stream(1))
    assert (trace.stats["depth"] == 6).all()
    assert (trace.stats["leapfrogs"] == 2**6 - 1).all()
    torch.testing.assert_close(trace.accept, torch.ones(3, 50), rtol=0, atol=1e-4)
    free = Nuts(steps=3, step_size=0.3).run(normal_density, u, generator=stream(1))
    depth, leapfrogs = free.stats["depth"], free.stats["leapfrogs"]
    assert (leapfrogs >= 2**depth - 1).all()
    assert (leapfrogs < 2 ** (depth + 1)).all()
    assert depth.unique().numel() > 1


def test_trajectories_longer_than_a_chunk_keep_an_earlier_point() -> None:
    # A start of 2^6 leaves: candidates of several chunks compete; all leaves weigh the same.
    n = 4000
    u = torch.zeros(n, 1, dtype=torch.float64)
    kernel = Nuts(steps=1, step_size=1e-3, max_depth=6)
    assert CHUNK < 2**5
    flips = torch.rand(n, uniforms_per_step(6), dtype=torch.float64, generator=stream(0))
    eps = torch.ones_like(u)
    flat = Draws(normals=[eps], uniforms=[flips])
    state, _ = kernel.step(lambda u: 0.0 * u.sum(-1), kernel.init(quartic, u), generator=flat)
    # Equal weights: each doubling takes its own candidate, so the last 32 leaves are even in
    # 1..32 steps beyond the end of the first 32, whose start lies evenly among them.
    moved = (state.u[:, 0] / 1e-3).round()
    torch.testing.assert_close(moved * 1e-3, state.u[:, 0], rtol=0, atol=1e-9)
    offset, leaf = torch.arange(32.0).double(), torch.arange(1, 33.0).double()
    distance = (leaf[:, None] + offset).flatten()
    variance = distance.square().mean().item()
    kurtosis = (distance**4).mean().item() - variance**2
    assert abs(moved.square().mean().item() - variance) < 5 * math.sqrt(kurtosis / n)


def test_the_count_of_leaves_is_the_same_in_any_number_of_portions() -> None:
    weights = torch.randn(150, 5, generator=stream(0)) * 3
    active = torch.arange(150)[:, None] < torch.tensor([150, 64, 63, 1, 0])
    weights[140, 0], weights[3, 1], weights[0, 3] = torch.nan, -11.0, torch.inf
    for leaves in (64, 128, 150):
        tally = Tally(weights[0], 10.0)
        for log_weight, going in zip(weights[:leaves], active[:leaves], strict=True):
            tally.add(log_weight, going)
        tally.flush()
        seen, counted = weights[:leaves], active[:leaves]
        accept = torch.where(counted & seen.isfinite(), seen.exp().clamp(max=1.0), 0.0).sum(0)
        torch.testing.assert_close(tally.accept, accept)
        assert torch.equal(tally.leapfrogs, counted.sum(0))
        assert torch.equal(tally.bad, (counted & ~seen.isfinite()).any(0))
        low = counted & ~((seen >= -10) & seen.isfinite())
        assert torch.equal(tally.divergent, low.any(0))
    assert tally.divergent.tolist() == [True, True, False, True, False]


def test_energy_is_that_of_the_new_point() -> None:
    u = torch.randn(40, 2, dtype=torch.float64, generator=stream(0))
    eps = torch.randn(40, 2, dtype=torch.float64, generator=stream(1))
    v = torch.rand(40, uniforms_per_step(10), dtype=torch.float64, generator=stream(2))
    kernel = Nuts(steps=1, step_size=0.9)
    state, info = kernel.step(
        quartic, kernel.init(quartic, u), generator=Draws(normals=[eps], uniforms=[v])
    )
    start = 0.5 * eps.square().sum(-1) - quartic(u)
    energy, error = info.stats["energy"], info.stats["energy_error"]
    torch.testing.assert_close(energy - error, start)
    # The kinetic part of the energy is not negative.
    assert (energy + state.log_density >= -1e-12).all()
    stayed = (state.u == u).all(-1)
    torch.testing.assert_close(error[stayed], torch.zeros_like(error[stayed]))
    assert error.abs().max() > 0.01


def cliff(u: Tensor) -> Tensor:
    """A standard normal to the left of 1, undefined beyond."""
    return torch.where(u < 1, -0.5 * u.square(), torch.nan).sum(-1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_non_finite_value_is_ever_accepted(value) -> None:
    def density(u: Tensor) -> Tensor:
        assert torch.isfinite(u).all()
        return torch.where(u < 1, -0.5 * u.square(), value).sum(-1)

    u = torch.randn(300, 1, generator=stream(0)).clamp(max=0.9)
    trace = Nuts(steps=15, step_size=0.4).run(density, u, generator=stream(1))
    assert (trace.state.u < 1).all()
    assert 0.05 < trace.bad.double().mean() < 0.95
    assert torch.equal(trace.stats["divergent"], trace.bad)
    assert torch.isfinite(trace.accept).all()
    assert (trace.accept <= 1).all()


def test_is_exact_on_a_cut_support() -> None:
    # The normal cut to u < 0: mean -sqrt(2/pi), variance 1 - 2/pi.
    n = 20_000

    def half(u: Tensor) -> Tensor:
        return torch.where(u < 0, -0.5 * u.square(), -torch.inf).sum(-1)

    start = -torch.rand(n, 1, generator=stream(0)) - 0.1
    ends = Nuts(steps=25, step_size=0.4)(half, start, generator=stream(1))
    error = math.sqrt((1 - 2 / math.pi) / n)
    assert abs(ends.mean().item() + math.sqrt(2 / math.pi)) < 5 * error
    assert abs(start.mean().item() + math.sqrt(2 / math.pi)) > 5 * error


def test_large_energy_errors_are_divergent_and_end_the_trajectory() -> None:
    u = torch.ones(10, 1)
    trace = Nuts(steps=1, step_size=100.0).run(normal_density, u, generator=stream(0))
    assert trace.stats["divergent"].all()
    assert not trace.bad.any()
    assert (trace.stats["leapfrogs"] == 1).all()
    assert torch.equal(trace.state.u, u)
    strict = Nuts(steps=1, step_size=1.5, max_energy_error=0.01)
    assert strict.run(normal_density, u, generator=stream(0)).stats["divergent"].any()
    calm = Nuts(steps=5, step_size=0.1).run(normal_density, u, generator=stream(0))
    assert not calm.stats["divergent"].any()


@pytest.mark.parametrize("kind", ["nan", "slow", "stiff"])
def test_what_a_chain_draws_does_not_depend_on_other_chains(kind) -> None:
    u = torch.randn(8, 2, generator=stream(0)) * 0.5
    sick = torch.arange(8) == 3
    factor = {"slow": 1e-6, "stiff": 1e8}.get(kind)

    def density(v: Tensor) -> Tensor:
        away = (v[:, 0] - u[:, 0]).abs() > 1e-6
        other = torch.full_like(v[:, 0], torch.nan) if factor is None else factor * quartic(v)
        return torch.where(sick & away, other, quartic(v))

    kernel = Nuts(steps=6, step_size=0.3, max_depth=6)
    healthy, ill = (kernel.run(d, u, generator=stream(1), thin=1) for d in (quartic, density))
    assert torch.equal(healthy.u[:, ~sick], ill.u[:, ~sick])
    assert torch.equal(healthy.accept[:, ~sick], ill.accept[:, ~sick])
    for name, record in healthy.stats.items():
        assert torch.equal(record[:, ~sick], ill.stats[name][:, ~sick])
    assert not torch.equal(healthy.stats["leapfrogs"][:, sick], ill.stats["leapfrogs"][:, sick])
    if kind == "nan":
        assert torch.equal(ill.state.u[sick], u[sick])


def test_every_transition_takes_the_same_amount_of_random_numbers() -> None:
    after = []
    for step_size in (0.05, 0.5, 50.0):
        generator = stream(0)
        Nuts(steps=1, step_size=step_size)(quartic, torch.ones(4, 2), generator=generator)
        after.append(torch.rand(3, generator=generator))
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])
    assert uniforms_per_step(1) == 3
    assert uniforms_per_step(10) == 20 + 5 + 2 + 4 + 8 + 16 + 32


def test_a_frozen_chain_stays_and_costs_nothing() -> None:
    kernel = Nuts(steps=1, step_size=0.3)
    state = kernel.init(normal_density, torch.ones(4, 2))
    bad = torch.tensor([True, False, False, False])
    state = ChainState(u=state.u, log_density=state.log_density, grad=state.grad, bad=bad)
    moved, info = kernel.step(normal_density, state, generator=stream(0))
    assert torch.equal((moved.u != state.u).any(-1), ~bad)
    assert torch.equal(info.stats["leapfrogs"] > 0, ~bad)
    assert info.accept[0] == 0


def test_all_chains_frozen_is_no_error() -> None:
    kernel = Nuts(steps=1, step_size=0.3)
    state = kernel.init(normal_density, torch.ones(4, 2))
    bad = torch.ones(4, dtype=torch.bool)
    state = ChainState(u=state.u, log_density=state.log_density, grad=state.grad, bad=bad)
    moved, info = kernel.step(normal_density, state, generator=stream(0))
    assert torch.equal(moved.u, state.u)
    assert (info.stats["leapfrogs"] == 0).all()


def test_caches_and_parts_belong_to_the_position() -> None:
    kernel = Nuts(steps=10, step_size=0.7)
    target = Sum({"a": quartic, "b": (lambda u: u.sum(-1), 0.5)})
    trace = kernel.run(target, torch.randn(50, 3), generator=stream(0))
    fresh = kernel.init(target, trace.state.u)
    torch.testing.assert_close(trace.state.log_density, fresh.log_density)
    torch.testing.assert_close(trace.state.grad, fresh.grad)
    torch.testing.assert_close(trace.state.extra["part/b"], fresh.extra["part/b"])
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)


class Buffered:
    """A standard normal that returns the same tensors at every evaluation."""

    def __init__(self, like: Tensor) -> None:
        self.value, self.grad = torch.empty(like.shape[0]), torch.empty_like(like)

    def __call__(self, u: Tensor) -> Tensor:
        return normal_density(u)

    def evaluate(self, u: Tensor) -> Evaluation:
        self.value.copy_(normal_density(u))
        self.grad.copy_(-u)
        return Evaluation(self.value, self.grad, {"all": self.value})


def test_targets_may_reuse_the_tensors_they_return() -> None:
    u = torch.randn(16, 3, generator=stream(0))
    kernel = Nuts(steps=5, step_size=0.5)
    own = kernel.run(Buffered(u), u, generator=stream(1))
    expected = kernel.run(normal_density, u, generator=stream(1))
    torch.testing.assert_close(own.state.u, expected.state.u)
    torch.testing.assert_close(own.state.extra["part/all"], expected.state.log_density)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_keeps_shape_and_dtype(dtype, event, device) -> None:
    def density(u: Tensor) -> Tensor:
        return -0.5 * u.square().reshape(2, 5, -1).sum(-1)

    u = torch.zeros(2, 5, *event, dtype=dtype, device=device)
    size = torch.tensor(0.3, dtype=torch.float64, device=device)
    trace = Nuts(steps=2, step_size=size).run(
        density, u, generator=stream(0, device=device), thin=1
    )
    assert trace.u.shape == (2, *u.shape)
    assert trace.u.dtype == dtype
    assert trace.accept.dtype == dtype
    assert all(record.shape == (2, 2, 5) for record in trace.stats.values())


def test_a_saved_state_goes_on_bit_for_bit(tmp_path) -> None:
    kernel = Nuts(steps=5, step_size=0.4)
    u, generator = torch.randn(8, 2, generator=stream(0)), stream(1)
    state = kernel.run(quartic, u, generator=generator).state
    torch.save({"chains": state.state_dict(), "rng": generator.get_state()}, tmp_path / "s.pt")
    whole = kernel.run(quartic, state, generator=generator).state
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    generator.set_state(saved["rng"])
    again = kernel.run(quartic, ChainState.from_state_dict(saved["chains"]), generator=generator)
    assert torch.equal(again.state.u, whole.u)
    assert torch.equal(again.state.grad, whole.grad)


def test_leaves_parameter_gradients_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    kernel = Nuts(steps=2, step_size=0.1, max_depth=3)
    kernel(lambda u: network(u).squeeze(-1) + quartic(u), torch.zeros(4, 2))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_depth": 0}, r"max_depth must lie in 1\.\.20, got 0"),
        ({"max_energy_error": 0.0}, "max_energy_error must be positive"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Nuts(**{"steps": 1, "step_size": 0.1, **settings})


def test_a_start_outside_the_support_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 chains start at a non-finite"):
        Nuts(steps=1, step_size=0.1)(cliff, torch.tensor([[0.0], [2.0]]))


def test_a_state_without_caches_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"make it by Nuts\.init"):
        Nuts(steps=1, step_size=0.1).step(normal_density, ChainState(u=torch.zeros(2, 1)))
