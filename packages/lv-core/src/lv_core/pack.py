"""Several variables in one vector, by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Pack"]


@dataclass(frozen=True)
class Pack:
    """Named blocks laid one after the other in the last axis of one tensor.

    Arguments:
        shapes: Name to shape of each block, in order; `()` is a single number.

    Raises:
        ValueError: If there is no block, or one has no entries.

    Example:
        >>> layout = Pack({"mu": (), "theta": (8,)})
        >>> layout.unpack(torch.zeros(64, 9))["theta"].shape
        torch.Size([64, 8])
        >>> to_arviz(trace, split=layout.unpack)  # the blocks as variables of ArviZ
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not self.shapes or min(self.lengths.values()) < 1:
            raise ValueError(
                f"shapes must hold at least one block, each with entries, got {dict(self.shapes)}"
            )

    @property
    def lengths(self) -> dict[str, int]:
        """Number of entries of each block, by name."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @property
    def total(self) -> int:
        """Length of the packed axis."""
        return sum(self.lengths.values())

    def pack(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """Returns the packed tensor, `(*batch, total)`, of blocks of shape `(*batch, *shape)`.

        Raises:
            ValueError: If a block is missing, unknown, or of another shape, or if the blocks
                have different batch axes.
        """
        if set(blocks) != set(self.shapes):
            raise ValueError(f"blocks must be {list(self.shapes)}, got {list(blocks)}")
        batches, rows = {}, []
        for name, shape in self.shapes.items():
            block = blocks[name]
            batch = block.shape[: block.ndim - len(shape)]
            if block.shape != (*batch, *shape):
                raise ValueError(
                    f"block {name!r} must end in shape {shape}, got {tuple(block.shape)}"
                )
            batches[name] = tuple(batch)
            rows.append(block.reshape((*batch, self.lengths[name])))
        if len(set(batches.values())) > 1:
            raise ValueError(f"blocks must have one batch shape before their own, got {batches}")
        return torch.cat(rows, dim=-1)

    def unpack(self, packed: Float[Tensor, "*batch total"]) -> dict[str, Tensor]:
        """Returns the blocks by name, each `(*batch, *shape)`; views where possible.

        Raises:
            ValueError: If the last axis is not `total` long.
        """
        if packed.shape[-1:] != (self.total,):
            raise ValueError(
                f"the last axis must be {self.total} long, got shape {tuple(packed.shape)}"
            )
        pieces = torch.split(packed, list(self.lengths.values()), dim=-1)
        return {
            name: piece.reshape((*piece.shape[:-1], *shape))
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
