import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_neuro.recorded import (
    Recording,
    TuningCurves,
    binned_recording,
    from_pynapple,
    from_spikes,
    load_csv,
    load_npz,
    load_nwb,
    load_recorded,
    tuning_curves,
)

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


# ---------------------------------------------------------------- arrays


def test_fills_short_gaps_the_short_way_and_drops_long_ones():
    nan = math.nan
    heading = [nan, 6.2, nan, nan, 0.2, nan, nan, nan, 1.0, nan]
    counts = np.arange(10)[:, None]
    filled = binned_recording(
        counts, heading, bin_seconds=0.1, missing="interpolate", max_gap=0.2, cells=["a"]
    )
    third = (0.2 + TURN - 6.2) / 3  # passes zero in the first of three steps
    expected = [6.2, 6.2 + third - TURN, 6.2 + 2 * third - TURN, 0.2, 1.0]
    assert filled.heading.tolist() == pytest.approx(expected, abs=1e-6)
    assert filled.counts[:, 0].tolist() == [1, 2, 3, 4, 8]
    assert filled.stretches == [slice(0, 4), slice(4, 5)]
    assert filled.cells == ("a",)
    dropped = binned_recording(counts, heading, bin_seconds=0.1, missing="drop")
    assert dropped.counts[:, 0].tolist() == [1, 4, 8]
    with pytest.raises(ValueError, match=r'7 of 10, the first at index 0: choose missing="drop"'):
        binned_recording(counts, heading, bin_seconds=0.1)


def test_one_known_heading_fills_nothing():
    one = [math.nan, 1.0, math.nan]
    left = binned_recording([[1], [2], [3]], one, bin_seconds=0.1, missing="interpolate")
    assert left.counts.tolist() == [[2]]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float64, ">i2"])
def test_takes_whole_numbers_of_any_type(kind):
    counts = np.array([[1, 2], [3, 0]]).astype(kind)
    assert binned_recording(counts, torch.zeros(2), bin_seconds=0.1).counts.tolist() == [
        [1, 2],
        [3, 0],
    ]


@pytest.mark.parametrize(
    ("counts", "heading", "rest", "told"),
    [
        ([[1], [2]], [0.0], {}, r"equally many bins, got \(2, 1\) and \(1,\)"),
        (np.zeros((0, 1)), [], {}, "empty recording"),
        ([[1.0], [0.5]], [0.0, 0.0], {}, "got 1 that are not, the first 0.5 at bin 1 of cell 0"),
        ([[1], [2]], [math.nan] * 2, {"missing": "drop"}, "known in some bin, got 2 NaN"),
        ([[1]], [0.0], {"bin_seconds": -1.0}, "bin_seconds must be positive"),
    ],
)
def test_refuses_arrays_that_are_no_recording(counts, heading, rest, told):
    with pytest.raises(ValueError, match=told):
        binned_recording(counts, heading, **{"bin_seconds": 0.1, **rest})


def spike_recording(**rest):
    time = np.arange(11) * 0.1
    return from_spikes(
        {"a": [-1.0, 0.05, 0.1, 0.1, 0.95], "b": [0.25]}, time, 0.3 * time, bin_seconds=0.1, **rest
    )


