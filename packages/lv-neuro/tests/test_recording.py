import math

import numpy as np
import pytest
import torch

from lv_neuro.recorded import Recording, TuningCurves, tuning_curves

TURN = 2 * math.pi


def made(heading, counts=None, *, bin_seconds=0.01, **rest):
    heading = torch.as_tensor(heading)
    if counts is None:
        counts = torch.arange(heading.numel())[:, None]
    return Recording(counts=counts, heading=heading, bin_seconds=bin_seconds, **rest)


def broken(*lengths, gap=0.5, bin_seconds=0.01, velocity=1.0):
    """A recording of stretches with `gap` seconds between them and a steady turn in each."""
    times, first = [], 0.0
    for length in lengths:
        times.append(first + bin_seconds * torch.arange(length, dtype=torch.float64))
        first += length * bin_seconds + gap
    time = torch.cat(times)
    return made(torch.remainder(velocity * time, TURN), bin_seconds=bin_seconds, time=time)


# ---------------------------------------------------------------- Recording


def test_fills_in_names_and_times_and_moves_headings_into_a_turn():
    recording = made([-0.5, 0.5, 6.2], torch.zeros(3, 2, dtype=torch.int64))
    assert recording.cells == ("cell0", "cell1")
    assert torch.equal(recording.starts, torch.arange(3, dtype=torch.float64) * 0.01)
    assert recording.heading.tolist() == pytest.approx([TURN - 0.5, 0.5, 6.2])
    assert recording.seconds == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": torch.tensor([[1], [-2], [-1]])}, "got 2 such values, the first -2 at bin 1"),
        ({"heading": torch.tensor([0.0, math.nan, math.nan])}, "2 of 3, the first at index 1"),
        ({"heading": torch.tensor([0.0, math.inf, 0.0])}, "heading must be finite, got 1"),
        ({"bin_seconds": 0.0}, "bin_seconds must be positive and finite, got 0"),
        ({"cells": ("a", "b")}, "cells must hold 1 different names, got 2"),
        ({"time": torch.tensor([0.0, 0.01, 0.015]).double()}, "1 steps.* after index 1"),
        ({"time": torch.tensor([0.0, 0.01, math.inf]).double()}, "must be finite"),
    ],
)
def test_refuses_what_is_no_recording(change, told):
    whole = {"counts": torch.ones(3, 1, dtype=torch.int64), "heading": torch.zeros(3)}
    with pytest.raises(ValueError, match=told):
        Recording(**{**whole, "bin_seconds": 0.01, **change})


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"counts": torch.ones(3, 1)}, TypeError, "float32: use .round"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, ValueError, r"shape \(bins, cells\)"),
        (
            {"counts": torch.zeros(0, 1, dtype=torch.int64)},
            ValueError,
            r"at least one time bin.*\(0, 1\)",
        ),
        ({"heading": torch.zeros(4)}, ValueError, r"got shape \(4,\) for 3 bins"),
        ({"time": torch.arange(3.0)}, TypeError, "time must be float64"),
        ({"time": torch.arange(4.0).double()}, ValueError, r"time must hold one .*\(4,\) for 3"),
    ],
)
@pytest.mark.usefixtures("wrong_types")
def test_refuses_wrong_types_and_lengths(change, error, told):
    whole = {"counts": torch.ones(3, 1, dtype=torch.int64), "heading": torch.zeros(3)}
    with pytest.raises(error, match=told):
        Recording(**{**whole, "bin_seconds": 0.01, **change})


def test_warns_of_degrees():
    with pytest.warns(UserWarning, match="look like degrees"):
        made([10.0, 200.0, 359.0])


def test_finds_the_stretches_between_breaks():
    recording = broken(4, 1, 3)
    assert recording.stretches == [slice(0, 4), slice(4, 5), slice(5, 8)]
    assert made(torch.zeros(8)).stretches == [slice(0, 8)]


