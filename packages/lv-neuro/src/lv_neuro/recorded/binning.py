"""Spike times and heading samples, or binned arrays with missing headings, as a Recording."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lv_neuro.angles import check_radians
from lv_neuro.recorded.choice import check_choice
from lv_neuro.recorded.epochs import disjoint
from lv_neuro.recorded.recording import Recording

__all__ = ["Array", "Missing", "binned_recording", "from_spikes"]

Array = NDArray[Any] | Tensor | Sequence[float]
Missing = Literal["error", "drop", "interpolate"]

REMEDY = 'choose missing="drop" or missing="interpolate"'


def binned_recording(
    counts: NDArray[Any] | Tensor | Sequence[Sequence[int | float]],
    heading: Array,
    *,
    bin_seconds: float,
    cells: Sequence[str] = (),
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of binned spike counts, and of one heading per bin or NaN.

    Arguments:
        counts: Spikes, shape `(bins, cells)`, whole numbers of any type.
        heading: Headings in radians, shape `(bins,)`, NaN where the heading is not known.
        bin_seconds: Length of a time bin.
        cells: Names of the cells; none means cell0, cell1, ...
        missing: What happens to bins without heading: "error" refuses them, "drop" leaves them
            out, "interpolate" fills gaps of at most `max_gap` by a steady turn the short way and
            leaves longer ones out. Where bins are left out the recording has a break.
        max_gap: Longest gap in seconds that is filled.

    Raises:
        ValueError: If an argument is out of range, or headings are missing and `missing` is
            "error".
    """
    check_choice("missing", missing, get_args(Missing))
    spikes, angle = np.asarray(counts), np.asarray(heading)
    if angle.ndim != 1 or spikes.ndim != 2 or angle.shape[0] != spikes.shape[0]:
        raise ValueError(
            "counts must have shape (bins, cells) and heading (bins,) with equally many bins, got "
            f"{spikes.shape} and {angle.shape}"
        )
    if angle.size == 0:
        raise ValueError("heading must hold at least one angle, got an empty recording")
    if not 0 < bin_seconds < math.inf:
        raise ValueError(f"bin_seconds must be positive and finite, got {bin_seconds}")
    whole = _whole(spikes)
    angle = _radians("heading", angle)
    unknown = np.isnan(angle)
    keep = np.full(angle.shape, True)
    if unknown.any():
        if missing == "error":
            raise ValueError(
                f"heading must not be NaN, got {int(unknown.sum())} of {angle.size}, the first at "
                f"index {int(unknown.argmax())}: {REMEDY}"
            )
        if unknown.all():
            raise ValueError(f"heading must be known in some bin, got {angle.size} NaN")
        places, known = np.arange(angle.size), np.flatnonzero(~unknown)
        angle = np.interp(places, known, np.unwrap(angle[known]))
        # A bin lies in a gap that is filled if known ones are near enough on both sides.
        after = np.searchsorted(known, places)
        inside = (after > 0) & (after < known.size)
        width = (
            np.diff(known)[np.clip(after - 1, 0, max(known.size - 2, 0))] - 1
            if (known.size > 1)
            else np.full(places.shape, places.size)
        )
        fill = inside & (width * bin_seconds <= max_gap * (1 + 1e-9))
        keep = ~unknown | (fill if missing == "interpolate" else False)
    return Recording(
        counts=torch.from_numpy(whole[keep]),
        heading=torch.from_numpy(np.remainder(angle[keep], 2 * math.pi)).float(),
        bin_seconds=bin_seconds,
        cells=tuple(cells),
        time=torch.from_numpy(np.flatnonzero(keep) * float(bin_seconds)),
    )


