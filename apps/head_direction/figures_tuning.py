"""Figures of tuning: single neurons, the circle of the population, widths."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from apps.head_direction.figure_style import (
    RECORDED,
    WIDTH,
    Record,
    compass,
    cyclic,
    degrees,
    figure,
    in_group,
    line_of,
    numbers,
    plain,
    seeds_of,
    thinned,
    title_of,
)
from apps.head_direction.recorded import RecordedCells
from lv_neuro import HeadDirectionModel, principal_circle, tuning_summary
from lv_neuro.analysis import TuningSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["principal_circles", "tuning_curves", "tuning_widths"]

EXAMPLES = 8
"""Neurons whose curves are drawn one by one."""


class _Population(NamedTuple):
    title: str
    color: str
    codes: np.ndarray
    """(bins, neurons), counted neurons in the order of their preferred directions."""
    preferred: np.ndarray
    """Degrees."""
    peaks: np.ndarray
    """Highest rates before recorded cells were scaled, as shares of the largest."""
    summary: TuningSummary


def tuning_curves(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel], recorded: RecordedCells
) -> tuple["Figure", str]:
    """Draws all curves of a population as a map, and examples in both kinds of axes."""
    shown = _populations(records, models, recorded)
    fig = figure(8.0, width=max(WIDTH, 2.4 * len(shown)))
    low = min(0.0, *(float(_scaled(one).min()) for one in shown))  # below 0 in an ablation only
    tops = []
    for k, one in enumerate(shown):
        top, line, ring = (
            fig.add_subplot(3, len(shown), row * len(shown) + k + 1, projection=kind)
            for row, kind in enumerate((None, None, "polar"))
        )
        tops.append(top)
        _map(top, one, low)
        _examples(line, ring, one, low)
        if k == 0:
            top.set_ylabel("neuron, by preferred direction", fontsize=8)
            line.set_ylabel("rate / own peak", fontsize=8)
    bar = fig.colorbar(
        tops[0].images[0], ax=tops, location="bottom", shrink=0.3, aspect=40, pad=0.02
    )
    bar.set_label("rate / own peak", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return fig, (
        "Top: tuning curves v_i(x) of all active neurons in the order of their preferred "
        "directions, each divided by its own peak (seed "
        f"{in_group(records, 'main')[0]['seeds'][0]}); titles give the range of peaks as shares "
        "of the largest. "
        f"Below: {EXAMPLES} of them, as evenly spread as there are, in Cartesian and polar axes; "
        f"color is the preferred direction. Last column: the {recorded.rates.shape[1]} recorded "
        f"cells ({recorded.record['name']}), which have a baseline rate too."
    )


def principal_circles(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel], recorded: RecordedCells
) -> tuple["Figure", str]:
    """Draws codes on their first two principal components."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = _populations(records, models, recorded)
    fig = figure(3.5, width=max(WIDTH, 2.4 * len(shown)))
    axes = fig.subplots(1, len(shown), squeeze=False)[0]
    for ax, one in zip(axes, shown, strict=True):
        circle = principal_circle(torch.from_numpy(one.codes))
        points = circle.projection.numpy()
        closed = np.concatenate([points, points[:1]])
        ax.plot(*closed.T, color="0.75", linewidth=0.8, zorder=1)
        colors = degrees(len(points)) / 360
        ax.scatter(*points.T, c=colors, cmap=cyclic(), vmin=0, vmax=1, s=14, zorder=2)
        limit = max(1.15 * np.abs(points).max(), 1e-9)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        words = (
            f"{one.title}\nradius CV {float(circle.radius_cv):.2g}, winding "
            f"{float(circle.winding):.0f}\n{100 * float(circle.variance_share):.0f} % of variance"
        )
        plain(ax, words, "PC 1", "PC 2" if ax is axes[0] else "")
        ax.locator_params(nbins=5)
    scale = ScalarMappable(Normalize(0, 360), cyclic())
    bar = fig.colorbar(scale, ax=axes, orientation="horizontal", shrink=0.4, aspect=40)
    bar.set_ticks([0, 90, 180, 270, 360])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("heading (deg)", fontsize=8)
    return fig, (
        "Codes of all headings, centered and projected on their first two principal components "
        f"(seed {in_group(records, 'main')[0]['seeds'][0]}; active neurons). A circle alone is "
        "no proof, codes that wind several times look as clean: the winding number must be 1. "
        "Right: the tuning curves of the recorded cells, each divided by its peak, as codes; "
        "where preferred directions are uneven, the curve is closed and no circle."
    )


