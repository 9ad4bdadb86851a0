"""Several latents in one vector, by name."""

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
        shapes: Name to shape of each block, in order.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        """Length of the packed axis."""
        return sum(map(math.prod, self.shapes.values()))

    def pack(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """Returns the packed tensor, `(*batch, total)`, of blocks of shape `(*batch, *shape)`.

        Raises:
            ValueError: If a block is missing, unknown, or of another shape.
        """
        if set(blocks) != set(self.shapes):
            raise ValueError(f"blocks must be {list(self.shapes)}, got {list(blocks)}")
        for name, shape in self.shapes.items():
            if tuple(blocks[name].shape[-len(shape) :]) != shape:
                raise ValueError(
                    f"block {name!r} must end in shape {shape}, got {tuple(blocks[name].shape)}"
                )
        return torch.cat([blocks[n].flatten(-len(s)) for n, s in self.shapes.items()], dim=-1)

    def unpack(self, packed: Float[Tensor, "*batch total"]) -> dict[str, Tensor]:
        """Returns the blocks by name, each `(*batch, *shape)`; views where possible.

        Raises:
            ValueError: If the last axis is not `total` long.
        """
        if packed.shape[-1:] != (self.total,):
            raise ValueError(
                f"the last axis must be {self.total} long, got shape {tuple(packed.shape)}"
            )
        lengths = [math.prod(shape) for shape in self.shapes.values()]
        pieces = torch.split(packed, lengths, dim=-1)
        return {
            name: piece.reshape(*piece.shape[:-1], *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
