"""The targets' normalisation and moments, by quadrature and sampling."""

import math

import pytest
import torch

from lv_core import stream
from lv_core.targets import Banana, DoubleWell, Funnel, Gaussian, LinearGaussian, Mixture

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
PLANE = {
    "gaussian": (Gaussian(torch.tensor([0.5, -1.0]).double(), COVARIANCE), 12.0),
    "ring": (Mixture.ring(5, radius=3.0, scale=0.5).double(), 8.0),
    "banana": (Banana(scale=1.0, bend=0.5).double(), 40.0),
    "well": (DoubleWell(2, barrier=3.0).double(), 4.0),
    "funnel": (Funnel(2, scale=1.0).double(), 40.0),
    "mixture": (
        Mixture(
            torch.tensor([[-2.0, 1.0], [1.0, 0.0], [3.0, 3.0]]),
            scale=0.7,
            weights=torch.tensor([1.0, 2.0, 5.0]),
        ).double(),
        10.0,
    ),
}


def quadrature(target, half: float):
    """Returns total, mean and covariance on a fine grid (its error is below 1e-6)."""
    axis = torch.linspace(-half, half, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = target(grid).exp() * (axis[1] - axis[0]) ** 2
    mean = (weight[:, None] * grid).sum(0)
    centred = grid - mean
    return weight.sum(), mean, (weight[:, None] * centred).T @ centred


@pytest.mark.parametrize(("target", "half"), PLANE.values(), ids=PLANE)
def test_integrates_to_one(target, half) -> None:
    total, _, _ = quadrature(target, half)
    assert total.item() == pytest.approx(1.0, abs=1e-4)
    assert quadrature(lambda u: target(u) + 0.01, half)[0].item() != pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("target", "half"), PLANE.values(), ids=PLANE)
def test_has_its_mean_and_covariance(target, half) -> None:
    _, mean, covariance = quadrature(target, half)
    torch.testing.assert_close(mean, target.mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(covariance, target.covariance, atol=2e-3, rtol=0)
    flatter = quadrature(lambda u: target(u) * 0.9, half)
    assert (flatter[2] / flatter[0] - target.covariance).abs().max() > 2e-3


@pytest.mark.parametrize("target", [target for target, _ in PLANE.values()], ids=PLANE)
def test_draws_have_the_quantiles_of_the_density(target) -> None:
    n = 20_000
    draws = target.sample(n, generator=stream(0, "exact"))
    assert draws.shape == (n, 2)
    assert draws.dtype == torch.float64
    assert torch.equal(draws, target.sample(n, generator=stream(0, "exact")))
    below = marginals(target)
    assert excess(below, draws) < 5
    assert excess(below, 1.05 * draws) > 5
    assert excess(below, draws + 0.1) > 5


AXIS = torch.linspace(-40, 40, 1601, dtype=torch.float64)


def marginals(target) -> list[torch.Tensor]:
    """Returns the distribution functions of both coordinates on the grid."""
    density = target(torch.cartesian_prod(AXIS, AXIS)).exp().reshape(len(AXIS), -1)
    lines = [density.sum(1 - i) for i in range(2)]
    return [line.cumsum(0) / line.sum() for line in lines]


def excess(below, draws) -> float:
    """Returns the largest deviation of the draws' distribution functions, in standard errors."""
    scores = []
    for i in range(2):
        for level in (0.05, 0.25, 0.5, 0.75, 0.95):
            k = torch.searchsorted(below[i], level)
            # The grid's cells end half a spacing (0.025) above their points.
            share = (draws[:, i] <= AXIS[k] + 0.025).double().mean()
            p = below[i][k]
            scores.append(((share - p) / (p * (1 - p) / len(draws)).sqrt()).abs().item())
    return max(scores)


@pytest.mark.parametrize("barrier", [0.25, 1.0, 30.0])
def test_double_well_is_normalized_at_every_barrier(barrier) -> None:
    target = DoubleWell(barrier=barrier).double()
    axis = torch.linspace(-8, 8, 40_001, dtype=torch.float64)[:, None]
    weight = target(axis).exp() * 16 / 40_000
    energy = -barrier * (axis.square() - 1).square()
    integral = (energy.exp() * 16 / 40_000).sum().log()
    assert weight.sum().item() == pytest.approx(1.0, abs=1e-9)
    assert target.log_normalizer == pytest.approx(integral.item(), abs=1e-9)
    variance = (weight * axis[:, 0].square()).sum()
    assert target.covariance.item() == pytest.approx(variance.item(), abs=1e-9)
    # Laplace's approximation at both modes is what one would get wrong.
    laplace = math.log(2 * math.sqrt(2 * math.pi / (8 * barrier)))
    assert target.log_normalizer != pytest.approx(laplace, abs=1e-3)


def test_double_well_coordinates_are_independent() -> None:
    one, three = DoubleWell(1).double(), DoubleWell(3).double()
    u = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(three(u), one(u.unsqueeze(-1)).sum(-1))
    assert three.log_normalizer == pytest.approx(3 * one.log_normalizer)


def test_funnel_is_the_product_of_its_conditionals() -> None:
    u = torch.randn(2, 4, 10, dtype=torch.float64)
    v, others = u[..., :1], u[..., 1:]
    normal = torch.distributions.Normal
    expected = normal(0.0, 3.0).log_prob(v).sum(-1)
    expected = expected + normal(torch.zeros_like(others), (v / 2).exp()).log_prob(others).sum(-1)
    torch.testing.assert_close(Funnel()(u), expected)
    # exp(v) is the variance, not the standard deviation.
    wrong = normal(torch.zeros_like(others), v.exp()).log_prob(others).sum(-1)
    assert (Funnel()(u) - normal(0.0, 3.0).log_prob(v).sum(-1) - wrong).abs().min() > 1e-3


def test_mixture_weights_are_scaled_to_one_and_shift_the_mean() -> None:
    target = PLANE["mixture"][0]
    torch.testing.assert_close(target.weights, torch.tensor([0.125, 0.25, 0.625]).double())
    equal = Mixture(target.centers, scale=0.7)
    assert (equal.mean - target.mean).abs().max() > 0.5
    assert (equal.covariance - target.covariance).abs().max() > 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture(torch.zeros(2, 1), scale=-1.0), "scale must be positive"),
        (lambda: Mixture(torch.zeros(2, 1), scale=1.0, weights=torch.ones(3)), "2 positive"),
        (
            lambda: Mixture(torch.zeros(2, 1), scale=1.0, weights=torch.tensor([1.0, 0.0])),
            "2 positive numbers",
        ),
        (lambda: Banana(scale=0.0), "scale must be positive"),
        (lambda: DoubleWell(0), "dim must be at least 1"),
        (lambda: DoubleWell(barrier=0.0), "barrier must be positive"),
        (lambda: Funnel(1), "dim must be at least 2"),
        (lambda: Funnel(scale=-1.0), "scale must be positive"),
    ],
)
def test_refuses_settings_without_a_density(make, message, wrong_types) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_gaussian_agrees_with_torch_for_all_batch_shapes() -> None:
    target = PLANE["gaussian"][0]
    reference = torch.distributions.MultivariateNormal(target.mean, COVARIANCE)
    for batch in ((), (5,), (2, 3, 4)):
        u = torch.randn(*batch, 2, dtype=torch.float64)
        torch.testing.assert_close(target(u), reference.log_prob(u))


