"""What loaders and decoders say about arguments and files that they do not take."""

import math
import re
import warnings

import numpy as np
import pytest
import torch

from lv_neuro.recorded import (
    BayesianDecoder,
    HeadDirectionCells,
    Recording,
    binned_recording,
    cross_decode,
    from_pynapple,
    from_spikes,
    load_csv,
    load_npz,
    load_nwb,
    load_recorded,
)

TIME = np.arange(11) * 0.1
SPIKES = {"a": [0.05, 0.55]}


@pytest.fixture
def recording():
    counts = torch.ones(100, 1, dtype=torch.int64)
    return Recording(counts=counts, heading=torch.linspace(0, 6, 100), bin_seconds=0.1)


@pytest.fixture
def tables(tmp_path):
    """Files for load_csv, of samples every 0.1 s; `write` makes others of them."""

    def write(spikes="0.05,a\n0.55,a\n", heading=None):
        rows = "".join(f"{t},{0.3 * t}\n" for t in TIME) if heading is None else heading
        (tmp_path / "spikes.csv").write_text(spikes)
        (tmp_path / "heading.csv").write_text(rows)
        return {"spikes": tmp_path / "spikes.csv", "heading": tmp_path / "heading.csv"}

    return write


def archive(folder, **change):
    arrays = {"counts": np.ones((3, 1), np.uint8), "heading": np.zeros(3), "bin_seconds": 0.02}
    path = folder / "own.npz"
    np.savez(path, **{**arrays, **change})
    return path


# ---------------------------------------------------------------- unknown words


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("heading", [[0.0, 0.1, 0.2], [0.0, math.nan, 0.2]])
def test_refuses_an_unknown_treatment_of_missing_headings(heading, tmp_path, tables):
    told = "missing must be one of error, drop, interpolate, got 'skip'"
    with pytest.raises(ValueError, match=told):
        binned_recording([[1], [1], [1]], heading, bin_seconds=0.1, missing="skip")
    with pytest.raises(ValueError, match=told):
        from_spikes({"a": [0.1]}, [0.0, 0.1, 0.2], heading, missing="skip")
    with pytest.raises(ValueError, match=told):
        load_npz(archive(tmp_path, heading=np.array(heading)), missing="skip")
    with pytest.raises(ValueError, match=told):
        load_csv(**tables(), missing="skip")


@pytest.mark.usefixtures("wrong_types")
def test_refuses_an_unknown_treatment_of_lost_frames(tmp_path):
    with pytest.raises(ValueError, match="gaps must be one of split, ignore, got 'join'"):
        load_recorded(tmp_path, gaps="join")


@pytest.mark.usefixtures("wrong_types")
def test_refuses_an_unknown_prior_and_estimate(recording):
    told = "prior must be one of uniform, occupancy, got 'uniformm'"
    with pytest.raises(ValueError, match=told):
        BayesianDecoder.fit(recording, bins=4, prior="uniformm")
    with pytest.raises(ValueError, match=told):
        cross_decode(recording, block=5, bins=4, prior="uniformm")
    told = "estimate must be one of mode, mean, got 'median'"
    with pytest.raises(ValueError, match=told):
        BayesianDecoder.fit(recording, bins=4).decode(recording, estimate="median")
    with pytest.raises(ValueError, match=told):
        cross_decode(recording, block=5, bins=4, estimate="median")


# ---------------------------------------------------------------- .npz files


@pytest.mark.parametrize("content", [b"0.05,a\n0.15,b\n", b"", b"\x93NUMPY"])
def test_a_table_is_no_npz_file(tmp_path, content):
    path = tmp_path / "spikes.csv"
    path.write_bytes(content)
    told = r"spikes\.csv is not the \.npz it should be: .* np\.savez .* load_csv"
    with pytest.raises(ValueError, match=told) as refused:
        load_npz(path)
    assert "pickle" not in str(refused.value)


def test_names_of_python_objects_are_refused_without_bad_advice(tmp_path):
    path = archive(tmp_path, names=np.array(["x"], dtype=object))
    with pytest.raises(ValueError, match=r"own\.npz: array names .* \.astype\(str\)") as refused:
        load_npz(path, cells="names")
    assert "pickle" not in str(refused.value)


