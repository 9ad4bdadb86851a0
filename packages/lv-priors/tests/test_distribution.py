"""Priors as distributions of torch."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from lv_core import DiagonalGaussian, Mala, ais, stream
from lv_core.interop import DensityDistribution
from lv_core.nn import mlp
from lv_core.targets import Gaussian
from lv_priors import (
    EnergyPrior,
    FlowPrior,
    GaussianPrior,
    LayeredPrior,
    Level,
    Prior,
    RatioPrior,
    SymbolEnergyPrior,
    TransportPrior,
)
from lv_priors.distribution import prior_distribution

SLOPE = torch.tensor([0.5, -1.0, 0.25])


class Linear(nn.Module):
    """The tilt a'z, which shifts the normal by scale^2 a."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(SLOPE.clone())

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.slope


class Bilinear(nn.Module):
    """The tilt c'z."""

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return (z * condition).sum(-1)


def energy_prior(**settings) -> EnergyPrior:
    return EnergyPrior(Linear(), 3, scale=0.5, sampler=Mala(steps=60, step_size=0.5), **settings)


SHIFTED = Gaussian(0.25 * SLOPE, 0.25 * torch.eye(3))
# The integral of exp(a'z - |z|^2 / (2 s^2)): (2 pi s^2)^(3/2) exp(s^2 |a|^2 / 2).
LOG_Z = 1.5 * math.log(2 * math.pi * 0.25) + 0.125 * SLOPE.square().sum().item()


def test_gaussian_prior_has_the_closed_forms_of_torch() -> None:
    prior = GaussianPrior((2, 3), scale=0.7, center=torch.randn(2, 3))
    p, z = prior_distribution(prior), torch.randn(5, 2, 3)
    assert (p.event_shape, p.batch_shape) == ((2, 3), ())
    torch.testing.assert_close(p.log_prob(z), prior.log_density(z))
    q = DiagonalGaussian(torch.randn(4, 2, 3), torch.randn(4, 2, 3), event_ndim=2)
    exact = q.kl_to(prior.center, math.log(0.7))
    torch.testing.assert_close(kl_divergence(q.to_torch(), p), exact)
    assert (exact - q.kl()).abs().min() > 0.1  # wrong control: against N(0, I)
    with pytest.raises(ValueError, match="must be None for a Gaussian prior, got 1"):
        prior_distribution(prior, log_normalizer=1.0)


def test_energy_prior_needs_a_normaliser_and_is_exact_with_it() -> None:
    prior, z = energy_prior(), torch.randn(6, 4, 3)
    unknown = prior_distribution(prior)
    with pytest.raises(NotImplementedError, match="give log_normalizer="):
        unknown.log_prob(z)
    torch.testing.assert_close(unknown.unnormalized_log_prob(z), prior.log_density(z))
    p = prior_distribution(prior, log_normalizer=LOG_Z)
    torch.testing.assert_close(p.log_prob(z), SHIFTED(z), rtol=1e-5, atol=1e-5)
    base = Gaussian(torch.zeros(3), 0.25 * torch.eye(3))
    log_z = ais(base, prior.log_density, betas=40, chains=500, generator=stream(0, "ais")).log_z
    estimated = prior_distribution(prior, log_normalizer=log_z)
    gap = (estimated.log_prob(z) - SHIFTED(z)).abs().max()
    assert gap < 5 * log_z.standard_error + 1e-4
    assert log_z.standard_error < 0.05


def test_samples_are_those_of_the_prior() -> None:
    p = prior_distribution(energy_prior())
    assert isinstance(p, DensityDistribution)
    z = p.sample((40, 50), generator=stream(0, "prior")).reshape(-1, 3)
    same = energy_prior().sample(2000, generator=stream(0, "prior"))
    assert torch.equal(z, same)
    assert ((z.mean(0) - 0.25 * SLOPE).abs() < 5 * 0.5 / 2000**0.5).all()


def test_log_prob_teaches_the_prior_and_sampling_does_not() -> None:
    prior = energy_prior()
    p = prior_distribution(prior, log_normalizer=LOG_Z)
    z = p.sample((5,))
    assert prior.network.slope.grad is None
    p.log_prob(z).sum().backward()
    torch.testing.assert_close(prior.network.slope.grad, z.sum(0))


