import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_neuro.recorded import (
    binned_recording,
    from_pynapple,
    from_spikes,
    load_csv,
    load_npz,
    load_nwb,
    load_recorded,
)

TURN = 2 * math.pi


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
    with pytest.raises(
        ValueError, match=r"no array counts, heading; .* there are: angle, bin_sec"
    ):
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
