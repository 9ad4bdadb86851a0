"""Rotation and sense of turning between two populations.

A learned ring starts anywhere and runs either way around, and recorded cells turn together when
their cues are moved: populations are compared after one rotation and, perhaps, one reflection.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lv_neuro.analysis.tuning import check_codes
from lv_neuro.angles import TURN, grid, heading

__all__ = ["Alignment", "align", "align_directions", "rotate"]

FINER = 16
"""Rotations tried per bin, before a parabola through the best three."""


class Alignment(NamedTuple):
    """The best map heading -> direction * heading + rotation onto a reference."""

    rotation: Float[Tensor, "*batch"]
    """Radians in [0, 2 pi)."""
    direction: Int[Tensor, "*batch"]
    """+1 where both turn the same way, -1 where they turn opposite ways."""
    match: Float[Tensor, "*batch"]
    """How well it fits; 1 is perfect."""


def align_directions(
    directions: Float[Tensor, "*batch neurons"],
    reference: Float[Tensor, "*batch neurons"],
    mask: Bool[Tensor, "*batch neurons"] | None = None,
) -> Alignment:
    """Finds the rotation and sense of turning that map angles best onto others, pair by pair.

    Maximizes the mean of cos(reference_j - c directions_j - rotation), in closed form for each
    c in {-1, +1}. The angles may be preferred directions of the same neurons in two codes, places
    of neurons on a ring, or angles of the same headings in two PCA planes.

    Arguments:
        directions: Angles that are mapped (radians).
        reference: Angles that they are mapped onto (radians).
        mask: Which pairs count; None means all. Pairs with NaN are left out.

    Returns:
        The alignment; `match` is the resultant length |mean_j exp(i (reference_j - c
        directions_j))|. All ties go to c = +1. NaN (and +1) where no pair is left.

    Raises:
        ValueError: If the shapes differ.
    """
    if directions.shape != reference.shape:
        raise ValueError(
            "directions and reference must have one angle per neuron each, got shapes "
            f"{tuple(directions.shape)} and {tuple(reference.shape)}"
        )
    kept = directions.isfinite() & reference.isfinite()
    kept = kept if mask is None else kept & mask
    count = kept.sum(dim=-1)
    zero = torch.zeros_like(reference)
    sense = torch.tensor([1, -1], device=reference.device)
    # (2, *batch, neurons)
    shift = reference - sense.view(2, *[1] * reference.ndim) * directions
    north = torch.where(kept, shift.sin(), zero).sum(dim=-1) / count
    east = torch.where(kept, shift.cos(), zero).sum(dim=-1) / count
    match, best = torch.hypot(north, east).max(dim=0)
    rotation = heading(torch.atan2(north, east)).gather(0, best[None]).squeeze(0)
    return Alignment(rotation, torch.where(count > 0, sense[best], 1), match)


def align(
    codes: Float[Tensor, "*batch bins neurons"],
    reference: Float[Tensor, "*batch bins neurons"],
) -> Alignment:
    """Finds the rotation and sense of turning that map tuning curves best onto others.

    Maximizes sum_x <codes(x), reference(c x + rotation)> over c in {-1, +1} and the rotation, with
    curves centered over headings: circular cross-correlation, interpolated between bins.

    Arguments:
        codes: Tuning curves that are mapped.
        reference: Tuning curves of the same neurons on the same grid, e.g. in another session.

    Returns:
        The alignment; `rotate(codes, rotation, direction)` then resembles `reference`. `match` is
        the correlation of all bins of all neurons. NaN where one of both is constant.

    Raises:
        TypeError: If a tensor holds no floating-point numbers.
        ValueError: If a tensor is no set of tuning curves, or the shapes differ.
    """
    check_codes(codes)
    check_codes(reference, name="reference")
    if codes.shape != reference.shape:
        raise ValueError(
            "codes and reference must be tuning curves of the same neurons on the same grid, got "
            f"shapes {tuple(codes.shape)} and {tuple(reference.shape)}; match neurons first, or "
            "align preferred directions"
        )
    bins = codes.shape[-2]
    a, b = (value - value.mean(dim=-2, keepdim=True) for value in (codes, reference))
    size = torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b)
    spectrum, target = torch.fft.rfft(a, dim=-2), torch.fft.rfft(b, dim=-2)
    # reflected curves have conjugated spectra
    both = torch.stack([spectrum.conj() * target, spectrum * target]).sum(dim=-1)
    if bins % 2 == 0:
        # the highest harmonic stands for both signs of the frequency; longer series split it
        both[..., -1] = both[..., -1] / 2
    found = torch.fft.irfft(both, n=FINER * bins, dim=-1) * FINER  # (2, *batch, rotations)
    top, place = found.max(dim=-1, keepdim=True)
    before, after = (found.gather(-1, (place + offset) % (FINER * bins)) for offset in (-1, 1))
    curvature = before - 2 * top + after
    safe = torch.where(curvature < 0, curvature, -torch.ones_like(curvature))
    part = torch.where(curvature < 0, 0.5 * (before - after) / safe, torch.zeros_like(top))
    rotation = heading((place + part) * (TURN / (FINER * bins))).squeeze(-1)
    peak = (top - 0.25 * (before - after) * part).squeeze(-1)
    peak, best = peak.max(dim=0)
    rotation = rotation.gather(0, best[None]).squeeze(0)
    missing = torch.full_like(peak, math.nan)
    varies = size > 0
    return Alignment(
        torch.where(varies, rotation, missing),
        torch.where(varies, 1 - 2 * best, 1),
        torch.where(varies, peak / size, missing),
    )


def rotate(
    codes: Float[Tensor, "*batch bins neurons"],
    rotation: Float[Tensor, "*batch"],
    direction: Int[Tensor, "*batch"],
) -> Float[Tensor, "*batch bins neurons"]:
    """Moves tuning curves along heading -> direction * heading + rotation.

    Values between bins are interpolated linearly, so rates stay non-negative; norms of rows may
    shrink slightly.

    Arguments:
        codes: Tuning curves.
        rotation: Radians.
        direction: +1, or -1 for a reflection first.
    """
    check_codes(codes)
    bins = codes.shape[-2]
    x = grid(bins, like=codes)
    # the heading whose value arrives at x
    source = direction[..., None] * (x - rotation[..., None])
    place = heading(source) * (bins / TURN)
    low = place.floor()
    share = (place - low)[..., None]
    index = low.long()[..., None].expand(codes.shape)
    lower, upper = codes.gather(-2, index % bins), codes.gather(-2, (index + 1) % bins)
    return (1 - share) * lower + share * upper
