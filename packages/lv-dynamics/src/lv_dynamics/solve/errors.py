"""What a solve that fails says."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SolveError", "check_finite", "check_start", "index_of", "is_finite", "name_of"]


class SolveError(FloatingPointError):
    """Says which sequence could not be solved.

    Arguments:
        message: What happened, where, and what helps.
        sequence: Index of the sequence, one number for each batch axis; empty = unknown.
    """

    def __init__(self, message: str, *, sequence: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.sequence = sequence


def check_start(start: Float[Tensor, "rows state"], batch: tuple[int, ...]) -> None:
    """Raises SolveError for the first sequence whose start is not finite.

    Arguments:
        start: States at time 0.
        batch: Shape by which the message names a sequence.
    """
    if is_finite(start):
        return
    bad = ~start.isfinite().all(-1)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise SolveError(
            f"the start of sequence {name_of(row, batch)} is not finite: {start[row].tolist()}",
            sequence=index_of(row, batch),
        )


def check_finite(
    states: Float[Tensor, "rows time state"],
    times: Float[Tensor, "grids time"],
    batch: tuple[int, ...],
) -> None:
    """Raises SolveError for the first sequence whose states are not finite.

    Arguments:
        states: States at the output times.
        times: Output times, one row for all sequences or one for each.
        batch: Shape by which the message names a sequence.
    """
    if is_finite(states):
        return
    bad = ~states.isfinite().all(-1)
    if not bool(bad.any()):
        return
    row = int(bad.any(-1).int().argmax())
    column = int(bad[row].int().argmax())
    time = float(times[row if len(times) > 1 else 0, column])
    raise SolveError(
        f"the solve of sequence {name_of(row, batch)} diverged: its state is not finite from time "
        f"{time:g} on; the field makes it grow without bound or the steps are too long: try a "
        "smaller step_size, smooth activations and weight decay",
        sequence=index_of(row, batch),
    )


def is_finite(states: Float[Tensor, "..."]) -> bool:
    """Returns whether all states are finite; waits for the device."""
    # Infinity and NaN survive the sum (opposite infinities as NaN), in one pass.
    return math.isfinite(float(states.detach().sum(dtype=torch.float64)))


def index_of(row: int, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the index in a batch of this shape of the sequence with this number."""
    index = []
    for length in reversed(batch):
        row, place = divmod(row, length)
        index.append(place)
    return tuple(reversed(index))


def name_of(row: int, batch: tuple[int, ...]) -> str:
    """Returns how messages name a sequence: its index in a batch of this shape."""
    index = index_of(row, batch)
    return str(index[0]) if len(index) == 1 else str(index)
