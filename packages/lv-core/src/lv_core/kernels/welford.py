"""Running moments of chains, pooled at the end."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lv_core.kernels.base import over_event

__all__ = ["Moments"]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and sum of squared deviations of each chain, updated one position at a time.

    Chains are kept apart until they are pooled, so that a chain that turns out to be stuck or
    frozen is left out with all its past.

    Source:
        Welford, "Note on a method for calculating corrected sums of squares and products", 1962;
        pooling: Chan, Golub and LeVeque, 1983.
    """

    mean: Tensor
    """shape `(*batch, *event)`"""
    squares: Tensor
    """sum of squared deviations from the mean, likewise"""
    count: int = 0
    """positions seen by each chain"""

    @classmethod
    def start(cls, u: Tensor) -> "Moments":
        """Returns the moments of no position at all."""
        return cls(mean=torch.zeros_like(u), squares=torch.zeros_like(u))

    def add(self, u: Tensor) -> "Moments":
        """Returns the moments with one more position of each chain."""
        off, n = u - self.mean, self.count + 1
        mean = self.mean + off / n
        return Moments(mean=mean, squares=self.squares + off * (u - mean), count=n)

    def pooled(self, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the variance over all positions of the usable chains, and their number.

        Chains that never moved are left out as well. Where nothing is left the variance is NaN.

        Arguments:
            usable: Which chains count, shape `(*batch,)`.

        Returns:
            The variance, shaped like the event, and the number of positions, a scalar tensor.
        """
        axes = tuple(range(usable.ndim))
        event = tuple(range(usable.ndim, self.mean.ndim))
        spread = self.squares.sum(dim=event) if event else self.squares
        mask = over_event(usable & (spread > 0) & torch.isfinite(spread), self.mean)
        # Zeroed before any product, as zero times NaN is NaN.
        mean, squares = torch.where(mask, self.mean, 0.0), torch.where(mask, self.squares, 0.0)
        chains = mask.sum()
        center = mean.sum(dim=axes) / chains
        between = torch.where(mask, (mean - center).square(), 0.0).sum(dim=axes)
        positions = self.count * chains
        within = squares.sum(dim=axes)
        variance = (within + self.count * between) / (positions - 1)
        return torch.where(positions > 1, variance, torch.nan), positions

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
