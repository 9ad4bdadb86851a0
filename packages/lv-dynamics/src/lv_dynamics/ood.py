"""How unlike the training data a sequence is."""

from typing import NamedTuple

import torch
from torch import Tensor

from lv_core import frozen
from lv_dynamics.inference import infer
from lv_dynamics.inference_settings import InferenceSettings
from lv_dynamics.model import EnergyOde
from lv_dynamics.posterior import Posterior
from lv_dynamics.sequences import Sequences

__all__ = ["OodScores", "ood_score"]

_DEFAULT = InferenceSettings()


class OodScores(NamedTuple):
    """Scores of each sequence, shape `(B,)`; larger = less like the training data."""

    prior_energy: Tensor
    """`-log p(z)` averaged over posterior samples, up to the prior's constant: are the latents
    that explain the sequence unusual?"""
    misfit: Tensor
    """`-log p(x | z)` for each observed entry, at the restarts' end points: can any latent
    explain it?"""
    posterior_energy: Tensor
    """`-log p(x, z)` for each observed entry, likewise: both together"""


@torch.no_grad()
def ood_score(
    model: EnergyOde,
    data: Posterior | Sequences,
    *,
    settings: InferenceSettings = _DEFAULT,
    seed: int = 0,
) -> OodScores:
    """Returns three scores by which sequences unlike the training data may stand out.

    Which of them separates best depends on the data. The source's exact definition is not known;
    an area under the ROC curve should name the score it is of.

    Arguments:
        model: The model.
        data: What `infer` returned, or sequences, which are inferred here.
        settings: How sequences are inferred; without effect on a posterior.
        seed: Seed of that inference.

    Raises:
        ValueError: If shapes or types disagree.
        SolveError: If the dynamics diverge for a sequence; names it.

    Source:
        Idea: Cheng, Kong et al., "Latent Space Energy-based Neural ODEs", 2025.
    """
    if isinstance(data, Sequences):
        data = infer(model, data, settings=settings, seed=seed)
    with frozen(model):
        energy = model.energy(data.samples())
    prior_energy = (data.sample_weights() * energy).sum(0)
    misfit = -(data.weights * data.log_likelihood).sum(0) / data.observed
    posterior_energy = -(data.weights * data.log_density).sum(0) / data.observed
    return OodScores(prior_energy, misfit, posterior_energy)
