"""Parts of sequences in time: prefixes, crops, windows, random subsets of rows."""

from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lv_dynamics.validation import refuse_first

__all__ = ["Selections"]

S = TypeVar("S", bound="Selections")


class Selections:
    """The methods of Sequences that select rows; that class holds the fields."""

    times: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time *obs"]
    mask: Bool[Tensor, "batch time ..."]
    lengths: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.times)

    def _set(self, **fields: object) -> None:
        for name, content in fields.items():
            object.__setattr__(self, name, content)

    def _with(self: S, **fields: object) -> S:
        """Returns a copy with other fields, which are known to be right, unchecked."""
        copy = object.__new__(type(self))
        copy._set(**{**self.__dict__, **fields})
        return copy

    @property
    def rows(self) -> Bool[Tensor, "batch time"]:
        """Which rows have an observed entry."""
        return self.mask.flatten(2).any(2)

    def prefix(self: S, count: int | Tensor, *, of: Literal["rows", "observed"] = "rows") -> S:
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

    def crop(self: S, count: int) -> S:
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

    def window(self: S, start: Int[Tensor, " batch"], count: int, *, shift: bool = True) -> S:
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
        self: S,
        share: float | None = None,
        *,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> S:
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

    def only(self: S, keep: Bool[Tensor, "batch time"]) -> S:
        """Returns the sequences with nothing observed but in the given rows; times are kept.

        Arguments:
            keep: True for rows that stay observed where they are.

        Raises:
            ValueError: If the shape is another, or a sequence has no observed entry left; the
                message names it.
        """
        if keep.shape != self.times.shape:
            raise ValueError(
                f"keep must have the shape of the times {tuple(self.times.shape)}, got "
                f"{tuple(keep.shape)}"
            )
        return self._seen(keep, "keep leaves no observed entry")

    def compact(self: S) -> S:
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

    def _seen(self: S, keep: Tensor, problem: str) -> S:
        mask = self.mask & keep.reshape(*keep.shape, *[1] * (self.mask.ndim - 2))
        refuse_first(~mask.flatten(1).any(1), problem)
        return self._with(mask=mask, values=torch.where(mask, self.values, 0.0))
