"""The hand-built ring attractor: its weights, its bump, how far and which way it turns."""

import math

import pytest
import torch

from lv_neuro.angles import angular_distance, grid, wrap
from lv_neuro.baselines import RingAttractor
from lv_neuro.baselines.attractor_weights import deconvolve, input_of, rate_of, settle
from lv_neuro.baselines.ring import circulant, shift
from lv_neuro.walks import random_walks

DOUBLE = torch.float64
DEGREE = math.pi / 180


@pytest.fixture(scope="module")
def ring():
    """The default network in double precision, which no test changes."""
    return RingAttractor(dtype=DOUBLE)


def small(**settings):
    """A network that is quick to make and to run."""
    chosen = {"neurons": 40, "bins": 40, "time_step": 0.0025, "dtype": DOUBLE, **settings}
    return RingAttractor(**chosen)


# Weights


def test_inputs_and_rates_are_inverse():
    rate = torch.tensor([0.01, 0.3, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(rate_of(input_of(rate)), rate)
    assert float(rate_of(torch.tensor(1.0, dtype=DOUBLE))) == pytest.approx(1.0)


@pytest.mark.parametrize("neurons", [49, 50])
def test_even_weights_hold_the_wanted_bump_when_hardly_regularized(neurons):
    sigma = 0.6
    wanted, (even, _) = deconvolve(neurons, sigma, 0.05, 1e-14)
    torch.testing.assert_close(rate_of(circulant(even) @ wanted), wanted, atol=1e-4, rtol=0)
    _, (strong, _) = deconvolve(neurons, sigma, 0.05, 1e-2)
    assert (rate_of(circulant(strong) @ wanted) - wanted).abs().max() > 0.01


def test_even_weights_are_even_and_odd_weights_their_derivative(ring):
    # from neuron j (column) to neuron i (row)
    even, odd = (half.mT for half in ring.weights.chunk(2, 1))
    torch.testing.assert_close(even, even.mT)
    torch.testing.assert_close(odd, -odd.mT)
    # the derivative of the kernel by central differences of a band-limited shift
    kernel, small = even[:, 0], 1e-5
    ahead, behind = (shift(kernel, torch.tensor(x, dtype=DOUBLE)) for x in (-small, small))
    torch.testing.assert_close(odd[:, 0], (ahead - behind) / (2 * small), atol=1e-6, rtol=0)
    assert (odd[:, 0] + (ahead - behind) / (2 * small)).abs().max() > 0.01


# The bump


def test_codes_are_settled_bumps_of_norm_one_at_their_heading(ring):
    torch.testing.assert_close(ring.codes.norm(dim=-1), torch.ones(1, 100, dtype=DOUBLE))
    error = angular_distance(ring.decode(ring.codes)[0], grid(100, like=ring.bump))
    assert error.max() < 1e-6
    assert ring.encode(torch.zeros(2, 3, dtype=DOUBLE)).shape == (1, 2, 3, 100)
    assert bool((ring.codes > 0).all())


@pytest.mark.parametrize("sigma", [0.3, 0.46, 0.65, 0.8])
def test_the_bump_has_about_the_wanted_width(sigma):
    ring = RingAttractor(neurons=180, bins=180, sigma=sigma, time_step=0.01, gain=1.0)
    curve = ring.codes[0, :, 0]
    half = (curve > (curve.max() + curve.min()) / 2).sum() * 2 * math.pi / 180
    # exp(kappa (cos x - 1)) between its extremes
    kappa = sigma**-2
    wanted = 2 * math.acos(1 + math.log((1 + math.exp(-2 * kappa)) / 2) / kappa)
    assert 0.9 < float(half) / wanted < 1.15


def test_the_bump_stands_still_for_a_thousand_steps():
    ring = small()
    v = ring.encode(torch.linspace(0, 6, 8, dtype=DOUBLE))
    zeros = torch.zeros(8, 1000, dtype=DOUBLE)
    found = ring.integrate(torch.linspace(0, 6, 8, dtype=DOUBLE), zeros)
    torch.testing.assert_close(found.state.norm(dim=-1), torch.ones(1, 8, dtype=DOUBLE))
    assert (found.state - v).norm(dim=-1).max() < 1e-3
    # without its recurrent weights the network forgets at once
    ring.weights.zero_()
    dead = ring.integrate(torch.linspace(0, 6, 8, dtype=DOUBLE), zeros[:, :20]).state
    assert (dead.amax(-1) / dead.amin(-1)).max() < 1.0001


def test_activity_off_the_ring_decays(ring, generator):
    code = ring.encode(torch.tensor([1.0], dtype=DOUBLE))
    v = (code + 0.3 * torch.randn(1, 20, 100, generator=generator, dtype=DOUBLE) / 10).clamp(min=0)

    def distance(v):
        # to the bump where it stands now, so that drift along the ring does not count
        return (v - ring.encode(ring.decode(v)[0])[0]).norm(dim=-1).mean()

    before = distance(v)
    for _ in range(20):
        v = ring.step(v, torch.zeros(20, dtype=DOUBLE))
    assert distance(v) < 0.05 * before


# Turning


def test_the_bump_turns_as_it_is_told(ring):
    slow = torch.tensor([-18.0, -9.0, -1.0, 1.0, 9.0, 18.0], dtype=DOUBLE) * DEGREE
    assert (ring.response(slow) - 1).abs().max() < 0.002
    uncalibrated = RingAttractor(gain=0.9 * ring.gain, dtype=DOUBLE)
    assert (uncalibrated.response(slow) - 0.9).abs().max() < 0.01


def test_the_response_is_linear_to_one_percent_up_to_the_largest_turn(ring):
    turns = torch.tensor([27.0, 36.0, 45.0], dtype=DOUBLE) * DEGREE
    ratio = ring.response(turns)
    assert bool(((ratio > 0.985) & (ratio < 1.0)).all())
    # and is not beyond, which is why larger turns are split
    assert ring.response(torch.tensor([math.pi / 2], dtype=DOUBLE)) < 0.985


def test_only_the_gain_is_fitted(ring):
    assert ring.parameters_count == 1
    assert RingAttractor(gain=1.0).gain == 1.0 != ring.gain


def test_calibration_makes_up_for_the_euler_steps():
    turn = torch.tensor([9 * DEGREE], dtype=DOUBLE)
    assert abs(float(small(time_step=0.01).response(turn)) - 1) < 1e-6
    assert abs(float(small(time_step=0.01, gain=1.0).response(turn)) - 1) > 5e-4


def test_odd_weights_of_the_wrong_sign_turn_the_other_way():
    ring = small()
    x, dx = torch.tensor([1.0], dtype=DOUBLE), torch.tensor([0.2], dtype=DOUBLE)
    v = ring.encode(x)
    assert float(wrap(ring.decode(ring.step(v, dx))[0] - x)) == pytest.approx(0.2, abs=2e-3)
    ring.weights[:, ring.neurons :].neg_()
    assert float(wrap(ring.decode(ring.step(v, dx))[0] - x)) == pytest.approx(-0.2, abs=2e-3)


def test_large_turns_are_split():
    ring = small()
    x, dx = torch.tensor([1.0], dtype=DOUBLE), torch.tensor([2.1], dtype=DOUBLE)
    v = ring.step(ring.encode(x), dx)
    parts = ring.encode(x)
    for _ in range(3):
        parts = ring.step(parts, dx / 3)
    torch.testing.assert_close(v, parts)
    assert abs(float(ring.decode(v)) - 3.1) < 0.05


def test_walks_are_followed():
    ring = RingAttractor(time_step=0.0025)
    walks = random_walks(20, 200, generator=torch.Generator().manual_seed(0))
    found = ring.integrate(walks.start, walks.turns)
    error = angular_distance(found.heading[0], walks.heading)
    assert error[:, -1].mean() < 0.5 * DEGREE
    assert found.heading.shape == (1, 20, 200)
    # the other way round it ends anywhere
    wrong = ring.integrate(walks.start, -walks.turns).heading[0]
    assert angular_distance(wrong, walks.heading)[:, -1].mean() > 0.5


def test_noise_moves_the_bump_and_leaves_its_size():
    ring = small()
    zeros = torch.zeros(200, 50, dtype=DOUBLE)
    spread = []
    for noise in (0.05, 0.1):
        found = ring.integrate(
            zeros[:, 0], zeros, noise=noise, generator=torch.Generator().manual_seed(1)
        )
        assert (found.state.norm(dim=-1) - 1).abs().mean() < 0.1
        spread.append(wrap(found.heading[0, :, -1]).std())
    # diffusion is linear in the noise; the same numbers are drawn twice
    assert 1.7 < float(spread[1] / spread[0]) < 2.3


# Bad inputs


def test_refuses_angles_that_are_no_numbers():
    ring = small()
    bad = torch.tensor([math.nan], dtype=DOUBLE)
    v = ring.encode(torch.zeros(1, dtype=DOUBLE))
    with pytest.raises(ValueError, match="x must be finite"):
        ring.encode(bad)
    with pytest.raises(ValueError, match="dx must be finite"):
        ring.step(v, bad)
    with pytest.raises(ValueError, match="turns must be finite"):
        ring.integrate(torch.zeros(1, dtype=DOUBLE), bad[None])


@pytest.mark.usefixtures("wrong_types")
def test_refuses_walks_of_other_shapes():
    with pytest.raises(ValueError, match="start must have shape"):
        small().integrate(torch.zeros(3, dtype=DOUBLE), torch.zeros(2, 4, dtype=DOUBLE))


def test_warns_of_degrees():
    ring = small()
    with pytest.warns(UserWarning, match="dx reaches 18"):
        ring.step(ring.encode(torch.zeros(1, dtype=DOUBLE)), torch.tensor([18.0], dtype=DOUBLE))


@pytest.mark.parametrize("turn", [0.0, math.pi])
def test_refuses_turns_whose_response_cannot_be_measured(turn):
    with pytest.raises(ValueError, match="turns must not be 0 and must stay below half"):
        small().response(torch.tensor([turn], dtype=DOUBLE))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neurons": 2}, "neurons must be at least 3"),
        ({"bins": 1}, "bins must be at least 3"),
        ({"sigma": 0.0}, "sigma must be positive and finite"),
        ({"tau": math.inf}, "tau must be positive and finite"),
        ({"regularization": -1.0}, "regularization must be positive"),
        ({"base_rate": 1.0}, "base_rate must lie between 0 and 1"),
        ({"time_step": 0.02}, "time_step must not exceed tau"),
        ({"turn_time": 0.0005}, "time_step must not exceed turn_time"),
        ({"regularization": 1.0}, "no stable bump of the wanted shape"),
    ],
)
def test_refuses_impossible_networks(settings, message):
    with pytest.raises(ValueError, match=message):
        RingAttractor(**settings)


def test_settling_stops_when_rates_explode():
    wanted, (even, _) = deconvolve(40, 0.5, 0.025, 1e-4)
    with pytest.raises(ValueError, match="no stable bump"):
        settle(wanted, 50 * even)


def test_settling_takes_time():
    wanted, (even, _) = deconvolve(40, 0.5, 0.025, 1e-4)
    with pytest.raises(ValueError, match="the last change"):
        settle(wanted, even, steps=3)
    assert settle(wanted, even).max() > 0.5
