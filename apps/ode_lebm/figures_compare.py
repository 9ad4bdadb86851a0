"""Figures that hold all variants against each other: errors by seed, and learning curves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.ode_lebm.figures_style import (
    INK,
    Record,
    Study,
    band,
    figure,
    key_below,
    line_of,
    log_ticks,
    plain,
    seeds_of,
    spread,
)
from apps.ode_lebm.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["all_variants", "blocks_shown", "learning_curves"]

COLUMNS = 3
PANELS = (
    ("mse", "MSE of training batches", "log"),
    ("validation", "validation error", "log"),
    ("sigma", "sigma of the noise", "log"),
    ("accept", "acceptance of the chains", "linear"),
    ("step_size", "step size of the chains", "log"),
    ("gap", "gap of the prior's tilt", "linear"),
    ("posterior_norm", "|z| of posterior latents", "linear"),
    ("prior_norm", "|z| of samples of the prior", "linear"),
)


def blocks_shown(tasks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns task and block of each panel: those of the first and last task, or one of each."""
    names = list(tasks)
    if any(len(tasks[name]["blocks"]) > 1 for name in names):
        names = list(dict.fromkeys((names[0], names[-1])))
    return [(name, block) for name in names for block in tasks[name]["blocks"]]


def all_variants(study: Study) -> tuple["Figure", str]:
    """Draws errors of everything, a point for each seed."""
    groups = {n: study.groups[n] for n in TITLES if n in study.groups}
    factor = 100 if study.system.startswith("hopper") else 1  # the unit that is published
    panels = blocks_shown(next(iter(groups.values()))[0]["tasks"])
    places = _places(list(groups))
    columns = 2 if len(panels) == 4 else min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    fig = figure((0.19 * max(places.values()) + 0.95) * rows)
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
    flat = list(axes.flat)
    for ax, (task, block) in zip(flat, panels, strict=False):
        values = {
            name: np.array([factor * r["tasks"][task]["blocks"][block]["mse"] for r in group])
            for name, group in groups.items()
        }
        _forest(ax, values, places)
        ax.grid(axis="x", linewidth=0.4, color="0.88")
        unit = "MSE x 100" if factor > 1 else "MSE"
        plain(ax, f"{task}: {block}", unit)
    labels = [line_of(n).label for n in groups]
    for ax in flat[len(panels) :]:
        ax.set_axis_off()
    axes[0, 0].set_yticks([places[n] for n in groups], labels=labels)
    axes[0, 0].set_ylim(max(places.values()) + 0.7, -0.7)
    return fig, (
        f"{study.title}: mean squared error of the forecast's mean, on logarithmic axes; less is "
        f"better. A small point is one seed (up to {seeds_of(groups)}), the bar their mean. "
        "Panels are what was seen and which rows are scored. Color says prior (orange, red: "
        "energy; blue: Gaussian) and inference (dark: chains, light: encoder), filled points "
        "are models with static variables, hollow ones without, circles chains, squares "
        "encoders. Rules without a model (crosses) have no seed; a number with an arrow is an "
        "error that lies beyond the axis; 0 is that of a rule that was shown every scored row."
    )


def _forest(ax: "Axes", values: Mapping[str, np.ndarray], places: Mapping[str, float]) -> None:
    """Draws a row for each variant; what is far beyond most models is a number at the edge."""
    means = {n: float(v.mean()) for n, v in values.items() if np.isfinite(v).all()}
    means = {n: mean for n, mean in means.items() if mean > 0} or {next(iter(values)): 1.0}
    models = [mean for n, mean in means.items() if line_of(n).marker != "X"]
    largest = 10 * float(np.median(models or list(means.values())))
    inside = [values[n] for n, mean in means.items() if mean <= largest]
    lowest = min(float(v.min()) for v in inside)
    highest = 1.15 * max(float(v.max()) for v in inside)
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.15, highest)
    log_ticks(ax.xaxis)
    words: dict[str, Any] = {"va": "center", "fontsize": 7, "color": INK}
    for name, found in values.items():
        mean = float(found.mean())
        if mean <= 0:
            ax.text(ax.get_xlim()[0], places[name], " ← 0", ha="left", **words)
        elif np.isnan(mean):
            ax.text(highest, places[name], "no number ", ha="right", **words)
        elif mean <= largest:
            _points(ax, found, places[name], name)
        else:
            shown = f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"
            ax.text(highest, places[name], f"{shown} → ", ha="right", **words)


def _places(variants: list[str]) -> dict[str, float]:
    """Returns heights, with gaps between chains, encoders, baselines and rules."""

    def kind(name: str) -> str:
        parts = name.split("-")
        learned = "baseline" if name in ("monode", "gru") else "rule"
        return parts[2] if len(parts) == 3 else learned

    places, place, last = {}, 0.0, kind(variants[0])
    for name in variants:
        place += 0.5 if kind(name) != last else 0.0
        places[name], last = place, kind(name)
        place += 1
    return places


def _points(ax: "Axes", values: np.ndarray, place: float, variant: str) -> None:
    line = line_of(variant)
    face = line.color if line.filled else "white"
    ax.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=line.color, linewidth=2.2)
    style = {"markerfacecolor": face, "color": line.color, "markersize": 4.5}
    ax.plot(values, np.full(len(values), place), line.marker, linestyle="", **style)


def learning_curves(study: Study) -> tuple["Figure", str] | None:
    """Draws what was logged while models learned; None where nothing was."""
    groups = {n: g for n, g in study.groups.items() if any(r.get("curve") for r in g)}
    panels = [p for p in PANELS if any(_curve(g, p[0]) is not None for g in groups.values())]
    if not panels:
        return None
    rows = -(-len(panels) // 4)
    fig = figure(1.9 * rows + 0.2 * -(-len(groups) // 3) + 0.3)
    axes = list(fig.subplots(rows, 4, squeeze=False, sharex=True).flat)
    for ax, (key, title, scale) in zip(axes, panels, strict=False):
        for variant, group in groups.items():
            found = _curve(group, key)
            if found is not None:
                band(ax, *found, line_of(variant), width=1.1)
        ax.set_yscale(scale)
        if scale == "log":
            log_ticks(ax.yaxis)
        plain(ax, title, "update")
        ax.tick_params(labelbottom=True)
    if "accept" in [p[0] for p in panels]:
        ax = axes[[p[0] for p in panels].index("accept")]
        ax.axhline(
            study.settings.learning.target_accept, color="0.6", linewidth=0.8, linestyle=":"
        )
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    key_below(fig, axes)
    return fig, (
        f"{study.title}: what was logged during learning, means over a fiftieth of all updates; "
        f"{spread(groups)}. MSE is that of training batches in the model's scaled units, with "
        "latents as learning had them, and over the prefix that the curriculum shows; validation "
        "error chooses among weights. The gap is the tilt at posterior latents minus that at "
        "samples of the prior: it should stay near zero, far from it the prior is not "
        "where the posterior is. Models without chains have no acceptance or step size, "
        "Gaussian priors no gap. The dotted line is the acceptance that step sizes aim at."
    )


def _curve(group: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns updates and a row for each seed, where all have both; None without any."""
    kept = [
        {row["step"]: row[key] for row in record.get("curve") or () if key in row}
        for record in group
    ]
    kept = [rows for rows in kept if rows]
    if not kept:
        return None
    steps = sorted(set.intersection(*(set(rows) for rows in kept)))
    if not steps:
        return None
    return np.array(steps), np.array([[rows[s] for s in steps] for rows in kept], dtype=float)
