"""Figures of the latent space: phase portraits, and slices through the learned prior."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from apps.ode_lebm.figures_factors import factors_of
from apps.ode_lebm.figures_style import (
    COLORMAP,
    INK,
    Record,
    Study,
    figure,
    key_below,
    line_of,
    plain,
)
from apps.ode_lebm.results import TITLES
from lv_priors import EnergyPrior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["energy_landscapes", "phase_portraits", "plane_of"]

FINE = 70  # points along each side of a slice
PATHS = 40  # trajectories in a portrait
ROWS = 240  # times of a trajectory


class Plane(NamedTuple):
    """The plane of the first two principal components of points."""

    center: Tensor
    axes: Tensor
    """Two orthonormal rows."""
    share: float
    """Share of the variance that lies in it."""

    def onto(self, points: Tensor) -> Tensor:
        """Returns coordinates `(..., 2)`."""
        return (points - self.center) @ self.axes.T


def plane_of(points: Tensor) -> Plane:
    """Returns the plane of the first two principal components of points `(n, width)`."""
    center = points.mean(0)
    _, values, axes = torch.linalg.svd(points - center, full_matrices=False)
    total = float(values.square().sum())
    share = float(values[:2].square().sum()) / total if total > 0 else 1.0
    return Plane(center, axes[:2], share)


class Paths(NamedTuple):
    """Dynamic states of a model over time, `(B, T, state)`, where the solver does not diverge."""

    times: Tensor
    inferred: Tensor
    """Those of test sequences."""
    factor: np.ndarray | None
    """Their true factor."""
    drawn: Tensor
    """Those of samples of the prior."""


@torch.no_grad()
def phase_portraits(study: Study) -> tuple["Figure", str] | None:
    """Draws trajectories of the dynamic state, of test sequences and of the prior."""
    shown = study.main("prior/z")
    factors = factors_of(study, next(iter(shown.values()))) if shown else {}
    # A turning digit's state should lie on a ring of angles, whatever the digit.
    name = "start" if study.system == "rotating_digits" else next(iter(factors), None)
    paths = {n: _carried(study, r, factors.get(name or "")) for n, r in shown.items()}
    paths = {n: p for n, p in paths.items() if len(p.inferred) > 1 and len(p.drawn)}
    if not paths:
        return None
    fig = figure(3.0 * len(paths), dots=130)
    rows = fig.subplots(len(paths), 2, squeeze=False, sharex="row", sharey="row")
    for row, (variant, found) in zip(rows, paths.items(), strict=True):
        plane = plane_of(found.inferred.flatten(0, 1))
        inferred, drawn = plane.onto(found.inferred), plane.onto(found.drawn)
        _paths(row[0], inferred, found.times, found.factor, name or "time")
        ink = {"color": line_of(variant).color, "rasterized": True}
        for path in drawn.numpy():
            row[1].plot(*path.T, linewidth=0.6, alpha=0.5, **ink)
            row[1].plot(*path[0], ".", markersize=4, **ink)
        _reach(row[0], inferred, drawn)
        title = f"{TITLES[variant]}: test sequences"
        plain(row[0], title, "component 1", f"component 2 (both: {plane.share:.0%} of variance)")
        plain(row[1], "samples of the prior", "component 1")
    colored = f"by their true {name}" if name else "by time"
    return fig, (
        f"{study.title}: dynamic states carried through time by the first seed of each model, in "
        "the plane of the first two principal components of the states of the test sequences "
        f"shown on the left, colored {colored}; dots are initial states, which were inferred from "
        "the points of the main task. Right: initial states (and static variables) drawn from "
        "the prior, in the same plane and to the same scale; a few far paths leave the axes. "
        "Where the model has found the dynamics, paths are orbits that depend on the sequence "
        "through its factors alone, and samples of the prior fill the same region."
    )


def _carried(study: Study, record: Record, factor: np.ndarray | None) -> Paths:
    arrays, model = study.arrays(record), study.model(record)
    given = arrays["task0/times"][0] * study.clock
    times = torch.linspace(float(given[0]), float(given[-1]), ROWS)
    both, whole = [], []
    for key in ("best", "prior/z"):
        paths = model.trajectory(torch.as_tensor(arrays[key][:PATHS]), times, check=False)
        whole.append(torch.isfinite(paths).flatten(1).all(1))
        both.append(paths[whole[-1]])
    kept = None if factor is None else factor[:PATHS][whole[0].numpy()]
    return Paths(times / study.clock, both[0], kept, both[1])


def _paths(
    ax: "Axes", paths: Tensor, times: Tensor, factor: np.ndarray | None, label: str
) -> None:
    """Draws paths `(B, T, 2)`, colored by a factor of each or by time."""
    from matplotlib.collections import LineCollection

    points = paths.numpy()
    pieces = np.stack((points[:, :-1], points[:, 1:]), 2)
    shade = np.broadcast_to(times.numpy()[:-1], pieces.shape[:2])
    if factor is not None:
        shade = np.broadcast_to(factor[:, None], pieces.shape[:2])
    lines = LineCollection(
        pieces.reshape(-1, 2, 2), cmap=COLORMAP, linewidths=0.6, alpha=0.8, rasterized=True
    )
    lines.set_array(shade.reshape(-1))
    ax.add_collection(lines)
    start = points[:, 0]
    dots = shade[:, 0]
    limits = {"vmin": float(shade.min()), "vmax": float(shade.max())}
    ax.scatter(*start.T, c=dots, cmap=COLORMAP, s=6, zorder=3, rasterized=True, **limits)
    bar = ax.figure.colorbar(lines, ax=ax, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _reach(ax: "Axes", *paths: Tensor) -> None:
    """Ends axes where nearly all states lie: some paths run away."""
    found = [torch.quantile(p.reshape(-1, 2), torch.tensor((0.01, 0.99)), dim=0) for p in paths]
    low, high = torch.stack(found).amin((0, 1)), torch.stack(found).amax((0, 1))
    room = 0.15 * (high - low) + 1e-6
    for place, name in enumerate("xy"):
        getattr(ax, f"set_{name}lim")(
            float(low[place] - room[place]), float(high[place] + room[place])
        )


@torch.no_grad()
def energy_landscapes(study: Study) -> tuple["Figure", str] | None:
    """Draws slices of the tilt and of the prior; None without an energy prior."""
    names = [n for n in ("energy-static-mcmc", "energy-plain-mcmc") if n in study.groups]
    names = names or [n for n in study.groups if n.startswith("energy-")][:2]
    shown = study.first("latents", *names) if names else {}
    if not shown:
        return None
    fig = figure(3.0 * len(shown) + 0.3, dots=130)
    rows = fig.subplots(len(shown), 3, squeeze=False)
    for row, (variant, record) in zip(rows, shown.items(), strict=True):
        arrays, prior = study.arrays(record), study.model(record).prior
        assert isinstance(prior, EnergyPrior)
        latents, drawn = (torch.as_tensor(arrays[k]) for k in ("latents", "prior/z"))
        plane = plane_of(latents)
        points = plane.onto(latents)
        reach = float(torch.cat((points, plane.onto(drawn))).abs().max()) * 1.1
        side = torch.linspace(-reach, reach, FINE)
        y, x = torch.meshgrid(side, side, indexing="ij")
        at = plane.center + torch.stack((x, y), -1) @ plane.axes
        tilt, log_prior = prior.tilt(at), prior.log_density(at)
        normal = log_prior - tilt
        for ax, values, title in zip(
            row,
            (tilt, normal - normal.max(), log_prior - log_prior.max()),
            ("tilt F", "log N(0, I)", "log prior = F + log N(0, I)"),
            strict=True,
        ):
            _surface(ax, side, values)
            ax.plot(*points.T, ".", color="white", markersize=5)
            ax.plot(*points.T, ".", color="#d55e00", markersize=3, label="latents of tests")
            ax.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
            plain(ax, title, "component 1", "component 2" if ax is row[0] else "")
        row[2].plot(*plane.onto(drawn).T, "+", color=INK, markersize=3, label="samples of prior")
        row[0].set_title(f"{TITLES[variant]}: tilt F", fontsize=9)
    key_below(fig, rows[0, 2:])
    return fig, (
        f"{study.title}: slices through the latent space [z0, z_s], in the plane of the first "
        "two principal components of the latents of test sequences, through their mean. Left the "
        "learned tilt F, in nats and up to a constant; middle what the Gaussian base alone "
        "says; right the log density of the prior, their sum; both are 0 at the highest point of "
        "the slice and cut at -30. Dots are latents of test sequences (posterior means), crosses "
        "samples of the prior, both projected onto the plane: most lie in front of it or behind "
        "it. A tilt that has learned something is high where the dots are; one that is flat "
        "leaves the prior Gaussian. First seed."
    )


def _surface(ax: "Axes", side: Tensor, values: Tensor) -> None:
    """Draws a function on a square grid."""
    s = float(side[-1])
    shown = values.clamp(min=float(values.max()) - 30).numpy()
    image = ax.imshow(
        shown, origin="lower", extent=(-s, s, -s, s), cmap=COLORMAP, interpolation="bilinear"
    )
    ax.contour(
        side.numpy(), side.numpy(), shown, levels=8, colors="white", linewidths=0.4, linestyles="-"
    )
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=7)
