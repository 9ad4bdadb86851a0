"""The energy-based prior where its distribution is known: linear and quadratic tilts."""

import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import GradientStep, Langevin, stream, value_and_grad
from lv_core.nn import mlp
from lv_priors import EnergyPrior, contrastive_loss

A = torch.tensor([1.0, -0.5, 2.0])
B = torch.tensor([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]])
FINE = Langevin(steps=150, step_size=0.2)


class Linear(nn.Module):
    """The tilt a.z: the prior is N(a, I)."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a, self.calls = nn.Parameter(a.clone()), 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return z @ self.a


class Quadratic(nn.Module):
    """The tilt a.z - z'Bz/2: the prior is N((I+B)^-1 a, (I+B)^-1)."""

    def forward(self, z: Tensor) -> Tensor:
        return z @ A - 0.5 * (z @ B * z).sum(-1)


def off_mean(draws: Tensor, mean: Tensor, variance: Tensor | float) -> float:
    # Standard error of the mean of n independent chains: sqrt(variance / n).
    error = (torch.as_tensor(variance) / len(draws)).sqrt()
    return ((draws.mean(0) - mean).abs() / error).max().item()


def test_samples_of_a_linear_tilt_have_mean_a() -> None:
    prior = EnergyPrior(Linear(A), 3, sampler=FINE)
    draws = prior.sample(20_000, generator=stream(0, "linear"))
    # Steps of 0.2: variance 1/(1 - s^2/4) = 1.0101, mean within 0.98^150 = 5 % of a from 0.
    mean = A * (1 - 0.98**150)
    assert off_mean(draws, mean, 1.0101) < 5
    assert off_mean(draws, -mean, 1.0101) > 5  # wrong control: the tilt taken for an energy
    error = 1.0101 * math.sqrt(2 / 20_000)
    assert (draws.var(0) - 1.0101).abs().max() < 5 * error


def test_a_negated_tilt_has_mean_minus_a() -> None:
    prior = EnergyPrior(Linear(-A), 3, sampler=FINE)
    draws = prior.sample(20_000, generator=stream(0, "linear"))
    assert off_mean(draws, -A * (1 - 0.98**150), 1.0101) < 5
    assert off_mean(draws, A * (1 - 0.98**150), 1.0101) > 5


def test_samples_of_a_quadratic_tilt_have_the_known_moments() -> None:
    prior, n = EnergyPrior(Quadratic(), 3, sampler=FINE), 20_000
    draws = prior.sample(n, generator=stream(0, "quadratic"))
    precision = torch.eye(3) + B
    # Langevin dynamics with h = s^2/2 has the covariance (P - h P^2 / 2)^-1.
    covariance = (precision - 0.01 * precision @ precision).inverse()
    mean = precision.inverse() @ A
    variance = covariance.diagonal()
    error = ((variance[:, None] * variance + covariance.square()) / n).sqrt()

    def off(expected: Tensor) -> float:
        return ((draws.T.cov() - expected).abs() / error).max().item()

    assert off_mean(draws, mean, variance) < 5
    assert off(covariance) < 5
    assert off(torch.eye(3)) > 5  # wrong control: the reference alone
    assert off((torch.eye(3) - 0.3 * B).inverse()) > 5  # wrong control: the sign of the tilt


def test_density_is_tilt_plus_normal_and_energy_its_negative() -> None:
    prior = EnergyPrior(Linear(A), 3, scale=0.5)
    z = torch.randn(5, 3)
    expected = z @ A - 2 * z.square().sum(-1)
    torch.testing.assert_close(prior.log_density(z), expected)
    torch.testing.assert_close(prior.energy(z), -expected)
    torch.testing.assert_close(value_and_grad(prior.log_density, z).grad, A - 4 * z)


