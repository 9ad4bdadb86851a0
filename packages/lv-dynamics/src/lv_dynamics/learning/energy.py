"""Learning the energy prior from posterior samples."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lv_core import Langevin, stream
from lv_dynamics.learning.settings import LearningSettings
from lv_priors import EnergyHealth, EnergyPrior

__all__ = ["EnergyLearner"]


class EnergyLearner:
    """Takes contrastive steps: the tilt rises at posterior samples and falls at prior samples.

    Prior samples are the ends of short chains from N(0, I), fresh in every update.

    Arguments:
        prior: The prior, changed in place.
        settings: How it is learned.
        seed: Seed of the prior's chains.

    Raises:
        ValueError: If `prior_steps` is given and the prior's sampler is no Langevin kernel.

    Source:
        Pang et al., "Learning Latent Space Energy-Based Prior Model", 2020.
    """

    def __init__(self, prior: EnergyPrior, settings: LearningSettings, seed: int) -> None:
        self.prior, self.settings, self.seed = prior, settings, seed
        self.parameters = list(prior.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=settings.energy_lr, betas=settings.energy_betas
        )
        self.health = EnergyHealth(prior)
        self._negative = prior
        if settings.prior_steps is not None:
            if not isinstance(prior.sampler, Langevin):
                raise ValueError(
                    "prior_steps shortens a Langevin chain, but the prior's sampler is "
                    f"{prior.sampler!r}: leave prior_steps at None"
                )
            # A view of the same parameters: the model keeps its own sampler.
            self._negative = copy(prior)
            self._negative.sampler = replace(prior.sampler, steps=settings.prior_steps)

    def step(self, z: Tensor, done: int) -> dict[str, float]:
        """Takes one step given posterior samples `(B, D)`; returns the signs of health."""
        z = z.detach()
        z_prior = self._negative.sample(len(z), generator=stream(self.seed, "prior", done))
        signs = self.health.update(z, z_prior)
        loss = self.prior.loss(z, z_prior).loss
        grads = torch.autograd.grad(loss, self.parameters)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.energy_clip)
        self.optimizer.step()
        return {
            "gap": signs["gap"],
            "prior_norm": float(torch.linalg.vector_norm(z_prior, dim=-1).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns optimizer and signs; the prior's weights are the model's to save."""
        return {"optimizer": self.optimizer.state_dict(), "health": self.health.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.health.load_state_dict(state["health"])
