"""Gradients with respect to the start of a neural ODE: our solvers beside torchdiffeq's.

Every row computes the states at 50 times of 64 sequences and the gradient of one weighted sum of
them with respect to the starts, and is measured against the same in float64 with steps a
twentieth as long: a faster row counts for something only where it is no less accurate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torchdiffeq
from torch import Tensor

from benchmarks.measure import Timings, in_turns, markdown, progress
from lv_dynamics.field import FieldActivation, VectorField
from lv_dynamics.solve import Solver, solve

__all__ = ["run"]

BATCH, STATE, TIMES, SPACING = 64, 8, 50, 0.1
REFERENCE = "torchdiffeq rk4, as it comes"
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps starts `(64, 8)` to states `(64, 50, 8)` and the gradient with respect to the starts."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A field and what is computed on it.

    Arguments:
        title: Heading of its table.
        field: The field, in float32.
        start: States at time 0.
        weight: Weights of the sum that is differentiated, of the states' shape.
    """

    title: str
    field: VectorField
    start: Tensor
    weight: Tensor


def run(*, quick: bool = False) -> str:
    """Returns the tables of untrained and of oscillating fields."""
    repetitions = 5 if quick else 41
    problems = [untrained("softplus"), oscillating("softplus")]
    if not quick:
        problems += [untrained("tanh"), oscillating("tanh")]
    tables = [_table(problem, repetitions, compiled=not quick) for problem in problems]
    return "\n\n".join(tables) + "\n\n" + _note()


def untrained(activation: FieldActivation) -> Problem:
    """Returns a field as it is initialised: slow and nearly linear."""
    torch.manual_seed(0)
    field = VectorField(STATE, activation=activation)
    return _problem(f"Untrained field, {activation}", field)


def oscillating(activation: FieldActivation) -> Problem:
    """Returns a field fitted to four oscillators between 0.5 and 1 Hz.

    The target turns each pair of coordinates and pulls its radius to one, so that trajectories
    neither die nor grow. The fit is that of least squares to its velocities at random states,
    for the last layer alone, which takes no training.
    """
    torch.manual_seed(0)
    field = VectorField(STATE, activation=activation)
    first, *_, last = field.linear
    rate = 2 * math.pi * torch.tensor([0.5, 0.7, 0.85, 1.0])
    with torch.no_grad():
        first.weight.mul_(2.0)
        y = torch.randn(8192, STATE)
        hidden = torch.cat((field.network[:-1](y), torch.ones(len(y), 1)), dim=-1)
        target = _oscillators(y, rate)
        weight = torch.linalg.lstsq(hidden, target).solution
        last.weight.copy_(weight[:-1].t())
        last.bias.copy_(weight[-1])
        left = (field(y) - target).square().mean().sqrt() / target.square().mean().sqrt()
    title = f"Field fitted to oscillators of 0.5 to 1 Hz, {activation}"
    return _problem(f"{title} (residual {100 * left:.0f} % of the velocities)", field)


def _oscillators(y: Tensor, rate: Tensor) -> Tensor:
    a, b = y[:, :4], y[:, 4:]
    pull = (1 - (a.square() + b.square())).clamp(min=-2.0)
    return torch.cat((pull * a - rate * b, pull * b + rate * a), dim=-1)


def _problem(title: str, field: VectorField) -> Problem:
    start = torch.randn(BATCH, STATE)
    return Problem(title=title, field=field, start=start, weight=torch.randn(BATCH, TIMES, STATE))


def versions(problem: Problem, *, compiled: bool) -> dict[str, Gradient]:
    """Returns every installed version; the first is the reference of the ratios.

    Arguments:
        problem: What is solved.
        compiled: With the rows that take a minute to compile.
    """
    times = torch.arange(TIMES) * SPACING
    found: dict[str, Gradient] = {
        REFERENCE: _theirs(problem, times, method="rk4"),
        "torchdiffeq rk4, .backward()": _theirs(problem, times, method="rk4", backward=True),
        "torchdiffeq rk4, frozen": _theirs(problem, times, method="rk4", frozen=True),
        "torchdiffeq rk4, adjoint": _theirs(problem, times, method="rk4", adjoint=True),
        "torchdiffeq dopri5, 1e-3/1e-4": _theirs(
            problem, times, method="dopri5", rtol=1e-3, atol=1e-4
        ),
        "torchdiffeq dopri5, 1e-6": _theirs(problem, times, method="dopri5", rtol=1e-6, atol=1e-6),
    }
    if find_spec("torchode"):
        found["torchode dopri5, 1e-6"] = _torchode(problem, times)
    if compiled:
        found["torch.compile of one rk4 step"] = _compiled(problem)
    found |= {
        "lv rk4, with a graph": _ours(problem, times, Solver(fused=False)),
        "lv rk4": _ours(problem, times, Solver()),
        "lv rk4_38 (torchdiffeq's coefficients)": _ours(problem, times, Solver(method="rk4_38")),
        "lv rk4, own grid for each sequence": _ours(problem, times.repeat(BATCH, 1), Solver()),
        "lv rk4, steps of 2 dt, cubic output": _ours(problem, times, Solver(step_size=0.2)),
        "lv rk5, steps of 2 dt, quintic output": _ours(
            problem, times, Solver(method="rk5", step_size=0.2)
        ),
        "lv midpoint": _ours(problem, times, Solver(method="midpoint")),
        "lv dopri5, 1e-5/1e-6": _ours(problem, times, Solver(method="dopri5")),
    }
    return found