def test_scale_moves_the_mean_and_not_the_starts() -> None:
    prior = EnergyPrior(Linear(A), 3, scale=0.5, sampler=GradientStep(steps=200, step_size=0.5))
    # Ascent ends at the mode scale^2 a.
    torch.testing.assert_close(prior.sample(4), (0.25 * A).expand(4, 3))
    starts = prior.init(20_000, generator=stream(0))
    assert abs(starts.var().item() - 1) < 5 * math.sqrt(2 / 60_000)
    narrow = EnergyPrior(Linear(A), 3, start_scale=0.1).init(20_000, generator=stream(0))
    torch.testing.assert_close(narrow, 0.1 * starts)


def test_default_sampler_is_that_of_the_paper() -> None:
    assert EnergyPrior(Linear(A), 3).sampler == Langevin(steps=60, step_size=0.4)


def test_contrastive_gradient_is_the_difference_of_means() -> None:
    prior = EnergyPrior(Linear(A), 3)
    z_posterior, z_prior = torch.randn(6, 3) + 1, torch.randn(4, 3)
    loss, logs = prior.loss(z_posterior, z_prior)
    loss.backward()
    ascent = -prior.network.a.grad
    expected = z_posterior.mean(0) - z_prior.mean(0)
    torch.testing.assert_close(ascent, expected)
    with pytest.raises(AssertionError):  # wrong control: the sign
        torch.testing.assert_close(-ascent, expected)
    torch.testing.assert_close(logs["gap"], expected @ A)
    torch.testing.assert_close(logs["tilt_posterior"], (z_posterior @ A).mean())
    torch.testing.assert_close(logs["tilt_prior"], (z_prior @ A).mean())
    torch.testing.assert_close(loss.detach(), -logs["gap"])


def test_both_sets_go_through_the_network_in_one_pass() -> None:
    tilt = Linear(A)
    EnergyPrior(tilt, 3).loss(torch.randn(6, 3), torch.randn(4, 3))
    assert tilt.calls == 1


def test_sampling_costs_one_pass_per_step() -> None:
    tilt = Linear(A)
    EnergyPrior(tilt, 3, sampler=Langevin(steps=7, step_size=0.1)).sample(5)
    assert tilt.calls == 7


def test_contrastive_gradient_at_the_truth_is_zero_within_its_error() -> None:
    prior, n = EnergyPrior(Linear(A), 3), 20_000
    exact = A + torch.randn(2, n, 3, generator=stream(0, "exact"))
    prior.loss(exact[0], exact[1])[0].backward()
    # Difference of two means of n unit normals: standard error sqrt(2 / n).
    assert prior.network.a.grad.abs().max() < 5 * math.sqrt(2 / n)
    prior.zero_grad()
    prior.loss(exact[0], exact[1] - A)[0].backward()
    assert prior.network.a.grad.abs().max() > 5 * math.sqrt(2 / n)


def learn(sign: float) -> Tensor:
    """Returns the tilt learned from data N(a, I) in 60 updates; sign -1 is the wrong control."""
    generator = stream(0, "learn")
    prior = EnergyPrior(Linear(torch.zeros(3)), 3, sampler=Langevin(steps=40, step_size=0.5))
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.3)
    for _ in range(60):
        data = A + torch.randn(1000, 3, generator=generator)
        loss, _ = prior.loss(data, generator=generator)
        optimizer.zero_grad()
        (sign * loss).backward()
        optimizer.step()
    return prior.network.a.detach()


def test_learning_recovers_the_tilt_that_made_the_data() -> None:
    # The fixed point is E_data z = E_prior z = a (1 - 0.875^40), i.e. within 0.5 % of a. The last
    # updates average noise of sqrt(2 / 1000) over about 1/0.3 updates: error below
    # 0.045 * sqrt(0.3 / 1.7) = 0.019.
    learned = learn(1.0)
    assert (learned - A).abs().max() < 5 * 0.019 + 0.01
    assert (learn(-1.0) - A).abs().max() > 1


