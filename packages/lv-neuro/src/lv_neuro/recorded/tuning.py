"""Tuning curves: firing rates as a function of the heading."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lv_neuro.angles import TURN, grid, wrap

__all__ = ["TuningCurves", "circular_kernel", "heading_bin", "tuning_curves"]

# Shapes: T time bins, N headings, C cells


@dataclass(frozen=True, eq=False)
class TuningCurves:
    """Firing rates of cells at equispaced headings 2 pi n / N."""

    heading: Float[Tensor, " bins"]
    """The headings 2 pi n / N, centers of their bins, radians."""
    rates: Float[Tensor, "bins cells"]
    """Firing rates in Hz; NaN at headings that were not visited long enough."""
    occupancy: Float[Tensor, " bins"]
    """Time spent at each heading, seconds, not smoothed."""

    def __post_init__(self) -> None:
        bins = self.heading.shape[0]
        if self.rates.shape[0] != bins or self.occupancy.shape[0] != bins:
            raise ValueError(
                f"rates and occupancy need one row per heading, got {self.rates.shape[0]} and "
                f"{self.occupancy.shape[0]} rows for {bins} headings"
            )
        if not bool(torch.isfinite(self.rates).any(0).all()):
            raise ValueError(
                "rates must be finite at some heading for every cell, got a cell with none: lower "
                "min_occupancy, or leave the cell out"
            )
        if bool((self.rates < 0).any()):
            raise ValueError(
                f"rates must not be negative, got {float(self.rates.nan_to_num().min()):.4g} Hz"
            )


def heading_bin(heading: Float[Tensor, " time"], bins: int) -> Integer[Tensor, " time"]:
    """Returns the index n of the grid angle 2 pi n / bins that is nearest to each heading."""
    return torch.remainder((heading.double() * (bins / TURN) + 0.5).floor().long(), bins)


def circular_kernel(bins: int, width: float) -> Float[Tensor, "bins bins"]:
    """Returns the logarithm of the wrapped normal between grid angles, rows summing to one.

    log K_nm = log sum_w exp(-(2 pi (n - m) / N + 2 pi w)^2 / (2 width^2)) - log of the row's sum

    Arguments:
        bins: Number of grid angles N.
        width: Standard deviation before wrapping, radians, positive.
    """
    lag = wrap(grid(bins, like=torch.zeros((), dtype=torch.float64)))
    turns = math.ceil(6 * width / TURN) + 1
    whole = TURN * torch.arange(-turns, turns + 1, dtype=torch.float64)
    log = (-((lag[:, None] + whole) ** 2) / (2 * width**2)).logsumexp(1).log_softmax(0)
    n = torch.arange(bins)
    return log[torch.remainder(n[:, None] - n, bins)]


def tuning_curves(
    counts: Integer[Tensor, "time cells"],
    heading: Float[Tensor, " time"],
    bin_seconds: float,
    *,
    bins: int = 60,
    smooth: float = 0.0,
    min_occupancy: float = 0.0,
) -> TuningCurves:
    """Returns spikes divided by the time spent at each heading.

    rate_n = sum_m K_nm spikes_m / sum_m K_nm occupancy_m, where K is the identity, or a wrapped
    normal with standard deviation `smooth`. Spikes and time are smoothed apart, so headings that
    were visited longer weigh more.

    Arguments:
        counts: Spike counts.
        heading: Headings in radians.
        bin_seconds: Length of a time bin.
        bins: Number of headings N; bin n holds the headings nearest to 2 pi n / N.
        smooth: Standard deviation of the circular smoothing in radians, below pi; 0 means none.
        min_occupancy: Seconds below which the rate at a heading is NaN. A heading that nothing is
            known about is always NaN: never visited, and no smoothing that reaches it.

    Raises:
        ValueError: If an argument is out of range, or a cell has no finite rate.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if not 0 <= smooth < math.pi:
        raise ValueError(f"smooth must be in [0, pi) radians, got {smooth:.4g}: is it degrees?")
    if min_occupancy < 0:
        raise ValueError(f"min_occupancy must not be negative, got {min_occupancy}")
    n = heading_bin(heading, bins)
    like = torch.zeros((), dtype=torch.float64, device=heading.device)
    spikes = like.new_zeros(bins, counts.shape[1]).index_add_(0, n, counts.double())
    occupancy = torch.bincount(n, minlength=bins).double() * bin_seconds
    time = occupancy
    if smooth > 0:
        kernel = circular_kernel(bins, smooth).exp().to(like.device)
        spikes, time = kernel @ spikes, kernel @ occupancy
    unknown = (occupancy < min_occupancy) | (time <= 0)
    rates = torch.where(unknown[:, None], torch.nan, spikes / time[:, None])
    kind = heading.dtype
    return TuningCurves(grid(bins, like=like).to(kind), rates.to(kind), occupancy.to(kind))
