"""The app end to end at a few updates: report, records, exact resume, bad input."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.ltm.__main__ import main
from apps.ltm.settings import Variant

ROOT = Path(__file__).parents[3]
VARIANTS = Variant.__args__
TINY = shlex.split("""
--processes 1 --corpus.documents 60 --corpus.vocabulary 300 --model.width 16 --model.heads 2
--model.length 24 --model.window 8 --model.slots 2 --inference.steps 2 --train.iterations 3
--train.batch-size 4 --train.micro-batch 2 --train.warm-up 1 --evaluate.blocks 3
--evaluate.quick-blocks 2 --evaluate.steps 4 --evaluate.samples 2 --generate.samples 1
""")


def words(*extra: str) -> list[str]:
    return ["smoke", *TINY, *extra]


def record(out: Path, name: str) -> dict[str, Any]:
    """Returns a record without what a clock says."""
    found = json.loads((out / "cells" / f"{name}.json").read_text())
    for row in (found, *found["curve"]):
        del row["seconds"]
    found.pop("throughput", None)
    return found


def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(out / "cells" / f"{name}.state.pt", weights_only=True)["modules"]


def missing(value: object, path: str = "") -> list[str]:
    """Returns the paths of all numbers that are not finite."""
    if isinstance(value, dict):
        return [p for key, part in value.items() for p in missing(part, f"{path}.{key}")]
    if isinstance(value, list):
        return [p for part in value for p in missing(part, path)]
    bad = value is None or (isinstance(value, float) and not math.isfinite(value))
    return [path] if bad else []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all variants."""
    out = tmp_path_factory.mktemp("runs") / "all"
    main(words("--variants", *VARIANTS, "--out", str(out)))
    return out


def test_every_variant_leaves_a_complete_record_and_a_curve(finished: Path):
    names = {path.stem for path in (finished / "cells").glob("*.json")}
    assert names == {f"{variant}-0".replace("_", "-") for variant in VARIANTS}
    for name in names:
        found = record(finished, name)
        assert [row["step"] for row in found["curve"]] == [1, 2, 3]
        lines = (finished / "cells" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
        measured = {key: found[key] for key in ("curve", "held_out", "samples", "operations")}
        gaps = set(missing(measured))
        # an encoder takes no steps, so none are left over without data
        allowed = {".curve.valid_kl_floor", ".held_out.bounds.encoder.kl_floor"}
        assert gaps == (allowed if name == "amortised-0" else set())
        # three updates move the weights
        assert found["parameters"] > 0
        assert found["curve"][0]["norm"] > 0
        if name != "ar-0":
            ways = set(found["held_out"]["bounds"])
            assert "encoder" in ways if name == "amortised-0" else {"2", "4"} <= ways


def test_the_report_has_claims_tables_and_figures(finished: Path):
    found = json.loads((finished / "result.json").read_text())
    assert {claim["holds"] for claim in found["claims"]} <= {True, False}
    assert len(found["claims"]) > 10
    assert set(found["metrics"]) == set(VARIANTS)
    page = (finished / "report.html").read_text()
    for title in ("Training curves", "Against inference steps", "Perplexities"):
        assert title in page
    assert len(list(finished.rglob("*.svg")) + list(finished.rglob("*.png"))) > 3


def test_a_finished_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "result.json").read_bytes()
    with pytest.raises(SystemExit) as end:
        main(words("--variants", *VARIANTS, "--out", str(finished)))
    assert end.value.code == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before


def command(*extra: str) -> list[str]:
    return [sys.executable, "-m", "apps.ltm", *words(*extra)]


