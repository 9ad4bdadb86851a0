"""In which order blocks are read."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from lv_core import stream

__all__ = ["ReadOrder"]


@dataclass(frozen=True, kw_only=True)
class ReadOrder:
    """A shuffled order of blocks that is a function of the step and stores no state.

    Each epoch has its own permutation of all blocks. The `world` ranks together read
    `batch_size * world` of them in each step, rank r the r-th part; so two ranks with 8 blocks
    each see exactly the 16 blocks that one process would, and no block comes twice in an epoch.
    What is left at the end of an epoch and fills no step is dropped, other blocks each time.

    A run is resumed by asking for the next step.

    Raises:
        ValueError: If a number is out of range or the blocks fill no step.
    """

    blocks: int
    """number of blocks in all"""
    batch_size: int
    """blocks per rank and step"""
    seed: int
    """chooses the permutations"""
    rank: int = 0
    """which process this is"""
    world: int = 1
    """number of processes"""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be in 0..world-1, got rank {self.rank}, {self.world=}")
        if self.steps < 1:
            raise ValueError(
                f"{self.blocks} blocks fill no step of batch_size {self.batch_size} x "
                f"{self.world} ranks: use a smaller batch_size or length, or more text"
            )

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return self.blocks // (self.batch_size * self.world)

    def epoch(self, epoch: int) -> Int64[Tensor, "steps batch"]:
        """Returns the blocks of this rank in one epoch, a row per step.

        Arguments:
            epoch: Counted from 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        return self._own(epoch).clone()

    def step(self, step: int) -> Int64[Tensor, " batch"]:
        """Returns the blocks of this rank in one step.

        Arguments:
            step: Counted from the start of the run: epoch * steps + step within the epoch.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        epoch, within = divmod(step, self.steps)
        return self._own(epoch)[within].clone()

    def _own(self, epoch: int) -> Tensor:
        used = self.steps * self.world * self.batch_size
        whole = _permutation(self.blocks, self.seed, epoch)[:used]
        return whole.view(self.steps, self.world, self.batch_size)[:, self.rank]


@lru_cache(maxsize=2)  # 8 bytes per block; a second one for a reader of another seed
def _permutation(blocks: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(blocks, generator=stream(seed, "blocks", epoch))