def from_spikes(
    spikes: Mapping[str, Array],
    heading_time: Array,
    heading: Array,
    *,
    bin_seconds: float = 0.01,
    epochs: Sequence[tuple[float, float]] | None = None,
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of spike times, and of headings sampled at times of their own.

    Time is cut into bins from the first sample of the heading (or from the start of each epoch);
    the heading of a bin is interpolated at its center between the samples on either side, the
    short way around. Spikes outside the bins are left out.

    Arguments:
        spikes: Spike times in seconds per name of a cell, sorted.
        heading_time: Times of the heading samples in seconds, rising.
        heading: Headings in radians, as many; NaN where tracking was lost.
        bin_seconds: Length of the time bins.
        epochs: Start and end in seconds of the parts to keep; None means all.
        missing: What happens where the heading is not known, that is at NaN and between samples
            further apart than `max_gap`: "error" refuses it, "drop" leaves out the bins between
            the samples around it, "interpolate" fills in where NaN leave a gap of at most
            `max_gap` between good samples, and leaves out the longer ones.
        max_gap: Largest number of seconds between samples that is interpolated over; must exceed
            the usual distance of samples.

    Raises:
        ValueError: If times are not sorted, lengths differ, nothing is left, or headings are
            missing and `missing` is "error".
    """
    check_choice("missing", missing, get_args(Missing))
    if not 0 < bin_seconds < math.inf:
        raise ValueError(f"bin_seconds must be positive and finite, got {bin_seconds}")
    if not spikes:
        raise ValueError("spikes must hold at least one cell, got an empty recording")
    trains = {name: _times(f"spikes[{name!r}]", train) for name, train in spikes.items()}
    when, angle = _times("heading_time", heading_time, strictly=True), np.asarray(heading)
    if angle.shape != when.shape:
        raise ValueError(
            f"heading must hold one angle per time, got {angle.shape} for {when.size} times"
        )
    angle = _radians("heading", angle)
    known = np.flatnonzero(~np.isnan(angle))
    if known.size < 2:
        raise ValueError(
            f"heading must hold at least two samples that are no NaN, got {known.size}"
        )
    gap, lost = np.diff(when[known]), np.diff(known) > 1
    long = gap > max_gap * (1 + 1e-9)
    if missing == "error":
        _refuse(when, angle, known, long, max_gap)
    good = ~long if missing == "interpolate" else ~(long | lost)
    when, angle = when[known], np.unwrap(angle[known])

    start, stop = _bins(when, epochs, bin_seconds)
    if start.size == 0:
        raise ValueError(
            f"no time bin of {bin_seconds} s lies in the epochs and between the samples of the "
            f"heading, which last from {when[0]:.6g} to {when[-1]:.6g} s"
        )
    # Between two good samples from its first to its last moment.
    left = np.clip(np.searchsorted(when, start + 1e-9, "right") - 1, 0, good.size - 1)
    right = np.clip(np.searchsorted(when, stop - 1e-9) - 1, 0, good.size - 1)
    bad = np.concatenate([[0], np.cumsum(~good)])
    keep = bad[right + 1] == bad[left]
    start, stop = start[keep], stop[keep]
    if start.size == 0:
        raise ValueError(
            f"the heading is known in no time bin; {REMEDY}, or a larger max_gap"
            f"{_unit(gap, max_gap)}"
        )
    columns = [
        np.searchsorted(train, stop) - np.searchsorted(train, start) for train in trains.values()
    ]
    counts = np.stack(columns, 1)
    if not counts.any():
        first = min((float(train[0]) for train in trains.values() if train.size), default=math.nan)
        raise ValueError(
            f"spikes: none lies where the heading is known, {start[0]:.6g} to "
            f"{stop[-1]:.6g} s; the first spike is at {first:.6g}: are both in "
            "seconds of the same clock?"
        )
    at = np.interp(start + bin_seconds / 2, when, angle)
    return Recording(
        counts=torch.from_numpy(counts),
        heading=torch.from_numpy(np.remainder(at, 2 * math.pi)).float(),
        bin_seconds=bin_seconds,
        cells=tuple(trains),
        time=torch.from_numpy(start),
    )


def _bins(
    when: NDArray[Any], epochs: Sequence[tuple[float, float]] | None, bin_seconds: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns starts and ends of the bins; neighbors share an edge: no spike counts twice."""
    parts = [(-math.inf, math.inf)] if epochs is None else disjoint("epochs", epochs)
    edges = []
    for start, stop in parts:
        first, last = max(start, float(when[0])), min(stop, float(when[-1]))
        bins = max(0, math.floor((last - first) / bin_seconds + 1e-6))
        edges.append(first + np.arange(bins + 1) * bin_seconds)
    return np.concatenate([e[:-1] for e in edges]), np.concatenate([e[1:] for e in edges])


def _whole(counts: NDArray[Any]) -> NDArray[Any]:
    """Returns counts as integers; floats that are whole numbers are taken as such."""
    if counts.dtype.kind in "iu" and counts.dtype.itemsize < 8:
        return counts.astype(counts.dtype.newbyteorder("=")).astype(np.int32)
    whole = counts.astype(np.float64)
    odd = ~np.isfinite(whole) | (whole != np.round(whole))
    if odd.any():
        row, cell = np.argwhere(odd)[0]
        raise ValueError(
            f"counts must be whole numbers of spikes, got {int(odd.sum())} that are not, the "
            f"first {whole[row, cell]:.6g} at bin {row} of cell {cell}: are they rates?"
        )
    return whole.astype(np.int64)


def _radians(name: str, angle: NDArray[Any]) -> NDArray[Any]:
    """Returns angles in double precision; infinite ones are refused, NaN are left."""
    double = angle.astype(np.float64)
    check_radians(name, torch.from_numpy(double[~np.isnan(double)]))
    return double


def _times(name: str, times: Array, *, strictly: bool = False) -> NDArray[Any]:
    found = np.asarray(times, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"{name} must be a list of times, got shape {found.shape}")
    if not np.isfinite(found).all():
        bad = ~np.isfinite(found)
        raise ValueError(
            f"{name} must be finite, got {int(bad.sum())} NaN or infinite of {found.size}, the "
            f"first at index {int(bad.argmax())}: remove them"
        )
    step = np.diff(found)
    back = step <= 0 if strictly else step < 0
    if back.any():
        rule, remedy = ("rise", "np.unique") if strictly else ("be sorted", "np.sort")
        raise ValueError(
            f"{name} must {rule}, got {int(back.sum())} steps that do not, the first after index "
            f"{int(back.argmax())}: see {remedy}"
        )
    return found


def _refuse(
    when: NDArray[Any],
    angle: NDArray[Any],
    known: NDArray[Any],
    long: NDArray[Any],
    max_gap: float,
) -> None:
    nan = np.isnan(angle)
    if nan.any():
        raise ValueError(
            f"heading must not be NaN, got {int(nan.sum())} of {angle.size}, the first at index "
            f"{int(nan.argmax())}: {REMEDY}"
        )
    if long.any():
        first = int(long.argmax())
        raise ValueError(
            f"heading_time must have no gap above max_gap = {max_gap} s, got {int(long.sum())}, "
            f"the first of {when[known[first + 1]] - when[known[first]]:.6g} s after index "
            f"{int(known[first])}: {REMEDY}, or a larger max_gap{_unit(np.diff(when), max_gap)}"
        )


def _unit(step: NDArray[Any], max_gap: float) -> str:
    """Returns a question to add to advice on gaps if most steps, not a few, are too long."""
    usual = float(np.median(step))
    return (
        f"; the usual step is {usual:.6g} s: are the times in seconds?" if usual > max_gap else ""
    )