def test_damage_within_an_npz_file_is_named(tmp_path):
    path = tmp_path / "own.npz"
    counts = np.random.default_rng(0).integers(0, 9, (500, 1))
    np.savez_compressed(path, counts=counts, heading=np.zeros(500), bin_seconds=0.02)
    content = bytearray(path.read_bytes())
    content[150:170] = b"\xff" * 20  # within the compressed counts
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz: array counts cannot be read"):
        load_npz(path)


def test_a_renamed_array_is_named_with_those_found_and_needed(tmp_path):
    path = archive(tmp_path)
    told = (
        r"own\.npz has no array dt; needed are: counts, heading, dt; there are: "
        r"bin_seconds, counts, heading.*bin_seconds="
    )
    with pytest.raises(ValueError, match=told):
        load_npz(path, bin_seconds="dt")
    np.savez(tmp_path / "adn_mouse_population.npz", counts_run=0)
    with pytest.raises(ValueError, match=r"no array hd_time_s.*there are: counts_run"):
        load_recorded(tmp_path)


@pytest.mark.parametrize("bad", [np.full(3, 0.02), np.array([]), np.array("0.02 s")])
def test_bin_seconds_must_be_one_number(tmp_path, bad):
    path = archive(tmp_path, bin_seconds=bad)
    told = (
        rf"bin_seconds must be one number of seconds, got .* of shape {re.escape(str(bad.shape))}"
    )
    with pytest.raises(ValueError, match=told):
        load_npz(path)


@pytest.mark.usefixtures("wrong_types")
def test_bin_seconds_given_as_an_array_must_be_one_number(tmp_path):
    with pytest.raises(ValueError, match=r"bin_seconds must be one number .* shape \(3,\)"):
        load_npz(archive(tmp_path), bin_seconds=np.full(3, 0.02))


def test_bin_seconds_may_be_an_array_of_one_number(tmp_path):
    # what MATLAB and h5py make of a number
    path = archive(tmp_path, bin_seconds=np.array([[0.05]]))
    assert load_npz(path).bin_seconds == 0.05


# ---------------------------------------------------------------- tables


def test_asks_for_the_unit_of_times_that_are_too_far_apart(tables):
    rows = "".join(f"{10 * i},0.1\n" for i in range(11))  # ms
    told = "usual step is 10 s: are the times in seconds"
    for missing in ("error", "drop", "interpolate"):
        with pytest.raises(ValueError, match=told):
            load_csv(**tables(heading=rows), missing=missing)
    # control: one long gap among short steps has nothing to do with the unit
    rows = "".join(f"{t + 3 * (t > 0.55)},0.1\n" for t in TIME)
    with pytest.raises(ValueError, match="no gap above max_gap") as refused:
        load_csv(**tables(heading=rows))
    assert "in seconds" not in str(refused.value)