def test_gaussian_samples_have_its_moments() -> None:
    n = 50_000
    target = PLANE["gaussian"][0]
    draws = target.sample(n, generator=stream(0, "gaussian"))
    variance = COVARIANCE.diagonal()
    # Standard errors: mean sqrt(C_ii / n), covariance sqrt((C_ii C_jj + C_ij^2) / n).
    assert ((draws.mean(0) - target.mean).abs() / (variance / n).sqrt()).max() < 5
    error = ((variance[:, None] * variance + COVARIANCE.square()) / n).sqrt()
    assert ((draws.T.cov() - COVARIANCE).abs() / error).max() < 5
    assert ((draws.T.cov() - COVARIANCE.inverse()).abs() / error).max() > 5
    assert torch.equal(draws, target.sample(n, generator=stream(0, "gaussian")))


def test_ring_is_centred_with_variance_of_circle_and_component() -> None:
    _, mean, covariance = quadrature(PLANE["ring"][0], 8.0)
    expected = (3.0**2 / 2 + 0.5**2) * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariance, expected, atol=1e-4, rtol=0)


def test_a_mixture_of_one_is_the_normal() -> None:
    center = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    u = torch.randn(4, 3, dtype=torch.float64)
    normal = Gaussian(center[0], 0.49 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(Mixture(center, scale=0.7)(u), normal(u))


@pytest.mark.parametrize(("scale", "bend"), [(1.0, 0.5), (0.5, 2.0)])
def test_banana_moments_are_the_documented_ones(scale, bend) -> None:
    _, mean, covariance = quadrature(Banana(scale=scale, bend=bend), 30.0)
    expected = torch.diag(torch.tensor([scale**2, 1 + 2 * bend**2 * scale**4])).double()
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(covariance, expected, atol=2e-3, rtol=0)
    wrong = 1 + bend**2 * scale**4
    assert covariance[1, 1].item() != pytest.approx(wrong, abs=2e-3)


MODEL = LinearGaussian(torch.tensor([[1.0], [0.5], [-2.0]]).double(), noise=0.7)
X = torch.tensor([1.0, -0.5, 2.0]).double()


def test_likelihood_is_a_product_of_normals() -> None:
    z = torch.randn(2, 4, 1, dtype=torch.float64)
    reference = torch.distributions.Normal(z @ MODEL.weight.T, 0.7).log_prob(X).sum(-1)
    torch.testing.assert_close(MODEL.log_likelihood(X, z), reference)


def test_evidence_and_posterior_are_those_of_quadrature() -> None:
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    prior = -0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi)
    joint = (prior + MODEL.log_likelihood(X, z)).exp() * (24 / 20_000)
    evidence = joint.sum()
    assert MODEL.log_evidence(X).item() == pytest.approx(evidence.log().item(), abs=1e-9)
    mean = (joint * z[:, 0]).sum() / evidence
    variance = (joint * (z[:, 0] - mean).square()).sum() / evidence
    exact = MODEL.posterior(X)
    assert exact.mean.item() == pytest.approx(mean.item(), abs=1e-9)
    assert exact.covariance.item() == pytest.approx(variance.item(), abs=1e-9)


def test_bayes_rule_holds_at_every_latent() -> None:
    weight = torch.randn(4, 3, dtype=torch.float64)
    model, x = LinearGaussian(weight, noise=0.4), torch.randn(4, dtype=torch.float64)
    z = torch.randn(7, 3, dtype=torch.float64)
    prior = Gaussian(torch.zeros(3).double(), torch.eye(3).double())(z)
    joint = prior + model.log_likelihood(x, z)
    torch.testing.assert_close(joint - model.posterior(x)(z), model.log_evidence(x).expand(7))
