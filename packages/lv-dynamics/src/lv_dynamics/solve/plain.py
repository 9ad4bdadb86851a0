"""Fixed-step solves of any field, differentiable by the graph of their operations."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.solve.grid import TimeGrid
from lv_dynamics.solve.tableau import TABLEAUS

__all__ = ["evaluations", "solve_plain"]


def solve_plain(
    velocity: Callable[[Tensor], Tensor], start: Float[Tensor, "batch state"], grid: TimeGrid
) -> Float[Tensor, "batch time state"]:
    """Returns the states at the output times of a grid.

    Arguments:
        velocity: y -> dy/dt on the whole batch.
        start: States at time 0.
        grid: Of one row, or one for each sequence.
    """
    tableau = TABLEAUS[grid.settings.method]
    y, states, slopes = start, [start], []
    for size in grid.sizes[..., None].unbind(0):
        k = [velocity(y)]
        for row in tableau.stages:
            k.append(velocity(y + size * _combine(row, k)))
        y = y + size * _combine(tableau.weights, k)
        states.append(y)
        slopes.append(k[0])
    values = torch.stack(states, dim=1)
    if grid.value_weights is None or grid.slope_weights is None:
        return _pick(values, grid.index)
    slopes.append(velocity(y))
    rates = torch.stack(slopes, dim=1)
    total = torch.zeros((), dtype=start.dtype, device=start.device)
    for i, (value, slope) in enumerate(zip(grid.value_weights, grid.slope_weights, strict=True)):
        total = total + value[..., None] * _pick(values, grid.index + i)
        total = total + slope[..., None] * _pick(rates, grid.index + i)
    return total


def evaluations(grid: TimeGrid) -> int:
    """Returns how often a solve on a grid evaluates the field."""
    stages = len(TABLEAUS[grid.settings.method].weights)
    return grid.steps * stages + (grid.value_weights is not None)


def _combine(coefficients: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    terms = [c * k_i for c, k_i in zip(coefficients, k, strict=True) if c != 0]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _pick(nodes: Tensor, index: Tensor) -> Tensor:
    if index.shape[0] == 1:
        return nodes.index_select(1, index[0])
    return nodes.gather(1, index[..., None].expand(-1, -1, nodes.shape[-1]))
