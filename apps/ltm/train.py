"""The training of one cell, with its curve and its checkpoints."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from apps._runner import UserError, checkpoint
from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.evaluate import quick
from apps.ltm.learner import Learner, built
from apps.ltm.settings import Settings
from lv_text import ThoughtModel, check_vocabulary

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

__all__ = ["load_model", "train"]


def train(
    cell: Cell, settings: Settings, text: Text, folder: Path, accelerator: "Accelerator"
) -> tuple[Learner, list[dict[str, float]], float]:
    """Trains a cell, going on from its checkpoint if there is one.

    Returns:
        The learner, the curve (a row per quick evaluation), and the seconds of training alone.
    """
    path, curve = folder / f"{cell.name}.state.pt", folder / f"{cell.name}.jsonl"
    learner = Learner(cell, settings, text, accelerator)
    main = accelerator.is_main_process
    before, rows = 0.0, []
    # Sums since the last row, part of the checkpoint so that a resumed row has the same means.
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    if path.exists():
        state = checkpoint.read(path)
        learner.load(state, path)
        before, rows = float(state["seconds"]), state["rows"]
        sums, counts = state["sums"], state["counts"]
    total, first = cell.train.iterations, learner.done
    every = settings.evaluate.every or max(1, total // 10)
    began = told = time.perf_counter()
    outside = 0.0
    while learner.done < total:
        logs = learner.step()
        for name, value in logs.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
        now = time.perf_counter()
        if main and now - told > 15:
            told = now
            rate = (now - began - outside) / (learner.done - first)
            print(
                f"{cell.name}: {learner.done}/{total}, "
                + ", ".join(f"{k} {v:.4g}" for k, v in logs.items())
                + f", {rate:.2f} s an update",
                flush=True,
            )
        if learner.done % every == 0 or learner.done == total:
            row = {"step": learner.done, "seconds": before + now - began - outside}
            row |= {name: value / counts[name] for name, value in sums.items()}
            row |= {f"valid_{k}": v for k, v in quick(learner, settings, text).items()}
            rows.append(row)
            if main:
                _write_lines(curve, rows)
            sums, counts = {}, {}
            told = time.perf_counter()
            outside += told - now
        if learner.done % cell.train.save_every == 0 or learner.done == total:
            now = time.perf_counter()
            state = learner.state()
            if main:
                passed = before + now - began - outside
                more = {"seconds": passed, "rows": rows, "sums": sums, "counts": counts}
                checkpoint.write(path, {**state, **more})
            outside += time.perf_counter() - now
    if main:
        _write_lines(curve, rows)  # a curve may be younger than the checkpoint that was loaded
    return learner, rows, before + time.perf_counter() - began - outside


def load_model(folder: Path, name: str, text: Text) -> tuple[Cell, ThoughtModel, Any]:
    """Returns cell, model and encoder (or None) of a trained cell, on the CPU.

    Raises:
        UserError: If there is none, or the text has another vocabulary.
    """
    path = folder / f"{name}.state.pt"
    if not path.exists():
        names = sorted(p.name.removesuffix(".state.pt") for p in folder.glob("*.state.pt"))
        raise UserError(f"{folder} holds no model {name!r}; there are: {', '.join(names)}")
    state = checkpoint.read(path)
    cell = Cell.from_record(json.loads(state["cell"]))
    try:
        check_vocabulary(str(path), text.vocabulary(), state["vocabulary"])
    except ValueError as error:
        raise UserError(str(error)) from None
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in state["modules"].items():
        kind, _, name = key.partition(".")
        weights.setdefault(kind, {})[name] = value
    return cell, *built(cell, weights)


def _write_lines(path: Path, rows: list[dict[str, float]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
