"""What the figures of the report share: names, colors, axes, lines on the circle."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apps.head_direction.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "RECORDED",
    "Line",
    "Record",
    "band",
    "broken",
    "compass",
    "cyclic",
    "degrees",
    "figure",
    "in_group",
    "line_of",
    "numbers",
    "plain",
    "seeds_of",
    "spread",
    "thinned",
    "title_of",
]

Record = Mapping[str, Any]
"""What one cell found; see `cells.run_cell`."""

RECORDED = "#4d4d4d"
"""Color of recorded cells."""

WIDTH = 9.6
"""Inches: the width of the report's page."""

# Okabe and Ito's colors, which differ for color-blind readers too, then Tol's muted ones.
_COLORS = {
    "fc_table": "#0072b2",
    "conv": "#d55e00",
    "linear_group": "#009e73",
    "fc_taylor": "#332288",
    "additive": "#999933",
    "linear_poly": "#117733",
    "rnn-relu": "#cc79a7",
    "rnn-tanh": "#e69f00",
    "rnn-relu-matched": "#882255",
    "analytic": "#000000",
    "attractor": "#56b4e9",
}
_NAMES = {
    "fc_taylor": "fully connected, Taylor",
    "additive": "additive",
    "linear_poly": "linear, second order",
    "rnn-relu": "RNN, ReLU",
    "rnn-tanh": "RNN, tanh",
    "rnn-relu-matched": "RNN, ReLU, large",
    "analytic": "analytic ring",
    "attractor": "ring attractor",
}
_DASHES = {"main": "-", "analytic": (0, (1, 1.2)), "attractor": (0, (4, 1.5, 1, 1.5))}


class Line(NamedTuple):
    """How a model is drawn wherever it is a line."""

    color: str
    dashes: Any
    label: str


def title_of(record: Record) -> str:
    """Returns the name of a model or baseline in figures."""
    key = _key(record)
    return TITLES.get(key, _NAMES.get(key, key))


def line_of(record: Record, *, parameters: bool = False) -> Line:
    """Returns color, dashes and label, the same in every figure."""
    label = title_of(record)
    if parameters:
        count = record["parameters"]
        plural = "" if count == 1 else "s"
        label += f" ({count:,} parameter{plural})" if count else " (no parameters)"
    group = "main" if record["group"] == "main" else record["kind"]
    return Line(_COLORS.get(_key(record), "#888888"), _DASHES.get(group, (0, (4, 1.5))), label)


def in_group(records: Sequence[Record], *groups: str) -> list[Record]:
    """Returns the records of these groups, in their order."""
    return [record for record in records if record["group"] in groups]


def seeds_of(records: Sequence[Record]) -> str:
    """Returns how many seeds are behind a figure, for its caption."""
    count = max((len(record["seeds"]) for record in records), default=1)
    return "one seed" if count == 1 else f"{count} seeds"


def spread(records: Sequence[Record]) -> str:
    """Returns what lines and bands are, for a caption."""
    if all(len(record["seeds"]) == 1 for record in records):
        return "one seed"
    return f"lines are means over {seeds_of(records)}, bands run from the lowest to the highest"


def numbers(values: Iterable[float | None]) -> np.ndarray:
    """Returns values from JSON, where a NaN is null."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def figure(height: float, *, width: float = WIDTH) -> "Figure":
    """Returns an empty figure; what is rasterized in it gets 200 dots per inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def plain(ax: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Gives axes their words, small, and only two spines."""
    if ax.name != "polar":
        ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7)


def compass(ax: "Axes", *, axis: str = "x") -> None:
    """Ticks an axis of headings in degrees."""
    ticks = [0, 90, 180, 270, 360]
    if axis == "x":
        ax.set_xlim(0, 360)
        ax.set_xticks(ticks)
    else:
        ax.set_ylim(0, 360)
        ax.set_yticks(ticks)


def thinned(count: int, most: int = 120) -> slice:
    """Returns every n-th of so many rows that no more than `most` are left: files stay small."""
    return slice(None, None, max(1, -(-count // most)))


def cyclic() -> "Colormap":
    """Returns colors for headings: a closed loop without white, for color-blind readers too."""
    from matplotlib.colors import LinearSegmentedColormap

    loop = ["#2d2f7f", "#1f9ea3", "#e6b422", "#c2452d", "#2d2f7f"]
    return LinearSegmentedColormap.from_list("headings", loop)


def degrees(bins: int) -> np.ndarray:
    """Returns the headings of a grid in degrees."""
    return np.arange(bins) * (360 / bins)


def band(
    ax: "Axes", x: Sequence[float], rows: np.ndarray, line: Line, *, marker: str = ""
) -> None:
    """Draws the mean over seeds (rows) and a band from the lowest to the highest seed."""
    ax.plot(
        x,
        rows.mean(0),
        color=line.color,
        linestyle=line.dashes,
        label=line.label,
        linewidth=1.4,
        marker=marker,
        markersize=3.5,
    )
    if len(rows) > 1:
        color = {"facecolor": line.color, "edgecolor": "none"}
        ax.fill_between(x, rows.min(0), rows.max(0), alpha=0.2, **color)


def broken(x: np.ndarray, heading: np.ndarray, *, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns a line of wrapped headings (degrees), cut where it passes 0 or x has a gap."""
    cut = (np.abs(np.diff(heading)) > 180) | (np.diff(x) > gap)
    places = np.flatnonzero(cut) + 1
    return np.insert(x, places, np.nan), np.insert(heading, places, np.nan)


def _key(record: Record) -> str:
    return str(record["model"]["variant"] if record["kind"] == "model" else record["name"])
