"""The figure of the study: gains of all pieces over the autoregressive model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from apps.ltm.figures_style import Record, figure, plain
from apps.ltm.results_study import MEASURES, Gain, gains

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["study_gains"]

_PANELS = (("bound", "iwae"), ("gaussian", "flow"), ("predictive",))
_TITLES = ("valid bounds, N(0, I) prior", "valid bound, fitted prior", "second halves, predictive")
_STYLES = {
    "bound": ("#0072b2", "o"),
    "iwae": ("#56b4e9", "^"),
    "gaussian": ("#d55e00", "s"),
    "flow": ("#e69f00", "D"),
    "predictive": ("#009e73", "o"),
}


def study_gains(
    records: Sequence[Record], *, split: str = "held_out"
) -> "tuple[Figure, str] | None":
    """Draws the gain of each piece with its interval, seeds side by side; None without pairs."""
    found = gains(records, split=split)
    if not found:
        return None
    order = sorted(found, key=lambda piece: _mean(found[piece].get("predictive", [])))
    known = {measure for row in found.values() for measure in row}
    shown = [place for place, panel in enumerate(_PANELS) if known & set(panel)]
    fig = figure(0.34 * len(order) + 1.5)
    grid = fig.subplots(1, len(shown), sharey=True, squeeze=False)
    for ax, place in zip(grid[0], shown, strict=True):
        panel, title = _PANELS[place], _TITLES[place]
        ax.axvline(0, color="black", linestyle=(0, (4, 1.5)), linewidth=1)
        for number, measure in enumerate(panel):
            _draw(ax, order, found, measure, 0.36 * (number - (len(panel) - 1) / 2))
        # The best pieces lie within hundredths of zero, the worst more than a nat below.
        ax.set_xscale("symlog", linthresh=0.03, linscale=1.0)
        ticks = [-1, -0.3, -0.1, -0.03, 0, 0.03, 0.1]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7.5)
        ax.minorticks_off()
        plain(ax, title, "gain (nats per token)")
        ax.set_yticks(range(len(order)), order, fontsize=8)
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.grid(axis="x", color="0.92", linewidth=0.6)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7, frameon=False, loc="upper left")
    return fig, (
        "Gain of every piece over the autoregressive model of the same seed, trained with as many "
        "operations, on the same sequences"
        + (" of the test split" if split == "test" else " of the held-out split")
        + "; bars are 95 % intervals of a paired bootstrap over sequences, one mark for each "
        "seed; the axis is linear between -0.03 and 0.03 and logarithmic beyond. Right of the "
        "dashed line latents pay. Bounds can only understate a gain; a piece "
        "without a posterior (its latent is a point) has none. Sorted by the predictive gain."
    )


def _draw(
    ax: "Axes",
    order: Sequence[str],
    found: Mapping[str, Mapping[str, Sequence[Gain]]],
    measure: str,
    shift: float,
) -> None:
    color, marker = _STYLES[measure]
    label: str | None = MEASURES[measure]
    for place, piece in enumerate(order):
        row = found[piece].get(measure, ())
        for nth, gain in enumerate(row):
            height = place + shift + 0.12 * (nth - (len(row) - 1) / 2)
            ax.errorbar(
                gain.value,
                height,
                xerr=[[gain.value - gain.low], [gain.high - gain.value]],
                color=color,
                marker=marker,
                markersize=3.5,
                linewidth=1,
                label=label,
            )
            label = None


def _mean(row: Sequence[Gain]) -> float:
    return sum(g.value for g in row) / len(row) if row else float("-inf")
