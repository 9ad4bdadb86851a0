"""Forecasters without a model, in the interface of the others.

B sequences, T rows of time, Q times asked for, G points of a mean curve.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.baselines.interpolation import (
    constant_velocity,
    expanded_times,
    hold_last,
    linear_interpolation,
)
from lv_dynamics.baselines.record import mixture
from lv_dynamics.forecast import Forecast
from lv_dynamics.sequences import Sequences

__all__ = ["Trivial", "TrivialKind", "training_mean"]

TrivialKind = Literal["hold_last", "training_mean", "linear_interpolation", "constant_velocity"]
"""Names of the forecasters without a model."""

_POINTS = 1000  # of the mean curve where training times are more

_RULES = {
    "hold_last": hold_last,
    "linear_interpolation": linear_interpolation,
    "constant_velocity": constant_velocity,
}


class Trivial:
    """A forecaster without a model: what any other has to beat.

    `fit` takes from the training set the mean of each entry, which stands in for entries that a
    sequence never shows, the mean curve, and the error of the rule's forecasts where half of the
    rows are seen, which becomes the standard deviation of its forecasts.

    Arguments:
        kind: "hold_last": the last observed value; "training_mean": the mean of the training set
            at each time, whatever was observed; "linear_interpolation": lines between neighbors,
            then the last value; "constant_velocity": lines, continued beyond the ends.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> Trivial("hold_last").fit(train).predict(test.prefix(66), test.times).mean
    """

    def __init__(self, kind: TrivialKind) -> None:
        if kind not in get_args(TrivialKind):
            raise ValueError(
                f"unknown kind {kind!r}; there are: {', '.join(get_args(TrivialKind))}"
            )
        self.kind: TrivialKind = kind
        self._train: Sequences | None = None

    def fit(
        self,
        train: Sequences,
        *,
        seed: int = 0,
        progress: Callable[[int, dict[str, float]], bool | None] | None = None,
    ) -> "Trivial":
        """Takes means and errors from the training set; returns itself.

        Arguments:
            train: Training set.
            seed: Unused: nothing is random.
            progress: Unused: it takes one pass.
        """
        mask = train.mask.expand(train.values.shape)
        count = mask.sum((0, 1)).clamp(min=1)
        self._fill = train.values.sum((0, 1)) / count
        self._curve = training_mean(train)
        half = train.prefix((train.rows.sum(1) * 0.5).ceil().long(), of="observed")
        self._train = train
        error = torch.where(mask, train.values - self._values(half, train.times), 0.0)
        self._variance = error.square().sum((0, 1)) / count
        return self

    def predict(
        self,
        observed: Sequences,
        times: Float[Tensor, "..."],
        *,
        draws: int = 1,
        seed: int = 0,
    ) -> Forecast:
        """Returns the forecast at the given times.

        Arguments:
            observed: What is known of each sequence.
            times: `(Q,)` for all sequences or `(B, Q)`.
            draws: Unused: there is one path.
            seed: Unused, likewise.

        Raises:
            ValueError: If `fit` was not called, or the shape of `times` does not fit.
        """
        values = self._values(observed, times)
        return mixture(times, values[None], self._variance, values)

    def _values(self, observed: Sequences, times: Tensor) -> Tensor:
        if self._train is None:
            raise ValueError("call fit(train) first: the training set's means are needed")
        if self.kind != "training_mean":
            return _RULES[self.kind](observed, times, fill=self._fill)
        asked = expanded_times(times, observed)
        flat = linear_interpolation(self._curve, asked.reshape(1, -1))[0]
        return flat.reshape(*asked.shape, *observed.obs_shape)


@torch.no_grad()
def training_mean(train: Sequences) -> Sequences:
    """Returns the mean over sequences as a curve of time, as one fully observed sequence.

    At each time the mean of the sequences whose observations lie around it, each interpolated by
    a line, entry by entry: on a shared grid that is fully observed the plain mean of each step.
    The grid is that of all training times, or 1000 of them, evenly ranked, where they are more.

    Arguments:
        train: Training set; every entry must be observed somewhere.

    Raises:
        ValueError: If an entry is observed in no sequence.
    """
    mask = train.mask.expand(train.values.shape)
    count = mask.sum((0, 1))
    if bool((count == 0).any()):
        entry = (count.flatten() == 0).nonzero()[0].item()
        raise ValueError(f"entry {entry} is observed in no training sequence: leave it out")
    grid: Tensor = torch.unique(train.times[train.rows])
    if len(grid) > _POINTS:
        grid = grid[torch.linspace(0, len(grid) - 1, _POINTS).round().long()]
    total = train.values.new_zeros((len(grid), *train.obs_shape))
    number = torch.zeros_like(total)
    fill = train.values.sum((0, 1)) / count
    for part, seen in zip(train, mask, strict=True):
        when = part.times[0].reshape(-1, *[1] * len(train.obs_shape))
        first = torch.where(seen, when, float("inf")).amin(0)
        last = torch.where(seen, when, -float("inf")).amax(0)
        at = grid.reshape(-1, *[1] * len(train.obs_shape))
        covers = (at >= first) & (at <= last)
        total += torch.where(covers, linear_interpolation(part, grid, fill=fill)[0], 0.0)
        number += covers
    known = Sequences(grid, (total / number.clamp(min=1))[None], (number > 0)[None])
    # Between sequences that end and others that begin nothing is known: a line again.
    return Sequences(grid, linear_interpolation(known, grid))
