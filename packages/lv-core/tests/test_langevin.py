"""Langevin dynamics against closed forms, and what it does with non-finite values."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import (
    ChainState,
    DivergenceError,
    Draws,
    GradientStep,
    Langevin,
    Sum,
    stream,
    value_and_grad,
)

CHAINS = 100_000


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def off_by(samples: Tensor, variance: float) -> float:
    """Returns how many standard errors the variance of independent normal samples is off."""
    # The variance of n normal numbers has the relative standard error sqrt(2 / (n - 1)).
    error = variance * math.sqrt(2 / (samples.numel() - 1))
    return abs(samples.var().item() - variance) / error


def stationary(s: float, sigma: float, c: float) -> float:
    return c**2 * sigma**2 / (1 - s**2 / (4 * sigma**2))


CASES = {
    "unit": (0.4, 1.0, 1.0, 1.041667, 60),
    "wide": (1.0, 2.0, 0.7, 2.090667, 60),
    "SGDS prior": (0.5, 0.5, 0.5, 0.083333, 20),
    "LPT": (0.3, 1.0, 0.5, 0.255754, 100),
    "near the limit": (0.9, 0.5, 1.0, 1.315789, 60),
}


@pytest.mark.parametrize(("s", "sigma", "c", "value", "steps"), CASES.values(), ids=CASES)
def test_stationary_variance_is_the_closed_form(s, sigma, c, value, steps) -> None:
    exact = stationary(s, sigma, c)
    assert exact == pytest.approx(value, abs=1e-6)
    generator = stream(0, "stationary", repr((s, sigma, c)))

    def density(u: Tensor) -> Tensor:
        return -0.5 * u.square().sum(-1) / sigma**2

    # From a normal start the chain stays normal; after these steps the start weighs < 1e-3.
    start = math.sqrt(exact) * torch.randn(CHAINS, 1, generator=generator)
    kernel = Langevin.from_noise_factor(steps=steps, step_size=s, noise_factor=c)
    assert off_by(kernel(density, start, generator=generator), exact) < 5

    # Wrong control: drift s^2 instead of s^2/2 is the kernel of the density squared.
    if s < math.sqrt(2) * sigma:
        wrong = kernel(lambda u: 2 * density(u), start, generator=generator)
        assert off_by(wrong, exact) > 5


@pytest.mark.parametrize(("s", "sigma", "c", "value", "steps"), CASES.values(), ids=CASES)
def test_the_statistic_sees_the_discretisation_term(s, sigma, c, value, steps) -> None:
    # Wrong control: exact draws of the target without the discretisation term of the kernel.
    draws = c * sigma * torch.randn(CHAINS, 1, generator=stream(0, "control"))
    assert off_by(draws, stationary(s, sigma, c)) > 5
    assert off_by(draws, c**2 * sigma**2) < 5


@pytest.mark.parametrize(
    ("steps", "s", "share", "variance"), [(60, 0.4, 0.99328, 1.041665), (20, 0.1, 0.09539, None)]
)
def test_short_run_mean_and_variance_are_the_closed_forms(steps, s, share, variance) -> None:
    h = s**2 / 2
    a = 1 - h
    mean = 3.0 * (1 - a**steps)
    exact = a ** (2 * steps) + 2 * h * (1 - a ** (2 * steps)) / (1 - a**2)
    assert mean == pytest.approx(share * 3, abs=2e-5)
    assert variance is None or exact == pytest.approx(variance, abs=1e-6)
    generator = stream(0, "short run", steps)
    start = torch.randn(CHAINS, 1, generator=generator)
    kernel = Langevin(steps=steps, step_size=s)
    ends = kernel(lambda u: normal_density(u - 3.0), start, generator=generator)
    # Standard error of the mean: sqrt(variance / n).
    assert abs(ends.mean().item() - mean) < 5 * math.sqrt(exact / CHAINS)
    assert off_by(ends, exact) < 5
    # Wrong control: the mean of the target itself, which short chains do not reach.
    assert abs(ends.mean().item() - 3.0) > 5 * math.sqrt(exact / CHAINS)


def test_temperature_scales_the_stationary_variance() -> None:
    generator = stream(0, "temperature")
    kernel = Langevin(steps=60, step_size=0.4, temperature=0.25)
    ends = kernel(normal_density, 0.5 * torch.randn(CHAINS, 1, generator=generator))
    assert off_by(ends, 0.25 * 1.0416667) < 5
    assert off_by(ends, 0.5 * 1.0416667) > 5


def test_temperature_zero_is_gradient_ascent_in_closed_form() -> None:
    u = torch.randn(5, 3, dtype=torch.float64)
    cold = Langevin(steps=7, step_size=0.6, temperature=0.0)(normal_density, u)
    ascent = GradientStep(steps=7, step_size=0.6)(normal_density, u)
    assert torch.equal(cold, ascent)
    torch.testing.assert_close(cold, (1 - 0.18) ** 7 * u)
    with pytest.raises(AssertionError):  # wrong control: drift s^2
        torch.testing.assert_close(cold, (1 - 0.36) ** 7 * u)


def test_temperature_zero_draws_nothing() -> None:
    before = torch.get_rng_state()
    Langevin(steps=3, step_size=0.6, temperature=0.0)(normal_density, torch.zeros(5, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_step_is_the_formula() -> None:
    u, eps = torch.randn(2, 5, 3, dtype=torch.float64)
    kernel = Langevin(steps=1, step_size=0.3, temperature=0.49)
    state, info = kernel.step(
        normal_density, kernel.init(normal_density, u), generator=Draws(normals=[eps])
    )
    torch.testing.assert_close(state.u, u - 0.045 * u + 0.7 * 0.3 * eps)
    torch.testing.assert_close(info.log_density, normal_density(u))
    torch.testing.assert_close(info.grad_norm, u.norm(dim=-1))
    assert state.step == 1


def test_noise_factor_and_eta_are_other_names_of_the_same_kernel() -> None:
    assert Langevin.from_noise_factor(steps=2, step_size=0.5, noise_factor=0.5) == Langevin(
        steps=2, step_size=0.5, temperature=0.25
    )
    u, eps = torch.randn(2, 5, 3, dtype=torch.float64)
    kernel = Langevin.from_eta(steps=1, eta=0.08, temperature=1.0)
    assert kernel.step_size == pytest.approx(0.4)
    state, _ = kernel.step(normal_density, ChainState(u=u), generator=Draws(normals=[eps]))
    torch.testing.assert_close(state.u, u - 0.08 * u + math.sqrt(2 * 0.08) * eps)


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (2, 3, 4)])
def test_tensor_step_sizes_broadcast(shape) -> None:
    s = 0.1 + torch.rand(shape, dtype=torch.float64)
    u, eps = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    kernel = Langevin(steps=1, step_size=s, temperature=0.25)
    state, _ = kernel.step(normal_density, ChainState(u=u), generator=Draws(normals=[eps]))
    torch.testing.assert_close(state.u, u - s**2 / 2 * u + 0.5 * s * eps)
    ascent, _ = GradientStep(step_size=s).step(normal_density, ChainState(u=u))
    torch.testing.assert_close(ascent.u, u - s**2 / 2 * u)


def test_a_tensor_step_size_equals_the_number() -> None:
    u = torch.randn(4, 3)
    one = Langevin(steps=5, step_size=0.25)(normal_density, u, generator=stream(0))
    two = Langevin(steps=5, step_size=torch.tensor(0.25))(normal_density, u, generator=stream(0))
    torch.testing.assert_close(one, two)


def test_a_double_step_size_leaves_single_positions_single() -> None:
    kernel = Langevin(steps=3, step_size=torch.full((3,), 0.1, dtype=torch.float64))
    assert kernel(normal_density, torch.zeros(4, 3)).dtype == torch.float32


def test_clip_bounds_the_gradient_of_each_chain() -> None:
    u = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    kernel = GradientStep(step_size=1.0, clip=1.0)
    state, info = kernel.step(normal_density, ChainState(u=u))
    torch.testing.assert_close(state.u[0], u[0] - 0.5 * u[0] / 5)
    torch.testing.assert_close(state.u[1:], 0.5 * u[1:])
    assert info.clipped.tolist() == [True, False, False]
    assert info.grad_norm.tolist() == pytest.approx([5.0, 0.5, 0.0])


def test_evaluates_the_target_once_per_step() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    Langevin(steps=7, step_size=0.1)(Sum({"prior": density}), torch.zeros(4, 2))
    assert len(calls) == 7


# Chains that meet non-finite values.


def walled(u: Tensor) -> Tensor:
    """Pulls to the right; nan beyond 1."""
    value = 4 * u.sum(-1)
    return torch.where(u.amax(-1) > 1, torch.nan, value)


class Cliff(torch.autograd.Function):
    """The identity, with an infinite gradient beyond 1."""

    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return u.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return torch.where(u > 1, torch.inf, grad)


def steep(u: Tensor) -> Tensor:
    """Pulls to the right; finite everywhere, with an infinite gradient beyond 1."""
    return 4 * Cliff.apply(u).sum(-1)


@pytest.mark.parametrize("density", [walled, steep])
def test_a_bad_chain_stays_at_its_last_finite_position(density) -> None:
    # Drift 0.5 * 4 / 2 = 1 a step: chain 0 goes -1.5, -0.5, 0.5, 1.5 (bad) and back to 0.5.
    u = torch.tensor([[-1.5], [-50.0]])
    kernel = GradientStep(steps=8, step_size=0.5**0.5, max_bad=0.5)
    state = kernel.run(density, u).state
    assert state.u.flatten().tolist() == pytest.approx([0.5, -42.0])
    assert state.bad.tolist() == [True, False]
    assert torch.isfinite(value_and_grad(density, state.u).grad).all()


def test_the_other_chains_are_unaffected() -> None:
    u = torch.linspace(-30, 0.9, 64).unsqueeze(-1)
    kernel = Langevin(steps=20, step_size=0.5**0.5, max_bad=1.0)
    with_wall = kernel.run(walled, u, generator=stream(0)).state
    without = kernel(lambda u: 4 * u.sum(-1), u, generator=stream(0))
    assert 0 < int(with_wall.bad.sum()) < 64
    assert torch.equal(with_wall.u[~with_wall.bad], without[~with_wall.bad])
    assert not torch.equal(with_wall.u[with_wall.bad], without[with_wall.bad])


def test_a_chain_that_starts_bad_stays_at_its_start() -> None:
    u = torch.tensor([[2.0], [-9.0]])
    kernel = Langevin(steps=3, step_size=0.5, max_bad=0.5)
    assert kernel(walled, u)[0].item() == 2.0


def test_bad_chains_stay_frozen_in_a_later_run_from_their_state() -> None:
    kernel = GradientStep(steps=8, step_size=0.5**0.5, max_bad=0.5)
    state = kernel.run(walled, torch.tensor([[-1.5], [-50.0]])).state
    later = kernel.run(walled, state).state
    assert later.u.flatten().tolist() == pytest.approx([0.5, -34.0])
    assert later.bad.tolist() == [True, False]
    assert later.step == 16


@pytest.mark.parametrize("kernel", [Langevin(steps=4, step_size=0.1), GradientStep(step_size=0.1)])
def test_too_many_bad_chains_raise_naming_step_and_share(kernel) -> None:
    u = torch.tensor([[2.0], [-50.0], [-50.0], [-50.0]])
    message = rf"25\.0% of the chains .* by step {kernel.steps} \(tolerated: 10\.0%\)"
    with pytest.raises(DivergenceError, match=message):
        kernel(walled, u)
    with pytest.raises(FloatingPointError):
        kernel.run(walled, u)


def test_max_bad_is_the_tolerated_share() -> None:
    u = torch.tensor([[2.0], [-50.0], [-50.0], [-50.0]])
    Langevin(steps=4, step_size=0.1, max_bad=0.25)(walled, u)
    with pytest.raises(DivergenceError):
        Langevin(steps=4, step_size=0.1, max_bad=0.24)(walled, u)


def test_clipping_and_bad_chains_go_together() -> None:
    u = torch.tensor([[2.0], [-50.0]])
    kernel = GradientStep(steps=1, step_size=2**0.5, clip=1.0, max_bad=0.5)
    assert kernel(walled, u).flatten().tolist() == pytest.approx([2.0, -49.0])


def test_beyond_twice_sigma_the_chain_diverges() -> None:
    with pytest.raises(DivergenceError):
        Langevin(steps=300, step_size=2.5)(normal_density, torch.ones(8, 2))
    Langevin(steps=300, step_size=1.9)(normal_density, torch.ones(8, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0, "step_size": 0.1}, "steps must be at least 1, got 0"),
        ({"steps": 1, "step_size": 0.0}, r"step_size must be positive, got 0\.0"),
        ({"steps": 1, "step_size": -0.1}, r"step_size must be positive, got -0\.1"),
        ({"steps": 1, "step_size": math.nan}, "step_size must be positive, got nan"),
        ({"steps": 1, "step_size": torch.tensor([1.0, 0.0])}, "step_size must be positive"),
        ({"steps": 1, "step_size": 0.1, "clip": 0.0}, "clip must be positive"),
        ({"steps": 1, "step_size": 0.1, "max_bad": -0.1}, "max_bad must be a share in"),
        ({"steps": 1, "step_size": 0.1, "temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Langevin(**settings)
    if "temperature" not in settings:
        with pytest.raises(ValueError, match=message):
            GradientStep(**settings)


def test_eta_must_be_positive() -> None:
    with pytest.raises(ValueError, match="eta must be positive"):
        Langevin.from_eta(steps=1, eta=0.0)
