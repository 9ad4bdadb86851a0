"""Perplexity and bits per byte from negative log-likelihoods of sequences, with error bars."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "BootstrapEstimate",
    "Perplexity",
    "bits_per_byte",
    "bootstrap",
    "paired_bootstrap",
    "perplexity",
]

Statistic = Literal["nats", "perplexity", "sequence_perplexity", "bits"]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Two perplexities of the same sequences; they differ, so a table must say which it holds."""

    corpus: float
    """exp(total nats / total tokens), the usual one"""
    sequence_mean: float
    """mean over sequences of exp(nats / tokens), the paper's; never below `corpus` when all
    sequences have the same length"""
    nats_per_token: float
    """total nats / total tokens"""
    tokens: int
    """tokens scored"""
    sequences: int
    """sequences scored"""


@dataclass(frozen=True, kw_only=True)
class BootstrapEstimate:
    """A statistic of a set of sequences with the spread that resampling the sequences gives."""

    value: float
    """the statistic of the sequences themselves"""
    standard_error: float
    """standard deviation over the replicates"""
    low: float
    """2.5 % quantile of the replicates"""
    high: float
    """97.5 % quantile of the replicates"""
    replicates: int
    """number of replicates"""


def perplexity(nll: Float[Tensor, " sequences"], tokens: Int[Tensor, " sequences"]) -> Perplexity:
    """Computes the perplexity of a set of sequences in both usual ways.

    corpus = exp(sum_i nll_i / sum_i n_i), sequence_mean = mean_i exp(nll_i / n_i)

    Arguments:
        nll: Negative log-likelihood, or an upper bound of it, of each sequence in nats.
        tokens: Tokens n_i that each of them sums over, 1 or more.

    Raises:
        ValueError: If there is no sequence, a value is not finite, or a count is not positive.

    Example:
        >>> perplexity(torch.tensor([math.log(2.0) * 10]), torch.tensor([10])).corpus
        2.0
    """
    nats, counts = _checked(nll, tokens)
    mean = float(nats.sum() / counts.sum())
    return Perplexity(
        corpus=float(torch.tensor(mean, dtype=torch.float64).exp()),
        sequence_mean=float((nats / counts).exp().mean()),
        nats_per_token=mean,
        tokens=int(tokens.sum()),
        sequences=len(nats),
    )


def bits_per_byte(nll: Float[Tensor, " sequences"], size: Int[Tensor, " sequences"]) -> float:
    """Returns total bits / total bytes, which models with different vocabularies can share.

    Arguments:
        nll: Negative log-likelihood of each sequence in nats.
        size: Length of each sequence's text in bytes (UTF-8), 1 or more.

    Raises:
        ValueError: As `perplexity`.
    """
    nats, counts = _checked(nll, size)
    return float(nats.sum() / counts.sum()) / math.log(2.0)


def bootstrap(
    nll: Float[Tensor, " sequences"],
    counts: Int[Tensor, " sequences"],
    *,
    statistic: Statistic = "perplexity",
    replicates: int = 2000,
    generator: torch.Generator | None = None,
) -> BootstrapEstimate:
    """Estimates the standard error of a statistic by resampling whole sequences.

    Tokens of one sequence are not independent, so that sequences, not tokens, are drawn with
    replacement. Sequences of one document are still dependent: pass documents if that matters.

    Arguments:
        nll: Negative log-likelihood of each sequence in nats, two sequences or more.
        counts: Tokens (bytes for `"bits"`) of each sequence.
        statistic: `"nats"` per count, `"bits"` per count, `"perplexity"` (exp of the former) or
            `"sequence_perplexity"` (mean of per-sequence values).
        replicates: Number of resampled sets, 2 or more.
        generator: Source of randomness.

    Raises:
        ValueError: As `perplexity`, or if there are too few sequences or replicates, or the
            statistic is unknown.
    """
    nats, sizes = _checked(nll, counts)
    drawn = torch.cat(
        [
            _statistic(nats[rows], sizes[rows], statistic)
            for rows in _resampled(len(nats), replicates, nats.device, generator)
        ]
    )
    return _estimate(_statistic(nats[None], sizes[None], statistic), drawn)


