"""Timing several versions of one piece of work in turns, and describing the machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

__all__ = ["Timings", "in_turns", "machine", "markdown", "matmul_rate", "progress"]

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds of every version in every repetition: name to an array of length `repetitions`."""

    seconds: Mapping[str, np.ndarray]

    def median(self, name: str) -> float:
        """Returns the median seconds of a version."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, reference: str) -> float:
        """Returns the median over repetitions of time(name) / time(reference).

        Both times of a quotient were taken in one repetition, seconds apart, so that what the
        machine's other users do cancels.
        """
        return float(np.median(self.seconds[name] / self.seconds[reference]))

    def spread(self, name: str, reference: str) -> str:
        """Returns the ratio with its quartiles, such as `0.52 (0.50-0.55)`."""
        low, middle, high = np.quantile(
            self.seconds[name] / self.seconds[reference], (0.25, 0.5, 0.75)
        )
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def in_turns(
    work: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    clock: Clock = time.process_time,
) -> Timings:
    """Times every version once a repetition, each repetition beginning with another one.

    Arguments:
        work: Name to a function that does the whole work; called once before the measurement.
        repetitions: Number of rounds.
        clock: CPU time of this process by default, which leaves out waiting for other processes.
    """
    names = list(work)
    for name in names:
        work[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        shift = repetition % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            work[name]()
            seconds[name].append(clock() - start)
        progress(f"repetition {repetition + 1} of {repetitions}")
    return Timings(seconds={name: np.array(values) for name, values in seconds.items()})


def matmul_rate(n: int = 512, *, repetitions: int = 15) -> float:
    """Returns the best rate of a float32 `n x n` product on one thread, operations a second."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    out = torch.empty(n, n)
    best = 0.0
    for _ in range(repetitions):
        start = time.process_time()
        for _ in range(4):
            torch.mm(a, b, out=out)
        best = max(best, 4 * 2 * n**3 / (time.process_time() - start))
    return best


def machine() -> str:
    """Returns one line that names processor, cores, library versions, date and load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{processor}, {os.cpu_count()} cores (1 thread used), "
        f"Python {platform.python_version()}, "
        f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}, load average {load}, "
        f"float32 product of two 512 x 512 matrices {matmul_rate() / 1e9:.0f} GFLOP/s"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def progress(text: str) -> None:
    """Shows on one line of the terminal how far the measurement is."""
    print(f"\r{text:60}", end="", flush=True)
