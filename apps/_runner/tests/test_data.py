"""Where data is looked for, and what is said when it is damaged or missing."""

import gzip
import hashlib
import io
import os
import tarfile
from collections import Counter

import pytest

from apps._runner import RunSettings, UserError
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


@pytest.mark.data
def test_the_real_sets_have_the_registered_checksums():
    for name, entry in registry().items():
        folder = resolve(name, REAL_DATA)
        assert checksums(name, folder) == {f["name"]: f["sha256"] for f in entry["files"]}
