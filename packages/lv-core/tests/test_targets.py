"""The targets' normalisation and moments, by quadrature and sampling."""

import math

import pytest
import torch

from lv_core import stream
from lv_core.targets import Banana, Gaussian, LinearGaussian, Mixture

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
PLANE = {
    "gaussian": (Gaussian(torch.tensor([0.5, -1.0]).double(), COVARIANCE), 12.0),
    "ring": (Mixture.ring(5, radius=3.0, scale=0.5).double(), 8.0),
    "banana": (Banana(scale=1.0, bend=0.5), 40.0),
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


def test_gaussian_has_its_mean_and_covariance() -> None:
    target = PLANE["gaussian"][0]
    _, mean, covariance = quadrature(target, 12.0)
    torch.testing.assert_close(mean, target.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance, target.covariance, atol=1e-4, rtol=0)


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
