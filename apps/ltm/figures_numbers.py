"""Figures of the numbers on held-out text, by every definition side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from apps.ltm.figures_style import (
    Line,
    Record,
    band,
    baseline,
    figure,
    key_below,
    line_of,
    plain,
    spread,
    thoughts,
    token_cost,
)
from apps.ltm.scores import way_of
from lv_core.random import stream
from lv_text.metrics import BootstrapEstimate, paired_bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["against_steps", "predictive_gain", "side_by_side"]

_NUMBERS = (
    ("nelbo_shared_noise", "shared-noise number\nopen: NOT A BOUND"),
    ("nelbo", "valid bound\n(fresh draws)"),
    ("iwae", "IWAE\n(valid, tighter)"),
)
_RELEASED = " released"
_DOTTED = (0, (1, 1.2))
_WARNING = "#fbeee6"
"""Background of a panel whose number is no bound."""


def against_steps(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws all numbers against inference steps at fixed weights; None without latents."""
    groups = thoughts(records)
    released = any(_RELEASED in way for g in groups.values() for way in _ways(g[0]))
    if not groups:
        return None
    rows = [("own schedule", ""), ("released schedule", _RELEASED)][: 1 + released]
    fig = figure(2.9 * len(rows) + 0.7)
    grid = fig.subplots(len(rows), len(_NUMBERS) + 1, squeeze=False)
    ticks = sorted({_count(w) for g in groups.values() for w in _ways(g[0]) if _count(w)})
    exact = np.array([token_cost(r["held_out"]["nll"], "nll") for r in baseline(records)])
    for axes, (name, ending) in zip(grid, rows, strict=True):
        for ax in axes[1 : len(_NUMBERS)]:
            ax.sharey(axes[0])
        for variant, group in groups.items():
            _course(axes, line_of(variant), group, ending)
        for ax, (_, title) in zip(
            axes, [*_NUMBERS, ("kl", "KL (solid), its floor (dotted)")], strict=True
        ):
            first = f"{name}\nnats per token" if ax is axes[0] else ""
            plain(ax, "" if ending else title, "inference steps", first)
            ax.grid(axis="y", color="0.92", linewidth=0.6)
            if ticks:
                ax.set_xscale("log", base=2)
                ax.set_xticks(ticks, [str(t) for t in ticks])
                ax.minorticks_off()
        axes[0].set_facecolor(_WARNING)
        if np.isfinite(axes[-1].dataLim.minposy):  # a logarithmic axis needs a positive value
            axes[-1].set_yscale("log")
        axes[-1].tick_params(which="both", labelsize=7)
        if len(exact):
            for ax in axes[: len(_NUMBERS)]:
                _level(ax, exact, line_of("ar"))
    key_below(fig, grid.flat, columns=3)
    return fig, (
        "Held-out numbers against inference steps at fixed weights. Tinted: the shared-noise "
        "number. Where noise is shared over the steps (open markers) it scores with the noise "
        "that inference has optimized against, bounds nothing and may fall with every further "
        "step: it must not be compared with the autoregressive line. (With fresh noise it is the "
        "valid bound at one draw.) Valid bound and IWAE may be compared with it: the dashed line "
        "is the exact NLL of the model without latents. Right: the divergence and the part of it "
        "that the steps leave without any data (log scale). An encoder takes no steps: a level "
        "line."
        + (" Bottom: the falling rate of the released code." if released else "")
        + f" {spread(records)}"
    )


