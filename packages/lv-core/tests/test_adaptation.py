"""Step sizes and scales: dual averaging, windows, ensembles, chains, and stability."""

import math
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lv_core import ChainState, Langevin, Linear, Mala, stream
from lv_core.kernels.adaptation import adapt
from lv_core.kernels.dual_averaging import DualAveraging
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.online import FACTOR, OnlineStepSize
from lv_core.kernels.stability import max_stable_step, warn_if_unstable
from lv_core.kernels.tuner import Adaptation, AdaptationState, default_accept
from lv_core.kernels.welford import Moments
from lv_core.kernels.windows import slow_windows
from lv_core.targets import Gaussian


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


MALA = Mala(steps=1, step_size=0.1)
HMC = Hmc(steps=1, step_size=0.1, leapfrog=4, jitter=0.2)
NUTS = Nuts(steps=1, step_size=0.1)
SCALE = torch.logspace(-3, 3, 7, dtype=torch.float64)


def badly_scaled(u: Tensor) -> Tensor:
    return normal_density(u / SCALE.to(u))


def start(chains: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(chains, dim, dtype=dtype, generator=stream(0, "start"))


# --- dual averaging --------------------------------------------------------------------------


def test_dual_averaging_follows_its_recursion() -> None:
    accepts = torch.rand(40, dtype=torch.float64, generator=stream(0))
    state = DualAveraging.start(torch.tensor(math.log(0.3), dtype=torch.float64))
    for accept in accepts:
        state = state.update(accept, 0.8)
    # The recursion in closed form: the weight of step i in the error after T steps is
    # 1 / (T + 10), as all factors before cancel except for the start, whose weight is on zero.
    steps = torch.arange(1.0, 41, dtype=torch.float64)
    error = (0.8 - accepts).cumsum(0) / (steps + 10)
    log_steps = math.log(10 * 0.3) - steps.sqrt() / 0.05 * error
    torch.testing.assert_close(state.error, error[-1])
    torch.testing.assert_close(state.log_step, log_steps[-1])
    average = 0.0
    for t, log_step in enumerate(log_steps.tolist(), start=1):
        average = t**-0.75 * log_step + (1 - t**-0.75) * average
    torch.testing.assert_close(state.log_average.item(), average)
    assert state.count == 40
    # Wrong control: a plain mean of the log step sizes.
    assert abs(log_steps.mean().item() - average) > 0.1


def test_dual_averaging_finds_the_root_of_the_acceptance() -> None:
    # accept = exp(-s): the target 0.8 belongs to s = log 1.25; the error falls as 1 / sqrt(t).
    state = DualAveraging.start(torch.tensor(0.0, dtype=torch.float64))
    for _ in range(2000):
        state = state.update((-state.log_step.exp()).exp(), 0.8)
    assert state.log_average.exp().item() == pytest.approx(math.log(1.25), rel=0.02)


def test_many_chains_lower_the_gain() -> None:
    one, many = (DualAveraging.start(torch.tensor(0.0), chains=n) for n in (1, 64))
    assert one.center.item() == pytest.approx(math.log(10))
    assert many.center.item() == pytest.approx(math.log(10) / 4)
    rise = [state.update(torch.tensor(1.0), 0.8).log_step - state.center for state in (one, many)]
    assert (rise[0] / rise[1]).item() == pytest.approx(4.0)


# --- windows and moments ---------------------------------------------------------------------


def test_windows_of_one_chain_are_those_of_stan() -> None:
    assert slow_windows(1000, 1) == (75, (100, 150, 250, 450, 950))


@pytest.mark.parametrize("chains", [1, 64])
@pytest.mark.parametrize("steps", [20, 50, 149, 150, 300, 1000, 5000])
def test_windows_grow_and_fill_the_middle(steps, chains) -> None:
    first, ends = slow_windows(steps, chains)
    widths = [b - a for a, b in pairwise((first, *ends))]
    assert all(b >= 2 * a for a, b in pairwise(widths))
    assert 0 < first < ends[-1] < steps
    assert ends[-1] == steps - (50 if steps >= 150 else steps // 10)


def test_many_chains_have_earlier_windows_and_few_steps_none() -> None:
    assert slow_windows(1000, 64)[1][:3] == (85, 105, 145)
    assert slow_windows(19, 64) == (19, ())


def test_pooled_moments_are_those_of_all_positions() -> None:
    x = 100 + torch.randn(30, 4, 3, dtype=torch.float64, generator=stream(0))
    moments = Moments.start(x[0])
    for u in x:
        moments = moments.add(u)
    variance, n = moments.pooled(torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(variance, x.reshape(-1, 3).var(0))
    assert n == 120
    # Wrong control: the mean of the chains' own variances leaves out their distance.
    shifted = x + torch.arange(4.0)[:, None]
    moments = Moments.start(x[0])
    for u in shifted:
        moments = moments.add(u)
    variance, _ = moments.pooled(torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(variance, shifted.reshape(-1, 3).var(0))
    assert (shifted.var(0).mean(0) / variance < 0.7).all()


def test_pooling_leaves_out_unusable_and_unmoved_and_broken_chains() -> None:
    x = torch.randn(30, 5, 3, dtype=torch.float64, generator=stream(0))
    x[:, 1] = 1e6  # never moves
    x[7, 2] = torch.nan
    moments = Moments.start(x[0])
    for u in x:
        moments = moments.add(u)
    usable = torch.tensor([True, True, True, False, True])
    variance, n = moments.pooled(usable)
    torch.testing.assert_close(variance, x[:, [0, 4]].reshape(-1, 3).var(0))
    assert n == 60
    assert moments.pooled(torch.zeros(5, dtype=torch.bool))[0].isnan().all()


def test_moments_of_scalar_events_pool_as_well() -> None:
    x = torch.randn(20, 6, dtype=torch.float64, generator=stream(0))
    moments = Moments.start(x[0])
    for u in x:
        moments = moments.add(u)
    torch.testing.assert_close(moments.pooled(torch.ones(6, dtype=torch.bool))[0], x.var())


# --- adaptation ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [MALA, HMC, NUTS], ids=["mala", "hmc", "nuts"])
def test_reaches_the_target_acceptance(kernel) -> None:
    target = Gaussian(torch.zeros(5), torch.eye(5) + 0.5 * torch.ones(5, 5))
    generator = stream(0)
    u = target.sample(64, generator=generator)
    tuned = adapt(kernel, target, u, steps=400, generator=generator)
    trace = tuned.kernel.run(target, tuned.state, steps=150, generator=generator)
    # The acceptance of the frozen kernel has a standard error of about 0.003; the averaged step
    # size brings its own, about 0.01 in acceptance.
    assert trace.accept.mean().item() == pytest.approx(default_accept(kernel), abs=0.02)
    untuned = kernel.run(target, u, steps=20, generator=generator)
    assert abs(untuned.accept.mean() - default_accept(kernel)) > 0.05
    assert tuned.step_sizes.shape == (400,)
    assert tuned.accept.shape == (400, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finds_scales_over_six_orders_of_magnitude(dtype) -> None:
    tuned = adapt(HMC, badly_scaled, start(64, 7, dtype), steps=500, generator=stream(1))
    assert (tuned.scale / SCALE.to(dtype) - 1).abs().max() < 0.1
    assert tuned.kernel.step_size.dtype == dtype
    torch.testing.assert_close(
        tuned.kernel.step_size, tuned.adaptation.averaging.log_average.exp() * tuned.scale
    )
    # Wrong control: without scales the largest component has not moved from its start.
    plain = adapt(HMC, badly_scaled, start(64, 7, dtype), steps=500, scale=False)
    assert plain.state.u[:, -1].std() < 100
    assert isinstance(plain.kernel.step_size, float)


def test_tuned_chains_sample_the_target() -> None:
    generator = stream(2)
    tuned = adapt(HMC, badly_scaled, start(200, 7), steps=400, generator=generator)
    trace = tuned.kernel.run(badly_scaled, tuned.state, steps=150, thin=10, generator=generator)
    draws = trace.u / SCALE
    # Chains decorrelate within ten steps of about the period: 200 x 15 draws.
    n = 200 * 15
    assert (draws.mean((0, 1)).abs() < 5 / math.sqrt(n)).all()
    assert (draws.reshape(-1, 7).var(0) - 1).abs().max() < 5 * math.sqrt(2 / n)


def test_each_chain_can_have_its_own_step() -> None:
    # Chains tied to data with very different noise.
    noise = torch.logspace(-3, 1, 40, dtype=torch.float64)

    def density(u: Tensor) -> Tensor:
        return normal_density(u / noise[:, None])

    u = start(40, 4) * noise[:, None]
    tuned = adapt(MALA, density, u, steps=800, scale=False, per_chain=True, generator=stream(1))
    size = tuned.kernel.step_size
    assert isinstance(size, Tensor)
    assert size.shape == (40, 4)
    accept = tuned.kernel.run(density, tuned.state, steps=400, generator=stream(2)).accept.mean(0)
    # One chain's averaged step size is noisier: about 0.04 in acceptance.
    assert (accept - 0.574).abs().max() < 0.2
    assert abs(accept.mean() - 0.574) < 0.05
    ratio = size[:, 0] / noise
    assert ratio.max() / ratio.min() < 4
    # Wrong control: one step size for all leaves some chains at zero and others at one.
    shared = adapt(MALA, density, u, steps=400, scale=False, generator=stream(1))
    accept = shared.kernel.run(density, shared.state, steps=100, generator=stream(2)).accept
    assert accept.mean(0).min() < 0.05
    assert accept.mean(0).max() > 0.95


def test_own_steps_and_pooled_scales_combine() -> None:
    u = start(16, 7)
    tuned = adapt(HMC, badly_scaled, u, steps=60, per_chain=True, generator=stream(1))
    assert tuned.kernel.step_size.shape == (16, 7)
    assert tuned.step_sizes.shape == (60, 16)


def test_per_chain_tuning_of_one_chain_does_not_depend_on_others() -> None:
    u = start(6, 2)
    sick = torch.arange(6) == 2

    def density(v: Tensor) -> Tensor:
        away = (v[:, 0] - u[:, 0]).abs() > 1e-9
        return torch.where(sick & away, torch.nan, normal_density(v))

    runs = [
        adapt(HMC, d, u, steps=80, scale=False, per_chain=True, generator=stream(1))
        for d in (normal_density, density)
    ]
    assert torch.equal(runs[0].state.u[~sick], runs[1].state.u[~sick])
    assert torch.equal(runs[0].step_sizes[:, ~sick], runs[1].step_sizes[:, ~sick])
    assert not torch.equal(runs[0].step_sizes[:, sick], runs[1].step_sizes[:, sick])


@pytest.mark.parametrize("sick", [1, 20])
def test_nan_chains_do_not_poison_pooled_statistics(sick) -> None:
    # Sick chains start far off, where any other point is NaN.
    u = start(48, 7) * SCALE
    stuck = torch.arange(48) < sick
    u[stuck] = 1e9

    def density(v: Tensor) -> Tensor:
        away = (v != 1e9).any(-1)
        return torch.where(stuck & away, torch.nan, badly_scaled(v.clamp(-1e8, 1e8)))

    tuned = adapt(HMC, density, u, steps=300, generator=stream(1))
    assert (tuned.scale / SCALE - 1).abs().max() < 0.15
    trace = tuned.kernel.run(density, tuned.state, steps=100, generator=stream(2))
    assert torch.equal(tuned.state.u[stuck], u[stuck])
    assert trace.accept[:, ~stuck].mean().item() == pytest.approx(0.651, abs=0.05)


def test_frozen_chains_do_not_count() -> None:
    state = HMC.init(normal_density, start(40, 3))
    bad = torch.arange(40) < 15
    state = replace(state, bad=bad)
    tuned = adapt(HMC, normal_density, state, steps=300, generator=stream(1))
    assert torch.equal(tuned.state.u[bad], state.u[bad])
    trace = tuned.kernel.run(normal_density, tuned.state, steps=100, generator=stream(2))
    assert trace.accept[:, ~bad].mean().item() == pytest.approx(0.651, abs=0.04)


def test_all_chains_stuck_is_survived() -> None:
    u = start(4, 2)

    def density(v: Tensor) -> Tensor:
        away = (v - u).abs().amax(-1) > 1e-300
        return torch.where(away, torch.nan, normal_density(v))

    tuned = adapt(MALA, density, u, steps=40, generator=stream(0))
    assert torch.equal(tuned.state.u, u)
    assert torch.isfinite(tuned.scale).all()


def test_a_step_size_far_too_large_or_small_is_found_anyway() -> None:
    def density(u: Tensor) -> Tensor:
        assert torch.isfinite(u).all()
        return normal_density(u)

    found = []
    for given in (1e-6, 0.5, 1e6, 1e30):
        kernel = Mala(steps=1, step_size=given)
        u = start(32, 3, torch.float32)
        state = Adaptation(kernel=kernel).init(density, u, generator=stream(1))
        found.append(state.averaging.log_step.exp().item())
    # Doubling or halving ends within a factor of two on either side of acceptance 0.8.
    assert max(found) / min(found) < 4.001
    assert min(found) > 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_search_on_a_flat_density_ends(dtype) -> None:
    u = start(4, 2, dtype)
    state = Adaptation(kernel=MALA).init(lambda u: 0.0 * u.sum(-1), u, generator=stream(1))
    assert torch.isfinite(state.averaging.log_step)
    # Every step passes, up to the largest number or the last trial.
    assert state.averaging.log_step > math.log(1e15)


def test_a_tensor_of_step_sizes_is_a_start_for_the_scales() -> None:
    kernel = Hmc(steps=1, step_size=0.1 * SCALE, leapfrog=4)
    state = Adaptation(kernel=kernel).init(badly_scaled, start(32, 7) * SCALE)
    torch.testing.assert_close(state.scale, SCALE)  # the geometric mean of SCALE is one
    assert 0.3 < state.averaging.log_step.exp() < 4
    tuned = adapt(kernel, badly_scaled, start(32, 7) * SCALE, steps=15)  # too few for windows
    assert torch.equal(tuned.scale, state.scale)


def test_scalar_events_are_tuned() -> None:
    u = 10 * torch.randn(50, dtype=torch.float64, generator=stream(0))
    tuned = adapt(HMC, lambda u: -0.5 * (u / 10) ** 2, u, steps=200, generator=stream(1))
    assert tuned.scale.item() == pytest.approx(10, rel=0.2)
    assert isinstance(tuned.kernel.step_size, float)


@pytest.mark.parametrize("kernel", [MALA, HMC, NUTS], ids=["mala", "hmc", "nuts"])
@pytest.mark.parametrize("per_chain", [False, True])
def test_a_saved_adaptation_goes_on_bit_for_bit(kernel, per_chain, tmp_path) -> None:
    u, generator = start(8, 2), stream(1)
    target = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([0.04, 4.0]).double()))
    settings = {"steps": 60, "per_chain": per_chain, "generator": generator}

    def save(k, state, info):
        if k == 33:  # within a window
            rng = generator.get_state()
            torch.save({"tuner": state.state_dict(), "rng": rng}, tmp_path / "s.pt")

    whole = adapt(kernel, target, u, callback=save, **settings)
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    generator.set_state(saved["rng"])
    state = AdaptationState.from_state_dict(saved["tuner"])
    assert state.step == 33
    assert state.moments.count > 0
    again = adapt(kernel, target, state, **settings)
    assert torch.equal(again.state.u, whole.state.u)
    assert torch.equal(again.scale, whole.scale)
    assert torch.equal(again.step_sizes, whole.step_sizes[33:])
    assert torch.equal(again.kernel.step_size, whole.kernel.step_size)
    with pytest.raises(ValueError, match="has done 60 of 60 steps"):
        adapt(kernel, target, again.adaptation, **settings)


def test_a_callback_can_stop() -> None:
    tuned = adapt(MALA, normal_density, start(8, 2), callback=lambda k, state, info: k == 7)
    assert tuned.step_sizes.shape == (7,)
    assert tuned.adaptation.step == 7


def test_evaluations_are_those_of_the_steps_and_of_the_searches() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    tuner = Adaptation(kernel=HMC, steps=100)
    state = tuner.init(density, start(32, 3), generator=stream(0))
    at_start = len(calls)
    # Start, then the trials of a search from 0.1 to about 1.
    assert 3 <= at_start <= 8
    calls.clear()
    _, ends = slow_windows(100, 32)
    for k in range(1, 100):
        state, _ = tuner.step(density, state, generator=stream(k))
        assert len(calls) == 4 or (k in ends and 4 < len(calls) < 12)
        calls.clear()
    assert ends


def test_leaves_parameter_gradients_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def density(u: Tensor) -> Tensor:
        return network(u).squeeze(-1) + normal_density(u)

    u = start(8, 2, torch.float32)
    adapt(NUTS, density, u, steps=30, generator=stream(0))
    max_stable_step(density, u, generator=stream(0))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        (MALA, {"steps": 0}, "steps must be at least 1, got 0"),
        (MALA, {"target_accept": 1.0}, r"target_accept must lie in \(0, 1\), got 1"),
        (
            Mala(steps=1, step_size=Linear(start=1.0, end=0.1, steps=5)),
            {},
            "kernel must have a step_size that is a number or a tensor",
        ),
        (Langevin(steps=1, step_size=0.1), {}, "no target acceptance is known for Langevin"),
    ],
)
def test_settings_out_of_range_are_refused(kernel, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptation(kernel=kernel, **settings)


def test_kernels_without_acceptance_are_refused() -> None:
    kernel = Langevin(steps=1, step_size=0.1)
    with pytest.raises(ValueError, match="holds no value and gradient"):
        adapt(kernel, normal_density, start(4, 2), target_accept=0.5)
    state = Adaptation(kernel=MALA).init(normal_density, start(4, 2))
    with pytest.raises(ValueError, match="Langevin reports no acceptance"):
        Adaptation(kernel=kernel, target_accept=0.5).step(normal_density, state)


def test_start_steps_for_each_chain_are_refused() -> None:
    kernel = Mala(steps=1, step_size=torch.full((4, 1), 0.1))
    with pytest.raises(ValueError, match="which has an axis of chains"):
        adapt(kernel, normal_density, start(4, 2))


# --- online adaptation of each chain ---------------------------------------------------------


def test_online_factors_follow_the_acceptance() -> None:
    noise = torch.tensor([0.01, 0.1, 1.0, 3.0]).repeat(50)

    def density(u: Tensor) -> Tensor:
        return normal_density(u / noise[:, None])

    kernel = OnlineStepSize(kernel=Mala(steps=1, step_size=0.1), steps=300)
    u = torch.randn(200, 3, generator=stream(0)) * noise[:, None]
    trace = kernel.run(density, u, generator=stream(1))
    accept = trace.accept[100:].mean(0).reshape(50, 4).mean(0)
    assert (accept - 0.574).abs().max() < 0.03
    factors = trace.state.extra[FACTOR].exp().reshape(50, 4)
    assert (factors[:, 2].mean() / factors[:, 0].mean()).item() == pytest.approx(100, rel=0.3)
    # Wrong control: the same step for all.
    fixed = Mala(steps=300, step_size=0.1).run(density, u, generator=stream(1))
    assert fixed.accept.mean(0).reshape(50, 4).mean(0)[0] < 0.1


def test_online_update_is_its_formula_with_bounds() -> None:
    kernel = OnlineStepSize(
        kernel=Mala(steps=1, step_size=0.5), rate=0.2, target_accept=0.4, smallest=0.9, largest=1.2
    )
    state = kernel.init(normal_density, start(50, 3))
    for k in range(6):
        before = state.extra[FACTOR]
        state, info = kernel.step(normal_density, state, generator=stream(k))
        expected = (before + 0.2 * (info.accept - 0.4)).clamp(math.log(0.9), math.log(1.2))
        torch.testing.assert_close(state.extra[FACTOR], expected)
        torch.testing.assert_close(info.stats["step_factor"], before.exp())
    assert (state.extra[FACTOR] == math.log(1.2)).any()


def test_online_steps_are_those_of_the_scaled_kernel() -> None:
    u = start(20, 2)
    kernel = OnlineStepSize(kernel=Hmc(steps=1, step_size=0.3, leapfrog=3))
    state = kernel.run(normal_density, u, steps=10, generator=stream(0)).state
    sizes = 0.3 * state.extra[FACTOR].exp()[:, None]
    expected = Hmc(steps=1, step_size=sizes, leapfrog=3).run(
        normal_density, state, generator=stream(1)
    )
    moved = kernel.run(normal_density, state, steps=1, generator=stream(1))
    torch.testing.assert_close(moved.state.u, expected.state.u)
    frozen = kernel.frozen(state).run(normal_density, state, generator=stream(1))
    torch.testing.assert_close(frozen.state.u, expected.state.u)
    assert torch.equal(frozen.state.extra[FACTOR], state.extra[FACTOR])


def test_online_factors_survive_refreshing_saving_and_selecting(tmp_path) -> None:
    kernel = OnlineStepSize(kernel=MALA, steps=5)
    generator = stream(1)
    state = kernel.run(normal_density, start(10, 2), generator=generator).state
    assert (state.extra[FACTOR] != 0).all()
    assert torch.equal(kernel.refresh(normal_density, state).extra[FACTOR], state.extra[FACTOR])
    assert torch.equal(state[2:5].extra[FACTOR], state.extra[FACTOR][2:5])
    torch.save({"chains": state.state_dict(), "rng": generator.get_state()}, tmp_path / "s.pt")
    whole = kernel.run(normal_density, state, generator=generator).state
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    generator.set_state(saved["rng"])
    loaded = ChainState.from_state_dict(saved["chains"])
    again = kernel.run(normal_density, loaded, generator=generator).state
    assert torch.equal(again.u, whole.u)
    assert torch.equal(again.extra[FACTOR], whole.extra[FACTOR])


def test_online_factors_of_frozen_chains_stay() -> None:
    kernel = OnlineStepSize(kernel=MALA)
    state = kernel.init(normal_density, start(4, 2))
    bad = torch.tensor([True, False, False, False])
    moved, _ = kernel.step(normal_density, replace(state, bad=bad), generator=stream(0))
    assert torch.equal(moved.extra[FACTOR] != 0, ~bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"target_accept": 0.0}, r"target_accept must lie in \(0, 1\)"),
        ({"smallest": 1.5}, "bounds of the factor must enclose its start"),
        ({"kernel": Langevin(steps=1, step_size=0.1)}, "no target acceptance is known"),
        ({"kernel": OnlineStepSize(kernel=MALA), "target_accept": 0.5}, "must have a step_size"),
    ],
)
def test_online_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineStepSize(**{"kernel": MALA, **settings})


