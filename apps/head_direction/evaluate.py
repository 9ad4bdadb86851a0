"""What a trained model can do: path integration, recorded head turns, tuning."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from apps.head_direction.settings import Settings
from lv_core.random import stream
from lv_neuro import (
    HeadDirectionModel,
    PathIntegrator,
    Walks,
    path_integration,
    random_walks,
    report,
    tuning_summary,
)

__all__ = ["HeadTurns", "evaluate"]


class HeadTurns(NamedTuple):
    """Segments of recorded head turns."""

    walks: Walks
    """Starts, turns and headings in radians."""
    step: float
    """Seconds per turn."""


def evaluate(
    model: PathIntegrator, settings: Settings, turns: HeadTurns | None, device: str
) -> dict[str, Any]:
    """Returns every measure of a model or baseline; angles in degrees, one value per seed.

    Arguments:
        model: Trained.
        settings: Of the run.
        turns: Segments of recorded head turns.
        device: "cpu" or "cuda", where the model is.
    """
    return {
        # path integration is measured alike for models and baselines, in "paths"
        "report": report(model, noise=()) if isinstance(model, HeadDirectionModel) else {},
        "paths": _paths(model, settings, device),
        "turns": _turns(model, turns, device),
        "tuning": _tuning(model),
    }


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


def _turns(model: PathIntegrator, turns: HeadTurns | None, device: str) -> dict[str, Any]:
    """Returns errors on recorded head turns after some seconds, degrees."""
    if turns is None:
        return {}
    curve = path_integration(model, turns.walks).curve
    last = {s: round(s / turns.step) - 1 for s in (1, 5, 10, 30)}
    seconds = [s for s in last if last[s] < curve.shape[1]]
    return {
        "seconds": seconds,
        "error": [[float(row[last[s]]) for s in seconds] for row in curve],
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
