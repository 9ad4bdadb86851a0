"""The recorded cells that the models are held against."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from apps._runner import Run, UserError
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

__all__ = ["RecordedCells", "load_cells"]

STEP = 0.05
"""Seconds per head turn."""


class RecordedCells(NamedTuple):
    """Recorded cells, measured like the models."""

    record: dict[str, Any]
    """Numbers for the results file."""
    turns: Walks
    """Segments of the recorded head turns."""
    rates: torch.Tensor
    """Tuning curves (bins, cells) in Hz."""
    decoded: dict[str, list[float]]
    """A piece of the decoded heading: seconds, truth, heading (radians)."""


def load_cells(run: Run, settings: Settings) -> RecordedCells:
    """Loads and measures the recorded cells: tuning, movement, decoded heading."""
    recording, rates, name = _load(run, settings)
    curves = rates if rates is not None else recording.tuning_curves(bins=60).rates
    every = torch.ones(curves.shape[1], dtype=torch.bool)
    tuning = tuning_summary(curves.float(), mask=every)
    given = settings.recorded
    decoded = cross_decode(recording, block=given.folds, window=given.window)
    error = torch.rad2deg(decoded.error)
    widths = torch.rad2deg(tuning.fit.sigma)
    evaluate, ring = settings.evaluate, settings.ring
    step = 2 * torch.pi / ring.bins
    seconds = min(evaluate.seconds, int(recording.seconds / 4))
    turns = recording.segments(
        evaluate.segments,
        round(seconds / STEP),
        bin_seconds=STEP,
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
    return RecordedCells(record, _float32(turns), curves, shown)


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
    if path.suffix == ".npz":
        return load_npz(path), None, path.name
    if path.suffix == ".nwb":
        return load_nwb(path), None, path.name
    raise UserError(f"recorded.path must end in .npz or .nwb, got {path.name}")


def _float32(walks: Walks) -> Walks:
    return Walks(*(part.float() for part in walks))
