"""What the figures of the report share: names, colors, axes, bands over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apps.ltm.results import TITLES, by_variant
from apps.ltm.scores import per_token
from apps.ltm.study import PIECES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Line",
    "Record",
    "band",
    "baseline",
    "figure",
    "key_below",
    "line_of",
    "numbers",
    "plain",
    "spread",
    "thoughts",
    "token_cost",
]

Record = Mapping[str, Any]
"""What one cell found; see `single.run_cell`."""

WIDTH = 9.6
"""Inches: the width of the report's page."""

# Okabe and Ito's colors, which differ for color-blind readers too, then Tol's muted ones.
_COLORS = {
    "ar": "#000000",
    "fixed": "#d55e00",
    "fresh": "#0072b2",
    "amortised": "#009e73",
    "semi_amortised": "#cc79a7",
    "path_sum": "#e69f00",
    "wide": "#882255",
}
_OTHERS = ("#56b4e9", "#332288", "#999933", "#117733", "#aa4499", "#888888")
_MARKERS = {
    "ar": "s",
    "fixed": "o",
    "fresh": "^",
    "amortised": "D",
    "semi_amortised": "v",
    "path_sum": "P",
    "wide": "X",
}


class Line(NamedTuple):
    """How a variant is drawn in every figure."""

    color: str
    marker: str
    label: str


def line_of(variant: str) -> Line:
    """Returns color, marker and label of a variant; those of a study get one by their name."""
    other = _OTHERS[sum(variant.encode()) % len(_OTHERS)]
    if variant in PIECES:  # too many for that: those beside each other in the table look alike
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        other = to_hex(colormaps["turbo"](0.05 + 0.9 * list(PIECES).index(variant) / len(PIECES)))
    return Line(
        _COLORS.get(variant, other), _MARKERS.get(variant, "."), TITLES.get(variant, variant)
    )


def thoughts(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records of models with latents by variant."""
    groups = by_variant([dict(record) for record in records])
    return {name: list(group) for name, group in groups.items() if group[0]["kind"] != "ar"}


def baseline(records: Sequence[Record]) -> list[Record]:
    """Returns the records of the autoregressive model, one per seed."""
    return [record for record in records if record["variant"] == "ar"]


def token_cost(costs: Mapping[str, Any], name: str) -> float:
    """Returns total nats per total tokens; NaN where nothing was measured."""
    if name not in costs or not sum(costs["tokens"]):
        return math.nan
    return per_token(dict(costs), name)


def spread(records: Sequence[Record]) -> str:
    """Returns what lines and bands are, for a caption."""
    count = max(len(group) for group in by_variant([dict(r) for r in records]).values())
    if count == 1:
        return "One seed each."
    return f"Lines are means over up to {count} seeds, bands run from the lowest to the highest."


def numbers(values: Iterable[float | None]) -> np.ndarray:
    """Returns values from JSON, where a NaN is null."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def figure(height: float, *, width: float = WIDTH) -> "Figure":
    """Returns an empty figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def plain(ax: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Gives axes their words, small, and only two spines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7)


def band(
    ax: "Axes",
    x: Sequence[float] | np.ndarray,
    rows: np.ndarray,
    line: Line,
    *,
    dashes: Any = "-",  # noqa: ANN401 - what matplotlib calls a line style
    marker: str = "",
    label: str | None = None,
    filled: bool = True,
) -> None:
    """Draws the mean over seeds (rows) and a band from the lowest to the highest seed."""
    ax.plot(
        x,
        rows.mean(0),
        color=line.color,
        linestyle=dashes,
        label=line.label if label is None else label,
        linewidth=1.4,
        marker=marker,
        markersize=4.5,
        markerfacecolor=line.color if filled else "white",
    )
    if len(rows) > 1:
        color = {"facecolor": line.color, "edgecolor": "none"}
        ax.fill_between(x, rows.min(0), rows.max(0), alpha=0.2, **color)


def key_below(fig: "Figure", axes: Iterable["Axes"], *, columns: int = 4) -> None:
    """Puts one legend of all axes below the figure."""
    seen = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            seen[label] = handle  # the last: open markers come first
    if seen:
        fig.legend(
            list(seen.values()),
            list(seen),
            loc="outside lower center",
            ncols=min(columns, len(seen)),
            fontsize=8,
            frameon=False,
        )
