"""Recordings from files: the head_direction set, binned counts (.npz), spike times (.csv)."""

import csv
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from lv_neuro.recorded.binning import Missing, binned_recording, from_spikes
from lv_neuro.recorded.choice import check_choice
from lv_neuro.recorded.recording import Recording

__all__ = ["RecordedSet", "load_csv", "load_npz", "load_recorded"]

Gaps = Literal["split", "ignore"]

POPULATION = "adn_mouse_population.npz"
# The camera's clock has steps of 25.6 ms; time stamps further apart than this span lost frames.
LOST = 0.06
# How programs write a heading that is not known.
UNKNOWN = ("", "na", "n/a", "nan", "null")


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedSet:
    """Head-direction cells of the anterodorsal thalamus of a mouse, awake.

    Source:
        Peyrache, Lacroix, Petersen and Buzsaki, "Internally organized mechanisms of the head
        direction sense", Nature Neuroscience 18:569-575, 2015, session Mouse12-120806.
    """

    run: Recording
    """Spikes and the heading."""
    preferred: Float[Tensor, " cells"]
    """Preferred headings that came with the data, radians."""
    tuning: Float[Tensor, "bins cells"]
    """Tuning curves in Hz that came with the data, at 60 headings 2 pi n / 60."""


def load_recorded(folder: str | Path, *, gaps: Gaps = "split") -> RecordedSet:
    """Returns the recorded cells of the data set head_direction.

    The time stamps of the data have the resolution of the camera, 25.6 ms, while counts come in
    bins of 10 ms. So bins are counted, 10 ms each, and time stamps only tell where frames were
    lost (112 times, 71 s in all).

    Arguments:
        folder: Folder with adn_mouse_population.npz.
        gaps: "split" gives the recording a break where frames were lost; "ignore" joins what is
            before and after, so that time is the number of bins times 10 ms and the heading
            jumps.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If arrays are missing in it, or nobody knows `gaps`.
    """
    check_choice("gaps", gaps, get_args(Gaps))
    names = ("counts_run", "hd_time_s", "hd_rad", "pref_hd_rad", "tuning_hz", "bin_s")
    arrays = _arrays(Path(folder) / POPULATION, names, "is it the file of that data set?")
    bin_seconds = round(float(arrays["bin_s"]), 6)  # stored in single precision
    stamp, bins = arrays["hd_time_s"], arrays["counts_run"].shape[0]
    place = np.arange(bins)
    if gaps == "split":
        broken = np.flatnonzero(np.diff(stamp) > LOST) + 1
        shift = np.zeros(bins, dtype=np.int64)
        # Whole bins, at least one, that make the time after a break that of the clock.
        for first in broken:
            behind = (stamp[first] - stamp[0]) / bin_seconds - (place[first] + shift[first])
            shift[first:] += max(1, round(behind))
        place = place + shift
    cells = arrays["counts_run"].shape[1]
    run = Recording(
        counts=torch.from_numpy(arrays["counts_run"]),
        heading=torch.from_numpy(arrays["hd_rad"]),
        bin_seconds=bin_seconds,
        cells=tuple(f"cell{number:02d}" for number in range(cells)),
        time=torch.from_numpy(place * bin_seconds),
    )
    return RecordedSet(
        run=run,
        preferred=torch.from_numpy(arrays["pref_hd_rad"]),
        tuning=torch.from_numpy(arrays["tuning_hz"][:-1]),  # the last row repeats the first
    )


