"""Several seeds of one app side by side, one single-threaded process each."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from apps._runner.settings import UserError, flatten

__all__ = ["run_seeds", "summarise"]


def run_seeds(
    module: str, argv: Sequence[str], *, seeds: Sequence[int], out: Path, processes: int
) -> list[dict[str, Any]]:
    """Runs `python -m <module> <argv> --seed s --out <out>/seed-<s>` for each seed.

    Finished folders are skipped, unfinished ones resumed; what a child prints goes to log.txt
    in its folder. A line a minute tells how far they are. SIGINT and SIGTERM end the children.

    Arguments:
        module: For example "apps.sgds".
        argv: Words common to all, beginning with the preset.
        seeds: The seeds.
        out: Folder of the folders.
        processes: How many run at a time.

    Returns:
        The content of each result.json, in the order of `seeds`.

    Raises:
        UserError: If a child fails; names its log and the last line in it.
    """
    if processes < 1:
        raise UserError(f"processes must be positive, got {processes}")
    folders = {seed: Path(out) / f"seed-{seed}" for seed in seeds}
    old = signal.signal(signal.SIGTERM, _stop)
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        _run_all(module, argv, folders, processes, running)
    finally:
        signal.signal(signal.SIGTERM, old)
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait()
    return [json.loads((folder / "result.json").read_text("utf-8")) for folder in folders.values()]


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns mean, min, max, std (n - 1; 0 for one seed) and n of each numeric metric."""
    values: dict[str, list[float]] = {}
    for result in results:
        for key, value in flatten(result["metrics"]).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(key, []).append(float(value))
    return {
        key: {
            "mean": statistics.fmean(found),
            "min": min(found),
            "max": max(found),
            "std": statistics.stdev(found) if len(found) > 1 else 0.0,
            "n": len(found),
        }
        for key, found in values.items()
    }


def _run_all(
    module: str,
    argv: Sequence[str],
    folders: Mapping[int, Path],
    processes: int,
    running: dict[int, subprocess.Popen[bytes]],
) -> None:
    """Keeps `processes` children going until all are done; the caller ends those in `running`."""
    waiting = [seed for seed in folders if not (folders[seed] / "result.json").exists()]
    told = time.monotonic()
    while waiting or running:
        while waiting and len(running) < processes:
            seed = waiting.pop(0)
            running[seed] = _start(module, [*argv, "--seed", str(seed)], folders[seed])
        for seed in [seed for seed, child in running.items() if child.poll() is not None]:
            _collect(running.pop(seed).returncode, folders[seed])
        if time.monotonic() - told >= 60:
            told = time.monotonic()
            print(_status(folders), file=sys.stderr, flush=True)
        time.sleep(0.2 if running else 0)


def _start(module: str, argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", module, *argv, "--out", str(folder)]
    if any(folder.glob("*.pt")):
        words += ["--resume", "True"]
    else:  # ended before its first checkpoint: there is nothing to keep
        for name in ("run.json", "metrics.jsonl"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment)


def _collect(status: int, folder: Path) -> None:
    if status == 0 and (folder / "result.json").exists():
        return
    raise UserError(
        f"a seed ended with status {status}; see {folder / 'log.txt'}: {_last_line(folder)}"
    )


def _last_line(folder: Path) -> str:
    log = folder / "log.txt"
    lines = log.read_text("utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "nothing yet"


def _status(folders: Mapping[int, Path]) -> str:
    done = sum((folder / "result.json").exists() for folder in folders.values())
    live = [seed for seed, folder in folders.items() if not (folder / "result.json").exists()]
    told = "; ".join(f"{seed}: {_last_line(folders[seed])[-60:]}" for seed in live)
    return f"seeds {done}/{len(folders)} done; {told}"


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
