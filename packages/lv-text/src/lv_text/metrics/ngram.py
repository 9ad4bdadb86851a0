"""A built-in judge of text: 5-gram language model with modified Kneser-Ney smoothing."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from lv_text.metrics.kneser_ney import (
    Floats,
    Ints,
    Level,
    Tokens,
    count_ngrams,
    discount,
    flatten,
    level_of,
)

__all__ = ["NgramJudge"]

FORMAT = 1
"""Version of the files that `save` writes"""


class NgramJudge:
    """An interpolated modified Kneser-Ney language model over token ids.

    p_k(w | c) = max(a(c w) - D(a(c w)), 0) / a(c) + backoff(c) p_{k-1}(w | c without its first
    token), with a = counts at the highest order and numbers of different predecessors below it,
    and p_0 = 1 / vocabulary, so that every token has a probability in every context. A virtual
    start symbol stands in front of each sequence; it is a context but is never predicted.

    It scores text without downloads. Its perplexity is comparable only between texts of one
    vocabulary scored by one judge; it sees `order - 1` tokens back and so cannot see whether a
    text holds together over sentences.

    Arguments:
        levels: Keys and counts by length, as `count_ngrams` returns them.
        vocabulary: Number of token ids.
        fallback: Discounts of levels with too few data to estimate them; None refuses these.

    Source:
        Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1998.

    Example:
        >>> judge = NgramJudge.fit([[0, 1, 0, 1, 2]], order=2, vocabulary=3)
        >>> nats = judge.nll(torch.tensor([0, 1, 0]))
    """

    def __init__(
        self,
        levels: list[tuple[Ints, npt.NDArray[np.int32]]],
        *,
        vocabulary: int,
        fallback: tuple[float, float, float] | None = (0.5, 1.0, 1.5),
    ) -> None:
        self.vocabulary = vocabulary
        self.fallback = fallback
        self._symbols = vocabulary + 1
        self._unigrams = levels[0][1]
        self._levels: list[Level] = []
        contexts = 1
        for length, (keys, counts) in enumerate(levels, start=1):
            # the start symbol is a context and is not predicted
            known = keys[:vocabulary] if length == 1 else keys
            self._levels.append(
                level_of(
                    known,
                    counts[: len(known)],
                    contexts=contexts,
                    symbols=self._symbols,
                    fallback=fallback,
                )
            )
            contexts = len(keys)
        unigram = self._levels[0]
        seen = unigram.counts - discount(unigram.counts, unigram.discounts)
        self._base: Floats = seen / unigram.total[0] + unigram.backoff[0] / vocabulary

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Tokens],
        *,
        vocabulary: int,
        order: int = 5,
        fallback: tuple[float, float, float] | None = (0.5, 1.0, 1.5),
    ) -> "NgramJudge":
        """Counts the n-grams of a corpus.

        Keeps all of them: 26 M tokens of English prose (56 M different n-grams) took 27 to 77 s
        and a peak of 2 GB, tokens and Python included.

        Arguments:
            sequences: Token ids of each document, none empty. Documents are independent.
            vocabulary: Number of token ids.
            order: Length of the longest n-gram, 1 to 16.
            fallback: Discounts for counts of 1, 2, and 3 or more at levels whose counts are too
                few or too even to estimate them, as the unigrams of bytes are; `estimated` tells
                which. None refuses such data.

        Raises:
            ValueError: If the order, the vocabulary, a sequence or a fallback is out of range, or
                discounts cannot be estimated and there is no fallback.
        """
        if not 1 <= order <= 16:
            raise ValueError(f"order must be in 1..16, got {order}")
        if not 1 <= vocabulary < 2**31 - 1:
            raise ValueError(f"vocabulary must be in 1..2**31 - 2, got {vocabulary}")
        if fallback is not None and not all(
            0 <= value <= most for most, value in enumerate(fallback, start=1)
        ):
            raise ValueError(f"fallback discounts must be in 0..1, 0..2, 0..3, got {fallback}")
        stream = flatten(sequences, vocabulary, start=vocabulary)
        levels = count_ngrams(stream, order=order, symbols=vocabulary + 1)
        del stream
        return cls(levels, vocabulary=vocabulary, fallback=fallback)

    @property
    def order(self) -> int:
        """Gives the length of the longest n-gram."""
        return len(self._levels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Gives the number of different n-grams by length."""
        return tuple(int((level.counts > 0).sum()) for level in self._levels)

    @property
    def discounts(self) -> tuple[tuple[float, float, float], ...]:
        """Gives the discounts of counts 1, 2, and 3 or more by length."""
        return tuple(level.discounts for level in self._levels)

    @property
    def estimated(self) -> tuple[bool, ...]:
        """Tells by length whether the discounts are estimates rather than the fallback."""
        return tuple(level.estimated for level in self._levels)

    def nll(self, tokens: Int[Tensor, "*batch time"]) -> Float64[Tensor, "*batch time"]:
        """Computes the negative log-likelihood of each token given those before it, in nats.

        Arguments:
            tokens: Token ids; each row is a sequence of its own that begins after the start
                symbol.

        Raises:
            ValueError: If a token is outside the vocabulary.
        """
        flat = tokens.reshape(-1, tokens.shape[-1]) if tokens.numel() else tokens.new_empty(0, 1)
        rows: Ints = flat.numpy(force=True).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.vocabulary):
            raise ValueError(
                f"tokens must be in 0..{self.vocabulary - 1}, got {rows.min()}..{rows.max()}"
            )
        start = np.full((len(rows), 1), self.vocabulary, dtype=np.int64)
        stream = np.concatenate([start, rows], axis=1).ravel()
        probability = self._base[np.minimum(stream, self.vocabulary - 1)]
        ending = stream
        inside = stream < self.vocabulary
        for level in self._levels[1:]:
            context = np.concatenate([[-1], ending[:-1]])
            place = np.flatnonzero((context >= 0) & inside)
            owner = context[place]
            key = owner * self._symbols + stream[place]
            row = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            found = level.keys[row] == key
            count = np.where(found, level.counts[row], 0)
            rest = count - discount(count, level.discounts)
            # a context that nothing follows has weight 1 for the lower level
            total = np.maximum(level.total[owner], 1)
            probability[place] = rest / total + level.backoff[owner] * probability[place]
            ending = np.full_like(stream, -1)
            ending[place[found]] = row[found]
        nats = -np.log(probability.reshape(len(rows), rows.shape[1] + 1)[:, 1:])
        return torch.from_numpy(nats).reshape(tokens.shape).to(tokens.device)

    __call__ = nll

    def perplexity(self, tokens: Int[Tensor, "*batch time"]) -> float:
        """Computes exp of the mean negative log-likelihood over all tokens.

        Raises:
            ValueError: If there is no token or one is outside the vocabulary.
        """
        if not tokens.numel():
            raise ValueError(f"tokens must not be empty, got shape {tuple(tokens.shape)}")
        return float(self.nll(tokens).mean().exp())

    def distribution(self, context: Int[Tensor, " time"]) -> Float64[Tensor, " vocabulary"]:
        """Computes the probability of every token after a context.

        Arguments:
            context: The tokens of the sequence so far, from its beginning; may be empty.

        Raises:
            ValueError: If a token is outside the vocabulary.
        """
        ids = context.tolist()
        if ids and not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ValueError(f"context must be in 0..{self.vocabulary - 1}, got {ids}")
        history = [self.vocabulary, *ids]
        probability = self._base.copy()
        for length, level in enumerate(self._levels[1:], start=1):
            owner = self._number(history[-length:]) if length <= len(history) else -1
            if owner < 0:
                break
            low, high = np.searchsorted(
                level.keys, [owner * self._symbols, (owner + 1) * self._symbols]
            )
            if low == high:  # the end of a document that is found nowhere else
                break
            probability *= level.backoff[owner]
            counts = level.counts[low:high]
            rest = counts - discount(counts, level.discounts)
            probability[level.keys[low:high] % self._symbols] += rest / level.total[owner]
        return torch.from_numpy(probability).to(context.device)

    def _number(self, ngram: list[int]) -> int:
        """Returns the number of an n-gram among those of its length, -1 if it was never seen."""
        number = ngram[0]
        if self._unigrams[number] == 0:
            return -1
        for level, token in zip(self._levels[1:], ngram[1:], strict=False):
            key = number * self._symbols + token
            row = int(np.searchsorted(level.keys, key))
            if row == len(level.keys) or level.keys[row] != key:
                return -1
            number = row
        return number

    def save(self, path: str | Path) -> None:
        """Writes the counts to an uncompressed .npz file; everything else follows from them."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "format": np.array(FORMAT),
            "vocabulary": np.array(self.vocabulary),
            "fallback": np.array(self.fallback or ()),
            "counts1": self._unigrams,
        }
        for length, level in enumerate(self._levels[1:], start=2):
            arrays[f"keys{length}"] = level.keys
            arrays[f"counts{length}"] = level.counts
        with Path(path).open("wb") as file:  # np.savez would append to other suffixes
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "NgramJudge":
        """Reads a model that `save` wrote.

        Raises:
            ValueError: If the file is truncated, holds something else or is of another version.
        """
        try:
            # opened here, since np.load leaves broken files open
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"{path} is no complete n-gram model: {error}") from error
        if int(arrays.get("format", -1)) != FORMAT:
            raise ValueError(
                f"{path} is no n-gram model of format {FORMAT}: it holds {sorted(arrays)[:8]}"
            )
        order = sum(name.startswith("counts") for name in arrays)
        unigrams = arrays["counts1"]
        levels = [(np.arange(len(unigrams), dtype=np.int64), unigrams)]
        levels += [(arrays[f"keys{k}"], arrays[f"counts{k}"]) for k in range(2, order + 1)]
        given = arrays["fallback"].tolist()
        fallback = (given[0], given[1], given[2]) if given else None
        return cls(levels, vocabulary=int(arrays["vocabulary"]), fallback=fallback)
