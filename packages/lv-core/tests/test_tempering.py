"""Parallel tempering: weights of modes, what swaps leave invariant, and what a state holds."""

import io
import math

import pytest
import torch
from torch import Tensor

from lv_core import (
    ChainState,
    DivergenceError,
    Draws,
    Langevin,
    Mala,
    Sequence,
    Shard,
    Sum,
    stream,
)
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.tempering import (
    ParallelTempering,
    TunedBetas,
    geometric_betas,
    tune_betas,
)
from lv_core.kernels.underdamped import Underdamped
from lv_core.targets import Mixture

CENTERS = Mixture.ring().centers
BETAS = (1.0, 0.5, 0.2)
TARGET = Sum(
    {
        "a": lambda u: -0.5 * u.square().sum(-1),
        "b": (lambda u: u.cos().sum(-1), 0.5),
    }
)


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def distance(u: Tensor, weights: Tensor) -> float:
    """Returns the total variation between the shares of the modes in `u` and `weights`."""
    mode = torch.cdist(u.reshape(-1, 2), CENTERS).argmin(-1)
    share = torch.bincount(mode, minlength=8) / len(mode)
    return 0.5 * (share - weights).abs().sum().item()


INNER = {"mala": Mala(steps=1, step_size=0.6), "hmc": Hmc(steps=1, step_size=0.4, leapfrog=2)}
EQUAL = torch.full((8,), 1 / 8)
UNEQUAL = torch.tensor([0.02, 0.05, 0.08, 0.1, 0.25, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("name", INNER)
def test_weights_of_modes_are_exact_from_a_start_in_one_of_them(name, weights) -> None:
    ring = Mixture(CENTERS, scale=0.5, weights=weights)
    start = CENTERS[0] + 0.5 * torch.randn(400, 2, generator=stream(0, "start"))
    settings = {"kernel": INNER[name], "betas": geometric_betas(5, 0.03), "steps": 160}
    trace = ParallelTempering(**settings).run(ring, start, generator=stream(0, name), thin=10)
    # 400 chains at 10 times: a total variation of about 0.02 is that of independent draws.
    assert distance(trace.u[-10:], weights) < 0.05
    assert distance(trace.u[-10:], 1 - weights) > 0.05
    # Wrong control: the same kernel without swaps stays about the start.
    alone = ParallelTempering(**settings, swap_every=10**6)
    stuck = alone.run(ring, start, generator=stream(0, name), thin=10)
    assert distance(stuck.u[-10:], weights) > 0.5


class OneFactorMissing(ParallelTempering):
    """Accepts swaps by the ratio of densities, without the difference of inverse temperatures."""

    def _odds(self, state: ChainState, step: int) -> Tensor:
        value = state.log_density
        return (value[1:] - value[:-1]).clamp(max=0.0).exp()


def off_by(samples: Tensor, variance: float) -> float:
    """Returns how many standard errors the variance of independent normal samples is off."""
    return abs(samples.var().item() / variance - 1) / math.sqrt(2 / samples.numel())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_each_replica_keeps_its_own_density(temperature) -> None:
    n = 20_000
    settings = {
        "kernel": Mala(steps=1, step_size=1.0, temperature=temperature),
        "betas": BETAS,
        "steps": 25,
    }
    start = temperature**0.5 * torch.randn(n, 1, generator=stream(0, "start"))
    # All replicas start cold: the hot ones need the steps, the cold one only stays exact.
    state = ParallelTempering(**settings).run(normal_density, start, generator=stream(0)).state
    assert off_by(state.u, temperature) < 5
    assert off_by(state.extra["replica/u"][:, 0], temperature / 0.5) < 5
    assert off_by(state.extra["replica/u"][:, 1], temperature / 0.2) < 5
    wrong = OneFactorMissing(**settings).run(normal_density, start, generator=stream(0)).state
    assert off_by(wrong.u, temperature) > 5


def test_swaps_are_accepted_as_often_as_between_exact_draws() -> None:
    n, d = 20_000, 3
    eps = torch.randn(3, n, d, generator=stream(0, "exact"))
    value = [normal_density(e / b**0.5) for e, b in zip(eps, BETAS, strict=True)]
    kernel = ParallelTempering(kernel=Mala(steps=1, step_size=1.0), betas=BETAS, steps=25)
    trace = kernel.run(normal_density, eps[0], generator=stream(0))
    for i in range(2):
        log_ratio = (BETAS[i] - BETAS[i + 1]) * (value[i + 1] - value[i])
        exact = log_ratio.clamp(max=0.0).exp()
        found = trace.stats[f"swap/{i}"][-1]
        # Two means of numbers in [0, 1] over n chains.
        error = 5 * math.sqrt((exact.var().item() + found.var().item()) / n)
        assert abs(found.mean().item() - exact.mean().item()) < error
    both = 0.5 * (trace.stats["swap/0"] + trace.stats["swap/1"])
    torch.testing.assert_close(trace.stats["swap"], both)
    assert abs((trace.stats["swap/0"] - trace.stats["swap/1"]).mean()) > 0.01


def test_swaps_go_by_even_and_odd_pairs_in_turn() -> None:
    # Where all values are equal every swap is accepted.
    def flat(u: Tensor) -> Tensor:
        return 0 * u.sum(-1)

    kernel = ParallelTempering(
        kernel=Mala(steps=1, step_size=1e-9), betas=(1.0, 0.9, 0.8, 0.7), steps=8, swap_every=2
    )
    state = kernel.init(flat, torch.zeros(3, 1, dtype=torch.float64))
    state.extra["replica/u"][:] = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1)
    orders = []
    for _ in range(8):
        state, _ = kernel.step(flat, state)
        orders.append(
            [state.u[1].round().item(), *state.extra["replica/u"][1, :, 0].round().tolist()]
        )
    assert orders[0] == [0, 1, 2, 3]
    assert orders[1] == orders[2] == [1, 0, 3, 2]
    assert orders[3] == orders[4] == [1, 3, 0, 2]
    assert orders[5] == [3, 1, 2, 0]
    assert orders[7] == [3, 2, 1, 0]


def test_round_trips_count_arrivals_from_the_hottest_replica() -> None:
    # Two replicas of almost one density swap at every second step: the first swap brings a
    # position to the hot end, the second brings it back.
    kernel = ParallelTempering(kernel=INNER["mala"], betas=(1.0, 1 - 1e-9), steps=9)
    trace = kernel.run(normal_density, torch.randn(5, 2), generator=stream(0))
    assert trace.stats["round_trips"].T.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4]] * 5


