"""Loaders: the real sets, files of the same formats made here, damaged and wrong files."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lv_core import stream
from lv_dynamics.loaders import read_csv, read_hopper, read_idx, read_mnist, read_mocap35


def real(name):
    return Path(os.environ["LV_DATA"]) / name


# ------------------------------------------------------------------ real sets


@pytest.mark.data
def test_reads_the_real_digits():
    folder = real("mnist")
    digits = read_mnist(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    assert digits.images.shape == (10_000, 28, 28)
    assert digits.images.dtype == torch.uint8
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert digits.labels.bincount().tolist() == counts
    ink = digits.images.float().mean((1, 2))
    assert ink[digits.labels == 1].mean() < ink[digits.labels == 0].mean() / 2


@pytest.mark.data
def test_reads_the_real_hopper():
    data = read_hopper(real("hopper") / "hopper_2000.npz")
    assert data.train.values.shape == (1600, 200, 14)
    assert data.test.values.shape == (400, 200, 14)
    torch.testing.assert_close(data.test.times[0], torch.arange(200) / 200)
    scaled = data.test.scaled(data.scaling)
    # hold-last of 66 seen rows is 4.45e-2 in the convention of published numbers
    held = scaled.values[:, 65:66]
    error = (scaled.values[:, 66:] - held).square().mean()
    assert 100 * float(error) == pytest.approx(4.45, abs=0.02)


@pytest.mark.data
def test_reads_the_real_walks():
    walks = read_mocap35(real("mocap35") / "mocap35.mat")
    sizes = [walks.train.values.shape, walks.valid.values.shape, walks.test.values.shape]
    assert sizes == [(16, 300, 50), (3, 300, 50), (4, 300, 50)]
    assert walks.test.horizon.tolist() == pytest.approx([29.9] * 4)
    assert float(walks.train.values.std()) == pytest.approx(5.8, abs=0.15)
    assert abs(float(walks.train.values.mean())) < 0.5


# ------------------------------------------------------------------ idx


def idx(content):
    head = (0x800 + content.ndim).to_bytes(4, "big")
    return head + b"".join(n.to_bytes(4, "big") for n in content.shape) + content.tobytes()


@pytest.fixture
def digit_files(tmp_path):
    pictures = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    images, labels = tmp_path / "images.gz", tmp_path / "labels"
    images.write_bytes(gzip.compress(idx(pictures)))
    labels.write_bytes(idx(np.array([7, 1], np.uint8)))
    return images, labels, pictures


def test_reads_idx_gzipped_or_not(digit_files):
    images, labels, pictures = digit_files
    digits = read_mnist(images, labels)
    assert np.array_equal(digits.images.numpy(), pictures)
    assert digits.labels.tolist() == [7, 1]
    assert digits.labels.dtype == torch.int64
    images.write_bytes(gzip.decompress(images.read_bytes()))
    assert torch.equal(read_idx(images, axes=3), digits.images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-9], "cannot be unpacked"),
        (lambda raw: raw[:20] + b"x" * 10 + raw[30:], "cannot be unpacked"),
        (lambda raw: gzip.decompress(raw)[:-1], r"24 bytes in \(2, 3, 4\), it has 23"),
        (lambda raw: gzip.decompress(raw) + b"x", "it has 25"),
        (lambda raw: gzip.decompress(raw)[:9], "it has 9 bytes, fewer than a header of 16"),
        (lambda raw: b"<html>no such page</html>", "begins with the number"),
        (lambda raw: idx(np.zeros(24, np.uint8)), "begins with the number 2049, not 2051"),
    ],
)
def test_names_a_damaged_idx_file(spoil, message, digit_files):
    images, labels, _ = digit_files
    images.write_bytes(spoil(images.read_bytes()))
    with pytest.raises(ValueError, match=rf"images.gz is not an idx file.*{message}"):
        read_mnist(images, labels)


def test_refuses_labels_of_other_pictures_and_missing_files(digit_files, tmp_path):
    images, labels, _ = digit_files
    labels.write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"2 pictures but .* 3 labels"):
        read_mnist(images, labels)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_mnist(tmp_path / "none.gz", labels)


# ------------------------------------------------------------------ hopper


def hopper_file(folder, **change):
    states = np.random.default_rng(0).normal(size=(10, 5, 14)).astype("f4")
    arrays = {"states": states, "min10k": states.min((0, 1)), "max10k": states.max((0, 1))}
    path = folder / "hopper.npz"
    np.savez_compressed(path, **{k: v for k, v in {**arrays, **change}.items() if v is not None})
    return path, states


def test_splits_and_scales_the_hopper(tmp_path):
    path, states = hopper_file(tmp_path)
    data = read_hopper(path)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert np.array_equal(data.test.values.numpy(), states[8:])
    assert data.test.times[0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    low, high = states.min((0, 1)), states.max((0, 1))
    scaled = data.train.scaled(data.scaling).values.numpy()
    np.testing.assert_allclose(scaled, (states[:8] - low) / high, rtol=1e-5, atol=1e-6)
    assert np.abs(scaled - (states[:8] - low) / (high - low)).max() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min10k": None}, "min10k"),
        ({"states": np.zeros((3, 5), "f4")}, r"the arrays have shapes \(3, 5\)"),
        ({"max10k": np.zeros(13, "f4")}, "the arrays have shapes"),
        ({"states": np.zeros((3, 5, 14), "i4")}, "types int32"),
        ({"states": np.array([None])}, "cannot be read"),
    ],
)
def test_names_a_wrong_hopper_file(change, message, tmp_path):
    path, _ = hopper_file(tmp_path, **change)
    with pytest.raises(ValueError, match=rf"hopper.npz is not an .npz .*{message}"):
        read_hopper(path)


def test_names_a_damaged_hopper_file(tmp_path):
    path, states = hopper_file(tmp_path)
    whole = path.read_bytes()
    for content in (whole[:-500], b"", b"not found"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="it is no archive"):
            read_hopper(path)
    path.write_bytes(whole[:400] + bytes(200) + whole[600:])
    with pytest.raises(ValueError, match="cannot be read"):
        read_hopper(path)
    with path.open("wb") as file:
        np.save(file, states)
    with pytest.raises(ValueError, match="it is no archive"):
        read_hopper(path)


# ------------------------------------------------------------------ walks


def walk_file(folder, **change):
    arrays = {n: np.full((k, 6, 4), float(k)) for n, k in (("Xtr", 3), ("Xval", 1), ("Xtest", 2))}
    path = folder / "walks.mat"
    savemat(path, {k: v for k, v in {**arrays, **change}.items() if v is not None})
    return path


def test_keeps_the_split_of_the_walks(tmp_path):
    walks = read_mocap35(walk_file(tmp_path), step=0.05, dtype=torch.float64)
    for part, number in ((walks.train, 3), (walks.valid, 1), (walks.test, 2)):
        assert part.values.shape == (number, 6, 4)
        assert bool((part.values == number).all())
        assert part.values.dtype == torch.float64
        assert float(part.times[0, 2]) == pytest.approx(0.1)


def test_names_a_wrong_walk_file(tmp_path):
    with pytest.raises(ValueError, match=r"walks.mat is not a MATLAB file.*KeyError"):
        read_mocap35(walk_file(tmp_path, Xval=None))
    with pytest.raises(ValueError, match="the arrays have shapes"):
        read_mocap35(walk_file(tmp_path, Xtest=np.zeros((2, 6, 5))))
    path = walk_file(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        read_mocap35(path)
    with pytest.raises(ValueError, match="step must be positive"):
        read_mocap35(path, step=0.0)


# ------------------------------------------------------------------ tables

TABLE = """patient, day,dose ,level,age
b,12.5,1,NA,60
a,3,0.5,2,41
b,10,,7,60
a,1,,4,41