def test_online_refuses_what_it_cannot_follow() -> None:
    kernel = OnlineStepSize(kernel=Langevin(steps=1, step_size=0.1), target_accept=0.5)
    with pytest.raises(ValueError, match="Langevin caches no value"):
        kernel.init(normal_density, start(4, 2))
    state = OnlineStepSize(kernel=MALA).init(normal_density, start(4, 2))
    with pytest.raises(ValueError, match="Langevin reports no acceptance"):
        kernel.step(normal_density, state)
    bare = MALA.init(normal_density, start(4, 2))
    with pytest.raises(ValueError, match=r"make it by OnlineStepSize\.init"):
        OnlineStepSize(kernel=MALA).step(normal_density, bare)


# --- stability -------------------------------------------------------------------------------


def test_largest_stable_step_is_that_of_the_stiffest_direction() -> None:
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    target = Gaussian(torch.zeros(2, dtype=torch.float64), covariance)
    limit = max_stable_step(target, start(5, 2), generator=stream(0))
    # The largest eigenvalue of the precision is 1 / 0.2.
    torch.testing.assert_close(limit, torch.full((5,), 2 * math.sqrt(0.2), dtype=torch.float64))


def test_langevin_diverges_just_above_the_largest_stable_step_and_not_below() -> None:
    target = Gaussian(torch.zeros(2), torch.diag(torch.tensor([0.04, 1.0])))
    limit = max_stable_step(target, torch.ones(1, 2), generator=stream(0)).item()
    ends = [
        Langevin(steps=400, step_size=factor * limit, max_bad=1.0)(target, torch.ones(100, 2))
        for factor in (0.95, 1.05)
    ]
    assert ends[0].abs().max() < 10
    assert ends[1].abs().max() > 1e6


