"""Several processes learn what one does, with copied and with sharded parameters."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from apps._runner import checkpoint
from apps.ltm.__main__ import main
from apps.ltm.cells import named
from apps.ltm.data import Text, prepare
from apps.ltm.learner import Learner
from apps.ltm.settings import Corpus, Settings, Train
from lv_text import Inference, ThoughtConfig

pytestmark = pytest.mark.dist

ROOT = Path(__file__).parents[3]
TINY = shlex.split("""
--processes 1 --corpus.documents 40 --corpus.vocabulary 300 --model.width 16 --model.heads 2
--model.length 24 --model.window 8 --model.slots 2 --inference.steps 2 --train.iterations 6
--train.batch-size 4 --train.micro-batch 2 --train.warm-up 1 --train.save-every 3
--evaluate.blocks 2 --evaluate.quick-blocks 2 --evaluate.steps 2 --evaluate.samples 2
--evaluate.every 2 --generate.samples 1
""")


def words(*extra: str) -> list[str]:
    return ["smoke", *TINY, *extra]


def launch(port: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of Python in two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return subprocess.run(
        [*start, f"--master_port={port}", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def torchrun(out: Path, port: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the app in two processes."""
    return launch(port, "-m", "apps.ltm", *words(*flags, "--out", str(out)))