def test_counts_spikes_from_the_start_of_a_bin_to_before_its_end():
    recording = spike_recording()
    assert recording.counts[:, 0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert recording.counts[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    centers = 0.3 * (0.1 * np.arange(10) + 0.05)
    assert recording.heading.tolist() == pytest.approx(centers, abs=1e-6)
    assert recording.cells == ("a", "b")


def test_a_spike_on_any_edge_counts_once():
    edges = np.arange(1, 1000) * 0.01
    recording = from_spikes({"a": edges}, [0.0, 10.0], [0.0, 1.0], max_gap=20.0)
    assert int(recording.counts.sum()) == 999
    assert recording.counts.max() <= 2  # rounding may put an edge on its other side


def test_interpolates_the_heading_across_zero():
    recording = from_spikes({"a": [0.1]}, [0.0, 0.2], [6.2, 0.2], bin_seconds=0.1)
    quarter = (0.2 + TURN - 6.2) / 4
    assert recording.heading.tolist() == pytest.approx(
        [6.2 + quarter, 6.2 + 3 * quarter - TURN], abs=1e-6
    )


def test_keeps_only_the_epochs():
    recording = spike_recording(epochs=[(0.58, 2.0), (-1.0, 0.2)])
    assert recording.starts.tolist() == pytest.approx([0.0, 0.1, 0.58, 0.68, 0.78, 0.88])
    assert recording.counts[:, 0].tolist() == [1, 2, 0, 0, 0, 1]
    assert recording.stretches == [slice(0, 2), slice(2, 6)]


def test_lost_tracking_is_refused_dropped_or_filled():
    time = np.arange(11) * 0.1
    heading = 0.3 * time
    heading[[3, 6, 7, 8]] = math.nan
    spikes = {"a": time}
    with pytest.raises(ValueError, match="got 4 of 11, the first at index 3"):
        from_spikes(spikes, time, heading, bin_seconds=0.1)
    dropped = from_spikes(spikes, time, heading, bin_seconds=0.1, missing="drop")
    assert dropped.starts.tolist() == pytest.approx([0.0, 0.1, 0.4, 0.9])
    filled = from_spikes(
        spikes, time, heading, bin_seconds=0.1, missing="interpolate", max_gap=0.2
    )
    assert filled.starts.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.9])
    assert filled.heading.tolist() == pytest.approx(
        (0.3 * (filled.starts + 0.05)).tolist(), abs=1e-6
    )


def test_a_gap_between_samples_is_no_steady_turn():
    time = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])
    heading = np.zeros(6)
    with pytest.raises(ValueError, match=r"got 1, the first of 4\.8 s after index 2"):
        from_spikes({"a": [0.0]}, time, heading, bin_seconds=0.1)
    kept = from_spikes({"a": [0.0]}, time, heading, bin_seconds=0.1, missing="drop")
    assert kept.starts.tolist() == pytest.approx([0.0, 0.1, 5.0, 5.1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spikes": {}}, "at least one cell, got an empty recording"),
        ({"spikes": {"a": [0.3, 0.2]}}, r"spikes\['a'\] must be sorted, got 1 .* after index 0"),
        ({"spikes": {"a": [0.1, math.nan]}}, r"spikes\['a'\] must be finite, got 1 .* index 1"),
        ({"spikes": {"a": np.array([[0.1]])}}, "must be a list of times"),
        ({"spikes": {"a": [100.0, 200.0]}}, "the first spike is at 100: are both in seconds"),
        ({"spikes": {"a": []}}, "the first spike is at nan"),
        ({"heading_time": [0.0, 0.0, 0.2]}, "heading_time must rise, got 1 .* see np.unique"),
        ({"heading": [0.0, 0.1]}, r"one angle per time, got \(2,\) for 3 times"),
        ({"heading": [0.0, math.nan, math.nan]}, "at least two samples that are no NaN, got 1"),
        ({"bin_seconds": 0.0}, "bin_seconds must be positive"),
        ({"bin_seconds": 1.0}, "no time bin of 1.0 s lies in the epochs"),
        ({"epochs": [(0.0, 0.15), (0.1, 0.2)]}, "epochs must end after their start and not over"),
        (
            {"heading": [0.0, math.nan, 0.0], "missing": "drop"},
            "the heading is known in no time bin",
        ),
    ],
)
def test_refuses_spike_times_that_are_no_recording(change, told):
    whole = {
        "spikes": {"a": [0.1]},
        "heading_time": [0.0, 0.1, 0.2],
        "heading": [0.0, 0.1, 0.2],
        "bin_seconds": 0.1,
    }
    with pytest.raises(ValueError, match=told):
        from_spikes(**{**whole, **change})


# ---------------------------------------------------------------- files


