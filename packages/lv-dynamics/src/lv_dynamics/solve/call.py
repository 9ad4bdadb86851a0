"""Solving initial value problems, one time grid for each sequence."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.field import VectorField
from lv_dynamics.solve.adaptive import solve_adaptive
from lv_dynamics.solve.errors import check_finite, check_start, is_finite
from lv_dynamics.solve.fused import can_fuse, solve_fused
from lv_dynamics.solve.grid import TimeGrid, check_times
from lv_dynamics.solve.plain import evaluations, solve_plain
from lv_dynamics.solve.settings import Solver, SolverStatistics

__all__ = ["solve"]

_DEFAULT = Solver()


def solve(
    field: Callable[..., Tensor],
    start: Float[Tensor, "*batch state"],
    times: Float[Tensor, "*grids time"] | TimeGrid,
    *,
    static: Float[Tensor, "*batch static"] | None = None,
    settings: Solver = _DEFAULT,
    statistics: SolverStatistics | None = None,
) -> Float[Tensor, "*batch time state"]:
    """Returns the solution of dy/dt = field(y, static) at each sequence's own times.

    Differentiable in start, static and the field's parameters. Fixed-step methods cut each
    sequence into equal steps that depend on its last time alone and interpolate to times between
    the steps with Hermite polynomials of the order of the method; where times fall on steps the
    states of the steps are returned as they are.

    Arguments:
        field: A `VectorField`, or any function `y -> dy/dt` of the whole batch
            (`(y, static) -> dy/dt` where `static` is given).
        start: States at time 0.
        times: Output times, one grid for all sequences or one for each, `(*batch, time)` or
            anything that broadcasts to it; increasing from 0 or later. A grid may end in repeats
            of its last time (padding). A `TimeGrid` saves preparing them anew; it brings its own
            settings.
        static: What stays constant along each sequence.
        settings: Method, step size, tolerances.
        statistics: Where to count evaluations; None = nowhere.

    Raises:
        ValueError: If times are negative, not finite, not increasing or end at 0 (with the index
            of the sequence), or shapes do not fit.
        SolveError: If a state becomes infinite or NaN, or an adaptive step underflows; with the
            index of the sequence.

    Example:
        >>> field = VectorField(2)
        >>> times = torch.rand(16, 30).sort(-1).values  # 16 sequences, each with its own clock
        >>> states = solve(field, torch.randn(16, 2), times)  # (16, 30, 2)
    """
    batch = start.shape[:-1]
    statistics = SolverStatistics() if statistics is None else statistics
    statistics.solves += 1
    flat = start.reshape(-1, start.shape[-1])
    if static is not None:
        if static.shape[:-1] != batch:
            raise ValueError(
                f"static must have the batch shape of start, {tuple(batch)}, got shape "
                f"{tuple(static.shape)}: expand it"
            )
        static = static.reshape(-1, static.shape[-1])
    if isinstance(times, TimeGrid):
        settings = times.settings
        grid, rows = times, times.times
        if grid.rows not in (1, len(flat)):
            raise ValueError(
                f"times must be a TimeGrid of 1 or {len(flat)} rows to fit start of shape "
                f"{tuple(start.shape)}, got {grid.rows}"
            )
    else:
        rows = _rows(times, batch)
        if settings.check:
            check_times(rows, tuple(batch) if times.ndim > 1 else ())
    if settings.check:
        check_start(flat, tuple(batch))
    if settings.fixed:
        if not isinstance(times, TimeGrid):
            grid = TimeGrid.build(rows, settings, dtype=start.dtype, check=False)
        statistics.steps += grid.steps
        statistics.evaluations += evaluations(grid)
        states = _fixed(field, flat, static, grid)
    else:
        carried = static if settings.adjoint else None
        velocity = field if settings.adjoint else _bound(field, static)
        states = solve_adaptive(
            velocity, flat, rows, settings, statistics, batch=tuple(batch), carried=carried
        )
    if settings.check:
        check_finite(states, rows, tuple(batch))
    return states.reshape(*batch, *states.shape[1:])


def _fixed(
    field: Callable[..., Tensor], start: Tensor, static: Tensor | None, grid: TimeGrid
) -> Tensor:
    settings = grid.settings
    if settings.fused and isinstance(field, VectorField) and can_fuse(field, start, static):
        states = solve_fused(field, start, static, grid)
        # Its softplus overflows from inputs of 88 in float32, the plain one only with them.
        if not settings.check or is_finite(states):
            return states
    return solve_plain(_bound(field, static), start, grid)


def _rows(times: Tensor, batch: torch.Size) -> Tensor:
    if times.ndim == 1:
        return times[None]
    try:
        return times.expand(*batch, times.shape[-1]).reshape(-1, times.shape[-1])
    except RuntimeError as error:
        raise ValueError(
            f"times must have shape (time,) or broadcast to {(*batch, times.shape[-1])}, got "
            f"{tuple(times.shape)}"
        ) from error


def _bound(field: Callable[..., Tensor], static: Tensor | None) -> Callable[[Tensor], Tensor]:
    if isinstance(field, VectorField):
        return field.bind(static)
    if static is None:
        return field
    return lambda y: field(y, static)
