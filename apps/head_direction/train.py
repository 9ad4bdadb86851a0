"""One model from its sizes to its measures.

It runs on its own, in a process of its own where asked, and leaves its numbers in
`cells/<name>.json` and its weights beside them.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps._runner.checkpoint import write
from apps._runner.run import write_json
from apps.head_direction.cells import Cell
from apps.head_direction.evaluate import HeadTurns, evaluate
from apps.head_direction.settings import Settings
from lv_neuro import (
    AnalyticRing,
    HeadDirectionModel,
    PathIntegrator,
    RingAttractor,
    RnnSettings,
    SinCosRnn,
    Trainer,
    Training,
)
from lv_neuro.baselines import RnnTrainer

__all__ = ["build", "load_model", "read_record", "run_cell"]


def run_cell(
    cell: Cell, settings: Settings, folder: Path, turns: HeadTurns | None, device: str
) -> dict[str, Any]:
    """Trains and measures one cell, or returns what an earlier session found.

    Arguments:
        cell: What to run.
        settings: Of the run.
        folder: Folder of the cells; gets <name>.json and <name>.pt.
        turns: Segments of recorded head turns.
        device: "cpu" or "cuda".
    """
    path = folder / f"{cell.name}.json"
    if path.exists():
        return read_record(path)
    torch.set_num_threads(max(1, settings.threads))
    began = time.perf_counter()
    model, trained = _trained(cell, settings, folder, device)
    record = {
        **asdict(cell),
        "seeds": _seeds(settings),
        "parameters": _parameters(model),
        "training_seconds": round(trained, 2),
    } | evaluate(model, settings, turns, device)
    record["seconds"] = round(time.perf_counter() - began, 2)
    write_json(path, record)
    (folder / f"{cell.name}.state.pt").unlink(missing_ok=True)
    return read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a finished cell; what JSON calls null is no number, NaN."""
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    measured = ("report", "paths", "turns", "tuning")
    return record | {key: _with_nan(record[key]) for key in measured}


def load_model(record: Mapping[str, Any], folder: Path) -> HeadDirectionModel:
    """Returns the trained model of a finished cell, on the CPU."""
    model = HeadDirectionModel(**record["model"], seeds=record["seeds"])
    content = torch.load(folder / f"{record['name']}.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(content["model"])
    return model


def build(cell: Cell, settings: Settings) -> PathIntegrator:
    """Returns the model before training; raises a ValueError if its sizes cannot work."""
    seeds, ring = _seeds(settings), settings.ring
    if cell.kind == "analytic":
        width = ring.sigma / math.sqrt(2)
        return AnalyticRing.from_sigma(width, neurons=ring.neurons, bins=ring.bins)
    if cell.kind == "attractor":
        return RingAttractor(neurons=ring.neurons, bins=ring.bins)
    if cell.kind == "rnn":
        return SinCosRnn(RnnSettings(**cell.model), seeds=seeds)
    return HeadDirectionModel(**cell.model, seeds=seeds)


def _trained(
    cell: Cell, settings: Settings, folder: Path, device: str
) -> tuple[PathIntegrator, float]:
    """Returns the model, trained, and the seconds that took."""
    model = build(cell, settings)
    if isinstance(model, SinCosRnn):
        model.to(device)
        trainer = RnnTrainer(model)
        iterations = model.settings.iterations
        return model, _train(model, trainer, iterations, cell, settings, folder)
    if isinstance(model, HeadDirectionModel):
        model.to(device)
        training = Training(**cell.training)
        learning = Trainer(model, training)
        return model, _train(model, learning, training.iterations, cell, settings, folder)
    return model, 0.0


def _train(
    model: torch.nn.Module,
    trainer: Trainer | RnnTrainer,
    iterations: int,
    cell: Cell,
    settings: Settings,
    folder: Path,
) -> float:
    """Takes the updates that are left, with a checkpoint and a line of progress now and then."""
    path = folder / f"{cell.name}.state.pt"
    before = 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        trainer.load_state_dict(state["trainer"])
        before = state["seconds"]
    began = told = time.perf_counter()
    while trainer.done < iterations:
        losses = trainer.step()
        now = time.perf_counter()
        if trainer.done % settings.save_every == 0 and trainer.done < iterations:
            state = {"model": model.state_dict(), "trainer": trainer.state_dict()}
            write(path, state | {"seconds": before + now - began})
        if now - told > 15:
            told = now
            loss = losses if isinstance(losses, Tensor) else losses.total
            print(f"{cell.name}: {trainer.done}/{iterations}, loss {float(loss.mean()):.3g}")
    seconds = before + time.perf_counter() - began
    write(folder / f"{cell.name}.pt", {"model": model.state_dict()})
    return seconds


def _seeds(settings: Settings) -> list[int]:
    return [settings.seed + k for k in range(settings.seeds)]


def _parameters(model: PathIntegrator) -> int:
    """Returns the learned numbers of one seed."""
    if isinstance(model, HeadDirectionModel):
        return sum(p.numel() for p in model.parameters()) // len(model.seeds)
    return int(model.parameters_count)  # type: ignore[attr-defined]


def _with_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value
