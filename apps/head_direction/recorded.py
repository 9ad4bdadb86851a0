"""The recorded cells that the models are held against."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from apps._runner import Run, UserError
from apps.head_direction.evaluate import HeadTurns
from apps.head_direction.settings import Settings
from lv_core.random import stream
from lv_neuro import (
    Recording,
    Walks,
    cross_decode,
    load_npz,
    load_nwb,
    load_recorded,
    synthetic_recording,
    tuning_summary,
)
from lv_neuro.analysis.gaussian import GaussianFit

__all__ = ["RecordedCells", "load_cells"]

STEP = 0.05
"""Seconds per head turn, where the time bins allow it."""


class RecordedCells(NamedTuple):
    """Recorded cells, measured like the models."""

    record: dict[str, Any]
    """Numbers for the results file."""
    turns: HeadTurns
    """Segments of the recorded head turns."""
    rates: torch.Tensor
    """Tuning curves (bins, cells) in Hz."""
    decoded: dict[str, list[float]]
    """A piece of the decoded heading: seconds, truth, heading (radians)."""


def load_cells(run: Run, settings: Settings) -> RecordedCells:
    """Loads and measures the recorded cells: tuning, movement, decoded heading."""
    recording, rates, name = _load(run, settings)
    curves = rates if rates is not None else recording.tuning_curves(bins=60).rates
    unseen = int(curves.isnan().any(1).sum())
    if unseen:
        raise UserError(
            f"{name}: {unseen} of {len(curves)} bins of heading were never visited, so that "
            "tuning cannot be compared around the circle: a longer recording is needed"
        )
    every = torch.ones(curves.shape[1], dtype=torch.bool)
    tuning = tuning_summary(curves.float(), mask=every)
    given = settings.recorded
    decoded = cross_decode(recording, block=given.folds, window=given.window)
    error = torch.rad2deg(decoded.error)
    widths = torch.rad2deg(tuning.fit.sigma)[_tuned(tuning.fit)]
    if not len(widths):
        raise UserError(f"{name}: no cell has a tuning curve that a Gaussian fits (R^2 > 0.5)")
    evaluate, ring = settings.evaluate, settings.ring
    step = 2 * torch.pi / ring.bins
    # The whole number of time bins that is nearest to the usual step.
    turn_seconds = max(1, round(STEP / recording.bin_seconds)) * recording.bin_seconds
    seconds = min(evaluate.seconds, int(recording.seconds / 4))
    turns = recording.segments(
        evaluate.segments,
        round(seconds / turn_seconds),
        bin_seconds=turn_seconds,
        max_turn=ring.max_step * step,
    )
    record = {
        "name": name,
        "cells": len(every),
        "seconds": round(recording.seconds, 1),
        "gaussian_r2_median": float(tuning.r2_median),
        "tuning_sigma": float(torch.rad2deg(tuning.sigma_median)),
        "tuning_sigma_range": [float(widths.min()), float(widths.max())],
        "tuning_sigmas": [round(float(v), 2) for v in widths],
        "half_width": float(torch.rad2deg(tuning.half_width_median)),
        "bumps": float(tuning.bumps_mean),
        "mean_vector_length": float(tuning.length_median),
        "largest_gap": float(torch.rad2deg(tuning.largest_gap)),
        "decoding_median_error": float(error.median()),
        "decoding_mean_error": float(error.mean()),
    }
    piece = slice(0, round(60 / given.window))
    shown = {
        "seconds": decoded.time[piece].tolist(),
        "truth": decoded.truth[piece].tolist(),
        "heading": decoded.heading[piece].tolist(),
    }
    return RecordedCells(record, HeadTurns(_float32(turns), turn_seconds), curves, shown)


def _load(run: Run, settings: Settings) -> tuple[Recording, torch.Tensor | None, str]:
    given = settings.recorded
    if given.source == "head_direction":
        found = load_recorded(run.data("head_direction"))
        return found.run, found.tuning, "mouse, anterodorsal thalamus (Peyrache et al. 2015)"
    if given.source == "synthetic":
        recording = synthetic_recording(600.0, generator=stream(0, "synthetic recording"))
        return recording, None, "made by lv-neuro: Poisson cells on simulated head turns"
    path = Path(given.path)
    if not path.is_file():
        raise UserError(f"recorded.path names no file: {given.path!r}")
    loaders = {".npz": load_npz, ".nwb": load_nwb}
    if path.suffix not in loaders:
        raise UserError(f"recorded.path must end in .npz or .nwb, got {path.name}")
    with warnings.catch_warnings():
        # The library warns; what is drawn from degrees would only look like a result.
        warnings.filterwarnings("error", ".*look like degrees", UserWarning)
        try:
            load = loaders[path.suffix]
            return load(path, heading=given.heading, missing=given.missing), None, path.name
        except UserWarning as warning:
            raise UserError(f"{path.name}: {warning}") from None
        except ValueError as error:
            raise UserError(f"{path.name}: {error} (--recorded.heading, .missing)") from None


def _tuned(fit: GaussianFit) -> torch.Tensor:
    """Returns which cells have a width: the fit describes them and is not stuck at its bounds."""
    low, high = 0.081, 1.58  # radians; the fit searches from 0.08 to 1.6
    return (fit.r2 > 0.5) & (fit.sigma > low) & (fit.sigma < high)


def _float32(walks: Walks) -> Walks:
    return Walks(*(part.float() for part in walks))
