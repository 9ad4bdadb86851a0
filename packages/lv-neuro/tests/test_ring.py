"""The ring: circle in PCA, order of neurons, alignment of populations, kernel, topology."""

import builtins
import math

import pytest
import torch

from lv_core import stream
from lv_neuro.analysis import (
    align,
    align_directions,
    kernel_error,
    persistence,
    preferred_directions,
    principal_circle,
    rotate,
    topography,
)
from lv_neuro.angles import angular_distance, grid

TURN = 2 * math.pi
DOUBLE = torch.zeros((), dtype=torch.float64)


def ring(bins=60, neurons=24, *, kappa=3.0, turns=1, sense=1, rotation=0.0):
    """Returns the analytic ring: bumps whose preferred directions run around the circle."""
    x, mu = grid(bins, like=DOUBLE), sense * grid(neurons, like=DOUBLE) + rotation
    v = torch.exp(kappa * (torch.cos(turns * x[:, None] - mu) - 1))
    return v / v.norm(dim=-1, keepdim=True)


def random_curves(bins=40, neurons=7, name="curves"):
    return torch.rand(bins, neurons, generator=stream(0, name), dtype=torch.float64)


# The circle in PCA


def test_a_ring_is_a_circle_that_winds_once():
    circle = principal_circle(torch.stack([ring(), ring(sense=-1)]))
    assert torch.allclose(circle.radius_cv, torch.zeros(2).double(), atol=1e-9)
    assert circle.winding.tolist() == [1, 1]
    assert circle.projection.shape == (2, 60, 2)
    x = torch.atan2(circle.projection[..., 1], circle.projection[..., 0])
    ahead = torch.remainder(x.roll(-1, -1) - x, TURN)
    # one bin per bin, counter-clockwise, for both senses of the ring
    assert torch.allclose(ahead, torch.full_like(ahead, TURN / 60))


@pytest.mark.parametrize("turns", [2, 3, 10])
def test_a_code_that_winds_several_times_is_found_although_its_circle_is_perfect(turns):
    circle = principal_circle(ring(turns=turns))
    assert float(circle.radius_cv) < 1e-9
    assert float(circle.winding) == turns


def test_an_ellipse_is_no_circle():
    x = grid(400, like=DOUBLE)
    a, b = 2.0, 1.0
    circle = principal_circle(torch.stack([a * x.cos(), b * x.sin(), 0.5 * (2 * x).cos()], dim=1))
    radius = torch.hypot(a * x.cos(), b * x.sin())
    wanted = radius.std(correction=0) / radius.mean()
    assert float(circle.radius_cv) == pytest.approx(float(wanted))
    assert float(circle.radius_cv) > 0.2
    assert float(circle.variance_share) == pytest.approx((a**2 + b**2) / (a**2 + b**2 + 0.25))


def test_a_curve_around_nothing_does_not_wind():
    x = grid(100, like=DOUBLE)
    crossed = torch.stack([x.cos(), 0.5 * (2 * x + 0.3).sin()], dim=1)
    assert float(principal_circle(crossed).winding) == 0


def test_variance_share_of_a_ring_follows_its_spectrum():
    share = principal_circle(ring(kappa=2.0)).variance_share
    gram = torch.fft.rfft(ring(kappa=2.0) @ ring(kappa=2.0)[0]).real[1:]
    assert float(share) == pytest.approx(float(gram[0] / gram.sum()), rel=1e-6)
    assert float(principal_circle(ring(kappa=20.0)).variance_share) < float(share)


def test_collapsed_codes_have_no_circle():
    codes = torch.stack([torch.full((20, 5), 0.3), torch.rand(20, 5)])
    circle = principal_circle(codes)
    for value in (circle.radius_cv, circle.winding, circle.variance_share):
        assert value.isnan().tolist() == [True, False]


def test_circle_needs_two_neurons_and_eight_bins():
    with pytest.raises(ValueError, match="two neurons"):
        principal_circle(torch.rand(20, 1))
    with pytest.raises(ValueError, match="at least 8 bins"):
        principal_circle(torch.rand(6, 10))
    with pytest.raises(ValueError, match="NaN"):
        principal_circle(torch.full((20, 4), math.nan))


