"""Which models a run has: main ones, baselines, ablations and the grid.

A cell is one model with all seeds stacked, or one baseline.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from apps.head_direction.settings import Settings
from lv_neuro import Training
from lv_neuro.model import DEFAULTS

__all__ = ["Cell", "plan"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model or baseline."""

    name: str
    kind: str
    """model, rnn, analytic or attractor"""
    group: str
    """main, ablation, sweep or baseline"""
    model: dict[str, Any] = field(default_factory=dict)
    """arguments of HeadDirectionModel or RnnSettings"""
    training: dict[str, Any] = field(default_factory=dict)
    """arguments of Training"""


def plan(settings: Settings) -> list[Cell]:
    """Returns all cells of a run, those that the figures need first."""
    cells = [_model(settings, variant, "main") for variant in settings.variants]
    if settings.baselines.rnn:
        cells += _recurrent(settings)
    if settings.baselines.analytic:
        cells += [Cell(name=n, kind=n, group="baseline") for n in ("analytic", "attractor")]
    if settings.ablations:
        cells += _ablations(settings)
    taken = {json.dumps([cell.model, cell.training]) for cell in cells}
    for variant in settings.sweep.variants:
        for sigma in settings.sweep.sigmas:
            for neurons in settings.sweep.neurons:
                cell = _swept(settings, variant, sigma, neurons)
                if json.dumps([cell.model, cell.training]) not in taken:
                    cells.append(cell)
    return cells


def _model(settings: Settings, variant: str, group: str, **changes: object) -> Cell:
    ring = settings.ring
    linear = variant in ("linear_group", "linear_poly")
    model: dict[str, Any] = {
        "variant": variant,
        "neurons": ring.linear_neurons if linear else ring.neurons,
        "bins": ring.bins,
        "max_step": ring.max_step,
        "sigma": ring.sigma,
        "anti_collapse": ring.anti_collapse,
        "non_negative": ring.non_negative,
        "readout": ring.readout,
    }
    if ring.renormalize != "default":
        model["renormalize"] = ring.renormalize == "yes"
    training = settings.linear if linear else settings.rectified
    if variant in ("linear_poly", "additive"):
        training = DEFAULTS[variant]
    if variant == "conv":
        model |= {"kernel_width": ring.kernel_width, "channels": ring.channels}
        training = settings.conv
    suffix = "".join(f"-{key}-{value}" for key, value in changes.items())
    return Cell(
        name=f"{variant}{suffix}".replace("_", "-").lower(),
        kind="model",
        group=group,
        model=model | changes,
        training=asdict(training),
    )


def _ablations(settings: Settings) -> list[Cell]:
    cells = [
        _model(settings, "linear_group", "ablation", non_negative=False),
        _model(settings, "fc_table", "ablation", anti_collapse="none"),
        _model(settings, "fc_table", "ablation", renormalize=False),
        _model(settings, "conv", "ablation", renormalize=False),
    ]
    unrefined = _model(settings, "fc_table", "ablation")
    plain = asdict(replace(Training(**unrefined.training), refine=1.0))
    cells.append(replace(unrefined, name="fc-table-refine-1", training=plain))
    reach = settings.ring.max_step
    # as in the short-range trial of the sibling models, or as fast as codes of norm one can be
    speed = min(2.0, 0.99 * math.sqrt(2) / (reach * 2 * math.pi / settings.ring.bins))
    local = {"isometry_reach": reach, "isometry_scale": speed}
    short = _model(settings, "fc_table", "ablation", anti_collapse="isometry", **local)
    return [*cells, replace(short, name="fc-table-isometry-short-range")]


def _swept(settings: Settings, variant: str, sigma: float, neurons: int) -> Cell:
    cell = _model(settings, variant, "sweep", sigma=sigma, neurons=neurons)
    ring = settings.ring
    if variant == "conv":
        # The kernel covers the same angle in every size.
        width = 2 * round(ring.kernel_width * neurons / ring.neurons / 2 - 0.5) + 1
        reach = 2 * ring.max_step * neurons // (ring.bins * ring.channels) + 3
        cell.model["kernel_width"] = max(width, reach | 1)
    return cell


def _recurrent(settings: Settings) -> list[Cell]:
    base = asdict(settings.baselines.rnn_training)
    base |= {"bins": settings.ring.bins, "max_step": settings.ring.max_step}
    cells = [
        Cell(name=f"rnn-{a}", kind="rnn", group="baseline", model=base | {"activation": a})
        for a in ("relu", "tanh")
    ]
    if units := settings.baselines.matched_units:
        more = {"units": units, "batch_size": settings.baselines.matched_batch_size}
        cells.append(
            Cell(name="rnn-relu-matched", kind="rnn", group="baseline", model=base | more)
        )
    return cells