def tuning_widths(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel], recorded: RecordedCells
) -> tuple["Figure", str]:
    """Draws the width of every neuron, and mean curves about preferred directions."""
    main = in_group(records, "main")
    fig = figure(3.6)
    left, right = fig.subplots(1, 2, width_ratios=[1.15, 1])
    low, high = recorded.record["tuning_sigma_range"]
    left.axhspan(low, high, color=RECORDED, alpha=0.12, linewidth=0)
    strips = [
        (title_of(r), line_of(r).color, [numbers(row) for row in r["tuning"]["sigma"]])
        for r in main
    ]
    strips.append(("recorded", RECORDED, [numbers(recorded.record["tuning_sigmas"])]))
    for k, (_, color, rows) in enumerate(strips):
        _strip(left, k, color, rows)
    plain(left, "Width of each neuron", y="Gaussian width $\\sigma$ (deg)")
    left.set_xticks(range(len(strips)), labels=[s[0].replace(" ", "\n", 1) for s in strips])
    left.set_xlim(-0.6, len(strips) - 0.4)
    left.set_ylim(bottom=0)
    for one in _populations(records, models, recorded):
        x, curves = _aligned(one)
        width = float(torch.rad2deg(one.summary.half_width_median))
        last = one.color == RECORDED
        right.plot(
            x,
            curves.mean(1),
            color=one.color,
            linewidth=2.2 if last else 1.4,
            linestyle=(0, (4, 1.5)) if last else "-",
            label=f"{one.title}: {width:.0f} deg",
        )
        if last:
            ends = np.quantile(curves, [0.1, 0.9], axis=1)
            right.fill_between(x, *ends, color=one.color, alpha=0.12, linewidth=0)
    right.axhline(0.5, color="0.6", linewidth=0.7, linestyle=":")
    plain(
        right,
        "Mean curve",
        "heading - preferred direction (deg)",
        "(rate - lowest) / (peak - lowest)",
    )
    right.set_xticks([-180, -90, 0, 90, 180])
    right.set_xlim(-180, 180)
    right.set_ylim(0, 1.05)
    right.legend(
        title="median full width\nat half height",
        fontsize=7,
        title_fontsize=7,
        frameon=False,
        loc="upper left",
        alignment="left",
    )
    return fig, (
        "Left: width of the Gaussian fitted to each active neuron and each recorded cell, "
        f"{seeds_of(main)}; bars are medians, one per seed, the shaded range is that of the "
        "recorded cells. Right: mean of the curves moved to their preferred directions and scaled "
        "to heights from 0 to 1 (first seed), with 10 and 90 % quantiles of the recorded cells; "
        "the dotted line is half height. The model's width was set by the kernel and not "
        "fitted to the cells."
    )


def _populations(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel], recorded: RecordedCells
) -> list[_Population]:
    """Returns the first seed of each main model, then the recorded cells with peaks of 1."""
    found = []
    for record in in_group(records, "main"):
        codes = models[record["name"]].codes[0]
        title, color = title_of(record), line_of(record).color
        found.append(_population(title, color, codes, codes.amax(0), None))
    rates = recorded.rates.float()
    peaks = rates.amax(0)
    every = torch.ones_like(peaks, dtype=torch.bool)
    scaled = rates / peaks.clamp_min(1e-12)
    return [*found, _population("recorded", RECORDED, scaled, peaks, every)]


