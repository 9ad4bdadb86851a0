"""The Rayleigh test: do spikes prefer a heading at all?"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.angles import check_radians

__all__ = ["RayleighTest", "rayleigh_test"]


class RayleighTest(NamedTuple):
    """Result of the Rayleigh test for non-uniformity."""

    length: Float[Tensor, "*batch"]
    """Mean resultant length R / n in [0, 1]."""
    statistic: Float[Tensor, "*batch"]
    """z = R^2 / n."""
    p_value: Float[Tensor, "*batch"]
    """Probability of a resultant at least as long under the uniform distribution."""
    log_p_value: Float[Tensor, "*batch"]
    """Natural logarithm of it, for strongly tuned cells whose p-value underflows to 0."""


def rayleigh_test(
    angles: Float[Tensor, "*batch samples"],
    counts: Tensor | None = None,
    *,
    bin_width: float | None = None,
) -> RayleighTest:
    """Tests whether headings are spread evenly over the circle, against one preferred direction.

    With n = sum counts and R = |sum counts e^{ix}|, the p-value is approximated by
    exp(sqrt(1 + 4n + 4(n^2 - R^2)) - (1 + 2n)), whose error is below 0.002 from n = 10 on.

    Arguments:
        angles: Headings at the spikes, or centers of bins, in radians.
        counts: Spikes at each heading, not negative, broadcast against `angles`; None means one
            each. Counts, not rates: rates would pretend another number of spikes.
        bin_width: Width of the bins in radians when `angles` are centers of equal bins; corrects
            the resultant for the grouping. None means exact headings.

    Returns:
        One result per leading index; NaN where there is no spike at all.

    Raises:
        TypeError: If `angles` holds no floating-point numbers.
        ValueError: If an angle or count is not finite, a count is negative, shapes do not
            broadcast, or `bin_width` is outside (0, pi].

    Warns:
        UserWarning: If angles look like degrees.

    Note:
        Spikes are taken as independent and headings as visited evenly. Neither holds for a freely
        moving animal: divide counts by occupancy in a tuning curve and shuffle spike times where
        the p-value matters.

    Source:
        The approximation is that of Zar, "Biostatistical Analysis", p. 617.
    """
    check_radians("angles", angles)
    weights = torch.ones_like(angles) if counts is None else counts.to(angles)
    try:
        weights = weights * torch.ones_like(angles)
    except RuntimeError:
        raise ValueError(
            f"counts must broadcast against angles of shape {tuple(angles.shape)}, got "
            f"{tuple(weights.shape)}"
        ) from None
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("counts must be finite and not negative, got NaN, infinite or below 0")
    correction = 1.0
    if bin_width is not None:
        if not 0 < bin_width <= math.pi:
            raise ValueError(f"bin_width must be in (0, pi] radians, got {bin_width}")
        correction = (bin_width / 2) / math.sin(bin_width / 2)
    n = weights.sum(dim=-1)
    east, north = (weights * angles.cos()).sum(dim=-1), (weights * angles.sin()).sum(dim=-1)
    resultant = torch.hypot(east, north)
    resultant = torch.minimum(correction * resultant, n)
    # sqrt(A - 4 R^2) - sqrt(A) with A = (1 + 2n)^2, without its cancellation at large n
    root = torch.sqrt(1 + 4 * n + 4 * (n - resultant) * (n + resultant))
    log_p = -4 * resultant.square() / (root + 1 + 2 * n)
    log_p = torch.where(n > 0, log_p, torch.full_like(log_p, math.nan))
    return RayleighTest(resultant / n, resultant.square() / n, log_p.exp(), log_p)
