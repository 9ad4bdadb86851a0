"""Scores of forecasts that come with uncertainty, over the entries that were observed."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences

__all__ = ["coverage", "crps", "gaussian_crps", "interval_width", "log_score"]


def coverage(
    low: Float[Tensor, "batch time *obs"],
    high: Float[Tensor, "batch time *obs"],
    target: Sequences,
) -> Float[Tensor, ""]:
    """Returns the share of observed entries inside their intervals [low, high].

    It should be the intervals' nominal level. Intervals must contain the observation noise, or
    the coverage of noisy entries is too small by design.

    Arguments:
        low: Lower ends, shape of `target.values`.
        high: Upper ends.
        target: What was observed.
    """
    _check_interval(low, high, target)
    inside = (low <= target.values) & (target.values <= high)
    return _mean(inside.to(low.dtype), target)


def interval_width(
    low: Float[Tensor, "batch time *obs"],
    high: Float[Tensor, "batch time *obs"],
    target: Sequences,
) -> Float[Tensor, ""]:
    """Returns the mean width high - low at observed entries; smaller is better at equal coverage.

    Arguments:
        low: Lower ends, shape of `target.values`.
        high: Upper ends.
        target: What was observed.
    """
    _check_interval(low, high, target)
    return _mean(high - low, target)


def crps(
    samples: Float[Tensor, "samples batch time *obs"], target: Sequences, *, fair: bool = True
) -> Float[Tensor, ""]:
    """Returns the continuous ranked probability score of samples, a mean over observed entries.

    E|X - y| - E|X - X'| / 2, in the units of the data; smaller is better. With one sample per
    entry it is the absolute error.

    Arguments:
        samples: Equally probable forecasts, observation noise included.
        target: What was observed.
        fair: Whether E|X - X'| leaves out pairs of a sample with itself, so that the score does
            not depend on the number of samples on average; otherwise it is that of the samples'
            own distribution.

    Source:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007;
        Ferro, "Fair scores for ensemble forecasts", 2014.
    """
    _check_shape("samples", samples[0], target)
    n = len(samples)
    error = (samples - target.values).abs().mean(0)
    if n == 1:
        return _mean(error, target)
    # sum over pairs of |x_i - x_j| = 2 sum_k (2 k - n + 1) x_(k), k = 0, 1, ... in rising order
    weight = torch.arange(n, dtype=samples.dtype, device=samples.device) * 2 - (n - 1)
    pairs = torch.tensordot(weight, samples.sort(0).values, 1) * 2
    return _mean(error - pairs / (2 * n * (n - 1 if fair else n)), target)


def gaussian_crps(
    mean: Float[Tensor, "batch time *obs"],
    std: Float[Tensor, "..."],
    target: Sequences,
) -> Float[Tensor, ""]:
    """Returns the continuous ranked probability score of normal forecasts, in closed form.

    std (w (2 Phi(w) - 1) + 2 phi(w) - 1 / sqrt(pi)) with w = (y - mean) / std; where std is 0 its
    limit, the absolute error.

    Arguments:
        mean: Means, shape of `target.values`.
        std: Standard deviations with observation noise, not negative; broadcast against the means.
        target: What was observed.

    Raises:
        ValueError: If a deviation is negative or NaN, shapes differ, or a forecast is NaN.

    Source:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007.
    """
    _check_shape("mean", mean, target)
    if not bool((std >= 0).all()):
        raise ValueError(f"std must not be negative, got {float(std.min())} as the smallest")
    error = target.values - mean
    w = error / torch.where(std > 0, std, 1.0)
    density = torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi)
    score = std * (w * torch.erf(w / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return _mean(torch.where(std > 0, score, error.abs()), target)


def log_score(
    means: Float[Tensor, "samples batch time *obs"],
    std: Float[Tensor, "..."],
    target: Sequences,
) -> Float[Tensor, ""]:
    """Returns the mean log density of observed entries under equal mixtures of normals.

    mean over entries of log (1/S) sum_s N(y; means_s, std^2), in nats; larger is better. Entries
    are scored one by one, whatever their dependence.

    Arguments:
        means: Means of the components, e.g. the trajectories of S posterior samples; for a
            single normal forecast `mean[None]`.
        std: Standard deviations of the components, positive; broadcast against the means.
        target: What was observed.
    """
    _check_shape("means", means[0], target)
    if not bool((std > 0).all()):
        raise ValueError(f"std must be positive, got {float(std.min())} as the smallest")
    w = (target.values - means) / std
    density = -w.square() / 2 - torch.log(std) - math.log(2 * math.pi) / 2
    return _mean(density.logsumexp(0) - math.log(len(means)), target)


def _mean(score: Tensor, target: Sequences) -> Tensor:
    mask = target.mask.expand_as(target.values)
    if bool((score.isnan() & mask).any()):
        index = int((score.isnan() & mask).flatten(1).any(1).int().argmax())
        raise ValueError(f"sequence {index}: its forecast is NaN where something was observed")
    return (torch.where(mask, score.double(), 0.0).sum() / mask.sum()).to(score.dtype)


def _check_shape(name: str, forecast: Tensor, target: Sequences) -> None:
    if forecast.shape != target.values.shape:
        raise ValueError(
            f"{name} must end in the shape of the values {tuple(target.values.shape)}, got "
            f"{tuple(forecast.shape)}"
        )


def _check_interval(low: Tensor, high: Tensor, target: Sequences) -> None:
    _check_shape("low", low, target)
    _check_shape("high", high, target)
    mask = target.mask.expand_as(target.values)
    ends = torch.where(mask, low, 0.0), torch.where(mask, high, 0.0)
    if not bool((ends[0] <= ends[1]).all()):  # NaN included
        raise ValueError("low must not exceed high, nor be NaN, where something was observed")