def load_npz(
    path: str | Path,
    *,
    bin_seconds: float | str = "bin_seconds",
    counts: str = "counts",
    heading: str = "heading",
    cells: str | None = None,
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of binned counts and headings in an .npz file.

    Arguments:
        path: The file.
        bin_seconds: Length of the time bins in seconds, or the name of the array that holds it.
        counts: Name of the array of spike counts, shape `(bins, cells)`.
        heading: Name of the array of headings in radians, shape `(bins,)`.
        cells: Name of the array of the cells' names; None means cell0, cell1, ...
        missing: What happens to bins whose heading is NaN, see `binned_recording`.
        max_gap: Longest gap in seconds that is interpolated.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no .npz file or damaged, lacks an array, or its arrays are no
            recording.
    """
    wanted = [counts, heading, *([cells] if cells else [])]
    if isinstance(bin_seconds, str):
        wanted.append(bin_seconds)
    remedy = "name yours by counts=, heading=, cells= and bin_seconds= (or give the seconds there)"
    arrays = _arrays(Path(path), wanted, remedy)
    length = np.asarray(arrays[bin_seconds] if isinstance(bin_seconds, str) else bin_seconds)
    if length.size != 1 or length.dtype.kind not in "iuf":
        raise ValueError(
            f"bin_seconds must be one number of seconds, got {length.dtype} of shape "
            f"{length.shape}: give the length of a time bin, not times or a rate"
        )
    return binned_recording(
        arrays[counts],
        arrays[heading],
        bin_seconds=float(length.item()),
        cells=tuple(str(name) for name in arrays[cells]) if cells else (),
        missing=missing,
        max_gap=max_gap,
    )


def load_csv(
    *,
    spikes: str | Path,
    heading: str | Path,
    bin_seconds: float = 0.01,
    epochs: Sequence[tuple[float, float]] | None = None,
    delimiter: str = ",",
    missing: Missing = "error",
    max_gap: float = 0.25,
) -> Recording:
    """Returns a Recording of two tables: spikes, and samples of the heading.

    A first line that does not start with a number is taken as names of the columns.

    Arguments:
        spikes: Table with a line per spike: time in seconds, name of the cell. Times of a cell
            must be sorted; cells are ordered as by `sorted`, numbers by value.
        heading: Table with a line per sample: time in seconds, heading in radians (empty, NA,
            N/A, NaN or null in any case where it is not known).
        bin_seconds: Length of the time bins.
        epochs: Pairs of start and end in seconds of the parts to keep; None means all.
        delimiter: What separates columns.
        missing: What happens where the heading is not known, see `from_spikes`.
        max_gap: Longest gap in seconds that is interpolated.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a line cannot be read, or the times and headings are no recording.
    """
    trains: dict[str, list[float]] = {}
    for time, cell, _ in _lines(Path(spikes), delimiter):
        trains.setdefault(cell, []).append(time)
    if not trains:
        raise ValueError(f"{spikes}: no spikes in it")
    numbers = all(cell.isdecimal() for cell in trains)
    order = sorted(trains, key=int) if numbers else sorted(trains)
    times, angles = [], []
    for time, angle, line in _lines(Path(heading), delimiter):
        times.append(time)
        known = angle.lower() not in UNKNOWN
        angles.append(_number(angle, Path(heading), line) if known else math.nan)
    return from_spikes(
        {cell: trains[cell] for cell in order},
        times,
        angles,
        bin_seconds=bin_seconds,
        epochs=epochs,
        missing=missing,
        max_gap=max_gap,
    )


def _arrays(path: Path, names: Sequence[str], remedy: str) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of a recording")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not the .npz it should be: it is damaged or of another kind; np.savez "
            "writes such files, tables (.csv) are read by load_csv"
        )
    with np.load(path, allow_pickle=False) as archive:
        lacking = [name for name in names if name not in archive]
        if lacking:
            raise ValueError(
                f"{path} has no array {', '.join(lacking)}; needed are: {', '.join(names)}; there "
                f"are: {', '.join(sorted(archive))}: {remedy}"
            )
        return {name: _array(path, archive, name) for name in names}


def _array(path: Path, archive: Mapping[str, Any], name: str) -> NDArray[Any]:
    problem = f"{path}: array {name} cannot be read"
    try:
        return np.asarray(archive[name])
    except ValueError:
        # NumPy's own message advises to allow pickled objects, which can run any code.
        raise ValueError(
            f"{problem}: it is damaged or holds Python objects; save names with .astype(str), "
            "numbers with .astype(float)"
        ) from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{problem}: it is damaged ({error})") from error


def _lines(path: Path, delimiter: str) -> list[tuple[float, str, int]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of a table")
    found = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.reader(file, delimiter=delimiter), start=1):
            if not row or (line == 1 and math.isnan(_number(row[0], path, line, header=True))):
                continue
            if len(row) != 2:
                raise ValueError(f"{path}, line {line}: two columns are expected, got {len(row)}")
            found.append((_number(row[0], path, line), row[1].strip(), line))
    return found


def _number(text: str, path: Path, line: int, *, header: bool = False) -> float:
    try:
        return float(text)
    except ValueError:
        if header:
            return math.nan
        raise ValueError(f"{path}, line {line}: a number is expected, got {text!r}") from None
