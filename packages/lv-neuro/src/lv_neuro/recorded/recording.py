"""Spikes and heading of a recording in time bins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lv_neuro import angles
from lv_neuro.angles import check_radians
from lv_neuro.recorded import movement, tuning
from lv_neuro.recorded.epochs import pairs
from lv_neuro.recorded.movement import Turns
from lv_neuro.recorded.tuning import TuningCurves
from lv_neuro.walks import Walks

__all__ = ["Recording", "whole_bins"]

# Neighbors in time differ by one bin up to this share of it; more is a break.
TOLERANCE = 1e-3


def whole_bins(name: str, seconds: float, bin_seconds: float) -> int:
    """Returns how many time bins make up `seconds`, which must be a whole number of them."""
    factor = round(seconds / bin_seconds) if 0 < seconds < math.inf else 0
    if factor < 1 or abs(seconds - factor * bin_seconds) > TOLERANCE * bin_seconds:
        raise ValueError(
            f"{name} must be a whole number of time bins, got {seconds} s with bins of "
            f"{bin_seconds} s"
        )
    return factor


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Spike counts of cells and the heading in equal time bins, with breaks between some of them.

    Bins are neighbors when their starts differ by `bin_seconds`; where they differ by more there
    is a break, across which nothing is ever smoothed, rebinned, differenced or filtered.

    Raises:
        TypeError: If counts are no integers, or times no float64.
        ValueError: If lengths differ, or values are missing or out of range.

    Example:
        >>> import torch
        >>> counts, heading = torch.tensor([[1, 0], [0, 2], [1, 1]]), torch.tensor([0.1, 0.2, 0.3])
        >>> Recording(counts=counts, heading=heading, bin_seconds=0.01).cells
        ('cell0', 'cell1')
    """

    counts: Integer[Tensor, "bins cells"]
    """Spikes per time bin and cell."""
    heading: Float[Tensor, " bins"]
    """Heading in each time bin in radians, no NaN; is moved into [0, 2 pi)."""
    bin_seconds: float
    """Length of a time bin in seconds."""
    cells: tuple[str, ...] = ()
    """Names of the cells; none given means cell0, cell1, ..."""
    time: Float[Tensor, " bins"] | None = None
    """Starts of the time bins in seconds, float64, rising; None means 0, bin_seconds, ..."""

    def __post_init__(self) -> None:
        counts, heading = self.counts, self.heading
        _check_counts(counts)
        bins = counts.shape[0]
        if heading.shape != (bins,):
            raise ValueError(
                f"heading must hold one angle per time bin, got shape {tuple(heading.shape)} for "
                f"{bins} bins of counts"
            )
        if bool(torch.isnan(heading).any()):
            bad = torch.isnan(heading)
            raise ValueError(
                f"heading must not be NaN, got {int(bad.sum())} of {bins}, the first at index "
                f"{int(bad.int().argmax())}: binned_recording drops or interpolates them"
            )
        check_radians("heading", heading)
        object.__setattr__(self, "heading", angles.heading(heading))
        if not 0 < self.bin_seconds < math.inf:
            raise ValueError(f"bin_seconds must be positive and finite, got {self.bin_seconds}")
        names = tuple(self.cells) or tuple(f"cell{i}" for i in range(counts.shape[1]))
        if len(names) != counts.shape[1] or len(set(names)) != len(names):
            raise ValueError(
                f"cells must hold {counts.shape[1]} different names, got {len(names)} of which "
                f"{len(set(names))} differ"
            )
        object.__setattr__(self, "cells", names)
        if self.time is None:
            time = torch.arange(bins, dtype=torch.float64, device=counts.device)
            object.__setattr__(self, "time", time * self.bin_seconds)
        else:
            _check_time(self.time, bins, self.bin_seconds)

    @property
    def starts(self) -> Float[Tensor, " bins"]:
        """Starts of the time bins in seconds."""
        return cast(Tensor, self.time)

    @property
    def seconds(self) -> float:
        """Recorded time in seconds, without the breaks."""
        return self.counts.shape[0] * self.bin_seconds

    @property
    def stretches(self) -> list[slice]:
        """Parts without a break, as slices of the time bins."""
        step = self.starts.diff()
        ends = (step > (1 + TOLERANCE) * self.bin_seconds).nonzero()[:, 0] + 1
        edges = [0, *ends.tolist(), self.counts.shape[0]]
        return [slice(a, b) for a, b in pairwise(edges)]

    def keep(self, mask: Tensor) -> "Recording":
        """Returns the time bins for which the boolean `mask`, shape `(bins,)`, is true."""
        if not bool(mask.any()):
            raise ValueError(f"no time bin is left of {self.counts.shape[0]}")
        return replace(
            self, counts=self.counts[mask], heading=self.heading[mask], time=self.starts[mask]
        )

    def between(self, start: float, stop: float) -> "Recording":
        """Returns the time bins that start in [start, stop), in seconds.

        Raises:
            ValueError: If there are none.
        """
        return self.epochs([(start, stop)])

    def epochs(self, intervals: Sequence[tuple[float, float]]) -> "Recording":
        """Returns the time bins that start in one of the intervals [start, stop), in seconds.

        Raises:
            ValueError: If an interval is no pair or empty, or none holds a bin.
        """
        slack = 1e-6 * self.bin_seconds  # starts are sums of rounded numbers
        mask = torch.zeros_like(self.starts, dtype=torch.bool)
        for start, stop in pairs("intervals", intervals):
            if not start < stop:
                raise ValueError(f"an interval must end after its start, got [{start}, {stop})")
            mask |= (self.starts >= start - slack) & (self.starts < stop - slack)
        if not bool(mask.any()):
            first, last = float(self.starts[0]), float(self.starts[-1]) + self.bin_seconds
            raise ValueError(
                f"the intervals hold no time bin; the recording lasts from {first:.6g} to "
                f"{last:.6g} s"
            )
        return self.keep(mask)

    def select(self, cells: Sequence[str | int]) -> "Recording":
        """Returns the recording of some cells, by name or number, in the order given.

        Raises:
            ValueError: If there is no such cell.
        """
        for cell in cells:
            known = cell in self.cells if isinstance(cell, str) else 0 <= cell < len(self.cells)
            if not known:
                raise ValueError(
                    f"cells: there is no cell {cell!r}; there are {len(self.cells)}: "
                    f"{', '.join(self.cells[:8])}{', ...' if len(self.cells) > 8 else ''}"
                )
        chosen = [self.cells.index(cell) if isinstance(cell, str) else cell for cell in cells]
        names = tuple(self.cells[i] for i in chosen)
        return replace(self, counts=self.counts[:, chosen], cells=names)

    def rebin(self, factor: int) -> "Recording":
        """Returns the recording in time bins that are `factor` times as long.

        Spikes are added, headings averaged on the circle. What is left over at the end of a
        stretch is dropped.

        Raises:
            ValueError: If no stretch is that long.
        """
        if factor < 1:
            raise ValueError(f"factor must be positive, got {factor}")
        if factor == 1:
            return self
        first = torch.cat(
            [
                torch.arange(part.start, part.stop - factor + 1, factor)
                for part in self.stretches
                if part.stop - part.start >= factor
            ]
            or [torch.empty(0, dtype=torch.int64)]
        ).to(self.counts.device)
        if first.numel() == 0:
            longest = max(part.stop - part.start for part in self.stretches)
            raise ValueError(
                f"factor must not exceed the longest stretch without a break, {longest} bins, got "
                f"{factor}"
            )
        inside = first[:, None] + torch.arange(factor, device=first.device)
        return replace(
            self,
            counts=self.counts[inside].sum(1),  # of 64 bits, whatever the counts were
            heading=angles.circular_mean(self.heading[inside], dim=1),
            time=self.starts[first],
            bin_seconds=self.bin_seconds * factor,
        )

    def tuning_curves(
        self, bins: int = 60, *, smooth: float = 0.0, min_occupancy: float = 0.0
    ) -> TuningCurves:
        """Returns the firing rate of each cell at `bins` headings.

        Arguments:
            bins: Number of headings; bin n holds those nearest to 2 pi n / bins.
            smooth: Standard deviation of the circular Gaussian smoothing, radians; 0 means none.
            min_occupancy: Seconds below which the rate at a heading is NaN.
        """
        return tuning.tuning_curves(
            self.counts,
            self.heading,
            self.bin_seconds,
            bins=bins,
            smooth=smooth,
            min_occupancy=min_occupancy,
        )

    def angular_velocity(self, *, smooth: float = 0.08) -> Float[Tensor, " bins"]:
        """Returns the angular velocity in rad/s, NaN in stretches of one bin.

        Arguments:
            smooth: Standard deviation of the Gaussian in time, seconds.
        """
        return movement.angular_velocity(
            self.heading, self.stretches, self.bin_seconds, smooth=smooth
        )

    def turns(self, bin_seconds: float = 0.05) -> Turns:
        """Returns the head turns between neighboring bins of `bin_seconds`, none across breaks.

        Arguments:
            bin_seconds: Seconds from one heading to the next, a multiple of the time bin.
        """
        coarse = self.rebin(whole_bins("bin_seconds", bin_seconds, self.bin_seconds))
        return movement.turns(coarse.heading, coarse.stretches)

    def segments(
        self,
        walks: int = 60,
        steps: int = 600,
        *,
        bin_seconds: float = 0.05,
        max_turn: float | None = math.radians(18),
    ) -> Walks:
        """Returns pieces of the recorded movement as walks, to integrate paths on.

        Arguments:
            walks: How many, spread evenly over the recording.
            steps: Turns in each.
            bin_seconds: Seconds per turn.
            max_turn: Larger turns are clamped, in the walk and in its true heading; radians, None
                means as recorded.
        """
        return movement.segments(self.turns(bin_seconds), walks, steps, max_turn=max_turn)


