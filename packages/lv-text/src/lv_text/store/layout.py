"""How a folder of token shards looks: names, types and the record beside the shards.

A shard is a flat little-endian file of token ids, `train-00000.bin`; beside it
`train-00000.idx` holds as int64 where its documents begin, and its length as the last entry.
`shards.json` says what each shard must hold.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lv_text.vocabulary import Vocabulary

__all__ = ["RECORD", "FolderRecord", "ShardRecord", "SplitRecord", "token_type"]

RECORD = "shards.json"
"""File in a folder of shards that says what they hold."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What one shard must hold."""

    name: str
    """file name"""
    tokens: int
    """number of token ids"""
    documents: int
    """number of documents"""
    skipped: int
    """number of empty documents that were left out"""
    text_bytes: int
    """UTF-8 bytes of the documents' text, which bits per byte need"""


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What the shards of one split hold."""

    complete: bool
    """whether the writer came to its end"""
    shards: tuple[ShardRecord, ...] = ()
    """in the order of reading"""

    @property
    def tokens(self) -> int:
        """Number of token ids."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(shard.documents for shard in self.shards)

    @property
    def skipped(self) -> int:
        """Number of empty documents that were left out."""
        return sum(shard.skipped for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the documents' text."""
        return sum(shard.text_bytes for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class FolderRecord:
    """The record of a folder."""

    fingerprint: str
    """of the vocabulary that made the ids"""
    size: int
    """of that vocabulary"""
    splits: dict[str, SplitRecord]
    """by name"""

    def listed(self) -> set[str]:
        """Returns the file names of all shards."""
        return {shard.name for split in self.splits.values() for shard in split.shards}

    @staticmethod
    def read(folder: Path) -> "FolderRecord | None":
        """Returns the record of a folder, None if it has none.

        Raises:
            ValueError: If the record is damaged.
        """
        path = folder / RECORD
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["dtype"] != str(token_type(found["size"])):
                raise ValueError(f"its ids are said to be {found['dtype']}")
            return FolderRecord(
                fingerprint=found["fingerprint"],
                size=found["size"],
                splits={
                    name: SplitRecord(
                        complete=split["complete"],
                        shards=tuple(ShardRecord(**shard) for shard in split["shards"]),
                    )
                    for name, split in found["splits"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no record of shards or is damaged: {error!r}") from error

    def write(self, folder: Path) -> None:
        """Replaces the record of a folder in one step."""
        partial = folder / f"{RECORD}.partial"
        content = {"dtype": str(token_type(self.size)), **asdict(self)}
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / RECORD)


def token_type(size: int) -> np.dtype[np.unsignedinteger]:
    """Returns the type of ids on disk: two bytes up to a vocabulary of 65,536, else four."""
    return np.dtype("<u2" if size <= 2**16 else "<u4")


def map_file(path: Path, dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Returns a file as an array that is read when it is looked at.

    Read pages stay resident as long as a mapping lives, so callers map anew for each piece of
    work instead of holding mappings.
    """
    return np.memmap(path, dtype=dtype, mode="r")


def vocabulary_record(vocabulary: Vocabulary) -> FolderRecord:
    """Returns the record of a folder without shards."""
    return FolderRecord(fingerprint=vocabulary.fingerprint, size=vocabulary.size, splits={})
