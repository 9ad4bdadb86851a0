"""Sequences of a user from a table, one line per time of a sequence."""

import csv
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from lv_dynamics.loaders.files import existing
from lv_dynamics.sequences import Sequences

__all__ = ["MISSING", "read_csv"]

# How programs write what was not observed, in any case.
MISSING = ("", "na", "n/a", "nan", "null", "none", ".")


def read_csv(
    path: str | Path,
    *,
    id: str | None,
    time: str,
    values: Sequence[str],
    factors: Sequence[str] = (),
    shift: bool = False,
    delimiter: str = ",",
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns the sequences of a table in long format: a line per sequence and time.

    Lines of a sequence may stand anywhere and in any order; they are sorted by time. Missing
    entries are empty or NA, N/A, NaN, null, none or a dot, in any case. Sequences come in the
    order of their first lines.

    Arguments:
        path: Path of the table, whose first line holds the names of the columns.
        id: Column that tells sequences apart; None means that all lines are one sequence.
        time: Column of times, which are numbers.
        values: Columns of the channels.
        factors: Columns of numbers that are the same in all lines of a sequence.
        shift: Whether the first time of each sequence becomes its t = 0.
        delimiter: What separates columns.
        dtype: Type of the result.

    Returns:
        Sequences with values `(B, T, channels)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a line cannot be read, two lines of a sequence have
            the same time, times are negative (without shift), or a sequence has no entry; the
            message names line or sequence.

    Example:
        >>> patients = read_csv("visits.csv", id="patient", time="day", values=["dose", "level"])
    """
    path = existing(path, "a table")
    columns = [*([] if id is None else [id]), time, *values, *factors]
    if not values:
        raise ValueError("values must name at least one column, got none")
    groups: dict[str, list[tuple[float, int, list[float], list[float]]]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        lacking = [name for name in columns if header.count(name) != 1]
        if lacking:
            raise ValueError(
                f"{path} has no column, or several columns, {', '.join(lacking)}; its first line "
                f"says: {', '.join(header)} (delimiter {delimiter!r})"
            )
        place = {name: header.index(name) for name in columns}
        for row in reader:
            if not row:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise ValueError(f"{where}: {len(header)} columns are expected, got {len(row)}")
            at = _number(row[place[time]], f"{where}, {time}")
            if not math.isfinite(at):
                raise ValueError(f"{where}: the time must be a number, got {row[place[time]]!r}")
            numbers = [_number(row[place[name]], f"{where}, {name}") for name in values]
            known = [_number(row[place[name]], f"{where}, {name}") for name in factors]
            group = "" if id is None else row[place[id]].strip()
            groups.setdefault(group, []).append((at, reader.line_num, numbers, known))
    if not groups:
        raise ValueError(f"{path}: there are no lines below the names of the columns")
    items, given = [], []
    for group, lines in groups.items():
        lines.sort(key=lambda line: line[:2])
        _check_group(path, group, lines)
        begin = lines[0][0] if shift else 0.0  # in float64, before times are rounded to dtype
        times = torch.tensor([line[0] - begin for line in lines], dtype=torch.float64)
        x = torch.tensor([line[2] for line in lines], dtype=torch.float64)
        items.append((times, x.nan_to_num(nan=0.0), ~x.isnan()))
        given.append(lines[0][3])
    truth = torch.tensor(given, dtype=torch.float64)
    found = {name: truth[:, column] for column, name in enumerate(factors)}
    return Sequences.from_list(items, factors=found).to(dtype)


def _check_group(
    path: Path, group: str, lines: list[tuple[float, int, list[float], list[float]]]
) -> None:
    name = f"sequence {group!r} of {path}"
    for (before, first, _, _), (after, second, _, _) in pairwise(lines):
        if before == after:
            raise ValueError(
                f"{name} has the time {before:.9g} in lines {first} and {second}: merge lines of "
                "equal time, or name the column that tells sequences apart in `id`"
            )
    if any(line[3] != lines[0][3] or any(map(math.isnan, line[3])) for line in lines):
        raise ValueError(f"{name} has a factor that is missing or differs between its lines")
    if all(math.isnan(number) for line in lines for number in line[2]):
        raise ValueError(f"{name} has no observed entry: leave it out")


def _number(text: str, where: str) -> float:
    if text.strip().lower() in MISSING:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{where}: a number is expected, got {text!r}") from None
    if math.isinf(number):
        raise ValueError(f"{where}: a finite number is expected, got {text!r}")
    return number
