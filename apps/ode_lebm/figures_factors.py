"""Figures of what latents know: true factors read off them, and scores of unusual sequences."""

from typing import TYPE_CHECKING

import numpy as np

from apps.ode_lebm.figures_style import Record, Study, figure, line_of, plain
from apps.ode_lebm.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["factors_of", "recovered_factors", "unusual_sequences"]

MOST = 4  # columns
SCORES = ("prior energy", "misfit", "posterior energy")


def factors_of(study: Study, record: Record) -> dict[str, np.ndarray]:
    """Returns the true factors of the test sequences, those whose recovery is measured first."""
    arrays = study.arrays(record)
    measured = record.get("factors", {}).get("all", ())
    kept = [key.removeprefix("factor/") for key in arrays if key.startswith("factor/")]
    names = [*measured, *(name for name in kept if name not in measured)]
    return {name: arrays[f"factor/{name}"].astype(float) for name in names}


def recovered_factors(study: Study) -> tuple["Figure", str] | None:
    """Draws true factors against what a regression on the latents says; None without factors."""
    shown = [
        (variant, record, part)
        for variant, record in study.main("latents", most=3).items()
        for part in ("static", "all")
        if part in record.get("factors", {})
    ]
    if not shown:
        return None
    shown = shown[:MOST]
    names = list(shown[0][1]["factors"]["all"])
    fig = figure(2.45 * len(names) + 0.3, width=min(9.6, 2.4 * len(shown) + 0.4))
    columns = fig.subplots(len(names), len(shown), squeeze=False, sharex="row", sharey="row").T
    for column, (variant, record, part) in zip(columns, shown, strict=True):
        truth = factors_of(study, record)
        read = study.arrays(record)[f"read off/{part}"]
        words = "static variables alone" if part == "static" else "all latents"
        for place, (ax, name) in enumerate(zip(column, names, strict=True)):
            _scatter(ax, truth[name], read[:, place], line_of(variant).color)
            title = f"$R^2$ = {record['factors'][part][name]['held_out']:.2f}"
            if ax is column[0]:
                title = f"{TITLES[variant].replace(' (', chr(10) + '(')}\n{words}\n{title}"
            y = f"{name}, read off" if ax is columns[0][names.index(name)] else ""
            plain(ax, title, f"true {name}", y)
    return fig, (
        f"{study.title}: true factors of each test sequence against what linear regression reads "
        "off its latents (posterior means, first seed); each point is predicted by a regression "
        f"on the other four fifths. On the gray line both agree; the R2 above each panel, held "
        "out likewise, can be negative: worse than their mean. Points beyond the frame are "
        "drawn on its edge. If static variables hold what is constant along a sequence, they "
        "alone should give most of what all latents give."
    )


def _scatter(ax: "Axes", truth: np.ndarray, predicted: np.ndarray, color: str) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = float(truth.min()), float(truth.max())
    room = 0.25 * (high - low)
    ends = (low - room, high + room)
    ax.plot(ends, ends, color="0.7", linewidth=0.9)
    ax.plot(truth, predicted.clip(*ends), "o", color=color, markersize=3, alpha=0.7, clip_on=False)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))


def unusual_sequences(study: Study) -> tuple["Figure", str] | None:
    """Draws histograms of the three scores inside and outside; None where there is no outside."""
    shown = study.main("outside/", most=3)
    if not shown:
        return None
    fig = figure(2.2 * len(shown) + 0.4)
    rows = fig.subplots(len(shown), len(SCORES), squeeze=False)
    for row, (variant, record) in zip(rows, shown.items(), strict=True):
        arrays = study.arrays(record)
        for ax, score in zip(row, SCORES, strict=True):
            _histograms(ax, arrays[f"inside/{score}"], arrays[f"outside/{score}"], variant)
            title = f"{score}: AUROC {record['outside'][score]:.2f}"
            if ax is row[0]:
                title = f"{TITLES[variant]}\n{title}"
            y = "density" if ax is row[0] else ""
            plain(ax, title, "score" if row[0] is rows[-1, 0] else "", y)
    rows[0, 0].legend(fontsize=7.5, frameon=False)
    return fig, (
        f"{study.title}: scores of test sequences (gray) and of sequences of another kind, which "
        "training never shows (colored), by the first seed of each model; the same rows are seen "
        "of both. Prior energy: how improbable the inferred latents are; misfit: negative "
        "log-likelihood per observed number; posterior energy: both, per observed number. "
        "Higher should mean less usual: AUROC 1 tells all apart, 0.5 none, and below 0.5 "
        "sequences of the other kind look more usual than the model's own. The few scores "
        "beyond the axis are counted in its last bin."
    )


def _histograms(ax: "Axes", inside: np.ndarray, outside: np.ndarray, variant: str) -> None:
    both = np.concatenate((inside, outside))
    both = both[np.isfinite(both)]
    # One wild score must not press all others into one bin.
    low, high = np.quantile(both, 0.0), np.quantile(both, 0.98)
    bins = int(np.clip(1.5 * np.sqrt(len(both)), 6, 30))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    for values, color, label in (
        (inside, "0.45", "test set"),
        (outside, line_of(variant).color, "other kind"),
    ):
        kept = np.nan_to_num(values, nan=high, posinf=high).clip(edges[0], edges[-1])
        style = {"density": True, "histtype": "stepfilled", "alpha": 0.5, "label": label}
        ax.hist(kept, bins=edges, facecolor=color, edgecolor=color, **style)
