"""Times that end at a whole step of the solver."""

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.solve import Solver, TimeGrid
from lv_dynamics.solve.grid import check_times

__all__ = ["checked_grid", "closed_times"]

_SNAP = 1e-4  # of a step; what rounding of the times may amount to


def closed_times(times: Float[Tensor, "..."], solver: Solver) -> Float[Tensor, "..."]:
    """Returns times that end at a whole number of the solver's largest step.

    The solver cuts a sequence into equal steps up to its last time. With this time added all
    steps have the same length, so that a state at one time is the same number whatever other
    times are asked for: the forecast goes through exactly the points that were inferred, and a
    sequence observed at t = 0 alone can be solved too. Adaptive methods and a given number of
    steps are left as they are.
    """
    if not solver.fixed or solver.steps is not None:
        return times
    return torch.cat((times.double(), _ends(times, solver)), dim=-1)


def checked_grid(
    times: Float[Tensor, "..."], solver: Solver, batch: tuple[int, ...], dtype: torch.dtype
) -> Float[Tensor, "..."] | TimeGrid:
    """Returns closed times as the solver takes them, its steps where it has fixed ones.

    Arguments:
        times: Shape `(T,)` or `(B, T)`; the last may be repeated.
        solver: Settings; its `check` says whether to check the times.
        batch: Batch axes of the states, which end in B where times have its axis.
        dtype: Of the states.

    Raises:
        ValueError: If a time is negative or they do not increase; names the sequence.
    """
    if not solver.fixed or solver.steps is not None or times.shape[-1] == 0:
        return times
    closed = closed_times(times, solver)
    if solver.check:
        # Repeats of the last time are padding, and no longer the last.
        padding = (times[..., 1:] == times[..., :-1]) & (times[..., 1:] == times[..., -1:])
        shown = closed.clone()
        shown[..., 1:-1][padding] = closed[..., -1:].expand_as(padding)[padding]
        check_times(shown.reshape(-1, shown.shape[-1]), tuple(times.shape[:-1]))
    if closed.ndim > 1:
        closed = closed.expand(*batch, closed.shape[-1]).reshape(-1, closed.shape[-1])
    return TimeGrid.build(closed, solver, dtype=dtype, check=False)


def _ends(times: Tensor, solver: Solver) -> Tensor:
    last = times[..., -1:].double()
    end = (last / solver.step_size - _SNAP).ceil().clamp(min=1.0) * solver.step_size
    return torch.maximum(end, last)
