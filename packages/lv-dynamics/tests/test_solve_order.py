"""Accuracy of fixed-step methods: closed forms, torchdiffeq, grids of their own."""

import math

import pytest
import torch
import torchdiffeq

from lv_dynamics.field import VectorField
from lv_dynamics.solve import Solver, SolverStatistics, TimeGrid, solve
from lv_dynamics.solve.tableau import TABLEAUS, Tableau

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "rk4_38": 4, "rk5": 5}


def swirl(y):
    """Turns each point at a rate of its squared radius."""
    turned = torch.stack((-y[..., 1], y[..., 0]), dim=-1)
    return y.square().sum(-1, keepdim=True) * turned


def swirled(start, times):
    angle = start.square().sum(-1, keepdim=True) * times
    x, y = start[:, :1], start[:, 1:]
    return torch.stack(
        (x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()), dim=-1
    )


def slope_of(method, times, *, coarse=16):
    start = torch.tensor([[1.0, 0.3], [-0.4, 0.9], [0.2, 0.1]], dtype=torch.float64)
    errors = []
    for steps in (coarse, 2 * coarse):
        states = solve(swirl, start, times, settings=Solver(method=method, steps=steps))
        errors.append((states - swirled(start, times)).abs().max())
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("method", ORDERS)
def test_error_falls_with_the_order_of_the_method_on_steps(method):
    times = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    coarse = {1: 128, 2: 128, 4: 32, 5: 96}[ORDERS[method]]
    # Leading terms alone would give the order itself; the next ones still show.
    assert slope_of(method, times, coarse=coarse) == pytest.approx(ORDERS[method], abs=0.25)


@pytest.mark.parametrize("method", ORDERS)
def test_error_falls_with_the_order_of_the_method_between_steps(method):
    times = torch.tensor([0.013, 0.22, 0.37, 0.91, 1.3, 1.777, 1.991, 2.0], dtype=torch.float64)
    coarse = 128 if method in ("euler", "midpoint") else 32
    assert slope_of(method, times, coarse=coarse) > ORDERS[method] - 0.3


def test_wrong_coefficients_lose_the_order(monkeypatch):
    wrong = Tableau(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 3, 1 / 6, 1 / 6, 1 / 3))
    monkeypatch.setitem(TABLEAUS, "rk4", wrong)
    assert slope_of("rk4", torch.tensor([1.0, 2.0], dtype=torch.float64), coarse=32) < 3


def test_cubic_output_would_not_do_for_order_five(monkeypatch):
    times = torch.tensor([0.013, 0.22, 0.37, 0.91, 1.3, 1.777, 1.991, 2.0], dtype=torch.float64)
    monkeypatch.setitem(TABLEAUS, "rk5", TABLEAUS["rk5"]._replace(nodes=2))
    assert slope_of("rk5", times, coarse=32) < 4.6


