"""The app end to end at a few steps: report, exact resume, two processes, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from apps.sgds.__main__ import main

TINY = """
--data-set.molecules 160 --data_set.holdout 32 --model.latent 8 --model.embedding 12
--model.hidden 24 --model.prior_hidden 16 --model.head_hidden 16 --inference.posterior_steps 2
--inference.prior_steps 3 --train.epochs 3 --train.batch_size 32 --train.save_every 4
--shift.pool 32 --shift.samples 32 --shift.batch_size 16 --shift.plogp.rounds 2
--shift.qed.rounds 1 --evaluate.molecules 16 --evaluate.targets 2 --evaluate.per_target 8
""".replace("_", "-").split()


def words(*extra: str) -> list[str]:
    return ["smoke", *TINY, *extra]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Keeps prepared molecules out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "straight"
    main(words("--out", str(out)))
    return out


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_writes_claims_report_and_oracle_log(finished: Path):
    found = result(finished)
    assert {claim["holds"] for claim in found["claims"]} <= {True, False}
    assert found["metrics"]["plogp.calls"][0] > 0
    lines = (finished / "oracle-plogp.jsonl").read_text().splitlines()
    assert len(lines) == found["metrics"]["plogp.calls"][0]
    page = (finished / "report.html").read_text()
    assert "Property density per round" in page
    assert "Best molecules: p-logP" in page


def test_a_run_cut_off_in_training_or_design_resumes_to_the_same_numbers(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from apps._runner import Run

    save, calls, dies = Run.save, [], []

    class Cut(BaseException):
        pass

    def dying(self, step, name="state", **rest):
        save(self, step, name, **rest)
        calls.append((name, step))
        if dies and dies[0] == (name, step):
            raise Cut

    monkeypatch.setattr(Run, "save", dying)
    out, extra = tmp_path / "cut", []
    for death in (("state", 4), ("plogp", 1), None):
        dies[:] = [death] if death else []
        try:
            main(words("--out", str(out), *extra))
        except Cut:
            extra = ["--resume", "True"]
    assert ("plogp", 1) in calls
    assert result(out)["metrics"] == result(finished)["metrics"]
    assert (out / "design.json").read_text() == (finished / "design.json").read_text()
    assert (out / "oracle-plogp.jsonl").read_bytes().count(b"\n") == (
        (finished / "oracle-plogp.jsonl").read_bytes().count(b"\n")
    )


def test_another_seed_gives_other_numbers(finished: Path, tmp_path: Path):
    main(words("--out", str(tmp_path / "other"), "--seed", "5"))
    assert result(tmp_path / "other")["metrics"] != result(finished)["metrics"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["smok"], "unknown preset 'smok'; there are: cpu, gpu, paper, smoke"),
        (["smoke", "--shift.tasks", "plogp_unlimited"], "add plogp to shift.tasks"),
        (["smoke", "--data-set.molecules", "9"], "but there are 9 training molecules"),
        (["smoke", "--shift.pool", "900"], "the first pool comes from the 256 held-out"),
        (["smoke", "--shift.tasks", "plogp_unlimited", "plogp"], "to shift.tasks, before it"),
        (["smoke", "--precision", "bf16"], "this app runs in float32 alone"),
        (["smoke", "--shift.plogp.max-length", "50"], "first pool have up to 72 symbols"),
        (["smoke", "--inference.step-size", "-1"], "inference.step_size must be positive, got -1"),
        (["smoke", "--trian.epochs", "2"], "Perhaps you meant: --train.epochs INT"),
    ],
)
def test_mistakes_end_in_one_line(argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main([*argv, "--out", str(tmp_path / "run")])
    assert error.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told


def test_a_finished_folder_is_refused(finished: Path, capsys):
    before = result(finished)
    with pytest.raises(SystemExit) as error:
        main(words("--out", str(finished)))
    assert error.value.code == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert result(finished) == before


def command(*extra: str) -> list[str]:
    return [sys.executable, "-m", "apps.sgds", *words(*extra)]


@pytest.mark.slow
def test_kill_nine_then_resume_equals_the_straight_run(finished: Path, tmp_path: Path):
    out = tmp_path / "killed"
    child = subprocess.Popen(command("--out", str(out)), stderr=subprocess.DEVNULL)
    while not (out / "state.pt").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "result.json").exists()
    subprocess.run(command("--out", str(out), "--resume", "True"), check=True)
    assert result(out)["metrics"] == result(finished)["metrics"]


@pytest.mark.slow
def test_several_seeds_make_one_report(finished: Path, tmp_path: Path):
    subprocess.run(command("--out", str(tmp_path / "all"), "--seeds", "2"), check=True)
    metrics = result(tmp_path / "all")["metrics"]
    assert metrics["seeds"] == [0, 1]
    assert metrics["plogp.top3"][0] == result(finished)["metrics"]["plogp.top3"][0]


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_learn_what_one_does(finished: Path, tmp_path: Path):
    out = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "29531"}
    subprocess.run(
        [*torchrun, "--master_port=29531", "-m", "apps.sgds", *words("--out", str(out))],
        check=True,
        env=environment,
    )
    states = [torch.load(p / "state.pt", weights_only=True) for p in (finished, out)]
    one, two = (state["modules"]["model"] for state in states)
    # The same numbers up to the order of summation over the batch.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-3, atol=2e-5, msg=name)