def done(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stderr[-3000:]


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Checks weights and moments of two checkpoints."""
    assert first["modules"].keys() == second["modules"].keys()
    for key, value in first["modules"].items():
        torch.testing.assert_close(second["modules"][key], value, rtol=1e-4, atol=1e-5)
    moments = first["optimizer"]["state"]
    assert moments.keys() == second["optimizer"]["state"].keys()
    for key, state in moments.items():
        for part, value in state.items():
            found = second["optimizer"]["state"][key][part]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5)


def compare(one: Path, two: Path, *, names: tuple[str, ...]) -> None:
    """Checks curve, weights, moments and held-out numbers; what differs is rounding."""
    for name in names:
        first, second = (
            torch.load(out / "cells" / f"{name}.state.pt", weights_only=True) for out in (one, two)
        )
        same(first, second)
        records = [json.loads((out / "cells" / f"{name}.json").read_text()) for out in (one, two)]
        numbers = [flat({k: r[k] for k in ("curve", "held_out")}) for r in records]
        assert numbers[0].keys() == numbers[1].keys()
        for key, value in numbers[0].items():
            assert numbers[1][key] == pytest.approx(value, rel=2e-4, abs=1e-4), (name, key)


def flat(value: Any, path: str = "") -> dict[str, float]:
    """Returns all numbers by path, without seconds and without empty places."""
    if isinstance(value, dict):
        parts = [(str(key), part) for key, part in value.items() if key != "seconds"]
    elif isinstance(value, list):
        parts = [(str(place), part) for place, part in enumerate(value)]
    else:
        return {} if value is None else {path: float(value)}
    return {k: v for key, part in parts for k, v in flat(part, f"{path}.{key}").items()}


VARIANTS = ("ar", "fresh", "amortised")
WARM = ("--train.warm-start", "True", "--train.iterations", "14")
SLOW = ("fixed", "semi_amortised", "path_sum")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    main(words("--variants", *VARIANTS, "--out", str(out)))
    return out


@pytest.fixture
def names() -> tuple[str, ...]:
    return tuple(f"{variant}-0".replace("_", "-") for variant in VARIANTS)


@pytest.mark.slow
def test_copied_parameters_learn_what_one_process_learns(
    alone: Path, names: tuple[str, ...], tmp_path: Path
):
    done(torchrun(tmp_path / "two", 29611, "--variants", *VARIANTS))
    compare(alone, tmp_path / "two", names=names)
    assert (tmp_path / "two" / "report.html").exists()
    # a wrong control: another seed is told apart
    main(words("--variants", "ar", "--seed", "1", "--out", str(tmp_path / "other")))
    for path in (tmp_path / "other" / "cells").glob("ar-1*"):
        path.rename(path.with_name(path.name.replace("-1", "-0")))
    with pytest.raises(AssertionError):
        compare(alone, tmp_path / "other", names=("ar-0",))


@pytest.mark.slow
def test_sharded_parameters_learn_what_one_process_learns(
    alone: Path, names: tuple[str, ...], tmp_path: Path
):
    run = torchrun(tmp_path / "two", 29612, "--fsdp", "True", "--variants", *VARIANTS)
    done(run)
    compare(alone, tmp_path / "two", names=names)
    assert "UserWarning" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["False", "True"])
def test_other_variants_and_late_starts_do_so_too(fsdp: str, tmp_path: Path):
    flags = ["--variants", *SLOW, "--train.late", "0.4", "--train.known", "0.5"]
    main(words(*flags, "--out", str(tmp_path / "one")))
    done(torchrun(tmp_path / "two", 29613, *flags, "--fsdp", fsdp))
    names = tuple(f"{variant}-0".replace("_", "-") for variant in SLOW)
    compare(tmp_path / "one", tmp_path / "two", names=names)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["False", "True"])
def test_warm_starts_are_shared_by_all_processes(fsdp: str, tmp_path: Path):
    """In a second epoch most blocks fall to another process than in the first."""
    flags = ["--variants", "fresh", *WARM, "--train.batch-size", "16", "--train.micro-batch", "4"]
    flags += ["--inference.lr", "0.2", "--corpus.documents", "6"]
    main(words(*flags, "--out", str(tmp_path / "one")))
    done(torchrun(tmp_path / "two", 29614, *flags, "--fsdp", fsdp))
    compare(tmp_path / "one", tmp_path / "two", names=("fresh-0",))
    banks = [
        torch.load(tmp_path / out / "cells" / "fresh-0.state.pt", weights_only=True)["bank"]
        for out in ("one", "two")
    ]
    assert torch.equal(banks[0]["rows"]["mark"], banks[1]["rows"]["mark"])
    assert int(banks[0]["rows"]["mark"].max()) > 1  # there was a second visit
    held = banks[0]["rows"]["mark"] > 0
    one, two = (bank["rows"]["u"][held] for bank in banks)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


KINDS = ("copied", "sharded")
CROSSED = ("fresh", "semi_amortised")


def learner(variant: str, text: Text, *, fsdp: bool = False) -> Learner:
    settings = Settings(
        fsdp=fsdp,
        model=ThoughtConfig(width=16, heads=2, layers=2, length=24, window=8, slots=2),
        inference=Inference(steps=2),
        # latents begin after the checkpoint: some parameters have no moments in it
        train=Train(iterations=6, batch_size=4, warm_up=1, late=0.6, warm_start=True),
    )
    cell = named(settings, variant, 0, text.vocabulary().size)
    return Learner(cell, settings, text, Accelerator(cpu=True))


def go_on(made: Learner, path: Path, out: Path) -> None:
    """Loads a checkpoint of three updates, takes three more, and writes another."""
    made.load(checkpoint.read(path), path)
    for _ in range(3):
        made.step()
    store(made, out)


def store(made: Learner, path: Path) -> None:
    state = made.state()  # all processes take part
    if made.accelerator.is_main_process:
        checkpoint.write(path, state)
    made.accelerator.wait_for_everyone()


def in_two_processes(folder: Path) -> None:
    """What each process of the test below does."""
    text = Text(folder / "text")
    for variant in CROSSED:
        for kind in KINDS:
            made = learner(variant, text, fsdp=kind == "sharded")
            for _ in range(3):
                made.step()
            store(made, folder / f"{variant}-{kind}.pt")
        for kind in KINDS:
            for first in ("one", *KINDS):
                made = learner(variant, text, fsdp=kind == "sharded")
                path = folder / f"{variant}-{first}.pt"
                go_on(made, path, folder / f"{variant}-{first}-{kind}.pt")
    torch.distributed.destroy_process_group()


def test_checkpoints_of_one_of_copied_and_of_sharded_processes_load_in_each_other(tmp_path: Path):
    """Three updates by one kind, three by the next: as six by one process."""
    corpus = Corpus(source="sample", documents=40, vocabulary=300)
    prepare(corpus, tmp_path / "text", source=None, gpt2=None)
    text = Text(tmp_path / "text")
    for variant in CROSSED:
        whole = learner(variant, text)
        for update in range(6):
            if update == 3:
                store(whole, tmp_path / f"{variant}-one.pt")
            whole.step()
        store(whole, tmp_path / f"{variant}.pt")
    done(launch(29621, __file__, str(tmp_path)))
    for variant in CROSSED:
        for first in KINDS:
            path = tmp_path / f"{variant}-{first}.pt"
            go_on(learner(variant, text), path, tmp_path / f"{variant}-{first}-one.pt")
        expected = checkpoint.read(tmp_path / f"{variant}.pt")
        found = sorted(tmp_path.glob(f"{variant}-*-*.pt"))
        assert len(found) == 8
        for path in found:
            same(expected, checkpoint.read(path))
        half = checkpoint.read(tmp_path / f"{variant}-sharded.pt")
        with pytest.raises(AssertionError):  # a wrong control
            same(expected, half)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_told_once(tmp_path: Path):
    run = torchrun(tmp_path / "run", 29615, "--variants", "ar", "--train.batch-size", "3")
    assert run.returncode != 0
    told = [line for line in run.stderr.splitlines() if line.startswith("python -m apps.ltm:")]
    assert told == ["python -m apps.ltm: train.batch_size 3 does not divide by 2 processes"]


@pytest.mark.slow
def test_a_mistake_in_the_text_ends_all_processes(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").write_text(" ")
    (mine / "valid.txt").write_text("good")
    flags = ["--corpus.source", "folder", "--corpus.folder", str(mine), "--variants", "ar"]
    run = torchrun(tmp_path / "run", 29616, *flags)
    assert run.returncode != 0
    assert f"{mine / 'a.txt'} is empty" in run.stderr
    told = [line for line in run.stderr.splitlines() if line.startswith("python -m apps.ltm:")]
    assert len(told) == 1
    assert "apps/ltm" not in run.stderr.replace(str(mine), "")  # no traceback but torchrun's own


if __name__ == "__main__":
    in_two_processes(Path(sys.argv[1]))
