"""The text of a run: own files, mistakes in them, and what a failed preparation leaves."""

import json
import lzma
import shlex
from pathlib import Path

import pytest

from apps._runner import UserError
from apps.ltm import data
from apps.ltm.__main__ import main
from apps.ltm.data import Text, prepare
from apps.ltm.settings import Corpus
from lv_core import stream
from lv_text import sample_documents

TINY = shlex.split("""
--corpus.source folder --variants ar --processes 1 --corpus.vocabulary 300 --model.width 16
--model.heads 2 --model.length 24 --model.window 8 --model.slots 2 --train.iterations 2
--train.batch-size 2 --train.micro-batch 2 --train.warm-up 1 --evaluate.blocks 2
--evaluate.quick-blocks 2 --evaluate.steps 4 --evaluate.samples 2 --generate.samples 0
""")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with texts in all three formats."""
    folder = tmp_path / "mine"
    folder.mkdir()
    texts = sample_documents(40, generator=stream(0, "mine"))
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "a.jsonl").write_text("".join(lines[:20]) + "\n")  # a blank line holds no text
    (folder / "b.txt").write_text(texts[20])
    (folder / "valid.jsonl.xz").write_bytes(lzma.compress("".join(lines[21:]).encode()))
    return folder


def run(mine: Path, out: Path, *extra: str) -> None:
    main(["smoke", *TINY, "--corpus.folder", str(mine), *extra, "--out", str(out)])


def test_a_run_on_own_files_reads_all_formats(mine: Path, tmp_path: Path):
    run(mine, tmp_path / "runs" / "one")
    (kept,) = (tmp_path / "runs" / "text").iterdir()
    text = Text(kept)
    vocabulary, store = text.vocabulary(), text.store("train", 24)
    assert vocabulary.size == 300
    record = json.loads((kept / "shards.json").read_text())
    counts = {
        name: sum(s["documents"] for s in v["shards"]) for name, v in record["splits"].items()
    }
    # without files named test, the valid ones stand in
    assert counts == {"train": 21, "valid": 19, "test": 19}
    first = vocabulary.decode(store.read(store.order(batch_size=1, seed=0).step(0)).x[0].tolist())
    assert isinstance(first, str)
    assert json.loads((tmp_path / "runs" / "one" / "result.json").read_text())["claims"] == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.jsonl", b'{"text": "good"}\n{"words": "bad"}\n', "c.jsonl, line 2: no JSON object"),
        ("c.jsonl", b'{"text": "good"}\n{"text": 3}\n', "c.jsonl, line 2: no JSON object"),
        ("c.jsonl", b"no json\n", "c.jsonl, line 1: no JSON object"),
        ("c.jsonl", b'{"text": "good"}\n\n{"text": "  "}\n', "line 3: the text is empty"),
        ("c.txt", b" \n", "c.txt is empty"),
        ("c.txt", b"caf\xe9", "c.txt is no UTF-8"),
        ("c.jsonl", b'{"text": "good"}\n{"text": "caf\xe9"}\n', "c.jsonl is no UTF-8"),
        ("c.jsonl.xz", lzma.compress(b'{"text": "good"}\n')[:40], "c.jsonl.xz is damaged"),
        ("c.jsonl.xz", b"not compressed", "c.jsonl.xz is damaged"),
    ],
)
def test_mistakes_in_files_are_told_in_one_line_and_can_be_mended(
    name: str,
    content: bytes,
    told: str,
    mine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    (mine / name).write_bytes(content)
    with pytest.raises(SystemExit) as end:
        run(mine, tmp_path / "runs" / "one")
    assert end.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "runs" / "text").iterdir())
    (mine / name).unlink()
    corpus = Corpus(source="folder", folder=str(mine), vocabulary=300)
    prepare(corpus, tmp_path / "runs" / "text" / "again", source=None, gpt2=None)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ((), "has no files for: valid, test, train"),
        (("valid.jsonl.xz",), "has no files for: train"),
        (("a.jsonl", "b.txt"), "has no files for: valid, test"),
    ],
)
def test_a_folder_without_texts_is_told(
    kept: tuple[str, ...],
    told: str,
    mine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    for path in mine.iterdir():
        if path.name not in kept:
            path.unlink()
    with pytest.raises(SystemExit) as end:
        run(mine, tmp_path / "one")
    assert end.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_texts_shorter_than_a_block_are_told(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (mine / "valid.jsonl.xz").unlink()
    (mine / "valid.txt").write_text("short")
    with pytest.raises(SystemExit) as end:
        run(mine, tmp_path / "one")
    assert end.value.code == 2
    assert "no block" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_preparation_that_was_killed_is_made_again(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    corpus = Corpus(source="folder", folder=str(mine), vocabulary=300)
    write, splits = data.write_texts, []

    def dying(*args: object, split: str) -> None:
        splits.append(split)
        if len(splits) == 2:
            raise Killed
        write(*args, split=split)

    monkeypatch.setattr(data, "write_texts", dying)
    folder = tmp_path / "text"
    with pytest.raises(Killed):
        prepare(corpus, folder, source=None, gpt2=None)
    assert not folder.exists()
    # what an earlier version, or a machine that was switched off, left in place
    folder.mkdir()
    (folder / "train-00000.bin").write_bytes(b"cut")
    prepare(corpus, folder, source=None, gpt2=None)
    assert len(Text(folder).store("train", 24)) > 5
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    prepare(corpus, folder, source=None, gpt2=None)  # once is enough
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_files_that_changed_since_are_not_taken_for_the_old_ones(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(mine, tmp_path / "runs" / "one")
    (mine / "b.txt").write_text("Something else was written here, and it is rather long.")
    with pytest.raises(SystemExit) as end:
        run(mine, tmp_path / "runs" / "two")
    assert end.value.code == 2
    assert "have changed since their text was prepared" in capsys.readouterr().err


def test_a_text_that_is_gone_is_told(mine: Path, tmp_path: Path):
    corpus = Corpus(source="folder", folder=str(mine), vocabulary=300)
    with pytest.raises(UserError, match="is not beside it"):
        data.reopen_text(tmp_path / "runs" / "one", corpus)