def calls_of(kernel: ParallelTempering, density=normal_density) -> list[torch.Size]:
    calls = []

    def counted(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return density(u)

    kernel(counted, torch.randn(4, 2), generator=stream(0))
    return calls


@pytest.mark.parametrize(
    ("inner", "per_step"),
    [(Mala(steps=1, step_size=0.9), 1), (Langevin(steps=1, step_size=0.5), 1), (INNER["hmc"], 2)],
)
def test_costs_what_the_inner_kernel_costs_in_one_batch(inner, per_step) -> None:
    calls = calls_of(ParallelTempering(kernel=inner, betas=BETAS, steps=7))
    assert calls == [(3, 4, 2)] * (7 * per_step + 1)


KERNELS = {
    "mala": Mala(steps=1, step_size=1.2),
    "hmc": INNER["hmc"],
    "nuts": Nuts(steps=1, step_size=0.5),
    "langevin": Langevin(steps=1, step_size=0.5),
    "underdamped": Underdamped(steps=1, step_size=0.5),
}


@pytest.mark.parametrize("name", KERNELS)
def test_caches_and_parts_belong_to_the_positions(name) -> None:
    kernel = ParallelTempering(kernel=KERNELS[name], betas=BETAS, steps=9)
    trace = kernel.run(TARGET, torch.randn(50, 3), generator=stream(0))
    state = trace.state
    fresh = kernel.refresh(TARGET, state)
    assert (trace.stats["swap"] < 1).any()
    for one, two in [(state.log_density, fresh.log_density), (state.grad, fresh.grad)]:
        torch.testing.assert_close(one, two)
    for key in state.extra:
        torch.testing.assert_close(state.extra[key], fresh.extra[key])
    torch.testing.assert_close(
        state.extra["replica/part/a"], normal_density(state.extra["replica/u"])
    )
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)


@pytest.mark.parametrize("name", KERNELS)
def test_two_runs_are_one_longer_run_and_saving_changes_nothing(name) -> None:
    kernel = ParallelTempering(kernel=KERNELS[name], betas=BETAS, steps=5)
    u, generator = torch.randn(40, 3), stream(0)
    half = kernel.run(TARGET, u, generator=generator).state
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    loaded = ChainState.from_state_dict(torch.load(file, weights_only=True))
    parts = kernel.run(TARGET, loaded, generator=generator).state
    whole = kernel.run(TARGET, u, generator=stream(0), steps=10).state
    if name == "nuts":  # caches of its inner points are rounded, see `Scaled`
        torch.testing.assert_close(parts.u, whole.u, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(parts.u, whole.u)
        assert torch.equal(parts.extra["replica/u"], whole.extra["replica/u"])
    assert parts.step == whole.step == 10
    assert torch.equal(parts.extra["round_trips"], whole.extra["round_trips"])
    # Wrong control: without its replicas the run goes another way.
    cold = ChainState(u=half.u, step=half.step)
    other = kernel.run(TARGET, kernel.refresh(TARGET, cold), generator=stream(1)).state
    assert not torch.equal(other.u, kernel.run(TARGET, half, generator=stream(1)).state.u)


def test_chains_can_be_picked_and_joined() -> None:
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=4)
    u = torch.randn(6, 3, dtype=torch.float64)
    state = kernel.run(TARGET, u, generator=stream(0)).state
    assert all(len(x) == 6 for x in state.extra.values())
    joined = ChainState.cat([state[:2], state[2:]])
    one = kernel.run(TARGET, joined, generator=stream(1)).state.u
    assert torch.equal(one, kernel.run(TARGET, state, generator=stream(1)).state.u)


def test_data_tied_to_chains_broadcast_and_chains_do_not_mix() -> None:
    n = 4000
    means = torch.linspace(-50, 50, n).unsqueeze(-1)
    kernel = ParallelTempering(kernel=Mala(steps=1, step_size=1.0), betas=BETAS, steps=20)
    start = means + torch.randn(n, 1, generator=stream(0))
    state = kernel.run(lambda u: normal_density(u - means), start, generator=stream(0)).state
    assert off_by(state.u - means, 1.0) < 5
    assert off_by(state.u - means.flip(0), 1.0) > 5


@pytest.mark.parametrize("name", KERNELS)
def test_batch_and_event_axes_are_free(name) -> None:
    kernel = ParallelTempering(kernel=KERNELS[name], betas=BETAS, steps=3)
    for shape, axes in [((5,), ()), ((4, 2), (-1,)), ((2, 3, 2), (-1,)), ((4, 2, 3), (-2, -1))]:
        u = torch.randn(shape, dtype=torch.float64)

        def density(u: Tensor, axes=axes) -> Tensor:
            squares = -0.5 * u.square()
            return squares.sum(axes) if axes else squares

        trace = kernel.run(density, u, generator=stream(0), thin=1)
        assert trace.state.u.shape == u.shape
        assert trace.state.u.dtype == torch.float64
        assert trace.stats["swap/1"].shape == (3, *u.shape[: u.ndim - len(axes)])
    double = Mala(steps=1, step_size=torch.full((2,), 0.3, dtype=torch.float64))
    kernel = ParallelTempering(kernel=double, betas=BETAS, steps=3)
    assert kernel(normal_density, torch.randn(4, 2)).dtype == torch.float32


@pytest.mark.parametrize("name", KERNELS)
def test_batch_axes_are_only_a_grouping_of_chains(name) -> None:
    u = torch.randn(2, 3, 4, dtype=torch.float64)
    kernel = ParallelTempering(kernel=KERNELS[name], betas=BETAS, steps=4)
    grouped = kernel(TARGET, u, generator=stream(0))
    flat = kernel(TARGET, u.reshape(6, 4), generator=stream(0))
    torch.testing.assert_close(grouped.reshape(6, 4), flat, rtol=1e-12, atol=1e-12)
    other = kernel(TARGET, u.reshape(6, 4), generator=stream(1))
    assert not torch.allclose(other, flat)


def test_parameters_get_no_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=3)
    ends = kernel(lambda u: (weight * normal_density(u).unsqueeze(-1)).sum(-1), torch.randn(4, 3))
    assert weight.grad is None
    assert not ends.requires_grad


def test_shards_together_equal_the_whole_batch() -> None:
    u = torch.randn(8, 3, dtype=torch.float64)
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=5)
    parts = [
        kernel(TARGET, part, generator=Shard(generator=stream(0), rank=rank, world=2))
        for rank, part in enumerate(u.chunk(2))
    ]
    whole = kernel(TARGET, u, generator=stream(0))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(kernel(TARGET, u[:4], generator=stream(5)), whole[:4])


def test_given_draws_have_the_chains_first() -> None:
    u = torch.randn(6, 2)
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=1)
    generator = stream(0)
    normals = [torch.randn(6, 3, 2, generator=generator)]
    uniforms = [torch.rand(6, n, generator=generator) for n in (3, 2)]
    given = kernel(TARGET, u, generator=Draws(normals=normals, uniforms=uniforms))
    assert torch.equal(given, kernel(TARGET, u, generator=stream(0)))


