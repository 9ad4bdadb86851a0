"""Pareto-smoothed importance sampling: smoothed weights, and a verdict on them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SmoothedWeights", "psis", "psis_khat"]


class SmoothedWeights(NamedTuple):
    """Importance weights with a smoothed tail, and the shape of that tail."""

    log_weights: Tensor
    """normalised log weights, shape `(n, *batch)`; their exponentials sum to one along axis 0"""
    khat: Tensor
    """shape parameter of the generalised Pareto tail, shape `(*batch,)`; see `psis_khat`"""


def psis_khat(log_weights: Float[Tensor, " n *batch"]) -> Float[Tensor, "*batch"]:
    """Returns the tail shape k-hat of importance weights, which says whether to trust them.

    Below `min(1 - 1 / log10(n), 0.7)` estimates from n weights have a finite, usable error; above
    it the proposal is too narrow for the target, whatever the standard error claims. Infinite
    where the tail has fewer than five weights to fit, minus infinity where all weights are equal.

    Arguments:
        log_weights: Unnormalised log weights, samples along the first axis.

    Raises:
        ValueError: If a weight is NaN or infinite.

    Source:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024;
        fit: Zhang and Stephens, 2009.

    Example:
        >>> khat = psis_khat(log_weights(joint, q, samples=4000))
    """
    return psis(log_weights).khat


def psis(log_weights: Float[Tensor, " n *batch"]) -> SmoothedWeights:
    """Returns normalised weights whose largest are replaced by quantiles of a fitted tail.

    The `min(n / 5, 3 sqrt(n))` largest weights of each item are taken as draws from a generalised
    Pareto distribution, and replaced by its expected order statistics, none larger than the
    largest weight. Computed in float64; the result has the dtype of the argument.

    Arguments:
        log_weights: Unnormalised log weights, samples along the first axis.

    Raises:
        ValueError: If a weight is NaN or infinite.

    Source:
        Vehtari et al., 2024, algorithm 1.
    """
    if not bool(torch.isfinite(log_weights).all()):
        raise ValueError(
            "log_weights must be finite: drop the samples whose target or proposal is not"
        )
    n = len(log_weights)
    x = log_weights.detach().double().reshape(n, -1)
    x = x - x.max(dim=0).values
    tail = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    ordered, index = x.sort(dim=0)
    constant = ordered[0] == ordered[-1]
    if tail < 5:
        khat = torch.full_like(ordered[0], math.inf)
    else:
        # Too small a cutoff would vanish in the exponential.
        cutoff = ordered[-tail - 1].clamp(min=math.log(torch.finfo(x.dtype).tiny))
        excess = (ordered[-tail:].exp() - cutoff.exp()).clamp(min=0.0)
        khat, scale = _fit_pareto(excess)
        usable = torch.isfinite(khat)
        share = (torch.arange(tail).to(x) + 0.5) / tail
        # Expected order statistics; k = 0 has a limit that rounding never meets exactly.
        smooth = scale * torch.expm1(-khat * torch.log1p(-share)[:, None]) / khat
        new = (smooth + cutoff.exp()).log().clamp(max=0.0)
        new = torch.where(usable, new, ordered[-tail:])
        ordered = torch.cat((ordered[:-tail], new))
    khat = torch.where(constant, -math.inf, khat)
    smoothed = torch.empty_like(x).scatter_(0, index, ordered)
    smoothed = smoothed - smoothed.logsumexp(0)
    return SmoothedWeights(
        smoothed.reshape(log_weights.shape).to(log_weights.dtype),
        khat.reshape(log_weights.shape[1:]).to(log_weights.dtype),
    )


class _Pareto(NamedTuple):
    shape: Tensor
    scale: Tensor


def _fit_pareto(excess: Tensor) -> _Pareto:
    """Fits a generalised Pareto distribution to each column of sorted excesses.

    The posterior mean of b = -k / scale over a grid under the data-driven prior of Zhang and
    Stephens (2009), then k pulled towards 1/2 as if by ten more observations (Vehtari et al.).
    """
    n, grid = len(excess), 30 + int(len(excess) ** 0.5)
    quartile = excess[int(n / 4 + 0.5) - 1]
    step = 1 - (grid / (torch.arange(1, grid + 1).to(excess) - 0.5)).sqrt()
    b = step[:, None] / (3 * quartile) + 1 / excess[-1]
    k = torch.log1p(-b[:, None] * excess).mean(1)
    profile = n * ((-b / k).log() - k - 1)
    weight = profile.softmax(0)
    # Grid points without weight would add rounding only.
    weight = torch.where(weight >= 10 * torch.finfo(weight.dtype).eps, weight, 0.0)
    mean = (weight / weight.sum(0) * b).sum(0)
    shape = torch.log1p(-mean * excess).mean(0)
    scale = -shape / mean
    shape = (n * shape + 10 * 0.5) / (n + 10)
    # Ties that fill the lower quarter of the tail leave no scale to start from.
    shape = torch.where(torch.isfinite(shape) & (quartile > 0), shape, math.inf)
    return _Pareto(shape, scale)
