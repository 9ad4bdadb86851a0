"""The evidence lower bound as an objective: differentiable, and in its two parts."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.evidence.joint import Joint, over_samples
from lv_core.random import Source
from lv_core.variational.gaussian import DiagonalGaussian, free_nats, sample_noise

__all__ = ["ElboTerms", "divergence", "elbo_terms"]


class ElboTerms(NamedTuple):
    """An estimate of the evidence lower bound and its parts, each `(*batch,)` in nats."""

    objective: Tensor
    """`-nll - kl_weight max(kl, nats)`; larger is better"""
    nll: Tensor
    """negative log-likelihood of the data under draws of q"""
    kl: Tensor
    """divergence of q from the prior, without weight or allowance"""


def elbo_terms(
    joint: Joint,
    q: DiagonalGaussian,
    *,
    samples: int = 1,
    kl_weight: float = 1.0,
    nats: float = 0.0,
    chunk: int | None = None,
    generator: Source = None,
    noise: Float[Tensor, "samples ..."] | None = None,
) -> ElboTerms:
    """Returns an estimate of the evidence lower bound that gradients flow through.

    To train encoder and decoder: `(-elbo_terms(joint, encoder(x)).objective).mean().backward()`.
    To report, use `lv_core.evidence.elbo`, which draws noise of its own.

    Arguments:
        joint: Likelihood and prior.
        q: Approximate posteriors, one for each item.
        samples: Draws per item.
        kl_weight: Factor on the divergence; below one the value is no bound.
        nats: Allowance: smaller divergences cost nothing.
        chunk: Samples evaluated at a time; None = all.
        generator: Source of randomness.
        noise: The standard normal draws themselves, `(samples, *batch, *event)`; replaces
            `samples` and `generator`.

    Raises:
        ValueError: If the likelihood, or a prior without a closed form, does not return one
            value per item.
    """
    eps = sample_noise(q.mean, samples, generator) if noise is None else noise
    u = q.rsample(eps)
    likelihood = over_samples(joint.likelihood_at, u, chunk=chunk)
    check_items(likelihood, q)
    nll, kl = -likelihood.mean(0), divergence(joint, q, u, chunk=chunk)
    return ElboTerms(-nll - kl_weight * penalty(kl, nats), nll, kl)


def divergence(
    joint: Joint, q: DiagonalGaussian, u: Float[Tensor, "samples ..."], *, chunk: int | None = None
) -> Float[Tensor, "..."]:
    """Returns KL(q, prior): in closed form, or from the draws `u` and the entropy of q.

    Raises:
        ValueError: If a prior without a closed form does not return one value per item.
    """
    kl = joint.divergence(q)
    if kl is not None:
        return kl

    def log_prior(z: Tensor) -> Tensor:
        return joint.prior_at(z, event_ndim=q.event_ndim)

    value = over_samples(log_prior, u, chunk=chunk)
    check_items(value, q, name="prior")
    return -q.entropy() - value.mean(0)


def penalty(kl: Tensor, nats: float) -> Tensor:
    """Returns `max(kl, nats)`, or `kl` without an allowance: its estimate may be negative."""
    return free_nats(kl, nats) if nats > 0 else kl


def check_items(value: Tensor, q: DiagonalGaussian, *, name: str = "log_likelihood") -> None:
    """Raises unless `value` has one entry per sample and item.

    Raises:
        ValueError: Names both shapes, and by `name` the function that returned `value`.
    """
    if value.shape[1:] != q.batch_shape:
        raise ValueError(
            f"{name} must return one value per item, shape (*batch,) = "
            f"{tuple(q.batch_shape)}, got {tuple(value.shape[1:])} for a mean of shape "
            f"{tuple(q.mean.shape)} with event_ndim={q.event_ndim}; sum over the event, not over "
            "the batch"
        )


def over_event(value: Tensor, q: DiagonalGaussian) -> Tensor:
    """Returns `value` of shape `(*batch,)` with trailing axes, ready to broadcast against q."""
    return torch.reshape(value, value.shape + (1,) * q.event_ndim)
