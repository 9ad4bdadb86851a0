"""Bounds on the log evidence log p(x) from samples of a proposal.

All draw noise of their own, never that of a fit, and run without gradients; the objective that
trains an encoder is `lv_core.variational.elbo_terms`. With an unnormalised prior none of them is a
bound on the evidence, only up to the prior's log normaliser, and a `Joint` that knows says so.
"""

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lv_core.density import LogDensity
from lv_core.evidence.estimate import (
    Bound,
    LogEstimate,
    effective_sample_size,
    fresh_noise,
    log_mean_exp,
    plain_mean,
)
from lv_core.evidence.joint import Joint, Proposal, over_samples
from lv_core.random import Source

__all__ = ["elbo", "iwae", "log_weights", "renyi"]


class _Draw(NamedTuple):
    weights: Tensor
    """log importance weights, shape `(samples, *batch)`"""
    value: Tensor
    """terms whose mean is the evidence lower bound: the weights, or less noisy ones"""


def elbo(
    target: LogDensity | Joint,
    q: Proposal,
    *,
    samples: int = 64,
    generator: Source = None,
    chunk: int | None = None,
) -> LogEstimate:
    """Estimates the evidence lower bound `E_q[log p(x, z) - log q(z)]` of each item.

    With a `Joint` whose divergence has a closed form only the likelihood is averaged, which
    leaves less noise.

    Arguments:
        target: `log p(x, z)`, `(*samples, *batch, *event) -> (*samples, *batch)`, or a `Joint`. A
            function is taken as normalised; a `Joint` knows by `Joint.normalized`.
        q: The proposal, one distribution per item.
        samples: Draws per item, at least 1; with 1 there is no standard error.
        generator: Source of randomness; the noise is never that which a fit drew from it.
        chunk: Samples evaluated at a time, which bounds memory; None = all. With 1 the target
            sees `(*batch, *event)` without a samples axis. The numbers do not depend on it
            with a proposal that draws sample by sample, as `DiagonalGaussian` does.

    Returns:
        The estimate, a lower bound in expectation where the prior is normalised ("none"
        otherwise); `ess` is that of the importance weights, which tells how near q is to the
        posterior.

    Raises:
        ValueError: If `samples` or `chunk` is not positive.
    """
    draw = _draw(target, q, samples, _source(q, generator), chunk)
    ess = effective_sample_size(draw.weights)
    return plain_mean(draw.value, ess=ess, samples=samples, bound=_label(target))


