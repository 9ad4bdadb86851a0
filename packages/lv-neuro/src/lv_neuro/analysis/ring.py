"""Populations as a whole: the circle in PCA, the order of neurons on a ring, the kernel.

Shapes: `*batch` stacked populations (seeds), N bins = headings 2 pi n / N, d neurons.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lv_neuro.analysis.alignment import align_directions
from lv_neuro.analysis.tuning import check_codes
from lv_neuro.angles import grid, wrap
from lv_neuro.losses import kernel_target

__all__ = ["PrincipalCircle", "kernel_error", "principal_circle", "topography"]


class PrincipalCircle(NamedTuple):
    """The codes in the plane of their first two principal components."""

    projection: Float[Tensor, "*batch bins 2"]
    """Centered codes on PC1 and PC2; PC2 points so that the winding is not negative."""
    radius_cv: Float[Tensor, "*batch"]
    """Standard deviation of the radius over its mean; 0 for a circle."""
    winding: Float[Tensor, "*batch"]
    """Turns of the projection while the heading turns once, a whole number; 1 is wanted."""
    variance_share: Float[Tensor, "*batch"]
    """Share of the variance in PC1 and PC2."""


def principal_circle(codes: Float[Tensor, "*batch bins neurons"]) -> PrincipalCircle:
    """Projects codes on their first two principal components and measures the circle there.

    The winding number sums the angles between neighbours, the pair of last and first included:
    the closed curve turns a whole number of times. (On an open grid, end minus start would give
    (N - 1) / N for one turn.) Its sign means nothing, as axes of PCA may be flipped.

    A small radius CV proves nothing by itself: codes that wind several times around look perfect
    and stand for several headings each.

    Returns:
        The record; NaN for populations that do not depend on the heading.

    Raises:
        TypeError: If `codes` holds no floating-point numbers.
        ValueError: If `codes` are no tuning curves, or hold fewer than two neurons.

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024 (the
        clean circle in PCA).
    """
    check_codes(codes)
    if codes.shape[-1] < 2:
        raise ValueError(
            f"codes must hold at least two neurons for two components, got {tuple(codes.shape)}"
        )
    centered = codes - codes.mean(dim=-2, keepdim=True)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    projection = u[..., :2] * s[..., None, :2]
    angle = torch.atan2(projection[..., 1], projection[..., 0])
    turned = wrap(angle.roll(-1, dims=-1) - angle).sum(dim=-1) / (2 * math.pi)
    winding = turned.round()
    flip = torch.where(winding < 0, -1.0, 1.0).to(codes)
    projection = projection * torch.stack([torch.ones_like(flip), flip], dim=-1)[..., None, :]

    radius = torch.linalg.vector_norm(projection, dim=-1)
    variance = s.square()
    share = variance[..., :2].sum(dim=-1) / variance.sum(dim=-1)
    # what rounding leaves of a constant code
    floor = codes.shape[-2] * torch.finfo(codes.dtype).eps
    collapsed = s[..., 0] <= floor * torch.linalg.matrix_norm(codes)
    missing = torch.full_like(share, math.nan)
    return PrincipalCircle(
        projection,
        torch.where(collapsed, missing, radius.std(dim=-1, correction=0) / radius.mean(dim=-1)),
        torch.where(collapsed, missing, winding.abs()),
        torch.where(collapsed, missing, share),
    )


def topography(
    directions: Float[Tensor, "*batch neurons"],
    mask: Bool[Tensor, "*batch neurons"] | None = None,
    *,
    positions: Float[Tensor, " neurons"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Returns how well preferred directions follow the order of the neurons on a ring.

    max over c in {-1, +1} of |mean_j exp(i (PD_j - c 2 pi j / d))|, j over the counted neurons.

    Arguments:
        directions: Preferred directions PD_j in radians; NaN ones are left out.
        mask: Which neurons count, usually `active(codes)`; None means all.
        positions: Angle of each neuron on the ring (radians), e.g. of several channels; None means
            2 pi j / d.

    Returns:
        1 for perfect order, about 1 / sqrt(neurons) for none; NaN where no neuron is left.
    """
    places = grid(directions.shape[-1], like=directions) if positions is None else positions
    return align_directions(places.expand_as(directions), directions, mask).match


def kernel_error(
    codes: Float[Tensor, "*batch bins neurons"],
    *,
    sigma: float = 0.65,
    kind: Literal["kernel", "von_mises", "cosine"] = "kernel",
) -> Float[Tensor, "*batch"]:
    """Returns the root mean square of <V_n, V_m> - target(D_nm) over all pairs of headings.

    Its square is the kernel loss. Collapsed codes show at once: all products are 1.

    Arguments:
        codes: Codes of norm one.
        sigma: Width of the target kernel (radians), see `kernel_target`.
        kind: Form of the target kernel.
    """
    check_codes(codes)
    target = kernel_target(kind, codes.shape[-2], sigma, like=codes)
    return (codes @ codes.mT - target).square().mean(dim=(-2, -1)).sqrt()