def test_conditions_become_the_batch() -> None:
    c = torch.tensor([[1.0, 0.0], [0.0, -2.0], [3.0, 3.0]])
    kernel = Mala(steps=80, step_size=1.0)
    prior = EnergyPrior(Bilinear(), 2, conditional=True, sampler=kernel).given(c)
    # p(z | c) = N(c, I), and the integral is 2 pi exp(|c|^2 / 2).
    log_z = math.log(2 * math.pi) + 0.5 * c.square().sum(-1)
    p = prior_distribution(prior, log_normalizer=log_z)
    assert (p.batch_shape, p.event_shape) == ((3,), (2,))
    z = p.sample((1000,), generator=stream(0, "given"))
    assert z.shape == (1000, 3, 2)
    assert ((z.mean(0) - c).abs() < 5 / 1000**0.5).all()
    assert ((z.mean(0) - c.flip(0)).abs() > 5 / 1000**0.5).any()  # another's condition
    exact = Independent(Normal(c, 1.0), 1)
    torch.testing.assert_close(p.log_prob(z), exact.log_prob(z), rtol=1e-4, atol=1e-4)
    joint = Independent(p, 1)
    torch.testing.assert_close(joint.log_prob(z), exact.log_prob(z).sum(-1), rtol=1e-4, atol=1e-3)
    one = prior_distribution(EnergyPrior(Bilinear(), 2, conditional=True).given(c[:1]))
    assert one.batch_shape == ()
    assert one.sample((4,)).shape == (4, 2)


def test_symbols_become_the_batch() -> None:
    prior = SymbolEnergyPrior(mlp((2, 8, 4)), 2, symbols=4, sampler=Mala(steps=3, step_size=0.5))
    p = prior_distribution(prior.given(torch.tensor([3, 0])))
    assert p.sample((5,)).shape == (5, 2, 2)
    z = torch.randn(5, 2, 2)
    value = p.unnormalized_log_prob(z)
    exact = prior.logits(z)[:, [0, 1], [3, 0]] - 0.5 * z.square().sum(-1)
    torch.testing.assert_close(value, exact)


def test_ratio_prior_is_normalised_by_its_own_word() -> None:
    prior = RatioPrior(2, stages=2, condition=1)
    bound = prior.given(torch.randn(3, 1))
    p, z = prior_distribution(bound), torch.randn(5, 3, 2)
    torch.testing.assert_close(p.log_prob(z), bound.log_density(z))
    assert p.sample((2,)).shape == (2, 3, 2)
    plain = prior_distribution(RatioPrior(2, stages=2))
    assert plain.sample((4,)).shape == (4, 2)


class Affine(nn.Module):
    """A flow over (context) that is a normal with a known mean."""

    def forward(self, context: Tensor) -> MultivariateNormal:
        return MultivariateNormal(context, torch.eye(2))


def test_flow_prior_keeps_its_conditions() -> None:
    pytest.importorskip("zuko")
    prior = FlowPrior.maf(2, context=1, transforms=1, hidden=(8,)).given(torch.randn(3, 1))
    p = prior_distribution(prior)
    z = p.sample((7,), generator=stream(0, "flow"))
    assert z.shape == (7, 3, 2)
    torch.testing.assert_close(p.log_prob(z), prior.log_density(z))
    exact = FlowPrior(Affine(), 2, context=2).given(torch.tensor([[5.0, -5.0]]))
    value = prior_distribution(exact).log_prob(torch.tensor([5.0, -5.0]))
    assert value.item() == pytest.approx(-math.log(2 * math.pi))


def test_layered_prior_has_the_density_of_its_latent_in_both_spaces() -> None:
    torch.manual_seed(0)
    levels = {"a": Level(1), "b": Level(2, mlp((1, 4, 2)), scale=0.3)}
    prior = LayeredPrior(levels)
    p, z = prior_distribution(prior), torch.randn(6, 3)
    above = Normal(0.0, 1.0).log_prob(z[:, 0])
    below = Normal(levels["b"].network(z[:, :1]), 0.3).log_prob(z[:, 1:]).sum(-1)
    torch.testing.assert_close(p.log_prob(z), above + below)
    assert (prior.log_density(z) - above - below).abs().max() > 0.1  # that of the noise
    latent = prior_distribution(LayeredPrior(levels, space="latent"))
    torch.testing.assert_close(latent.log_prob(z), above + below)


def test_transported_latents_can_be_drawn_and_have_no_density() -> None:
    p = prior_distribution(TransportPrior(mlp((3, 3)), 3))
    assert p.sample((5,)).shape == (5, 3)
    with pytest.raises(NotImplementedError, match="needs the inverse of the network"):
        p.log_prob(torch.zeros(3))


def test_latents_pushed_by_an_unknown_map_have_no_density() -> None:
    class Doubled(Prior):
        def log_density(self, u):
            return -0.5 * u.square().sum(-1)

        def push(self, u):
            return 2 * u

        def sample(self, n, *, generator=None):
            return self.push(self.init(n, generator=generator))

    p = prior_distribution(Doubled(2), log_normalizer=0.0)
    assert p.sample((5,)).shape == (5, 2)
    with pytest.raises(NotImplementedError, match=r"Doubled pushes u .* latent_log_density"):
        p.log_prob(torch.zeros(2))
