"""Starts of chains as a function of the item alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.random import stream
from lv_core.storage import check_shape

__all__ = ["BLOCK", "Starts"]

BLOCK = 1024
"""Number of items whose starts are drawn from one stream; part of the definition of the starts."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Says where the chain of each data item starts.

    Raises:
        ValueError: If `n_items` is not positive, `scale` is given along with `init`, or a tensor
            `init` has another shape than `(n_items, *event)`.
    """

    n_items: int
    """number of data items"""
    event: tuple[int, ...]
    """shape of one position"""
    seed: int
    """seed of the streams"""
    scale: float = 1.0
    """standard deviation of normal starts"""
    init: Tensor | Callable[..., Tensor] | None = None
    """the starts themselves; a function of a block of items; or None = normal"""

    def __post_init__(self) -> None:
        if self.n_items < 1:
            raise ValueError(f"n_items must be positive, got {self.n_items}")
        if self.init is not None and self.scale != 1.0:
            raise ValueError(f"scale must be left at 1 where init is given, got {self.scale}")
        if isinstance(self.init, Tensor):
            check_shape("init", self.init, (self.n_items, *self.event))

    @property
    def settings(self) -> dict[str, str]:
        """What has to agree between who saves rows and who goes on from them."""
        kind = "tensor" if isinstance(self.init, Tensor) else "function"
        kind = "normal" if self.init is None else kind
        return {"init": kind, "seed": str(self.seed), "scale": repr(self.scale)}

    def of(self, items: Tensor) -> Tensor:
        """Returns the starts of items, int64 `(n,)`, that all lie in one block of `BLOCK`.

        Raises:
            ValueError: If `init` returns another shape.
        """
        if isinstance(self.init, Tensor):
            return self.init.detach()[items.to(self.init.device)]
        block = int(items[0]) // BLOCK
        low, high = block * BLOCK, min((block + 1) * BLOCK, self.n_items)
        generator = stream(self.seed, "bank", block)
        if self.init is None:
            # The whole block, so that starts do not depend on the number of items.
            noise = torch.empty((BLOCK, *self.event), dtype=torch.float32)
            starts = self.scale * noise.normal_(generator=generator)
        else:
            starts = self.init(torch.arange(low, high), generator=generator)
            check_shape("the result of init", starts, (high - low, *self.event))
        return starts.detach()[(items - low).to(starts.device)]