def test_curvature_may_be_negative_or_differ_between_points() -> None:
    # -log p = u0^4/4 - 2 u0^2 + u1^2 / 2 has curvature 3 u0^2 - 4 along u0 and 1 along u1.
    def density(u: Tensor) -> Tensor:
        return -(u[..., 0] ** 4 / 4 - 2 * u[..., 0] ** 2 + u[..., 1] ** 2 / 2)

    u = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 5.0]], dtype=torch.float64)
    expected = 2 / torch.tensor([1.0, 8.0, 23.0], dtype=torch.float64).sqrt()
    limit = max_stable_step(density, u, iterations=40, generator=stream(0))
    torch.testing.assert_close(limit, expected, rtol=1e-4, atol=0)
    # Wrong control: the curvature that is largest in magnitude would allow less at the first.
    assert abs(2 / math.sqrt(4) - limit[0].item()) > 0.5


def test_without_curvature_every_step_is_stable() -> None:
    u = torch.zeros(3, 2)
    assert torch.isinf(max_stable_step(lambda u: u.sum(-1), u)).all()
    assert torch.isinf(max_stable_step(lambda u: u.square().sum(-1), u)).all()
    assert torch.isinf(max_stable_step(lambda u: u.relu().square().sum(-1), u - 1)).all()


