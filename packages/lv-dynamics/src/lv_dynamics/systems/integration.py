"""Tight integration of known equations, for the generation of data only."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["integrate"]


def integrate(
    derivative: Callable[[Tensor], Tensor],
    start: Float[Tensor, "batch state"],
    times: Float[Tensor, "batch time"],
    *,
    step: float,
) -> Float[Tensor, "batch time state"]:
    """Returns the states of y' = derivative(y) at the times of each sequence.

    Classical Runge-Kutta of order 4. Between neighboring times all sequences make the same number
    of steps, each of a length of its own, so grids may differ. Its error falls like step^4: choose
    a step that is far too small for learning.

    Arguments:
        derivative: The right-hand side, of states `(B, d)`.
        start: States at t = 0, float64.
        times: Rising times from 0 on, one row for each sequence.
        step: Largest step.
    """
    state, now, states = start, torch.zeros_like(times[:, :1]), []
    for column in times.unbind(1):
        gap = column[:, None] - now
        count = math.ceil(float(gap.max()) / step)
        h = gap / max(count, 1)
        for _ in range(count):
            k1 = derivative(state)
            k2 = derivative(state + h / 2 * k1)
            k3 = derivative(state + h / 2 * k2)
            k4 = derivative(state + h * k3)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        now = column[:, None]
        states.append(state)
    return torch.stack(states, 1)
