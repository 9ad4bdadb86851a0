"""The ring in closed form: tuning, shifts, decoding, path integration."""

import math

import pytest
import torch

from lv_neuro.angles import angular_distance, grid, wrap
from lv_neuro.baselines import AnalyticRing
from lv_neuro.baselines.ring import circulant, shift
from lv_neuro.integration import integrate
from lv_neuro.walks import random_walks

DOUBLE = torch.float64


def ring(**settings):
    return AnalyticRing(**{"dtype": DOUBLE, **settings})


def continuous_walks(generator, walks=50, steps=200):
    start = 2 * math.pi * torch.rand(walks, generator=generator, dtype=DOUBLE)
    turns = 0.6 * (torch.rand(walks, steps, generator=generator, dtype=DOUBLE) - 0.5)
    return start, turns, start[:, None] + turns.cumsum(1)


def shift_matrix(model, dx):
    """What a step multiplies codes with: neuron i's unit vector becomes column i."""
    impulses = torch.eye(model.neurons, dtype=DOUBLE)
    return torch.stack([model.step(impulses[None], x.expand(model.neurons))[0].mT for x in dx])


# Codes


def test_codes_are_von_mises_bumps_of_norm_one():
    model = ring(neurons=30, bins=40, kappa=3.0)
    x, mu = grid(40, like=model.bump), grid(30, like=model.bump)
    wanted = torch.exp(3.0 * ((x[:, None] - mu).cos() - 1))
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    # the bump is sampled by 30 neurons: harmonics beyond 15 are 1e-8 of the mean
    torch.testing.assert_close(model.codes, wanted[None], atol=1e-7, rtol=0)
    mirrored = torch.exp(3.0 * ((x[:, None] + mu).cos() - 1))
    assert (model.codes[0] - mirrored / mirrored.norm(dim=1, keepdim=True)).abs().max() > 0.1


def test_encoding_the_grid_gives_the_code_book():
    model = ring(bins=60)
    torch.testing.assert_close(model.encode(grid(60, like=model.bump)), model.codes)
    assert model.encode(torch.zeros(2, 3, dtype=DOUBLE)).shape == (1, 2, 3, 100)


def test_a_wanted_width_becomes_the_width_of_the_tuning_curve():
    sigma = 0.3
    model = AnalyticRing.from_sigma(sigma, bins=360, dtype=DOUBLE)
    curve = model.codes[0, :, 0] / model.codes[0, 0, 0]
    x = wrap(grid(360, like=curve))
    near = x.abs() < sigma
    # cos(x) - 1 = -x^2/2 + x^4/24: at one sigma the exponent is off by sigma^2 / 24 = 0.004
    torch.testing.assert_close(
        curve[near], torch.exp(-(x[near] ** 2) / (2 * sigma**2)), atol=5e-3, rtol=0
    )
    wide = torch.exp(-(x[near] ** 2) / (2 * (1.1 * sigma) ** 2))
    assert (curve[near] - wide).abs().max() > 0.02


def test_nothing_is_learned():
    assert AnalyticRing().parameters_count == sum(p.numel() for p in AnalyticRing().parameters())


# Shifts


@pytest.mark.parametrize("neurons", [99, 100])
def test_a_turn_by_grid_steps_is_a_permutation(neurons):
    model = ring(neurons=neurons)
    matrix = shift_matrix(model, torch.tensor([3 * 2 * math.pi / neurons], dtype=DOUBLE))[0]
    wanted = torch.eye(neurons, dtype=DOUBLE).roll(3, 0)
    torch.testing.assert_close(matrix, wanted, atol=1e-12, rtol=0)
    assert (matrix - wanted.mT).abs().max() > 0.5  # the other direction


def test_shift_matrices_are_circulant_and_do_what_a_step_does(generator):
    model = ring(neurons=24, kappa=2.0)
    dx = torch.tensor([0.13, -1.2, 4.0], dtype=DOUBLE)
    matrices = shift_matrix(model, dx)
    torch.testing.assert_close(matrices.roll((1, 1), (1, 2)), matrices)
    v = torch.randn(1, 3, 24, generator=generator, dtype=DOUBLE)
    torch.testing.assert_close((matrices @ v[0, :, :, None])[..., 0], model.step(v, dx)[0])


