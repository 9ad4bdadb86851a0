"""Running the cells of a run: one after the other, or several at a time as processes."""

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from apps._runner import Run, UserError
from apps.head_direction.cells import Cell
from apps.head_direction.evaluate import HeadTurns
from apps.head_direction.settings import Settings
from apps.head_direction.train import run_cell

__all__ = ["run_cells"]


def run_cells(
    run: Run, settings: Settings, cells: Sequence[Cell], folder: Path, turns: HeadTurns
) -> list[dict[str, Any]]:
    """Runs the cells, several at a time as processes; finished ones are only read."""
    device, found = run.device.type, {}
    if settings.processes == 1 or device == "cuda":
        for number, cell in enumerate(cells, 1):
            found[cell.name] = run_cell(cell, settings, folder, turns, device)
            _tell(number, len(cells), found[cell.name])
        return [found[cell.name] for cell in cells]
    # Ctrl-C is handled here alone: the children are ended with the pool.
    old = signal.signal(signal.SIGTERM, _stop)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(settings.processes, mp_context=context, initializer=_child)
    try:
        futures = {
            pool.submit(run_cell, cell, settings, folder, turns, device): cell for cell in cells
        }
        for number, future in enumerate(as_completed(futures), 1):
            found[futures[future].name] = future.result()
            _tell(number, len(cells), found[futures[future].name])
    except BrokenProcessPool:
        raise UserError(
            "the process of a model was ended from outside (out of memory?); finished models are "
            "kept: go on with --resume True, perhaps with --processes 1"
        ) from None
    except BaseException:
        for child in (pool._processes or {}).values():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGTERM, old)
    return [found[cell.name] for cell in cells]


def _tell(number: int, total: int, record: dict[str, Any]) -> None:
    print(
        f"[{number}/{total}] {record['name']}: {record['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def _child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt
