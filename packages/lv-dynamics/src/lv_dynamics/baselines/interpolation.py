"""Forecasts without a model, entry by entry of an observation.

B sequences, T rows of time, Q times asked for, p entries of one observation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences

__all__ = ["constant_velocity", "hold_last", "linear_interpolation"]


def hold_last(
    observed: Sequences,
    times: Float[Tensor, "..."],
    *,
    fill: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch times ..."]:
    """Returns the last observed value at or before each time; before the first one, the first.

    Arguments:
        observed: What is known.
        times: Times asked for, `(Q,)` for all sequences or `(B, Q)`.
        fill: Values of entries that a sequence never shows, shape of one observation; None
            refuses such sequences.

    Raises:
        ValueError: If an entry of a sequence is never observed and there is no `fill`, or the
            shape of `times` does not fit.

    Example:
        >>> hold_last(seen.prefix(66), seen.times)[:, 66:]
    """
    near = _neighbors(observed, times, fill)
    return near.filled(torch.where(near.before.exists, near.before.value, near.after.value))


def linear_interpolation(
    observed: Sequences,
    times: Float[Tensor, "..."],
    *,
    fill: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch times ..."]:
    """Returns the straight line between observed neighbors; beyond the ends, the end's value.

    Arguments and errors as for `hold_last`.
    """
    near = _neighbors(observed, times, fill)
    return near.filled(_inside(near))


def constant_velocity(
    observed: Sequences,
    times: Float[Tensor, "..."],
    *,
    fill: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch times ..."]:
    """Returns straight lines between observed neighbors, continued beyond both ends.

    Beyond an end an entry goes on with the slope of its two outermost observations; with a single
    one it stays. Arguments and errors as for `hold_last`.
    """
    near = _neighbors(observed, times, fill)
    result = _inside(near)
    beyond = near.before.exists & ~near.after.exists
    result = torch.where(beyond, _line(near.before, near.second_before, near.times), result)
    ahead = near.after.exists & ~near.before.exists
    return near.filled(
        torch.where(ahead, _line(near.after, near.second_after, near.times), result)
    )


class _Point(NamedTuple):
    """An observed entry next to each time asked for; each `(B, Q, p)`."""

    exists: Tensor
    time: Tensor
    value: Tensor


class _Neighbors(NamedTuple):
    before: _Point
    after: _Point
    second_before: _Point
    second_after: _Point
    times: Tensor
    seen: Tensor
    fill: Tensor | None
    shape: tuple[int, ...]

    def filled(self, result: Tensor) -> Tensor:
        if self.fill is not None:
            result = torch.where(self.seen, result, self.fill.reshape(-1).to(result))
        return result.reshape(*result.shape[:2], *self.shape)


def _inside(near: _Neighbors) -> Tensor:
    before, after = near.before, near.after
    line = _line(before, after, near.times)
    return torch.where(before.exists, torch.where(after.exists, line, before.value), after.value)


def _line(first: _Point, second: _Point, times: Tensor) -> Tensor:
    """Returns the line through two points at `times`; where there is no second, the first."""
    span = torch.where(second.exists, second.time - first.time, 1.0)
    slope = torch.where(second.exists, (second.value - first.value) / span, 0.0)
    return first.value + slope * (times - first.time)


def _neighbors(observed: Sequences, times: Tensor, fill: Tensor | None) -> _Neighbors:
    asked = expanded_times(times, observed)
    mask = observed.mask.expand(observed.values.shape).flatten(2)
    values = torch.where(mask, observed.values.flatten(2), 0.0)
    seen = mask.any(1, keepdim=True)
    if fill is None and not bool(seen.all()):
        sequence, _, entry = (~seen).nonzero()[0].tolist()
        raise ValueError(
            f"entry {entry} of sequence {sequence} is never observed: give fill, or drop it"
        )
    n = values.shape[1]
    place = torch.arange(n, device=mask.device).reshape(1, n, 1)
    # last[j] is the last observed row at or before row j - 1, next[j] the first at or after j;
    # -1 and n say that there is none.
    none = mask.new_zeros((len(mask), 1, mask.shape[2]), dtype=torch.int64)
    last = torch.where(mask, place, -1).cummax(1).values
    last = torch.cat((none - 1, last), dim=1)
    after = torch.where(mask, place, n).flip(1).cummin(1).values.flip(1)
    after = torch.cat((after, none + n), dim=1)
    row = torch.searchsorted(observed.times.contiguous(), asked.contiguous(), right=True)
    index = row.unsqueeze(-1).expand(-1, -1, mask.shape[2])
    grid = observed.times.unsqueeze(-1).expand_as(values)

    def point(which: Tensor) -> _Point:
        exists = (which >= 0) & (which < n)
        safe = which.clamp(0, n - 1)
        return _Point(exists, grid.gather(1, safe), values.gather(1, safe))

    one, two = last.gather(1, index), after.gather(1, index)
    return _Neighbors(
        before=point(one),
        after=point(two),
        second_before=point(last.gather(1, one.clamp(min=0))),
        second_after=point(after.gather(1, (two + 1).clamp(max=n))),
        times=asked.unsqueeze(-1),
        seen=seen,
        fill=fill,
        shape=tuple(observed.values.shape[2:]),
    )


def expanded_times(times: Tensor, observed: Sequences) -> Tensor:
    """Returns the times asked for, one row for each sequence, `(B, Q)`.

    Raises:
        ValueError: If they are neither one row nor as many as there are sequences.
    """
    n = observed.values.shape[0]
    if times.ndim not in (1, 2) or (times.ndim == 2 and len(times) != n):
        raise ValueError(
            f"times must have shape (Q,) or ({n}, Q) for {n} sequences, got {tuple(times.shape)}"
        )
    return times.to(observed.times).expand(n, times.shape[-1])