def test_reads_binned_counts(tmp_path):
    path = tmp_path / "own.npz"
    counts, heading = np.array([[1, 0], [0, 2]], np.uint8), np.array([0.1, math.nan])
    np.savez(path, spikes=counts, angle=heading, names=["x", "y"], bin_seconds=0.02)
    names = {"counts": "spikes", "heading": "angle", "cells": "names"}
    recording = load_npz(path, **names, missing="drop")
    assert (recording.counts.tolist(), recording.cells) == ([[1, 0]], ("x", "y"))
    assert recording.bin_seconds == 0.02
    assert load_npz(path, **names, bin_seconds=0.5, missing="drop").bin_seconds == 0.5
    with pytest.raises(ValueError, match="no array counts, heading; there are: angle, bin_sec"):
        load_npz(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"own\.npz is not the \.npz it should be"):
        load_npz(path, **names)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_npz(tmp_path / "none.npz")


def test_reads_tables_with_and_without_names_of_columns(tmp_path):
    (tmp_path / "spikes.csv").write_text("time_s,cell\n0.05,10\n0.05,9\n0.15,10\n\n")
    (tmp_path / "heading.csv").write_text("0.0,0.1\n0.1,0.1\n0.2,\n0.3,nan\n0.4,0.1\n0.5,0.1\n")
    files = {"spikes": tmp_path / "spikes.csv", "heading": tmp_path / "heading.csv"}
    recording = load_csv(**files, bin_seconds=0.1, missing="drop")
    assert recording.cells == ("9", "10")  # by value, not by letter
    assert recording.counts.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="2 of 6, the first at index 2"):
        load_csv(**files)
    (tmp_path / "spikes.csv").write_text("0.05;b\n0.06;a\n")
    (tmp_path / "heading.csv").write_text("t;x\n0;0\n0.1;0.1\n0.2;0.2\n")
    assert load_csv(**files, delimiter=";").cells == ("a", "b")


@pytest.mark.parametrize(
    ("spikes", "heading", "told"),
    [
        ("0.05,a\n0.06\n", "0,0\n", r"spikes\.csv, line 2: two columns are expected, got 1"),
        ("0.05,a\nx,a\n", "0,0\n", r"spikes\.csv, line 2: a number is expected, got 'x'"),
        ("time,cell\n", "0,0\n", r"spikes\.csv: no spikes in it"),
        ("0.05,a\n", "0,0\n1,up\n", r"heading\.csv, line 2: a number is expected, got 'up'"),
    ],
)
def test_names_the_line_that_cannot_be_read(tmp_path, spikes, heading, told):
    (tmp_path / "spikes.csv").write_text(spikes)
    (tmp_path / "heading.csv").write_text(heading)
    with pytest.raises(ValueError, match=told):
        load_csv(spikes=tmp_path / "spikes.csv", heading=tmp_path / "heading.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        load_csv(spikes=tmp_path / "none.csv", heading=tmp_path / "heading.csv")


def small_set(folder, stamps, **change):
    bins = len(stamps)
    arrays = {
        "counts_run": np.ones((bins, 2), np.uint8),
        "counts_rem": np.zeros((3, 2), np.uint8),
        "hd_time_s": np.asarray(stamps),
        "hd_rad": np.linspace(0, 1, bins).astype(np.float32),
        "pref_hd_rad": np.zeros(2, np.float32),
        "tuning_angle_rad": np.float32([0, 3, 0]),
        "tuning_hz": np.float32([[1, 2], [3, 4], [1, 2]]),
        "bin_s": np.float32(0.01),
        **change,
    }
    np.savez(folder / "adn_mouse_population.npz", **arrays)


def test_lost_frames_are_breaks_in_the_recorded_set(tmp_path):
    # bins of 10 ms with stamps of the 25.6 ms clock, 0.5 s lost after the fifth
    small_set(tmp_path, 7 + 0.0256 * np.array([0, 0, 1, 1, 1, 21, 21, 22]))
    recorded = load_recorded(tmp_path)
    assert recorded.run.stretches == [slice(0, 5), slice(5, 8)]
    assert float(recorded.run.starts[5]) == pytest.approx(21 * 0.0256, abs=0.005)
    assert recorded.tuning.tolist() == [[1, 2], [3, 4]]  # without the repeated row
    assert recorded.run.bin_seconds == 0.01
    joined = load_recorded(tmp_path, gaps="ignore").run
    assert joined.stretches == [slice(0, 8)]
    with pytest.raises(FileNotFoundError, match="adn_mouse_population"):
        load_recorded(tmp_path / "elsewhere")


def test_a_break_is_never_shorter_than_a_bin(tmp_path):
    # counting bins ran ahead of the clock by more than what was lost
    small_set(tmp_path, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0768])
    assert len(load_recorded(tmp_path).run.stretches) == 2