def test_unstable_steps_are_warned_of() -> None:
    target = Gaussian(torch.zeros(2), torch.diag(torch.tensor([0.04, 1.0])))
    with pytest.warns(UserWarning, match=r"step_size 0\.5 is unstable at 100\.0% of the points"):
        unstable = warn_if_unstable(0.5, target, torch.zeros(4, 2), generator=stream(0))
    assert unstable.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_if_unstable(0.3, target, torch.zeros(4, 2), generator=stream(0)).any()


def test_iterations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        max_stable_step(normal_density, torch.zeros(3, 2), iterations=0)


def test_the_largest_stable_step_of_a_saddle_in_single_precision() -> None:
    curvature = torch.tensor([-1000.0, 1.0])
    limit = max_stable_step(
        lambda u: -0.5 * (curvature * u.square()).sum(-1), torch.zeros(4, 2), generator=stream(0)
    )
    torch.testing.assert_close(limit, torch.full((4,), 2.0))


def test_an_unknown_curvature_is_neither_stable_nor_infinite() -> None:
    def broken(u: torch.Tensor) -> torch.Tensor:
        return -u.abs().pow(1.5).sum(-1)  # infinite curvature at the origin

    limit = max_stable_step(broken, torch.zeros(3, 2), generator=stream(0))
    assert not torch.isposinf(limit).any()
    with pytest.warns(UserWarning, match="unstable at 100"):
        warn_if_unstable(0.1, broken, torch.zeros(3, 2), generator=stream(0))
