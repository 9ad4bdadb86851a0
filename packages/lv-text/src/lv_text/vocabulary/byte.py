"""Bytes as tokens."""

import os
from collections.abc import Sequence
from pathlib import Path

from lv_text.vocabulary.base import RECORD, Vocabulary, check_record

__all__ = ["ByteVocabulary"]


class ByteVocabulary(Vocabulary):
    """The 256 bytes of UTF-8, EOS (256) and BOS (257): nothing to train, nothing to load.

    Example:
        >>> vocabulary = ByteVocabulary()
        >>> vocabulary.decode(vocabulary.encode("naïve"))
        'naïve'
    """

    kind = "byte"

    def __init__(self) -> None:
        self._pieces = (*(bytes([b]) for b in range(256)), b"", b"")

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of each id in order; empty for special tokens."""
        return self._pieces

    @property
    def bos(self) -> int:
        """Id of the token before each document: 257."""
        return 257

    @property
    def eos(self) -> int:
        """Id of the token after each document: 256."""
        return 256

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "ByteVocabulary":
        """Returns the vocabulary that `save` wrote to a folder.

        Raises:
            FileNotFoundError: If nothing was saved there.
            ValueError: If the folder holds another kind of vocabulary.
        """
        path, vocabulary = Path(folder), cls()
        if not (path / RECORD).is_file():
            raise FileNotFoundError(
                f"{path} holds no {RECORD}: no byte vocabulary was saved there"
            )
        check_record(path, vocabulary)
        return vocabulary

    def _described(self) -> list[object]:
        return []

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def _encode_byte(self, byte: int) -> int:
        return byte

    def _save(self, folder: Path) -> None:
        """Writes nothing: the record says it all."""