def _population(
    title: str, color: str, codes: Tensor, peaks: Tensor, mask: Tensor | None
) -> _Population:
    summary = tuning_summary(codes, mask=mask)
    directions = torch.rad2deg(summary.mean_vector.direction)
    directions = directions.nan_to_num(0.0)  # of flat curves, should codes have collapsed
    kept = summary.counted.nonzero()[:, 0]
    order = kept[directions[kept].argsort()]
    return _Population(
        title,
        color,
        codes[:, order].numpy(),
        directions[order].numpy(),
        (peaks[order] / peaks.max()).numpy(),
        summary,
    )


def _scaled(one: _Population) -> np.ndarray:
    """Returns curves divided by their own peaks."""
    return one.codes / np.maximum(one.codes.max(0), 1e-12)


def _map(ax: "Axes", one: _Population, low: float) -> None:
    """Draws all curves as a map."""
    curves = _scaled(one)
    bins, count = curves.shape
    ax.imshow(
        curves[thinned(bins), thinned(count)].T,
        aspect="auto",
        origin="lower",
        interpolation="none",
        vmin=low,
        vmax=1,
        extent=(-180 / bins, 360 - 180 / bins, 0, count),
    )
    words = f"{count} neurons, peaks {one.peaks.min():.2g} to {one.peaks.max():.2g}"
    plain(ax, f"{one.title}\n{words}", "heading (deg)")
    ax.set_xticks([0, 90, 180, 270])
    ax.locator_params(axis="y", integer=True, nbins=6)


def _examples(line: "Axes", ring: "Axes", one: _Population, low: float) -> None:
    """Draws the neurons nearest to evenly spread directions, in both kinds of axes."""
    targets = np.arange(EXAMPLES) * (360 / EXAMPLES)
    apart = np.abs((one.preferred[None] - targets[:, None] + 180) % 360 - 180)
    curves = _scaled(one)
    some = thinned(len(curves))
    x = np.append(degrees(len(curves))[some], 360.0)
    for index in sorted(set(apart.argmin(1).tolist())):
        closed = np.append(curves[some, index], curves[0, index])
        color = cyclic()(one.preferred[index] / 360)
        line.plot(x, closed, color=color, linewidth=1.3)
        ring.plot(np.deg2rad(x), closed, color=color, linewidth=1.1)
    plain(line, x="heading (deg)")
    compass(line)
    line.set_ylim(1.05 * low, 1.05)
    ring.set_ylim(low, 1.05)
    plain(ring)
    ring.set_yticks([0.5, 1.0], labels=[])
    ring.set_xticks(np.arange(0, 2 * np.pi, np.pi / 2), labels=["0°", "90°", "", ""])
    ring.grid(linewidth=0.4, color="0.8")
    ring.spines["polar"].set_color("0.7")


def _strip(ax: "Axes", place: int, color: str, rows: Sequence[np.ndarray]) -> None:
    """Draws the seeds of a population side by side, points beside a bar at the median."""
    share = 0.8 / len(rows)
    for k, values in enumerate(rows):
        middle = place + (k - (len(rows) - 1) / 2) * share
        # Multiples of the golden ratio spread points evenly without drawing numbers.
        jitter = ((np.arange(len(values)) * 0.618) % 1 - 0.5) * 0.75 * share
        ax.scatter(
            middle + jitter, values, s=5, color=color, alpha=0.5, linewidth=0, rasterized=True
        )
        if np.isfinite(values).any():
            ends = [middle - 0.42 * share, middle + 0.42 * share]
            ax.plot(ends, [np.nanmedian(values)] * 2, color=color, linewidth=2.2)


def _aligned(one: _Population) -> tuple[np.ndarray, np.ndarray]:
    """Returns curves about their preferred directions, heights from 0 to 1."""
    x, bins = np.arange(-180.0, 181.0, 2.0), len(one.codes)
    low, high = one.codes.min(0), one.codes.max(0)
    scaled = (one.codes - low) / np.where(high > low, high - low, 1)
    grid = degrees(bins)
    moved = [
        np.interp(x + center, grid, curve, period=360)
        for center, curve in zip(one.preferred, scaled.T, strict=True)
    ]
    return x, np.stack(moved, 1)
