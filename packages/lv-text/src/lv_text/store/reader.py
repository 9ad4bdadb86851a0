"""Reading blocks of tokens from shards."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from lv_text.store.blocks import Blocks, ShardBlocks, document_blocks, stream_blocks
from lv_text.store.layout import map_file, token_type
from lv_text.store.opening import Opened, open_split
from lv_text.store.order import ReadOrder
from lv_text.vocabulary import Vocabulary

__all__ = ["IGNORED", "Batch", "TokenStore"]

IGNORED = -100
"""Target at places that are not scored."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Blocks of tokens."""

    x: Int64[Tensor, "batch length"]
    """inputs"""
    y: Int64[Tensor, "batch length"]
    """targets: the token after each input; -100 behind the end of a document"""
    index: Int64[Tensor, " batch"]
    """number of each block in the whole split, which keys noise that belongs to a block"""
    document: Int64[Tensor, " batch"]
    """number of the document in the whole split in which a block begins; -1 = unknown"""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Returns the batch on a device.

        Arguments:
            device: Where to.
            non_blocking: Whether to copy while the program goes on, which needs pinned memory.
        """
        parts = {
            name: part.to(device, non_blocking=non_blocking) for name, part in vars(self).items()
        }
        return Batch(**parts)


class TokenStore:
    """Reads blocks of `length + 1` tokens from the shards of one split.

    Nothing but the table of documents is held in memory: shards are mapped for one batch at a
    time, so corpora of any size take the same room (8 bytes per document for blocks by document).

    Folders that other programs wrote hold `.bin` files alone; they are read too, with the type of
    ids that follows from the size of the vocabulary. Whether it is the right vocabulary can then
    be seen by its ids only, and documents are found by their BOS.

    Arguments:
        folder: Holds `train*.bin` and the like.
        vocabulary: The one that made the ids.
        length: Targets per block.
        split: First part of the file names.
        blocks: `"stream"` cuts the shards at fixed multiples of `length`, so blocks cross
            documents, as in the paper; `"document"` begins a new block with each document and
            fills the rest with EOS, whose targets are -100.
        minimum: Fewest targets of a block for `"document"`; shorter ends of documents, and
            documents that are shorter altogether, are dropped and counted.

    Raises:
        FileNotFoundError: If the folder or the split is not there.
        ValueError: If the shards were made with another vocabulary, are unfinished, cut short or
            damaged, or give no block.

    Example:
        >>> store = TokenStore("corpus", vocabulary, length=128, blocks="document")
        >>> order = store.order(batch_size=16, seed=0)
        >>> batch = store.read(order.step(0))  # batch.x, batch.y, batch.index, batch.document

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025; block format of its data loader.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        vocabulary: Vocabulary,
        *,
        length: int,
        split: str = "train",
        blocks: Blocks = "stream",
        minimum: int = 1,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be positive, got {length}")
        if not 1 <= minimum <= length:
            raise ValueError(f"minimum must be in 1..length = {length}, got {minimum}")
        if blocks not in ("stream", "document"):
            raise ValueError(f"unknown blocks {blocks!r}; there are: document, stream")
        self.folder, self.split, self.length = Path(folder), split, length
        self._vocabulary, self._dtype = vocabulary, token_type(vocabulary.size)
        self._shards = open_split(self.folder, split, vocabulary, documents=blocks == "document")
        self._blocks = [self._plan(shard, blocks, minimum) for shard in self._shards]
        counts = [plan.count for plan in self._blocks]
        self._bases = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        documents = [shard.documents for shard in self._shards]
        self._first_document = np.concatenate([[0], np.cumsum(documents)]).astype(np.int64)
        if len(self) == 0:
            unit = "document" if blocks == "document" else "shard"
            need = minimum if blocks == "document" else length
            raise ValueError(
                f"split {split!r} of {self.folder} gives no block: no {unit} has more than "
                f"{need} tokens ({self.tokens} in all); use a shorter length, or more text"
            )

    def __len__(self) -> int:
        """Returns the number of blocks."""
        return int(self._bases[-1])

    @property
    def tokens(self) -> int:
        """Number of tokens on disk."""
        return sum(shard.tokens for shard in self._shards)

    @property
    def documents(self) -> int | None:
        """Number of documents; None where it is not known."""
        return int(self._first_document[-1]) if self._documents_known else None

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of all texts; None where it is not known."""
        known = [shard.text_bytes for shard in self._shards if shard.text_bytes is not None]
        return sum(known) if len(known) == len(self._shards) else None

    @property
    def dropped_documents(self) -> int:
        """Documents that are too short for a block."""
        return sum(plan.dropped_documents for plan in self._blocks)

    @property
    def dropped_tokens(self) -> int:
        """Targets that are in no block."""
        return sum(plan.dropped_tokens for plan in self._blocks)

    def order(self, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> ReadOrder:
        """Returns the order in which one of several processes reads blocks in training.

        Arguments:
            batch_size: Blocks per process and step.
            seed: Chooses the order.
            rank: Which process this is.
            world: Number of processes.

        Raises:
            ValueError: If the blocks fill no step.
        """
        return ReadOrder(
            blocks=len(self), batch_size=batch_size, seed=seed, rank=rank, world=world
        )

    def in_turn(self, *, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yields each block once in the order of the files, for evaluation.

        The last batches may be smaller; a rank for which nothing is left gets one batch less.

        Arguments:
            batch_size: Blocks per process and batch.
            rank: Which process this is; rank r reads every `world`-th batch from the r-th on.
            world: Number of processes.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..world-1, got {rank=}, {world=}")
        for start in range(rank * batch_size, len(self), world * batch_size):
            yield self.read(torch.arange(start, min(start + batch_size, len(self))))

    def read(self, index: Int64[Tensor, " batch"]) -> Batch:
        """Returns blocks by their numbers.

        Arguments:
            index: Numbers in `0..len-1`, in any order, on the CPU.

        Raises:
            ValueError: If a number is out of range, or a shard holds ids that are outside the
                vocabulary.
        """
        wanted = index.numpy()
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise ValueError(
                f"index must lie in 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}"
            )
        n = len(wanted)
        rows = np.full((n, self.length + 1), self._vocabulary.eos, np.int64)
        sizes, document = np.zeros(n, np.int64), np.full(n, -1, np.int64)
        owner = np.searchsorted(self._bases, wanted, side="right") - 1
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            shard, base = self._shards[number], self._first_document[number]
            local = wanted[places] - self._bases[number]
            starts, sizes[places], found = self._blocks[number].locate(local, shard.offsets())
            document[places] = np.where(found < 0, -1, found + base)
            tokens = map_file(shard.path, self._dtype)
            for place, start in zip(places, starts, strict=True):
                rows[place, : sizes[place]] = tokens[start : start + sizes[place]]
                self._check_ids(rows[place], shard, int(start))
        x, y = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())
        behind = torch.arange(1, self.length + 1) >= torch.from_numpy(sizes)[:, None]
        return Batch(
            x=x,
            y=y.masked_fill_(behind, IGNORED),
            index=index,
            document=torch.from_numpy(document),
        )

    def verify(self) -> None:
        """Reads all shards once, a piece at a time.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        piece = 2**22
        for shard in self._shards:
            for start in range(0, shard.tokens, piece):
                tokens = map_file(shard.path, self._dtype)[start : start + piece]
                self._check_ids(tokens, shard, start)

    @property
    def _documents_known(self) -> bool:
        return all(shard.offsets_known for shard in self._shards)

    def _plan(self, shard: Opened, blocks: Blocks, minimum: int) -> ShardBlocks:
        if blocks == "stream":
            return stream_blocks(shard.tokens, self.length)
        offsets = shard.offsets()
        assert offsets is not None  # open_split saw to it
        return document_blocks(np.asarray(offsets), self.length, minimum)

    def _check_ids(self, tokens: NDArray[np.integer], shard: Opened, start: int) -> None:
        size = self._vocabulary.size
        if tokens.size and int(tokens.max()) >= size:
            place = int(np.argmax(tokens >= size))
            raise ValueError(
                f"{shard.path} holds the id {int(tokens[place])} at token {start + place}, "
                f"outside the vocabulary of {size}: it was made with another vocabulary or type"
            )