def _check_counts(counts: Tensor) -> None:
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise TypeError(
            f"counts must hold whole numbers of spikes, got {counts.dtype}: use .round().long() "
            "if they are counts; rates can be drawn from by poisson_spikes"
        )
    if counts.ndim != 2 or 0 in counts.shape:
        raise ValueError(
            f"counts must have at least one time bin and one cell, shape (bins, cells), got "
            f"{tuple(counts.shape)}"
        )
    if bool((counts < 0).any()):
        row, cell = (counts < 0).nonzero()[0].tolist()
        raise ValueError(
            f"counts must not be negative, got {int((counts < 0).sum())} such values, the first "
            f"{int(counts[row, cell])} at bin {row} of cell {cell}"
        )


def _check_time(time: Tensor, bins: int, bin_seconds: float) -> None:
    if time.dtype != torch.float64:
        raise TypeError(f"time must be float64 to resolve the bins, got {time.dtype}")
    if time.shape != (bins,):
        raise ValueError(
            f"time must hold one start per time bin, got shape {tuple(time.shape)} for {bins} bins"
        )
    late = ~(time.diff() >= (1 - TOLERANCE) * bin_seconds)  # NaN included
    if bool(late.any()) or not bool(torch.isfinite(time).all()):
        raise ValueError(
            f"time must be finite and rise by bin_seconds = {bin_seconds} or more, got "
            f"{int(late.sum())} steps that do not, the first after index "
            f"{int(late.nonzero()[0, 0]) if bool(late.any()) else 0}"
        )