# Order on the ring


@pytest.mark.parametrize("sense", [1, -1])
def test_topography_is_one_for_a_ring_and_low_for_a_shuffled_one(sense):
    directions = preferred_directions(ring(neurons=100, sense=sense, rotation=1.0))
    assert float(topography(directions)) == pytest.approx(1)
    shuffled = directions[torch.randperm(100, generator=stream(0, "shuffle"))]
    # the larger of two means over 100 random directions, each 0.1 in r.m.s.
    assert float(topography(shuffled)) < 0.3


def test_topography_leaves_out_silent_neurons():
    directions = preferred_directions(ring(neurons=50))
    mask = torch.ones(50, dtype=torch.bool)
    mask[::5] = False
    silent = torch.where(mask, directions, torch.full_like(directions, math.nan))
    wrong = torch.where(mask, directions, torch.zeros_like(directions))
    assert float(topography(silent)) == pytest.approx(1)
    assert float(topography(wrong, mask)) == pytest.approx(1)
    assert float(topography(wrong)) < 0.9
    assert topography(torch.full((3, 50), math.nan)).isnan().all()


def test_topography_of_channels_uses_their_positions():
    one = preferred_directions(ring(neurons=30))
    two = torch.cat([one, one])
    positions = grid(30, like=DOUBLE).repeat(2)
    assert float(topography(two, positions=positions)) == pytest.approx(1)
    assert float(topography(two)) < 0.7


# Alignment


@pytest.mark.parametrize("sense", [1, -1])
def test_finds_rotation_and_sense_of_directions(sense):
    a = TURN * torch.rand(4, 30, generator=stream(0, "directions"), dtype=torch.float64)
    rotation = torch.tensor([0.0, 1.0, 3.0, 6.0]).double()
    found = align_directions(a, torch.remainder(sense * a + rotation[:, None], TURN))
    assert found.direction.tolist() == [sense] * 4
    assert angular_distance(found.rotation, rotation).max() < 1e-9
    assert torch.allclose(found.match, torch.ones(4).double())
    other = align_directions(a, a.roll(1, 1))
    assert (other.match < 0.6).all()


def test_directions_that_are_missing_do_not_count():
    a = torch.tensor([0.1, 1.0, math.nan, 4.0])
    b = torch.tensor([0.6, 1.5, 2.0, 0.0])
    mask = torch.tensor([True, True, True, False])
    found = align_directions(a, b, mask)
    assert float(found.rotation) == pytest.approx(0.5)
    assert float(found.match) == pytest.approx(1)
    assert float(align_directions(a, b).match) < 0.9
    nothing = align_directions(a, b, torch.zeros(4, dtype=torch.bool))
    assert nothing.match.isnan()
    assert nothing.rotation.isnan()


@pytest.mark.parametrize("bins", [40, 41])
@pytest.mark.parametrize("sense", [1, -1])
def test_aligns_codes_moved_by_whole_bins_exactly(bins, sense):
    codes = random_curves(bins)
    rotation = torch.tensor(7 * TURN / bins, dtype=torch.float64)
    moved = rotate(codes, rotation, torch.tensor(sense))
    expected = (codes if sense == 1 else codes[-torch.arange(bins)]).roll(7, 0)
    assert torch.allclose(moved, expected)
    found = align(codes, moved)
    assert int(found.direction) == sense
    assert float(found.rotation) == pytest.approx(float(rotation), abs=1e-6)
    assert float(found.match) == pytest.approx(1, abs=1e-6)
    assert float(align(codes, random_curves(bins, name="other")).match) < 0.5