@pytest.mark.parametrize("word", ["", " ", "NA", "n/a", "nan", "NaN", "null"])
def test_reads_missing_headings_as_other_programs_write_them(tables, word):
    rows = "".join(f"{t:.1f},{word if 2 < i < 5 else 0.1}\n" for i, t in enumerate(TIME))
    with pytest.raises(ValueError, match="must not be NaN, got 2 of 11, the first at index 3"):
        load_csv(**tables(heading=rows), bin_seconds=0.1)
    kept = load_csv(**tables(heading=rows), bin_seconds=0.1, missing="drop")
    assert kept.starts.tolist() == pytest.approx([0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_a_time_is_never_missing(tables):
    with pytest.raises(ValueError, match=r"heading\.csv, line 2: a number is expected, got 'NA'"):
        load_csv(**tables(heading="0,0\nNA,0\n"))


# ---------------------------------------------------------------- epochs


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("bad", [(0, 10), [], [(0, 1, 2)], [(0, 1), (2,)], [(0, math.nan)], "run"])
def test_epochs_are_pairs(bad, tables, recording):
    told = r"must be pairs of start and end in seconds such as \[\(0, 10\)\], got "
    with pytest.raises(ValueError, match="epochs " + told):
        from_spikes(SPIKES, TIME, 0.3 * TIME, epochs=bad)
    with pytest.raises(ValueError, match="epochs " + told):
        load_csv(**tables(), epochs=bad)
    with pytest.raises(ValueError, match="intervals " + told):
        recording.epochs(bad)


@pytest.mark.usefixtures("wrong_types")
def test_epochs_may_be_an_array():
    both = np.array([[0.0, 0.2], [0.5, 0.7]])
    kept = from_spikes(SPIKES, TIME, 0.3 * TIME, bin_seconds=0.1, epochs=both)
    assert kept.starts.tolist() == pytest.approx([0, 0.1, 0.5, 0.6])


# ---------------------------------------------------------------- NWB files


@pytest.mark.parametrize("content", [b"", b"hello", "hdf5"])
def test_a_file_that_is_no_nwb_is_refused(tmp_path, content):
    pytest.importorskip("pynapple")
    path = tmp_path / "some.nwb"
    if content == "hdf5":
        h5py = pytest.importorskip("h5py")
        h5py.File(path, "w").close()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.nwb cannot be read as NWB: "):
        load_nwb(path, heading="head")


@pytest.mark.parametrize(("name", "loader"), [("own.npz", "load_npz"), ("own.csv", "load_csv")])
def test_other_endings_are_sent_to_their_loader(tmp_path, name, loader):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} .* must end in \.nwb.*{loader}"):
        load_nwb(tmp_path / name, heading="head")


@pytest.mark.usefixtures("wrong_types")
def test_epochs_of_an_nwb_file_are_pairs(tmp_path):
    (tmp_path / "some.nwb").touch()
    with pytest.raises(ValueError, match="epochs must be pairs of start and end"):
        load_nwb(tmp_path / "some.nwb", heading="head", epochs=(0, 10))
    with pytest.raises(ValueError, match="epochs must end after their start and not overlap"):
        load_nwb(tmp_path / "some.nwb", heading="head", epochs=[(10, 0)])


# ---------------------------------------------------------------- warnings


@pytest.mark.usefixtures("wrong_types")  # the checks of types put frames of their own in between
def test_warnings_of_degrees_point_at_the_line_of_the_user(tmp_path, tables):
    degrees = np.linspace(0, 350, 11)
    ones = torch.ones(11, 1, dtype=torch.int64)
    path = archive(tmp_path, counts=ones.numpy(), heading=degrees)
    rows = "".join(f"{t},{x}\n" for t, x in zip(TIME, degrees, strict=True))
    np.savez(
        tmp_path / "adn_mouse_population.npz",
        counts_run=ones.numpy(),
        hd_time_s=TIME,
        hd_rad=degrees,
        pref_hd_rad=degrees[:1],
        tuning_hz=np.ones((3, 1)),
        bin_s=0.1,
    )
    one = torch.ones(1)
    calls = {
        "binned_recording": lambda: binned_recording(ones, degrees, bin_seconds=0.1),
        "from_spikes": lambda: from_spikes(SPIKES, TIME, degrees),
        "load_npz": lambda: load_npz(path),
        "load_csv": lambda: load_csv(**tables(heading=rows)),
        "load_recorded": lambda: load_recorded(tmp_path),
        "Recording": lambda: Recording(
            counts=ones, heading=torch.from_numpy(degrees), bin_seconds=0.1
        ),
        "HeadDirectionCells": lambda: HeadDirectionCells(
            preferred=100 * one, width=one, peak=one, baseline=0 * one
        ),
    }
    for name, call in calls.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [w.category for w in caught] == [UserWarning], name
        assert "look like degrees" in str(caught[0].message)
        assert (name, caught[0].filename) == (name, __file__)
    radians = np.radians(degrees)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_spikes(SPIKES, TIME, radians)
    assert not caught


@pytest.mark.usefixtures("wrong_types")
def test_warnings_of_degrees_in_pynapple_objects_point_at_the_line_of_the_user():
    nap = pytest.importorskip("pynapple")
    support = nap.IntervalSet(start=0.0, end=1.0)
    spikes = nap.TsGroup({0: nap.Ts(t=np.array([0.05, 0.65]))}, time_support=support)
    heading = nap.Tsd(t=TIME, d=np.linspace(0, 350, 11), time_support=support)
    with pytest.warns(UserWarning, match="look like degrees") as caught:
        from_pynapple(spikes, heading)
    assert caught[0].filename == __file__
