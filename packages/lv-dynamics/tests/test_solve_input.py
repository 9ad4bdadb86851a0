"""Bad input: clear errors that name the sequence."""

import pytest
import torch

from lv_dynamics.field import VectorField
from lv_dynamics.solve import SolveError, Solver, TimeGrid, solve

METHODS = ["rk4", "dopri5"]


def still(y):
    return torch.zeros_like(y)


BAD = {
    "unsorted": ([0.1, 0.3, 0.2], "must increase"),
    "last too early": ([0.3, 0.1, 0.1], "must increase"),
    "duplicate": ([0.1, 0.1, 0.2], "merge duplicates"),
    "negative": ([-0.1, 0.1, 0.2], "must not be negative"),
    "nan": ([0.1, float("nan"), 0.2], "must be finite"),
    "no horizon": ([0.0, 0.0, 0.0], "horizon of length zero"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BAD)
def test_times_that_are_none_name_their_sequence(name, method):
    row, message = BAD[name]
    times = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.3, 0.3], row, [0.1, 0.2, 0.3]])
    settings = Solver(method=method)
    with pytest.raises(ValueError, match=rf"times of sequence 2 .*{message}"):
        solve(still, torch.zeros(4, 1), times, settings=settings)
    with pytest.raises(ValueError, match=rf"times of sequence \(1, 0\) .*{message}"):
        solve(still, torch.zeros(2, 2, 1), times.reshape(2, 2, 3), settings=settings)
    with pytest.raises(ValueError, match=rf"^times must .*{message[5:]}"):
        solve(still, torch.zeros(4, 1), torch.tensor(row), settings=settings)
    assert solve(still, torch.zeros(2, 1), times[:2], settings=settings).shape == (2, 3, 1)


def test_no_times_are_refused():
    with pytest.raises(ValueError, match="at least one time"):
        solve(still, torch.zeros(4, 1), torch.zeros(0))


def test_sequences_without_a_horizon_stay_at_their_start_when_unchecked():
    times = torch.tensor([[0.0, 0.0], [0.5, 1.0]])
    start = torch.ones(2, 1)
    states = solve(lambda y: y, start, times, settings=Solver(check=False))
    assert torch.equal(states[0], torch.ones(2, 1))
    torch.testing.assert_close(states[1, :, 0], times[1].exp(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_is_not_finite_is_named(method):
    start = torch.zeros(3, 2)
    start[1, 0] = float("nan")
    with pytest.raises(SolveError, match="sequence 1") as caught:
        solve(still, start, torch.tensor([1.0]), settings=Solver(method=method))
    assert caught.value.sequence == (1,)


def test_a_diverging_sequence_is_named_with_its_time():
    start = torch.tensor([[0.1], [0.0], [3.0]])
    times = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.1, 1.5]])
    with pytest.raises(SolveError, match=r"sequence 2 diverged: .* from time 1\.5 on") as caught:
        solve(lambda y: y**3, start, times)
    assert caught.value.sequence == (2,)
    with pytest.raises(SolveError, match=r"sequence 2 diverged: .* from time 2 on"):
        solve(lambda y: y**3, start, torch.tensor([0.1, 2.0]))
    states = solve(lambda y: y**3, start, times, settings=Solver(check=False))
    assert states.isfinite().all(-1).all(-1).tolist() == [True, True, False]


def test_huge_but_finite_states_are_no_divergence():
    start = torch.full((2, 1), 1.5e308, dtype=torch.float64)
    states = solve(still, start, torch.tensor([1.0]).double())
    assert torch.equal(states[:, 0], start)


def test_shapes_that_do_not_fit_are_refused():
    start = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"broadcast to \(4, 5\), got \(3, 5\)"):
        solve(still, start, torch.ones(3, 5).cumsum(-1))
    grid = TimeGrid.build(torch.ones(3, 1), Solver())
    with pytest.raises(ValueError, match="TimeGrid of 1 or 4 rows"):
        solve(still, start, grid)


@pytest.mark.usefixtures("wrong_types")
def test_a_static_part_of_another_batch_is_refused():
    field, start = VectorField(2, static=1), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"batch shape of start, \(4,\), got shape \(1, 1\)"):
        solve(field, start, torch.tensor([1.0]), static=torch.zeros(1, 1))


def test_a_grid_is_for_fixed_steps():
    with pytest.raises(ValueError, match="fixed-step method, got 'dopri5'"):
        TimeGrid.build(torch.ones(1), Solver(method="dopri5"))
    with pytest.raises(ValueError, match="of sequence 1 must increase"):
        TimeGrid.build(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), Solver())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"step_size": float("inf")}, "step_size must be positive and finite"),
        ({"rtol": -1.0}, "rtol must be positive"),
        ({"atol": float("nan")}, "atol must be positive"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"adjoint": True}, "adjoint needs an adaptive method"),
    ],
)
def test_settings_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Solver(**options)


@pytest.mark.usefixtures("wrong_types")
def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="unknown method 'rk3'; there are: euler, midpoint"):
        Solver(method="rk3")