def test_energy_l2_adds_the_mean_squared_tilt_of_both_sets() -> None:
    z_posterior, z_prior = torch.randn(6, 3), torch.randn(4, 3)
    tilt = Linear(A)
    plain = contrastive_loss(tilt, z_posterior, z_prior).loss
    held = contrastive_loss(tilt, z_posterior, z_prior, energy_l2=0.1).loss
    squares = (torch.cat((z_posterior, z_prior)) @ A).square().mean()
    torch.testing.assert_close(held - plain, 0.1 * squares)
    prior = EnergyPrior(tilt, 3, energy_l2=0.1)
    torch.testing.assert_close(prior.loss(z_posterior, z_prior).loss, held)


def test_without_prior_samples_the_loss_draws_as_many_as_it_was_given() -> None:
    prior = EnergyPrior(Linear(A), 3)
    z = torch.randn(6, 3)
    drawn = prior.sample(6, generator=stream(0))
    one, two = prior.loss(z, generator=stream(0)), prior.loss(z, drawn)
    assert torch.equal(one.loss, two.loss)


def test_negative_samples_carry_no_gradient() -> None:
    prior = EnergyPrior(mlp((3, 8, 1)), 3, sampler=Langevin(steps=2, step_size=0.3))
    loss, _ = prior.loss(torch.randn(6, 3))
    loss.backward()
    assert not prior.sample(5).requires_grad


def test_sets_of_other_event_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="z_posterior and z_prior must have one event shape"):
        contrastive_loss(Linear(A), torch.zeros(4, 3), torch.zeros(4, 2))


@pytest.mark.parametrize("width", [2, 3])
def test_a_tilt_with_more_than_one_value_is_refused(width) -> None:
    message = rf"one value per latent, shape \(5,\) or \(5, 1\), got \(5, {width}\)"
    with pytest.raises(ValueError, match=message):
        EnergyPrior(nn.Linear(3, width), 3).tilt(torch.zeros(5, 3))


def test_a_tilt_may_end_in_an_axis_of_length_one_or_not() -> None:
    z = torch.randn(2, 5, 3)
    column = nn.Linear(3, 1, bias=False)
    flat = Linear(column.weight[0].detach())
    torch.testing.assert_close(EnergyPrior(column, 3).tilt(z), EnergyPrior(flat, 3).tilt(z))
    assert EnergyPrior(column, 3).tilt(z[0, 0]).shape == ()


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="energy_l2 must not be negative"):
        EnergyPrior(Linear(A), 3, energy_l2=-0.1)


# The gradient of the tilt in closed form.


def test_the_closed_form_gives_the_same_samples() -> None:
    network = mlp((5, 16, 16, 1)).double()
    automatic = EnergyPrior(network, 5, scale=0.5).double()
    written = EnergyPrior(network, 5, scale=0.5, closed_form=True).double()
    one, two = (prior.sample(64, generator=stream(0)) for prior in (automatic, written))
    torch.testing.assert_close(one, two)
    # Wrong control: another reference.
    wrong = EnergyPrior(network, 5, scale=0.6, closed_form=True).double()
    assert not torch.allclose(one, wrong.sample(64, generator=stream(0)))


def test_the_closed_form_follows_the_learned_parameters() -> None:
    prior = EnergyPrior(mlp((3, 8, 1)), 3, closed_form=True)
    before = prior.sample(16, generator=stream(0))
    prior.loss(torch.randn(16, 3) + 2).loss.backward()
    torch.optim.SGD(prior.parameters(), lr=1.0).step()
    after = prior.sample(16, generator=stream(0))
    plain = EnergyPrior(prior.network, 3).sample(16, generator=stream(0))
    torch.testing.assert_close(after, plain)
    assert not torch.allclose(after, before)


def test_a_closed_form_needs_a_plain_perceptron() -> None:
    with pytest.raises(TypeError, match=r"must be an nn\.Sequential"):
        EnergyPrior(nn.Linear(3, 1), 3, closed_form=True)
    with pytest.raises(ValueError, match="closed_form needs an unconditional tilt of one vector"):
        EnergyPrior(mlp((3, 8, 1)), (2, 3), closed_form=True)
