"""Parts of a recording, given as pairs of start and end."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

__all__ = ["disjoint", "pairs"]


def pairs(name: str, epochs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns starts and ends as pairs of numbers, in the order given.

    Arguments:
        name: Name of the argument, for the message.
        epochs: Start and end of each part in seconds.

    Raises:
        ValueError: If it is anything but a list of pairs of numbers with at least one pair.
    """
    try:
        table = np.asarray(epochs, dtype=np.float64)
    except (TypeError, ValueError):  # parts of unequal length, or words
        table = np.empty(0)
    if table.ndim != 2 or table.shape[0] == 0 or table.shape[1] != 2 or np.isnan(table).any():
        raise ValueError(
            f"{name} must be pairs of start and end in seconds such as [(0, 10)], got {epochs!r}"
        )
    return [(float(start), float(end)) for start, end in table]


def disjoint(name: str, epochs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns starts and ends as pairs of numbers in the order of time.

    Arguments:
        name: Name of the argument, for the message.
        epochs: Start and end of each part in seconds, in any order.

    Raises:
        ValueError: If they are no pairs, end before their start, or overlap.
    """
    parts = sorted(pairs(name, epochs))
    for (start, stop), (following, _) in pairwise([*parts, (math.inf, math.inf)]):
        if not start < stop <= following:
            raise ValueError(
                f"{name} must end after their start and not overlap, got one from "
                f"{start:.6g} to {stop:.6g} s before one that starts at {following:.6g} s"
            )
    return parts
