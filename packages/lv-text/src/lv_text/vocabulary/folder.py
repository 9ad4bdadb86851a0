"""Vocabularies of any kind from a folder."""

import json
import os
from pathlib import Path

from lv_text.vocabulary.base import RECORD, Vocabulary
from lv_text.vocabulary.bpe import BpeVocabulary
from lv_text.vocabulary.byte import ByteVocabulary

__all__ = ["load_vocabulary"]

_KINDS: dict[str, type[BpeVocabulary] | type[ByteVocabulary]] = {
    "bpe": BpeVocabulary,
    "byte": ByteVocabulary,
}


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Returns the vocabulary in a folder, of whichever kind it is.

    Arguments:
        folder: One that `Vocabulary.save` wrote, or one with the files of GPT-2.

    Raises:
        FileNotFoundError: If there is no vocabulary in the folder.
        ValueError: If its kind is unknown or its files are damaged.
    """
    path = Path(folder)
    if not (path / RECORD).is_file():
        return BpeVocabulary.load(path)
    kind = json.loads((path / RECORD).read_text(encoding="utf-8"))["kind"]
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of vocabulary {kind!r} in {path}; there are: bpe, byte")
    return _KINDS[kind].load(path)