def paired_bootstrap(
    first: Float[Tensor, " sequences"],
    second: Float[Tensor, " sequences"],
    counts: Int[Tensor, " sequences"],
    *,
    statistic: Statistic = "nats",
    replicates: int = 2000,
    generator: torch.Generator | None = None,
) -> BootstrapEstimate:
    """Estimates the difference `first - second` of a statistic of two models on one set.

    Both models are scored on the same resampled sequences, so that the difficulty of sequences,
    which they share, does not enter the error. Negative = the first model is better.

    Arguments:
        first: Negative log-likelihoods of one model in nats.
        second: Those of the other model on the same sequences in the same order.
        counts: Tokens (bytes for `"bits"`) of each sequence.
        statistic: See `bootstrap`.
        replicates: Number of resampled sets, 2 or more.
        generator: Source of randomness.

    Raises:
        ValueError: As `bootstrap`.
    """
    ours, sizes = _checked(first, counts)
    theirs, _ = _checked(second, counts)
    drawn = torch.cat(
        [
            _statistic(ours[rows], sizes[rows], statistic)
            - _statistic(theirs[rows], sizes[rows], statistic)
            for rows in _resampled(len(ours), replicates, ours.device, generator)
        ]
    )
    value = _statistic(ours[None], sizes[None], statistic)
    return _estimate(value - _statistic(theirs[None], sizes[None], statistic), drawn)


def _checked(nll: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both in float64, or says what is wrong with them."""
    if nll.ndim != 1 or nll.shape != counts.shape or not len(nll):
        raise ValueError(
            "nll and counts must be one value per sequence, one sequence or more, got shapes "
            f"{tuple(nll.shape)} and {tuple(counts.shape)}"
        )
    bad = int((~nll.isfinite()).sum())
    if bad:
        raise ValueError(f"nll must be finite, got {bad} of {len(nll)} values that are not")
    if int(counts.min()) < 1:
        raise ValueError(f"counts must be positive, got {int(counts.min())}: drop empty sequences")
    return nll.detach().double(), counts.double()


def _statistic(nats: Tensor, counts: Tensor, statistic: str) -> Tensor:
    """Returns the statistic over the last axis."""
    if statistic == "sequence_perplexity":
        return (nats / counts).exp().mean(-1)
    mean = nats.sum(-1) / counts.sum(-1)
    if statistic == "nats":
        return mean
    if statistic == "bits":
        return mean / math.log(2.0)
    if statistic == "perplexity":
        return mean.exp()
    raise ValueError(
        f"unknown statistic {statistic!r}; there are: nats, bits, perplexity, sequence_perplexity"
    )


def _resampled(
    n: int, replicates: int, device: torch.device, generator: torch.Generator | None
) -> list[Tensor]:
    """Returns indices of the replicates."""
    if n < 2:
        raise ValueError(f"a bootstrap needs two sequences or more, got {n}")
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    at = generator.device if generator is not None else device
    rows = torch.randint(n, (replicates, n), generator=generator, device=at).to(device)
    # in pieces, since the gathered values need several times the memory of the indices
    return list(torch.split(rows, max(1, 2**22 // n)))


def _estimate(value: Tensor, drawn: Tensor) -> BootstrapEstimate:
    """Returns the value with the spread of its replicates."""
    # not torch.quantile, which refuses more than 2**24 values
    ordered = drawn.sort().values
    last = len(ordered) - 1
    return BootstrapEstimate(
        value=float(value),
        standard_error=float(drawn.std()),
        low=float(ordered[round(0.025 * last)]),
        high=float(ordered[round(0.975 * last)]),
        replicates=len(drawn),
    )
