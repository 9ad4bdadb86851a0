"""The app end to end at a few updates: report, exact resume, processes, bad input."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.ode_lebm.__main__ import main
from apps.ode_lebm.train import load_model, read_arrays

TINY = """
--data-sets.train 12 --data-sets.valid 4 --data-sets.test 14 --model.state 2 --model.static 2
--learning.iterations 6 --learning.batch-size 6 --model.field-hidden 8 --model.emission-hidden 8
--model.energy-hidden 8 --model.prior-steps 3 --evaluate.samples 5 --evaluate.encoder-draws 3
--evaluate.shown 2 --evaluate.inference.restarts 2 --evaluate.inference.steps 6
--evaluate.inference.polish 2 --evaluate.inference.draws 2 --evaluate.inference.thin 1
--processes 1
"""


def words(*extra: str) -> list[str]:
    return ["smoke", *shlex.split(TINY), *extra]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of model."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    more = "--systems sinusoid --seeds 2 --baselines monode gru --variants"
    more += " energy-static-mcmc energy-plain-mcmc gaussian-plain-encoder energy-static-short"
    main(words(*more.split(), "--out", str(out)))
    return out


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_writes_claims_figures_and_a_record_of_every_model(finished: Path):
    found = result(finished)
    assert found["seeds"] == [0, 1]
    assert {claim["holds"] for claim in found["claims"]} <= {True, False}
    assert any("static variables pay" in claim["claim"] for claim in found["claims"])
    names = {path.stem for path in (finished / "cells").glob("*.json")}
    assert {"sinusoid-monode-1", "sinusoid-gru-0", "sinusoid-trivial-0"} <= names
    numbers = found["metrics"]["sinusoid"]
    assert set(numbers) >= {"energy-static-mcmc", "hold_last", "linear_interpolation", "gru"}
    scored = numbers["energy-static-mcmc"]["tasks"]["25 seen"]
    assert len(scored["to 150"]["mse"]) == len(scored["coverage"]) == 2
    assert set(numbers["energy-static-mcmc"]["factors"]) == {"all", "static"}
    assert set(numbers["gaussian-plain-encoder"]["factors"]) == {"all"}
    page = (finished / "report.html").read_text()
    assert "no part of the published algorithm" in page


def test_pictures_are_forecast_exchanged_and_told_from_unseen_ones(tmp_path: Path):
    more = "--systems rotating_digits --variants energy-static-mcmc"
    main(words(*more.split(), "--out", str(tmp_path / "run")))
    digits = result(tmp_path / "run")["metrics"]["rotating_digits"]["energy-static-mcmc"]
    assert 0 < digits["swap"]["mse"][0] < 1
    assert 0 <= digits["outside"]["prior energy"][0] <= 1
    assert digits["tasks"]["15 seen"]["next turns"]["mse"][0] > 0
    assert "data:image/gif" in (tmp_path / "run" / "report.html").read_text()


def test_what_was_seen_is_not_scored_in_bands_and_truth_is_kept(finished: Path):
    arrays = read_arrays(finished / "cells", "sinusoid-energy-static-mcmc-0")
    assert arrays["task1/seen"].sum(1).tolist() == [25, 25]
    assert arrays["task1/low"].shape == arrays["task1/truth"].shape == (2, 150, 1)
    assert (arrays["task1/low"] <= arrays["task1/high"]).all()
    # all models forecast the same sequences
    other = read_arrays(finished / "cells", "sinusoid-gaussian-plain-encoder-1")
    assert np.array_equal(arrays["task1/truth"], other["task1/truth"])


def test_a_learned_model_can_be_loaded_again(finished: Path):
    model = load_model(finished / "cells", "sinusoid-energy-static-mcmc-0")
    arrays = read_arrays(finished / "cells", "sinusoid-energy-static-mcmc-0")
    made = model.mean(torch.from_numpy(arrays["best"][:2]), torch.arange(150) * 0.1)
    # what was measured is what was stored; sinusoids are not scaled
    assert torch.allclose(made, torch.from_numpy(arrays["task0/best"]), atol=1e-4)


def test_one_process_and_two_give_the_same_numbers(finished: Path, tmp_path: Path):
    more = "--systems sinusoid --variants energy-static-mcmc energy-plain-mcmc --processes 2"
    main([*words(*more.split()), "--out", str(tmp_path / "two")])
    name = "sinusoid-energy-static-mcmc-0.json"
    one, two = (
        json.loads((out / "cells" / name).read_text()) for out in (finished, tmp_path / "two")
    )
    assert one["tasks"] == two["tasks"]


def test_a_run_ended_in_learning_resumes_to_the_same_numbers(tmp_path: Path):
    more = "--systems sinusoid --variants energy-static-mcmc --learning.iterations 300"
    more += " --save-every 20"
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "apps.ode_lebm", *words(*more.split())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "cut")], cwd=root, env=environment, stderr=-3
    )
    state = tmp_path / "cut" / "cells" / "sinusoid-energy-static-mcmc-0.state.pt"
    for _ in range(1200):
        if state.exists() or child.poll() is not None:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = torch.load(state, weights_only=True)["learner"]["done"]
    assert 0 < done < 300
    main(words(*more.split(), "--out", str(tmp_path / "cut"), "--resume", "True"))
    main(words(*more.split(), "--out", str(tmp_path / "whole")))
    cut, whole = (
        json.loads((tmp_path / out / "cells" / f"{state.name.split('.')[0]}.json").read_text())
        for out in ("cut", "whole")
    )
    assert cut["tasks"] == whole["tasks"]
    assert [row["mse"] for row in cut["curve"]][-5:] == [row["mse"] for row in whole["curve"]][-5:]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seeds", "0"], "seeds must be positive"),
        (["--systems", "sinusoid", "sinusoid"], "name each one once"),
        (["--systems", "mocap"], "--data-sets.source files"),
        (["--variants", "energy-magic-mcmc"], "energy-magic-mcmc"),
        (["--learning.horizons", "0.5"], "horizons must be rising shares"),
        (["--model.state", "-3"], "state must be positive"),
        (["--data-sets.test", "-1"], "data_sets.test must not be negative"),
        (["--encoder-factor", "0"], "encoder_factor must be positive"),
        (["--short-factor", "0"], "short_factor must be positive"),
        (["--precision", "bf16"], "float32"),
    ],
)
def test_mistakes_are_told_in_one_line(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [] if flags[0] == "--systems" else ["--systems", "sinusoid"]
    with pytest.raises(SystemExit) as end:
        main([*words(*given), *flags, "--out", str(tmp_path / "run")])
    assert end.value.code == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "run").glob("cells/*.pt"))


@pytest.mark.data
def test_real_files_are_used(tmp_path: Path):
    more = "--systems hopper hopper_windows mocap rotating_digits --data-sets.source files"
    more += " --variants energy-static-mcmc --learning.iterations 2"
    main([*words(*more.split()), "--out", str(tmp_path / "run")])
    found = result(tmp_path / "run")["metrics"]
    # holding the last value is known for the whole test set of 400; here for the first few
    assert 0.02 < found["hopper"]["hold_last"]["tasks"]["66 seen"]["ahead"]["mse"][0] < 0.09
    assert found["mocap"]["energy-static-mcmc"]["tasks"]["3 seen"]["all"]["mse"][0] > 1
