"""The fused solve: the numbers and gradients of the plain one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lv_dynamics.field import VectorField
from lv_dynamics.solve import Solver, TimeGrid, solve
from lv_dynamics.solve.activation import BUFFERED
from lv_dynamics.solve.fused import can_fuse, solve_fused
from lv_dynamics.solve.plain import solve_plain

METHODS = ["euler", "midpoint", "rk4", "rk4_38", "rk5"]


def problem(*, order=1, static=2, activation="softplus", hidden=(6, 7)):
    field = VectorField(4, static=static, order=order, activation=activation, hidden=hidden)
    field = field.double().requires_grad_(False)
    start = torch.randn(3, 4).double().requires_grad_()
    entering = torch.randn(3, static).double().requires_grad_() if static else None
    return field, start, entering


def grids():
    own = torch.rand(3, 5).double().sort(-1).values * torch.tensor([[0.4], [0.9], [0.2]])
    return {
        "on steps": torch.arange(5).double() * 0.1,
        "between steps": torch.tensor([0.05, 0.33, 0.41]).double(),
        "own": own,
        "own on steps": torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.2, 0.5]]).double(),
    }


def both(field, start, static, times, settings):
    leaves = [t for t in (start, static) if t is not None]
    found = []
    for fused in (True, False):
        grid = TimeGrid.build(times, settings)
        solver = solve_fused if fused else solve_plain
        first = (field, start, static) if fused else (field.bind(static), start)
        states = solver(*first, grid)
        weight = torch.linspace(-1, 1, states.numel()).double().view_as(states)
        found.append((states, *torch.autograd.grad((weight * states.square()).sum(), leaves)))
    return found


@pytest.mark.parametrize("activation", BUFFERED)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("static", [0, 2])
def test_equals_the_plain_path(activation, order, static):
    field, start, entering = problem(order=order, static=static, activation=activation)
    for method in METHODS:
        for name, times in grids().items():
            settings = Solver(method=method)
            for a, b in zip(*both(field, start, entering, times, settings), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12, msg=f"{method} {name}")


def test_a_wrong_derivative_would_show(monkeypatch):
    form = BUFFERED["tanh"]
    wrong = form._replace(backward=lambda grad, kept, out: torch.mul(grad, kept, out=out))
    monkeypatch.setitem(BUFFERED, "tanh", wrong)
    field, start, static = problem(activation="tanh")
    fused, plain = both(field, start, static, grids()["own"], Solver())
    torch.testing.assert_close(fused[0], plain[0])
    assert not torch.allclose(fused[1], plain[1], rtol=1e-3)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 6, 7)])
def test_any_number_of_layers(hidden):
    field, start, static = problem(hidden=hidden)
    for times in grids().values():
        for a, b in zip(*both(field, start, static, times, Solver()), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("method", ["midpoint", "rk4", "rk5"])
def test_gradients_are_those_of_finite_differences(method, order):
    field, start, static = problem(order=order)
    for name in ("on steps", "own"):
        grid = TimeGrid.build(grids()[name], Solver(method=method))
        assert torch.autograd.gradcheck(
            lambda y, s, grid=grid: solve_fused(field, y, s, grid), (start, static)
        )


@pytest.mark.parametrize("method", ["midpoint", "rk4", "rk5"])
def test_plain_gradients_are_those_of_finite_differences_parameters_included(method):
    field, start, static = problem(hidden=(3,))
    weight = field.linear[0].weight.detach().clone().requires_grad_()
    times = torch.tensor([[0.1, 0.3], [0.05, 0.2], [0.0, 0.15]]).double()

    def run(y, s, weight):
        def velocity(y, s):
            state = {"network.0.weight": weight}
            return torch.func.functional_call(field, state, (y, s))

        return solve(velocity, y, times, static=s, settings=Solver(method=method))

    assert torch.autograd.gradcheck(run, (start, static, weight))


def test_runs_when_parameters_are_frozen_or_no_gradient_is_recorded():
    field, start, static = problem()
    assert can_fuse(field, start, static)
    field.requires_grad_(True)
    assert not can_fuse(field, start, static)
    with torch.no_grad():
        assert can_fuse(field, start, static)
    assert not can_fuse(field.requires_grad_(False), start.float(), static)
    assert not can_fuse(lambda y: y, start)

    class Other(VectorField):
        pass

    assert not can_fuse(Other(4).double().requires_grad_(False), start)


def test_solve_takes_it_where_it_can_and_never_loses_parameter_gradients():
    field, start, static = problem()
    times = grids()["own"]
    states = solve(field, start, times, static=static)
    assert type(states.grad_fn).__name__ == "ViewBackward0"
    names = {type(states.grad_fn.next_functions[0][0]).__name__}
    assert names == {"_FusedSolveBackward"}
    states.sum().backward()
    assert all(p.grad is None for p in field.parameters())
    field.requires_grad_(True)
    solve(field, start, times, static=static).sum().backward()
    assert all(p.grad is not None for p in field.parameters())


def test_only_the_start_or_only_the_static_part_may_need_a_gradient():
    field, start, static = problem()
    times = grids()["own"]
    full = torch.autograd.grad(solve(field, start, times, static=static).sum(), (start, static))
    one = torch.autograd.grad(solve(field, start, times, static=static.detach()).sum(), start)
    other = torch.autograd.grad(solve(field, start.detach(), times, static=static).sum(), static)
    assert torch.equal(one[0], full[0])
    assert torch.equal(other[0], full[1])
    assert not solve(field, start.detach(), times, static=static.detach()).requires_grad


def test_the_way_back_can_be_walked_twice_but_not_differentiated():
    field, start, static = problem()
    states = solve(field, start, grids()["own"], static=static)
    one = torch.autograd.grad(states.sum(), start, retain_graph=True)[0]
    two = torch.autograd.grad(states.sum(), start)[0]
    assert torch.equal(one, two)
    states = solve(field, start, grids()["own"], static=static)
    grad = torch.autograd.grad(states.square().sum(), start, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    plain = solve(field, start, grids()["own"], static=static, settings=Solver(fused=False))
    grad = torch.autograd.grad(plain.square().sum(), start, create_graph=True)[0]
    assert torch.autograd.grad(grad.sum(), start)[0].abs().sum() > 0


@pytest.mark.parametrize("hidden", [(6, 7), (1,), ()])
def test_later_changes_of_the_parameters_leave_the_way_back_alone(hidden):
    field, start, static = problem(hidden=hidden)
    times = grids()["own"]
    one = torch.autograd.grad(solve(field, start, times, static=static).sum(), start)[0]
    states = solve(field, start, times, static=static)
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(2.0)
    assert torch.equal(torch.autograd.grad(states.sum(), start)[0], one)


def test_softplus_holds_where_its_short_form_overflows():
    field = VectorField(1, hidden=(1,))
    with torch.no_grad():
        for p in field.parameters():
            p.fill_(0.0)
        field.linear[0].weight.fill_(1.0)
        field.linear[1].weight.fill_(-1e-3)
    start = torch.tensor([[200.0], [-200.0], [3.0]])
    times = torch.tensor([1.0])
    fused = solve(field.requires_grad_(False), start, times)
    plain = solve(field, start, times, settings=Solver(fused=False))
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6)
    unchecked = solve(field, start, times, settings=Solver(check=False))
    assert unchecked.isfinite().flatten().tolist() == [False, True, True]


def test_divergence_stays_in_its_sequence_when_unchecked():
    field, start, static = problem(activation="silu")
    wild = start.detach().clone()
    wild[1] = float("inf")
    wild.requires_grad_()
    times = grids()["own"]
    states = solve(field, wild, times, static=static, settings=Solver(check=False))
    calm = solve(field, start, times, static=static)
    assert not states[1].isfinite().any(-1).all()
    for row in (0, 2):
        torch.testing.assert_close(states[row], calm[row])
    found = torch.autograd.grad(states[[0, 2]].sum(), wild)[0][[0, 2]]
    expected = torch.autograd.grad(calm[[0, 2]].sum(), start)[0][[0, 2]]
    torch.testing.assert_close(found, expected)


class _Waits(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fused", [True, False])
def test_waits_for_no_device_on_a_grid_built_before(fused):
    field, start, static = problem()
    settings = Solver(check=False, fused=fused)
    for times in grids().values():
        grid = TimeGrid.build(times, settings)
        with _Waits() as waits:
            solve(field, start, grid, static=static).sum().backward()
        assert waits.count == 0
        with _Waits() as waits:
            solve(field, start, times, static=static)
        assert waits.count > 0


@pytest.mark.usefixtures("wrong_types")
def test_refuses_widths_that_do_not_fit():
    field, start, static = problem()
    with pytest.raises(ValueError, match=r"start must end in the 4 numbers .* got shape \(3, 2\)"):
        solve(field, start[:, :2], torch.tensor([1.0]).double(), static=static)
    with pytest.raises(ValueError, match=r"static must end in the 2 static numbers .* got None"):
        solve(field, start, torch.tensor([1.0]).double())