def test_shift_matrices_represent_the_rotation_group():
    model = ring(neurons=25, kappa=2.0)
    A, B, both = shift_matrix(model, torch.tensor([0.3, 1.1, 0.3 + 1.1], dtype=DOUBLE))
    torch.testing.assert_close(A @ B, both)
    torch.testing.assert_close(A.mT @ A, torch.eye(25, dtype=DOUBLE))
    assert (A @ B.mT - both).abs().max() > 0.1


def test_turning_a_code_gives_the_code_of_the_turned_heading(generator):
    model = ring()
    x = 2 + torch.rand(20, generator=generator, dtype=DOUBLE)
    dx = 4 * torch.rand(20, generator=generator, dtype=DOUBLE) - 2
    v = model.step(model.encode(x), dx)
    torch.testing.assert_close(v, model.encode(x + dx))
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(1, 20, dtype=DOUBLE))
    assert (v - model.encode(x - dx)).abs().max() > 0.1


def test_turns_may_differ_between_seeds():
    model = ring()
    v = model.encode(torch.tensor([1.0, 2.0], dtype=DOUBLE))
    dx = torch.tensor([[0.1, -0.1]], dtype=DOUBLE)
    torch.testing.assert_close(model.step(v, dx), model.step(v, dx[0]))


def test_a_circulant_matrix_is_a_circular_convolution(generator):
    kernel, v = torch.randn(2, 9, generator=generator, dtype=DOUBLE)
    wanted = torch.fft.ifft(torch.fft.fft(kernel) * torch.fft.fft(v)).real
    torch.testing.assert_close(circulant(kernel) @ v, wanted)
    assert (circulant(kernel).mT @ v - wanted).abs().max() > 0.1


# Decoding and path integration


def test_decoding_finds_headings_between_the_grid(generator):
    model = ring()
    x = 2 * math.pi * torch.rand(500, generator=generator, dtype=DOUBLE)
    error = angular_distance(model.decode(model.encode(x))[0], x)
    assert error.max() < 1e-5
    # a coarse argmax would be wrong by half a bin
    nearest = (model.encode(x)[0] @ model.book.mT).argmax(1) * (2 * math.pi / 100)
    assert angular_distance(nearest, x).max() > 0.02


def test_decoding_ignores_the_norm():
    model = ring()
    v = model.encode(torch.tensor([0.7, 2.0], dtype=DOUBLE))
    torch.testing.assert_close(model.decode(5 * v), model.decode(v))


def test_grid_walks_are_followed_exactly(device):
    model = AnalyticRing().to(device)
    walks = random_walks(50, 1000, generator=torch.Generator().manual_seed(0))
    found = model.integrate(walks.start.to(device), walks.turns.to(device))
    error = angular_distance(found.heading[0].cpu(), walks.heading)
    # float32: 1000 transforms, each rounded at 6e-8
    assert error.max() < 5e-5
    assert found.heading.shape == (1, 50, 1000)
    norm = found.state.norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones_like(norm), atol=6e-5, rtol=0)


def test_continuous_walks_are_followed(generator):
    model = ring()
    start, turns, truth = continuous_walks(generator)
    error = angular_distance(model.integrate(start, turns).heading[0], truth)
    assert error.max() < 1e-5


def test_a_shift_the_wrong_way_loses_the_heading(generator):
    model = ring()
    start, turns, truth = continuous_walks(generator)
    found = integrate(
        lambda v, dx: shift(v, -dx), model.encode, model.decode, start, turns, largest=math.inf
    )
    assert angular_distance(found.heading[0], truth)[:, -1].mean() > 0.5


