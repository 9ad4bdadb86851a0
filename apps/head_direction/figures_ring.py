"""Figures of the connectivity and of the order of neurons on their ring."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from apps.head_direction.figure_style import (
    Record,
    figure,
    in_group,
    line_of,
    plain,
    thinned,
    title_of,
)
from lv_neuro import (
    AdditiveRecurrence,
    ConvRecurrence,
    HeadDirectionModel,
    LinearGroup,
    topography,
)
from lv_neuro.analysis import TuningSummary, align_directions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["connectivity", "ring_order"]

_TURN_COLORS = ("#5e3c99", "#555555", "#e08214")
"""Of clockwise turns, by zero, counter-clockwise."""


def connectivity(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel]
) -> tuple["Figure", str]:
    """Draws the weights of each main model between neurons in the order of their directions."""
    main = in_group(records, "main")
    fig = figure(2.55 * len(main))
    parts = fig.subfigures(len(main), 1, squeeze=False)[:, 0]
    for part, record in zip(parts, main, strict=True):
        model = models[record["name"]]
        axes = part.subplots(1, 4)
        part.suptitle(title_of(record), fontsize=9.5, x=0.01, ha="left", fontweight="bold")
        order = _order(model.tuning())
        if hasattr(model.transformation, "matrices"):
            _network(part, axes, model, order)
        elif isinstance(model.transformation, AdditiveRecurrence):
            _driven(part, axes, model, order)
        else:
            _generated(part, axes, model, order, line_of(record).color)
    return fig, (
        f"Weights between active neurons in the order of their preferred directions (seed "
        f"{main[0]['seeds'][0]}; row: receiving, column: sending neuron; colors of a row share "
        "one scale). Networks: A + B_k for the largest clockwise turn, for none and for the "
        "largest counter-clockwise one; beside them the convolutional network's kernels against "
        "the distance of two neurons on their ring, counted towards larger preferred "
        "directions, and for others the mean weight against the difference of preferred "
        "directions, receiving minus sending: shifted profiles carry the bump. Linear group: "
        "the generator B and its frequencies, with the share of the codes' energy in each; "
        "whole numbers make a representation of U(1). Of more than 120 neurons every n-th is "
        "drawn; of several channels the kernel within the first."
    )


def ring_order(
    records: Sequence[Record], models: Mapping[str, HeadDirectionModel]
) -> tuple["Figure", str] | None:
    """Draws preferred directions against places on the ring; None without such a network."""
    main = in_group(records, "main")
    rings = [r for r in main if r["model"]["variant"] == "conv"]
    if not rings:
        return None
    shown = rings + [r for r in main if r["model"]["variant"] == "fc_table"]
    fig = figure(3.3, width=max(3.6 * len(shown), 5.0))
    for ax, record in zip(fig.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        model = models[record["name"]]
        tuning = model.tuning()
        counted, directions = tuning.counted[0], tuning.mean_vector.direction[0]
        places = _places(model)
        index = float(topography(directions, counted, positions=places))
        x, y = (torch.rad2deg(v[counted]).numpy() for v in (places, directions))
        ax.scatter(x, y, s=9, color=line_of(record).color, linewidth=0)
        ticks = [0, 90, 180, 270, 360]
        ax.set(xlim=(0, 360), ylim=(0, 360), xticks=ticks, yticks=ticks, aspect="equal")
        plain(
            ax,
            f"{title_of(record)}: index {index:.2f}",
            "place of the neuron on its ring (deg)",
            "preferred direction (deg)",
        )
    return fig, (
        "Preferred direction of each active neuron against its place on the ring on which the "
        f"convolution runs (seed {main[0]['seeds'][0]}); the direction of rotation and the "
        "origin are free. The topography index is 1 for perfect order, about 1 / sqrt(neurons) "
        "for none: the fully connected network, whose neurons have no place, is the control."
    )


def _network(
    fig: object, axes: Sequence["Axes"], model: HeadDirectionModel, order: Tensor
) -> None:
    """Draws three of the matrices A + B_k and their profiles."""
    matrices: Tensor = model.transformation.matrices().detach()[0]  # type: ignore[operator]
    turns = _turns(model)
    shown = [matrices[k + model.max_step][order][:, order].numpy() for k in turns]
    _images(fig, axes[:3], shown, [_turn_title(k) for k in turns])
    ax = axes[3]
    if isinstance(model.transformation, ConvRecurrence):
        kernels = model.transformation.kernels().detach()[0, :, 0, 0]
        x = np.arange(kernels.shape[-1]) - kernels.shape[-1] // 2
        x = x * _sense(model)
        for k, color in zip(turns, _TURN_COLORS, strict=True):
            ax.plot(x, kernels[k + model.max_step], color=color, label=f"k = {k}", linewidth=1.3)
        plain(ax, "kernels", "distance (neurons)", "weight")
    else:
        directions = model.tuning().mean_vector.direction[0][order]
        for weights, k, color in zip(shown, turns, _TURN_COLORS, strict=True):
            ax.plot(*_profile(weights, directions), color=color, label=f"k = {k}", linewidth=1.3)
        _differences(ax, "mean weight")
    _zero(ax)
    _legend(ax)


def _driven(fig: object, axes: Sequence["Axes"], model: HeadDirectionModel, order: Tensor) -> None:
    """Draws the one matrix of the additive network, its profile, and the drives of turns."""
    transformation = model.transformation
    assert isinstance(transformation, AdditiveRecurrence)
    weights = transformation.recurrent.detach()[0][order][:, order].numpy()
    directions = model.tuning().mean_vector.direction[0][order]
    _images(fig, axes[:1], [weights], ["A"])
    axes[1].plot(*_profile(weights, directions), color=_TURN_COLORS[1], linewidth=1.3)
    _differences(axes[1], "mean weight")
    drive = transformation.drive.detach()[0][:, order]
    for k, color in zip(_turns(model), _TURN_COLORS, strict=True):
        x, y = torch.rad2deg(directions).numpy(), drive[k + model.max_step].numpy()
        axes[2].plot(x, y, color=color, label=f"k = {k}", linewidth=1.0)
    plain(axes[2], "drive of a turn", "preferred direction (deg)")
    _legend(axes[2])
    axes[3].set_axis_off()


def _generated(
    fig: object, axes: Sequence["Axes"], model: HeadDirectionModel, order: Tensor, color: str
) -> None:
    """Draws the generator, its profile, and the frequencies of a linear group."""
    generator: Tensor = model.transformation.generator.detach()[0]  # type: ignore[union-attr]
    weights = generator[order][:, order].numpy()
    _images(fig, axes[:1], [weights], ["generator B (per rad)"])
    directions = model.tuning().mean_vector.direction[0][order]
    axes[1].plot(*_profile(weights, directions), color=color, linewidth=1.3)
    _differences(axes[1], "mean weight (per rad)")
    _zero(axes[1])
    if not isinstance(model.transformation, LinearGroup):
        for ax in axes[2:]:
            ax.set_axis_off()
        return
    grid = axes[2].get_gridspec()
    for ax in axes[2:]:
        ax.remove()
    wide = axes[0].figure.add_subplot(grid[0, 2:])
    with torch.no_grad():
        found = model.transformation.spectrum()
        inside = model.codes.to(found.modes.dtype) @ found.modes.conj()
    energy = inside.abs().square().mean(1)[0].numpy()
    frequency = found.frequencies[0].numpy()
    # Ascending, so that a mode and its conjugate, of one frequency, are mirror images.
    half = -(-len(energy) // 2)
    pairs = energy + energy[::-1]
    pairs[len(energy) // 2] /= 1 + len(energy) % 2  # an odd one out is its own image
    frequency, share = np.abs(frequency[:half]), pairs[:half] / energy.sum()
    largest = np.ceil(frequency[share > 1e-4].max()) if (share > 1e-4).any() else 1
    for whole in range(int(largest) + 1):
        wide.axvline(whole, color="0.85", linewidth=0.8, zorder=0)
    wide.vlines(frequency, 0, share, color=color, linewidth=1.4)
    wide.plot(frequency, share, "o", color=color, markersize=3)
    wide.set(yscale="log", ylim=(1e-5, 1), xlim=(-0.4, largest + 0.4))
    wide.set_xticks(range(int(largest) + 1))
    plain(wide, "frequencies of B", "turns of the mode per turn of the head", "share of energy")


def _images(
    fig: object, axes: Sequence["Axes"], shown: Sequence[np.ndarray], titles: Sequence[str]
) -> None:
    # A few weights far out would make all others pale.
    limit = max(float(np.quantile(np.abs(np.stack(shown)), 0.998)), 1e-12)
    for ax, weights, title in zip(axes, shown, titles, strict=True):
        some, count = thinned(len(weights)), len(weights)
        image = ax.imshow(
            weights[some, some],
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            interpolation="none",
            extent=(0, count, count, 0),
        )
        plain(ax, title, "from neuron", "to neuron" if ax is axes[0] else "")
        ax.locator_params(nbins=5)
    bar = fig.colorbar(image, ax=list(axes), shrink=0.85, pad=0.02, aspect=18)  # type: ignore[attr-defined]
    bar.ax.tick_params(labelsize=6.5)


def _profile(weights: np.ndarray, directions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean weights in bins of the difference of preferred directions (degrees)."""
    x = torch.rad2deg(directions).numpy()
    apart = (x[:, None] - x[None] + 180) % 360 - 180
    defined = np.isfinite(apart)  # collapsed codes have no directions
    apart, weights = apart[defined], weights[defined]
    edges = np.linspace(-180, 180, 61)
    counts, _ = np.histogram(apart, edges)
    sums, _ = np.histogram(apart, edges, weights=weights)
    return (edges[1:] + edges[:-1]) / 2, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _differences(ax: "Axes", y: str) -> None:
    plain(ax, "weights by direction", "difference of directions (deg)", y)
    ax.set_xticks([-180, -90, 0, 90, 180])


def _zero(ax: "Axes") -> None:
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)


def _legend(ax: "Axes") -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.2 * (high - low))
    ax.legend(
        fontsize=6.5, frameon=False, handlelength=1.0, loc="upper center", ncols=3, columnspacing=1
    )


def _places(model: HeadDirectionModel) -> Tensor:
    """Returns the angle of each neuron on its ring."""
    ring = model.neurons // getattr(model.transformation, "channels", 1)
    return (torch.arange(model.neurons) % ring) * (2 * torch.pi / ring)


def _sense(model: HeadDirectionModel) -> int:
    """Returns -1 where preferred directions fall along the ring."""
    tuning = model.tuning()
    found = align_directions(_places(model), tuning.mean_vector.direction[0], tuning.counted[0])
    return int(found.direction)


def _order(tuning: TuningSummary) -> Tensor:
    """Returns the active neurons of the first seed in the order of their directions."""
    kept = tuning.counted[0].nonzero()[:, 0]
    return kept[tuning.mean_vector.direction[0][kept].argsort()]


def _turns(model: HeadDirectionModel) -> tuple[int, int, int]:
    return -model.max_step, 0, model.max_step


def _turn_title(k: int) -> str:
    return f"A + B$_{{{k}}}$"
