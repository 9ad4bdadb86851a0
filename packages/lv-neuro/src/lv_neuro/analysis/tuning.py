"""Tuning curves one neuron at a time: bumps, widths, preferred directions.

Shapes: `*batch` stacked populations (seeds), N bins = rows = headings 2 pi n / N without a
repeated end row, d neurons = columns. Recorded tuning curves in spikes per second are held the
same way.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lv_neuro.angles import grid, heading

__all__ = [
    "MeanVector",
    "active",
    "bumps",
    "check_codes",
    "half_width",
    "largest_gap",
    "mean_vector",
    "preferred_directions",
    "untuned",
]

FEWEST_BINS = 8


class MeanVector(NamedTuple):
    """The mean resultant vector of tuning curves."""

    length: Float[Tensor, "*batch neurons"]
    """|sum_x v e^{ix}| / sum_x v in [0, 1]; NaN for neurons that fall below 0 or are silent."""
    direction: Float[Tensor, "*batch neurons"]
    """Preferred direction in [0, 2 pi); NaN where the vector vanishes."""


def check_codes(codes: Tensor, *, name: str = "codes") -> None:
    """Refuses tensors that cannot be tuning curves on a closed grid of headings.

    Arguments:
        codes: Tuning curves, shape `(*batch, bins, neurons)`.
        name: Name of the argument, for the message.

    Raises:
        TypeError: If `codes` holds no floating-point numbers.
        ValueError: If an axis is missing or empty, there are fewer than 8 bins, or a value is NaN
            or infinite.
    """
    if not codes.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {codes.dtype}: use .float()")
    shape = tuple(codes.shape)
    if codes.ndim < 2 or 0 in shape:
        raise ValueError(
            f"{name} must have shape (*batch, bins, neurons) without empty axes, got {shape}"
        )
    if shape[-2] < FEWEST_BINS:
        raise ValueError(
            f"{name} must have at least {FEWEST_BINS} bins on the axis before the last, got "
            f"shape {shape}: rows are headings and columns neurons; use .mT if they are swapped"
        )
    if not bool(torch.isfinite(codes).all()):
        bad = int((~torch.isfinite(codes)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite values of {codes.numel()}: "
            "interpolate headings that were never visited or drop the neuron"
        )


def untuned(codes: Float[Tensor, "*batch bins neurons"]) -> Bool[Tensor, "*batch neurons"]:
    """Returns which neurons answer to all headings alike, up to rounding.

    Silent neurons are among them. Every ratio to a curve's variance or height is 0/0 for them, so
    the other functions report NaN there, and 0 bumps.
    """
    check_codes(codes)
    low, high = codes.aminmax(dim=-2)
    return high - low <= 4 * torch.finfo(codes.dtype).eps * torch.maximum(low.abs(), high.abs())


def active(
    codes: Float[Tensor, "*batch bins neurons"], *, share: float = 0.1
) -> Bool[Tensor, "*batch neurons"]:
    """Returns which neurons are active: max_x v_i(x) > share * max over all neurons.

    Arguments:
        codes: Tuning curves.
        share: Part of the population's largest value that a neuron's peak must pass, in [0, 1).

    Raises:
        ValueError: If `share` is outside [0, 1).

    Source:
        The rule by which neurons that the projection onto non-negative codes has silenced are left
        out of every metric. Recorded cells differ in peak rate by more than a factor of ten: pass
        a mask of all cells to `tuning_summary` for them.
    """
    check_codes(codes)
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    peak = codes.amax(dim=-2)
    return peak > share * peak.amax(dim=-1, keepdim=True)


def bumps(codes: Float[Tensor, "*batch bins neurons"]) -> Int[Tensor, "*batch neurons"]:
    """Counts the bumps of each tuning curve: up-crossings of (min + max) / 2 around the circle.

    1 = unimodal. Noise near half height counts as further bumps, so smooth recorded curves first.
    """
    check_codes(codes)
    low, high = codes.aminmax(dim=-2, keepdim=True)
    # halves first: the sum of two large numbers may overflow
    above = codes > low / 2 + high / 2
    count = (above & ~above.roll(1, dims=-2)).sum(dim=-2)
    return torch.where(untuned(codes), torch.zeros_like(count), count)


def mean_vector(codes: Float[Tensor, "*batch bins neurons"]) -> MeanVector:
    """Returns the mean vector length and the preferred direction of each neuron.

    R_i = |sum_x v_i(x) e^{ix}| / sum_x v_i(x), preferred direction = argument of the same sum.

    The length is a resultant length for non-negative rates only, so it is NaN for a neuron with a
    negative value anywhere. The direction is the phase of the first harmonic, which no constant
    added to the curve changes: it is given for such neurons as well.

    Returns:
        Lengths, and directions in radians. Directions are NaN where the first harmonic vanishes to
        rounding (untuned neurons, or several equal bumps).

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024, compare
        with head-direction cells; the measure is the usual one for such cells.
    """
    check_codes(codes)
    x = grid(codes.shape[-2], like=codes)[:, None]
    east, north = (codes * x.cos()).sum(dim=-2), (codes * x.sin()).sum(dim=-2)
    size = torch.hypot(east, north)
    total = codes.sum(dim=-2)
    missing = torch.full_like(size, math.nan)
    defined = (codes >= 0).all(dim=-2) & (total > 0)
    rounding = 4 * torch.finfo(codes.dtype).eps * codes.abs().sum(dim=-2)
    return MeanVector(
        torch.where(defined, size / total, missing),
        torch.where(size > rounding, heading(torch.atan2(north, east)), missing),
    )


def preferred_directions(
    codes: Float[Tensor, "*batch bins neurons"],
) -> Float[Tensor, "*batch neurons"]:
    """Returns the preferred directions in [0, 2 pi): the arguments of the mean vectors."""
    return mean_vector(codes).direction


def largest_gap(
    directions: Float[Tensor, "*batch neurons"],
    mask: Bool[Tensor, "*batch neurons"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Returns the largest arc without a preferred direction (radians), a measure of coverage.

    d equally spaced directions have the gap 2 pi / d, a single one has 2 pi.

    Arguments:
        directions: Preferred directions in radians; NaN ones are left out.
        mask: Which neurons count, usually `active(codes)`; None means all.

    Returns:
        One gap per population, in (0, 2 pi]; NaN where no direction is left.
    """
    kept = directions.isfinite() if mask is None else directions.isfinite() & mask
    count = kept.sum(dim=-1, keepdim=True)
    infinite = torch.full_like(directions, math.inf)
    ordered = torch.where(kept, heading(directions), infinite).sort(dim=-1).values
    first = ordered[..., :1]
    last = ordered.gather(-1, (count - 1).clamp_min(0))
    # the arc from the last direction across 0 to the first
    across = first + 2 * math.pi - last
    inner = ordered[..., 1:] - ordered[..., :-1]
    inner = torch.where(inner.isfinite(), inner, torch.zeros_like(inner))
    gap = torch.cat([inner, across], dim=-1).amax(dim=-1)
    return torch.where(count.squeeze(-1) > 0, gap, torch.full_like(gap, math.nan))