b,11,nan,-1e1,60
"""


@pytest.fixture
def table(tmp_path):
    def write(text=TABLE):
        path = tmp_path / "visits.csv"
        path.write_text(text, encoding="utf-8-sig")
        return path

    return write


def read(path, **change):
    arguments = {"id": "patient", "time": "day", "values": ["dose", "level"], **change}
    return read_csv(path, **arguments)


def test_reads_a_long_table_sorted_with_missing_entries(table):
    s = read(table(), factors=["age"])
    assert s.lengths.tolist() == [3, 2]  # b comes first
    assert s.times[0].tolist() == [10, 11, 12.5]
    assert s.times[1].tolist() == [1, 3, 3]
    assert s.mask[0].tolist() == [[False, True], [False, True], [True, False]]
    assert s.values[0].tolist() == [[0, 7], [0, -10], [1, 0]]
    assert s.factors["age"].tolist() == [60, 41]
    assert s.values.dtype == torch.float32


def test_reads_other_channels_clocks_and_delimiters(table):
    s = read(table(), values=["level"], shift=True, dtype=torch.float64)
    assert s.times[0].tolist() == [0, 1, 2.5]
    assert s.factors == {}
    one = read(table("t;x\n0;1\n2;3\n"), id=None, time="t", values=["x"], delimiter=";")
    assert one.values.shape == (1, 2, 1)


def test_large_times_keep_their_differences_when_shifted(table):
    text = "id,t,x\na,1700000000.25,1\na,1700000000.5,2\n"
    s = read_csv(table(text), id="id", time="t", values=["x"], shift=True)
    assert s.times.tolist() == [[0.0, 0.25]]
    with pytest.raises(ValueError, match="duplicate"):  # in float32 they are equal
        read_csv(table(text), id="id", time="t", values=["x"])


def test_writing_and_reading_again_gives_the_same(table):
    x = torch.randn(3, 5, 2, dtype=torch.float64, generator=stream(0, "csv"))
    rows = [
        f"s{i},{j / 4},{float(x[i, j, 0])!r},{float(x[i, j, 1])!r}"
        for i in range(3)
        for j in range(5)
    ]
    lines = ["id,t,a,b", *rows]
    s = read_csv(
        table("\n".join(lines)), id="id", time="t", values=["a", "b"], dtype=torch.float64
    )
    assert torch.equal(s.values, x)


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (TABLE, {"values": ["dose", "weight"]}, "no column, or several columns, weight; .* age"),
        ("day,day,patient,dose,level\n", {}, "several columns, day"),
        ("", {}, "no column"),
        ("patient,day,dose,level\n", {}, "there are no lines"),
        (TABLE, {"values": []}, "values must name at least one column"),
        (TABLE + "a,5,1\n", {}, "line 8: 5 columns are expected, got 3"),
        (TABLE + "a,5,one,2,41\n", {}, "line 8, dose: a number is expected, got 'one'"),
        (TABLE + "a,5,inf,2,41\n", {}, "line 8, dose: a finite number"),
        (TABLE + "a,NA,1,2,41\n", {}, "line 8: the time must be a number"),
        (TABLE + "a,3,1,2,41\n", {}, "sequence 'a' of .* has the time 3 in lines 3 and 8"),
        (TABLE + "c,3,,NA,41\n", {}, "sequence 'c' of .* has no observed entry"),
        (TABLE + "a,5,1,2,42\n", {"factors": ["age"]}, "sequence 'a' of .* factor"),
        (TABLE + "c,5,1,2,\n", {"factors": ["age"]}, "sequence 'c' of .* factor"),
        (TABLE + "c,-5,1,2,1\n", {}, "sequence 2: times must not be negative"),
    ],
)
def test_refuses_tables_and_says_where(text, change, message, table):
    with pytest.raises(ValueError, match=message):
        read(table(text), **change)


def test_refuses_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="path of a table"):
        read(tmp_path / "none.csv")


def test_missing_words_are_read_in_any_case(table):
    rows = "".join(f"a,{k},{word}\n" for k, word in enumerate(["NaN", "null", "None", ".", "n/A"]))
    s = read_csv(table("id,t,x\n" + rows + "a,9,1\n"), id="id", time="t", values=["x"])
    assert s.observed.tolist() == [1]
    assert not math.isnan(float(s.values.sum()))
