"""What every vocabulary offers."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BOS", "EOS", "RECORD", "Ids", "Vocabulary", "check_vocabulary"]

BOS = "<|beginoftext|>"
"""Name of the token before each document."""
EOS = "<|endoftext|>"
"""Name of the token after each document."""
RECORD = "vocabulary.json"
"""File in a saved folder that says what kind of vocabulary it holds."""

Ids = Sequence[int] | Tensor | NDArray[np.integer]
"""Token ids in one axis."""

_NAMED = re.compile(f"({re.escape(BOS)}|{re.escape(EOS)})")
_INVALID = re.compile("([\udc80-\udcff]+)")


class Vocabulary(ABC):
    """Turns text into token ids and back, without loss for any text.

    Ids `0..size-3` are pieces of bytes and together hold every single byte; `eos = size - 2` and
    `bos = size - 1` have no bytes. (A vocabulary read from a file may order them otherwise.)

    Text that merely spells the name of a special token is ordinary text, so a document cannot
    smuggle in an end; `special=True` asks for the ids.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def pieces(self) -> Sequence[bytes]:
        """The bytes of each id in order; empty for special tokens."""

    @property
    @abstractmethod
    def bos(self) -> int:
        """Id of the token before each document."""

    @property
    @abstractmethod
    def eos(self) -> int:
        """Id of the token after each document."""

    @abstractmethod
    def _described(self) -> list[object]:
        """Returns everything that ids depend on, as plain JSON."""

    @abstractmethod
    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of texts in which nothing is special."""

    @abstractmethod
    def _encode_byte(self, byte: int) -> int:
        """Returns the id of a byte that stands alone."""

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Writes the files beside the record."""

    @property
    def size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.pieces)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that ids depend on: equal exactly if all ids mean the same."""
        text = json.dumps([self.kind, self.bos, self.eos, *self._described()])
        return sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, fingerprint={self.fingerprint[:12]!r})"

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Returns the ids of a text, without BOS and EOS around it.

        Arguments:
            text: Any text that UTF-8 can express.
            special: Whether the names `<|beginoftext|>` and `<|endoftext|>` in the text become
                the special ids; otherwise they are ordinary text.

        Raises:
            TypeError: If `text` is no string.
            ValueError: If `text` holds a lone surrogate.

        Example:
            >>> ByteVocabulary().encode("Hi")
            [72, 105]
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Returns the ids of each text, faster than one by one.

        Arguments:
            texts: Any number of texts.
            special: See `encode`.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
            ValueError: If a text holds a lone surrogate.
        """
        _check_texts(texts)
        if not special:
            return self._encode_plain(texts)
        parts = [_NAMED.split(text) for text in texts]
        plain = iter(self._encode_plain([piece for part in parts for piece in part[::2]]))
        ids = []
        for part in parts:
            row: list[int] = []
            for place, piece in enumerate(part):
                # Odd places of a split are what the pattern caught.
                row += [self._named[piece]] if place % 2 else next(plain)
            ids.append(row)
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """Returns ids of any bytes; those that are no UTF-8 become one id each.

        `decode_bytes(encode_bytes(data)) == data` for all data.
        """
        parts = _INVALID.split(data.decode("utf-8", errors="surrogateescape"))
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids += (self._encode_byte(b) for b in part.encode("utf-8", "surrogateescape"))
            else:
                ids += self.encode(part)
        return ids

    def decode(self, ids: Ids, *, special: bool = True) -> str:
        """Returns the text of ids; bytes that are no UTF-8 become the replacement character.

        Arguments:
            ids: Ids in one axis, as a list, tensor or array.
            special: Whether special ids are spelled out; False leaves them out.

        Raises:
            ValueError: If an id is outside the vocabulary, or `ids` has another number of axes.
        """
        return self._joined(ids, special=special).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Ids) -> bytes:
        """Returns the bytes of ids exactly; special ids have none.

        Raises:
            ValueError: If an id is outside the vocabulary, or `ids` has another number of axes.
        """
        return self._joined(ids, special=False)

    def byte_lengths(self) -> Int64[Tensor, " size"]:
        """Returns the number of bytes of each id, which bits per byte need; 0 for special ids."""
        return torch.tensor([len(piece) for piece in self.pieces])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the vocabulary to a folder, made where it does not exist.

        Arguments:
            folder: Where; files of an earlier vocabulary there are replaced.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._save(path)
        record = {
            "kind": self.kind,
            "size": self.size,
            "bos": self.bos,
            "eos": self.eos,
            "fingerprint": self.fingerprint,
        }
        (path / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @property
    def _named(self) -> dict[str, int]:
        return {BOS: self.bos, EOS: self.eos}

    def _joined(self, ids: Ids, *, special: bool) -> bytes:
        if isinstance(ids, Tensor | np.ndarray) and ids.ndim != 1:
            raise ValueError(
                f"ids must have one axis, got {tuple(ids.shape)}: decode one sequence at a time"
            )
        numbers = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids
        spelled = {number: name.encode() for name, number in self._named.items()}
        pieces, size, found = self.pieces, self.size, []
        for place, number in enumerate(numbers):
            if not 0 <= number < size:
                raise ValueError(
                    f"ids must lie in 0..{size - 1}, got {number} at place {place}: they were "
                    "made with another vocabulary or mark ignored places"
                )
            found.append(spelled.get(number, pieces[number]) if special else pieces[number])
        return b"".join(found)


def check_vocabulary(what: str, vocabulary: Vocabulary, fingerprint: str) -> None:
    """Raises unless ids that were made with one vocabulary may be read with another.

    Arguments:
        what: What holds the ids or the weights, for the message, such as "the checkpoint a.pt".
        vocabulary: The vocabulary at hand.
        fingerprint: The one that `what` recorded.

    Raises:
        ValueError: Names both fingerprints.
    """
    if vocabulary.fingerprint != fingerprint:
        raise ValueError(
            f"{what} was made with the vocabulary {fingerprint[:12]}, got {vocabulary!r}: their "
            "ids mean different text; load the vocabulary it was made with"
        )


def check_record(path: Path, vocabulary: Vocabulary) -> None:
    """Raises if the record beside a vocabulary's files speaks of another one.

    Raises:
        ValueError: If the record is of another kind, or the files were changed or mixed up.
    """
    record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    if record["kind"] != vocabulary.kind:
        raise ValueError(
            f"{path} holds a vocabulary of kind {record['kind']!r}, expected {vocabulary.kind!r}: "
            "use load_vocabulary"
        )
    check_vocabulary(str(path / RECORD), vocabulary, record["fingerprint"])


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, got one string: put it in a list")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {type(text).__name__} at place {place}")
        try:
            # Scanning is far cheaper than encoding, and the library below would not say where.
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {place} holds a lone surrogate at character {error.start}, which UTF-8 "
                "cannot express: clean it by text.encode('utf-8', 'replace').decode()"
            ) from error
