"""What the figures of the report share: a data set's records, colors, axes, bands over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apps.ode_lebm.results import TITLES
from apps.ode_lebm.settings import Settings
from apps.ode_lebm.systems import SYSTEMS
from apps.ode_lebm.train import load_model, read_arrays
from lv_dynamics import EnergyOde

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

__all__ = [
    "COLORMAP",
    "INK",
    "Line",
    "Record",
    "Study",
    "band",
    "end_of_seen",
    "figure",
    "key_below",
    "line_of",
    "log_ticks",
    "plain",
    "seeds_of",
    "spread",
    "task_keys",
]

Record = Mapping[str, Any]
"""What one cell found; see `train.run_cell`."""

INK = "#333333"
"""Color of what was observed."""

COLORMAP = "viridis"
"""For numbers, in color-blind readers' eyes as well."""

WIDTH = 9.6
"""Inches: the width of the report's page."""

# Okabe and Ito's colors, which differ for color-blind readers too, then Tol's muted ones. The
# color of a variant says prior and inference; solid and filled is static, dashed and hollow plain.
_PAIRS = {
    ("energy", "mcmc"): "#d55e00",
    ("gaussian", "mcmc"): "#0072b2",
    ("energy", "encoder"): "#e69f00",
    ("gaussian", "encoder"): "#56b4e9",
    ("energy", "short"): "#cc79a7",
}
_COLORS = {
    "monode": "#117733",
    "gru": "#882255",
    "hold_last": "#000000",
    "training_mean": "#777777",
    "linear_interpolation": "#999933",
    "constant_velocity": "#aaaaaa",
}
_DASHED = (0, (4, 1.5))
_RULES = {
    "hold_last": (0, (1, 1.2)),
    "training_mean": (0, (6, 1.5, 1, 1.5)),
    "linear_interpolation": (0, (2, 3)),
    "constant_velocity": (0, (1, 3)),
}


class Line(NamedTuple):
    """How a model or rule is drawn in every figure."""

    color: str
    dashes: Any
    marker: str
    filled: bool
    label: str


@dataclass(frozen=True)
class Study:
    """The records of one data set and what their cells kept."""

    system: str
    groups: Mapping[str, Sequence[Record]]
    """By variant, one per seed, models first and rules without a model last."""
    folder: Path
    """Of the cells."""
    settings: Settings
    read: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """What has been read or made already."""

    @property
    def title(self) -> str:
        """Name of the data set."""
        return SYSTEMS[self.system].title

    @property
    def clock(self) -> float:
        """Model time over data time."""
        return SYSTEMS[self.system].clock

    def arrays(self, record: Record) -> dict[str, np.ndarray]:
        """Returns what a cell kept for figures; of a rule without a model its own part."""
        name = str(record["name"])
        if name not in self.read:
            self.read[name] = read_arrays(self.folder, name)
        if "several" not in record:
            return self.read[name]
        start = f"{record['variant']}/"
        return {
            key.removeprefix(start): array
            for key, array in self.read[name].items()
            if key.startswith(start)
        }

    def model(self, record: Record) -> EnergyOde:
        """Returns the model of a cell, on the CPU."""
        return load_model(self.folder, str(record["name"]))

    def first(self, key: str, *names: str) -> dict[str, Record]:
        """Returns the first seed of variants whose cells kept an array.

        Arguments:
            key: Name of the array, or how it begins.
            *names: Variants, in this order; none = all models with latents.
        """
        wanted = names or tuple(n for n, g in self.groups.items() if g[0]["kind"] == "ode")
        found = {n: self.groups[n][0] for n in wanted if n in self.groups}
        return {n: r for n, r in found.items() if any(k.startswith(key) for k in self.arrays(r))}

    def main(self, key: str, most: int = 2) -> dict[str, Record]:
        """Returns the first seeds of the variants worth looking at one by one.

        Arguments:
            key: Array that they must have kept.
            most: Largest number of variants.
        """
        names = ("energy-static-mcmc", "gaussian-plain-encoder", "energy-plain-mcmc")
        models = [n for n, group in self.groups.items() if group[0]["kind"] == "ode"]
        chosen = [n for n in names if n in models] + [n for n in models if n not in names]
        kept = list(self.first(key, *chosen))[:most]
        return self.first(key, *(n for n in self.groups if n in kept)) if kept else {}