@pytest.mark.parametrize("method", ["rk4", "rk5"])
def test_output_reproduces_polynomials_up_to_its_degree(method):
    # y' = 1 and y'' = .. as a chain of integrators: the solution is a polynomial in t.
    degree = 3 if method == "rk4" else 5

    def chain(y):
        return torch.cat((torch.ones_like(y[..., :1]), y[..., :-1]), dim=-1)

    start = torch.zeros(1, degree, dtype=torch.float64)
    times = torch.linspace(0.01, 2.3, 17, dtype=torch.float64)
    states = solve(chain, start, times, settings=Solver(method=method, step_size=0.5))
    exact = torch.stack([times**k / math.factorial(k) for k in range(1, degree + 1)], dim=-1)
    torch.testing.assert_close(states[0], exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_three_eighths_rule_is_torchdiffeqs_rk4(fused):
    field = VectorField(4, static=2, hidden=(10, 10)).double().requires_grad_(False)
    start = torch.randn(5, 4).double().requires_grad_()
    static = torch.randn(5, 2).double().requires_grad_()
    times = torch.arange(30, dtype=torch.float64) * 0.1
    weight = torch.randn(5, 30, 4).double()
    settings = Solver(method="rk4_38", step_size=0.1, fused=fused)
    ours = solve(field, start, times, static=static, settings=settings)
    theirs = torchdiffeq.odeint(lambda _, y: field(y, static), start, times, method="rk4")
    theirs = theirs.transpose(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (start, static)),
        torch.autograd.grad((theirs * weight).sum(), (start, static)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    classic = solve(field, start, times, static=static, settings=Solver(fused=fused))
    assert not torch.equal(classic, ours)


def sequences(generator, *, n=4, width=12):
    field = VectorField(3, static=2, hidden=(9,)).double().requires_grad_(False)
    start = torch.randn(n, 3, generator=generator).double()
    static = torch.randn(n, 2, generator=generator).double()
    times = torch.rand(n, width, generator=generator).double().sort(-1).values
    horizon = torch.tensor([0.3, 1.1, 2.0, 0.75]).double()[:n, None]
    return field, start, static, times * horizon / times[:, -1:]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", ["midpoint", "rk4", "rk5"])
def test_a_batch_of_grids_equals_solving_one_by_one(generator, method, fused):
    field, start, static, times = sequences(generator)
    settings = Solver(method=method, fused=fused)
    together = solve(field, start, times, static=static, settings=settings)
    for b in range(4):
        alone = solve(
            field, start[b : b + 1], times[b], static=static[b : b + 1], settings=settings
        )
        torch.testing.assert_close(together[b], alone[0], rtol=1e-12, atol=1e-12)
    wrong = solve(field, start, times.flip(0), static=static, settings=settings)
    assert not torch.allclose(wrong, together, atol=1e-3)


@pytest.mark.parametrize("fused", [True, False])
def test_order_in_the_batch_does_not_matter(generator, fused):
    field, start, static, times = sequences(generator)
    settings, order = Solver(fused=fused), torch.tensor([2, 0, 3, 1])
    one = solve(field, start, times, static=static, settings=settings)[order]
    other = solve(field, start[order], times[order], static=static[order], settings=settings)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_repeats_of_the_last_time_pad_without_effect(generator, fused):
    field, start, static, times = sequences(generator)
    settings = Solver(fused=fused)
    padded = torch.cat((times, times[:, -1:].expand(-1, 3)), dim=-1)
    short = solve(field, start, times, static=static, settings=settings)
    long = solve(field, start, padded, static=static, settings=settings)
    assert torch.equal(long[:, :12], short)
    assert torch.equal(long[:, 12:], short[:, -1:].expand(-1, 3, -1))


def test_a_sequence_that_ended_is_carried_no_further():
    # y' = y^3 from 1 explodes at t = 0.5: the first ends before, the second starts at 0.
    start = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    times = torch.tensor([[0.1, 0.2], [1.0, 9.0]], dtype=torch.float64)
    states = solve(lambda y: y**3, start, times, settings=Solver(step_size=0.01))
    expected = (1 - 2 * times[0]).rsqrt()
    torch.testing.assert_close(states[0, :, 0], expected, rtol=1e-6, atol=0.0)
    assert torch.equal(states[1], torch.zeros(2, 1, dtype=torch.float64))


def test_steps_on_the_times_are_returned_as_they_are():
    field = VectorField(2, hidden=(4,)).double()
    start = torch.randn(3, 2).double()
    times = torch.arange(1, 6, dtype=torch.float64) * 0.2
    fine = solve(field, start, times, settings=Solver(step_size=0.1))
    y = start
    for _ in range(2):
        y = solve(field, y, times[:1] * 0.5, settings=Solver(step_size=0.1))[:, 0]
    torch.testing.assert_close(fine[:, 0], y, rtol=1e-14, atol=1e-14)
    assert TimeGrid.build(times, Solver(step_size=0.1)).value_weights is None
    assert TimeGrid.build(times, Solver(step_size=0.3)).value_weights is not None


def test_more_batch_axes_and_broadcast_times(generator):
    field, start, static, times = sequences(generator)
    chains = torch.stack((start, start.flip(0)))
    statics = torch.stack((static, static.flip(0)))
    states = solve(field, chains, times, static=statics)
    assert states.shape == (2, 4, 12, 3)
    torch.testing.assert_close(states[0], solve(field, start, times, static=static))
    alone = solve(field, start.flip(0), times, static=static.flip(0))
    torch.testing.assert_close(states[1], alone)


def test_counts_evaluations_and_steps(generator):
    field, start, static, times = sequences(generator)
    calls = 0

    def counting(y, s):
        nonlocal calls
        calls += 1
        return field(y, s)

    cost = SolverStatistics()
    solve(counting, start, times, static=static, settings=Solver(), statistics=cost)
    # The longest horizon is 2.0: 20 steps of 0.1, and one more slope for the output.
    assert (cost.solves, cost.steps, cost.evaluations) == (1, 20, 81)
    assert calls == 81
    solve(field, start, times, static=static, statistics=cost)
    assert (cost.solves, cost.steps, cost.evaluations) == (2, 40, 162)


def test_number_of_steps_can_be_given(generator):
    field, start, static, times = sequences(generator)
    grid = TimeGrid.build(times, Solver(steps=7))
    assert grid.steps == 7
    torch.testing.assert_close(grid.sizes.sum(0), times[:, -1])
    states = solve(field, start, grid, static=static)
    exact = solve(field, start, times, static=static, settings=Solver(step_size=0.01))
    torch.testing.assert_close(states, exact, rtol=1e-4, atol=1e-4)


def test_float32_stays_float32_and_close_to_float64():
    field = VectorField(3, hidden=(20,))
    start, times = torch.randn(4, 3), torch.rand(4, 9).sort(-1).values
    for frozen in (True, False):
        field.requires_grad_(not frozen)
        states = solve(field, start, times)
        assert states.dtype == torch.float32
        exact = solve(field.double(), start.double(), times.double())
        torch.testing.assert_close(states.double(), exact, rtol=1e-5, atol=1e-5)
        field.float()
