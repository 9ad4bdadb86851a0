"""Figures of many models at once: the sweep and the ablations."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.head_direction.figure_style import (
    Record,
    figure,
    in_group,
    line_of,
    numbers,
    plain,
    seeds_of,
    title_of,
)
from apps.head_direction.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ablations", "sweep"]

BAD = "#f1f1f1"
"""Color of a cell without a model."""


def sweep(settings: Settings, records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws maps of sizes and kernel widths for each transformation; None without a sweep."""
    swept = in_group(records, "sweep")
    if not swept:
        return None
    longest = str(max(settings.evaluate.lengths))
    level = min((key for key in swept[0]["paths"] if key != "steps"), key=float)
    variants = list(dict.fromkeys(r["model"]["variant"] for r in swept))
    sigmas = sorted({r["model"]["sigma"] for r in swept})
    sizes = sorted({r["model"]["neurons"] for r in swept})
    kinds = {  # title: value of a record, color map, range, form, on an axis of logarithms
        "R$^2$ of the Gaussian fit": (
            _median("gaussian_r2_median"),
            "viridis",
            (0.5, 1),
            "{:.3f}".format,
        ),
        "bumps per neuron": (_median("bumps"), "viridis_r", (1, 2), "{:.2f}".format),
        f"error (deg), {longest} turns": (
            lambda r: float(np.median(r["paths"][level]["at"][longest])),
            "viridis_r",
            (0.1, 90),
            _short,
        ),
        "seeds with wrong winding": (
            _failures,
            "viridis_r",
            (0, len(swept[0]["seeds"])),
            "{:.0f}".format,
        ),
    }
    rows = 0.36 * len(sigmas) + 1.1
    fig = figure(rows * len(variants) + 0.2)
    axes = fig.subplots(len(variants), len(kinds), squeeze=False)
    for i, variant in enumerate(variants):
        # A model of the grid that is a main one already was not trained twice.
        found = [r for r in in_group(records, "main", "sweep") if _variant(r) == variant]
        for j, (title, (value, colors, ends, form)) in enumerate(kinds.items()):
            table = np.full((len(sigmas), len(sizes)), np.nan)
            for r in found:
                if r["model"]["sigma"] in sigmas and r["model"]["neurons"] in sizes:
                    place = sigmas.index(r["model"]["sigma"]), sizes.index(r["model"]["neurons"])
                    table[place] = value(r)
            _map(axes[i, j], table, colors, ends, form, logarithmic="error" in title)
            axes[i, j].set_xticks(range(len(sizes)), labels=[str(d) for d in sizes])
            axes[i, j].set_yticks(range(len(sigmas)), labels=[f"{s:g}" for s in sigmas])
            plain(axes[i, j], title if i == 0 else "")
            if i == len(variants) - 1:
                axes[i, j].set_xlabel("neurons d", fontsize=8)
        words = f"{title_of(found[0])}\nkernel width $\\sigma$ (rad)"
        axes[i, 0].set_ylabel(words, fontsize=8)
    return fig, (
        "Models of different kernel widths and population sizes: median R^2 of the Gaussian "
        f"fits, bumps per neuron, mean path-integration error after {longest} turns at noise "
        f"{level} (chance: 90 deg), and how many of the seeds do not wind exactly once around "
        f"their principal plane. Medians over {seeds_of(swept)}; yellow is good throughout; an "
        "empty cell was not trained."
    )


