"""Adaptive solves by torchdiffeq: one grid or one for each sequence."""

from collections.abc import Callable

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Tensor, nn

from lv_dynamics.solve.errors import SolveError, index_of, name_of
from lv_dynamics.solve.settings import Solver, SolverStatistics

__all__ = ["solve_adaptive"]


class _Flow(nn.Module):
    """The field in normalised time, the static part carried as state that does not change."""

    def __init__(self, field: Callable[..., Tensor], horizon: Tensor, width: int) -> None:
        super().__init__()
        self.field, self.horizon, self.width = field, horizon, width
        self.evaluations = 0
        self.last, self.errors = horizon, horizon[:, 0]

    def forward(self, _: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        self.last = y.detach()
        if y.shape[-1] == self.width:
            return self.horizon * self.field(y)
        state, static = y[..., : self.width], y[..., self.width :]
        change = self.horizon * self.field(state, static)
        return torch.cat((change, torch.zeros_like(static)), dim=-1)

    def norm(self, error: Tensor) -> Tensor:
        """Returns the largest error of a sequence.

        torchdiffeq's own norm is a mean over the batch, in which easy sequences hide a hard one.
        """
        self.errors = error.detach().square().mean(-1).sqrt()
        return self.errors.max()

    def hardest(self) -> int:
        """Returns the sequence with NaN or infinity in the last state, else the largest error."""
        bad = ~self.last.isfinite().all(-1)
        return int(bad.int().argmax() if bool(bad.any()) else self.errors.argmax())


def solve_adaptive(
    field: Callable[..., Tensor],
    start: Float[Tensor, "batch state"],
    times: Float[Tensor, "rows time"],
    settings: Solver,
    statistics: SolverStatistics,
    *,
    batch: tuple[int, ...],
    carried: Float[Tensor, "batch static"] | None = None,
) -> Float[Tensor, "batch time state"]:
    """Returns the states at each sequence's times.

    Solves dy/ds = horizon_b f(y) for s from 0 to 1, with output at the union of all normalised
    times: sequences end together, none is carried beyond its last time. One grid for all costs
    what torchdiffeq costs. Grids that share no normalised time cost one call of torchdiffeq's
    interpolant on the whole batch for each of up to `rows x time` outputs, but no evaluation of
    the field. The steps are common to the batch; each sequence holds the tolerances.

    Arguments:
        field: `y -> dy/dt`, or `(y, static) -> dy/dt` with `carried`.
        start: States at time 0.
        times: One row for all sequences or one for each.
        settings: Tolerances and options.
        statistics: Gains the cost.
        batch: Shape by which messages name a sequence.
        carried: The static part where its gradient comes from the adjoint equation.

    Raises:
        SolveError: If torchdiffeq gives up; names the hardest sequence.
    """
    # In float64 the union of one regular grid in many rows is that grid.
    clock = times.detach().double()
    union, places = torch.unique(clock / clock[:, -1:], return_inverse=True)
    lead = int(float(union[0]) > 0)
    if lead:
        union = torch.cat((union.new_zeros(1), union))
    width = start.shape[-1]
    flow = _Flow(field, times[:, -1:].detach().to(start.dtype), width)
    y = start if carried is None else torch.cat((start, carried), dim=-1)
    try:
        states = _integrate(flow, y, union, settings)
    except AssertionError as error:
        raise _translated(error, flow, batch) from error
    finally:
        statistics.evaluations += flow.evaluations
    solution = states[..., :width].transpose(0, 1)
    places = places.reshape(times.shape) + lead
    if len(places) == 1:
        return solution.index_select(1, places[0])
    return solution.gather(1, places[..., None].expand(-1, -1, width))


def _integrate(flow: _Flow, y: Tensor, union: Tensor, settings: Solver) -> Tensor:
    limit = settings.max_steps
    options = {"norm": flow.norm, "max_num_steps": limit}
    common = {"rtol": settings.rtol, "atol": settings.atol, "method": settings.method}
    if settings.adjoint:
        # Without the seminorm the integrals over time also bound the steps, to no gain.
        backwards = {"norm": "seminorm", "max_num_steps": limit}
        solved: Tensor = torchdiffeq.odeint_adjoint(
            flow, y, union, options=options, adjoint_options=backwards, **common
        )
    else:
        solved = torchdiffeq.odeint(flow, y, union, options=options, **common)
    return solved


def _translated(error: AssertionError, flow: _Flow, batch: tuple[int, ...]) -> SolveError:
    reason = str(error).split("(")[0].split(":")[0].strip()
    row = flow.hardest()
    name = name_of(row, batch)
    return SolveError(
        f"the adaptive solve failed at sequence {name} ({reason}): it diverges, or is too stiff "
        "for the tolerances; use smooth activations, weight decay, larger rtol and atol, float64 "
        "or a fixed-step method",
        sequence=index_of(row, batch),
    )
