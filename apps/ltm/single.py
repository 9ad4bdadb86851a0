"""One cell from training to its record, in this process or in one of its own."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from apps._runner.run import write_json
from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.evaluate import confirm, evaluate
from apps.ltm.operations import operations, throughput, used_parameters
from apps.ltm.samples import prior_texts
from apps.ltm.settings import Settings
from apps.ltm.train import train

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.utils import AutocastKwargs  # type: ignore[import-untyped]

__all__ = ["read_record", "run_cell"]


def run_cell(
    cell: Cell,
    settings: Settings,
    text: Text,
    folder: Path,
    device: str,
    accelerator: "Accelerator | None" = None,
) -> dict[str, Any]:
    """Trains and measures one cell, or returns what an earlier session found.

    Arguments:
        cell: What to run.
        settings: Of the run.
        text: Prepared text.
        folder: Folder of the cells; gets <name>.json, <name>.jsonl (curve) and <name>.state.pt.
        device: "cpu" or "cuda".
        accelerator: Of a run over several processes; None = made here.
    """
    path = folder / f"{cell.name}.json"
    if path.exists():
        return read_record(path)
    torch.set_num_threads(max(1, settings.threads))
    if accelerator is None:
        from accelerate import Accelerator

        precision = "bf16" if settings.precision == "bf16" else "no"
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    with accelerator.autocast(_uncached()):
        learner, curve, seconds = train(cell, settings, text, folder, accelerator)
        model, encoder = learner.whole()
        record = {
            **cell.record(),
            "parameters": used_parameters(
                cell, {name: p.numel() for name, p in model.named_parameters()}
            ),
            "seconds": round(seconds, 1),
            "tokens": cell.train.iterations * cell.train.batch_size * cell.model.length,
            "operations": operations(cell),
            "throughput": throughput(cell, seconds, learner.device, settings.precision),
            "curve": curve,
            "held_out": evaluate(cell, model, encoder, settings, text, learner.device),
            "samples": prior_texts(cell, model, settings, text, learner.device),
        }
        if settings.evaluate.test_blocks:
            record["test"] = confirm(cell, model, encoder, settings, text, learner.device)
    if accelerator.is_main_process:
        write_json(path, record)
    accelerator.wait_for_everyone()
    return read_record(path)


def _uncached() -> "AutocastKwargs":
    """Returns autocast that keeps no cast weights: over an update they would become stale."""
    from accelerate.utils import AutocastKwargs  # type: ignore[import-untyped]

    return AutocastKwargs(cache_enabled=False)


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a finished cell; what JSON calls null is no number, NaN."""
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    measured = ("curve", "held_out", "samples", "operations", "throughput", "test")
    return record | {key: _with_nan(record[key]) for key in measured if key in record}


def _with_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value
