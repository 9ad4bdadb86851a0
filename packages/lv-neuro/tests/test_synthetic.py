import math

import pytest
import torch

from lv_core import stream
from lv_neuro.recorded import (
    HeadDirectionCells,
    Recording,
    cross_decode,
    draw_cells,
    head_turns,
    poisson_spikes,
    synthetic_recording,
)

TURN = 2 * math.pi


def two_cells(**change):
    rest = {
        "preferred": torch.tensor([0.0, 2.0]),
        "width": torch.tensor([0.4, 0.6]),
        "peak": torch.tensor([20.0, 8.0]),
        "baseline": torch.tensor([1.0, 0.0]),
    }
    return HeadDirectionCells(**{**rest, **change})


def test_rates_are_a_bump_on_a_baseline():
    rates = two_cells().rates(torch.tensor([[0.0, 0.4], [TURN - 0.4, math.pi]]))
    assert rates.shape == (2, 2, 2)
    side = 1 + 19 * math.exp(-0.5)
    assert rates[..., 0].flatten().tolist() == pytest.approx([20.0, side, side, 1.0], abs=1e-4)
    assert rates[0, 0, 1].item() == pytest.approx(8 * math.exp(-0.5 * (2 / 0.6) ** 2), rel=1e-4)


def test_spikes_have_the_mean_and_variance_of_poisson_counts():
    rates = torch.tensor([0.0, 5.0, 80.0]).expand(40_000, 3)
    spikes = poisson_spikes(rates, 0.1, generator=stream(0, "poisson"))
    assert spikes.dtype == torch.int64
    assert spikes.shape == rates.shape
    assert spikes[:, 0].sum() == 0
    for cell, mean in ((1, 0.5), (2, 8.0)):
        counts = spikes[:, cell].double()
        # standard errors: sqrt(m / n) of the mean, sqrt((m + 2 m^2) / n) of the variance
        assert float(counts.mean()) == pytest.approx(mean, abs=5 * math.sqrt(mean / 40_000))
        error = math.sqrt((mean + 2 * mean**2) / 40_000)
        assert float(counts.var()) == pytest.approx(mean, abs=5 * error)
        assert abs(float(counts.var()) - mean * 0.9) > 5 * error  # a wrong Fano factor is seen


@pytest.mark.parametrize(
    ("rates", "seconds", "told"),
    [
        ([1.0, -2.0], 0.1, "got 1 of 2 that are not, the first -2"),
        ([1.0, math.nan], 0.1, "got 1 of 2"),
        ([1.0], 0.0, "seconds must be positive and finite, got 0"),
    ],
)
def test_refuses_rates_that_cannot_be(rates, seconds, told):
    with pytest.raises(ValueError, match=told):
        poisson_spikes(torch.tensor(rates), seconds)


def test_tuning_curves_recover_the_generating_curve():
    cells = two_cells()
    recording = synthetic_recording(2000.0, cells=cells, generator=stream(0, "recover"))
    curves = recording.tuning_curves(60)
    # mean of the rate over the headings of a bin, not the rate at its center
    inside = curves.heading[:, None] + TURN / 60 * (torch.arange(21) / 20 - 0.5)
    expected = cells.rates(inside).mean(1)
    error = (expected / curves.occupancy[:, None]).sqrt()
    score = ((curves.rates - expected) / error.clamp_min(1e-3))[expected > 0.05]
    assert float(score.abs().max()) < 5
    assert 0.7 < float(score.std()) < 1.3  # neither too far nor suspiciously near
    narrow = two_cells(width=0.8 * cells.width).rates(inside).mean(1)
    wrong = ((curves.rates - narrow) / error.clamp_min(1e-3))[expected > 0.05]
    assert float(wrong.abs().max()) > 5


def speeds(heading):
    counts = torch.zeros(heading.numel(), 1, dtype=torch.int64)
    recording = Recording(counts=counts, heading=heading, bin_seconds=0.01)
    turn = recording.turns(0.2).turn
    return torch.rad2deg(turn / 0.2)


def test_the_head_turns_like_that_of_the_recorded_mouse():
    speed = speeds(head_turns(4000.0, generator=stream(0, "turns")))
    # 85, 38 and 182 deg/s in 2121 s of the mouse
    assert float(speed.std()) == pytest.approx(85, rel=0.1)
    assert float(speed.abs().median()) == pytest.approx(38, rel=0.1)
    assert float(speed.abs().quantile(0.95)) == pytest.approx(182, rel=0.1)
    plain = speeds(head_turns(4000.0, bursts=0.0, generator=stream(0, "turns")))
    assert float(plain.abs().median() / plain.std()) > 0.6  # 0.67 for a Gaussian, 0.45 above


