"""Texts of a benchmark as blocks of tokens, as published protocols cut them."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lv_text.vocabulary import Vocabulary

__all__ = ["Protocol", "ZeroShotBlocks", "zero_shot_blocks"]

# Shapes: N blocks, T scored tokens of each.

Protocol = Literal["official", "mdlm"]
BATCH = 256
"""Texts that are encoded at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShotBlocks:
    """Blocks of one length, and what of the texts they hold."""

    tokens: Tensor
    """Inputs, `(N, T)` with T = length - 1."""
    targets: Tensor
    """Their successors, all of which are scored."""
    size: Tensor
    """Bytes (UTF-8) of the ORIGINAL text, before any rules, that each block's targets stand for,
    `(N,)` float64: the bytes of a text are spread over its tokens as those of its
    detokenized form are."""
    texts: int
    """Texts that were read."""
    used: int
    """Tokens of the texts, ends included, that are in the blocks."""
    dropped: int
    """Tokens of the remainders that fill no block."""
    protocol: Protocol
    """How they were cut."""


def zero_shot_blocks(
    texts: Iterable[str],
    vocabulary: Vocabulary,
    *,
    length: int,
    detokenizer: Callable[[str], str] | None = None,
    protocol: Protocol = "official",
    group: int | None = None,
) -> ZeroShotBlocks:
    """Cuts benchmark texts into blocks of tokens.

    Each text passes the detokenizer, is encoded and followed by EOS; all are joined and cut, so
    blocks cross texts. What fills no block is dropped.

    official:  blocks of `length` tokens, x = block[:-1], y = block[1:]; no BOS
    mdlm:      blocks `[BOS] + length - 2 tokens + [EOS]`, so that all tokens of the texts are
               scored, and an EOS that ends nothing

    Numbers of the two differ and must not share a column. The baselines of the second protocol
    have one id for BOS and EOS; here BOS is the vocabulary's own.

    Arguments:
        texts: Examples of the benchmark as they are published; read once.
        vocabulary: The model's.
        length: Tokens of a block; 1024 in both protocols, and at most the model's length + 1.
        detokenizer: Rules for each text, see `lv_text.detokenize.DETOKENIZERS`; None = none.
        protocol: official or mdlm.
        group: Texts that are joined before the rest is dropped; the published scripts do so for
            each batch that they preprocess. None = all texts at once, which drops least.

    Raises:
        TypeError: If `texts` is one string.
        ValueError: If a setting is out of range, or there are too few tokens for one block.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, released evaluation; Sahoo et al., "Simple and Effective Masked Diffusion Language
        Models", 2024.

    Example:
        >>> texts = read_wikitext(folder)
        >>> zero_shot_blocks(texts, vocabulary, length=1024, detokenizer=DETOKENIZERS["wikitext"])
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several strings, got one string: put it in a list")
    if protocol not in ("official", "mdlm"):
        raise ValueError(f"unknown protocol {protocol!r}; there are: mdlm, official")
    shortest = 2 if protocol == "official" else 3
    if length < shortest:
        raise ValueError(f"length must be at least {shortest} for {protocol!r}, got {length}")
    if group is not None and group < 1:
        raise ValueError(f"group must be positive or None for all texts, got {group}")
    inside = length if protocol == "official" else length - 2
    rest, count, dropped = iter(texts), 0, 0
    ids_parts, size_parts = [], []
    while True:
        stream = _Stream(vocabulary, detokenizer)
        taken = stream.read(rest if group is None else islice(rest, group))
        count += taken
        ids, size = stream.arrays()
        whole = len(ids) // inside * inside
        dropped += len(ids) - whole
        ids_parts.append(ids[:whole].reshape(-1, inside))
        size_parts.append(size[:whole].reshape(-1, inside))
        if group is None or taken < group:
            break
    ids, size = np.concatenate(ids_parts), np.concatenate(size_parts)
    if not len(ids):
        raise ValueError(
            f"texts must fill a block of {inside} tokens, got {dropped} tokens in {count} texts: "
            "give more text, a smaller length, or a larger group"
        )
    if protocol == "mdlm":
        edge = np.ones((len(ids), 1), dtype=ids.dtype)
        ids = np.concatenate((vocabulary.bos * edge, ids, vocabulary.eos * edge), 1)
        scored = size
    else:
        scored = size[:, 1:]  # the first token of a block is context
    blocks = torch.from_numpy(ids)
    return ZeroShotBlocks(
        tokens=blocks[:, :-1],
        targets=blocks[:, 1:],
        size=torch.from_numpy(scored.sum(1)),
        texts=count,
        used=len(ids) * inside,
        dropped=dropped,
        protocol=protocol,
    )


class _Stream:
    """Tokens of joined texts with the bytes of original text that each stands for."""

    def __init__(self, vocabulary: Vocabulary, detokenizer: Callable[[str], str] | None) -> None:
        self.vocabulary, self.detokenizer = vocabulary, detokenizer
        self.lengths = vocabulary.byte_lengths().double().numpy()
        self.ids, self.size = array("q"), array("d")

    def read(self, texts: Iterable[str]) -> int:
        """Appends texts and returns how many there were."""
        rest, count = iter(texts), 0
        while batch := list(islice(rest, BATCH)):
            rules = self.detokenizer
            plain = batch if rules is None else [rules(text) for text in batch]
            encoded = self.vocabulary.encode_batch(plain)
            for text, ids in zip(batch, encoded, strict=True):
                self._append(ids, len(text.encode()))
            count += len(batch)
        return count

    def _append(self, ids: list[int], original: int) -> None:
        size = self.lengths[ids] if ids else np.empty(0)
        whole = size.sum()
        # Of a text that the rules erase, the end is all that is left to carry its bytes.
        end = 0.0 if whole else float(original)
        self.ids.extend([*ids, self.vocabulary.eos])
        self.size.extend(size * (original / whole) if whole else size)
        self.size.append(end)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.ids, dtype=np.int64), np.array(self.size, dtype=np.float64)