# ---------------------------------------------------------------- pynapple and NWB


@pytest.fixture
def pynapple():
    return pytest.importorskip("pynapple")


def objects(nap):
    support = nap.IntervalSet(start=[0.0, 0.6], end=[0.4, 1.0])
    trains = {3: nap.Ts(t=np.array([0.05, 0.65])), 7: nap.Ts(t=np.array([0.15, 0.16]))}
    time = np.arange(11) * 0.1
    everything = nap.IntervalSet(start=0.0, end=1.0)
    return (
        nap.TsGroup(trains, time_support=everything),
        nap.Tsd(t=time, d=0.3 * time, time_support=everything),
        support,
    )


def test_takes_pynapple_objects(pynapple):
    spikes, heading, support = objects(pynapple)
    recording = from_pynapple(spikes, heading, bin_seconds=0.1)
    assert recording.cells == ("3", "7")
    assert recording.counts[:, 0].nonzero()[:, 0].tolist() == [0, 6]
    assert recording.counts[:, 1].tolist()[:2] == [0, 2]
    assert recording.counts.shape[0] == 10
    parts = from_pynapple(spikes, heading, bin_seconds=0.1, epochs=support)
    assert parts.stretches == [slice(0, 4), slice(4, 8)]
    # the time support of the heading is kept without being told
    restricted = from_pynapple(spikes, heading.restrict(support), bin_seconds=0.1, missing="drop")
    assert torch.equal(restricted.starts, parts.starts)


def test_refuses_other_objects(pynapple):
    spikes, heading, _ = objects(pynapple)
    with pytest.raises(TypeError, match="spikes must be a pynapple TsGroup, got dict"):
        from_pynapple({}, heading)
    with pytest.raises(TypeError, match=r"heading must be a pynapple Tsd .*, got ndarray"):
        from_pynapple(spikes, np.zeros(3))
    with pytest.raises(TypeError, match="epochs must be a pynapple IntervalSet, got list"):
        from_pynapple(spikes, heading, epochs=[(0, 1)])


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


@pytest.fixture
def nwb(pynapple, tmp_path):
    pynwb = pytest.importorskip("pynwb")
    from datetime import UTC, datetime

    start = datetime(2020, 1, 1, tzinfo=UTC)
    file = pynwb.NWBFile("made up", "made-up", start)
    for train in ([0.05, 0.65], [0.15, 0.16]):
        file.add_unit(spike_times=train)
    time = np.arange(11) * 0.1
    direction = pynwb.behavior.CompassDirection(name="compass")
    direction.create_spatial_series(
        name="head", data=0.3 * time, timestamps=time, reference_frame="north", unit="radians"
    )
    file.create_processing_module("behavior", "behavior").add(direction)
    file.add_epoch(0.0, 0.4, ["run"])
    file.add_epoch(0.6, 1.0, ["run"])
    path = tmp_path / "made_up.nwb"
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def test_reads_an_nwb_file(nwb):
    recording = load_nwb(nwb, heading="head", bin_seconds=0.1)
    assert recording.counts.sum(0).tolist() == [2, 2]
    assert recording.counts.shape == (10, 2)
    assert recording.heading.tolist() == pytest.approx(
        (0.3 * (0.1 * np.arange(10) + 0.05)).tolist(), abs=1e-6
    )
    by_name = load_nwb(nwb, heading="head", epochs="epochs", bin_seconds=0.1)
    by_time = load_nwb(nwb, heading="head", epochs=[(0.0, 0.4), (0.6, 1.0)], bin_seconds=0.1)
    assert by_name.stretches == by_time.stretches == [slice(0, 4), slice(4, 8)]
    with pytest.raises(ValueError, match=r"has no entry compass; there are: .*head.*units"):
        load_nwb(nwb, heading="compass")


