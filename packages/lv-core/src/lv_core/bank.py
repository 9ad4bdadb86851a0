"""Chains tied to data items."""

from typing import Any

import torch
from torch import Tensor

from lv_core.random import stream

__all__ = ["ChainBank"]


class ChainBank:
    """Positions of chains that belong to data items and live as long as the data does.

    Row `i` starts at `scale * N(0, I)` drawn from a stream derived from the seed and the row's
    block, so it does not depend on the order in which rows are first visited.

    Arguments:
        n_items: Number of data items.
        event: Shape of one position.
        seed: Seed of the starts.
        scale: Standard deviation of the starts.
        device: Where rows are stored and served.

    Raises:
        ValueError: If `n_items` is not positive.
    """

    _BLOCK = 1024

    def __init__(
        self,
        n_items: int,
        event: tuple[int, ...],
        *,
        seed: int,
        scale: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_items < 1:
            raise ValueError(f"n_items must be positive, got {n_items}")
        self.n_items, self.event, self.seed, self.scale = n_items, tuple(event), seed, scale
        self._u = torch.zeros((n_items, *self.event), device=device)
        self._age = torch.full((n_items,), -1, dtype=torch.int64, device=device)

    def get(self, index: Tensor) -> Tensor:
        """Returns the positions of items `index` (int64, shape `(n,)`): `(n, *event)`, a copy."""
        self._check(index)
        fresh = index[self._age[index] < 0]
        for block in torch.unique(fresh // self._BLOCK).tolist():
            self._start(fresh[fresh // self._BLOCK == block], block)
        return self._u[index]

    def put(self, index: Tensor, u: Tensor) -> None:
        """Stores `u` as the positions of items `index` and adds one to their age.

        Raises:
            ValueError: If an index occurs twice (which chain should win is undefined), or the
                shapes disagree.
        """
        self._check(index)
        if torch.unique(index).numel() != index.numel():
            raise ValueError("index must not contain an item twice: each item has one chain")
        if tuple(u.shape) != (index.numel(), *self.event):
            expected = (index.numel(), *self.event)
            raise ValueError(f"u must have shape {expected}, got {tuple(u.shape)}")
        self._u[index] = u.detach().to(self._u)
        self._age[index] = self._age[index].clamp(min=0) + 1

    def age(self, index: Tensor) -> Tensor:
        """Returns how often each item was stored; 0 = never."""
        self._check(index)
        return self._age[index].clamp(min=0)

    def state_dict(self) -> dict[str, Any]:
        """Returns all rows and ages."""
        return {"u": self._u, "age": self._age, "seed": self.seed, "scale": self.scale}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Restores rows and ages.

        Raises:
            ValueError: If the record is for another number of items or event shape.
        """
        if record["u"].shape != self._u.shape:
            expected, found = tuple(self._u.shape), tuple(record["u"].shape)
            raise ValueError(f"the saved bank has shape {found}, this one {expected}")
        self._u.copy_(record["u"])
        self._age.copy_(record["age"])
        self.seed, self.scale = record["seed"], record["scale"]

    def _start(self, index: Tensor, block: int) -> None:
        generator = stream(self.seed, "bank", block)
        rows = torch.empty((self._BLOCK, *self.event)).normal_(generator=generator)
        picked = rows[(index % self._BLOCK).cpu()]
        self._u[index] = (self.scale * picked).to(self._u)
        self._age[index] = 0

    def _check(self, index: Tensor) -> None:
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ValueError(f"index must be a vector of int64, got {index.dtype} {index.shape}")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.n_items:
            raise ValueError(f"index must lie in 0..{self.n_items - 1}")
