"""The error by which weights are chosen."""

import torch
from torch import nn

from lv_dynamics.inference import InferenceSettings, infer
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences

__all__ = ["VALIDATION", "reconstruction_error"]

VALIDATION = InferenceSettings(restarts=4, steps=60, polish=20)
"""Inference while learning: shorter than what forecasts deserve, the same for all weights."""


def reconstruction_error(
    model: EnergyOde,
    sequences: Sequences,
    *,
    seen: float = 1.0,
    recognition: nn.Module | None = None,
    settings: InferenceSettings = VALIDATION,
    seed: int = 0,
) -> float:
    """Returns the mean squared error over observed entries at the best latent of each sequence.

    Arguments:
        model: The model.
        sequences: What is predicted.
        seen: Share of the observed rows, the first ones, that the latent is inferred from.
        recognition: Network that infers by its mean, in place of chains.
        settings: Of the chains.
        seed: Seed of the chains, so that all weights meet the same noise.

    Raises:
        ValueError: If `seen` is not in (0, 1].
    """
    if not 0 < seen <= 1:
        raise ValueError(f"seen must lie in (0, 1], got {seen}")
    count = (sequences.rows.sum(1) * seen).ceil().long()
    shown = sequences.prefix(count, of="observed")
    if recognition is None:
        z = infer(model, shown, settings=settings, seed=seed).best()
    else:
        with torch.no_grad():
            z = recognition(shown).mean
    with torch.no_grad():
        likelihood = model.likelihood(sequences)
        residual = likelihood.residuals(z)
        return float(residual.square().sum() / likelihood.observed.sum())
