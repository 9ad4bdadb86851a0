"""MALA: exact where unadjusted Langevin dynamics is not."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import ChainState, Langevin, Mala, Sum, posterior, stream
from lv_core.targets import Gaussian, LinearGaussian


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def worst(samples: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Returns the largest deviation of mean and covariance, in standard errors."""
    n = len(samples)
    variance = covariance.diagonal()
    # Standard errors for n normal vectors: mean sqrt(C_ii / n), covariance
    # sqrt((C_ii C_jj + C_ij^2) / n).
    first = (samples.mean(0) - mean).abs() / (variance / n).sqrt()
    error = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    second = (samples.T.cov() - covariance).abs() / error
    return max(first.max().item(), second.max().item())


def test_leaves_a_correlated_normal_exact_where_langevin_does_not() -> None:
    target = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    start = target.mean + torch.randn(20_000, 2, generator=stream(0, "start"))
    # Slowest direction: 0.91 per step, with most proposals accepted < 1e-5 is left of the start.
    settings = {"steps": 200, "step_size": 0.6}
    exact = Mala(**settings)(target, start, generator=stream(0, "mala"))
    biased = Langevin(**settings)(target, start, generator=stream(0, "ula"))
    assert worst(exact, target.mean, target.covariance) < 5
    assert worst(biased, target.mean, target.covariance) > 5


TABLE = {
    2: {0.2: 0.999, 0.4: 0.992, 0.6: 0.973, 0.8: 0.936, 1.0: 0.876},
    64: {0.2: 0.994, 0.4: 0.949, 0.6: 0.830, 0.8: 0.610, 1.0: 0.320},
}


@pytest.mark.parametrize("dim", TABLE)
def test_acceptance_on_the_normal_is_that_of_the_table(dim) -> None:
    measured = {}
    for s, expected in TABLE[dim].items():
        generator = stream(0, "acceptance", dim, repr(s))
        u = torch.randn(20_000, dim, generator=generator)
        accept = Mala(steps=1, step_size=s).run(normal_density, u, generator=generator).accept
        measured[s] = accept.mean().item()
        # Independent chains: standard error std / sqrt(n); the table is known to 0.005.
        assert abs(measured[s] - expected) < 5 * accept.std().item() / 20_000**0.5 + 0.005
    # Wrong control: the table of the other dimension.
    assert abs(measured[0.6] - TABLE[66 - dim][0.6]) > 0.1


def test_taken_moves_are_as_many_as_acceptance_promises() -> None:
    u = torch.randn(20_000, 8, generator=stream(0, "u"))
    trace = Mala(steps=1, step_size=1.0).run(normal_density, u, generator=stream(0, "step"))
    moved = (trace.displacement > 0).float().mean().item()
    # Standard error of a share: at most 0.5 / sqrt(n).
    assert abs(moved - trace.accept.mean().item()) < 5 * 0.5 / 20_000**0.5
    assert 0.1 < moved < 0.95


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_samples_the_tempered_density(temperature) -> None:
    generator = stream(0, "temperature", repr(temperature))
    u = torch.randn(20_000, 1, generator=generator)
    kernel = Mala(steps=100, step_size=0.8, temperature=temperature)
    ends = kernel(normal_density, u, generator=generator)

    def off(variance: float) -> float:
        # The variance of n normal numbers has the relative standard error sqrt(2 / n).
        return abs(ends.var().item() / variance - 1) / math.sqrt(2 / len(ends))

    assert off(temperature) < 5
    assert off(1.0) > 5


def half_normal(u: Tensor) -> Tensor:
    """The standard normal cut to u > 0: mean sqrt(2/pi), variance 1 - 2/pi."""
    return torch.where(u > 0, -0.5 * u.square(), -torch.inf).sum(-1)


def test_is_exact_on_a_truncated_support_where_langevin_is_not() -> None:
    n, mean, variance = 20_000, math.sqrt(2 / math.pi), 1 - 2 / math.pi
    start = torch.rand(n, 1, generator=stream(0, "start")) + 0.1
    settings = {"steps": 150, "step_size": 0.5}

    def off(samples: Tensor) -> float:
        return abs(samples.mean().item() - mean) / math.sqrt(variance / n)

    exact = Mala(**settings).run(half_normal, start, generator=stream(0, "mala"))
    assert off(exact.state.u) < 5
    # Fourth central moment of the half normal: standard error of its variance.
    fourth = 3 - 4 / math.pi - 12 / math.pi**2
    error = math.sqrt((fourth - variance**2) / n)
    assert abs(exact.state.u.var().item() - variance) < 5 * error
    assert (exact.state.u > 0).all()
    frozen = Langevin(**settings, max_bad=1.0)(half_normal, start, generator=stream(0, "ula"))
    assert off(frozen) > 5


