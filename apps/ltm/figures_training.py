"""Figures of the training: costs and the divergence with its floor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.ltm.figures_style import (
    Line,
    Record,
    band,
    figure,
    key_below,
    line_of,
    numbers,
    plain,
    spread,
    thoughts,
)
from apps.ltm.results import by_variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["divergence", "training_curves"]

_PANELS = (
    ("nll", "training text: NLL\nat the latents found"),
    ("valid_nelbo_shared_noise", "held out: shared-noise\nnumber (NOT A BOUND)"),
    ("valid_nelbo", "held out: valid bound\n(fresh draws)"),
    ("valid_nll_posterior", "held out: NLL part\nof the valid bound"),
)
_DASHED, _DOTTED = (0, (4, 1.5)), (0, (1, 1.2))
_FLOOR = Line("#555555", "", "floor: what the fast steps leave without any data")
_SHOWN = 0.8
"""Share of the points that the vertical axis has room for: the first updates are far above."""


def training_curves(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws costs against updates and against training operations; None without curves."""
    kept = [record for record in records if record["curve"]]
    if not kept:
        return None
    fig = figure(5.8)
    axes = fig.subplots(2, len(_PANELS), sharey=True)
    heights = []
    for variant, group in by_variant([dict(record) for record in kept]).items():
        line = line_of(variant)
        steps, plain_model = _steps(group), group[0]["kind"] == "ar"
        for place, (name, _) in enumerate(_PANELS):
            # Without latents there is one held-out number, the exact NLL.
            named = "valid_nll" if plain_model and name != "nll" else name
            rows = _rows(group, named, steps)
            if not np.isfinite(rows).any():
                continue
            heights.append(rows[np.isfinite(rows)])
            dashes = _DASHED if plain_model else "-"
            band(axes[0, place], steps, rows, line, dashes=dashes)
            band(axes[1, place], _operations(group) * steps, rows, line, dashes=dashes)
    for place, (_, title) in enumerate(_PANELS):
        first = "nats per token" if place == 0 else ""
        plain(axes[0, place], title, "updates", first)
        plain(axes[1, place], "", "training operations (GFLOP)", first)
        axes[1, place].set_xscale("log")
        axes[1, place].xaxis.set_minor_formatter("")  # its labels would run into each other
        for ax in axes[:, place]:
            ax.grid(axis="y", color="0.92", linewidth=0.6)
    _cut(axes[0, 0], np.concatenate(heights))
    key_below(fig, axes.flat)
    return fig, (
        "Costs during training against updates (top) and against all operations spent in "
        "training, fast steps included (bottom). Dashed: the autoregressive model, whose held-out "
        "NLL is exact and stands in each of the three held-out panels. Where noise is "
        "shared over the fast steps, the shared-noise number scores with the very noise that "
        "inference has optimized against and bounds nothing: a curve of it below the dashed line "
        "is no gain in likelihood. The valid bound uses fresh "
        "draws (two on a few held-out blocks, hence noisy); its NLL part leaves the divergence "
        f"out and is no bound by itself. {spread(kept)} The first updates lie above the axis."
    )


def divergence(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws the held-out divergence and its floor during training; None without any."""
    groups = {
        name: group
        for name, group in thoughts([r for r in records if r["curve"]]).items()
        if np.isfinite(_rows(group, "valid_kl", _steps(group))).any()
    }
    if not groups:
        return None
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    fig = figure(2.3 * rows + 0.5)
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax, (variant, group) in zip(axes.flat, groups.items(), strict=False):
        line, steps = line_of(variant), _steps(group)
        kl, floor = (_rows(group, f"valid_{name}", steps) for name in ("kl", "kl_floor"))
        band(ax, steps, kl, line, label="KL(q, prior)")
        if np.isfinite(floor).any():
            band(ax, steps, floor, _FLOOR, dashes=_DOTTED)
            ax.fill_between(
                steps,
                floor.mean(0),
                kl.mean(0),
                facecolor="none",
                edgecolor=line.color,
                hatch="////",
                linewidth=0,
                alpha=0.35,
            )
        ax.set_ylim(bottom=0)
        plain(ax, line.label, "updates")
    for ax in axes[:, 0]:
        ax.set_ylabel("nats per token", fontsize=8)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    fig.legend(handles=_key(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return fig, (
        "Divergence of the posteriors from the prior on held-out blocks during training, and the "
        "floor that the same fast steps leave when there is nothing to learn. What lies above the "
        "floor (hatched) is all that latents can hold; a curve on its floor is posterior "
        "collapse. With noise shared over the steps more can hide in the noise than the "
        "divergence counts. An encoder alone has no floor but 0. Vertical scales differ. "
        f"{spread(records)}"
    )


def _key() -> list["Line2D"]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color="black", label="KL(q, prior), in the variant's color"),
        Line2D([], [], color=_FLOOR.color, linestyle=_DOTTED, label=_FLOOR.label),
    ]


def _steps(group: Sequence[Record]) -> np.ndarray:
    """Returns the updates at which all seeds were measured."""
    common = set.intersection(*({row["step"] for row in record["curve"]} for record in group))
    return np.array(sorted(common), dtype=float)


def _rows(group: Sequence[Record], name: str, steps: np.ndarray) -> np.ndarray:
    """Returns a number at these updates, a row per seed."""
    return np.stack(
        [
            numbers({row["step"]: row.get(name) for row in record["curve"]}[s] for s in steps)
            for record in group
        ]
    )


def _operations(group: Sequence[Record]) -> float:
    """Returns the operations of one update in units of 1e9."""
    return float(group[0]["operations"]["counted"] / group[0]["train"]["iterations"])


def _cut(ax: "Axes", values: np.ndarray) -> None:
    low, high = float(values.min()), float(np.quantile(values, _SHOWN))
    room = 0.06 * (high - low) or 0.1
    ax.set_ylim(low - room, high + room)