def test_cuts_out_bins_by_their_start():
    recording = made(torch.zeros(100))
    # 0.3 is not 30 * 0.01 in floating point: both sides of the cut share no bin and lose none
    first, second = recording.between(0.0, 0.3), recording.between(0.3, 1.0)
    assert first.counts[:, 0].tolist() == list(range(30))
    assert second.counts[:, 0].tolist() == list(range(30, 100))
    both = recording.epochs([(0.0, 0.02), (0.97, 2.0)])
    assert both.counts[:, 0].tolist() == [0, 1, 97, 98, 99]
    assert both.stretches == [slice(0, 2), slice(2, 5)]


def test_refuses_intervals_without_bins():
    recording = made(torch.zeros(10))
    with pytest.raises(ValueError, match=r"no time bin; the recording lasts from 0 to 0\.1 s"):
        recording.between(5.0, 6.0)
    with pytest.raises(ValueError, match="end after its start"):
        recording.between(0.2, 0.1)
    with pytest.raises(ValueError, match="no time bin is left of 10"):
        recording.keep(torch.zeros(10, dtype=torch.bool))


def test_selects_cells_by_name_or_number():
    recording = made(torch.zeros(2), torch.tensor([[1, 2, 3], [4, 5, 6]]), cells=("a", "b", "c"))
    chosen = recording.select(["c", 0])
    assert chosen.cells == ("c", "a")
    assert chosen.counts.tolist() == [[3, 1], [6, 4]]
    for wrong in ("d", 3, -1):
        with pytest.raises(ValueError, match=f"no cell {wrong!r}; there are 3: a, b, c"):
            recording.select([wrong])


def test_rebins_within_stretches():
    recording = broken(5, 3, 1, velocity=0.1)
    coarse = recording.rebin(2)
    assert coarse.counts[:, 0].tolist() == [0 + 1, 2 + 3, 5 + 6]  # bins 4, 7 and 8 are left over
    assert coarse.starts.tolist() == pytest.approx([0.0, 0.02, 0.55])
    assert coarse.bin_seconds == 0.02
    assert coarse.stretches == [slice(0, 2), slice(2, 3)]
    assert recording.rebin(1) is recording
    with pytest.raises(ValueError, match="longest stretch without a break, 5 bins, got 6"):
        recording.rebin(6)
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        recording.rebin(0)


def test_keeps_a_break_of_less_than_a_coarse_bin():
    time = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.05, 0.06]).double()  # 0.04 is missing
    assert made(torch.zeros(6), time=time).rebin(2).stretches == [slice(0, 2), slice(2, 3)]


def test_adds_bytes_without_overflow_and_averages_headings_on_the_circle():
    counts = torch.full((2, 1), 200, dtype=torch.uint8)
    coarse = made([TURN - 0.1, 0.3], counts).rebin(2)
    assert coarse.counts.tolist() == [[400]]
    assert coarse.heading.item() == pytest.approx(0.1, abs=1e-6)
    assert np.mean([TURN - 0.1, 0.3]) > 3  # the plain mean points the other way


# ---------------------------------------------------------------- tuning curves


def test_divides_spikes_by_time():
    heading = torch.tensor([0.0, 0.1, math.pi, math.pi, TURN - 0.1], dtype=torch.float64)
    counts = torch.tensor([[1, 0], [2, 0], [0, 1], [0, 3], [0, 1]])
    curves = made(heading, counts, bin_seconds=0.5).tuning_curves(4)
    assert curves.heading.tolist() == pytest.approx([0, math.pi / 2, math.pi, 3 * math.pi / 2])
    assert curves.occupancy.tolist() == [1.5, 0, 1.0, 0]
    # TURN - 0.1 belongs to the bin around 0; a floor without half a bin would put it in the last
    assert curves.rates[0].tolist() == [2.0, pytest.approx(1 / 1.5)]
    assert curves.rates[2].tolist() == [0.0, 4.0]
    assert bool(torch.isnan(curves.rates[[1, 3]]).all())
    assert curves.rates.dtype == torch.float64
    strict = made(heading, counts, bin_seconds=0.5).tuning_curves(4, min_occupancy=1.2)
    assert torch.isnan(strict.rates[:, 0]).tolist() == [False, True, True, True]