def test_rejects_and_counts_non_finite_proposals() -> None:
    u = torch.full((500, 1), 0.05)
    trace = Mala(steps=1, step_size=1.0).run(half_normal, u, generator=stream(0))
    outside = u + 0.5 * -u + torch.randn(500, 1, generator=stream(0)) <= 0
    kernel = Mala(steps=1, step_size=1.0)
    _, info = kernel.step(half_normal, kernel.init(half_normal, u), generator=stream(0))
    assert torch.equal(info.bad, outside.squeeze(-1))
    assert 100 < int(outside.sum()) < 400
    assert (info.accept[info.bad] == 0).all()
    assert torch.equal(trace.state.u[info.bad], u[info.bad])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_kind_of_non_finite_value_is_ever_accepted(value) -> None:
    def density(u: Tensor) -> Tensor:
        return torch.where(u > 0, -0.5 * u.square(), value).sum(-1)

    u = torch.full((200, 1), 0.05)
    assert (Mala(steps=20, step_size=1.0)(density, u, generator=stream(0)) > 0).all()


def test_a_start_outside_the_support_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 chains start at a non-finite"):
        Mala(steps=1, step_size=0.1)(half_normal, torch.tensor([[1.0], [-1.0]]))


def test_a_state_without_caches_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"make it by Mala\.init"):
        Mala(steps=1, step_size=0.1).step(normal_density, ChainState(u=torch.zeros(2, 1)))


def test_evaluates_the_target_once_per_step_and_once_at_the_start() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    Mala(steps=7, step_size=0.1)(density, torch.zeros(4, 2))
    assert len(calls) == 8


def test_caches_belong_to_the_position() -> None:
    kernel = Mala(steps=20, step_size=1.2)
    target = Sum({"a": normal_density, "b": (lambda u: u.sum(-1), 0.5)})
    state = kernel.run(target, torch.randn(50, 3), generator=stream(0)).state
    fresh = kernel.init(target, state.u)
    torch.testing.assert_close(state.log_density, fresh.log_density)
    torch.testing.assert_close(state.grad, fresh.grad)
    torch.testing.assert_close(state.extra["part/b"], fresh.extra["part/b"])


def test_parts_add_up_to_the_value_reported_beside_them() -> None:
    target = Sum({"a": normal_density, "b": (lambda u: u.sum(-1), 0.5)})
    trace = Mala(steps=20, step_size=1.2).run(target, torch.randn(50, 3), generator=stream(0))
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)


def test_samples_the_posterior_of_the_linear_gaussian_model() -> None:
    weight = torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.5, -1.0]])
    model = LinearGaussian(weight, noise=0.7)
    x = torch.tensor([1.0, -0.5, 2.0])

    class Standard:
        def log_density(self, u: Tensor) -> Tensor:
            return normal_density(u)

        def push(self, u: Tensor) -> Tensor:
            return u

    target = posterior(Standard(), lambda z: model.log_likelihood(x, z))
    start = torch.randn(20_000, 2, generator=stream(0, "start"))
    z = Mala(steps=80, step_size=0.6)(target, start, generator=stream(0, "mala"))
    exact = model.posterior(x)
    assert worst(z, exact.mean, exact.covariance) < 5
    # Wrong controls: the posterior of other data, and of another noise level.
    assert worst(z, model.posterior(1.1 * x).mean, exact.covariance) > 5
    wrong = LinearGaussian(weight, noise=0.8).posterior(x)
    assert worst(z, exact.mean, wrong.covariance) > 5


def test_a_tensor_step_size_keeps_the_target() -> None:
    target = Gaussian(torch.zeros(2), torch.diag(torch.tensor([0.01, 4.0])))
    start = target.sample(20_000, generator=stream(0, "start"))
    kernel = Mala(steps=20, step_size=torch.tensor([0.1, 2.0]))
    trace = kernel.run(target, start, generator=stream(0, "mala"))
    assert worst(trace.state.u, target.mean, target.covariance) < 5
    # Steps of one scale each: acceptance of s = 1 on the unit normal in the plane.
    assert abs(trace.accept.mean().item() - TABLE[2][1.0]) < 0.01


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        Mala(steps=1, step_size=0.1, temperature=0.0)
