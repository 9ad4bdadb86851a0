"""The models of a run: which there are, and one of them from training to its measures.

A cell of the grid is one model with all seeds stacked, or one baseline. It runs on its own, in a
process of its own where asked, and leaves its numbers in `cells/<name>.json`.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps._runner.checkpoint import write
from apps._runner.run import write_json
from apps.head_direction.settings import Settings
from lv_core.random import stream
from lv_neuro import (
    AnalyticRing,
    HeadDirectionModel,
    PathIntegrator,
    RingAttractor,
    RnnSettings,
    SinCosRnn,
    Trainer,
    Training,
    Walks,
    path_integration,
    random_walks,
    report,
    tuning_summary,
)
from lv_neuro.baselines import RnnTrainer
from lv_neuro.model import DEFAULTS

__all__ = ["Cell", "build", "load_model", "plan", "read_record", "run_cell"]


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


def run_cell(
    cell: Cell, settings: Settings, folder: Path, turns: Walks | None, device: str
) -> dict[str, Any]:
    """Trains and measures one cell, or returns what an earlier session found.

    Arguments:
        cell: What to run.
        settings: Of the run.
        folder: Folder of the cells; gets <name>.json and <name>.pt.
        turns: Segments of recorded head turns.
        device: "cpu" or "cuda".
    """
    path = folder / f"{cell.name}.json"
    if path.exists():
        return read_record(path)
    torch.set_num_threads(max(1, settings.threads))
    began = time.perf_counter()
    model, trained = _trained(cell, settings, folder, device)
    record = {
        **asdict(cell),
        "seeds": _seeds(settings),
        "parameters": _parameters(model),
        "training_seconds": round(trained, 2),
        # path integration is measured alike for models and baselines, in "paths"
        "report": report(model, noise=()) if isinstance(model, HeadDirectionModel) else {},
        "paths": _paths(model, settings, device),
        "turns": _turns(model, turns, device),
        "tuning": _tuning(model),
    }
    record["seconds"] = round(time.perf_counter() - began, 2)
    write_json(path, record)
    (folder / f"{cell.name}.state.pt").unlink(missing_ok=True)
    return read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a finished cell; what JSON calls null is no number, NaN."""
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    measured = ("report", "paths", "turns", "tuning")
    return record | {key: _with_nan(record[key]) for key in measured}