def ablations(settings: Settings, records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws what the main models and those without an ingredient reach; None without ablations."""
    removed = in_group(records, "ablation")
    if not removed:
        return None
    shown: list[tuple[Record, str]] = []
    for record in in_group(records, "main"):
        same = [r for r in removed if _variant(r) == _variant(record)]
        shown += [(record, title_of(record))] + [(r, _without(r, record)) for r in same]
    named = {id(record) for record, _ in shown}
    shown += [(r, f"{title_of(r)}: {_without(r, None)}") for r in removed if id(r) not in named]
    length = str(min(settings.evaluate.lengths))
    level = min((key for key in removed[0]["paths"] if key != "steps"), key=float)
    kinds = {
        "median R$^2$ of the Gaussian fit": [r["report"]["gaussian_r2_median"] for r, _ in shown],
        "bumps per neuron": [r["report"]["bumps"] for r, _ in shown],
        f"error after {length} turns (deg)": [r["paths"][level]["at"][length] for r, _ in shown],
    }
    fig = figure(0.32 * len(shown) + 1.0)
    axes = fig.subplots(1, len(kinds), sharey=True)
    places = np.arange(len(shown))[::-1]
    for ax, (title, values) in zip(axes, kinds.items(), strict=True):
        _bars(ax, places, [numbers(v) for v in values], [record for record, _ in shown])
        plain(ax, title)
    axes[0].set_xlim(0, 1.25)
    axes[0].set_xticks([0, 0.5, 1])
    axes[2].axvline(90, color="0.6", linewidth=0.7, linestyle=":")
    axes[0].set_yticks(places, labels=[label for _, label in shown], fontsize=8)
    for tick, (record, _) in zip(axes[0].get_yticklabels(), shown, strict=True):
        tick.set_fontweight("bold" if record["group"] == "main" else "normal")
    return fig, (
        "Main models (bold) and the same without one ingredient: bars and numbers are medians "
        f"over {seeds_of(removed)}, dots single seeds. Right: mean path-integration error at "
        f"noise {level}; the dotted line is chance (90 deg)."
    )


def _map(
    ax: "Axes",
    table: np.ndarray,
    colors: str,
    ends: tuple[float, float],
    form: Callable[[float], str],
    *,
    logarithmic: bool,
) -> None:
    """Draws a table with its numbers."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if logarithmic else Normalize)(*ends, clip=True)
    cmap = colormaps[colors].with_extremes(bad=BAD)
    ax.imshow(np.ma.masked_invalid(table), cmap=cmap, norm=norm, aspect="auto", origin="lower")
    ax.tick_params(length=0)
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            red, green, blue, _ = cmap(norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            words = form(value)
            color = "white" if dark else "black"
            ax.text(j, i, words, ha="center", va="center", fontsize=7, color=color)
        else:
            ax.text(j, i, "-", ha="center", va="center", fontsize=7, color="0.5")


def _bars(
    ax: "Axes", places: np.ndarray, values: Sequence[np.ndarray], records: Sequence[Record]
) -> None:
    middle = np.array([np.nanmedian(v) if np.isfinite(v).any() else np.nan for v in values])
    finite = np.concatenate(values)
    top = float(np.nanmax(finite)) if np.isfinite(finite).any() else 1.0
    for y, m, row, record in zip(places, middle, values, records, strict=True):
        color = line_of(record).color
        alpha = 0.85 if record["group"] == "main" else 0.4
        ax.barh(y, 0 if np.isnan(m) else m, height=0.68, color=color, alpha=alpha, linewidth=0)
        if len(row) > 1:
            ax.plot(row, [y] * len(row), "o", color="0.2", markersize=2)
        words = "undefined" if np.isnan(m) else _short(m)
        end = 0 if np.isnan(m) else float(np.nanmax(row))
        ax.text(end + 0.035 * top, y, words, va="center", fontsize=7)
    ax.set_xlim(0, 1.18 * top)
    ax.set_ylim(-0.6, len(records) - 0.4)
    ax.tick_params(axis="y", length=0)


def _without(record: Record, main: Record | None) -> str:
    """Returns what an ablation lacks."""
    model = record["model"]
    lacks = []
    if not model["non_negative"]:
        lacks.append("rates may be negative")
    if model["anti_collapse"] == "none":
        lacks.append("no anti-collapse loss")
    if model["anti_collapse"] == "isometry":
        lacks.append("short-range isometry loss")
    if model.get("renormalize") is False:
        lacks.append("no normalization")
    if main is not None and record["training"]["refine"] != main["training"]["refine"]:
        lacks.append("no refinement")
    return ", ".join(lacks) or str(record["name"])


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2f}"


def _median(name: str) -> Callable[[Record], float]:
    def value(record: Record) -> float:
        values = numbers(record["report"][name])
        return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")

    return value


def _failures(record: Record) -> float:
    winding = numbers(record["report"]["winding"])
    return float((np.abs(np.abs(winding) - 1) > 0.02).sum() + np.isnan(winding).sum())


def _variant(record: Record) -> str:
    return str(record["model"]["variant"])
