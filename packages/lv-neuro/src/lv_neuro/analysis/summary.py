"""All tuning measures of a population in one record."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lv_neuro.analysis.gaussian import GaussianFit, gaussian_fit
from lv_neuro.analysis.tuning import (
    MeanVector,
    active,
    bumps,
    half_width,
    largest_gap,
    mean_vector,
    untuned,
)

__all__ = ["TuningSummary", "tuning_summary"]


class TuningSummary(NamedTuple):
    """Tuning of every neuron, and the figures of the population over the counted neurons."""

    counted: Bool[Tensor, "*batch neurons"]
    """Neurons behind the population's figures."""
    fit: GaussianFit
    """Gaussian fit of every neuron."""
    bumps: Int[Tensor, "*batch neurons"]
    """Bumps of every neuron."""
    mean_vector: MeanVector
    """Mean vector of every neuron."""
    half_width: Float[Tensor, "*batch neurons"]
    """Full width at half height of every neuron (radians)."""
    neurons: Int[Tensor, "*batch"]
    """Counted neurons."""
    untuned: Int[Tensor, "*batch"]
    """Counted neurons with flat curves; the medians are taken over the others."""
    r2_median: Float[Tensor, "*batch"]
    """Median R^2 of the Gaussian fit."""
    r2_low: Float[Tensor, "*batch"]
    """10 % quantile of R^2."""
    sigma_median: Float[Tensor, "*batch"]
    """Median width of the fitted bump (radians)."""
    bumps_mean: Float[Tensor, "*batch"]
    """Mean number of bumps; flat curves have 0."""
    length_median: Float[Tensor, "*batch"]
    """Median mean vector length; NaN if all counted neurons have negative values."""
    half_width_median: Float[Tensor, "*batch"]
    """Median full width at half height (radians)."""
    largest_gap: Float[Tensor, "*batch"]
    """Largest arc without a preferred direction (radians)."""


def tuning_summary(
    codes: Float[Tensor, "*batch bins neurons"],
    *,
    mask: Bool[Tensor, "*batch neurons"] | None = None,
) -> TuningSummary:
    """Measures the tuning of every neuron and sums it up over the active ones.

    Arguments:
        codes: Tuning curves; rows are headings 2 pi n / N.
        mask: Which neurons count; None means `active(codes)`. Pass all ones for recorded cells,
            whose peak rates differ too much for that rule.

    Returns:
        The record. A figure is NaN where no counted neuron has it; quantiles interpolate linearly.

    Raises:
        TypeError: If `codes` holds no floating-point numbers.
        ValueError: If `codes` are no tuning curves, or `mask` has another shape.
    """
    counted = active(codes) if mask is None else mask
    if counted.shape != codes.mT.shape[:-1]:
        raise ValueError(
            f"mask must have shape {tuple(codes.mT.shape[:-1])}, one entry per neuron, got "
            f"{tuple(counted.shape)}"
        )
    fit, count, vector, width = (
        gaussian_fit(codes),
        bumps(codes),
        mean_vector(codes),
        half_width(codes),
    )

    def over_counted(values: Tensor, quantile: float = 0.5) -> Tensor:
        kept = torch.where(counted, values, torch.full_like(values, math.nan))
        return torch.nanquantile(kept, quantile, dim=-1)

    neurons = counted.sum(dim=-1)
    return TuningSummary(
        counted=counted,
        fit=fit,
        bumps=count,
        mean_vector=vector,
        half_width=width,
        neurons=neurons,
        untuned=(counted & untuned(codes)).sum(dim=-1),
        r2_median=over_counted(fit.r2),
        r2_low=over_counted(fit.r2, 0.1),
        sigma_median=over_counted(fit.sigma),
        bumps_mean=(count * counted).sum(dim=-1).to(codes) / neurons,
        length_median=over_counted(vector.length),
        half_width_median=over_counted(width),
        largest_gap=largest_gap(vector.direction, counted),
    )
