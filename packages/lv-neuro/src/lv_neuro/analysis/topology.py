"""Persistent homology of a population: is its set of codes one loop?"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.analysis.tuning import check_codes

__all__ = ["Persistence", "persistence"]


class Persistence(NamedTuple):
    """The longest bars of the first homology group."""

    bars: Float[Tensor, "*batch bars"]
    """Lengths (death minus birth), longest first, filled up with 0."""
    ratio: Float[Tensor, "*batch"]
    """Longest over second longest; infinite with a single bar, NaN without any."""


def persistence(codes: Float[Tensor, "*batch bins neurons"], *, bars: int = 5) -> Persistence:
    """Measures the loops in the cloud of codes by Vietoris-Rips persistence (Euclidean).

    One bar much longer than the second means one loop. It does not tell how often the code runs
    through it: see the winding number. The N codes are the points, so the cost grows faster
    than N^2 (0.01 s for N = 100, 0.1 s for N = 360), on the CPU.

    Arguments:
        codes: Tuning curves; each row is a point in the space of the neurons.
        bars: How many lengths are returned.

    Raises:
        ImportError: If ripser is not installed.
        TypeError: If `codes` holds no floating-point numbers.
        ValueError: If `codes` are no tuning curves, or `bars` is below 2.

    Source:
        Bauer, "Ripser: efficient computation of Vietoris-Rips persistence barcodes", 2021.
    """
    check_codes(codes)
    if bars < 2:
        raise ValueError(f"bars must be at least 2 to compare the longest two, got {bars}")
    try:
        import ripser  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            'persistence needs ripser; install it with: pip install "lv-neuro[topology]"'
        ) from error
    populations = codes.detach().reshape(-1, *codes.shape[-2:])
    lengths = torch.zeros(len(populations), bars, dtype=codes.dtype)
    for row, population in zip(lengths, populations, strict=True):
        points = torch.cdist(population, population, compute_mode="donot_use_mm_for_euclid_dist")
        diagram = ripser.ripser(points.cpu().numpy(), maxdim=1, distance_matrix=True)["dgms"][1]
        length = torch.from_numpy(diagram[:, 1] - diagram[:, 0]).to(row)
        longest = length.sort(descending=True).values[:bars]
        row[: len(longest)] = longest
    lengths = lengths.to(codes.device)
    ratio = torch.where(lengths[:, 0] > 0, lengths[:, 0] / lengths[:, 1], math.nan)
    return Persistence(lengths.reshape(*codes.shape[:-2], bars), ratio.reshape(codes.shape[:-2]))
