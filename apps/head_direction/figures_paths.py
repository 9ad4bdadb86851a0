"""Figures of what is followed over time: path integration, head turns, noise, spikes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.head_direction.figure_style import (
    Line,
    Record,
    band,
    broken,
    compass,
    figure,
    in_group,
    line_of,
    numbers,
    plain,
    spread,
    title_of,
)
from apps.head_direction.recorded import RecordedCells
from apps.head_direction.settings import Settings
from lv_core.random import stream
from lv_neuro import HeadDirectionModel, random_walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["decoded_spikes", "error_correction", "head_turns", "path_integration"]

FLOOR = 1e-3
"""Degrees; smaller errors are drawn here, as an axis of logarithms has no zero."""

TURNS = 300
"""Length of the walks that are drawn one by one."""


def path_integration(
    settings: Settings, records: Sequence[Record], models: Mapping[str, HeadDirectionModel]
) -> tuple["Figure", str]:
    """Draws some walks, and mean errors against the number of turns for each noise level."""
    main, shown = in_group(records, "main"), in_group(records, "main", "baseline")
    levels = [level for level in main[0]["paths"] if level != "steps"]
    drawn = sorted({float(levels[0]), float(levels[-1])})
    columns = min(len(levels), 3)
    rows = -(-len(levels) // columns)
    heights = [1.55 * (len(drawn) + 1), 2.6 * rows + 0.9]
    fig = figure(sum(heights))
    above, below = fig.subfigures(2, 1, height_ratios=heights)
    _traces(above, settings, main, models, drawn)
    axes = list(below.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for k, (ax, level) in enumerate(zip(axes, levels, strict=False)):
        for record in shown:
            curve = np.array(record["paths"][level]["curve"]).clip(min=FLOOR)
            line = line_of(record, parameters=True)
            band(ax, record["paths"]["steps"], curve, line)
        ax.axhline(90, color="0.6", linewidth=0.7, linestyle=":")
        ax.set(xscale="log", yscale="log", ylim=(FLOOR, 180))
        plain(ax, f"noise {level}", "turns", "" if k % columns else "mean error (deg)")
    for ax in axes[len(levels) :]:
        ax.set_axis_off()
    handles, labels = below.axes[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    walks = f"{settings.evaluate.walks} random walks"
    return fig, (
        f"Top: headings (unwrapped) of three walks of {TURNS} turns, true and decoded by the "
        "main models' first seeds from start and turns alone, at noise "
        f"{' and '.join(f'{level:g}' for level in drawn)}; then decoded minus true heading. "
        f"Below: mean absolute error of {walks} against turns, one panel per noise level; "
        f"{spread(shown)}. "
        "Noise is the expected norm of the vector added to the state after each turn, relative "
        "to the norm 1 of a code (recurrent networks: of their hidden state). The dotted line is "
        f"chance (90 deg); errors below {FLOOR:g} deg lie on the lower edge."
    )


def head_turns(records: Sequence[Record], recorded: RecordedCells) -> tuple["Figure", str] | None:
    """Draws errors on recorded head turns; None where segments are too short for any."""
    shown = [r for r in in_group(records, "main", "baseline") if r["turns"].get("seconds")]
    if not shown:
        return None
    fig = figure(3.4)
    ax = fig.subplots()
    for record in shown:
        rows = np.array(record["turns"]["error"]).clip(min=FLOOR)
        line = line_of(record, parameters=True)
        band(ax, record["turns"]["seconds"], rows, line, marker="o")
    ax.axhline(90, color="0.6", linewidth=0.7, linestyle=":")
    ticks = shown[0]["turns"]["seconds"]
    ax.set(xscale="log", yscale="log", ylim=(FLOOR, 180))
    ax.set_xticks(ticks, labels=[str(s) for s in ticks])
    ax.set_xticks([], minor=True)
    plain(ax, x="seconds of recorded head turns", y="mean error (deg)")
    fig.legend(loc="outside right center", fontsize=7.5, frameon=False)
    return fig, (
        "Mean absolute error of the decoded heading while models follow "
        f"{len(recorded.turns.walks.start)} segments of recorded head turns "
        f"({recorded.record['name']}) from the turns alone, in steps of "
        f"{1000 * recorded.turns.step:.0f} ms, without noise; "
        f"{spread(shown)}. Turns above the largest one that the models know are cut to it, in "
        "the truth as well. The dotted line is chance (90 deg); errors below "
        f"{FLOOR:g} deg lie on the lower edge."
    )


def error_correction(records: Sequence[Record]) -> tuple["Figure", str]:
    """Draws what turns by zero do to disturbed codes."""
    main = in_group(records, "main")
    found = {record["name"]: _corrected(record["report"]) for record in main}
    fig = figure(4.6)
    axes = fig.subplots(2, len(main), squeeze=False, sharex=True, sharey="row")
    for k, record in enumerate(main):
        for scale, (times, off, error) in found[record["name"]].items():
            scales = sorted(found[record["name"]])
            shade = (scales.index(scale) + 1) / len(scales)
            line = Line(_mixed(line_of(record).color, shade), "-", f"disturbance {scale:g}")
            for ax, rows in ((axes[0, k], off), (axes[1, k], error)):
                band(ax, times, rows, line, marker="o")
        for ax in axes[:, k]:
            ax.set_xscale("symlog", linthresh=1, linscale=0.5)
            ax.set_xticks(times, labels=[str(n) for n in times])
            ax.set_xticks([], minor=True)
        axes[0, k].set_yscale("log")
        left = k == 0
        plain(axes[0, k], title_of(record), y="1 - max cos" if left else "")
        plain(axes[1, k], x="applications of F(., 0)", y="error of heading (deg)" if left else "")
        axes[0, k].legend(fontsize=7, frameon=False, loc="best")
    axes[1, 0].set_ylim(bottom=0)  # shared by all, once all are drawn
    return fig, (
        "Codes disturbed by noise of the given expected norm (codes have norm 1) and turned by "
        "zero again and again. Top: 1 - max_n cos(v, V_n), how far codes are from the code book. "
        f"Bottom: mean absolute error of the decoded heading; {spread(main)}. A line attractor "
        "removes what lies off the ring and keeps what lies along it; a linear group keeps both."
    )


def decoded_spikes(recorded: RecordedCells) -> tuple["Figure", str]:
    """Draws a piece of the heading decoded from spikes."""
    shown = recorded.decoded
    seconds = np.array(shown["seconds"])
    window = float(np.median(np.diff(seconds)))
    fig = figure(2.7)
    ax = fig.subplots()
    x = seconds - seconds[0]
    truth, decoded = (np.rad2deg(np.array(shown[name])) % 360 for name in ("truth", "heading"))
    line = broken(x, truth, gap=1.5 * window)
    ax.plot(*line, color="0.6", linewidth=2.0, label="true")
    ax.plot(x, decoded, ".", color="#d55e00", markersize=4, label="decoded from spikes")
    plain(ax, x="seconds", y="heading (deg)")
    compass(ax, axis="y")
    ax.set_xlim(0, x[-1])
    fig.legend(loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    record = recorded.record
    return fig, (
        f"Heading decoded from the spikes of the {record['cells']} recorded cells "
        f"({record['name']}) in windows of {window:.3g} s, by Bayes' rule with Poisson cells; "
        "of blocks of time that alternate, each half is decoded with tuning curves from the "
        "other. Over the whole recording of "
        f"{record['seconds']:,.0f} s the error is {record['decoding_median_error']:.1f} deg in "
        f"the median and {record['decoding_mean_error']:.1f} deg in the mean."
    )


def _traces(
    fig: "SubFigure",
    settings: Settings,
    main: Sequence[Record],
    models: Mapping[str, HeadDirectionModel],
    levels: Sequence[float],
) -> None:
    ring = settings.ring
    walks = random_walks(
        3, TURNS, bins=ring.bins, max_step=ring.max_step, generator=stream(0, "drawn walks")
    )
    x = np.arange(TURNS + 1)
    start = walks.start[:, None].numpy()
    truth = np.rad2deg(np.concatenate([start, start + walks.turns.cumsum(1).numpy()], axis=1))
    axes = fig.subplots(len(levels) + 1, 3, squeeze=False, sharex=True)
    for row, level in zip(axes, levels, strict=False):
        for k, ax in enumerate(row):
            label = "true heading" if ax is axes[0, 0] else None
            ax.plot(x, truth[k], color="0.75", linewidth=3.5, label=label)
            plain(ax, f"walk {k + 1}, noise {level:g}", y="" if k else "heading (deg)")
        for record in main:
            found = models[record["name"]].integrate(
                walks.start, walks.turns, noise=level, generator=stream(0, "drawn noise")
            )
            decoded = np.concatenate([start, found.heading[0].numpy()], axis=1)
            followed = np.rad2deg(np.unwrap(decoded, axis=1))
            line = line_of(record)
            for k, ax in enumerate(row):
                label = line.label if ax is axes[0, 0] else None
                ax.plot(x, followed[k], color=line.color, linewidth=1.0, label=label)
                if level == levels[-1]:
                    axes[-1, k].plot(x, followed[k] - truth[k], color=line.color, linewidth=1.0)
    for k, ax in enumerate(axes[-1]):
        ax.axhline(0, color="0.75", linewidth=1.0, zorder=0)
        plain(ax, "", "turns", "" if k else f"decoded - true (deg)\nat noise {levels[-1]:g}")
    fig.legend(loc="outside upper center", ncols=len(main) + 1, fontsize=7.5, frameon=False)


def _corrected(report: Mapping[str, Any]) -> dict[float, tuple[list[int], np.ndarray, np.ndarray]]:
    """Returns numbers of applications, distances and errors (seeds, applications) by scale."""
    times: dict[str, list[int]] = {}
    for name in report:
        if name.startswith("off_ring_scale"):
            scale, _, after = name.removeprefix("off_ring_scale").partition("_after")
            times.setdefault(scale, []).append(int(after))
    return {
        float(scale): (
            sorted(found),
            *(
                np.array(
                    [numbers(report[f"{kind}_scale{scale}_after{n}"]) for n in sorted(found)]
                ).T
                for kind in ("off_ring", "correction_error")
            ),
        )
        for scale, found in times.items()
    }


def _mixed(color: str, share: float) -> tuple[float, ...]:
    """Returns a color mixed with white, the lighter the smaller the share."""
    from matplotlib.colors import to_rgb

    return tuple(1 - (0.3 + 0.7 * share) * (1 - part) for part in to_rgb(color))