def test_names_the_extra_that_reads_nwb(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="NWB"):
        load_nwb(tmp_path / "none.nwb", heading="head")
    (tmp_path / "some.nwb").touch()
    monkeypatch.setitem(sys.modules, "pynapple", None)  # what a missing package looks like
    with pytest.raises(ImportError, match=r"pip install 'lv-neuro\[nwb\]'"):
        load_nwb(tmp_path / "some.nwb", heading="head")


# ---------------------------------------------------------------- the real set


def real_set(**rest):
    return load_recorded(Path(os.environ["LV_DATA"]) / "head_direction", **rest)


@pytest.mark.data
def test_the_recorded_set_is_what_its_description_says():
    recorded = real_set()
    run = recorded.run
    assert run.counts.shape == (212_078, 19)
    assert recorded.rem_counts.shape == (97_600, 19)
    assert len(run.stretches) == 113
    # counting bins stays with the camera's clock in every stretch
    path = Path(os.environ["LV_DATA"]) / "head_direction" / "adn_mouse_population.npz"
    with np.load(path) as arrays:
        clock = torch.from_numpy(arrays["hd_time_s"] - arrays["hd_time_s"][0])
    assert float((run.starts - clock).abs().max()) < 2 * 0.0256
    running = real_set(gaps="ignore").run
    assert float((running.starts - clock).abs().max()) > 60  # 71 s of lost frames


@pytest.mark.data
def test_recorded_tuning_curves_have_the_stored_shape():
    recorded = real_set()
    ours = recorded.run.tuning_curves(60).rates
    both = torch.stack([ours, recorded.tuning]).transpose(1, 2)
    like = [float(torch.corrcoef(both[:, cell])[0, 1]) for cell in range(19)]
    assert min(like) > 0.95  # 0.979 when this was written
    turned = torch.stack([ours.roll(5, 0), recorded.tuning]).transpose(1, 2)
    assert min(float(torch.corrcoef(turned[:, cell])[0, 1]) for cell in range(19)) < 0.6


@pytest.mark.data
def test_the_recorded_mouse_turns_as_fast_as_described():
    for gaps, tolerance in (("ignore", 0.5), ("split", 10)):  # deg/s
        run = real_set(gaps=gaps).run
        speed = torch.rad2deg(run.turns(0.2).turn / 0.2)
        assert float(speed.std()) == pytest.approx(85, abs=tolerance)
        assert float(speed.abs().median()) == pytest.approx(38, abs=tolerance)
        assert float(speed.abs().quantile(0.95)) == pytest.approx(182, abs=tolerance)
        velocity = torch.rad2deg(run.angular_velocity(smooth=0.08))
        assert float(velocity[velocity.isfinite()].std()) == pytest.approx(85, abs=2)


@pytest.mark.data
def test_recorded_walks_obey_their_sums():
    walks = real_set().run.segments()
    assert walks.turns.shape == (60, 600)
    wide = real_set().run.turns().turn.abs() > math.radians(18)
    assert 0.01 < float(wide.float().mean()) < 0.04  # the share that is clamped
    total = walks.start.double()[:, None] + walks.turns.double().cumsum(1)
    away = torch.remainder(total - walks.heading + math.pi, TURN) - math.pi
    assert float(away.abs().max()) < 1e-5
