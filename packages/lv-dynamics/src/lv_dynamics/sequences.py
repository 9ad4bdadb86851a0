"""Sequences on time grids of their own, partly observed.

B sequences, T rows (the longest sequence, shorter ones are padded), obs shape of an observation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lv_dynamics.padding import lengthened, padded
from lv_dynamics.scaling import Scaling
from lv_dynamics.selection import Selections
from lv_dynamics.validation import (
    check_shapes,
    check_times,
    check_values,
)

__all__ = ["Sequences"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Sequences(Selections):
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
    def horizon(self) -> Float[Tensor, " batch"]:
        """Last time of each sequence."""
        return self.times[:, -1]

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
