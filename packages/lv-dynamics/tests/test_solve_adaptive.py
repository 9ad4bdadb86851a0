"""Adaptive methods by torchdiffeq, each sequence on its own grid."""

import pickle

import pytest
import torch
import torchdiffeq

from lv_dynamics.field import VectorField
from lv_dynamics.solve import SolveError, Solver, SolverStatistics, solve

TIGHT = Solver(method="rk5", step_size=0.01)
METHODS = ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"]


def problem():
    field = VectorField(3, static=2, hidden=(8, 8), activation="tanh").double()
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(2.0)
    start, static = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    times = torch.rand(4, 6).double().sort(-1).values * torch.tensor([[0.5], [2.0], [1.0], [3.0]])
    return field, start.requires_grad_(), static.requires_grad_(), times


@pytest.mark.parametrize("method", METHODS)
def test_equals_a_tight_solve_on_own_grids(method):
    field, start, static, times = problem()
    low = method in ("adaptive_heun", "fehlberg2")
    tolerance = 1e-5 if low else 1e-7
    settings = Solver(method=method, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        states = solve(field, start, times, static=static, settings=settings)
    exact = solve(field, start, times, static=static, settings=TIGHT)
    # The output between adaptive steps is of order four whatever the method: its error exceeds
    # the tolerance.
    bound = 1e-2 if low else 3e-4
    torch.testing.assert_close(states, exact, rtol=bound, atol=bound)
    wrong = solve(field, start, times.flip(0), static=static, settings=settings)
    assert not torch.allclose(wrong, exact, atol=3e-2)


def test_one_grid_costs_what_torchdiffeq_costs():
    field, start, static, _ = problem()
    times = torch.linspace(0, 2, 11, dtype=torch.float64)
    calls = 0

    def counting(_, y):
        nonlocal calls
        calls += 1
        return field(y, static)

    reference = torchdiffeq.odeint(counting, start, times, rtol=1e-6, atol=1e-6, method="dopri5")
    cost = SolverStatistics()
    settings = Solver(method="dopri5", rtol=1e-6, atol=1e-6)
    states = solve(field, start, times, static=static, settings=settings, statistics=cost)
    torch.testing.assert_close(states, reference.transpose(0, 1), rtol=1e-4, atol=1e-5)
    # Our norm is that of the hardest sequence, theirs the mean: a few steps more.
    assert calls <= cost.evaluations < 2 * calls
    assert (cost.solves, cost.steps) == (1, 0)


def test_starts_and_repeats_of_the_last_time():
    field, start, static, _ = problem()
    times = torch.tensor([[0.0, 0.5, 1.0, 1.0]]).double().expand(4, 4)
    settings = Solver(method="dopri5")
    states = solve(field, start, times, static=static, settings=settings)
    assert torch.equal(states[:, 0], start)
    assert torch.equal(states[:, 2], states[:, 3])
    later = solve(field, start, times[0, 1:3], static=static, settings=settings)
    torch.testing.assert_close(states[:, 1:3], later, rtol=1e-4, atol=1e-4)


def test_direct_gradients_and_adjoint_agree_with_a_tight_solve():
    field, start, static, times = problem()
    leaves = [start, static, *field.parameters()]
    weight = torch.randn(4, 6, 3).double()

    def gradients(settings, of=field):
        states = solve(of, start, times, static=static, settings=settings)
        return torch.autograd.grad((weight * states).sum(), leaves)

    exact = gradients(TIGHT)
    tolerances = {"method": "dopri5", "rtol": 1e-8, "atol": 1e-9}
    for adjoint in (False, True):
        found = gradients(Solver(adjoint=adjoint, **tolerances))
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(exact[1], torch.zeros_like(exact[1]), atol=0.1)


def test_one_hard_sequence_is_not_hidden_by_easy_ones():
    # Rates 0 in 63 of 64 sequences: the mean norm of the batch forgives the last an 8-fold error.
    rate = torch.zeros(64, 1, dtype=torch.float64)
    rate[-1] = 20.0
    start = torch.tensor([[1.0, 0.0]]).double().expand(64, 2)
    times = torch.tensor([1.0, 2.0]).double()

    def turning(y):
        return rate * torch.stack((-y[:, 1], y[:, 0]), dim=-1)

    settings = Solver(method="dopri5", rtol=1e-6, atol=1e-6)
    together = solve(turning, start, times, settings=settings)[-1]
    theirs = torchdiffeq.odeint(
        lambda _, y: turning(y), start, torch.tensor([0.0, 1.0, 2.0]).double(),
        rtol=1e-6, atol=1e-6, method="dopri5",
    )[1:, -1]  # fmt: skip
    exact = torch.stack(((20 * times).cos(), (20 * times).sin()), dim=-1)
    assert (together - exact).abs().max() < 0.5 * (theirs - exact).abs().max()


def explosive(y):
    return y**3


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_names_the_sequence_whose_step_underflows(method):
    start = torch.tensor([[0.0], [0.1], [1.0], [0.2]], dtype=torch.float64)
    with pytest.raises(SolveError, match="adaptive solve failed at sequence 2") as caught:
        solve(explosive, start, torch.tensor([2.0]).double(), settings=Solver(method=method))
    assert caught.value.sequence == (2,)
    assert isinstance(caught.value, FloatingPointError)
    assert isinstance(caught.value.__cause__, AssertionError)
    assert pickle.loads(pickle.dumps(caught.value)).sequence == (2,)
    with pytest.raises(SolveError, match=r"at sequence \(1, 0\)"):
        solve(
            explosive,
            start.reshape(2, 2, 1),
            torch.tensor([2.0]).double(),
            settings=Solver(method=method),
        )


def test_names_the_sequence_that_takes_too_many_steps():
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    settings = Solver(method="dopri5", max_steps=2, rtol=1e-9, atol=1e-9)
    with pytest.raises(SolveError, match=r"sequence 1 \(max_num_steps exceeded"):
        solve(lambda y: 30 * y.cos(), start, torch.tensor([9.0]).double(), settings=settings)


def test_names_the_sequence_that_becomes_infinite():
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def jump(y):
        return torch.where(y > 1.5, torch.inf, y)

    with pytest.raises(SolveError, match="sequence 1") as caught:
        solve(jump, start, torch.tensor([2.0]).double(), settings=Solver(method="dopri5"))
    assert caught.value.sequence == (1,)
