"""Figures of forecasts of numbers: trajectories with bands, errors over time, prior samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.ode_lebm.figures_style import (
    INK,
    Record,
    Study,
    band,
    end_of_seen,
    figure,
    key_below,
    line_of,
    log_ticks,
    plain,
    spread,
    task_keys,
)
from apps.ode_lebm.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["error_curves", "generated", "trajectories"]

CHANNELS = {
    "predator_prey": ("prey", "predators"),
    "hopper": ("x", "height", "tilt", "joint 1", "joint 2", "joint 3", "joint 4"),
}
CHANNELS["hopper_windows"] = CHANNELS["hopper"]
SHOWN = {"hopper": (0, 1, 2, 4, 8), "hopper_windows": (0, 1, 2, 4, 8)}
MOST = 4  # channels of data sets of which nothing is known here
FEW = 3  # sequences


def trajectories(study: Study) -> tuple["Figure", str] | None:
    """Draws forecasts of a few test sequences; None for image data."""
    shown = study.main("task0/low", most=3)
    if not shown:
        return None
    first = study.arrays(next(iter(shown.values())))
    panels = _panels(study.system, first["task0/truth"])
    fig = figure(1.45 * len(panels) + 0.9)
    grid = fig.subplots(len(panels), len(shown), squeeze=False, sharex="row", sharey="row")
    for column, (variant, record) in zip(grid.T, shown.items(), strict=True):
        arrays = study.arrays(record)
        for ax, (label, sequence, channel) in zip(column, panels, strict=True):
            _forecast(ax, arrays, variant, sequence, channel)
            title = TITLES[variant] if ax is column[0] else ""
            plain(ax, title, "time" if ax is column[-1] else "", label if ax is grid[0, 0] else "")
    for row, (label, sequence, channel) in zip(grid, panels, strict=True):
        truth = first["task0/truth"][sequence, :, channel]
        room = 0.35 * float(np.ptp(truth)) or 1.0
        row[0].set_ylim(float(truth.min()) - room, float(truth.max()) + room)
        row[0].set_ylabel(label, fontsize=8)
    key_below(fig, grid[0], columns=6)
    task = task_keys(next(iter(shown.values())))[0][1]
    what = "channels of one test sequence" if panels[0][1] == panels[-1][1] else "test sequences"
    return fig, (
        f"{study.title}, task '{task}': forecasts of {what} by the first seed of each model. "
        "Gray is the truth, noise included; dots are the points that inference was given, the "
        "dotted vertical line is where they end. The line is the mean of the forecast; 90 % of "
        "the observations should lie in the band, which holds noise and uncertainty of the "
        "latents. Axes end a little beyond the truth: a band that leaves them is wider still."
    )


def _panels(system: str, truth: np.ndarray) -> list[tuple[str, int, int]]:
    """Returns label, sequence and channel of each row of panels."""
    count, channels = truth.shape[0], truth.shape[-1]
    names = CHANNELS.get(system, ())
    if channels == 1:
        return [(f"sequence {k + 1}", k, 0) for k in range(min(FEW, count))]
    if channels == 2:
        return [(f"{names[c]}, {k + 1}", k, c) for k in range(min(2, count)) for c in range(2)]
    chosen = SHOWN.get(system)
    if chosen is None:  # those that move most
        chosen = tuple(sorted(np.argsort(-truth[0].std(0), kind="stable")[:MOST].tolist()))
    return [(_channel(names, c), 0, c) for c in chosen]


def _channel(names: tuple[str, ...], place: int) -> str:
    if not names:
        return f"channel {place + 1}"
    half = len(names)
    return names[place] if place < half else f"{names[place - half]}, velocity"


def _forecast(
    ax: "Axes", arrays: dict[str, np.ndarray], variant: str, sequence: int, channel: int
) -> None:
    part = {key: arrays[f"task0/{key}"][sequence] for key in ("times", "seen")}
    value = {
        key: arrays[f"task0/{key}"][sequence, :, channel]
        for key in ("truth", "mean", "low", "high")
    }
    line, x, seen = line_of(variant), part["times"], part["seen"]
    ax.fill_between(
        x,
        value["low"],
        value["high"],
        facecolor=line.color,
        edgecolor="none",
        alpha=0.22,
        label="90 % band",
    )
    ax.plot(x, value["truth"], color="0.6", linewidth=1.1, label="truth")
    ax.plot(x, value["mean"], color=line.color, linewidth=1.2, label="forecast")
    ax.plot(x[seen], value["truth"][seen], ".", color=INK, markersize=2.6, label="seen")
    end = end_of_seen(arrays["task0/seen"], arrays["task0/times"])
    if end is not None:
        ax.axvline(end, color=INK, linewidth=0.7, linestyle=":")


def generated(study: Study) -> tuple["Figure", str] | None:
    """Draws sequences from the prior beside test sequences; None for image data."""
    shown = study.main("prior/values", most=3)
    kept = {name: study.arrays(record) for name, record in shown.items()}
    if not kept or any(a["prior/values"].ndim > 3 for a in kept.values()):
        return None
    first = next(iter(kept.values()))
    truth, horizon = first["task0/truth"], float(first["prior/times"].max())
    channels = sorted({channel for _, _, channel in _panels(study.system, truth)})[:3]
    fig = figure(1.7 * len(channels) + 0.5)
    grid = fig.subplots(len(channels), len(kept) + 1, squeeze=False, sharex=True, sharey="row")
    names = CHANNELS.get(study.system, ())
    headings = [TITLES[v].replace(" (", "\n(") if len(kept) > 2 else TITLES[v] for v in kept]
    for row, channel in zip(grid, channels, strict=True):
        label = _channel(names, channel) if truth.shape[-1] > 1 else "value"
        for times, values in zip(first["task0/times"], truth, strict=True):
            inside = times <= horizon
            row[0].plot(times[inside], values[inside, channel], color="0.45", linewidth=0.9)
        for ax, (variant, arrays) in zip(row[1:], kept.items(), strict=True):
            for values in arrays["prior/values"]:
                color = line_of(variant).color
                ax.plot(arrays["prior/times"], values[:, channel], color=color, linewidth=0.9)
        for ax, title in zip(row, ("test sequences", *headings), strict=True):
            title = title if row is grid[0] or row[0] is grid[0, 0] else ""
            below = "time" if row[0] is grid[-1, 0] else ""
            plain(ax, title, below, label if ax is row[0] else "")
        room = 0.2 * float(np.ptp(truth[..., channel])) or 1.0
        low, high = float(truth[..., channel].min()), float(truth[..., channel].max())
        row[0].set_ylim(low - room, high + room)
    return fig, (
        f"{study.title}: {len(truth)} test sequences (with their noise) and as many sequences "
        "drawn from the prior of each model's first seed, without noise, over the length of a "
        "training sequence. Samples should look like data in amplitude, "
        "frequency and variety; the numbers are in the table of latents and bands."
    )


def error_curves(study: Study) -> tuple["Figure", str] | None:
    """Draws errors over time of everything; None where sequences share no times."""
    records = {n: g for n, g in study.groups.items() if "task0/error" in study.arrays(g[0])}
    if not records:
        return None
    tasks = task_keys(next(iter(records.values()))[0])
    tasks = tasks if len(tasks) < 3 else [tasks[0], tasks[-1]]
    sides = _sides(records)
    fig = figure(2.5 * len(tasks) + 0.25 * -(-len(records) // 3) + 0.3)
    axes = fig.subplots(len(tasks), len(sides), squeeze=False, sharex="row", sharey="row")
    for row, (start, name) in zip(axes, tasks, strict=True):
        for ax, (heading, side) in zip(row, sides, strict=True):
            for variant, group in side.items():
                kept = [study.arrays(record) for record in group]
                x = kept[0][f"{start}error_times"]
                curves = np.stack([arrays[f"{start}error"] for arrays in kept])
                band(ax, x, _positive(curves), line_of(variant), width=1.1)
            end = end_of_seen(kept[0][f"{start}seen"], kept[0][f"{start}times"])
            if end is not None:
                ax.axvline(end, color=INK, linewidth=0.8, linestyle=":")
            ax.set_yscale("log")
            low, high = _reach(records, study, start)
            ax.set_ylim(low, high)
            log_ticks(ax.yaxis)
            title = f"{heading}: {name}"
            plain(ax, title, "time", "MSE" if ax is row[0] else "")
    key_below(fig, axes[0])
    return fig, (
        f"{study.title}: mean squared error over all test sequences at each time, logarithmic; "
        f"{spread(records)}. The dotted vertical line is where observation ends; without one, "
        "seen points lie all along. Left the variants of the model, right the default one "
        "against learned baselines and rules without a model, where a run has them. Truth "
        "holds noise, so no error goes below its variance; zeros (a rule at a seen point) are "
        "not drawn, and lines that leave the axes are worse still."
    )


def _sides(groups: dict[str, Sequence[Record]]) -> list[tuple[str, dict[str, Sequence[Record]]]]:
    """Returns heading and variants of the panels left and right."""
    models = {n: g for n, g in groups.items() if g[0]["kind"] == "ode"}
    rest = {n: g for n, g in groups.items() if n not in models}
    both = [("variants", models), ("against others", dict(list(models.items())[:1]) | rest)]
    return [(heading, side) for heading, side in both if side and (side is models or rest)]


def _reach(
    groups: Mapping[str, Sequence[Record]], study: Study, start: str
) -> tuple[float, float]:
    """Returns ends of the axis; a rule that is beyond all others does not count."""
    ends = []
    for group in groups.values():
        found = np.concatenate([study.arrays(record)[f"{start}error"] for record in group])
        found = found[np.isfinite(found) & (found > 0)]
        if len(found):
            ends.append(("several" in group[0], float(found.min()), float(found.max())))
    if not ends:
        return 0.1, 10.0
    models = [low for rule, low, _ in ends if not rule]
    most = sorted(high for _, _, high in ends)
    highest = most[-1] if len(most) < 3 else min(most[-1], 1.5 * most[-2])
    return 0.7 * min(models or [low for _, low, _ in ends]), 1.4 * highest


def _positive(curves: np.ndarray) -> np.ndarray:
    return np.where(curves > 0, curves, np.nan)
