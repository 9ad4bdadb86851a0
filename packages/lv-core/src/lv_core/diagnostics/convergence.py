"""Convergence of Markov chains: R-hat, effective sample sizes and Monte Carlo standard errors.

Draws are laid out as `Trace.u` of several chains on one target: `(draws, chains, *event)`; each
coordinate of the event is judged alone, all in one pass, in float64. The numbers are those of
ArviZ. Where they cannot be computed (fewer than four draws, a NaN, one chain for R-hat) they are
NaN, not an error, since one coordinate without an answer must not hide the others.

Source:
    Vehtari, Gelman, Simpson, Carpenter and Buerkner, "Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC", 2021; Geyer, "Practical
    Markov chain Monte Carlo", 1992 (the monotone sequence).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.diagnostics.autocorrelation import autocovariance, columns
from lv_core.diagnostics.incomplete_beta import beta_quantile

__all__ = [
    "autocorrelation_time",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "rhat",
]

_CONSTANT = 1e-15
"""Range below which draws count as constant."""


def rhat(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns the rank-normalised split R-hat, the larger of bulk and folded; 1 = converged.

    Compares the variance between half chains with that within them. Above 1.01 the chains
    disagree in location (bulk) or in spread (folded). Needs two chains of four draws.

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, _rhat, chains=2)


def ess_bulk(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns the effective sample size of the bulk: that of rank-normalised split chains.

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, lambda x: _effective_size(_normal_scores(_split(x))))


def ess_tail(
    u: Float[Tensor, "draws chains *event"], *, prob: tuple[float, float] = (0.05, 0.95)
) -> Float[Tensor, "*event"]:
    """Returns the smaller effective sample size of two extreme quantiles.

    ArviZ 1 takes another pair of quantiles by default (the ends of its default interval); give
    both the same `prob` to compare.

    Arguments:
        u: Kept positions of several chains on one target.
        prob: The two quantiles, each in [0, 1].

    Raises:
        ValueError: If `u` has no axis of draws or of chains, or `prob` is no probability.
    """
    low, high = _checked(prob[0]), _checked(prob[1])
    return _each(u, lambda x: _smaller(_quantile_size(x, low), _quantile_size(x, high)))


def ess_mean(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns the effective sample size of the mean: draws over the autocorrelation time.

    Chains are split, not rank-normalised, so it presumes a finite variance.

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, lambda x: _effective_size(_split(x)))


def mcse_mean(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns the standard error of the mean of all draws, std / sqrt(ess_mean).

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, lambda x: x.flatten(0, 1).std(0) / _effective_size(_split(x)).sqrt())


def mcse_sd(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns the standard error of the standard deviation of all draws (delta method).

    sqrt((m4 - m2^2) / ess / (4 m2)) with central moments m and the ESS of the squared deviation.

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, _deviation_error)


def mcse_quantile(
    u: Float[Tensor, "draws chains *event"], *, prob: float
) -> Float[Tensor, "*event"]:
    """Returns the standard error of a quantile: half the width of its one-sigma interval.

    The interval's ends are order statistics, chosen by the beta distribution of the rank that
    the effective sample size of the quantile implies.

    Arguments:
        u: Kept positions of several chains on one target.
        prob: The quantile, in [0, 1].

    Raises:
        ValueError: If `u` has no axis of draws or of chains, or `prob` is no probability.
    """
    _checked(prob)
    return _each(u, lambda x: _quantile_error(x, prob))


def autocorrelation_time(u: Float[Tensor, "draws chains *event"]) -> Float[Tensor, "*event"]:
    """Returns how many draws are worth one independent draw, for the mean.

    tau = 1 + 2 sum of autocorrelations over Geyer's initial monotone sequence; the number of
    draws over `ess_mean`. Below one for antithetic chains.

    Arguments:
        u: Kept positions of several chains on one target.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    return _each(u, lambda x: _split(x)[..., 0].numel() / _effective_size(_split(x)))


def _checked(prob: float) -> float:
    if not 0.0 <= prob <= 1.0:
        raise ValueError(f"prob must lie in [0, 1], got {prob}")
    return prob


def _each(u: Tensor, statistic: Callable[[Tensor], Tensor], *, chains: int = 1) -> Tensor:
    """Returns a statistic of each coordinate; NaN where ArviZ has no answer either."""
    x = columns(u)
    unknown = x.new_full((x.shape[2],), math.nan)
    if len(x) >= 4 and x.shape[1] >= chains and x.shape[2]:
        unknown = torch.where(x.isnan().flatten(0, 1).any(0), unknown, statistic(x))
    return unknown.reshape(u.shape[2:])


