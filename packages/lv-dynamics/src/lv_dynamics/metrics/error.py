"""Squared errors of predictions, over the entries that were observed."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_dynamics.sequences import Sequences
from lv_dynamics.validation import refuse_first

__all__ = ["block_mse", "error_curve", "median_mse", "mse", "sequence_mse"]


def sequence_mse(
    prediction: Float[Tensor, "batch time *obs"],
    target: Sequences,
    *,
    first: int = 0,
    last: int | None = None,
) -> Float[Tensor, " batch"]:
    """Returns the mean squared error of each sequence over its observed entries.

    Arguments:
        prediction: Predicted observations, shape of `target.values`.
        target: What was observed, in the same units; noisy, so the error has a floor.
        first: First row that counts, from 0.
        last: Row before which counting ends; None means the last. With `first=0` the error is
            cumulative from the start, as in the tables of papers: 150 rows contain the first 50.

    Raises:
        ValueError: If shapes differ, a prediction is NaN where something was observed, or a
            sequence has no observed entry in these rows; the message names the sequence.
    """
    squares, mask = _squares(prediction, target)
    rows = target.times.shape[1]
    end = rows if last is None else last
    if not 0 <= first < end <= rows:
        raise ValueError(f"0 <= first < last <= {rows} must hold, got {first=} and {last=}")
    part, seen = squares[:, first:end].flatten(1), mask[:, first:end].flatten(1)
    refuse_first(~seen.any(1), f"it has no observed entry in rows {first}..{end - 1}")
    return (part.sum(1) / seen.sum(1)).to(prediction.dtype)


def mse(
    prediction: Float[Tensor, "batch time *obs"],
    target: Sequences,
    *,
    first: int = 0,
    last: int | None = None,
) -> Float[Tensor, ""]:
    """Returns the mean over sequences of `sequence_mse`; each sequence counts the same.

    Arguments:
        prediction: Predicted observations, shape of `target.values`.
        target: What was observed.
        first: First row that counts, from 0.
        last: Row before which counting ends; None means the last.
    """
    return sequence_mse(prediction, target, first=first, last=last).mean()


def median_mse(
    prediction: Float[Tensor, "batch time *obs"],
    target: Sequences,
    *,
    first: int = 0,
    last: int | None = None,
) -> Float[Tensor, ""]:
    """Returns the median over sequences of `sequence_mse`, the mean of the middle two if even.

    A few failed inferences decide the mean; report both.

    Arguments:
        prediction: Predicted observations, shape of `target.values`.
        target: What was observed.
        first: First row that counts, from 0.
        last: Row before which counting ends; None means the last.
    """
    # torch.median would take the lower of the middle two
    return sequence_mse(prediction, target, first=first, last=last).quantile(0.5)


def block_mse(
    prediction: Float[Tensor, "batch time *obs"], target: Sequences, edges: Sequence[int]
) -> Float[Tensor, " blocks"]:
    """Returns the error in disjoint blocks of rows.

    Arguments:
        prediction: Predicted observations, shape of `target.values`.
        target: What was observed.
        edges: Rising rows between which the blocks lie: (0, 15, 45) for rotating digits, the
            first turn and the two after it.

    Raises:
        ValueError: If there are fewer than two edges, or as for `sequence_mse`.
    """
    if len(edges) < 2:
        raise ValueError(f"edges must hold at least two rows, got {list(edges)}")
    return torch.stack([mse(prediction, target, first=a, last=b) for a, b in pairwise(edges)])


def error_curve(
    prediction: Float[Tensor, "batch time *obs"],
    target: Sequences,
    *,
    edges: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, " points"]:
    """Returns the mean squared error as a function of time, NaN where nothing was observed.

    Here every observed entry counts the same.

    Arguments:
        prediction: Predicted observations, shape of `target.values`.
        target: What was observed.
        edges: Rising edges of bins of time, an error each for `edges[k] <= t < edges[k + 1]`;
            needed where sequences have grids of their own. None means an error for each row.
    """
    squares, mask = _squares(prediction, target)
    sums, counts = squares.flatten(2).sum(2), mask.flatten(2).sum(2)
    if edges is None:
        return (sums.sum(0) / counts.sum(0)).to(prediction.dtype)
    if len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"edges must hold at least two rising times, got {edges.tolist()}")
    bins: Int[Tensor, "batch time"] = torch.bucketize(
        target.times, edges.to(target.times), right=True
    )
    kinds = len(edges) + 1  # one before the first edge, one from the last on
    total = torch.zeros(kinds, dtype=sums.dtype, device=sums.device)
    number = torch.zeros_like(total)
    total.index_add_(0, bins.flatten(), sums.flatten())
    number.index_add_(0, bins.flatten(), counts.flatten().to(number))
    return (total / number)[1:-1].to(prediction.dtype)


def _squares(prediction: Tensor, target: Sequences) -> tuple[Tensor, Tensor]:
    """Returns squared errors in float64, 0 where not observed, and the mask in full."""
    if prediction.shape != target.values.shape:
        raise ValueError(
            f"prediction must have the shape of the values {tuple(target.values.shape)}, got "
            f"{tuple(prediction.shape)}"
        )
    mask = target.mask.expand_as(target.values)
    refuse_first((prediction.isnan() & mask).flatten(1).any(1), "its prediction is NaN")
    return torch.where(mask, (prediction.double() - target.values.double()).square(), 0.0), mask