def test_steps_are_scaled_so_that_replicas_of_a_normal_density_accept_alike() -> None:
    n = 20_000
    u = torch.randn(n, 2, generator=stream(0))
    accept = {}
    for sizes in (None, (1.0, 1.0, 1.0)):
        kernel = ParallelTempering(
            kernel=Mala(steps=1, step_size=1.0), betas=BETAS, steps=20, step_sizes=sizes
        )
        trace = kernel.run(normal_density, u, generator=stream(0))
        accept[sizes] = [trace.stats[f"accept/{r}"][-1].mean().item() for r in range(3)]
        assert torch.equal(trace.stats["accept/0"], trace.accept)
    # MALA with step 1 on the unit normal in the plane: 0.876 (Monte Carlo, 0.005).
    assert accept[None] == pytest.approx([0.876] * 3, abs=0.01)
    assert accept[1.0, 1.0, 1.0][2] > 0.95


def test_step_sizes_of_components_chains_and_schedules() -> None:
    u = torch.randn(4, 2, dtype=torch.float64)

    def ends(step_size) -> Tensor:
        inner = Mala(steps=1, step_size=step_size)
        kernel = ParallelTempering(kernel=inner, betas=BETAS, steps=3)
        return kernel(normal_density, u, generator=stream(0))

    torch.testing.assert_close(ends(torch.full((4, 2), 0.4).double()), ends(0.4))
    torch.testing.assert_close(ends(lambda k: 0.4), ends(0.4))
    assert not torch.allclose(ends(lambda k: 0.4 + 0.1 * k), ends(0.4))


def walled(u: Tensor) -> Tensor:
    """The normal density; nan beyond 1.5."""
    return torch.where(u.amax(-1) > 1.5, torch.nan, normal_density(u))


def test_metropolis_replicas_reject_non_finite_proposals() -> None:
    u = torch.rand(300, 1)
    kernel = ParallelTempering(kernel=Mala(steps=1, step_size=1.0), betas=BETAS, steps=15)
    trace = kernel.run(walled, u, generator=stream(0))
    state = trace.state
    assert trace.bad.any()
    assert (trace.stats["replica_bad"] > 0).any()
    assert not state.bad.any()
    assert (state.u <= 1.5).all()
    assert (state.extra["replica/u"] <= 1.5).all()
    assert torch.isfinite(state.log_density).all()
    with pytest.raises(ValueError, match="start at a non-finite"):
        kernel(walled, torch.full((3, 1), 2.0))


@pytest.mark.parametrize("name", ["langevin", "underdamped"])
def test_frozen_replicas_swap_no_more_and_touch_no_other_chain(name) -> None:
    inner = {
        "langevin": Langevin(steps=1, step_size=0.5, max_bad=1.0),
        "underdamped": Underdamped(steps=1, step_size=0.5, max_bad=1.0),
    }[name]
    u = torch.linspace(-2, 1.4, 60, dtype=torch.float64).unsqueeze(-1)
    kernel = ParallelTempering(kernel=inner, betas=BETAS, steps=4)
    trace = kernel.run(walled, u, generator=stream(0))
    state = trace.state
    whole = torch.cat((state.u.unsqueeze(1), state.extra["replica/u"]), dim=1)
    bad = torch.cat((state.bad.unsqueeze(1), state.extra["replica/bad"]), dim=1)
    assert (whole <= 1.5).all()
    assert torch.isfinite(state.extra["replica/log_density"]).all()
    assert state.bad.any()
    untouched = ~bad.any(1)
    assert 0 < int(untouched.sum()) < 60
    free = kernel.run(normal_density, u, generator=stream(0)).state
    assert torch.equal(state.u[untouched], free.u[untouched])
    after = kernel.run(walled, state, generator=stream(1))
    assert torch.equal(after.state.u[state.bad], state.u[state.bad])
    assert (after.stats["swap/0"][:, state.bad] == 0).all()
    strict = ParallelTempering(
        kernel=type(inner)(steps=1, step_size=0.5, max_bad=0.0), betas=BETAS, steps=4
    )
    with pytest.raises(DivergenceError):
        strict(walled, u, generator=stream(0))


def test_a_chain_that_starts_non_finite_stays() -> None:
    u = torch.tensor([[2.0], [0.0]])
    kernel = ParallelTempering(
        kernel=Langevin(steps=1, step_size=0.1, max_bad=0.5), betas=BETAS, steps=4
    )
    state = kernel.run(walled, u, generator=stream(0)).state
    assert state.u[0].item() == 2.0
    assert state.bad.tolist() == [True, False]


