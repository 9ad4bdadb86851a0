"""Priors as distributions of torch."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from lv_core import LogEstimate, Source
from lv_core.interop import DensityDistribution
from lv_priors.base import Prior
from lv_priors.energy import BoundEnergyPrior, EnergyPrior
from lv_priors.flow import FlowPrior
from lv_priors.gaussian import GaussianPrior
from lv_priors.ratio.prior import RatioPrior

__all__ = ["prior_distribution"]


def prior_distribution(
    prior: Prior,
    *,
    log_normalizer: float | Tensor | LogEstimate | None = None,
    validate_args: bool | None = None,
) -> Distribution:
    """Returns the distribution of a prior's latents z, for code that speaks torch.distributions.

    A `GaussianPrior` becomes an `Independent` normal, so that `kl_divergence` and `entropy` have
    their closed forms; it draws from torch's global generator as all of torch's own do. Every
    other prior becomes a `DensityDistribution`, whose `sample` also takes a generator and draws
    as `prior.sample` does. The parameters stay those of the prior, and `log_prob` is
    differentiable in them.

    A prior bound to n > 1 conditions has the batch shape (n,), one distribution each.

    Arguments:
        prior: The prior, bound by `given` where it is conditional.
        log_normalizer: Of the prior where `prior.log_normalizer()` does not know it, such as
            `ais(base, prior.log_density).log_z`; one number, or one for each of n conditions.
        validate_args: As in torch.

    Returns:
        A distribution over `prior.event_shape`. Its `log_prob` raises `NotImplementedError`, with
        what to do, where the normaliser is unknown or the latent is pushed through a network
        without inverse.

    Raises:
        ValueError: If `log_normalizer` has another shape than the batch, or is given for a
            Gaussian prior, which is normalised.

    Example:
        >>> p = prior_distribution(GaussianPrior(8))
        >>> torch.distributions.kl_divergence(q.to_torch(), p)
        >>> log_z = ais(base, energy_prior.log_density).log_z
        >>> prior_distribution(energy_prior, log_normalizer=log_z).log_prob(z)
    """
    if isinstance(prior, GaussianPrior):
        if log_normalizer is not None:
            raise ValueError(
                f"log_normalizer must be None for a Gaussian prior, got {log_normalizer}"
            )
        scale = torch.full_like(prior.center, prior.scale)
        base = Normal(prior.center, scale, validate_args=validate_args)
        return Independent(base, len(prior.event_shape), validate_args=validate_args)
    if log_normalizer is None:
        log_normalizer = _known_normalizer(prior)
    conditions = _conditions(prior)
    many = conditions is not None and len(conditions) > 1
    return DensityDistribution(
        _Latent(prior),
        _Draws(prior, conditions if many else None),
        event_shape=prior.event_shape,
        batch_shape=conditions.shape[:1] if conditions is not None and many else (),
        log_normalizer=log_normalizer,
        validate_args=validate_args,
    )


class _Latent:
    """The log density of a prior's latent z, where the prior can tell it."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def __call__(self, z: Tensor) -> Tensor:
        own = getattr(self.prior, "latent_log_density", None)
        if own is not None:
            value: Tensor = own(z)
            return value
        if type(self.prior).push is not Prior.push:
            raise NotImplementedError(
                f"{type(self.prior).__name__} pushes u to the latent and has no method "
                "latent_log_density: give it one, or take log_density(u) of the variable u"
            )
        return self.prior.log_density(z)


class _Draws:
    """Draws latents of a prior, for each of many conditions if there are any."""

    def __init__(self, prior: Prior, conditions: Tensor | None) -> None:
        self.prior, self.conditions = prior, conditions

    def __call__(self, n: int, /, *, generator: Source = None) -> Tensor:
        if self.conditions is None:
            return self.prior.sample(n, generator=generator)
        repeated = self.conditions.repeat((n, *(1,) * (self.conditions.ndim - 1)))
        drawn = _bound(self.prior, repeated).sample(len(repeated), generator=generator)
        return drawn.reshape(n, len(self.conditions), *self.prior.event_shape)


def _conditions(prior: Prior) -> Tensor | None:
    if isinstance(prior, BoundEnergyPrior | FlowPrior):
        return prior.condition
    return prior.bound if isinstance(prior, RatioPrior) else None


def _bound(prior: Prior, condition: Tensor) -> Prior:
    """Returns a bound prior with other conditions."""
    if isinstance(prior, BoundEnergyPrior):
        owner = prior.network.prior
        assert isinstance(owner, EnergyPrior)
        return owner.given(condition)
    assert isinstance(prior, FlowPrior | RatioPrior)
    return prior.given(condition)


def _known_normalizer(prior: Prior) -> float | None:
    try:
        return prior.log_normalizer()
    except NotImplementedError:
        return None