def _split(x: Tensor) -> Tensor:
    half = len(x) // 2
    return torch.cat((x[:half], x[len(x) - half :]), dim=1)


def _normal_scores(x: Tensor) -> Tensor:
    rows = x.flatten(0, 1).T.contiguous()
    ordered = rows.sort(-1).values
    # Ties share the mean of their ranks.
    below = torch.searchsorted(ordered, rows)
    not_above = torch.searchsorted(ordered, rows, right=True)
    rank = 0.5 * (below + not_above + 1).double()
    score = torch.special.ndtri((rank - 0.375) / (rows.shape[-1] + 0.25))
    return torch.where(rows.isnan(), math.nan, score).T.reshape(x.shape)


def _quantile(x: Tensor, prob: float) -> Tensor:
    # torch.quantile refuses more than 2^24 numbers.
    ordered = x.flatten(0, 1).sort(0).values
    place = (len(ordered) - 1) * prob
    low = math.floor(place)
    part = place - low
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    # From the nearer end, so that the quantile of equal draws is that draw to the last bit.
    step = above - below
    return below + step * part if part < 0.5 else above - step * (1 - part)


def _median(x: Tensor) -> Tensor:
    ordered = x.flatten(0, 1).sort(0).values
    count = len(ordered)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def _rhat(x: Tensor) -> Tensor:
    halves = _split(x)
    bulk = _potential_reduction(_normal_scores(halves))
    folded = _potential_reduction(_normal_scores((halves - _median(halves)).abs()))
    return torch.where(folded > bulk, folded, bulk)


def _deviation_error(x: Tensor) -> Tensor:
    squared = (x - x.flatten(0, 1).mean(0)).square()
    second, fourth = squared.flatten(0, 1).mean(0), squared.square().flatten(0, 1).mean(0)
    of_variance = (fourth - second.square()) / _effective_size(_split(squared))
    return (of_variance / second / 4).sqrt()


def _quantile_error(x: Tensor, prob: float) -> Tensor:
    size = _quantile_size(x, prob)
    ordered = x.flatten(0, 1).sort(0).values
    ends = []
    for probability, rounded in ((0.1586553, torch.floor), (0.8413447, torch.ceil)):
        rank = beta_quantile(probability, size * prob + 1, size * (1 - prob) + 1) * len(ordered)
        index = rounded(rank - 1).long().clamp(0, len(ordered) - 1)
        ends.append(ordered.gather(0, index[None])[0])
    return (ends[1] - ends[0]) / 2


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b < a, b, a)


def _potential_reduction(x: Tensor) -> Tensor:
    draws = len(x)
    between, within = draws * x.mean(0).var(0), x.var(0).mean(0)
    return ((between / within + draws - 1) / draws).sqrt()


def _quantile_size(x: Tensor, prob: float) -> Tensor:
    return _effective_size(_split((x <= _quantile(x, prob)).double()))


def _effective_size(x: Tensor) -> Tensor:
    count = len(x) * x.shape[1]
    constant = (x.flatten(0, 1).amax(0) - x.flatten(0, 1).amin(0)) < _CONSTANT
    return torch.where(constant, float(count), count / _time(x))


def _time(x: Tensor) -> Tensor:
    """Returns the autocorrelation time of draws that have been split already."""
    draws, chains = x.shape[:2]
    covariance = autocovariance(x).mean(1)
    within = covariance[0] * draws / (draws - 1)
    total = covariance[0] if chains == 1 else covariance[0] + x.mean(0).var(0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    # Geyer: sums of neighbouring pairs are positive and decrease; stop at the first that is not
    # positive, and keep each below the one before.
    pairs = (rho[: draws - 1 : 2] + rho[1::2])[: max(0, (draws - 3) // 2)]
    going = (pairs > 0).cumprod(0)
    last = 2 * going.sum(0, keepdim=True)
    kept = torch.zeros_like(total)
    if len(pairs):
        kept = torch.where(going.bool(), pairs.cummin(0).values, 0.0).sum(0)
    even, odd = rho.gather(0, last)[0], rho.gather(0, last + 1)[0]
    # The even lag of the pair that ended the sequence counts once if it is positive itself.
    tail = torch.where((even + odd >= 0) | (even > 0), even, 0.0)
    floor = 1 / math.log10(draws * chains)
    time = (2 * kept + tail - 1).clamp(min=floor)
    return torch.where(rho[1].isnan(), math.nan, time)