@pytest.mark.dist
@pytest.mark.parametrize(
    "ending", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_ended_in_training_resumes_to_the_same_bits(ending: int, tmp_path: Path):
    # Rows of the curve lie between checkpoints; the accumulated bank of warm starts is kept.
    more = "--variants fresh --train.warm-start True --train.iterations 80 --train.save-every 7"
    more += " --evaluate.every 20 --corpus.documents 40 --evaluate.steps 4 --model.dropout 0.1"
    flags = more.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    out = tmp_path / "cut"
    child = subprocess.Popen(
        command(*flags, "--out", str(out)),
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    state = out / "cells" / "fresh-0.state.pt"
    while not state.exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    child.send_signal(ending)
    child.wait()
    half = torch.load(state, weights_only=True)
    assert 0 < half["done"] < 80
    assert not (out / "result.json").exists()
    main(words(*flags, "--out", str(out), "--resume", "True"))
    main(words(*flags, "--out", str(tmp_path / "whole")))
    assert record(out, "fresh-0") == record(tmp_path / "whole", "fresh-0")
    cut, whole = (weights(path, "fresh-0") for path in (out, tmp_path / "whole"))
    for name, value in whole.items():
        assert torch.equal(cut[name], value), name
    # a wrong control: what was stored when it ended is told apart
    assert not all(torch.equal(half["modules"][name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seeds", "0"], "seeds must be positive"),
        (["--variants", "ar", "ar"], "variants must name each model once"),
        (["--train.lr", "0"], "train.lr must be positive"),
        (["--train.known", "0"], "train.known must be in (0, 1]"),
        (["--train.late", "1"], "train.late must be in [0, 1)"),
        (["--train.kl-warm-up", "-1"], "train.kl_warm_up must not be negative"),
        (["--train.iterations", "0"], "train.iterations must be positive"),
        (["--evaluate.blocks", "0"], "evaluate.blocks must be positive"),
        (["--evaluate.batch-size", "0"], "evaluate.batch_size must be positive"),
        (["--evaluate.steps", "0"], "evaluate.steps must be positive"),
        (["--evaluate.every", "-1"], "evaluate.every must not be negative"),
        (["--study.pieces", "nothing"], "unknown piece 'nothing' of the study"),
        (["--study.finalists", "nothing"], "unknown piece 'nothing' of the study"),
        (["--corpus.source", "books", "--corpus.shards", "13"], "corpus.shards must be in 1..12"),
        (["--corpus.source", "folder"], "corpus.folder names no folder"),
        (["--model.heads", "3"], "heads"),
        (["--inference.steps", "0"], "steps must be at least 1"),
        (["--train.batch-size", "100000"], "fill no step of batch_size"),
        (["--model.length", "100000"], "no block"),
        (["--trian.lr", "1"], "Perhaps you meant: --train"),
    ],
)
def test_mistakes_are_told_in_one_line(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(words("--variants", "ar", *flags, "--out", str(tmp_path / "run")))
    assert end.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "run").glob("cells/*"))


def test_an_unknown_command_is_told(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["zeroshot"])
    assert end.value.code == 2
    assert "unknown preset 'zeroshot'; there are: cpu, gpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--train.lr", "0.1"], "train.lr 0.003 -> 0.1"),
        (["--corpus.vocabulary", "310"], "corpus.vocabulary 300 -> 310"),
        (["--model.width", "32"], "model.width 16 -> 32"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_loses_nothing(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    main(words("--variants", "ar", "--out", str(out)))
    before = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    with pytest.raises(SystemExit) as end:
        main(words("--variants", "ar", *flags, "--out", str(out), "--resume", "True"))
    assert end.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name: path.read_bytes() for path in (out / "cells").iterdir()} == before


def test_a_damaged_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    main(words("--variants", "ar", "--out", str(out)))
    (out / "cells" / "ar-0.json").unlink()
    state = out / "cells" / "ar-0.state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(SystemExit) as end:
        main(words("--variants", "ar", "--out", str(out), "--resume", "True"))
    assert end.value.code == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_finished_run_gets_more_seeds(tmp_path: Path):
    out = tmp_path / "run"
    main(words("--variants", "ar", "--out", str(out)))
    before = record(out, "ar-0")
    main(words("--variants", "ar", "--out", str(out), "--resume", "True", "--seeds", "2"))
    assert json.loads((out / "result.json").read_text())["seeds"] == [0, 1]
    assert record(out, "ar-0") == before
