"""Where data is looked for, and what is said when it is damaged or missing."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from apps._runner import RunSettings, UserError, convert
from apps._runner import data as data_module
from apps._runner.data import checksums, registry, resolve
from apps._runner.run import Run

REAL_DATA = os.environ.get("LV_DATA", "")
NOWHERE = "http://127.0.0.1:9/x"  # nothing listens there


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LV_DATA", raising=False)
    monkeypatch.setattr(data_module, "cache_folder", lambda: tmp_path / "cache" / "lv")
    return tmp_path / "cache" / "lv"


TABLE = gzip.compress(b"smiles,logP\nC,0.6\nCC,1.0\n", mtime=0)
SETS = {
    "tiny": {
        "files": [
            {
                "name": "table.csv.gz",
                "bytes": len(TABLE),
                "sha256": sha256(TABLE),
                "column": "smiles",
                "column_sha256": sha256(b"C\nCC"),
            },
            {"name": "list.txt", "bytes": 6, "sha256": sha256(b"C\nCC\nC")},
        ],
        "sources": [{"name": "up.txt", "urls": [NOWHERE], "sha256": ""}],
        "converter": "tiny",
    }
}


def put(root, table=TABLE):
    folder = root / "tiny"
    folder.mkdir(parents=True)
    (folder / "table.csv.gz").write_bytes(table)
    (folder / "list.txt").write_bytes(b"C\nCC\nC")
    return folder


def test_looks_in_data_then_lv_data_then_the_cache(tmp_path, cache, monkeypatch):
    in_cache = put(cache)
    assert resolve("tiny", sets=SETS) == in_cache
    monkeypatch.setenv("LV_DATA", str(tmp_path / "shared"))
    assert resolve("tiny", sets=SETS) == in_cache  # LV_DATA lacks the set
    shared = put(tmp_path / "shared")
    assert resolve("tiny", sets=SETS) == shared
    own = put(tmp_path / "own")
    assert resolve("tiny", str(tmp_path / "own"), sets=SETS) == own


def test_an_unknown_set_lists_those_that_exist():
    with pytest.raises(UserError) as error:
        resolve("tinny", sets=SETS)
    assert str(error.value) == "unknown data set 'tinny'; there are: tiny"


def test_a_missing_set_offline_says_where_was_searched_and_what_to_provide(tmp_path, cache):
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        resolve("tiny", str(tmp_path / "own"), sets=SETS)
    told = str(error.value)
    assert told.startswith("data set tiny was not found; searched ")
    for place in (f"{tmp_path / 'own' / 'tiny'} (no table.csv.gz)", str(cache / "tiny"), NOWHERE):
        assert place in told
    assert "provide a folder tiny with table.csv.gz, list.txt in a folder given by --data" in told
    assert list(cache.iterdir()) == []  # nothing half made is left


def test_a_truncated_file_is_named(tmp_path):
    folder = put(tmp_path, TABLE[:-9])
    with pytest.raises(UserError) as error:
        resolve("tiny", str(tmp_path), sets=SETS)
    assert str(error.value) == (
        f"{folder / 'table.csv.gz'} has {len(TABLE) - 9} bytes, expected {len(TABLE)}; "
        "remove it, or replace it by the original"
    )


def test_a_wrong_checksum_names_file_found_and_expected(tmp_path):
    wrong = bytearray(TABLE)
    wrong[-10] ^= 1
    folder = put(tmp_path, bytes(wrong))
    with pytest.raises(UserError) as error:
        resolve("tiny", str(tmp_path), sets=SETS)
    assert str(error.value) == (
        f"{folder / 'table.csv.gz'} has sha256 {sha256(wrong)}, expected {sha256(TABLE)}; "
        "remove it, or replace it by the original"
    )


def test_a_converted_file_is_accepted_in_the_cache_by_its_column(tmp_path, cache):
    other = gzip.compress(b"smiles,logP\nC,0.7\nCC,1.0\n", mtime=0)  # another library's logP
    folder = put(cache, other)
    assert resolve("tiny", sets=SETS) == folder
    put(tmp_path / "own", other)
    with pytest.raises(UserError, match="expected"):
        resolve("tiny", str(tmp_path / "own"), sets=SETS)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (gzip.compress(b"smiles,logP\nC,0.6\nCN,1.0\n"), sha256(b"C\nCN")),
        (TABLE[:-9], "unreadable (EOFError)"),
        (b"no gzip", "unreadable (BadGzipFile)"),
    ],
)
def test_a_converted_file_with_other_content_is_refused(cache, table, found):
    put(cache, table)
    with pytest.raises(UserError) as error:
        resolve("tiny", sets=SETS)
    expected = sha256(b"C\nCC")
    assert f"column smiles has sha256 {found}, expected {expected}" in str(error.value)


def test_a_checksum_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    folder = put(tmp_path)
    resolve("tiny", str(tmp_path), sets=SETS)
    monkeypatch.setattr(data_module, "_sha256", lambda path: pytest.fail(f"hashed {path} again"))
    resolve("tiny", str(tmp_path), sets=SETS)
    (folder / "list.txt").write_bytes(b"C\nCN\nC")
    with pytest.raises(pytest.fail.Exception, match="hashed"):
        resolve("tiny", str(tmp_path), sets=SETS)


SMILES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)Nc1ccc(O)cc1",
    "C1CCCCCCC1",
    "CN1CCC[C@H]1c1cccnc1",
    "O=C(O)c1ccccc1O",
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
    "C1CC1",
    "N#CCc1ccccc1",
    "FC(F)(F)c1ccccc1",
    "CCN(CC)CC",
    "O=S(=O)(N)c1ccccc1",
    "Clc1ccncc1",
    "CCOC(=O)C",
    "C1CCNCC1",
    "c1ccc2[nH]ccc2c1",
    "CSC",
    "OCC(O)CO",
    "Brc1cccs1",
    "CC#N",
]


@pytest.fixture
def upstream(tmp_path):
    """Made-up upstream files of zinc250k and the registry that points to them."""
    selfies = pytest.importorskip("selfies")
    folder = tmp_path / "upstream"
    folder.mkdir()
    text = "".join(f"{smiles}\n" for smiles in SMILES).encode()
    with tarfile.open(folder / "zinc.txt.gz", "w:gz") as archive:
        member = tarfile.TarInfo("zinc.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    (folder / "test_5.txt").write_bytes(b"#smi logP\nCCO -0.001\n")
    split = sha256((folder / "test_5.txt").read_bytes())
    symbols = [s for x in SMILES for s in selfies.split_selfies(selfies.encoder(x))]
    alphabet = "".join(f"{key}\t{count}\n" for key, count in Counter(symbols).most_common())
    files = [
        {
            "name": "zinc250k_props.csv.gz",
            "bytes": 1,
            "sha256": "0",
            "column": "smiles",
            "column_sha256": sha256("\n".join(SMILES).encode()),
        },
        {"name": "sgds_test10k.txt", "sha256": split},
        {"name": "selfies_alphabet.txt", "sha256": sha256(alphabet.encode())},
    ]
    sources = [
        {
            "name": "zinc.txt.gz",
            "urls": [NOWHERE, (folder / "zinc.txt.gz").as_uri()],
            "sha256": "",
        },
        {
            "name": "sgds_test10k.txt",
            "urls": [(folder / "test_5.txt").as_uri()],
            "sha256": split,
        },
    ]
    return {"zinc250k": {"files": files, "sources": sources, "converter": "zinc250k"}}


def test_downloads_and_converts_zinc250k_into_the_cache(upstream, cache):
    pytest.importorskip("lv_molecule.oracles.properties")
    folder = resolve("zinc250k", sets=upstream)
    assert folder == cache / "zinc250k"
    with gzip.open(folder / "zinc250k_props.csv.gz", "rt") as file:
        lines = file.read().splitlines()
    assert lines[0] == "smiles,logP,SA,QED,n_large_rings,max_ring_excess,n_heavy,selfies_len"
    assert [line.split(",")[0] for line in lines[1:]] == SMILES
    octane = lines[1 + SMILES.index("C1CCCCCCC1")].split(",")
    assert octane[4:] == ["1", "2", "8", "10"]  # one ring of 8; 8 C + [Ring1] + its size
    benzene = lines[2].split(",")
    assert benzene[1] == "1.6866"  # Crippen's logP of benzene
    assert (
        resolve("zinc250k", sets={"zinc250k": {**upstream["zinc250k"], "sources": []}}) == folder
    )


def test_a_download_with_a_wrong_checksum_is_refused(upstream, cache):
    upstream["zinc250k"]["sources"][1]["sha256"] = "1" * 64
    with pytest.raises(UserError, match=r"zinc250k was not found; .*wrong checksum"):
        resolve("zinc250k", sets=upstream)


def test_a_damaged_download_is_named(upstream, tmp_path):
    archive = tmp_path / "upstream" / "zinc.txt.gz"
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match=r"zinc\.txt\.gz is no tar\.gz with zinc\.txt in it"):
        resolve("zinc250k", sets=upstream)


ARRAYS = {"counts": np.array([[0, 1], [2, 0]], np.uint8), "bin_s": np.float32(0.01)}
# sha256 of "bin_s <f4 ()\n", the bytes of 0.01, "counts |u1 (2, 2)\n" and 00 01 02 00
ARRAYS_SHA256 = sha256(
    b"bin_s <f4 ()\n" + struct.pack("<f", 0.01) + b"counts |u1 (2, 2)\n" + bytes([0, 1, 2, 0])
)


def npz_set(content):
    file = {"name": "a.npz", "bytes": 1, "sha256": "0", "arrays_sha256": ARRAYS_SHA256}
    entry = {"files": [file], "sources": [], "converter": "none"}
    buffer = io.BytesIO()
    content(buffer)
    return {"npz": entry}, buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_converted_npz_is_accepted_in_the_cache_by_its_arrays(tmp_path, cache, save):
    sets, content = npz_set(lambda file: save(file, **dict(reversed(ARRAYS.items()))))
    for folder in (cache / "npz", tmp_path / "own" / "npz"):
        folder.mkdir(parents=True)
        (folder / "a.npz").write_bytes(content)
    assert resolve("npz", sets=sets) == cache / "npz"
    with pytest.raises(UserError, match="bytes, expected 1"):
        resolve("npz", str(tmp_path / "own"), sets=sets)  # the user's own must be the original


@pytest.mark.parametrize(
    "arrays",
    [
        {**ARRAYS, "counts": ARRAYS["counts"].T},  # same bytes of another order
        {**ARRAYS, "counts": ARRAYS["counts"].ravel()},
        {**ARRAYS, "counts": ARRAYS["counts"].astype(np.int8)},
        {**ARRAYS, "more": np.zeros(1)},
    ],
)
def test_a_converted_npz_with_other_arrays_is_refused(cache, arrays):
    sets, content = npz_set(lambda file: np.savez(file, **arrays))
    (cache / "npz").mkdir(parents=True)
    (cache / "npz" / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"arrays have sha256 .*, expected {ARRAYS_SHA256}"):
        resolve("npz", sets=sets)


def test_a_truncated_npz_is_unreadable(cache):
    sets, content = npz_set(lambda file: np.savez(file, **ARRAYS))
    (cache / "npz").mkdir(parents=True)
    (cache / "npz" / "a.npz").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"unreadable \(BadZipFile\)"):
        resolve("npz", sets=sets)


@pytest.fixture
def recording(tmp_path):
    """A made-up dataHD.mat of two cells and the registry that points to it."""
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "upstream.mat"
    content = {
        "Qrun": np.array([[0, 1], [2, 0], [0, 0]], np.uint8),
        "Qrem": np.array([[1, 1]], np.uint8),
        "Qsws": np.zeros((9, 2), np.uint8),
        "angRun": np.array([[10.0, 0.5], [10.0, 0.5], [10.0256, 0.75]]),
        "prefHD": np.array([[1.0], [2.0]]),
        "hdTuning": np.array([[0.0, 1.0, 2.0], [np.pi, 3.0, 1 / 3], [0.0, 1.0, 2.0]]),
    }
    savemat(path, content)
    text = b"angle_rad,cell00_hz,cell01_hz\r\n0.000000,1.00000,2.00000\r\n"
    text += b"3.141593,3.00000,0.33333\r\n0.000000,1.00000,2.00000\r\n"
    source = {"name": "dataHD.mat", "urls": [path.as_uri()], "sha256": ""}
    files = [{"name": "adn_mouse_tuning_curves.csv", "sha256": sha256(text)}]
    entry = {"files": files, "sources": [source], "converter": "head_direction"}
    return content, path, {"head_direction": entry}


def test_converts_the_recording_of_head_direction_cells(recording, tmp_path):
    content, path, sets = recording
    resolve("head_direction", sets=sets)  # checks the table of tuning curves
    path.rename(path.with_name("dataHD.mat"))
    convert.head_direction(tmp_path, tmp_path)
    with np.load(tmp_path / "adn_mouse_population.npz") as arrays:
        assert np.array_equal(arrays["counts_run"], content["Qrun"])
        assert np.array_equal(arrays["counts_rem"], content["Qrem"])
        assert np.array_equal(arrays["hd_time_s"], content["angRun"][:, 0])
        assert np.array_equal(arrays["hd_rad"], np.float32([0.5, 0.5, 0.75]))
        assert np.array_equal(arrays["pref_hd_rad"], np.float32([1, 2]))
        assert np.array_equal(arrays["tuning_angle_rad"], np.float32([0, np.pi, 0]))
        assert np.array_equal(arrays["tuning_hz"], np.float32(content["hdTuning"][:, 1:]))
        assert arrays["bin_s"] == np.float32(0.01)


@pytest.mark.parametrize("damaged", [b"no MATLAB file at all", b""])
def test_a_damaged_recording_is_named(recording, damaged):
    _, path, sets = recording
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"dataHD\.mat is not what it was"):
        resolve("head_direction", sets=sets)


@pytest.mark.data
def test_the_real_recording_converts_to_the_registered_arrays(cache, tmp_path):
    pytest.importorskip("scipy")
    mirror = Path(REAL_DATA) / "head_direction"
    if not (mirror / "dataHD.mat").is_file():
        pytest.skip("this copy of the set lacks the upstream file dataHD.mat")
    entry = dict(registry()["head_direction"])
    (source,) = entry["sources"]
    entry["sources"] = [{**source, "urls": [(mirror / "dataHD.mat").as_uri()]}]
    folder = resolve("head_direction", sets={"head_direction": entry})
    assert folder == cache / "head_direction"
    name = "adn_mouse_population.npz"
    with np.load(folder / name) as made, np.load(mirror / name) as stored:
        assert sorted(made) == sorted(stored)
        for key in stored:
            assert made[key].dtype == stored[key].dtype
            assert np.array_equal(made[key], stored[key]), key
    assert data_module._arrays_sha256(mirror / name) == entry["files"][0]["arrays_sha256"]


def test_the_run_records_the_checksums(tmp_path, monkeypatch):
    put(tmp_path / "own")
    monkeypatch.setattr(data_module, "registry", lambda: SETS)
    settings = RunSettings(out=str(tmp_path / "run"), data=str(tmp_path / "own"))
    run = Run(settings, app="made_up", preset="smoke")
    assert run.data("tiny") == tmp_path / "own" / "tiny"
    assert sha256(TABLE) in (tmp_path / "run" / "run.json").read_text()


def test_the_registry_is_complete():
    for name, entry in registry().items():
        assert {"about", "licence", "converter", "files", "sources"} <= entry.keys(), name
        assert all(len(file["sha256"]) == 64 and file["bytes"] for file in entry["files"])
        assert all(source["urls"] for source in entry["sources"])


def test_a_set_without_a_download_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("LV_DATA", raising=False)
    monkeypatch.setattr(data_module, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(UserError, match=r"has no download; searched .*; provide a folder") as told:
        resolve("classic-books", str(tmp_path))
    assert "connect to the network" not in str(told.value)


def test_files_taken_as_they_are_are_downloaded_and_checked(tmp_path, monkeypatch):
    monkeypatch.delenv("LV_DATA", raising=False)
    monkeypatch.setattr(data_module, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "up.txt").write_text("text")
    digest = hashlib.sha256(b"text").hexdigest()
    entry = {
        "converter": "as_is",
        "files": [{"name": "up.txt", "bytes": 4, "sha256": digest}],
        "sources": [
            {"name": "up.txt", "urls": [(tmp_path / "up.txt").as_uri()], "sha256": digest}
        ],
    }
    folder = resolve("made_up", sets={"made_up": entry})
    assert (folder / "up.txt").read_text() == "text"


@pytest.mark.data
def test_the_real_sets_have_the_registered_checksums():
    for name, entry in registry().items():
        folder = resolve(name, REAL_DATA)
        assert checksums(name, folder) == {f["name"]: f["sha256"] for f in entry["files"]}