def half_width(codes: Float[Tensor, "*batch bins neurons"]) -> Float[Tensor, "*batch neurons"]:
    """Returns the full width of the tallest bump at half height (radians).

    Half height is (min + max) / 2. The width runs from the last crossing before the peak to the
    first one after it, both interpolated linearly between bins.

    Returns:
        Widths in (0, 2 pi); NaN for untuned neurons. A Gaussian bump of width s on a flat floor
        has 2.355 s.
    """
    check_codes(codes)
    bins = codes.shape[-2]
    low, high = codes.aminmax(dim=-2, keepdim=True)
    level = low / 2 + high / 2
    steps = torch.arange(bins, device=codes.device)[:, None]
    peak = codes.argmax(dim=-2, keepdim=True)

    def side(sign: int) -> Tensor:
        seen = codes.gather(-2, (peak + sign * steps) % bins)
        # argmax of booleans finds the first one; the minimum is below unless the curve is flat
        outside = (seen <= level).byte().argmax(dim=-2, keepdim=True).clamp_min(1)
        after, before = seen.gather(-2, outside), seen.gather(-2, outside - 1)
        return (outside - 1 + (before - level) / (before - after)).squeeze(-2)

    width = (side(1) + side(-1)) * (2 * math.pi / bins)
    return torch.where(untuned(codes), torch.full_like(width, math.nan), width)
