"""Byte-pair encoding over bytes, as in GPT-2."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lv_text.vocabulary.base import BOS, EOS, RECORD, Vocabulary, check_record

__all__ = ["BpeVocabulary"]

_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # GPT-2's, Hugging Face's


def _letters() -> dict[str, int]:
    """Returns which byte each letter of the files stands for.

    Bytes that print in Latin-1 stand for themselves, the others take letters from 256 on.
    """
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in prints]
    return {chr(b): b for b in prints} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTERS = _letters()
_OF_BYTE = {b: letter for letter, b in _LETTERS.items()}


class BpeVocabulary(Vocabulary):
    """Byte-level byte-pair encoding in the manner of GPT-2.

    Text is cut into words, numbers, punctuation and white space, and the bytes of each piece are
    merged pair by pair in the order in which the merges were learned. Every byte is a token, so
    any text has ids and comes back exactly. With the files of GPT-2 the ids are those of GPT-2,
    `<|endoftext|>` is 50256, `<|beginoftext|>` is added as 50257 and the size is 50258.

    Code points newer than the Unicode tables of a tokenizer library count as punctuation there;
    two libraries may cut text with such new letters differently.

    Use `load` or `train`.

    Arguments:
        ids: Id of each token in the letters of GPT-2's files; must be 0..n-1, hold all bytes and
            `<|endoftext|>`. `<|beginoftext|>` is added as the last id where it is missing.
        merges: Pairs of tokens, first learned first.

    Raises:
        ValueError: If ids or merges do not fit together.

    Source:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2.
    """

    kind = "bpe"

    def __init__(self, ids: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        found = dict(ids)
        if sorted(found.values()) != list(range(len(found))):
            raise ValueError(
                f"ids must be 0..{len(found) - 1}, each once, got {min(found.values(), default=0)}"
                f"..{max(found.values(), default=0)}: the file of ids is damaged"
            )
        missing = [name for name in (EOS, *_LETTERS) if name not in found]
        if missing:
            raise ValueError(
                f"ids must hold {EOS} and all 256 bytes, {len(missing)} are missing, first "
                f"{missing[0]!r}: this is no byte-level vocabulary"
            )
        found.setdefault(BOS, len(found))
        self._bos, self._eos = found.pop(BOS), found.pop(EOS)
        pieces = [b""] * (len(found) + 2)
        for token, number in found.items():
            try:
                pieces[number] = bytes(_LETTERS[letter] for letter in token)
            except KeyError as error:
                raise ValueError(
                    f"ids hold the token {token!r}, whose letter {error} stands for no byte: "
                    f"special tokens other than {EOS} and {BOS} are not supported"
                ) from None
        for rank, (left, right) in enumerate(merges):
            if not {left, right, left + right} <= found.keys():
                raise ValueError(
                    f"merge {rank} joins {left!r} and {right!r}, and not all of these and what "
                    "they make are in ids: the two files are not of one vocabulary"
                )
        self._pieces, self._merges, self._ids = tuple(pieces), [*merges], found
        # Special tokens stay unknown to the tokenizer: it would find them inside documents.
        self._tokenizer = Tokenizer(models.BPE(vocab=found, merges=self._merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of each id in order; empty for special tokens."""
        return self._pieces

    @property
    def bos(self) -> int:
        """Id of the token before each document."""
        return self._bos

    @property
    def eos(self) -> int:
        """Id of the token after each document."""
        return self._eos

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "BpeVocabulary":
        """Returns the vocabulary in a folder.

        Arguments:
            folder: Holds `encoder.json` and `vocab.bpe`, as published for GPT-2 and as written by
                `save`, or the same under the names `vocab.json` and `merges.txt`.

        Raises:
            FileNotFoundError: If the files are not there.
            ValueError: If they are damaged or not of one vocabulary.
        """
        path = Path(folder)
        for first, second in _FILES:
            if (path / first).is_file() and (path / second).is_file():
                break
        else:
            raise FileNotFoundError(
                f"{path} must hold {' and '.join(_FILES[0])}, or {' and '.join(_FILES[1])}"
            )
        try:
            ids = json.loads((path / first).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path / first} is damaged: {error}") from error
        # Not splitlines, as tokens may hold letters that it takes for ends of lines.
        lines = (path / second).read_text(encoding="utf-8").split("\n")
        merges = []
        for number, line in enumerate(lines):
            pair = line.split(" ")
            if not line or (number == 0 and line.startswith("#version")):
                continue
            if len(pair) != 2:
                raise ValueError(f"{path / second}, line {number + 1}: two tokens, got {line!r}")
            merges.append((pair[0], pair[1]))
        vocabulary = cls(ids, merges)
        if (path / RECORD).is_file():
            check_record(path, vocabulary)
        return vocabulary

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int, min_frequency: int = 2) -> "BpeVocabulary":
        """Returns a vocabulary whose merges are learned from texts; the same for the same texts.

        Arguments:
            texts: Documents; read once, so they may be streamed.
            size: Number of ids, with the 256 bytes and the two special tokens; at least 258.
            min_frequency: How often a pair must occur to be merged.

        Raises:
            TypeError: If `texts` is one string.
            ValueError: If `size` is too small, or the texts are too short for it.

        Example:
            >>> BpeVocabulary.train(["low lower lowest"] * 2, size=260).size
            260
        """
        if isinstance(texts, str):
            raise TypeError("texts must be several strings, got one string: put it in a list")
        if size < 258:
            raise ValueError(
                f"size must be at least 258 = 256 bytes and two special tokens, got {size}"
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size - 2,
            min_frequency=min_frequency,
            show_progress=False,
            initial_alphabet=sorted(_LETTERS),
        )
        tokenizer.train_from_iterator(_batches(texts, 256), trainer=trainer)
        model = json.loads(tokenizer.to_str())["model"]
        ids: dict[str, int] = model["vocab"]
        if len(ids) < size - 2:
            raise ValueError(
                f"texts give {len(ids) + 2} tokens at most, asked for size {size}: give more "
                f"text, a smaller size or a min_frequency below {min_frequency}"
            )
        return cls(
            {**ids, EOS: size - 2, BOS: size - 1},
            [(left, right) for left, right in model["merges"]],
        )

    def _described(self) -> list[object]:
        return [sorted(self._ids, key=self._ids.__getitem__), self._merges]

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts))]

    def _encode_byte(self, byte: int) -> int:
        return self._ids[_OF_BYTE[byte]]

    def _save(self, folder: Path) -> None:
        first, second = _FILES[0]
        ids = {**self._ids, EOS: self._eos, BOS: self._bos}
        ordered = dict(sorted(ids.items(), key=lambda item: item[1]))
        (folder / first).write_text(json.dumps(ordered), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self._merges), ""]
        # The same bytes on every system.
        (folder / second).write_bytes("\n".join(lines).encode())


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {type(text).__name__} at place {place}")
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
