"""Where the steps of each sequence lie, and how the output times lie between them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lv_dynamics.solve.errors import name_of
from lv_dynamics.solve.settings import Solver
from lv_dynamics.solve.tableau import TABLEAUS

__all__ = ["TimeGrid", "check_times"]

_COUNT_SLACK = 1e-5
"""Share of a step by which steps may exceed `step_size`, so that rounding adds no step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeGrid:
    """Steps of a fixed-step solve and the interpolation to its output times.

    Every row is one sequence with a clock of its own (one row alone serves all sequences): equal
    steps from 0 to its last time, whose number depends on nothing but that time, so that a
    sequence is solved alike in every batch. Rows that end earlier stand still (steps of length
    zero) until the longest has ended. Build it once where the same times are solved often, or
    where nothing may wait for the device (CUDA graphs): `solve` takes it in place of the times.

    Attributes:
        sizes: Length of each step, `(steps, rows)`.
        index: First of the `nodes` steps that each output interpolates, `(rows, time)`.
        value_weights: Weight of the states at these steps, `(nodes, rows, time)`; None where
            every output lies on a step.
        slope_weights: Weight of their velocities, of the same shape, in units of time.
        times: The output times, `(rows, time)`.
        settings: The settings it was built for.
    """

    sizes: Float[Tensor, "steps rows"]
    index: Int64[Tensor, "rows time"]
    value_weights: Float[Tensor, "nodes rows time"] | None
    slope_weights: Float[Tensor, "nodes rows time"] | None
    times: Float[Tensor, "rows time"]
    settings: Solver

    @staticmethod
    def build(
        times: Float[Tensor, "rows time"] | Float[Tensor, " time"],
        settings: Solver,
        *,
        dtype: torch.dtype | None = None,
        check: bool = True,
    ) -> "TimeGrid":
        """Returns the grid of a fixed-step method; waits for the device.

        Arguments:
            times: Output times, one row for all sequences or one for each.
            settings: Method and step size.
            dtype: Of the states; None = that of the times.
            check: Whether to check the times.

        Raises:
            ValueError: If the method is adaptive, or times are negative, not increasing or end
                at 0; names the row.
        """
        if not settings.fixed:
            raise ValueError(f"a TimeGrid needs a fixed-step method, got {settings.method!r}")
        rows = times.detach().reshape(-1, times.shape[-1])
        if check:
            check_times(rows, tuple(times.shape[:-1]))
        dtype = dtype or times.dtype
        nodes = TABLEAUS[settings.method].nodes
        # In float64, since times in float32 are off a grid of many steps by more than rounding.
        clock = rows.double()
        horizon = clock[:, -1]
        if settings.steps is None:
            counts = (horizon / settings.step_size - _COUNT_SLACK).ceil()
        else:
            counts = torch.full_like(horizon, settings.steps)
        counts = counts.clamp(min=nodes - 1)
        total = int(counts.max())
        size = horizon / counts
        steps = torch.arange(total, device=rows.device)
        sizes = torch.where(steps[:, None] < counts, size, 0.0)
        # Unchecked sequences may have no horizon; they stay where they start.
        place = torch.where(size > 0, 1 / size, 0.0)[:, None] * clock
        whole = place.round()
        # Rounding of the caller's times, no more: a time off a step is interpolated.
        slack = 8 * torch.finfo(times.dtype).eps * whole.clamp(min=1.0)
        on_step = (place - whole).abs() <= slack
        place = torch.where(on_step, whole, place)
        if bool(on_step.all()):
            return TimeGrid(
                sizes=sizes.to(dtype),
                index=whole.long(),
                value_weights=None,
                slope_weights=None,
                times=rows,
                settings=settings,
            )
        first = torch.minimum(place.floor(), counts[:, None] - (nodes - 1)).clamp(min=0)
        value, slope = _hermite(place - first, nodes)
        return TimeGrid(
            sizes=sizes.to(dtype),
            index=first.long(),
            value_weights=value.to(dtype),
            slope_weights=(slope * size[:, None]).to(dtype),
            times=rows,
            settings=settings,
        )

    @property
    def rows(self) -> int:
        """Number of sequences it describes; 1 = one grid for all."""
        return self.index.shape[0]

    @property
    def steps(self) -> int:
        """Number of steps of the longest sequence."""
        return self.sizes.shape[0]


def check_times(rows: Float[Tensor, "rows time"], batch: tuple[int, ...]) -> None:
    """Raises ValueError unless each row increases from 0 or later; repeats may end it."""
    if rows.shape[-1] == 0:
        raise ValueError(f"times must hold at least one time, got shape {(*batch, 0)}")
    last = rows[:, -1:]
    rules = (
        (rows.isfinite(), "must be finite"),
        (rows >= 0, "must not be negative (the start is the state at time 0)"),
        (
            torch.cat((rows[:, :1] <= last, (rows.diff() > 0) | (rows[:, 1:] == last)), dim=-1)
            & (rows <= last),
            "must increase; only the last time may be repeated, as padding: sort them and "
            "merge duplicates",
        ),
        ((last > 0).expand_as(rows), "must end after 0: a horizon of length zero is no solve"),
    )
    for holds, rule in rules:
        if not bool(holds.all()):
            row, column = (int(i) for i in (~holds).nonzero()[0])
            name = f"times of sequence {name_of(row, batch)}" if batch else "times"
            raise ValueError(f"{name} {rule}; got {float(rows[row, column])} at position {column}")


def _hermite(place: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    # The polynomial that takes given values and slopes at 0, 1, .., nodes - 1: with Lagrange's
    # l_i, weights (1 - 2 l_i'(i) (x - i)) l_i(x)^2 of the values and (x - i) l_i(x)^2 of slopes.
    values, slopes = [], []
    for i in range(nodes):
        others = [j for j in range(nodes) if j != i]
        basis = torch.ones_like(place)
        for j in others:
            basis = basis * (place - j) / (i - j)
        slope = sum(1 / (i - j) for j in others)
        offset = place - i
        values.append((1 - 2 * slope * offset) * basis.square())
        slopes.append(offset * basis.square())
    return torch.stack(values), torch.stack(slopes)
