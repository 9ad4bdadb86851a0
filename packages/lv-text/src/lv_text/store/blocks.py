"""Where the blocks of a shard lie."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "ShardBlocks", "document_blocks", "stream_blocks"]

Blocks = Literal["stream", "document"]
"""Whether blocks cross documents or not."""


@dataclass(frozen=True)
class ShardBlocks:
    """Blocks of one shard."""

    count: int
    """number of blocks"""
    length: int
    """targets of a full block"""
    first: NDArray[np.int64] | None
    """number of the first block of each document and the count at the end; None = stream"""
    dropped_documents: int
    """documents too short for a block"""
    dropped_tokens: int
    """targets that are in no block"""

    def locate(
        self, block: NDArray[np.int64], offsets: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Returns for blocks of this shard the first token, the tokens and the document.

        Arguments:
            block: Numbers counted from the first block of the shard, shape `(n,)`.
            offsets: Where the documents begin, and the length; None = unknown.

        Returns:
            Three vectors; a document is counted within the shard, -1 = unknown.
        """
        if self.first is None:
            start = block * self.length
            if offsets is None:
                return start, np.full_like(block, self.length + 1), np.full_like(block, -1)
            document = np.searchsorted(offsets, start, side="right") - 1
            return start, np.full_like(block, self.length + 1), document.astype(np.int64)
        assert offsets is not None  # made together with `first`
        # From the right: documents without a block share their number with the next one.
        document = np.searchsorted(self.first, block, side="right") - 1
        start = offsets[document] + (block - self.first[document]) * self.length
        tokens = np.minimum(offsets[document + 1] - start, self.length + 1)
        return start, tokens, document.astype(np.int64)


def stream_blocks(tokens: int, length: int) -> ShardBlocks:
    """Returns blocks at fixed multiples of `length`; the rest at the end is dropped."""
    targets = max(tokens - 1, 0)
    return ShardBlocks(targets // length, length, None, 0, targets % length)


def document_blocks(offsets: NDArray[np.int64], length: int, minimum: int) -> ShardBlocks:
    """Returns blocks that begin with each document and do not leave it.

    Arguments:
        offsets: Where the documents begin, and the length, shape `(documents + 1,)`.
        length: Targets of a full block.
        minimum: A last block of a document with fewer targets is dropped.
    """
    targets = np.diff(offsets) - 1
    rest = targets % length
    counts = targets // length + (rest >= max(minimum, 1))
    lost = np.where(rest < minimum, rest, 0)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ShardBlocks(int(first[-1]), length, first, int((counts == 0).sum()), int(lost.sum()))
