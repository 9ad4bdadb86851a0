"""Every measure of a trained model in one table of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lv_core.random import stream
from lv_neuro.analysis import (
    active,
    error_correction,
    generator_frequencies,
    group_law,
    identity_error,
    kernel_error,
    path_integration,
    principal_circle,
    topography,
    tuning_summary,
)
from lv_neuro.model import HeadDirectionModel
from lv_neuro.transforms import ConvRecurrence, LinearGroup
from lv_neuro.walks import random_walks

__all__ = ["report"]


def report(
    model: HeadDirectionModel,
    *,
    walks: int = 200,
    lengths: Sequence[int] = (100, 1000),
    noise: Sequence[float] = (0.0, 0.05, 0.1),
    correction_scales: Sequence[float] = (0.3, 0.6, 1.0),
    correction_applications: Sequence[int] = (0, 1, 3, 10),
    seed: int = 0,
) -> dict[str, list[float]]:
    """Measures tuning, ring and dynamics of a trained model, one value per stacked seed.

    Angles in this table are in DEGREES, as in the tables of the field.

    Arguments:
        model: The model; tuning is that of its active neurons.
        walks: Walks of path integration.
        lengths: Turns after which its error is given.
        noise: Expected norms of the noise added after each turn, relative to a code's norm 1.
        correction_scales: Expected norms of the disturbance in the error-correction test.
        correction_applications: Numbers of turns by zero after which that test measures.
        seed: Makes walks and noise; the same seed gives every model the same walks.

    Returns:
        Name to values. `path_error_T<length>_noise<level>` is the mean error after the last turn,
        `path_mean_...` that over all turns; `topography` is there for one channel of neurons on a
        ring, `frequency_distance` for the linear group.

    Raises:
        ValueError: If there are no walks, lengths or scales, or a number is out of its range.

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024, claims
        C1 (bumps), C2 (circle), C3 (path integration); the measures are ours.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths must hold numbers of at least 1, got {tuple(lengths)}")
    codes = model.codes
    tuning, circle = tuning_summary(codes), principal_circle(codes)
    found: dict[str, Tensor] = {
        "active": active(codes).sum(-1),
        "gaussian_r2_median": tuning.r2_median,
        "gaussian_r2_low": tuning.r2_low,
        "tuning_sigma": torch.rad2deg(tuning.sigma_median),
        "half_width": torch.rad2deg(tuning.half_width_median),
        "bumps": tuning.bumps_mean,
        "mean_vector_length": tuning.length_median,
        "largest_gap": torch.rad2deg(tuning.largest_gap),
        "radius_cv": circle.radius_cv,
        "winding": circle.winding,
        "variance_share": circle.variance_share,
        "group_law": group_law(model, max_step=model.max_step),
        "identity": identity_error(model),
    }
    if model.anti_collapse in ("kernel", "von_mises", "cosine"):
        kind = model.anti_collapse
        found["kernel_error"] = kernel_error(codes, sigma=model.sigma, kind=kind)
    transformation = model.transformation
    if isinstance(transformation, ConvRecurrence) and transformation.channels == 1:
        found["topography"] = topography(tuning.mean_vector.direction, tuning.counted)
    if isinstance(transformation, LinearGroup):
        found["frequency_distance"] = _frequency_distance(transformation, codes)
    for level in noise:
        found |= _path_errors(model, walks, lengths, level, seed)
    corrected = error_correction(
        model,
        scales=correction_scales,
        applications=correction_applications,
        rectify=model.code.non_negative,
        generator=_generator(model, seed, "correction"),
    )
    for i, scale in enumerate(correction_scales):
        for j, times in enumerate(correction_applications):
            name = f"scale{scale:g}_after{times}"
            found[f"off_ring_{name}"] = corrected.off_ring[:, i, j]
            found[f"correction_error_{name}"] = corrected.heading_error[:, i, j]
    return {name: [float(v) for v in values] for name, values in found.items()}


def _path_errors(
    model: HeadDirectionModel, walks: int, lengths: Sequence[int], level: float, seed: int
) -> dict[str, Tensor]:
    """Runs the longest walks once; shorter ones are their beginnings."""
    drawn = random_walks(
        walks,
        max(lengths),
        bins=model.bins,
        max_step=model.max_step,
        generator=stream(seed, "walks"),
    )
    generator = _generator(model, seed, "path noise")
    errors = path_integration(model, drawn, noise=level, generator=generator)
    found = {}
    for length in lengths:
        name = f"T{length}_noise{level:g}"
        found[f"path_error_{name}"] = errors.curve[:, length - 1]
        found[f"path_mean_{name}"] = errors.curve[:, :length].mean(-1)
    return found


def _generator(model: HeadDirectionModel, seed: int, name: str) -> torch.Generator:
    return stream(seed, name, device=model.codes.device)


@torch.no_grad()
def _frequency_distance(transformation: LinearGroup, codes: Tensor) -> Tensor:
    frequencies, modes = transformation.spectrum()
    energy = (codes.to(modes.dtype) @ modes.conj()).abs().square().mean(1)
    return generator_frequencies(frequencies, energy).weighted
