"""Sequences on time grids of their own, partly observed.

B sequences, T rows (the longest sequence, shorter ones are padded), obs shape of an observation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lv_dynamics.padding import lengthened, padded
from lv_dynamics.scaling import Scaling
from lv_dynamics.validation import (
    check_shapes,
    check_times,
    check_values,
    refuse_first,
)

__all__ = ["Sequences"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Sequences:
    """A batch of sequences: times, values, and which entries were observed.

    Every sequence has a clock of its own, which starts at t = 0; the first row may come later.
    Entries that are not observed are stored as 0 and may be NaN where they are given. Rows from
    `lengths` on are padding: never observed, their time repeats the last one.

    Arguments:
        times: Times of the rows, shape `(B, T)`, or `(T,)` when all share a grid; in the user's
            unit, not negative, strictly rising within a sequence. They take the dtype of values.
        values: Observations, shape `(B, T, *obs)` with at least one axis after time.
        mask: True where observed, shape `(B, T, *obs)`, `(B, T)`, or with axes of length 1 in
            place of `obs`; None means everywhere.
        lengths: How many rows of each sequence are real, shape `(B,)`; None means all.
        factors: What is known about each sequence (parameters, labels), for evaluation only.

    Raises:
        TypeError: If values are no floating-point numbers, or the mask is not boolean.
        ValueError: If shapes disagree, times are negative or do not rise, an observed value is
            not finite, or a sequence has no observed entry; the message names the sequence.

    Example:
        >>> t = torch.arange(50) * 0.1
        >>> Sequences(t, torch.sin(t).expand(3, 50)[..., None]).prefix(10).observed
        tensor([10, 10, 10])
    """

    times: Float[Tensor, "batch time"]
    """times of the rows, padding repeats the last one"""
    values: Float[Tensor, "batch time *obs"]
    """observations, 0 where not observed"""
    mask: Bool[Tensor, "batch time ..."]
    """True where observed; has as many axes as values, lengths 1 allowed after time"""
    lengths: Int[Tensor, " batch"]
    """number of real rows, int64"""
    factors: Mapping[str, Shaped[Tensor, "batch ..."]]
    """true parameters or labels by name, for evaluation only"""

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        factors: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_shapes(times, values, mask, lengths, factors or {})
        batch, rows = values.shape[:2]
        if lengths is None:
            lengths = torch.full((batch,), rows, device=values.device)
        lengths = lengths.long()
        if mask is None:
            mask = torch.ones(batch, rows, dtype=torch.bool, device=values.device)
        mask = mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
        real = torch.arange(rows, device=values.device) < lengths[:, None]
        mask = mask & real.reshape(batch, rows, *[1] * (values.ndim - 2))
        times = times.to(values.dtype).expand(batch, rows)
        check_times(times, real)
        check_values(values, mask)
        self._set(
            times=torch.where(real, times, times.gather(1, lengths[:, None] - 1)),
            values=torch.where(mask, values, 0.0),
            mask=mask,
            lengths=lengths,
            factors=dict(factors or {}),
        )

    def _set(self, **fields: object) -> None:
        for name, content in fields.items():
            object.__setattr__(self, name, content)

    def _with(self, **fields: object) -> "Sequences":
        """Returns a copy with other fields, which are known to be right, unchecked."""
        copy = object.__new__(type(self))
        copy._set(**{**self.__dict__, **fields})
        return copy

    @classmethod
    def from_list(
        cls,
        items: Sequence[tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]],
        *,
        shift: bool = False,
        factors: Mapping[str, Tensor] | None = None,
    ) -> "Sequences":
        """Returns sequences of different lengths as one padded batch.

        Arguments:
            items: For each sequence its times `(T_i,)`, values `(T_i, *obs)` and, where entries
                are missing, a mask `(T_i, *obs)` or `(T_i,)`.
            shift: Whether the first time of each sequence becomes its t = 0.
            factors: As in the constructor.

        Raises:
            ValueError: If there is none, one is empty or shapes differ; names the sequence.
        """
        times, values, mask, lengths = padded(items, shift=shift)
        return cls(times, values, mask, lengths, factors)

    @classmethod
    def cat(cls, parts: "Sequence[Sequences]") -> "Sequences":
        """Returns the sequences of several batches as one, padded to the longest.

        Raises:
            ValueError: If there is none, or shapes or names of factors differ.
        """
        if not parts:
            raise ValueError("parts must hold at least one batch of sequences, got none")
        rows = max(part.times.shape[1] for part in parts)
        for index, part in enumerate(parts):
            if part.obs_shape != parts[0].obs_shape or set(part.factors) != set(parts[0].factors):
                raise ValueError(
                    f"parts must agree in the shape of an observation and the names of factors, "
                    f"got {parts[0].obs_shape}, {sorted(parts[0].factors)} and, at index {index}, "
                    f"{part.obs_shape}, {sorted(part.factors)}"
                )
        compact = all(part.mask.shape[2:] == parts[0].mask.shape[2:] for part in parts)
        masks = [p.mask if compact else p.mask.expand_as(p.values) for p in parts]
        return parts[0]._with(
            times=torch.cat([lengthened(part.times, rows, repeat=True) for part in parts]),
            values=torch.cat([lengthened(part.values, rows) for part in parts]),
            mask=torch.cat([lengthened(mask, rows) for mask in masks]),
            lengths=torch.cat([part.lengths for part in parts]),
            factors={n: torch.cat([p.factors[n] for p in parts]) for n in parts[0].factors},
        )

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> "Iterator[Sequences]":
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        seen = int(self.observed.sum()) / self.values.numel()
        return (
            f"Sequences({len(self)} x {self.times.shape[1]} rows of {self.obs_shape}, "
            f"{100 * seen:.3g} % observed, t up to {float(self.times.max()):.6g})"
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Sequences":
        """Returns some of the sequences; a single number gives a batch of one.

        Arguments:
            index: Number, slice, list of numbers, or tensor of numbers or of booleans `(B,)`.

        Raises:
            IndexError: If there is no such sequence.
        """
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there is no sequence {index}; there are {len(self)}")
            index = [index]
        if isinstance(index, Tensor):
            index = index.to(self.times.device)
        fields = ("times", "values", "mask", "lengths")
        return self._with(
            factors={name: factor[index] for name, factor in self.factors.items()},
            **{name: getattr(self, name)[index] for name in fields},
        )

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return tuple(self.values.shape[2:])

    @property
    def observed(self) -> Int[Tensor, " batch"]:
        """Number of observed entries of each sequence."""
        copies = self.values[0].numel() // self.mask[0].numel()
        return self.mask.flatten(1).sum(1) * copies

    @property
    def rows(self) -> Bool[Tensor, "batch time"]:
        """Which rows have an observed entry."""
        return self.mask.flatten(2).any(2)

    @property
    def horizon(self) -> Float[Tensor, " batch"]:
        """Last time of each sequence."""
        return self.times[:, -1]

    def prefix(
        self, count: int | Tensor, *, of: Literal["rows", "observed"] = "rows"
    ) -> "Sequences":
        """Returns the sequences with nothing observed after the first rows; times are kept.

        Arguments:
            count: Number of rows that stay observed, one for all or one for each, shape `(B,)`.
            of: "rows" counts all rows; "observed" only those with an observed entry, so that no
                sequence is ever left without one.

        Raises:
            ValueError: If a sequence has no observed entry left; the message names it.
        """
        number = torch.as_tensor(count, device=self.times.device).expand(len(self))[:, None]
        refuse_first(number[:, 0] < 1, "count must be at least 1, got less")
        if of == "rows":
            keep = torch.arange(self.times.shape[1], device=number.device) < number
        else:
            keep = self.rows.cumsum(1) <= number
        return self._seen(keep, "has no observed entry in its first rows: take a larger count")

    def crop(self, count: int) -> "Sequences":
        """Returns the first `count` rows of every sequence; all after them are dropped.

        Arguments:
            count: Number of rows, at least 1; may exceed the length of sequences.

        Raises:
            ValueError: If a sequence has no observed entry left; the message names it.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        cropped = self._with(
            times=self.times[:, :count],
            values=self.values[:, :count],
            mask=self.mask[:, :count],
            lengths=self.lengths.clamp(max=count),
        )
        unseen = ~cropped.rows.any(1)
        refuse_first(unseen, "has no observed entry in its first rows: take a larger count")
        return cropped

    def window(
        self, start: Int[Tensor, " batch"], count: int, *, shift: bool = True
    ) -> "Sequences":
        """Returns `count` rows of each sequence, from its own start.

        Arguments:
            start: Row at which the window of each sequence begins.
            count: Number of rows, at least 1.
            shift: Whether the window's first row becomes t = 0. Otherwise times are kept, and
                with them what t = 0 means.

        Raises:
            ValueError: If a window leaves its sequence or has no observed entry.
        """
        start = start.to(self.times.device)
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        outside = (start < 0) | (start + count > self.lengths)
        refuse_first(outside, f"has no {count} rows from its start on: choose an earlier start")
        row = start[:, None] + torch.arange(count, device=start.device)
        pick = torch.arange(len(self), device=start.device)[:, None], row
        times = self.times[pick]
        part = self._with(
            times=times - times[:, :1] if shift else times,
            values=self.values[pick],
            mask=self.mask[pick],
            lengths=torch.full_like(self.lengths, count),
        )
        refuse_first(~part.rows.any(1), "has no observed entry in its window")
        return part

    def thin(
        self,
        share: float | None = None,
        *,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> "Sequences":
        """Returns the sequences with a random subset of their observed rows; times are kept.

        Arguments:
            share: Share of the observed rows that stay, in (0, 1]; rounded, at least one row.
            count: Number of rows that stay, instead of a share; at most all.
            generator: Source of randomness; None means torch's global one.

        Raises:
            ValueError: If not exactly one of share and count is given, or it is out of range.
        """
        if (share is None) == (count is None):
            raise ValueError(f"give either share or count, got {share=} and {count=}")
        rows = self.rows
        if share is not None and 0 < share <= 1:
            number = (rows.sum(1) * share).round().clamp(min=1)
        elif count is not None and count >= 1:
            number = torch.full_like(self.lengths, count)
        else:
            raise ValueError(
                f"share must be in (0, 1] and count at least 1, got {share=} and {count=}"
            )
        device = rows.device if generator is None else generator.device
        lot = torch.rand(rows.shape, dtype=torch.float64, generator=generator, device=device)
        rank = lot.to(rows.device).masked_fill(~rows, 2.0).argsort(1).argsort(1)
        return self._seen(rank < number[:, None], "")

    def compact(self) -> "Sequences":
        """Returns the sequences without rows in which nothing was observed; times are kept.

        Fewer rows cost less, and a sequence's clock still starts at the same t = 0.
        """
        rows = self.rows
        lengths = rows.sum(1)
        order = (~rows).int().argsort(dim=1, stable=True)[:, : int(lengths.max())]
        pick = torch.arange(len(self), device=order.device)[:, None], order
        real = torch.arange(order.shape[1], device=order.device) < lengths[:, None]
        times = self.times[pick]
        return self._with(
            times=torch.where(real, times, times.gather(1, lengths[:, None] - 1)),
            values=self.values[pick],
            mask=self.mask[pick],
            lengths=lengths,
        )

    def scaling(self) -> Scaling:
        """Returns the scaling to mean 0 and deviation 1 of each channel, of observed entries."""
        return Scaling.standard(self.values, self.mask)

    def scaled(self, scaling: Scaling) -> "Sequences":
        """Returns the sequences with their values scaled.

        Arguments:
            scaling: Usually that of the training set, `train.scaling()`.
        """
        return self._with(values=torch.where(self.mask, scaling.apply(self.values), 0.0))

    def standardized(self, mean: Float[Tensor, "..."], std: Float[Tensor, "..."]) -> "Sequences":
        """Returns the sequences with values (x - mean) / std.

        Arguments:
            mean: Mean of each channel, broadcastable to an observation.
            std: Standard deviation of each channel, not zero.
        """
        return self.scaled(Scaling(offset=mean, scale=std))

    def to(self, target: torch.device | torch.dtype | str) -> "Sequences":
        """Returns the sequences on another device or in another floating-point type.

        Arguments:
            target: Device, its name, or a floating-point dtype (masks and integers keep theirs).
        """

        def moved(tensor: Tensor) -> Tensor:
            if isinstance(target, torch.dtype):
                return tensor.to(target) if tensor.is_floating_point() else tensor
            return tensor.to(target)

        copy = self._with(
            factors={name: moved(factor) for name, factor in self.factors.items()},
            **{n: moved(getattr(self, n)) for n in ("times", "values", "mask", "lengths")},
        )
        if isinstance(target, torch.dtype):
            rows = torch.arange(self.times.shape[1], device=self.times.device)
            check_times(copy.times, rows < self.lengths[:, None])  # may have become equal
        return copy

    def _seen(self, keep: Tensor, problem: str) -> "Sequences":
        mask = self.mask & keep.reshape(*keep.shape, *[1] * len(self.obs_shape))
        refuse_first(~mask.flatten(1).any(1), problem)
        return self._with(mask=mask, values=torch.where(mask, self.values, 0.0))