@pytest.mark.parametrize("sense", [1, -1])
def test_aligns_codes_between_bins(sense):
    # uneven preferred directions, so that the sense is determined
    mu, x = torch.tensor([0.3, 1.0, 2.5, 3.0]).double(), grid(60, like=DOUBLE)[:, None]
    rotation = 1.234
    codes = torch.exp(4 * (torch.cos(x - mu) - 1))
    reference = torch.exp(4 * (torch.cos(x - sense * mu - rotation) - 1))
    batch = align(torch.stack([codes, codes]), torch.stack([reference, 5 * reference + 1]))
    assert batch.direction.tolist() == [sense] * 2
    # the parabola through points a sixteenth of a bin apart
    assert torch.allclose(batch.rotation, torch.full((2,), rotation).double(), atol=1e-5)
    assert torch.allclose(batch.match, torch.ones(2).double(), atol=1e-6)
    back = rotate(codes, batch.rotation[0], batch.direction[0])
    # linear interpolation: at most 4 (bin width)^2 / 8
    assert torch.allclose(back, reference, atol=4 * (TURN / 60) ** 2 / 8)
    assert not torch.allclose(codes, reference, atol=0.1)


def test_constant_codes_have_no_alignment():
    found = align(torch.ones(20, 3), torch.rand(20, 3))
    assert found.rotation.isnan()
    assert found.match.isnan()
    assert int(found.direction) == 1


def test_alignment_refuses_other_shapes(wrong_types):
    with pytest.raises(ValueError, match="match neurons first"):
        align(torch.rand(20, 3), torch.rand(20, 4))
    with pytest.raises(ValueError, match="one angle per neuron"):
        align_directions(torch.rand(3), torch.rand(4))
    with pytest.raises(ValueError, match="reference must have at least 8"):
        align(torch.rand(20, 3), torch.rand(5, 3))


# The kernel


def test_kernel_error_vanishes_for_the_cosine_code_only():
    x = grid(30, like=DOUBLE)
    v = torch.stack([x.cos(), x.sin(), torch.ones_like(x)], dim=1) / math.sqrt(2)
    assert float(kernel_error(v, kind="cosine")) < 1e-12
    assert float(kernel_error(v, kind="von_mises")) > 0.1
    assert float(kernel_error(v, sigma=0.65)) > 0.1


def test_kernel_error_of_collapsed_codes_is_the_distance_from_one():
    codes = torch.full((2, 50, 4), 0.5, dtype=torch.float64)
    distance = angular_distance(grid(50, like=codes), 0.0)
    wanted = (1 - torch.exp(-distance.square() / (2 * 0.5**2))).square().mean().sqrt()
    assert torch.allclose(kernel_error(codes, sigma=0.5), wanted.expand(2))


# Topology


def test_a_ring_has_one_long_bar_and_a_figure_of_eight_two():
    pytest.importorskip("ripser")
    x = grid(60, like=DOUBLE)
    eight = torch.stack([(2 * x).sin(), x.sin(), 0 * x], dim=1)
    tilted = eight + torch.tensor([0.0, 0.0, 0.02]) * x.cos()[:, None]
    padded = torch.nn.functional.pad(tilted, (0, 21))
    found = persistence(torch.stack([ring(), padded]))
    assert found.bars.shape == (2, 5)
    assert (found.bars.diff(dim=-1) <= 0).all()
    assert float(found.ratio[0]) > 10
    assert float(found.ratio[1]) < 1.5
    # a regular polygon: born at its side, dead where triangles of its points span the circle
    circle = torch.stack([x.cos(), x.sin()], dim=1)
    bar = float(persistence(circle).bars[0])
    assert bar == pytest.approx(math.sqrt(3) - 2 * math.sin(math.pi / 60), abs=1e-5)
    assert persistence(circle).ratio.isinf()


def test_a_point_has_no_bar():
    pytest.importorskip("ripser")
    found = persistence(torch.ones(10, 3), bars=2)
    assert found.bars.tolist() == [0, 0]
    assert found.ratio.isnan()


def test_persistence_needs_the_extra(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ripser":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"lv-neuro\[topology\]"):
        persistence(torch.rand(20, 3))


def test_persistence_refuses_a_single_bar():
    with pytest.raises(ValueError, match="bars must be at least 2"):
        persistence(torch.rand(20, 3), bars=1)
