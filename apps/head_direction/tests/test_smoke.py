"""The app end to end at a few steps: report, exact resume, processes, bad input."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.head_direction.__main__ import main
from apps.head_direction.cells import plan
from apps.head_direction.settings import Settings, Sweep
from apps.head_direction.train import load_model

TINY = """
--rectified.iterations 30 --conv.iterations 30 --linear.iterations 20 --ring.bins 40
--ring.max-step 3 --ring.neurons 30 --ring.linear-neurons 20 --ring.kernel-width 11
--evaluate.walks 6 --evaluate.lengths 20 --evaluate.segments 4 --evaluate.seconds 2
--baselines.rnn-training.units 12 --baselines.rnn-training.iterations 10
--baselines.rnn_training.horizon 8 --save-every 10
""".replace("_", "-").split()


def words(*extra: str) -> list[str]:
    return ["smoke", *TINY, *extra]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two seeds, ablations, a sweep and the recurrent networks, in one process."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    more = "--seeds 2 --processes 1 --ablations True --baselines.rnn True --sweep.sigmas 0.8"
    more += " --sweep.neurons 20 --sweep.variants conv fc_table"
    main(words(*more.split(), "--out", str(out)))
    return out


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_writes_claims_figures_and_a_record_of_every_model(finished: Path):
    found = result(finished)
    assert found["seeds"] == [0, 1]
    assert {claim["holds"] for claim in found["claims"]} <= {True, False}
    assert any("below rnn-relu" in claim["claim"] for claim in found["claims"])
    names = {path.stem for path in (finished / "cells").glob("*.json")}
    assert {"fc-table", "conv", "linear-group", "rnn-relu", "rnn-tanh", "analytic"} <= names
    assert {"conv-sigma-0.8-neurons-20", "fc-table-anti-collapse-none"} <= names
    assert len(found["metrics"]["conv"]["path_error_T20_noise0.1"]) == 2
    page = (finished / "report.html").read_text()
    for title in ("Tuning curves", "Sweep", "Ablations", "Learned and recorded"):
        assert title in page
    assert "Ours are all settings" in page


def test_a_trained_model_can_be_loaded_again(finished: Path):
    record = json.loads((finished / "cells" / "conv.json").read_text())
    model = load_model(record, finished / "cells")
    assert model.codes.shape == (2, 40, 30)
    # what was measured is what was stored
    bumps = model.tuning().bumps_mean
    assert record["report"]["bumps"] == pytest.approx(bumps.tolist())


def test_one_process_and_two_give_the_same_numbers(finished: Path, tmp_path: Path):
    more = "--seeds 2 --processes 2 --ablations False --baselines.analytic False"
    main(words(*more.split(), "--out", str(tmp_path / "two")))
    for name in ("fc-table", "conv"):
        one, two = (
            json.loads((out / "cells" / f"{name}.json").read_text())
            for out in (finished, tmp_path / "two")
        )
        assert one["report"] == two["report"]
        assert one["paths"] == two["paths"]


def test_a_run_ended_in_training_resumes_to_the_same_numbers(tmp_path: Path):
    more = "--ablations False --baselines.analytic False --variants fc_table --processes 1"
    more += " --rectified.iterations 4000 --save-every 50"
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "apps.head_direction", *words(*more.split())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "cut")], cwd=root, env=environment, stderr=-3
    )
    state = tmp_path / "cut" / "cells" / "fc-table.state.pt"
    for _ in range(600):
        if state.exists() or child.poll() is not None:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = torch.load(state, weights_only=True)["trainer"]["done"]
    assert 0 < done < 4000
    main(words(*more.split(), "--out", str(tmp_path / "cut"), "--resume", "True"))
    main(words(*more.split(), "--out", str(tmp_path / "whole")))
    cut, whole = (
        json.loads((tmp_path / out / "cells" / "fc-table.json").read_text())
        for out in ("cut", "whole")
    )
    assert cut["report"] == whole["report"]
    assert cut["paths"] == whole["paths"]


def test_the_plan_holds_no_model_twice():
    cells = plan(Settings(sweep=Sweep(sigmas=(0.5, 0.65), neurons=(50, 100))))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert "fc-table-sigma-0.65-neurons-100" not in names  # the main model itself
    assert "linear-group-sigma-0.65-neurons-100" in names  # the main one has 50


def recording(path: Path, **changes: object) -> list[str]:
    """Writes a recording of five cells that turn through the circle; returns the flags."""
    x = np.linspace(0, 6.28, 4000)
    rates = np.exp(4 * np.cos(x[:, None] - np.arange(5)) - 4)
    arrays = {
        "counts": np.random.default_rng(0).poisson(rates),
        "heading": x,
        "bin_seconds": 0.02,
    }
    np.savez(path, **(arrays | changes))
    return ["--recorded.source", "file", "--recorded.path", str(path)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heading": np.linspace(0, 359, 4000)}, "look like degrees"),
        ({"heading": np.where(np.arange(4000) < 9, np.nan, 1.0)}, "--recorded.heading, .missing"),
        ({"heading": np.linspace(0, 3, 4000)}, "bins of heading were never visited"),
        ({"counts": np.ones((4000, 5), int)}, "no cell has a tuning curve"),
    ],
)
def test_a_recording_that_cannot_be_compared_with_is_told(
    changes: dict[str, object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = recording(tmp_path / "mine.npz", **changes)
    with pytest.raises(SystemExit):
        main(words(*flags, "--variants", "conv", "--out", str(tmp_path / "run")))
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_recording_of_your_own_is_compared_with(tmp_path: Path):
    flags = recording(tmp_path / "mine.npz")
    more = ["--variants", "conv", "--processes", "1", "--baselines.analytic", "False"]
    main(words(*flags, *more, "--out", str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["recorded"]
    assert found["cells"] == 5
    # tuning exp(4 cos) is 30 degrees wide
    assert 25 < found["tuning_sigma"] < 33


def test_an_nwb_recording_is_compared_with(tmp_path: Path):
    nap = pytest.importorskip("pynapple")
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries

    assert nap  # it reads the file
    rng, t = np.random.default_rng(0), np.arange(0, 80, 0.02)
    x = t * (6.28 / 80)
    file = NWBFile("made up", "lv", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    series = TimeSeries(name="head", data=x, unit="rad", timestamps=t)
    file.add_acquisition(series)
    for cell in range(3):
        times = t[rng.random(len(t)) < np.exp(4 * np.cos(x - 2 * cell) - 4)]
        file.add_unit(spike_times=times)
    with NWBHDF5IO(tmp_path / "mine.nwb", "w") as io:
        io.write(file)
    flags = ["--recorded.source", "file", "--recorded.path", str(tmp_path / "mine.nwb")]
    flags += ["--recorded.heading", "head", "--variants", "conv", "--processes", "1"]
    main(words(*flags, "--baselines.analytic", "False", "--out", str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["recorded"]
    assert found["cells"] == 3


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seeds", "0"], "seeds must be positive"),
        (["--ring.bins", "4"], "bins (N) must be at least 8"),
        (["--ring.neurons", "6"], "neurons (d) is too small for the kernel"),
        (["--ring.kernel-width", "10"], "kernel_width must be odd"),
        (["--ring.max-step", "20"], "max_step must lie between"),
        (["--recorded.source", "file"], "recorded.path names no file"),
        (["--ring.sigma", "37"], "is it in degrees"),
        (["--evaluate.noise", "0", "-0.1"], "no negative level"),
        (["--evaluate.noise", "0.1"], "evaluate.noise must hold 0"),
        (["--evaluate.seconds", "0"], "evaluate.seconds must be positive"),
        (["--variants", "conv", "conv"], "each model once"),
        (["--sweep.sigmas", "0.8"], "must both be given"),
        (["--precision", "bf16"], "float32"),
    ],
)
def test_mistakes_are_told_in_one_line(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(words("--processes", "1", *flags, "--out", str(tmp_path / "run")))
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in lines[-1]
    assert not list((tmp_path / "run").glob("cells/*.pt"))


def test_a_finished_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(words("--out", str(finished)))
    assert "holds a finished run" in capsys.readouterr().err