def load_model(record: Mapping[str, Any], folder: Path) -> HeadDirectionModel:
    """Returns the trained model of a finished cell, on the CPU."""
    model = HeadDirectionModel(**record["model"], seeds=record["seeds"])
    content = torch.load(folder / f"{record['name']}.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(content["model"])
    return model


# Which cells there are


def _seeds(settings: Settings) -> list[int]:
    return [settings.seed + k for k in range(settings.seeds)]


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
    local = {"isometry_reach": settings.ring.max_step, "isometry_scale": 2.0}
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


# One cell


def build(cell: Cell, settings: Settings) -> PathIntegrator:
    """Returns the model before training; raises a ValueError if its sizes cannot work."""
    seeds, ring = _seeds(settings), settings.ring
    if cell.kind == "analytic":
        width = ring.sigma / math.sqrt(2)
        return AnalyticRing.from_sigma(width, neurons=ring.neurons, bins=ring.bins)
    if cell.kind == "attractor":
        return RingAttractor(neurons=ring.neurons, bins=ring.bins)
    if cell.kind == "rnn":
        return SinCosRnn(RnnSettings(**cell.model), seeds=seeds)
    return HeadDirectionModel(**cell.model, seeds=seeds)


def _trained(
    cell: Cell, settings: Settings, folder: Path, device: str
) -> tuple[PathIntegrator, float]:
    """Returns the model, trained, and the seconds that took."""
    model = build(cell, settings)
    if isinstance(model, SinCosRnn):
        model.to(device)
        trainer = RnnTrainer(model)
        iterations = model.settings.iterations
        return model, _train(model, trainer, iterations, cell, settings, folder)
    if isinstance(model, HeadDirectionModel):
        model.to(device)
        training = Training(**cell.training)
        learning = Trainer(model, training)
        return model, _train(model, learning, training.iterations, cell, settings, folder)
    return model, 0.0


def _train(
    model: torch.nn.Module,
    trainer: Trainer | RnnTrainer,
    iterations: int,
    cell: Cell,
    settings: Settings,
    folder: Path,
) -> float:
    """Takes the updates that are left, with a checkpoint and a line of progress now and then."""
    path = folder / f"{cell.name}.state.pt"
    before = 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        trainer.load_state_dict(state["trainer"])
        before = state["seconds"]
    began = told = time.perf_counter()
    while trainer.done < iterations:
        losses = trainer.step()
        now = time.perf_counter()
        if trainer.done % settings.save_every == 0 and trainer.done < iterations:
            state = {"model": model.state_dict(), "trainer": trainer.state_dict()}
            write(path, state | {"seconds": before + now - began})
        if now - told > 15:
            told = now
            loss = losses if isinstance(losses, Tensor) else losses.total
            print(f"{cell.name}: {trainer.done}/{iterations}, loss {float(loss.mean()):.3g}")
    seconds = before + time.perf_counter() - began
    write(folder / f"{cell.name}.pt", {"model": model.state_dict()})
    return seconds


def _paths(model: PathIntegrator, settings: Settings, device: str) -> dict[str, Any]:
    """Returns errors against time, the same walks for every cell: degrees, one row per seed."""
    evaluate, ring = settings.evaluate, settings.ring
    walks = random_walks(
        evaluate.walks,
        max(evaluate.lengths),
        bins=ring.bins,
        max_step=ring.max_step,
        generator=stream(0, "walks"),
    )
    found: dict[str, Any] = {}
    for level in evaluate.noise:
        errors = path_integration(
            model,
            walks,
            noise=float(level),
            generator=stream(0, "path noise", device=device),
        )
        curve = errors.curve
        found[f"{level:g}"] = {
            "at": {str(length): curve[:, length - 1].tolist() for length in evaluate.lengths},
            "curve": [[round(v, 4) for v in row] for row in curve[:, _moments(curve)].tolist()],
        }
    found["steps"] = (_moments(curve) + 1).tolist()
    return found


def _moments(curve: Tensor) -> Tensor:
    """Returns about 60 steps, evenly spaced on a logarithmic axis."""
    ends = torch.logspace(0, torch.log10(torch.tensor(float(curve.shape[1]))).item(), 60)
    return (ends.round().long() - 1).unique()


def _turns(model: PathIntegrator, turns: Walks | None, device: str) -> dict[str, Any]:
    """Returns errors on recorded head turns after some seconds, degrees."""
    if turns is None:
        return {}
    curve = path_integration(model, turns).curve
    seconds = [s for s in (1, 5, 10, 30) if 20 * s <= curve.shape[1]]
    return {
        "seconds": seconds,
        "error": [[float(row[20 * s - 1]) for s in seconds] for row in curve],
    }


def _tuning(model: PathIntegrator) -> dict[str, Any]:
    """Returns the widths of all counted neurons, in degrees, and how many have one bump."""
    codes: Tensor = model.codes.detach()  # type: ignore[attr-defined]
    summary = tuning_summary(codes)
    widths = [
        torch.rad2deg(sigma[counted & sigma.isfinite()]).tolist()
        for sigma, counted in zip(summary.fit.sigma, summary.counted, strict=True)
    ]
    return {
        "sigma": [[round(v, 2) for v in row] for row in widths],
        "bumps": summary.bumps_mean.tolist(),
        "r2_median": summary.r2_median.tolist(),
        "mean_vector_length": summary.length_median.tolist(),
    }


def _parameters(model: PathIntegrator) -> int:
    """Returns the learned numbers of one seed."""
    if isinstance(model, HeadDirectionModel):
        return sum(p.numel() for p in model.parameters()) // len(model.seeds)
    return int(model.parameters_count)  # type: ignore[attr-defined]


def _with_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {key: _with_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value
