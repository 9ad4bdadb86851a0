"""Counts and discounts of an interpolated modified Kneser-Ney model, as sorted arrays.

An n-gram of k tokens has a number: its row among the sorted n-grams of its length. Its key is
`number(first k - 1 tokens) * symbols + last token`, so that keys of any order fit into 64 bits
without hashing, equal n-grams and only those have equal keys, and the continuations of a context
are neighbors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["Level", "Tokens", "count_ngrams", "flatten", "level_of"]

Tokens = Sequence[int] | npt.NDArray[np.integer] | Tensor
"""One sequence of token ids"""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Level:
    """The n-grams of one length."""

    keys: Ints
    """keys in rising order, one per n-gram"""
    counts: npt.NDArray[np.int32]
    """occurrences at the highest level, number of different predecessors below it"""
    discounts: tuple[float, float, float]
    """taken off counts of 1, 2, and 3 or more"""
    estimated: bool
    """whether the discounts are estimates from the counts rather than the fallback"""
    total: npt.NDArray[np.int32]
    """sum of counts over continuations, one per context; 0 for n-grams that nothing follows"""
    backoff: Floats
    """discounts taken off a context's counts / total: the weight of the lower level"""


def flatten(sequences: Iterable[Tokens], vocabulary: int, *, start: int) -> npt.NDArray[np.int32]:
    """Returns all sequences in one array, the start symbol in front of each.

    Raises:
        ValueError: If there is no sequence, one is empty or has more than one axis, or an id is
            outside 0..vocabulary-1.
        TypeError: If a sequence does not hold integers.
    """
    mark = np.array([start], dtype=np.int32)
    parts: list[npt.NDArray[np.int32]] = []
    for index, sequence in enumerate(sequences):
        array = (
            sequence.numpy(force=True) if isinstance(sequence, Tensor) else np.asarray(sequence)
        )
        if array.ndim != 1 or not array.size:
            raise ValueError(
                f"sequence {index} must be one row of token ids that is not empty, got shape "
                f"{array.shape}: drop empty documents"
            )
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"sequence {index} must hold integers, got {array.dtype}")
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"token ids must be in 0..{vocabulary - 1} (vocabulary={vocabulary}), got "
                f"{low}..{high} in sequence {index}"
            )
        parts += [mark, array.astype(np.int32)]
    if not parts:
        raise ValueError("sequences must hold one sequence or more, got none")
    return np.concatenate(parts)


def count_ngrams(
    stream: npt.NDArray[np.int32], *, order: int, symbols: int
) -> list[tuple[Ints, npt.NDArray[np.int32]]]:
    """Counts the n-grams of all lengths up to `order`.

    Arguments:
        stream: Result of `flatten`; the start symbol is `symbols - 1`.
        order: Largest length.
        symbols: Vocabulary and start symbol.

    Returns:
        Keys and counts by length. Counts are those that Kneser-Ney smoothing needs: occurrences
        for the highest length and for n-grams that begin a sequence, the number of different
        predecessors (the start of a sequence is one) for all others.

    Raises:
        ValueError: If there are too many tokens for 32 bit counts.
    """
    if len(stream) >= 2**31:
        raise ValueError(f"counts need fewer than 2**31 tokens, got {len(stream)}: fit a part")
    raw = np.bincount(stream, minlength=symbols).astype(np.int32)
    levels: list[tuple[Ints, npt.NDArray[np.int32]]] = [(np.arange(symbols, dtype=np.int64), raw)]
    # Number of the n-gram that ends at each position, -1 where it would cross a start.
    ending = stream.copy()
    inside = stream != symbols - 1
    for length in range(2, order + 1):
        # In place and in 32 bits where possible: the arrays are as long as the corpus.
        before = np.concatenate([np.array([-1], dtype=np.int32), ending[:-1]])
        place = np.flatnonzero((before >= 0) & inside).astype(np.int32)
        key = before[place].astype(np.int64)
        del before
        key *= symbols
        key += stream[place]
        rank = np.argsort(key)
        place = place[rank]  # end of each n-gram, in the order of the keys
        del rank
        key.sort()
        new = np.empty(len(key), dtype=bool)
        new[:1] = True
        np.not_equal(key[1:], key[:-1], out=new[1:])
        # The n-gram without its first token ends at the same place, and has this as a predecessor.
        shorter = ending[place[new]]
        different = np.bincount(shorter, minlength=len(levels[-1][0])).astype(np.int32)
        del shorter
        keys, occurrences = levels[-1]
        # Only what begins a sequence has no predecessor.
        levels[-1] = (keys, np.where(different == 0, occurrences, different))
        del different, occurrences
        if length < order:
            ending = np.full_like(ending, -1)
            ending[place] = np.cumsum(new, dtype=np.int32) - 1
        del place
        first = np.flatnonzero(new)
        counts = np.diff(first, append=len(key)).astype(np.int32)
        del first
        levels.append((key[new], counts))
    return levels


def level_of(
    keys: Ints,
    counts: npt.NDArray[np.int32],
    *,
    contexts: int,
    symbols: int,
    fallback: tuple[float, float, float] | None,
) -> Level:
    """Builds a level: estimates its discounts, sums its counts by context.

    Y = n1 / (n1 + 2 n2), D1 = 1 - 2 Y n2 / n1, D2 = 2 - 3 Y n3 / n2, D3 = 3 - 4 Y n4 / n3, with
    n_i n-grams of count i.

    Arguments:
        keys: Keys in rising order.
        counts: Counts of the n-grams.
        contexts: Number of n-grams that are one token shorter.
        symbols: Vocabulary and start symbol.
        fallback: Discounts where the formula has no value or leaves 0 <= D_i <= i; None refuses.

    Raises:
        ValueError: If the formula fails and there is no fallback.

    Source:
        Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling",
        1998, eq. 26.
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    discounts, estimated = fallback, False
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        guess = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= value <= most for most, value in enumerate(guess, start=1)):
            discounts, estimated = guess, True
    if discounts is None:
        raise ValueError(
            f"discounts cannot be estimated: {n1}, {n2}, {n3}, {n4} n-grams have counts 1, 2, 3, "
            "4; give more data or fallback discounts such as (0.5, 1.0, 1.5)"
        )
    context = (keys // symbols).astype(np.int32)
    # Continuations of a context are neighbors; sums over runs need half the memory of bincount.
    new = np.ones(len(context), dtype=bool)
    np.not_equal(context[1:], context[:-1], out=new[1:])
    owner = context[new]
    del context
    first = np.flatnonzero(new)
    sums = np.add.reduceat(counts, first, dtype=np.int32)
    total = np.zeros(contexts, dtype=np.int32)
    total[owner] = sums
    backoff = np.ones(contexts)
    backoff[owner] = np.add.reduceat(discount(counts, discounts), first) / sums
    return Level(
        keys=keys,
        counts=counts,
        discounts=discounts,
        estimated=estimated,
        total=total,
        backoff=backoff,
    )


def discount(counts: npt.NDArray[np.int32], discounts: tuple[float, float, float]) -> Floats:
    """Returns what is taken off each count, 0 for a count of 0."""
    return np.array([0.0, *discounts])[np.minimum(counts, 3)]