def test_smoothing_damps_each_harmonic_by_the_factor_of_a_gaussian():
    bins, width, k = 60, 0.3, 3
    heading = (torch.arange(bins) * (TURN / bins)).double()
    counts = torch.round(1000 * (2 + torch.cos(k * heading))).long()[:, None]
    smooth = tuning_curves(counts, heading, 1.0, bins=bins, smooth=width).rates[:, 0]
    expected = 1000 * (2 + math.exp(-0.5 * (k * width) ** 2) * torch.cos(k * heading))
    assert float((smooth - expected).abs().max()) < 1.0  # counts are rounded
    wrong = 1000 * (2 + math.exp(-0.5 * k * width) * torch.cos(k * heading))
    assert float((smooth - wrong).abs().max()) > 10


def test_smoothing_weighs_headings_by_their_time_and_fills_unvisited_ones():
    # Two neighbors of an unvisited bin: 9 s at 10 Hz and 1 s at 0 Hz.
    counts = torch.tensor([[10]] * 9 + [[0]])
    heading = torch.tensor([0.0] * 9 + [math.pi], dtype=torch.float64)
    rates = tuning_curves(counts, heading, 1.0, bins=4, smooth=0.8).rates[:, 0]
    assert rates[1].item() == pytest.approx(90 / 10)
    assert rates[1].item() == rates[3].item()


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ({"bins": 1}, "bins must be at least 2"),
        ({"smooth": 10.0}, "smooth must be .* is it degrees"),
        ({"min_occupancy": -1.0}, "min_occupancy must not be negative"),
        ({"min_occupancy": 99.0}, "a cell with none: lower min_occupancy"),
    ],
)
def test_refuses_bad_settings_of_tuning_curves(rest, told):
    with pytest.raises(ValueError, match=told):
        made([0.0, 1.0]).tuning_curves(**rest)


def test_refuses_bad_tuning_curves():
    with pytest.raises(ValueError, match=r"must not be negative, got -3 Hz"):
        TuningCurves(torch.zeros(2), torch.tensor([[1.0], [-3.0]]), torch.ones(2))


@pytest.mark.usefixtures("wrong_types")
def test_refuses_tuning_curves_of_unequal_length():
    with pytest.raises(ValueError, match="got 3 and 2 rows for 2 headings"):
        TuningCurves(torch.zeros(2), torch.ones(3, 1), torch.ones(2))


@pytest.fixture
def pynapple():
    return pytest.importorskip("pynapple")


def test_tuning_curves_agree_with_pynapple(pynapple, generator):
    bins, time = 30, 0.01 * np.arange(6000)
    turns = 0.1 * torch.randn(6000, generator=generator, dtype=torch.float64)
    heading = torch.remainder(turns.cumsum(0), TURN)
    counts = torch.poisson(0.2 * (1 + torch.cos(heading)), generator=generator).long()
    ours = made(heading, counts[:, None]).tuning_curves(bins).rates[:, 0].numpy()
    spikes = np.repeat(time, counts.numpy())
    # pynapple's bins start at 0, ours are centered on it; pynapple counts samples of the feature
    shifted = np.remainder(heading.numpy() + math.pi / bins, TURN)
    support = pynapple.IntervalSet(start=0, end=60)
    theirs = pynapple.compute_tuning_curves(
        pynapple.TsGroup({0: pynapple.Ts(spikes)}, time_support=support),
        pynapple.Tsd(time, shifted, time_support=support),
        bins=bins,
        range=[(0, TURN)],
        fs=100.0,
    )
    assert np.allclose(ours, np.asarray(theirs)[0], atol=1e-9)


# ---------------------------------------------------------------- movement


