"""Generators: the equations they claim, in their ranges, as functions of their seed."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lv_core import stream
from lv_dynamics.systems import (
    SPLITS,
    ball_frames,
    ball_states,
    bouncing_balls,
    glyph_digits,
    irregular_times,
    lotka_volterra,
    pendulum,
    periodic,
    rotating_digits,
    sinusoids,
    spirals,
    split,
)
from lv_dynamics.systems.integration import integrate

EXACT = {"noise": 0.0, "dtype": torch.float64}


# ------------------------------------------------------------------ sinusoids


def test_sinusoids_follow_their_formula():
    s = sinusoids(20, 50, generator=stream(0, "sin"), **EXACT)
    f, a, p = (s.factors[name][:, None] for name in ("frequency", "amplitude", "phase"))
    x = a * torch.sin(2 * math.pi * (f * torch.arange(50) * 0.1 + p))
    torch.testing.assert_close(s.values[..., 0], x)
    torch.testing.assert_close(s.times[0], torch.arange(50).double() * 0.1)
    wrong = a * torch.sin(2 * math.pi * f * torch.arange(50) * 0.1 + p)  # phase in radians
    assert (s.values[..., 0] - wrong).abs().max() > 1


def test_sinusoids_have_the_ranges_of_the_code_not_of_its_comment():
    s = sinusoids(4000, 1, generator=stream(0, "ranges"))
    for name, low, high in (("frequency", 0.5, 1.0), ("amplitude", 1, 4), ("phase", 0, 1)):
        factor = s.factors[name]
        # the extreme of 4000 uniform numbers is within 0.3 % of the end, but for e^-12
        assert low <= factor.min() < low + 0.003 * (high - low), name
        assert high - 0.003 * (high - low) < factor.max() <= high, name


def test_noise_is_uniform_with_a_mean_and_absent_at_the_first_point():
    noisy, clean = (sinusoids(400, generator=stream(0, "n"), noise=w) for w in (0.2, 0.0))
    noise = noisy.values - clean.values
    assert not bool(noise[:, 0].any())
    rest = noise[:, 1:]
    assert rest.min() >= -1e-6
    assert rest.max() <= 0.2 + 1e-6
    # 19,600 draws: standard errors 0.0577 / 140 = 0.0004 and, of the variance, 2.1e-5
    assert abs(rest.mean() - 0.1) < 0.002
    assert abs(rest.var() - 0.2**2 / 12) < 1.1e-4


def test_sinusoids_take_times_of_their_own():
    times = torch.rand(3, 7, generator=stream(0, "t")).cumsum(1)
    s = sinusoids(3, times=times, generator=stream(0, "x"), **EXACT)
    f, a, p = (s.factors[name][:, None] for name in ("frequency", "amplitude", "phase"))
    x = a * torch.sin(2 * math.pi * (f * times.double() + p))
    torch.testing.assert_close(s.values[..., 0], x)


def test_periodic_shares_irregular_times_and_starts_in_phase():
    s = periodic(2000, generator=stream(0, "periodic"), **EXACT)
    assert bool((s.times == s.times[0]).all())
    assert s.times[0, 0] == 0
    assert s.times[0, 1:].min() > 0
    assert s.times.max() <= 5
    f, c = s.factors["frequency"][:, None], s.factors["offset"][:, None]
    torch.testing.assert_close(s.values[..., 0], torch.sin(2 * math.pi * f * s.times) + c)
    assert 0.4 <= f.min() < 0.402
    assert 0.798 < f.max() <= 0.8
    # 2000 draws: standard errors 0.0022 and 0.0016
    assert abs(c.mean() - 1) < 0.011
    assert abs(c.std() - 0.1) < 0.008
    noisy = periodic(2000, generator=stream(0, "periodic"), dtype=torch.float64)
    noise = (noisy.values - s.values)[:, 1:]
    assert noise.min() >= 0
    assert noise.max() < 0.01
    given = periodic(2, times=s.times[0], generator=stream(1, "periodic"))
    torch.testing.assert_close(given.times[1], s.times[0].float())


def test_irregular_times_differ_in_single_precision():
    times = irregular_times(3000, generator=stream(0, "times"))
    assert bool((times.float().diff() > 0).all())
    # on average 5 neighbors of 3000 would be less than 1e-6 apart
    with pytest.raises(ValueError, match="rows and horizon must be positive"):
        irregular_times(0)


# ------------------------------------------------------------------ equations of motion


def test_integration_has_order_four():
    # y'' = -y from (1, 0)
    times = torch.tensor([[0.0, 0.7, 3.0], [0.5, 0.6, 2.9]], dtype=torch.float64)
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(2, 2)

    def derivative(y):
        return torch.stack([y[:, 1], -y[:, 0]], 1)

    truth = torch.stack([times.cos(), -times.sin()], -1)
    errors = [
        (integrate(derivative, start, times, step=h) - truth).abs().max() for h in (0.1, 0.05)
    ]
    assert 14 < errors[0] / errors[1] < 18


def test_lotka_volterra_agrees_with_an_independent_tight_solver():
    s = lotka_volterra(6, 150, generator=stream(0, "lv"), **EXACT)
    factors, grid = s.factors, s.times[0].numpy()

    def reference(i, swap=False):
        a, b, c, d = (float(factors[name][i]) for name in ("alpha", "beta", "gamma", "delta"))
        if swap:
            b, d = d, b

        def derivative(t, y):
            return [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]

        start = factors["start"][i].numpy()
        options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13, "t_eval": grid}
        return solve_ivp(derivative, (0, grid[-1]), start, **options).y.T

    for i in range(6):
        np.testing.assert_allclose(s.values[i].numpy(), reference(i), rtol=1e-6)
    assert np.abs(s.values[0].numpy() - reference(0, swap=True)).max() > 0.1


def test_lotka_volterra_keeps_its_invariant_over_the_long_horizon():
    s = lotka_volterra(30, 300, generator=stream(1, "lv"), **EXACT)
    a, b, c, d = (s.factors[name][:, None] for name in ("alpha", "beta", "gamma", "delta"))
    x, y = s.values.unbind(-1)
    invariant = d * x - c * x.log() + b * y - a * y.log()
    assert ((invariant - invariant[:, :1]) / invariant[:, :1]).abs().max() < 1e-6
    wrong = d * x - c * y.log() + b * y - a * x.log()
    assert ((wrong - wrong[:, :1]) / wrong[:, :1]).abs().max() > 0.1


def test_lotka_volterra_has_the_ranges_of_the_code():
    s = lotka_volterra(3000, 1, generator=stream(2, "lv"), **EXACT)
    ranges = {"alpha": (1, 3.5), "beta": (0.5, 0.6), "gamma": (1, 3.5), "delta": (0.2, 0.3)}
    for name, (low, high) in {**ranges, "start": (1, 5)}.items():
        factor = s.factors[name]
        assert low <= factor.min() < low + 0.004 * (high - low), name
        assert high - 0.004 * (high - low) < factor.max() <= high, name


def test_pendulum_agrees_with_an_independent_tight_solver():
    s = pendulum(4, 60, observe="state", generator=stream(0, "pendulum"), **EXACT)
    grid = s.times[0].numpy()
    for i in range(4):
        size, drag = float(s.factors["length"][i]), float(s.factors["damping"][i])

        def derivative(t, y, size=size, drag=drag):
            return [y[1], -9.81 / size * np.sin(y[0]) - drag * y[1]]

        start = [float(s.factors[name][i]) for name in ("angle", "velocity")]
        options = {"rtol": 1e-10, "atol": 1e-12, "t_eval": grid}
        reference = solve_ivp(derivative, (0, grid[-1]), start, **options).y.T
        np.testing.assert_allclose(s.values[i].numpy(), reference, atol=2e-7)


def test_pendulum_keeps_its_energy_without_damping_only():
    for high, change in ((0.0, 0.0), (0.2, 0.05)):
        s = pendulum(5, 100, damping=(high, high), observe="state", generator=stream(0), **EXACT)
        theta, omega = s.values.unbind(-1)
        size = s.factors["length"][:, None]
        energy = size * omega.square() / 2 + 9.81 * (1 - theta.cos())
        lost = (1 - energy[:, -1] / energy[:, 0]).min()
        assert lost >= change - 1e-7
        assert high or lost < 1e-7


def test_pendulum_is_observed_as_angle_or_position():
    angle, position = (
        pendulum(5, 30, observe=o, generator=stream(0), **EXACT) for o in ("angle", "position")
    )
    size = angle.factors["length"][:, None]
    torch.testing.assert_close(position.values[..., 0], size * angle.values[..., 0].sin())
    torch.testing.assert_close(position.values[..., 1], -size * angle.values[..., 0].cos())
    noisy = pendulum(200, 30, generator=stream(0), dtype=torch.float64)
    clean = pendulum(200, 30, generator=stream(0), **EXACT)
    # 6000 draws: standard error 0.9 percent
    assert (noisy.values - clean.values).std() == pytest.approx(0.05, rel=0.05)


def test_spirals_have_two_families():
    s = spirals(400, generator=stream(0, "spiral"), **EXACT)
    t = torch.linspace(0, 6 * math.pi, 500, dtype=torch.float64)
    torch.testing.assert_close(s.times[7], t[:100])
    turned = s.factors["clockwise"]
    # 400 coins: standard error 10
    assert abs(int(turned.sum()) - 200) < 50
    assert s.factors["begin"].min() >= 100
    assert s.factors["begin"].max() <= 399
    for i in range(20):
        at = t[int(s.factors["begin"][i]) + torch.arange(100)]
        if turned[i]:
            w = 6 * math.pi + 1 - at
            r, shift = 0.3 * 50 / w, -5
        else:
            w, r, shift = at, 0.3 * at, 5
        x = torch.stack([r * w.cos() + shift, r * w.sin()], -1)
        torch.testing.assert_close(s.values[i], x)
    noisy = spirals(400, generator=stream(0, "spiral"), dtype=torch.float64)
    assert (noisy.values - s.values).std() == pytest.approx(0.3, rel=0.02)


# ------------------------------------------------------------------ balls


def naive_ball(x, v, friction, rows):
    """One ball, written out with plain numbers."""
    found = []
    for _ in range(rows):
        speed = math.hypot(*v)
        v = [0.0, 0.0] if speed < friction else [c - friction * c / speed for c in v]
        found.append([*x, *v])
        for _ in range(10):
            for k in range(2):
                x[k] += 0.1 * v[k]
                if x[k] < -4:
                    v[k] = abs(v[k])
                if x[k] > 4:
                    v[k] = -abs(v[k])
    return torch.tensor(found, dtype=torch.float64)


def test_a_ball_agrees_with_a_naive_simulation():
    states = ball_states(5, 60, friction=(0.0, 0.05), generator=stream(0, "ball"))
    for i in range(5):
        friction = float(states.friction[i])
        # undo the friction of the first frame
        v = states.velocity[i, 0, 0]
        speed = float(v.norm())
        start = (v * (speed + friction) / speed).tolist()
        reference = naive_ball(states.position[i, 0, 0].tolist(), start, friction, 60)
        found = torch.cat([states.position[i, :, 0], states.velocity[i, :, 0]], 1)
        torch.testing.assert_close(found, reference)
        wrong = naive_ball(states.position[i, 0, 0].tolist(), start, friction / 2, 60)
        assert (found - wrong).abs().max() > 0.1


def test_friction_stops_a_ball():
    states = ball_states(3, 60, friction=(0.02, 0.02), generator=stream(0))
    speed = states.velocity.norm(dim=-1)[..., 0]
    expected = (1 - 0.02 * torch.arange(1.0, 61.0).double()).clamp(min=0).expand(3, 60)
    torch.testing.assert_close(speed, expected, atol=1e-12, rtol=0)
    assert not bool(states.velocity[:, 50:].any())


def test_several_balls_keep_energy_and_never_stay_inside_each_other():
    states = ball_states(20, 80, balls=3, friction=(0.0, 0.0), generator=stream(1, "balls"))
    energy = states.velocity.square().sum((-1, -2))
    torch.testing.assert_close(energy, torch.ones(20, 80, dtype=torch.float64))
    x = states.position
    gap = (x[:, :, :, None] - x[:, :, None]).norm(dim=-1) + 10 * torch.eye(3)
    assert gap[:, 0].min() >= 2
    # overlaps are as deep as a few moves of a tenth of a velocity at most
    assert gap.min() > 1.5
    assert x.abs().max() < 4.11
    turned = (states.velocity[:, 1:] - states.velocity[:, :-1]).abs().sum((-1, -2)) > 1e-9
    inside = x.abs().amax((-1, -2))[:, :-1] < 3.8
    assert bool((turned & inside).any())  # some changes are by balls, not by walls


def test_head_on_balls_exchange_velocities():
    from lv_dynamics.systems.bouncing_ball import _collided

    x = torch.tensor([[[0.0, 0.0], [1.9, 0.0]]])
    v = torch.tensor([[[0.3, 0.1], [-0.2, 0.0]]])
    torch.testing.assert_close(_collided(x, v), torch.tensor([[[-0.2, 0.1], [0.3, 0.0]]]))
    torch.testing.assert_close(_collided(x, -v), -v)  # they part already
    far = torch.tensor([[[0.0, 0.0], [2.1, 0.0]]])
    torch.testing.assert_close(_collided(far, v), v)


def test_frames_show_discs_where_the_balls_are():
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    frame = ball_frames(x)
    assert frame.shape == (1, 28, 28)
    for row, column in ((8, 17), (8, 16), (5, 19), (0, 0)):
        px, py = ((n + 0.5) / 28 * 10 - 5 for n in (column, row))
        expected = math.exp(-(((px - 1) ** 2 + (py + 2) ** 2) ** 4))
        assert frame[0, row, column] == pytest.approx(expected, abs=1e-12)
    row, column = divmod(int(frame.flatten().argmax()), 28)
    assert (row, column) == (8, 16)  # y = -2 is row 8, x = 1 column 16: not transposed
    both = ball_frames(torch.tensor([[1.0, -2.0], [1.2, -2.0]], dtype=torch.float64))
    assert both.max() == 1


def test_bouncing_balls_are_frames_of_the_motion():
    s = bouncing_balls(4, 12, generator=stream(0, "frames"))
    states = ball_states(4, 12, generator=stream(0, "frames"))
    assert s.values.shape == (4, 12, 1, 28, 28)
    torch.testing.assert_close(s.values, ball_frames(states.position.float()))
    torch.testing.assert_close(s.factors["friction"], states.friction.float())
    assert s.factors["friction"].max() <= 0.02
    assert s.horizon.tolist() == [11.0] * 4
    assert bouncing_balls(1, 3, step=0.1, size=14).values.shape == (1, 3, 1, 14, 14)


# ------------------------------------------------------------------ randomness and splits

GENERATORS = (
    lambda g: sinusoids(4, 9, generator=g),
    lambda g: periodic(4, 9, generator=g),
    lambda g: lotka_volterra(4, 3, generator=g),
    lambda g: pendulum(4, 9, generator=g),
    lambda g: spirals(4, generator=g),
    lambda g: bouncing_balls(4, 5, balls=2, generator=g),
)


@pytest.mark.parametrize("make", GENERATORS)
def test_is_a_function_of_its_generator(make):
    before = torch.random.get_rng_state()
    first, again, other = (make(stream(seed, "g")) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert first.values.dtype == torch.float32
    torch.manual_seed(3)
    loose = make(None)
    torch.manual_seed(3)
    assert torch.equal(loose.values, make(None).values)


def test_parts_have_the_sizes_of_the_papers():
    sizes = {
        system: {part: (size.n, size.rows) for part, size in parts.items() if part != "shifted"}
        for system, parts in SPLITS.items()
    }
    assert sizes["sinusoid"] == {"train": (300, 50), "valid": (50, 50), "test": (50, 150)}
    assert sizes["predator_prey"] == {
        "train": (600, 100),
        "valid": (100, 100),
        "test": (100, 300),
    }
    assert sizes["bouncing_ball"] == {"train": (1000, 20), "valid": (100, 20), "test": (100, 40)}
    assert sizes["rotating_digits"] == {
        "train": (1000, 16),
        "valid": (100, 45),
        "test": (100, 45),
    }
    assert sizes["periodic"]["train"] == (800, 100)
    assert sizes["periodic"]["test"] == (200, 100)


@pytest.mark.parametrize(
    "system", ["sinusoid", "bouncing_ball", "periodic", "spiral", "pendulum", "predator_prey"]
)
def test_parts_are_what_they_say(system):
    few = {} if system == "spiral" else {"rows": 7}
    for part, size in SPLITS[system].items():
        s = split(system, part, n=5, **few)
        assert len(s) == 5
        assert s.times.shape[1] == (7 if few else 100)
        again, other = (split(system, part, n=5, seed=k, **few) for k in (0, 1))
        assert torch.equal(s.values, again.values)
        assert not torch.equal(s.values, other.values)
        assert size.n >= 50
    train, test = (split(system, part, n=5, **few) for part in ("train", "test"))
    assert not torch.equal(train.values, test.values)


def test_a_part_has_its_own_size_when_not_told():
    assert split("sinusoid", "test").values.shape == (50, 150, 1)


def test_shifted_parts_lie_outside_the_training_range():
    assert split("sinusoid", "shifted").factors["frequency"].min() > 1.0
    assert split("bouncing_ball", "shifted", n=9).factors["friction"].min() > 0.02
    assert split("predator_prey", "shifted", rows=2).factors["alpha"].min() > 3.5
    assert split("periodic", "shifted").factors["frequency"].min() > 0.8
    assert split("pendulum", "shifted", rows=2).factors["length"].max() < 1.0


def test_parts_of_periodic_share_their_times():
    train, test = (split("periodic", part, n=3) for part in ("train", "test"))
    assert torch.equal(train.times[0], test.times[0])
    assert not torch.equal(train.times[0], split("periodic", "train", n=3, seed=1).times[0])
    own = torch.arange(4.0)
    assert torch.equal(split("periodic", "test", n=3, times=own).times[2], own)


def test_parts_of_rotating_digits_take_disjoint_pictures():
    images = torch.arange(100.0)[:, None, None].expand(100, 8, 8) / 100
    labels = torch.zeros(100, dtype=torch.int64)
    found = {
        part: set(
            split("rotating_digits", part, images=images, labels=labels, n=90)
            .values[:, 0, 0, 4, 4]
            .mul(100)
            .round()
            .int()
            .tolist()
        )
        for part in SPLITS["rotating_digits"]
    }
    assert max(found["train"]) < 80 <= min(found["valid"])
    assert max(found["valid"]) < 90 <= min(found["test"])


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinusoids(0), "n, rows and step must be positive"),
        (lambda: sinusoids(2, step=0.0), "n, rows and step must be positive"),
        (
            lambda: sinusoids(2, times=torch.rand(3, 4)),
            r"times must have shape \(T,\) or \(2, T\)",
        ),
        (lambda: sinusoids(2, frequency=(1.0, 0.5)), "frequency must be an interval"),
        (lambda: sinusoids(2, noise=-0.1), "noise must be an interval"),
        (lambda: sinusoids(1, times=torch.tensor([1.0, 0.0])), "sequence 0: times must rise"),
        (lambda: lotka_volterra(2, start=(0.0, 1.0)), "start must be an interval"),
        (lambda: pendulum(2, length=(0.0, 1.0)), "length must be an interval"),
        (lambda: periodic(0), "n, rows and step"),
        (lambda: spirals(0), "n must be positive"),
        (lambda: ball_states(2, balls=5), r"balls in 1\.\.4"),
        (lambda: bouncing_balls(2, size=0), "size and step must be positive"),
        (lambda: split("spiral", "shifted"), "spiral has no part 'shifted'"),
    ],
)
def test_refuses_arguments_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pendulum(2, observe="speed"), "unknown observe 'speed'"),
        (lambda: split("pendel", "train"), "unknown system 'pendel'; there are: bouncing_ball"),
    ],
)
def test_refuses_unknown_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_glyphs_feed_rotating_digits():
    digits = glyph_digits(20, generator=stream(0, "glyph"))
    s = rotating_digits(digits.images, digits.labels, 3, generator=stream(0))
    assert s.values.shape == (3, 16, 1, 28, 28)
