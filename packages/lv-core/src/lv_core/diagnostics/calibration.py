"""Simulation-based calibration: is a sampler's posterior right on data from its own model?

Parameters are drawn from the prior, data from the likelihood, and the sampler is asked for the
posterior. Where the sampler is exact, the true parameter's rank among the posterior draws is
uniform, whatever the model.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lv_core.random import Source, uniform

__all__ = ["CalibrationTest", "sbc", "sbc_ranks", "sbc_test"]


class CalibrationTest(NamedTuple):
    """Whether ranks are uniform, for each coordinate.

    `p_value` is that of the chi-square test on binned ranks; `distance` the largest distance
    between the ranks' distribution function and the uniform one; `band` the distance that uniform
    ranks exceed with probability `1 - level` at most; `inside` where distance <= band.
    """

    p_value: Float[Tensor, "..."]
    distance: Float[Tensor, "..."]
    band: float
    inside: Bool[Tensor, "..."]


def sbc(
    prior: Callable[..., Tensor],
    simulate: Callable[..., Tensor],
    sampler: Callable[..., Tensor],
    *,
    simulations: int,
    generator: Source = None,
) -> Int[Tensor, "simulations ..."]:
    """Returns the ranks of true parameters among posterior draws, one row per simulation.

    All simulations run as one batch. The draws of each must be nearly independent: thin chains by
    their autocorrelation time, or ranks pile up at both ends although the sampler is exact.

    Arguments:
        prior: Called as `prior(n, generator=...)`; returns parameters `(n, *event)`.
        simulate: Called as `simulate(z, generator=...)`; returns data `(n, *data)`, one for each.
        sampler: Called as `sampler(x, generator=...)`; returns posterior draws
            `(draws, n, *event)`, such as `Trace.u` of one chain per data item.
        simulations: Number n of simulated data sets; a few hundred.
        generator: Source of all randomness.

    Raises:
        ValueError: If `simulations` is below 2, or the draws have another shape or hold NaN.

    Source:
        Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference algorithms
        with simulation-based calibration", 2018.

    Example:
        >>> def sampler(x, *, generator):
        ...     target = posterior(prior, lambda z: model.log_likelihood(x, z))
        ...     start = prior.init(len(x), generator=generator)
        ...     return kernel.run(target, start, generator=generator, thin=20).u
        >>> ranks = sbc(prior.sample, simulate, sampler, simulations=300)
        >>> sbc_test(ranks, draws=19).p_value
    """
    if simulations < 2:
        raise ValueError(f"simulations must be at least 2, got {simulations}")
    truth = prior(simulations, generator=generator)
    draws = sampler(simulate(truth, generator=generator), generator=generator)
    return sbc_ranks(draws, truth, generator=generator)


def sbc_ranks(
    draws: Float[Tensor, " draws n *event"],
    truth: Float[Tensor, " n *event"],
    *,
    generator: Source = None,
) -> Int[Tensor, " n *event"]:
    """Returns how many draws lie below the truth, coordinate by coordinate: 0..draws.

    Equal values are ordered at random, so that discrete parameters have uniform ranks too.

    Arguments:
        draws: Posterior draws.
        truth: Parameters that the data were simulated from.
        generator: Source of the order of equal values.

    Raises:
        ValueError: If `draws` is not `(draws, n, *event)` for `truth` of `(n, *event)`, or one
            of them holds NaN, which has no rank.
    """
    if draws.ndim < 2 or draws.shape[1:] != truth.shape:
        raise ValueError(
            f"draws must have shape (draws, *{tuple(truth.shape)}) for this truth, got "
            f"{tuple(draws.shape)}"
        )
    lost = (draws.isnan().any(0) | truth.isnan()).reshape(len(truth), -1).any(1)
    if bool(lost.any()):
        which = lost.nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, which[:8])) + (", ..." if len(which) > 8 else "")
        raise ValueError(
            f"draws and truth must not hold NaN, which has no rank, got it in {len(which)} of "
            f"{len(truth)} simulations (numbers {shown}): mend the sampler; leaving these "
            "simulations out would bias the test"
        )
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (uniform(truth.shape, truth, generator) * (equal + 1)).long()


def sbc_test(
    ranks: Int[Tensor, " n *event"], *, draws: int, bins: int | None = None, level: float = 0.95
) -> CalibrationTest:
    """Returns whether ranks are uniform on 0..draws, for each coordinate.

    The chi-square test compares bins; the band bounds the distribution function as a whole
    (distance at most sqrt(log(2 / (1 - level)) / 2n), valid at any n) and is the stricter judge
    of small shifts over all ranks. With many coordinates, some p-values are small by chance:
    compare with `0.05 / coordinates`.

    Arguments:
        ranks: Ranks of n simulations.
        draws: Number of posterior draws per simulation, hence the largest rank.
        bins: Number of bins; None = at least ten simulations in each, twenty bins at most.
        level: Probability of the band, in (0, 1).

    Raises:
        ValueError: If a rank lies outside 0..draws, or a setting is out of range.

    Source:
        Talts et al., 2018 (chi-square); Massart, "The tight constant in the
        Dvoretzky-Kiefer-Wolfowitz inequality", 1990 (band).
    """
    n = len(ranks)
    count = max(2, min(20, n // 10, draws + 1)) if bins is None else bins
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if not 2 <= count <= draws + 1:
        raise ValueError(f"bins must lie in 2..draws + 1 = {draws + 1}, got {count}")
    if n < 2 or int(ranks.min()) < 0 or int(ranks.max()) > draws:
        raise ValueError(
            f"ranks must be at least two numbers in 0..{draws} (the number of draws), got shape "
            f"{tuple(ranks.shape)}"
        )
    values = torch.arange(draws + 1, device=ranks.device)
    columns = ranks.flatten(1) if ranks.ndim > 1 else ranks[:, None]
    seen = torch.zeros(draws + 1, columns.shape[1], dtype=torch.float64, device=ranks.device)
    seen.scatter_add_(0, columns.long(), torch.ones_like(columns, dtype=torch.float64))
    # Bins hold equally many ranks or one more; what is expected of each is exact.
    place = values * count // (draws + 1)
    observed = seen.new_zeros(count, seen.shape[1]).index_add_(0, place, seen)
    expected = n * torch.bincount(place, minlength=count)[:, None] / (draws + 1)
    statistic = ((observed - expected).square() / expected).sum(0)
    freedom = torch.full_like(statistic, 0.5 * (count - 1))
    uniform_cdf = (values + 1)[:, None] / (draws + 1)
    distance = (seen.cumsum(0) / n - uniform_cdf).abs().amax(0).reshape(ranks.shape[1:])
    band = math.sqrt(math.log(2 / (1 - level)) / (2 * n))
    return CalibrationTest(
        p_value=torch.special.gammaincc(freedom, 0.5 * statistic).reshape(ranks.shape[1:]),
        distance=distance,
        band=band,
        inside=distance <= band,
    )