def test_extra_tensors_of_the_state_travel() -> None:
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=2)
    state = kernel.init(TARGET, torch.randn(4, 2))
    state.extra["tag"] = torch.arange(4)
    after = kernel.run(TARGET, state).state
    assert torch.equal(after.extra["tag"], torch.arange(4))


def test_geometric_betas_have_equal_ratios() -> None:
    betas = geometric_betas(4, 0.001)
    assert betas == pytest.approx((1.0, 0.1, 0.01, 0.001))
    for replicas, smallest in [(1, 0.1), (3, 0.0), (3, 1.0)]:
        with pytest.raises(ValueError, match="replicas must be at least 2"):
            geometric_betas(replicas, smallest)


def test_tuned_betas_equalise_the_swaps() -> None:
    ring = Mixture.ring()
    u = ring.sample(200, generator=stream(0, "u"))
    kernel = ParallelTempering(kernel=INNER["mala"], betas=(1.0, 0.95, 0.9, 0.03), steps=40)
    before = kernel.run(ring, u, generator=stream(0))
    spread = [before.stats[f"swap/{i}"][20:].mean().item() for i in range(3)]
    assert max(spread) - min(spread) > 0.4
    tuned = tune_betas(kernel, ring, u, steps=60, generator=stream(1))
    assert isinstance(tuned, TunedBetas)
    assert tuned.rejection.max() - tuned.rejection.min() < 0.08
    assert tuned.kernel.betas[0] == 1.0
    assert tuned.kernel.betas[-1] == 0.03
    assert tuned.barrier == pytest.approx(tuned.rejection.sum().item())
    # On N(0, I) the rates depend on the ratio of the betas alone: the answer is geometric.
    start = torch.randn(2000, 2, generator=stream(0))
    kernel = ParallelTempering(
        kernel=Mala(steps=1, step_size=1.0), betas=(1.0, 0.8, 0.7, 0.1), steps=1
    )
    tuned = tune_betas(kernel, normal_density, start, steps=40, generator=stream(1))
    assert tuned.kernel.betas == pytest.approx(geometric_betas(4, 0.1), rel=0.05)
    again = tuned.kernel.run(normal_density, tuned.state, generator=stream(2), steps=2)
    assert again.state.step == tuned.state.step + 2


def test_tuning_checks_its_arguments() -> None:
    u = torch.zeros(2, 1)
    settings = {"kernel": KERNELS["mala"], "betas": (1.0, 0.5), "steps": 1}
    with pytest.raises(ValueError, match="step_sizes=None"):
        tune_betas(ParallelTempering(**settings, step_sizes=(1.0, 1.0)), normal_density, u)
    with pytest.raises(ValueError, match="steps must be at least 2"):
        tune_betas(ParallelTempering(**settings), normal_density, u, steps=1)


def test_a_state_without_replicas_is_refused_with_the_remedy() -> None:
    kernel = ParallelTempering(kernel=KERNELS["mala"], betas=BETAS, steps=1)
    with pytest.raises(ValueError, match=r"make it by ParallelTempering\.init"):
        kernel.step(normal_density, ChainState(u=torch.zeros(2, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps and swap_every must be at least 1"),
        ({"swap_every": 0}, "steps and swap_every must be at least 1"),
        ({"betas": (1.0,)}, "betas must be two or more numbers"),
        ({"betas": (0.9, 0.5)}, "decreasing from 1"),
        ({"betas": (1.0, 0.5, 0.5)}, "decreasing from 1"),
        ({"betas": (1.0, 0.5, 0.0)}, "to above 0"),
        ({"step_sizes": (1.0, 1.0)}, "step_sizes must be 3 positive numbers"),
        ({"step_sizes": (1.0, 1.0, 0.0)}, "step_sizes must be 3 positive numbers"),
        (
            {"kernel": Langevin(steps=1, step_size=0.1, temperature=0.0)},
            "temperature of the kernel must be positive",
        ),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelTempering(**{"kernel": INNER["mala"], "betas": BETAS, "steps": 1, **settings})


def test_a_kernel_without_a_step_size_is_refused() -> None:
    inner = Sequence(stages=((KERNELS["mala"], ()),), steps=1)
    with pytest.raises(TypeError, match="kernel must have a step_size"):
        ParallelTempering(kernel=inner, betas=BETAS, steps=1)