def test_a_plain_velocity_is_an_ornstein_uhlenbeck_process():
    # So slow that no turn in a bin exceeds half a circle; 5000 s hold 25,000 time constants.
    heading = head_turns(
        5000.0, speed=2.0, correlation=0.2, bursts=0.0, generator=stream(0, "process")
    )
    velocity = (torch.remainder(heading.double().diff() + math.pi, TURN) - math.pi) / 0.01
    # standard error of the variance: 4 sqrt(2 * 0.2 / 5000) = 0.036
    assert float(velocity.var()) == pytest.approx(4.0, abs=5 * 0.036)
    for lag in (10, 20, 40):
        share = (velocity[lag:] * velocity[:-lag]).mean() / velocity.var()
        assert float(share) == pytest.approx(math.exp(-0.01 * lag / 0.2), abs=5 * 0.009)
    assert abs(math.exp(-0.5) - 0.5) > 5 * 0.009  # a straight decay is seen


def test_bursts_leave_the_mean_square_velocity():
    # 20,000 s: strengths change every second, exp(2 s) has a variation of about 1.8 at 0.6
    square = (
        (
            torch.remainder(
                head_turns(20_000.0, speed=1.0, generator=stream(0, "square")).double().diff()
                + math.pi,
                TURN,
            )
            - math.pi
        )
        / 0.01
    ) ** 2
    # standard error about 3 sqrt(2 * 0.5 / 20000) = 0.02; without exp(-bursts^2) it would be 2.05
    assert float(square.mean()) == pytest.approx(1.0, abs=0.1)


def test_the_first_heading_is_uniform():
    first = torch.stack([head_turns(0.01, generator=stream(0, i))[0] for i in range(2000)])
    assert bool(((first >= 0) & (first < TURN)).all())
    assert float(torch.cos(first).mean()) == pytest.approx(0, abs=5 / math.sqrt(2 * 2000))
    assert float(torch.sin(first).mean()) == pytest.approx(0, abs=5 / math.sqrt(2 * 2000))


def test_drawn_cells_lie_in_their_ranges():
    cells = draw_cells(
        500, width=(0.3, 0.6), peak=(4.0, 64.0), baseline=(0.1, 0.2), generator=stream(0, "cells")
    )
    for value, low, high in (
        (cells.preferred, 0, TURN),
        (cells.width, 0.3, 0.6),
        (cells.peak, 4, 64),
        (cells.baseline, 0.1, 0.2),
    ):
        assert float(value.min()) >= low
        assert float(value.max()) <= high
        assert float(value.max() - value.min()) > 0.9 * (high - low)
    # uniform in the logarithm: half of the peaks are below 16 (standard error 0.022)
    assert float((cells.peak < 16).double().mean()) == pytest.approx(0.5, abs=0.11)


def test_the_same_generator_gives_the_same_recording_and_the_global_one_is_left_alone():
    before = torch.get_rng_state()
    one = synthetic_recording(20.0, generator=stream(1, "same"))
    two = synthetic_recording(20.0, generator=stream(1, "same"))
    other = synthetic_recording(20.0, generator=stream(2, "same"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.counts, two.counts)
    assert torch.equal(one.heading, two.heading)
    assert not torch.equal(one.heading, other.heading)


def test_takes_a_trajectory_of_ones_own():
    heading = torch.linspace(0, 6, 500, dtype=torch.float64)
    recording = synthetic_recording(
        cells=two_cells(), heading=heading, bin_seconds=0.02, generator=stream(0, "own")
    )
    assert torch.equal(recording.heading, heading)
    assert recording.seconds == pytest.approx(10)
    assert recording.counts.shape == (500, 2)


def test_the_default_recording_can_be_decoded():
    found = cross_decode(synthetic_recording(generator=stream(0, "default")))
    assert float(torch.rad2deg(found.error.median())) < 12  # chance: 90


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: two_cells(width=torch.tensor([0.4, 0.0])), "width must be positive"),
        (lambda: two_cells(baseline=torch.tensor([30.0, 0.0])), "baseline must be between 0 and"),
        (lambda: draw_cells(0), "cells must be positive"),
        (lambda: draw_cells(peak=(0.0, 3.0)), "peak must be a positive range"),
        (lambda: draw_cells(baseline=(0.2, 0.1)), "baseline must be a positive range"),
        (lambda: head_turns(1.0, speed=-1.0), "speed must be finite and not negative"),
        (lambda: head_turns(1.0, correlation=0.0), "correlation must be"),
        (lambda: head_turns(0.005), "seconds must be a whole number of time bins"),
    ],
)
def test_refuses_numbers_out_of_range(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_widths_in_degrees_are_noticed():
    with pytest.warns(UserWarning, match="width reaches 34"):
        two_cells(width=torch.tensor([23.0, 34.0]))
