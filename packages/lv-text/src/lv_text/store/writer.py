"""Writing texts as token shards."""

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from lv_text.store.layout import (
    FolderRecord,
    ShardRecord,
    SplitRecord,
    token_type,
    vocabulary_record,
)
from lv_text.vocabulary import Vocabulary, check_vocabulary

__all__ = ["ShardWriter", "write_texts"]

Progress = Callable[[int, int], None]
"""Called with the documents and the tokens written so far."""


class ShardWriter:
    """Appends documents to the shards of one split, `BOS + text.strip() + EOS` each.

    A document never crosses shards. A shard appears in the folder when it is full, complete with
    its record; what a killed process leaves behind is a prefix of the corpus in whole shards.
    `resume=True` goes on behind them: give the documents from number `consumed` on and the shards
    become byte for byte those of a run that was never stopped.

    Use it as a context manager: leaving it normally writes the last shard and marks the split
    complete, leaving it by an exception keeps the whole shards and drops the open one. One writer
    per folder at a time.

    Arguments:
        folder: Where; made if it does not exist. Several splits may share it.
        vocabulary: Gives the ids; its fingerprint is recorded.
        split: First part of the file names, such as `train` or `val`.
        shard_tokens: A shard is closed before it would exceed this number of tokens; a longer
            document gets a shard to itself.
        empty: What happens to documents without text: `"raise"`, or `"skip"` and count them.
        resume: Whether to go on with a split that was left unfinished.

    Raises:
        ValueError: If the folder was written with another vocabulary, or the split exists.

    Example:
        >>> with ShardWriter("corpus", ByteVocabulary()) as writer:
        ...     writer.extend(["One document.", "Another one."])

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025; document format of its data loader.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        vocabulary: Vocabulary,
        *,
        split: str = "train",
        shard_tokens: int = 2**26,
        empty: Literal["raise", "skip"] = "raise",
        resume: bool = False,
    ) -> None:
        if not split.isidentifier():
            raise ValueError(f"split must be a plain name such as train, got {split!r}")
        if shard_tokens < 1:
            raise ValueError(f"shard_tokens must be positive, got {shard_tokens}")
        if empty not in ("raise", "skip"):
            raise ValueError(f"unknown empty {empty!r}; there are: raise, skip")
        self._folder, self._vocabulary, self._split = Path(folder), vocabulary, split
        self._shard_tokens, self._empty = shard_tokens, empty
        self._folder.mkdir(parents=True, exist_ok=True)
        record = FolderRecord.read(self._folder) or vocabulary_record(vocabulary)
        check_vocabulary(str(self._folder), vocabulary, record.fingerprint)
        found = record.splits.get(split)
        there = {path.name for path in self._folder.glob(f"{split}*.bin")}
        strangers = there - record.listed() if found is None else set()
        if strangers or (found is not None and (found.complete or not resume)):
            state = "complete" if found is None or found.complete else "unfinished"
            raise ValueError(
                f"{self._folder} holds a split {split!r} that is {state}: choose another folder "
                "or split, remove its files, or pass resume=True to finish an unfinished one"
            )
        self._done = found or SplitRecord(complete=False)
        self._file: BinaryIO | None = None
        self._start()
        self._commit()

    @property
    def consumed(self) -> int:
        """Number of documents taken so far, skipped ones included."""
        return self._done.documents + self._done.skipped + len(self._offsets) - 1 + self._skipped

    @property
    def written(self) -> SplitRecord:
        """What is in the finished shards so far."""
        return self._done

    def append(self, text: str) -> None:
        """Writes one document; see `extend`, which is faster for many."""
        self.extend([text])

    def extend(
        self, texts: Iterable[str], *, batch: int = 256, progress: Progress | None = None
    ) -> None:
        """Writes documents, read one batch at a time so that any number can be streamed.

        Arguments:
            texts: Documents.
            batch: Number of documents that are encoded together.
            progress: Called after each batch with the documents and tokens of this split so far,
                those of earlier runs included.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
            ValueError: If a document is empty and `empty="raise"`, naming its number.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be several strings, got one string: use append")
        if batch < 1:
            raise ValueError(f"batch must be positive, got {batch}")
        rest = iter(texts)
        while chunk := list(islice(rest, batch)):
            self._write(chunk)
            if progress is not None:
                documents = self._done.documents + len(self._offsets) - 1
                progress(documents, self._done.tokens + self._offsets[-1])

    def finish(self) -> SplitRecord:
        """Writes the open shard, marks the split complete and returns what it holds.

        Raises:
            ValueError: If no document was written.
        """
        if self._done.documents + len(self._offsets) == 1:
            raise ValueError(
                f"split {self._split!r} got no document ({self.consumed} empty ones skipped): "
                "check the source of texts"
            )
        self._close_shard()
        self._done = replace(self._done, complete=True)
        self._commit()
        return self._done

    def abandon(self) -> None:
        """Drops the open shard; finished shards stay and can be resumed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.abandon()

    def _write(self, texts: Sequence[str]) -> None:
        kept: list[str] = []
        # Skipped documents are counted with the document before them, so order matters.
        skips_before: list[int] = []
        skips = 0
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"texts must be strings, got {type(text).__name__} as document "
                    f"{self.consumed + place}"
                )
            if body := text.strip():
                kept.append(body)
                skips_before.append(skips)
                skips = 0
            elif self._empty == "skip":
                skips += 1
            else:
                raise ValueError(
                    f"document {self.consumed + place} is empty or only white space: remove it, "
                    "or pass empty='skip' to leave such documents out and count them"
                )
        encoded = self._vocabulary.encode_batch(kept)
        for body, ids, before in zip(kept, encoded, skips_before, strict=True):
            self._skipped += before
            self._write_document(ids, len(body.encode()))
        self._skipped += skips

    def _write_document(self, ids: list[int], text_bytes: int) -> None:
        length = self._offsets[-1]
        if length and length + len(ids) + 2 > self._shard_tokens:
            self._close_shard()
        if self._file is None:
            self._file = self._partial.open("wb")
        vocabulary = self._vocabulary
        tokens = np.array([vocabulary.bos, *ids, vocabulary.eos], token_type(vocabulary.size))
        self._file.write(tokens.tobytes())
        self._offsets.append(self._offsets[-1] + len(tokens))
        self._text_bytes += text_bytes

    def _start(self) -> None:
        name = f"{self._split}-{len(self._done.shards):05d}.bin"
        self._path = self._folder / name
        self._partial = self._folder / f"{name}.partial"
        self._offsets, self._skipped, self._text_bytes = array("q", [0]), 0, 0

    def _close_shard(self) -> None:
        """Puts the open shard in place; the record comes last, so it never speaks too early."""
        if self._file is None:  # only skipped documents since the last shard
            if self._skipped:
                last = self._done.shards[-1]
                last = replace(last, skipped=last.skipped + self._skipped)
                self._done = replace(self._done, shards=(*self._done.shards[:-1], last))
                self._skipped = 0
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        offsets = np.array(self._offsets, "<i8")
        index = self._path.with_suffix(".idx.partial")
        index.write_bytes(offsets.tobytes())
        index.replace(self._path.with_suffix(".idx"))
        self._partial.replace(self._path)
        shard = ShardRecord(
            name=self._path.name,
            tokens=self._offsets[-1],
            documents=len(self._offsets) - 1,
            skipped=self._skipped,
            text_bytes=self._text_bytes,
        )
        self._done = replace(self._done, shards=(*self._done.shards, shard))
        self._commit()
        self._start()

    def _commit(self) -> None:
        # Read again, as another split may have been finished meanwhile.
        record = FolderRecord.read(self._folder) or vocabulary_record(self._vocabulary)
        splits = {**record.splits, self._split: self._done}
        replace(record, splits=splits).write(self._folder)


def write_texts(
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    vocabulary: Vocabulary,
    *,
    split: str = "train",
    shard_tokens: int = 2**26,
    empty: Literal["raise", "skip"] = "raise",
    resume: bool = False,
    batch: int = 256,
    progress: Progress | None = None,
) -> SplitRecord:
    """Writes a corpus as one split of token shards and returns what it holds.

    Arguments:
        texts: All documents, in an order that is the same in each run if `resume` is to be used.
        folder: Where.
        vocabulary: Gives the ids.
        split: First part of the file names.
        shard_tokens: See `ShardWriter`.
        empty: See `ShardWriter`.
        resume: Whether to skip the documents that an interrupted run wrote and go on.
        batch: Number of documents that are encoded together.
        progress: Called with the documents and tokens written so far.

    Raises:
        ValueError: As `ShardWriter`; or if `resume` meets fewer texts than were written before.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several strings, got one string: put it in a list")
    with ShardWriter(
        folder, vocabulary, split=split, shard_tokens=shard_tokens, empty=empty, resume=resume
    ) as writer:
        rest = iter(texts)
        before = writer.consumed
        skipped = sum(1 for _ in islice(rest, before))
        if skipped < before:
            raise ValueError(
                f"texts hold {skipped} documents, but {before} were written before: resume needs "
                "all documents from the first on"
            )
        writer.extend(rest, batch=batch, progress=progress)
    return writer.written