def line_of(variant: str) -> Line:
    """Returns color, dashes, marker and label of a variant, baseline or rule."""
    label = TITLES.get(variant, variant)
    parts = variant.split("-")
    if len(parts) == 3:
        prior, static, way = parts
        filled = static == "static"
        marker = {"mcmc": "o", "encoder": "s"}.get(way, "v")
        color = _PAIRS.get((prior, way), "#888888")
        return Line(color, "-" if filled else _DASHED, marker, filled, label)
    learned = variant in ("monode", "gru")
    color = _COLORS.get(variant, "#888888")
    dashes = "-" if learned else _RULES.get(variant, _DASHED)
    return Line(color, dashes, "D" if learned else "X", True, label)


def seeds_of(groups: Mapping[str, Sequence[Record]]) -> int:
    """Returns the largest number of seeds of a variant."""
    return max(len(group) for group in groups.values())


def spread(groups: Mapping[str, Sequence[Record]]) -> str:
    """Returns what lines and bands are, for a caption."""
    if seeds_of(groups) == 1:
        return "one seed each"
    return (
        f"lines are means over up to {seeds_of(groups)} seeds, bands run from the lowest to the "
        "highest"
    )


def task_keys(record: Record) -> list[tuple[str, str]]:
    """Returns how arrays of each task begin, and its name."""
    return [(f"task{place}/", name) for place, name in enumerate(record["tasks"])]


def end_of_seen(seen: np.ndarray, times: np.ndarray) -> float | None:
    """Returns when observation ends; None where it goes on to the end or nearly so.

    Arguments:
        seen: Whether a row was seen, `(sequences, rows)`.
        times: Shape `(rows,)`, or `(sequences, rows)`.
    """
    when = float(np.broadcast_to(times, seen.shape)[seen].max())
    return when if when < 0.9 * float(times.max()) else None


def figure(height: float, *, width: float = WIDTH, dots: int = 200) -> "Figure":
    """Returns an empty figure; what is rasterized in it gets so many dots per inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dots, layout="constrained")


def plain(ax: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Gives axes their words, small, and only two spines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7)


def log_ticks(axis: "XAxis | YAxis") -> None:
    """Ticks a logarithmic axis, whose ends are known, with few and plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.8 else (1,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(_number)


def _number(value: float, _: int) -> str:
    power = np.log10(value) if value > 0 else 0.0
    if abs(power) > 2.5 and np.isclose(power, round(power)):
        return f"$10^{{{round(power)}}}$"
    return f"{value:.3g}"


def band(ax: "Axes", x: np.ndarray, rows: np.ndarray, line: Line, *, width: float = 1.4) -> None:
    """Draws the mean over seeds (rows) and a band from the lowest to the highest seed."""
    few = {"marker": line.marker, "markersize": 4} if len(x) < 3 else {}
    style = {"color": line.color, "linestyle": line.dashes, "linewidth": width}
    ax.plot(x, rows.mean(0), label=line.label, **style, **few)
    if len(rows) > 1:
        color = {"facecolor": line.color, "edgecolor": "none"}
        ax.fill_between(x, rows.min(0), rows.max(0), alpha=0.2, **color)


def key_below(fig: "Figure", axes: Iterable["Axes"], *, columns: int = 3) -> None:
    """Puts one legend of all axes below the figure."""
    seen = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    if seen:
        fig.legend(
            list(seen.values()),
            list(seen),
            loc="outside lower center",
            ncols=min(columns, len(seen)),
            fontsize=7.5,
            frameon=False,
        )
