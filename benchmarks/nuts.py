"""Effective samples a second of the no-U-turn samplers: ours, NumPyro's and Pyro's.

Every library adapts by itself and draws from the same posterior in float64; one function gives
the effective sample size of all, one table of reference values judges their means.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import markdown, progress
from benchmarks.nuts_versions import OURS, TARGETS, Result, installed
from lv_core.diagnostics import mcse_mean

__all__ = ["run"]

REFERENCES = Path(__file__).parents[1] / "packages" / "lv-core" / "tests" / "references"


def run(*, quick: bool = False) -> str:
    """Returns the tables of both posteriors."""
    warmup, draws, rounds = (200, 100, 1) if quick else (500, 500, 3)
    with one_core():
        tables = [_measure(name, warmup, draws, rounds) for name in TARGETS]
    return "\n\n".join(tables) + "\n\n" + _missing()


def deviation(name: str, draws: Tensor) -> float:
    """Returns the largest distance of a mean from the reference, in standard errors of both."""
    text = (REFERENCES / f"{name}.json").read_text(encoding="utf-8")
    expected = json.loads(text)["quantities"].values()
    mean = torch.tensor([q["mean"] for q in expected], dtype=torch.float64)
    error = torch.tensor([q["mcse_mean"] for q in expected], dtype=torch.float64)
    combined = (error.square() + mcse_mean(draws).square()).sqrt()
    return ((draws.mean((0, 1)) - mean).abs() / combined).max().item()


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process and JAX's threads on one core, in double precision."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    config = None
    if find_spec("jax"):
        from jax import config

        before = config.jax_enable_x64
        config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        if config is not None:
            config.update("jax_enable_x64", before)


def _measure(name: str, warmup: int, draws: int, rounds: int) -> str:
    title = TARGETS[name][0]
    versions = installed(name, warmup, draws)
    worst: dict[str, float] = {}
    results: dict[str, list[Result]] = {version: [] for version in versions}
    for version, call in versions.items():
        progress(f"{name}: first call of {version}")
        worst[version] = deviation(name, call(0).draws)
        # Times of a sampler that misses the posterior mean nothing.
        if not worst[version] < 6:
            raise SystemExit(f"{version} is {worst[version]:.1f} errors off on {name}")
    names = list(versions)
    for k in range(rounds):
        shift = k % len(names)
        for version in names[shift:] + names[:shift]:
            progress(f"{name}: round {k + 1} of {rounds}, {version}")
            results[version].append(versions[version](k + 1))
    rows = []
    for version, found in results.items():
        sampling = [r.ess / r.sampling for r in found]
        whole = [r.ess / (r.sampling + r.warmup) for r in found]
        rows.append(
            [
                version,
                f"{np.median([r.warmup for r in found]):.1f}",
                f"{np.median([r.sampling for r in found]):.1f}",
                f"{found[0].compilation:.1f}",
                f"{np.median([r.leapfrogs for r in found]):.1f}",
                f"{np.median([r.ess for r in found]):.0f}",
                f"{np.median(sampling):.0f}",
                f"{np.median(whole):.0f}",
                _times(results[OURS], found, lambda r: r.sampling),
                _times(results[OURS], found, lambda r: r.sampling + r.warmup),
                f"{worst[version]:.1f}",
            ]
        )
    header = [
        "version",
        "warm-up, s",
        "sampling, s",
        "compilation, s",
        "leapfrogs",
        "ESS",
        "ESS/s sampling",
        "ESS/s with warm-up",
        "lv 64 / this, sampling",
        "lv 64 / this, with warm-up",
        "worst mean, errors off",
    ]
    text = f"**{title}; {warmup} steps of warm-up, {draws} draws of each chain, {rounds} rounds.**"
    return f"{text}\n\n{markdown(header, rows)}"


def _times(ours: list[Result], other: list[Result], seconds: Callable[[Result], float]) -> str:
    """Returns the range over rounds of our rate over another one, taken in the same round."""
    ratios = [
        (a.ess / seconds(a)) / (b.ess / seconds(b)) for a, b in zip(ours, other, strict=True)
    ]
    return f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _missing() -> str:
    absent = [name for name in ("numpyro", "pyro") if not find_spec(name)]
    note = (
        "ESS: smallest bulk effective sample size of all scalars. Leapfrogs: gradients of one "
        "transition of one chain, the mean. Seconds are medians over rounds; ratios are medians "
        "with their range. Compilation is part of no rate."
    )
    if absent:
        note += f" Not installed and left out: {', '.join(absent)}."
    return note