def test_noise_adds_up_like_a_random_walk():
    model = ring()
    walks, steps, noise = 400, 100, 0.05
    zeros = torch.zeros(walks, steps, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(3)
    found = model.integrate(zeros[:, 0], zeros, noise=noise, generator=generator)
    error = wrap(found.heading[0])
    # the matched filter sees noise along the ring only: sd = noise sqrt(T / d) / ||dv/dx||
    speed = (model.encode(zeros[0, :1] + 1e-4) - model.encode(zeros[0, :1])).norm() / 1e-4
    for t in (25, 100):
        wanted = noise * math.sqrt(t / 100) / float(speed)
        # 400 walks: the standard error of a standard deviation is 1 / sqrt(800) = 3.5 %
        assert abs(float(error[:, t - 1].std()) / wanted - 1) < 0.18
    assert error[:, 99].std() > 1.5 * error[:, 24].std()


def test_the_norm_of_noise_is_absolute(generator):
    # a ring whose codes have norm 3 gets the same noise, not three times as much
    model, big = ring(), ring()
    big.bump, zeros = 3 * big.bump, torch.zeros(100, 1, dtype=DOUBLE)
    added = []
    for one in (model, big):
        clean = one.integrate(zeros[:, 0], zeros).state
        noisy = one.integrate(zeros[:, 0], zeros, noise=0.3, generator=generator).state
        added.append(float((noisy - clean).square().sum(-1).mean().sqrt()))
    # the mean square of 100 * 100 normals has a standard error of 1.4 %
    assert added == pytest.approx([0.3, 0.3], rel=0.035)


def test_noise_comes_from_the_generator_alone():
    model = ring()
    zeros = torch.zeros(3, 5, dtype=DOUBLE)
    a, b = (
        model.integrate(
            zeros[:, 0], zeros, noise=0.1, generator=torch.Generator().manual_seed(1)
        ).state
        for _ in range(2)
    )
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    other = model.integrate(
        zeros[:, 0], zeros, noise=0.1, generator=torch.Generator().manual_seed(2)
    )
    assert (a - other.state).abs().max() > 0.01


def test_overwhelming_noise_leaves_no_direction():
    model = ring()
    x = torch.zeros(400, dtype=DOUBLE)
    lost = model.integrate(x, x[:, None].expand(-1, 2), noise=1e4).heading[0, :, -1]
    # the mean resultant length of 400 uniform directions is 1 / 20
    assert torch.exp(1j * lost).mean().abs() < 0.25
    kept = model.integrate(x, x[:, None].expand(-1, 2), noise=0.1).heading[0, :, -1]
    assert torch.exp(1j * kept).mean().abs() > 0.99


# Bad inputs


def test_refuses_walks_that_are_no_numbers():
    model = ring()
    turns = torch.zeros(2, 3, dtype=DOUBLE)
    turns[1, 2] = math.nan
    with pytest.raises(ValueError, match="turns must be finite, got 1"):
        model.integrate(torch.zeros(2, dtype=DOUBLE), turns)
    with pytest.raises(ValueError, match="x must be finite"):
        model.encode(turns[1])
    with pytest.raises(ValueError, match="dx must be finite"):
        model.step(model.encode(turns[:, 0]), turns[:, 2])


@pytest.mark.usefixtures("wrong_types")
def test_refuses_walks_of_other_shapes():
    model = ring()
    with pytest.raises(ValueError, match=r"start must have shape.*\(3,\) and \(2, 4\)"):
        model.integrate(torch.zeros(3, dtype=DOUBLE), torch.zeros(2, 4, dtype=DOUBLE))


def test_warns_of_degrees():
    model = ring()
    with pytest.warns(UserWarning, match="look like degrees"):
        model.encode(torch.tensor([90.0], dtype=DOUBLE))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": 0.0}, "kappa must be positive and finite, got 0.0"),
        ({"kappa": math.nan}, "kappa must be positive and finite, got nan"),
        ({"sharpness": -1.0}, "sharpness must be positive"),
        ({"neurons": 2}, "neurons must be at least 3"),
        ({"bins": 2}, "bins must be at least 3"),
        ({"neurons": 8, "kappa": 50.0}, "neurons=8 cannot carry tuning as sharp as kappa=50"),
    ],
)
def test_refuses_impossible_rings(settings, message):
    with pytest.raises(ValueError, match=message):
        AnalyticRing(**settings)


def test_refuses_a_width_that_is_no_width():
    with pytest.raises(ValueError, match="sigma must be positive"):
        AnalyticRing.from_sigma(0.0)
