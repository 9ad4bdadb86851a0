"""The run folder: what is refused, what is written, and that resuming changes nothing."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from apps._runner import Run, RunSettings, UserError

LOOP = Path(__file__).with_name("loop.py")
ROOT = Path(__file__).parents[3]


def load_loop():
    spec = importlib.util.spec_from_file_location("runner_test_loop", LOOP)
    module = importlib.util.module_from_spec(spec)
    sys.modules["runner_test_loop"] = module
    spec.loader.exec_module(module)
    return module


loop = load_loop()


@pytest.fixture
def presets(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "smoke.toml").write_text("# seconds\n")
    return folder


def start(out, **settings):
    return Run(
        RunSettings(out=str(out), **settings), app="made_up", preset="smoke", argv=["smoke"]
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def child(presets, *argv, command=(sys.executable,), **variables):
    environment = {
        **os.environ,
        "LOOP_PRESETS": str(presets),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.Popen(
        [*command, str(LOOP), *argv],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(presets, tmp_path):
    whole = loop.main(["--out", str(tmp_path / "whole")], presets)
    killed = child(presets, "--out", str(tmp_path / "killed"), "--kill-at", "12")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(lines(tmp_path / "killed")) == 13  # three of them younger than the checkpoint
    resumed = loop.main(["--out", str(tmp_path / "killed"), "--resume", "True"], presets)
    assert resumed["metrics"] == whole["metrics"]
    for a, b in zip(lines(tmp_path / "whole"), lines(tmp_path / "killed"), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    seconds = [line["seconds"] for line in lines(tmp_path / "killed")]
    assert seconds == sorted(seconds)
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("whole", "killed")]
    assert weights[0] == weights[1]
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert len(record["sessions"]) == 2
    assert "--resume True" in record["sessions"][1]["command"]
    other = loop.main(["--out", str(tmp_path / "other"), "--seed", "1"], presets)
    assert other["metrics"] != whole["metrics"]  # the comparison can fail


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.dist
def test_two_processes_write_one_folder(presets, tmp_path):
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    argv = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    pair = [
        child(presets, *argv, RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", **shared)
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(20))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["sessions"][0]["hardware"]["processes"] == 2
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert list(state["modules"]["net"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert ["report.html" in out for out, _ in told] == [True, False]


@pytest.mark.slow
@pytest.mark.dist
def test_processes_of_torchrun_resume_to_the_bit_and_refuse_together(presets, tmp_path):
    def both(*argv):
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
        process = child(presets, "--device", "cpu", *argv, command=torchrun)
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors

    assert both("--out", str(tmp_path / "whole"))[0] == 0
    assert both("--out", str(tmp_path / "killed"), "--kill-at", "12")[0] != 0
    assert both("--out", str(tmp_path / "killed"), "--resume", "True")[0] == 0
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("whole", "killed")]
    assert weights[0] == weights[1]
    status, errors = both("--out", str(tmp_path / "whole"))
    assert status != 0
    assert errors.count("holds a finished run; use --resume True or another --out") == 1


def test_a_finished_folder_is_refused(presets, tmp_path, capsys):
    argv = ["--out", str(tmp_path / "run"), "--steps", "2"]
    loop.main(argv, presets)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        loop.main(argv, presets)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"loop: {tmp_path / 'run'} holds a finished run; use --resume True or another --out\n"
    )


def test_an_unfinished_folder_is_refused(tmp_path):
    start(tmp_path / "run").save(1)
    with pytest.raises(UserError, match="unfinished run; use --resume True or another --out"):
        start(tmp_path / "run")
    start(tmp_path / "bare")
    with pytest.raises(UserError, match="no checkpoint yet: remove it or use another --out"):
        start(tmp_path / "bare")


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*; leave out --resume$"):
        start(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, damage):
    start(tmp_path).save(1, modules={"net": nn.Linear(50, 50)})
    path = tmp_path / "state.pt"
    good = path.read_bytes()
    path.write_bytes({"truncated": good[: len(good) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(UserError) as error:
        start(tmp_path, resume=True).load()
    assert str(error.value).startswith(f"{path} cannot be read as a checkpoint (")
    assert str(error.value).endswith("); remove it and start over, or choose another --out")


def test_a_checkpoint_cannot_run_code(tmp_path):
    start(tmp_path)

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save(Evil(), tmp_path / "state.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        start(tmp_path, resume=True).load()
    assert not (tmp_path / "owned").exists()


def test_a_foreign_file_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="is not a checkpoint of a run"):
        start(tmp_path, resume=True).load()


def test_a_checkpoint_of_other_settings_names_the_keys(tmp_path):
    start(tmp_path).save(1)
    # where and how fast it runs may change
    assert start(tmp_path, resume=True, threads=0, check=True).load() == {"step": 1}
    with pytest.raises(UserError, match="settings: precision 'fp32' -> 'bf16', seed 0 -> 1;"):
        start(tmp_path, resume=True, seed=1, precision="bf16").load()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    start(tmp_path).save(1, modules={"net": nn.Linear(2, 2)})
    run = start(tmp_path, resume=True)
    with pytest.raises(UserError, match="does not fit the model"):
        run.load(modules={"net": nn.Linear(2, 3)})
    with pytest.raises(UserError, match="no modules named prior; it has: net"):
        run.load(modules={"prior": nn.Linear(2, 2)})


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    run = start(tmp_path)
    run.save(1, value=1)
    with pytest.raises(TypeError, match=r"value\['x'\]\[0\] must consist of .* got object"):
        run.save(2, value={"x": [object()]})
    assert run.load() == {"step": 1, "value": 1}


def test_plain_values_come_back(tmp_path):
    run = start(tmp_path)
    assert run.load() is None
    values = {"a": np.float64(0.1), "b": np.arange(3), "c": [None, True, "x"], "d": {1: (2.5,)}}
    whole = torch.zeros(100_000)
    run.save(7, "best", values=values, view=whole[:3])
    found = run.load("best")
    assert found["step"] == 7
    assert found["values"]["a"] == 0.1
    assert torch.equal(found["values"]["b"], torch.arange(3))
    assert (found["values"]["c"], found["values"]["d"]) == ([None, True, "x"], {1: (2.5,)})
    assert (tmp_path / "best.pt").stat().st_size < 20_000  # not the storage behind the view


def test_loading_an_older_file_keeps_the_lines_of_the_youngest(tmp_path):
    run = start(tmp_path)
    run.log(0, loss=1.0)
    run.save(1, "first")
    run.log(1, loss=float("nan"))
    run.save(2)
    run.log(2, loss=3.0)
    again = start(tmp_path, resume=True)
    again.load("first")
    again.load()
    again.log(2, split="test", loss=4.0)
    again.load("first")  # after the first line nothing is dropped any more
    again.log(3, loss=5.0)
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, None, 4.0, 5.0]


def test_streams_depend_on_seed_and_names(tmp_path):
    first, second = start(tmp_path / "a"), start(tmp_path / "b", seed=1)
    draws = [
        torch.randn(3, generator=run.generator(*names))
        for run in (first, second)
        for names in (("x", 1), ("x", 1), ("x", 2))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
    first.reseed("dropout", 3)
    noise = torch.rand(3)
    first.reseed("dropout", 3)
    assert torch.equal(torch.rand(3), noise)


def test_batches_that_do_not_divide_are_refused(tmp_path):
    run = start(tmp_path)
    run.world = 3
    assert run.share(12) == 4
    with pytest.raises(UserError, match="batch size 10 does not divide by 3 processes"):
        run.share(10)


def test_asking_for_a_missing_gpu_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU; use --device cpu"):
        start(tmp_path, device="cuda")


def test_weights_carry_their_configuration(tmp_path):
    start(tmp_path).weights(nn.Linear(2, 3), {"sizes": [2, 3]})
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"]) == {"sizes": [2, 3]}
        assert file.get_tensor("weight").shape == (3, 2)


def test_progress_is_plain_lines_away_from_a_terminal(tmp_path, capsys):
    run = start(tmp_path)
    for step in run.steps(5, start=2, label="shift"):
        run.log(step, loss=0.123456)
    told = capsys.readouterr().err
    assert told.startswith("shift: 100%")
    assert "5/5" in told
    assert "loss=0.1235" in told
    assert "\r" not in told


def test_the_record_names_code_and_machine(tmp_path):
    start(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    session = record["sessions"][0]
    assert record["settings"]["seed"] == 0
    assert session["command"] == "python -m apps.made_up smoke"
    assert {"commit", "dirty", "started"} <= session.keys()
    assert {"python", "torch", "numpy", "lv-core"} <= session["versions"].keys()
    assert {"device", "cpu", "cores", "processes", "threads"} == session["hardware"].keys()
