"""Angles: wrapping, distances, means, and the check for degrees given by mistake."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lv_neuro.angles import (
    angular_distance,
    check_radians,
    circular_mean,
    grid,
    heading,
    wrap,
)

DOUBLE = torch.float64
TURN = 2 * math.pi
ANGLES = st.floats(-1e3, 1e3)
DTYPES = st.sampled_from([torch.float32, torch.float64])


def same_direction(a, b, atol):
    torch.testing.assert_close(a.sin(), b.sin(), atol=atol, rtol=0)
    torch.testing.assert_close(a.cos(), b.cos(), atol=atol, rtol=0)


# Wrapping


@given(x=ANGLES, dtype=DTYPES)
def test_wrapping_keeps_the_direction_and_lands_in_its_interval(x, dtype):
    x = torch.tensor(x, dtype=dtype)
    pi = torch.tensor(math.pi, dtype=dtype)
    atol = 2e-4 if dtype is torch.float32 else 1e-12  # 1e3 rad in float32 are known to 6e-5
    for moved, low, high in ((wrap(x), -pi, pi), (heading(x), 0 * pi, 2 * pi)):
        assert moved.dtype == dtype
        assert low <= moved < high
        same_direction(moved, x, atol)
        assert not torch.allclose((moved + 0.1).sin(), x.sin(), atol=atol) or not torch.allclose(
            (moved + 0.1).cos(), x.cos(), atol=atol
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_intervals_belong_to_one_side(dtype):
    pi = torch.tensor(math.pi, dtype=dtype)
    # the number next to -pi is the dangerous one: a remainder may round up to a whole turn
    below = torch.nextafter(-pi, -2 * pi)
    tiny = torch.tensor(-1e-30, dtype=dtype)
    for x in (pi, -pi, below, 3 * pi, -3 * pi):
        assert -pi <= wrap(x) < pi
        same_direction(wrap(x), x, 2e-6)
    for x in (2 * pi, tiny, -2 * pi, torch.nextafter(0 * pi, -pi), below - pi):
        assert 0 <= heading(x) < 2 * pi
        same_direction(heading(x), x, 2e-6)
    assert heading(tiny) == 0


@given(x=ANGLES)
def test_wrapping_twice_is_wrapping_once(x):
    x = torch.tensor(x, dtype=DOUBLE)
    torch.testing.assert_close(wrap(wrap(x)), wrap(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(heading(heading(x)), heading(x), atol=1e-12, rtol=0)


def test_wrapping_has_derivative_one():
    x = torch.tensor([-7.0, -1.0, 0.5, 4.0, 11.0], dtype=DOUBLE, requires_grad=True)
    for moved in (wrap, heading):
        (grad,) = torch.autograd.grad(moved(x).sum(), x)
        torch.testing.assert_close(grad, torch.ones_like(x), atol=0, rtol=0)


# Grids and distances


def test_the_grid_begins_at_zero_and_has_no_double_end():
    x = grid(8)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor([n * math.pi / 4 for n in range(8)]))
    assert grid(8, like=torch.zeros(1, dtype=DOUBLE)).dtype == DOUBLE
    # closed, with 2 pi at its end, it would have another step
    assert not torch.allclose(x, torch.linspace(0, TURN, 8))


@given(a=ANGLES, b=ANGLES)
def test_a_distance_is_the_shorter_way(a, b):
    a, b = torch.tensor(a, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE)
    d = angular_distance(a, b)
    wanted = torch.acos((a - b).cos().clamp(-1, 1))
    torch.testing.assert_close(d, wanted, atol=1e-6, rtol=0)  # acos is flat at its ends
    torch.testing.assert_close(d, angular_distance(b, a), atol=1e-12, rtol=0)
    assert 0 <= d <= math.pi


def test_distances_broadcast_and_go_across_zero():
    x = torch.tensor([0.1, TURN - 0.1], dtype=DOUBLE)
    torch.testing.assert_close(
        angular_distance(x[:, None], x[None]),
        torch.tensor([[0.0, 0.2], [0.2, 0.0]], dtype=DOUBLE),
    )
    torch.testing.assert_close(angular_distance(x, TURN), torch.full_like(x, 0.1))
    assert (x[0] - x[1]).abs() > 6  # the plain difference takes the long way


# Means


@given(
    values=st.lists(st.floats(-0.7, 0.7), min_size=1, max_size=9),
    turn=st.floats(0, 6.28),
)
def test_the_mean_turns_with_the_angles(values, turn):
    x = torch.tensor(values, dtype=DOUBLE)
    before, after = circular_mean(x), circular_mean(x + turn)
    assert angular_distance(after, before + turn) < 1e-9
    assert 0 <= after < TURN


def test_means_of_angles_on_both_sides_of_zero_lie_at_zero():
    x = torch.tensor([TURN - 0.2, 0.2], dtype=DOUBLE)
    assert angular_distance(circular_mean(x), 0.0) < 1e-12
    assert abs(float(x.mean()) - math.pi) < 1e-12  # the plain mean points the other way


def test_weights_are_those_of_the_vectors():
    x = torch.tensor([[0.0, math.pi / 2], [0.3, 1.0]], dtype=DOUBLE)
    w = torch.tensor([1.0, math.sqrt(3)], dtype=DOUBLE)
    assert abs(float(circular_mean(x, w)[0]) - math.pi / 3) < 1e-12
    assert abs(float(circular_mean(x)[0]) - math.pi / 4) < 1e-12
    torch.testing.assert_close(circular_mean(x, 5 * w), circular_mean(x, w))
    torch.testing.assert_close(circular_mean(x.mT, w[:, None], dim=0), circular_mean(x, w))
    assert abs(float(circular_mean(x, w.flip(0))[0]) - math.pi / 6) < 1e-12


# The check for degrees


@pytest.mark.parametrize(("kind", "usual"), [("heading", r"\[0, 2 pi\)"), ("turn", r"\[-pi, pi")])
def test_degrees_are_warned_of_by_name(kind, usual):
    with pytest.warns(UserWarning, match=rf"compass reaches 90: .*{usual}.*degrees.*deg2rad"):
        check_radians("compass", torch.tensor([0.0, -90.0]), kind=kind)


def test_a_whole_turn_and_nothing_are_radians():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_radians("x", torch.tensor([TURN, -TURN, 0.0]))
        check_radians("x", torch.empty(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_angles_are_refused(bad):
    x = torch.tensor([[0.0, bad], [1.0, bad]])
    with pytest.raises(ValueError, match=r"turns must be finite, got 2 NaN or infinite.* of 4"):
        check_radians("turns", x, kind="turn")


def test_integers_are_refused_as_they_are_rarely_radians():
    with pytest.raises(TypeError, match=r"x must hold floating-point radians, got torch.int64"):
        check_radians("x", torch.tensor([1, 2]))