def side_by_side(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws each model's numbers as columns of points, one per seed; None without records."""
    groups = thoughts(records)
    bases = baseline(records)
    if not groups and not bases:
        return None
    names = [*(["ar"] if bases else []), *groups]
    fig = figure(0.42 * len(names) + 1.6)
    axes = fig.subplots(1, len(_NUMBERS) + 1, sharey=True)
    for ax in axes[1 : len(_NUMBERS)]:
        ax.sharex(axes[0])
    exact = [token_cost(record["held_out"]["nll"], "nll") for record in bases]
    for ax, (number, title) in zip(axes, _NUMBERS, strict=False):
        values = {
            name: [
                token_cost(
                    r["held_out"]["bounds"][way_of(r["kind"], r["inference"]["steps"])], number
                )
                for r in group
            ]
            for name, group in groups.items()
        }
        tinted = number == _NUMBERS[0][0]
        hollow = [name for name, group in groups.items() if tinted and _shares(group[0])]
        _column(ax, names, {"ar": exact, **values}, hollow)
        ax.set_facecolor(_WARNING if tinted else "none")
        plain(ax, title, "nats per token")
    second = {v: [_second(record) for record in group] for v, group in groups.items()}
    _column(axes[-1], names, {"ar": [_second(record) for record in bases], **second}, [])
    plain(axes[-1], "predictive: second halves\ngiven the first", "nats per token")
    axes[0].set_yticks(range(len(names)), [line_of(name).label for name in names], fontsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes:
        ax.locator_params(axis="x", nbins=4)
    return fig, (
        "The same models by every definition, with the inference that each was trained with; a "
        "point is a seed, the bar their mean, lower is better. The dashed line is the "
        "autoregressive model: its exact NLL in the first three columns, that of second halves "
        "in the fourth. Tinted: the shared-noise number, which where noise is shared "
        "over the fast steps (open points) is NO bound on the likelihood, whatever side of the "
        "line it is on; with fresh noise it is the valid bound at one draw. Valid bound, IWAE "
        "(both above the model's NLL in expectation) and the predictive number may be compared "
        "with the line; for the last, latents are inferred from first halves alone."
    )


def predictive_gain(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws gains over the autoregressive model per sequence; None without pairs of a seed."""
    plain_models = {record["seed"]: record for record in baseline(records)}
    pairs = {
        variant: [(r, plain_models[r["seed"]]) for r in group if r["seed"] in plain_models]
        for variant, group in thoughts(records).items()
    }
    pairs = {variant: found for variant, found in pairs.items() if found}
    if not pairs:
        return None
    fig = figure(max(3.0, 0.5 * len(pairs) + 1.6))
    left, right = fig.subplots(1, 2, width_ratios=[1.2, 1])
    for place, (variant, found) in enumerate(pairs.items()):
        line = line_of(variant)
        gains = np.sort(np.concatenate([_gains(ours, base) for ours, base in found]))
        if len(gains):
            share = np.arange(len(gains) + 1) / len(gains)
            gains = np.concatenate((gains[:1], gains))
            left.step(
                gains, share, where="post", color=line.color, label=line.label, linewidth=1.4
            )
        for nth, (ours, base) in enumerate(found):
            height = place + 0.22 * (nth - (len(found) - 1) / 2)
            _interval(right, ours, base, "nll", height, line, filled=True)
            _interval(right, ours, base, "nll_prior", height + 0.1, line, filled=False)
    for ax in (left, right):
        ax.axvline(0, color="black", linestyle=(0, (4, 1.5)), linewidth=1)
    plain(left, "gain of each sequence", "gain (nats per token)", "share of sequences below")
    left.set_ylim(0, 1)
    left.legend(fontsize=7.5, frameon=False, loc="best")
    plain(right, "mean gain, 95 % interval", "gain (nats per token)")
    right.set_yticks(range(len(pairs)), [line_of(v).label for v in pairs], fontsize=8)
    right.set_ylim(len(pairs) - 0.4, -0.6)
    return fig, (
        "Predictive protocol: latents are inferred from the first half of a held-out sequence, "
        "the second half is scored; gain = NLL of the autoregressive model with the same seed "
        "minus that of the model with latents, on the same sequence, so right of the dashed line "
        "latents help. Left: distribution over sequences, all seeds. Right: mean gain of each "
        "seed with the interval that resampling sequences gives (2,000 paired bootstrap "
        "replicates); open: the same model with latents drawn from the prior in place of inferred "
        "ones. Both models' numbers are proper predictive likelihoods, so this comparison is fair."
    )


# Parts


def _shares(record: Record) -> bool:
    """Returns whether inference has optimized against the noise that it is scored with."""
    return record["kind"] == "thought" and record["inference"]["noise"] == "shared"


def _ways(record: Record) -> list[str]:
    return list(record["held_out"]["bounds"])


def _count(way: str) -> int:
    """Returns the number of steps of a way of inference; 0 for an encoder alone."""
    head = way.split()[0]
    return int(head) if head.isdigit() else 0


def _course(axes: Sequence["Axes"], line: Line, group: Sequence[Record], ending: str) -> None:
    """Draws a variant's numbers for the ways of one schedule."""
    ways = sorted(
        (w for w in _ways(group[0]) if _count(w) and w == f"{_count(w)}{ending}"), key=_count
    )
    if not ways and not ending:
        for ax, name in zip(axes, [*(n for n, _ in _NUMBERS), "kl"], strict=True):
            _level(ax, _table(group, _ways(group[0])[:1], name)[:, 0], line, dashes="-")
    if not ways:
        return
    steps = [_count(way) for way in ways]
    for ax, (name, _) in zip(axes, _NUMBERS, strict=False):
        no_bound = name == _NUMBERS[0][0] and _shares(group[0])
        band(ax, steps, _table(group, ways, name), line, marker=line.marker, filled=not no_bound)
    for name, dashes, marker in (("kl", "-", line.marker), ("kl_floor", _DOTTED, "_")):
        rows = _table(group, ways, name)
        rows = np.where(rows > 0, rows, np.nan)  # the axis is logarithmic
        label = line.label if name == "kl" else "_floor"  # not in the legend
        band(axes[-1], steps, rows, line, dashes=dashes, marker=marker, label=label)


def _table(group: Sequence[Record], ways: Sequence[str], name: str) -> np.ndarray:
    return np.array(
        [[token_cost(r["held_out"]["bounds"].get(way, {}), name) for way in ways] for r in group]
    )


def _level(ax: "Axes", values: np.ndarray, line: Line, *, dashes: object = (0, (4, 1.5))) -> None:
    """Draws a number that does not depend on steps."""
    ax.axhline(
        float(values.mean()), color=line.color, linestyle=dashes, linewidth=1.2, label=line.label
    )
    if len(values) > 1:
        ax.axhspan(float(values.min()), float(values.max()), color=line.color, alpha=0.15, lw=0)


def _column(
    ax: "Axes", names: Sequence[str], values: dict[str, list[float]], hollow: Sequence[str]
) -> None:
    """Draws one number of all models, a row for each."""
    exact = values.get("ar", [])
    if exact:
        ax.axvline(float(np.mean(exact)), color="black", linestyle=(0, (4, 1.5)), linewidth=1)
    for place, name in enumerate(names):
        line, found = line_of(name), values[name]
        face = "white" if name in hollow else line.color
        shift = 0.12 * (np.arange(len(found)) - (len(found) - 1) / 2)
        if len(found) > 1:
            mean = float(np.mean(found))
            ax.plot([mean, mean], [place - 0.3, place + 0.3], color=line.color, linewidth=1.2)
        ax.scatter(
            found,
            place + shift,
            s=26,
            marker=line.marker,
            facecolor=face,
            edgecolor=line.color,
            zorder=3,
        )
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def _second(record: Record) -> float:
    return token_cost(record["held_out"]["continuation"], "nll")


def _pair(ours: Record, base: Record, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns costs and tokens of the sequences that both models have scored."""
    inside, outside = (r["held_out"]["continuation"] for r in (ours, base))
    count = np.array(inside["tokens"], dtype=float)
    one, other = (np.array(x, dtype=float) for x in (inside[name], outside["nll"]))
    kept = np.isfinite(one) & np.isfinite(other) & (count > 0)
    return one[kept], other[kept], count[kept]


def _gains(ours: Record, base: Record) -> np.ndarray:
    one, other, count = _pair(ours, base, "nll")
    gains: np.ndarray = (other - one) / count
    return gains


def _interval(
    ax: "Axes", ours: Record, base: Record, name: str, height: float, line: Line, *, filled: bool
) -> None:
    """Draws the mean gain of one seed with its bootstrap interval."""
    one, other, count = _pair(ours, base, name)
    if len(one) < 2:
        return
    found: BootstrapEstimate = paired_bootstrap(
        torch.from_numpy(other),
        torch.from_numpy(one),
        torch.from_numpy(count).long(),
        generator=stream(0, "predictive gain"),
    )
    ax.errorbar(
        found.value,
        height,
        xerr=[[found.value - found.low], [found.high - found.value]],
        color=line.color,
        marker=line.marker,
        markersize=5,
        markerfacecolor=line.color if filled else "white",
        linewidth=1.3 if filled else 0.8,
        capsize=2,
    )
