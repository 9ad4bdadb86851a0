"""Quality and variety of generated token sequences."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

__all__ = [
    "GenerativePerplexity",
    "distinct",
    "entropy",
    "generative_perplexity",
    "repetition",
    "self_bleu",
    "until_eos",
]


@dataclass(frozen=True, kw_only=True)
class GenerativePerplexity:
    """How surprising samples are to a judge.

    Good text and dull text both score low: print it with the entropy of the same samples only.
    """

    corpus: float
    """exp(total nats / tokens), the usual one"""
    sequence_mean: float
    """mean over samples of exp(nats / tokens)"""
    nats_per_token: float
    """total nats / tokens"""
    tokens: int
    """tokens that were scored"""


def until_eos(
    tokens: Int[Tensor, "batch time"], eos: int, *, skip: int = 0
) -> Bool[Tensor, "batch time"]:
    """Returns a mask of the tokens up to and including the first end of sequence.

    Arguments:
        tokens: Token ids.
        eos: Id of the end-of-sequence token.
        skip: Leading tokens that are kept whatever they are, for vocabularies (GPT-2's) whose
            begin and end of a sequence are one token.
    """
    ends = tokens == eos
    ends[:, :skip] = False
    return ends.cumsum(-1) - ends.long() == 0


def entropy(
    tokens: Int[Tensor, "batch time"], *, mask: Bool[Tensor, "batch time"] | None = None
) -> Float64[Tensor, " batch"]:
    """Computes the entropy of each sample's own token frequencies, in nats.

    H = -sum_v p_v ln p_v with p_v the share of token v in the sample; at most ln of its length,
    so compare samples of equal length only. Repetitive samples score low.

    Arguments:
        tokens: Token ids.
        mask: True = counted; None counts all.

    Raises:
        ValueError: If a sample has no token.
    """
    return torch.stack(
        [
            torch.special.entr(torch.unique(row, return_counts=True)[1].double() / len(row)).sum()
            for row in _rows(tokens, mask)
        ]
    )


def distinct(
    tokens: Int[Tensor, "batch time"],
    *,
    n: int,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> float:
    """Computes distinct-n: different n-grams / n-grams over all samples together.

    Arguments:
        tokens: Token ids. The value falls with their number: compare sets of one size only.
        n: Length of the n-grams, 1 or more.
        mask: True = counted; None counts all.

    Raises:
        ValueError: If n is not positive or no sample has n tokens.

    Source:
        Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016.
    """
    grams = [gram for row in _rows(tokens, mask) for gram in _ngrams(row.tolist(), n)]
    if not grams:
        raise ValueError(f"n must be at most the length of a sample, got {n} for {tokens.shape}")
    return len(set(grams)) / len(grams)


def repetition(
    tokens: Int[Tensor, "batch time"],
    *,
    n: int = 4,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float64[Tensor, " batch"]:
    """Computes the share of each sample's n-grams that it has had before.

    repetition = 1 - different n-grams / n-grams; 0 for a sample shorter than n.

    Arguments:
        tokens: Token ids.
        n: Length of the n-grams, 1 or more.
        mask: True = counted; None counts all.

    Raises:
        ValueError: If n is not positive or a sample has no token.

    Source:
        Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020 (seq-rep-n).
    """
    shares = []
    for row in _rows(tokens, mask):
        grams = _ngrams(row.tolist(), n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return torch.tensor(shares, dtype=torch.float64, device=tokens.device)


def self_bleu(
    tokens: Int[Tensor, "batch time"],
    *,
    order: int = 4,
    mask: Bool[Tensor, "batch time"] | None = None,
    epsilon: float = 0.1,
) -> Float64[Tensor, " batch"]:
    """Computes BLEU of each sample with all other samples as references.

    BLEU = min(1, exp(1 - r / c)) exp(mean_n ln(clipped n-gram matches / n-grams)), with c the
    sample's length and r the length of the reference nearest to it (the shorter of two). High
    values mean that samples say the same.

    Arguments:
        tokens: Token ids of two samples or more.
        order: Longest n-gram, 1 or more.
        mask: True = counted; None counts all.
        epsilon: Matches assumed where an order has none, so that the logarithm exists.

    Raises:
        ValueError: If there is one sample only, or a sample is shorter than `order`.

    Source:
        Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models", 2018; BLEU:
        Papineni et al., 2002; epsilon: Chen and Cherry, 2014, method 1.
    """
    rows = [row.tolist() for row in _rows(tokens, mask)]
    if len(rows) < 2 or min(map(len, rows)) < order or order < 1:
        raise ValueError(
            f"tokens must hold two samples or more of {order} tokens or more (order, 1 or more), "
            f"got lengths {[len(row) for row in rows][:8]}"
        )
    logs = [0.0] * len(rows)
    for n in range(1, order + 1):
        counts = [Counter(_ngrams(row, n)) for row in rows]
        # The clip of a sample is the largest count among the others: the two largest suffice.
        best: dict[tuple[int, ...], tuple[int, int, int]] = {}
        for owner, counter in enumerate(counts):
            for gram, count in counter.items():
                first, holder, second = best.get(gram, (0, -1, 0))
                if count > first:
                    best[gram] = (count, owner, first)
                elif count > second:
                    best[gram] = (first, holder, count)
        for owner, counter in enumerate(counts):
            matches = 0
            for gram, count in counter.items():
                first, holder, second = best[gram]
                matches += min(count, second if holder == owner else first)
            logs[owner] += math.log((matches or epsilon) / counter.total()) / order
    lengths = [len(row) for row in rows]
    scores = []
    for owner, length in enumerate(lengths):
        others = lengths[:owner] + lengths[owner + 1 :]
        nearest = min(others, key=lambda other: (abs(other - length), other))
        scores.append(math.exp(min(0.0, 1 - nearest / length) + logs[owner]))
    return torch.tensor(scores, dtype=torch.float64, device=tokens.device)


def generative_perplexity(
    samples: Int[Tensor, "batch time"],
    judge: Callable[[Tensor], Tensor],
    *,
    eos: int | None = None,
    skip: int = 0,
    after_eos: Literal["drop", "keep_text"] = "drop",
) -> GenerativePerplexity:
    """Scores samples with a language model that did not generate them.

    Arguments:
        samples: Token ids in the judge's vocabulary; decode and encode again if the generator has
            another one.
        judge: Maps token ids to the negative log-likelihood in nats of each token given those
            before it, same shape; for instance an `NgramJudge`.
        eos: End-of-sequence token; padding behind it must not be scored. None scores everything.
        skip: Leading tokens not scored: the start token, or 1 for judges that have no probability
            of a first token. They are not searched for the end.
        after_eos: `"drop"` scores nothing behind the first end. `"keep_text"` drops only further
            ends and scores all other tokens, as the released MDLM evaluation does.

    Raises:
        ValueError: If the judge's answer has another shape or a scored value is not finite, or
            nothing is left to score.

    Source:
        Sahoo et al., "Simple and Effective Masked Diffusion Language Models", 2024.
    """
    if after_eos not in ("drop", "keep_text"):
        raise ValueError(f"unknown after_eos {after_eos!r}; there are: drop, keep_text")
    nats = judge(samples)
    if nats.shape != samples.shape:
        raise ValueError(
            f"judge must return one value per token, shape {tuple(samples.shape)}, got "
            f"{tuple(nats.shape)}"
        )
    mask = torch.ones_like(samples, dtype=torch.bool)
    if eos is not None:
        mask = until_eos(samples, eos, skip=skip)
        if after_eos == "keep_text":
            mask = mask | (samples != eos)
    mask[:, :skip] = False
    tokens = mask.sum(-1)
    if not int(tokens.sum()):
        raise ValueError(f"samples must hold a token to score, got none with {eos=}, {skip=}")
    scored = nats.detach().double().to(samples.device).masked_fill(~mask, 0.0)
    bad = int((~scored.isfinite()).sum())
    if bad:
        raise ValueError(f"judge must return finite nats, got {bad} that are not")
    filled = tokens > 0
    mean = float(scored.sum() / tokens.sum())
    return GenerativePerplexity(
        corpus=math.exp(mean),
        sequence_mean=float((scored.sum(-1)[filled] / tokens[filled]).exp().mean()),
        nats_per_token=mean,
        tokens=int(tokens.sum()),
    )


def _rows(tokens: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Returns the tokens of each sample that the mask lets through."""
    rows = list(tokens) if mask is None else [t[m] for t, m in zip(tokens, mask, strict=True)]
    empty = [index for index, row in enumerate(rows) if not len(row)]
    if empty or not rows:
        raise ValueError(
            f"every sample must hold a token, got shape {tuple(tokens.shape)} with none counted "
            f"in samples {empty[:8]}"
        )
    return rows


def _ngrams(row: list[int], n: int) -> list[tuple[int, ...]]:
    """Returns the n-grams of a sample in order."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return list(zip(*(row[start:] for start in range(n)), strict=False))