def iwae(
    target: LogDensity | Joint,
    q: Proposal,
    *,
    samples: int = 64,
    repeats: int = 1,
    generator: Source = None,
    chunk: int | None = None,
) -> LogEstimate:
    """Estimates the importance-weighted bound `E[log (1/K) sum_k p(x, z_k) / q(z_k)]`.

    It grows with the number K of samples, from the evidence lower bound at K = 1 to log p(x).

    Arguments:
        target: `log p(x, z)` or a `Joint`, as in `elbo`.
        q: The proposal.
        samples: K, samples within one logarithm.
        repeats: Logarithms that are averaged. With 1 the standard error is the delta method's
            and tells the distance of one such logarithm from log p(x); with more it is that of
            their mean, an estimate of the bound itself.
        generator: Source of randomness; the noise is never that of a fit.
        chunk: Samples evaluated at a time, over all repeats; None = all.

    Returns:
        The estimate, a lower bound in expectation where the prior is normalised ("none"
        otherwise).

    Raises:
        ValueError: If `samples`, `repeats` or `chunk` is not positive.

    Source:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    return renyi(
        target,
        q,
        alpha=0.0,
        samples=samples,
        repeats=repeats,
        generator=generator,
        chunk=chunk,
    )


def renyi(
    target: LogDensity | Joint,
    q: Proposal,
    *,
    alpha: float,
    samples: int = 64,
    repeats: int = 1,
    generator: Source = None,
    chunk: int | None = None,
) -> LogEstimate:
    """Estimates the Renyi bound `1/(1 - alpha) log E_q[(p(x, z) / q(z))^(1 - alpha)]`.

    Alpha = 1 is the evidence lower bound, alpha = 0 the importance-weighted one.

    Arguments:
        target: `log p(x, z)` or a `Joint`, as in `elbo`.
        q: The proposal.
        alpha: Order. The estimate is a lower bound in expectation for alpha in [0, 1] and a
            normalised prior only: outside, the bias of the logarithm of a mean and the bound
            point apart.
        samples: Samples within one logarithm.
        repeats: Logarithms that are averaged, as in `iwae`.
        generator: Source of randomness; the noise is never that of a fit.
        chunk: Samples evaluated at a time, over all repeats; None = all.

    Raises:
        ValueError: If `samples`, `repeats` or `chunk` is not positive.

    Source:
        Li and Turner, "Renyi divergence variational inference", 2016.
    """
    if samples < 1 or repeats < 1:
        raise ValueError(f"samples and repeats must be at least 1, got {samples=}, {repeats=}")
    if alpha == 1.0:
        # The mean over all draws is the same for any division into repeats.
        return elbo(target, q, samples=samples * repeats, generator=generator, chunk=chunk)
    power = 1.0 - alpha
    weights = _draw(target, q, samples * repeats, _source(q, generator), chunk).weights
    # Repeats become a batch axis behind the samples.
    grouped = weights.reshape(repeats, samples, *weights.shape[1:]).transpose(0, 1)
    each = _power_mean(grouped, power)
    ess = each.ess.mean(0)
    bound: Bound = _label(target) if 0.0 <= alpha <= 1.0 else "none"
    whole = plain_mean(each.mean, ess=ess, samples=samples, bound=bound)
    if repeats > 1:
        return whole
    return replace(whole, standard_error=each.standard_error[0])


def log_weights(
    target: LogDensity | Joint,
    q: Proposal,
    *,
    samples: int = 64,
    generator: Source = None,
    chunk: int | None = None,
) -> Tensor:
    """Returns the log importance weights `log p(x, z_k) - log q(z_k)`, shape `(samples, *batch)`.

    What `psis` smooths and judges.

    Arguments:
        target: `log p(x, z)` or a `Joint`, as in `elbo`.
        q: The proposal.
        samples: Draws per item.
        generator: Source of randomness; the noise is never that of a fit.
        chunk: Samples evaluated at a time; None = all.

    Raises:
        ValueError: If `samples` or `chunk` is not positive.
    """
    return _draw(target, q, samples, _source(q, generator), chunk).weights


def _label(target: LogDensity | Joint) -> Bound:
    # A function is the caller's word for log p(x, z); a joint knows what its prior says.
    return "none" if isinstance(target, Joint) and not target.normalized else "lower"


def _power_mean(log_weights: Tensor, power: float) -> LogEstimate:
    """Returns `log mean exp(power w) / power` along the first axis, with its standard error."""
    n = len(log_weights)
    plain = log_mean_exp(power * log_weights, bound="none")
    # Near power 0 the logarithm is that of nearly one, and dividing by power blows up what
    # rounding left of it. About the mean log weight it has all its digits.
    center = log_weights.mean(0)
    deviation = log_weights - center
    small = abs(power) * deviation.abs().amax(0) < 0.1
    excess = torch.expm1(power * deviation)
    mean = center + torch.log1p(excess.mean(0)) / power
    error = plain.standard_error
    if n > 1:
        close = excess.std(0) / ((1 + excess.mean(0)) * math.sqrt(n))
        error = torch.where(small, close, error)
    return replace(
        plain,
        mean=torch.where(small, mean, plain.mean / power),
        standard_error=error / abs(power),
    )


def _source(q: Proposal, source: Source) -> Source:
    # The proposal alone knows its device; asked only where the global generator is used.
    device = q.sample(1).device if source is None else torch.device("cpu")
    return fresh_noise(source, device)


@torch.no_grad()
def _draw(
    target: LogDensity | Joint, q: Proposal, samples: int, source: Source, chunk: int | None
) -> _Draw:
    if samples < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"samples and chunk must be at least 1, got {samples=}, {chunk=}")
    size = samples if chunk is None else min(chunk, samples)
    kl = target.divergence(q) if isinstance(target, Joint) else None
    weights, values = [], []
    for begin in range(0, samples, size):
        z = q.sample(min(size, samples - begin), generator=source)
        log_q = q.log_prob(z)
        if isinstance(target, Joint):
            likelihood = over_samples(target.likelihood_at, z)
            _check_shapes(likelihood, log_q, z)
            event_ndim = z.ndim - likelihood.ndim
            prior = over_samples(partial(target.prior_at, event_ndim=event_ndim), z)
            weight = likelihood + prior - log_q
            values.append(weight if kl is None else likelihood - kl)
        else:
            joint = over_samples(target, z)
            _check_shapes(joint, log_q, z)
            weight = joint - log_q
            values.append(weight)
        weights.append(weight)
    return _Draw(torch.cat(weights), torch.cat(values))


def _check_shapes(value: Tensor, log_q: Tensor, z: Tensor) -> None:
    # Wrong axes would broadcast into something that looks like an estimate.
    if value.shape != log_q.shape:
        raise ValueError(
            f"the target returned shape {tuple(value.shape)} and the proposal's log_prob "
            f"{tuple(log_q.shape)} for samples of shape {tuple(z.shape)}; both must return one "
            "value per sample and item: check event_ndim of the proposal, and that the target "
            "keeps the leading samples axis or is called with chunk=1"
        )