def test_a_steady_turn_has_one_velocity_up_to_the_ends_and_across_zero():
    recording = broken(300, 1, 40, velocity=3.0)
    velocity = recording.angular_velocity(smooth=0.1)
    expected = torch.full_like(velocity, 3.0)
    expected[300] = math.nan  # a stretch of one bin
    assert torch.allclose(velocity, expected, equal_nan=True, atol=1e-9)
    assert torch.allclose(
        recording.angular_velocity(smooth=0.0), expected, equal_nan=True, atol=1e-9
    )
    naive = recording.heading.diff() / 0.01
    assert float(naive.abs().max()) > 100  # neither unwrapped nor split at the break


def test_smoothing_in_time_damps_an_oscillation_by_the_factor_of_a_gaussian():
    time, omega, width = 0.001 * torch.arange(4000, dtype=torch.float64), 20.0, 0.05
    heading = torch.remainder(3.0 + torch.sin(omega * time), TURN)
    velocity = made(heading, bin_seconds=0.001).angular_velocity(smooth=width)
    inside = slice(500, 3500)
    expected = omega * math.exp(-0.5 * (omega * width) ** 2) * torch.cos(omega * time)
    assert float((velocity - expected)[inside].abs().max()) < 0.01
    assert float((velocity - omega * torch.cos(omega * time))[inside].abs().max()) > 5
    with pytest.raises(ValueError, match="smooth must be finite and not negative"):
        made(heading).angular_velocity(smooth=-1.0)


def test_turns_are_those_within_stretches():
    moves = broken(21, 11, velocity=0.7).turns(0.05)
    assert moves.turn.tolist() == pytest.approx([0.7 * 0.05] * (3 + 1))
    # circular means over five bins: the heading in the middle of the step
    assert moves.before.tolist() == pytest.approx([0.014, 0.049, 0.084, 0.511])
    with pytest.raises(ValueError, match="bin_seconds must be a whole number of time bins"):
        broken(20).turns(0.025)


def test_the_truth_of_segments_is_the_sum_of_their_turns(generator):
    step = 0.2 * torch.randn(2000, generator=generator, dtype=torch.float64)
    recording = made(torch.remainder(step.cumsum(0), TURN), bin_seconds=0.05)
    walks = recording.segments(7, 100)
    assert walks.start.shape == (7,)
    assert walks.turns.shape == walks.heading.shape == (7, 100)
    limit = math.radians(18)
    assert float(walks.turns.abs().max()) == pytest.approx(limit)
    total = walks.start[:, None] + walks.turns.cumsum(1)
    assert torch.allclose(torch.remainder(total, TURN), walks.heading)
    first = [int(i * (1999 - 100) / 6) for i in range(7)]
    assert torch.equal(walks.start, recording.heading[first])
    # control: the heading as recorded is not what a clamped walk leads to
    recorded = torch.stack([recording.heading[i + 1 : i + 101] for i in first])
    wrong = (torch.remainder(walks.heading - recorded + math.pi, TURN) - math.pi).abs()
    assert float(wrong[:, -1].mean()) > math.radians(10)
    # without a limit it is
    free = recording.segments(7, 100, max_turn=None)
    assert torch.allclose(free.heading, recorded)


def test_segments_leave_out_the_turns_across_breaks():
    walks = broken(50, 50, bin_seconds=0.05, gap=2.0, velocity=1.0).segments(1, 98, max_turn=None)
    assert walks.turns[0].tolist() == pytest.approx([0.05] * 98)
    assert walks.heading[0, -1].item() == pytest.approx(98 * 0.05)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"walks": 0}, "walks must be positive"),
        ({"steps": 0}, "steps must be positive"),
        ({"steps": 100}, "must not exceed the 19 turns of the recording, got 100"),
        ({"max_turn": 18.0}, r"max_turn must be in \(0, pi\].*is it degrees"),
    ],
)
def test_refuses_segments_that_cannot_be(change, told):
    with pytest.raises(ValueError, match=told):
        broken(20, bin_seconds=0.05).segments(**{"walks": 2, "steps": 5, **change})
