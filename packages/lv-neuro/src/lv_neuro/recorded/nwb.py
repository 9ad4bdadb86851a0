"""Recordings from pynapple objects and from NWB files, which pynapple reads."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lv_neuro.recorded.binning import Missing, from_spikes
from lv_neuro.recorded.epochs import disjoint
from lv_neuro.recorded.recording import Recording

__all__ = ["from_pynapple", "load_nwb"]


def from_pynapple(
    spikes: Any,  # noqa: ANN401 - pynapple is not needed to be installed
    heading: Any,  # noqa: ANN401
    *,
    bin_seconds: float = 0.01,
    epochs: Any = None,  # noqa: ANN401
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of a pynapple TsGroup and a Tsd of headings.

    Arguments:
        spikes: TsGroup with one Ts per cell; its keys become the cells' names.
        heading: Tsd of headings in radians.
        bin_seconds: Length of the time bins.
        epochs: IntervalSet of the parts to keep; None means the time support of `heading`, as in
            pynapple's own tuning curves.
        missing: What happens where the heading is not known, see `from_spikes`.
        max_gap: Longest gap in seconds that is interpolated.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the times and headings are no recording.
    """
    if not (hasattr(spikes, "keys") and hasattr(spikes, "time_support")):
        raise TypeError(f"spikes must be a pynapple TsGroup, got {type(spikes).__name__}")
    values = np.asarray(getattr(heading, "d", None))
    if not hasattr(heading, "time_support") or values.ndim != 1:
        raise TypeError(
            f"heading must be a pynapple Tsd of one angle per time, got {type(heading).__name__}"
        )
    support = heading.time_support if epochs is None else epochs
    if not (hasattr(support, "start") and hasattr(support, "end")):
        raise TypeError(f"epochs must be a pynapple IntervalSet, got {type(support).__name__}")
    pairs = zip(np.asarray(support.start), np.asarray(support.end), strict=True)
    return from_spikes(
        {str(key): np.asarray(spikes[key].t) for key in spikes.keys()},  # noqa: SIM118 - no dict
        np.asarray(heading.t),
        values,
        bin_seconds=bin_seconds,
        epochs=[(float(start), float(end)) for start, end in pairs],
        missing=missing,
        max_gap=max_gap,
    )


def load_nwb(
    path: str | Path,
    *,
    heading: str,
    spikes: str = "units",
    epochs: str | Sequence[tuple[float, float]] | None = None,
    bin_seconds: float = 0.01,
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of an NWB file.

    Arguments:
        path: The file; its name ends in .nwb.
        heading: Name under which pynapple lists the heading, in radians.
        spikes: Name of the units.
        epochs: Name of a table of intervals in the file, or starts and ends in seconds; None means
            wherever the heading was sampled.
        bin_seconds: Length of the time bins.
        missing: What happens where the heading is not known, see `from_spikes`.
        max_gap: Longest gap in seconds that is interpolated.

    Raises:
        ImportError: If pynapple is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no NWB file, lacks an entry, or holds no recording.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of an NWB file")
    if Path(path).suffix != ".nwb":
        raise ValueError(
            f"{path} is no NWB file, whose name must end in .nwb: .npz files are read by "
            "load_npz, tables (.csv) by load_csv"
        )
    # Checked here, as pynapple would mend them in ways of its own.
    intervals = None
    if epochs is not None and not isinstance(epochs, str):
        intervals = disjoint("epochs", epochs)
    try:
        pynapple = import_module("pynapple")
    except ImportError as error:
        raise ImportError("load_nwb needs pynapple: pip install 'lv-neuro[nwb]'") from error
    try:
        file = pynapple.load_file(str(path))
    except Exception as error:  # what comes depends on what the file is
        raise ValueError(f"{path} cannot be read as NWB: {error}") from error
    try:
        wanted = [spikes, heading, *([epochs] if isinstance(epochs, str) else [])]
        lacking = [name for name in wanted if name not in file.keys()]  # noqa: SIM118 - no dict
        if lacking:
            raise ValueError(
                f"{path} has no entry {', '.join(lacking)}; there are: "
                f"{', '.join(sorted(file.keys()))}"
            )
        parts = None
        if isinstance(epochs, str):
            parts = file[epochs]
        elif intervals:
            start, end = zip(*intervals, strict=True)
            parts = pynapple.IntervalSet(start=list(start), end=list(end))
        return from_pynapple(
            file[spikes],
            file[heading],
            bin_seconds=bin_seconds,
            epochs=parts,
            missing=missing,
            max_gap=max_gap,
        )
    finally:
        file.close()
