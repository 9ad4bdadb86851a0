"""Draws the figures of the documentation into _static: `python docs/figures.py`.

Everything measured is measured here; nothing is drawn that the pages do not print.
"""

import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from lv_core import (
    Hmc,
    Langevin,
    Mala,
    ParallelTempering,
    Underdamped,
    geometric_betas,
    stream,
)
from lv_core.targets import Mixture

STATIC = Path(__file__).parent / "_static"
BLUE, ORANGE, GREEN, RED, GREY = "#2a6fbb", "#d9822b", "#3c8d40", "#b8433f", "#8a8a8a"
mpl.rcParams.update(
    {
        "svg.hashsalt": "lv",  # the same file from the same numbers
        "figure.dpi": 110,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "white",  # legible on dark pages as well
    }
)


def normal(u: torch.Tensor) -> torch.Tensor:
    """Returns log N(u; 0, I) without its constant."""
    return -0.5 * u.square().sum(-1)


def save(figure: plt.Figure, name: str) -> None:
    """Writes a figure, without dates, so that unchanged figures are unchanged files."""
    metadata = {"Date": None} if name.endswith("svg") else {"Software": None}
    figure.savefig(STATIC / name, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def stationary_variance() -> None:
    """Variance on N(0, 1) against step size: formula and measurement."""
    start = torch.randn(20_000, 1, generator=stream(0, "start"))
    sizes = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]
    kernels = {
        "Langevin": (lambda s: Langevin(steps=150, step_size=s), BLUE, "o"),
        "Mala": (lambda s: Mala(steps=100, step_size=s), ORANGE, "s"),
        "Hmc, 3 leapfrog steps": (
            lambda s: Hmc(steps=40, step_size=s, leapfrog=3, jitter=0.2),
            GREEN,
            "^",
        ),
        "Underdamped (BAOAB)": (lambda s: Underdamped(steps=100, step_size=s), RED, "D"),
    }
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    fine = torch.linspace(0.05, 1.7, 200)
    axis.plot(fine, 1 / (1 - fine**2 / 4), color=BLUE, lw=1.2, label=r"formula $1/(1-s^2/4)$")
    axis.axhline(1, color=GREY, lw=0.8, ls="--", label="target")
    # Side by side, as the adjusted kernels and BAOAB all lie on the target's line.
    for shift, (name, (make, color, marker)) in zip(
        (0, -0.03, 0, 0.03), kernels.items(), strict=True
    ):
        ends = [make(s)(normal, start, generator=stream(1, name)).var().item() for s in sizes]
        axis.plot([s + shift for s in sizes], ends, marker, color=color, ms=5, label=name)
    axis.set(xlabel="step size $s$ (standard deviations of the target)", ylabel="variance")
    axis.set_ylim(0.8, 3.2)
    axis.legend()
    save(figure, "stationary-variance.svg")


def short_run_mean() -> None:
    """Mean of a chain from N(0, 1) to N(1, 1) against the number of steps."""
    start = torch.randn(20_000, 1, generator=stream(0, "start"))
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for s, color in ((0.4, BLUE), (0.2, GREEN), (0.1, ORANGE)):
        steps = torch.arange(0, 101)
        axis.plot(steps, 1 - (1 - s**2 / 2) ** steps, color=color, lw=1.2, label=f"s = {s}")
        trace = Langevin(steps=100, step_size=s).run(
            lambda u: normal(u - 1), start, generator=stream(2, "chain"), thin=10
        )
        measured = trace.u.mean((1, 2)) - start.mean() * (1 - s**2 / 2) ** steps[10::10]
        axis.plot(steps[10::10], measured, "o", color=color, ms=4)
    axis.plot([20, 60], [1 - 0.995**20, 1 - 0.92**60], "x", color=RED, ms=9, mew=2)
    axis.annotate("20 steps of 0.1", (20, 0.095), (27, 0.03), color=RED)
    axis.annotate("60 steps of 0.4", (60, 0.993), (52, 0.86), color=RED)
    axis.axhline(1, color=GREY, lw=0.8, ls="--")
    axis.set(xlabel="steps", ylabel="share of the way to the mean", ylim=(0, 1.05))
    axis.legend(loc="center right")
    save(figure, "short-run-mean.svg")


def tempering() -> None:
    """Ends of chains on a ring of eight normals, all started at one of them."""
    ring = Mixture.ring()
    start = ring.centers[:1].expand(400, 2)
    ladder = geometric_betas(5, 0.03)
    kernels = {
        "Mala, 600 steps": Mala(steps=600, step_size=0.5),
        "ParallelTempering, 600 steps": ParallelTempering(
            kernel=Mala(steps=1, step_size=0.5), betas=ladder, steps=600
        ),
    }
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.7), sharex=True, sharey=True)
    for axis, (name, kernel) in zip(axes, kernels.items(), strict=True):
        u = kernel(ring, start, generator=stream(1, "ring"))
        for x, y in ring.centers.tolist():
            axis.add_patch(plt.Circle((x, y), 1.0, color=GREY, alpha=0.2, lw=0))
        axis.plot(u[:, 0], u[:, 1], ".", color=BLUE, ms=3)
        axis.plot(start[0, 0], start[0, 1], "x", color=RED, ms=9, mew=2)
        axis.set(title=name, aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
    save(figure, "tempering.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    STATIC.mkdir(exist_ok=True)
    stationary_variance()
    short_run_mean()
    tempering()
    assert math.isclose(1 - 0.995**20, 0.0954, abs_tol=1e-4)
