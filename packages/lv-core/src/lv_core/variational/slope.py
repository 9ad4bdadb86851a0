"""The gradient of the bound with respect to the parameters of q, latent gradients in hand.

Only the densities of the latent are differentiated by autograd, by `value_and_grad`; the way from
the parameters of q to the latent, and the divergence, have closed forms.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import LogDensity, LogDensityPrior, value_and_grad
from lv_core.evidence.joint import Joint
from lv_core.variational.gaussian import DiagonalGaussian
from lv_core.variational.objective import ElboTerms, check_items, over_event, penalty

__all__ = ["Gradient", "Slope", "kl_gradient", "loss_slope"]


class Gradient(NamedTuple):
    """A gradient with respect to mean and log scale, each `(*batch, *event)`."""

    mean: Tensor
    log_scale: Tensor


class Slope(NamedTuple):
    """The bound and its parts, and the gradient of the loss, its negative."""

    terms: ElboTerms
    gradient: Gradient


def kl_gradient(q: DiagonalGaussian, prior: DiagonalGaussian | None) -> Gradient:
    """Returns the gradient of KL(q, prior): `(mean - m) / s^2` and `scale^2 / s^2 - 1`."""
    if prior is None:
        return Gradient(q.mean, torch.expm1(2 * q.log_scale))
    precision = (-2 * prior.log_scale).exp()
    return Gradient(
        (q.mean - prior.mean) * precision, torch.expm1(2 * (q.log_scale - prior.log_scale))
    )


def kl_gate(kl: Tensor, q: DiagonalGaussian, *, kl_weight: float, nats: float) -> Tensor | float:
    """Returns the factor on the divergence's gradient: none below the allowance."""
    return over_event(kl_weight * (kl >= nats).to(kl.dtype), q) if nats > 0 else kl_weight


def loss_slope(
    joint: Joint,
    q: DiagonalGaussian,
    eps: Float[Tensor, "samples ..."],
    *,
    kl_weight: float = 1.0,
    nats: float = 0.0,
    chunk: int | None = None,
) -> Slope:
    """Returns the gradient of `nll + kl_weight max(kl, nats)` for given noise, and the terms.

    Arguments:
        joint: Likelihood and prior.
        q: Approximate posteriors, detached.
        eps: Standard normal draws, shape `(samples, *batch, *event)`.
        kl_weight: Factor on the divergence.
        nats: Divergence that costs nothing.
        chunk: Samples evaluated at a time; None = all.

    Raises:
        ValueError: If likelihood or prior does not return one value per item, or does not depend
            on its argument.
    """
    u, prior = q.rsample(eps), joint.prior
    pushed = isinstance(prior, LogDensityPrior)
    likelihood = joint.likelihood_at if pushed else joint.log_likelihood
    value, grad = _over_chunks(likelihood, u, chunk)
    check_items(value, q)
    nll, path = -value.mean(0), eps * q.scale
    if prior is None or isinstance(prior, DiagonalGaussian):
        kl, kl_grad = q.kl(prior), kl_gradient(q, prior)
    else:
        log_prior = prior.log_density if isinstance(prior, LogDensityPrior) else prior
        prior_value, prior_grad = _over_chunks(log_prior, u, chunk)
        check_items(prior_value, q, name="prior")
        kl = -q.entropy() - prior_value.mean(0) + _number(joint.log_normalizer)
        kl_grad = Gradient(-prior_grad.mean(0), -1 - (prior_grad * path).mean(0))
    gate = kl_gate(kl, q, kl_weight=kl_weight, nats=nats)
    terms = ElboTerms(-nll - kl_weight * penalty(kl, nats), nll, kl)
    gradient = Gradient(
        gate * kl_grad.mean - grad.mean(0), gate * kl_grad.log_scale - (grad * path).mean(0)
    )
    return Slope(terms, gradient)


def _number(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value


class _Sampled(NamedTuple):
    value: Tensor
    grad: Tensor


def _over_chunks(function: LogDensity, u: Tensor, chunk: int | None) -> _Sampled:
    values, grads = [], []
    for part in torch.split(u, len(u) if chunk is None else chunk):
        alone = len(part) == 1
        value, grad, _ = value_and_grad(function, part[0] if alone else part)
        # Copies, as a target with its own gradient may reuse its buffers.
        values.append((value[None] if alone else value).to(u.dtype, copy=True))
        grads.append((grad[None] if alone else grad).clone())
    return _Sampled(torch.cat(values), torch.cat(grads))
