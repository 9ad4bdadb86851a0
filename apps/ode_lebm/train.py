"""One cell from its sizes to its measures, in this process or in one of its own.

It leaves its numbers in `cells/<name>.json`, arrays for the figures in `cells/<name>.npz` and
its weights in `cells/<name>.pt`.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps._runner import checkpoint
from apps._runner.run import write_json
from apps.ode_lebm.cells import Cell, config_of, learning_of
from apps.ode_lebm.data import Bundle, load
from apps.ode_lebm.evaluate import Measured, evaluate
from apps.ode_lebm.forecasters import Chains, Encoder, Forecaster, Learned, WithoutModel
from apps.ode_lebm.settings import Settings
from lv_core import stream
from lv_dynamics import EnergyOde
from lv_dynamics.baselines import GruForecaster, GruSettings, MonodeLike
from lv_dynamics.learning import Learner

__all__ = ["load_model", "read_arrays", "read_record", "run_cell"]


def run_cell(
    cell: Cell, settings: Settings, files: Mapping[str, Path], folder: Path, device: str
) -> dict[str, Any]:
    """Learns and measures one cell, or returns what an earlier session found.

    Arguments:
        cell: What to run.
        settings: Of the run.
        files: Folders of real data, see `data.find_files`.
        folder: Folder of the cells.
        device: "cpu" or "cuda".
    """
    path = folder / f"{cell.name}.json"
    if path.exists():
        return read_record(path)
    torch.set_num_threads(max(1, settings.threads))
    began = time.perf_counter()
    data = load(cell.system, settings, files, cell.seed if settings.fresh_data else settings.seed)
    forecasters, learned = _learned(cell, settings, data, folder, device)
    found = [evaluate(cell.system, f, data, settings) for f in forecasters]
    measured = _merged(found, forecasters)
    record = {**cell.record(), **learned, **measured.numbers}
    record["total_seconds"] = round(time.perf_counter() - began, 2)
    np.savez_compressed(folder / f"{cell.name}.npz", **measured.arrays)
    write_json(path, record)
    (folder / f"{cell.name}.state.pt").unlink(missing_ok=True)
    return read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a finished cell; what JSON calls null is no number, NaN."""
    record: dict[str, Any] = _with_nan(json.loads(path.read_text("utf-8")))
    return record


def read_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Returns what a finished cell kept for figures."""
    with np.load(folder / f"{name}.npz") as content:
        return {key: content[key] for key in content.files}


def load_model(folder: Path, name: str) -> EnergyOde:
    """Returns the model of a finished cell, on the CPU."""
    return EnergyOde.load(folder / f"{name}.pt")


def _learned(
    cell: Cell, settings: Settings, data: Bundle, folder: Path, device: str
) -> tuple[list[Forecaster], dict[str, Any]]:
    """Returns what forecasts, and what is kept of its learning."""
    if cell.kind == "trivial":
        kinds = ("hold_last", "training_mean", "linear_interpolation", "constant_velocity")
        return [WithoutModel(kind, data) for kind in kinds], {"seconds": 0.0}
    config = config_of(cell, settings, data.train.obs_shape)
    learning = learning_of(cell, settings)
    train, valid = data.train.to(device), data.valid.to(device)
    if cell.kind == "ode":
        model = _made(config, cell.seed).to(device)
        learner = Learner(model, train, learning, seed=cell.seed, validation=valid)
        record = _fit(cell, learner, settings, folder, device)
        learner.load_best()
        model.save(folder / f"{cell.name}.pt")
        record["parameters"] = sum(p.numel() for p in model.parameters())
        if learner.recognition is not None:
            return [Encoder(model, learner.recognition, settings.evaluate, cell.seed)], record
        return [Chains(model, settings.evaluate, cell.seed)], record
    clock = _clock(device)
    began = clock()
    updates = round(settings.learning.iterations * settings.encoder_factor)
    told = _Progress(cell.name, updates)
    baseline: MonodeLike | GruForecaster
    if cell.variant == "monode":
        static = config_of(_as(cell, "gaussian-static-encoder"), settings, data.train.obs_shape)
        way = learning_of(_as(cell, "gaussian-static-encoder"), settings)
        baseline = MonodeLike(static, way)
        baseline.fit(train, seed=cell.seed, progress=told, validation=valid)
    else:
        baseline = GruForecaster(GruSettings(iterations=updates))
        baseline.fit(train, seed=cell.seed, progress=told)
    record = {"seconds": round(clock() - began, 2), "curve": told.rows}
    return [Learned(baseline, settings.evaluate, cell.seed)], record


def _as(cell: Cell, variant: str) -> Cell:
    return Cell(system=cell.system, variant=variant, seed=cell.seed, kind="ode")


def _made(config: Any, seed: int) -> EnergyOde:  # noqa: ANN401 - OdeConfig
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights").initial_seed())
        return EnergyOde(config)


def _clock(device: str) -> Callable[[], float]:
    """Returns a clock: time of the processor, which other work does not lengthen, or of a wall."""
    return time.process_time if device == "cpu" else time.perf_counter


def _fit(
    cell: Cell, learner: Learner, settings: Settings, folder: Path, device: str
) -> dict[str, Any]:
    """Takes the updates that are left, with checkpoints and lines of progress."""
    path = folder / f"{cell.name}.state.pt"
    before, told = 0.0, _Progress(cell.name, learner.settings.iterations)
    if path.exists():
        state = checkpoint.read(path)
        learner.load_state_dict(state["learner"])
        before, told.rows = float(state["seconds"]), state["rows"]
    clock = _clock(device)
    began = clock()
    while learner.done < learner.settings.iterations:
        told(learner.done + 1, learner.step())
        done = learner.done
        if done % settings.save_every == 0 and done < learner.settings.iterations:
            seconds = before + clock() - began
            content = {"learner": learner.state_dict(), "seconds": seconds, "rows": told.rows}
            checkpoint.write(path, content)
    return {
        "seconds": round(before + clock() - began, 2),
        "updates": learner.settings.iterations,
        "best_update": None if learner.best is None else learner.best["done"],
        "curve": told.rows,
        "words": learner.words(),
    }


class _Progress:
    """Lines of progress now and then, and means of the logs for the curves."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, list[float]] = {}
        self._began = self._told = time.perf_counter()

    def __call__(self, done: int, logs: Mapping[str, float]) -> None:
        for name, value in logs.items():
            if math.isfinite(value):
                self._sums.setdefault(name, []).append(value)
        if done % max(1, self.total // 50) == 0 or done == self.total:
            means = {name: sum(values) / len(values) for name, values in self._sums.items()}
            self.rows.append({"step": done, **means})
            self._sums = {}
        now = time.perf_counter()
        if now - self._told > 15:
            self._told = now
            shown = ", ".join(f"{k} {logs[k]:.3g}" for k in ("mse", "accept", "gap") if k in logs)
            print(f"{self.name}: {done}/{self.total}, {shown}", flush=True)


def _merged(found: list[Measured], forecasters: list[Forecaster]) -> Measured:
    """Returns the measures of one forecaster, or those of several by name."""
    if len(found) == 1:
        return found[0]
    numbers = {"several": {f.name: m.numbers for f, m in zip(forecasters, found, strict=True)}}
    arrays = {
        f"{f.name}/{key}": array
        for f, m in zip(forecasters, found, strict=True)
        for key, array in m.arrays.items()
    }
    return Measured(numbers, arrays)


def _with_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value
