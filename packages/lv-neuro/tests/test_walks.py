"""Random walks of the heading, and the protocol of path integrators."""

import math

import pytest
import torch

from lv_core import stream
from lv_neuro import AnalyticRing, HeadDirectionModel, PathIntegrator, random_walks
from lv_neuro.angles import angular_distance, wrap


def draw(*size, seed=0, **options):
    return random_walks(*size, generator=stream(seed, "walks"), **options)


def test_headings_are_the_sums_of_the_turns():
    start, turns, x = draw(20, 50)
    assert start.shape == (20,)
    assert turns.shape == x.shape == (20, 50)
    sums = start[:, None].double() + turns.double().cumsum(1)
    # fifty turns in float32, each known to 3e-8
    assert angular_distance(x.double(), sums).max() < 1e-5
    # the heading BEFORE a turn is another one
    assert angular_distance(x.double(), sums - turns).max() > 0.1
    assert x.min() >= 0
    assert x.max() < 2 * math.pi


def test_long_walks_stay_on_the_grid():
    step = 2 * math.pi / 36
    start, turns, x = draw(400, 2000, bins=36, max_step=3)
    for angles, allowed in ((start, range(36)), (turns, range(-3, 4)), (x, range(36))):
        k = angles.double() / step
        assert (k - k.round()).abs().max() < 1e-5
        assert set(k.round().long().unique().tolist()) == set(allowed)


def test_starts_and_turns_are_uniform():
    start, turns, _ = draw(4000, 10)
    bins = (start / (2 * math.pi / 100)).round().long()
    counts = torch.bincount(bins, minlength=100)
    # 40 expected per bin, standard error sqrt(40): five of them
    assert (counts - 40).abs().max() < 5 * math.sqrt(40)
    k = (turns / (2 * math.pi / 100)).round().long() + 5
    share = torch.bincount(k.flatten(), minlength=11) / 40000
    assert (share - 1 / 11).abs().max() < 5 * math.sqrt(1 / 11 / 40000)


def test_the_generator_alone_decides():
    torch.manual_seed(1)
    first = draw(3, 4)
    torch.manual_seed(2)
    for a, b in zip(first, draw(3, 4), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert not torch.equal(first.turns, draw(3, 4, seed=1).turns)
    torch.manual_seed(2)
    free = random_walks(3, 4)
    torch.manual_seed(2)
    assert torch.equal(free.turns, random_walks(3, 4).turns)


def test_left_and_right_turns_undo_each_other():
    start, turns, _ = draw(6, 8)
    back = start + torch.cat([turns, -turns], 1).sum(1)
    assert wrap(back - start).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["walks", "steps", "bins", "max_step"])
def test_refuses_numbers_that_are_not_positive(name):
    size = {"walks": 2, "steps": 2, "bins": 20, "max_step": 2, name: 0}
    with pytest.raises(ValueError, match=rf"{name} must be positive, got 0"):
        random_walks(size.pop("walks"), size.pop("steps"), **size)


def test_refuses_turns_past_half_the_circle():
    with pytest.raises(
        ValueError, match=r"max_step must be below half of bins, got 5 with bins=10"
    ):
        random_walks(1, 1, bins=10, max_step=5)
    assert random_walks(1, 1, bins=11, max_step=5).turns.shape == (1, 1)


def test_models_and_baselines_are_path_integrators():
    model = HeadDirectionModel("fc_table", neurons=20, bins=20, max_step=2)
    assert isinstance(model, PathIntegrator)
    assert isinstance(AnalyticRing(neurons=20), PathIntegrator)
    assert not isinstance(torch.nn.Linear(2, 2), PathIntegrator)