def _theirs(
    problem: Problem,
    times: Tensor,
    *,
    method: str,
    frozen: bool = False,
    adjoint: bool = False,
    backward: bool = False,
    **tolerances: float,
) -> Gradient:
    field, weight = problem.field, problem.weight.transpose(0, 1)

    class Flow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, _: Tensor, y: Tensor) -> Tensor:
            return field.network(y)

    flow = Flow()
    integrate = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint

    def gradient(start: Tensor) -> tuple[Tensor, Tensor]:
        field.requires_grad_(not frozen)
        start = start.clone().requires_grad_()
        states = integrate(flow, start, times, method=method, **tolerances)
        total = (states * weight).sum()
        if backward:
            total.backward()
            field.zero_grad()
            return states.detach().transpose(0, 1), start.grad
        return states.detach().transpose(0, 1), torch.autograd.grad(total, start)[0]

    return gradient


def _ours(problem: Problem, times: Tensor, settings: Solver) -> Gradient:
    def gradient(start: Tensor) -> tuple[Tensor, Tensor]:
        problem.field.requires_grad_(False)
        start = start.clone().requires_grad_()
        states = solve(problem.field, start, times, settings=settings)
        total = (states * problem.weight).sum()
        return states.detach(), torch.autograd.grad(total, start)[0]

    return gradient


def _compiled(problem: Problem) -> Gradient:
    field = problem.field

    @torch.compile
    def step(y: Tensor) -> Tensor:
        k1 = field.network(y)
        k2 = field.network(y + 0.5 * SPACING * k1)
        k3 = field.network(y + 0.5 * SPACING * k2)
        k4 = field.network(y + SPACING * k3)
        return y + SPACING / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def gradient(start: Tensor) -> tuple[Tensor, Tensor]:
        field.requires_grad_(False)
        start = y = start.clone().requires_grad_()
        path = [start]
        for _ in range(TIMES - 1):
            y = step(y)
            path.append(y)
        states = torch.stack(path, dim=1)
        total = (states * problem.weight).sum()
        return states.detach(), torch.autograd.grad(total, start)[0]

    return gradient


def _torchode(problem: Problem, times: Tensor) -> Gradient:
    import torchode

    term = torchode.ODETerm(lambda _, y: problem.field.network(y))
    method = torchode.Dopri5(term=term)
    control = torchode.IntegralController(atol=1e-6, rtol=1e-6, term=term)
    solver = torchode.AutoDiffAdjoint(method, control)

    def gradient(start: Tensor) -> tuple[Tensor, Tensor]:
        problem.field.requires_grad_(False)
        start = start.clone().requires_grad_()
        initial = torchode.InitialValueProblem(y0=start, t_eval=times.expand(BATCH, -1))
        states = solver.solve(initial).ys
        total = (states * problem.weight).sum()
        return states.detach(), torch.autograd.grad(total, start)[0]

    return gradient


def exact(problem: Problem) -> tuple[Tensor, Tensor]:
    """Returns states and gradient in float64, by torchdiffeq with steps of dt / 20."""
    field = VectorField(STATE, activation=problem.field.activation).double()
    field.load_state_dict(problem.field.state_dict())
    fine = torch.arange(20 * (TIMES - 1) + 1, dtype=torch.float64) * (SPACING / 20)
    start = problem.start.double().requires_grad_()
    path = torchdiffeq.odeint(lambda _, y: field(y), start, fine, method="rk4")
    states = path[::20].transpose(0, 1)
    total = (states * problem.weight.double()).sum()
    return states.detach(), torch.autograd.grad(total, start)[0]


def _table(problem: Problem, repetitions: int, *, compiled: bool) -> str:
    found = versions(problem, compiled=compiled)
    progress(problem.title)
    states, gradient = exact(problem)
    errors = {}
    for name, version in found.items():
        ours = version(problem.start)
        errors[name] = tuple(
            float((a.double() - b).abs().max() / b.abs().max())
            for a, b in zip(ours, (states, gradient), strict=True)
        )
    work: Mapping[str, Callable[[], object]] = {
        name: (lambda version=version: version(problem.start)) for name, version in found.items()
    }
    timings = in_turns(work, repetitions=repetitions)
    rows = [_row(name, timings, errors[name]) for name in found]
    header = [
        "version",
        "ms",
        "times faster (quartiles)",
        "than frozen",
        "error of states",
        "error of gradient",
    ]
    return f"**{problem.title}.**\n\n{markdown(header, rows)}"


def _row(name: str, timings: Timings, error: tuple[float, ...]) -> list[str]:
    # The reference above: times faster, so that larger is better.
    faster = timings.spread(REFERENCE, name)
    frozen = timings.ratio("torchdiffeq rk4, frozen", name)
    state, gradient = error
    median = 1e3 * timings.median(name)
    return [name, f"{median:.1f}", faster, f"{frozen:.2f}", f"{state:.1e}", f"{gradient:.1e}"]


def _note() -> str:
    note = (
        f"{BATCH} sequences, {STATE} coordinates, field of two layers of 100, {TIMES} times "
        f"{SPACING} apart, float32; gradient of a weighted sum of all states with respect to the "
        "starts alone. Errors are the largest deviation from float64 with steps of dt/20, over "
        "the largest entry. As it comes: parameters require gradients, autograd.grad with "
        "respect to the starts. Compilation is left out of the times."
    )
    return note if find_spec("torchode") else f"{note} Not installed and left out: torchode."
