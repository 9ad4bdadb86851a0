"""Finding the shards of a split and checking them before anything is read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lv_text.store.layout import RECORD, FolderRecord, ShardRecord, map_file, token_type
from lv_text.vocabulary import Vocabulary, check_vocabulary

__all__ = ["Opened", "open_split"]

_OFFSET = np.dtype("<i8")
_PIECE = 2**22  # tokens that are searched for BOS at a time


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A shard whose size was checked."""

    path: Path
    """the file of tokens"""
    tokens: int
    """number of tokens"""
    documents: int
    """number of documents; 0 where it is not known"""
    text_bytes: int | None
    """UTF-8 bytes of the text; None = not known"""
    found: NDArray[np.int64] | None = None
    """offsets of documents found by reading the tokens, where there is no file of them"""

    @property
    def offsets_known(self) -> bool:
        """Whether it is known where documents begin."""
        return self.found is not None or self.path.with_suffix(".idx").is_file()

    def offsets(self) -> NDArray[np.int64] | None:
        """Returns where the documents begin, and the length; None where it is not known."""
        if self.found is not None:
            return self.found
        index = self.path.with_suffix(".idx")
        return map_file(index, _OFFSET) if index.is_file() else None


def open_split(
    folder: Path, split: str, vocabulary: Vocabulary, *, documents: bool
) -> list[Opened]:
    """Returns the shards of a split in the order of reading.

    Arguments:
        folder: Where.
        split: First part of the file names.
        vocabulary: The one that is said to have made the ids.
        documents: Whether it must be known where documents begin.

    Raises:
        FileNotFoundError: If the folder, the split or a shard is not there.
        ValueError: If the shards were made with another vocabulary, are unfinished, cut short or
            damaged, or documents cannot be found.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: write a corpus there first")
    record = FolderRecord.read(folder)
    paths = sorted(folder.glob(f"{split}*.bin"))
    listed = record.splits.get(split) if record is not None else None
    if listed is None and not paths:
        held = sorted(record.splits) if record is not None else []
        raise FileNotFoundError(
            f"{folder} holds no {split}*.bin"
            + (
                f"; it has the splits {', '.join(held)}"
                if held
                else ": write a corpus there first"
            )
        )
    if record is None or listed is None:
        shards = [_open_foreign(path, vocabulary) for path in paths]
    else:
        check_vocabulary(f"the corpus {folder}", vocabulary, record.fingerprint)
        if not listed.complete:
            raise ValueError(
                f"split {split!r} of {folder} is unfinished: its writer was interrupted after "
                f"{listed.documents + listed.skipped} documents; resume or remove it"
            )
        strangers = {path.name for path in paths} - record.listed()
        if strangers:
            raise ValueError(
                f"{folder} holds {sorted(strangers)[0]}, which {RECORD} does not list: remove it "
                "or keep it in a folder of its own"
            )
        shards = [_open_own(folder / shard.name, shard, vocabulary) for shard in listed.shards]
    return [_with_documents(shard, vocabulary) for shard in shards] if documents else shards


def _open_foreign(path: Path, vocabulary: Vocabulary) -> Opened:
    width, size = token_type(vocabulary.size).itemsize, path.stat().st_size
    if size % width:
        raise ValueError(
            f"{path} has {size} bytes, no multiple of {width} for a vocabulary of "
            f"{vocabulary.size}: it is cut short or no file of tokens"
        )
    index = path.with_suffix(".idx")
    documents = index.stat().st_size // _OFFSET.itemsize - 1 if index.is_file() else 0
    shard = Opened(path=path, tokens=size // width, documents=documents, text_bytes=None)
    if index.is_file():
        _check_offsets(shard)
    return shard


def _open_own(path: Path, record: ShardRecord, vocabulary: Vocabulary) -> Opened:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, although {RECORD} lists it: write it again")
    expected = record.tokens * token_type(vocabulary.size).itemsize
    if (size := path.stat().st_size) != expected:
        raise ValueError(
            f"{path} has {size} bytes, {RECORD} says {expected} ({record.tokens} tokens): it is "
            "cut short or was changed; copy or write it again"
        )
    shard = Opened(
        path=path,
        tokens=record.tokens,
        documents=record.documents,
        text_bytes=record.text_bytes,
    )
    if shard.offsets_known:
        _check_offsets(shard)
    return shard


def _check_offsets(shard: Opened) -> None:
    index = shard.path.with_suffix(".idx")
    size, expected = index.stat().st_size, (shard.documents + 1) * _OFFSET.itemsize
    if size != expected or size < _OFFSET.itemsize:
        raise ValueError(
            f"{index} has {size} bytes, expected {expected} for {shard.documents} documents: it "
            "is cut short or was changed"
        )
    offsets = shard.offsets()
    assert offsets is not None  # the caller saw the file
    if offsets[0] != 0 or offsets[-1] != shard.tokens or (np.diff(offsets) < 1).any():
        raise ValueError(
            f"{index} must rise from 0 to {shard.tokens}, got {offsets[0]}..{offsets[-1]}: it "
            f"does not belong to {shard.path.name}"
        )


def _with_documents(shard: Opened, vocabulary: Vocabulary) -> Opened:
    """Returns the shard with documents found by their BOS, where no file says where they are."""
    if shard.offsets_known:
        return shard
    starts = [np.zeros(0, np.int64)]
    for low in range(0, shard.tokens, _PIECE):
        # Mapped anew, so that pages that were searched are let go.
        piece = map_file(shard.path, token_type(vocabulary.size))[low : low + _PIECE]
        starts.append(np.flatnonzero(piece == vocabulary.bos) + low)
    offsets = np.concatenate([*starts, [shard.tokens]]).astype(np.int64)
    if offsets[0] != 0:
        raise ValueError(
            f"{shard.path} has no .idx beside it and does not begin with BOS (id "
            f"{vocabulary.bos}), so its documents cannot be found: use blocks='stream'"
        )
    return Opened(
        path=shard.path,
        tokens=shard.tokens,
        documents=len(offsets) - 1,
        text_bytes=shard.text_bytes,
        found=offsets,
    )
