"""Priors fitted on the posteriors of many sequences, after the model has been trained."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch

from lv_core import DiagonalGaussian, normal, stream
from lv_core.evidence.joint import LatentPrior
from lv_priors import FlowPrior
from lv_text import gaussian_prior

__all__ = ["fit_prior"]

HELD = 0.25
"""Share of the posteriors that says when to stop."""
UPDATES = 400
BATCH = 64


def fit_prior(
    kind: Literal["gaussian", "flow"], posteriors: Sequence[DiagonalGaussian], *, seed: int
) -> LatentPrior:
    """Returns a normalised prior of the latent that is close to the aggregate posterior.

    Arguments:
        kind: "gaussian" matches mean and variance of each number; "flow" is a masked
            autoregressive flow, learned by maximum likelihood on fresh draws of three quarters of
            the posteriors and kept where the last quarter is most probable.
        posteriors: Of training sequences, in batches.
        seed: Of the flow and its draws.

    Raises:
        ImportError: If the flow is asked for and zuko is missing.
    """
    q = DiagonalGaussian(
        torch.cat([part.mean for part in posteriors]),
        torch.cat([part.log_scale for part in posteriors]),
        event_ndim=posteriors[0].event_ndim,
    )
    return gaussian_prior(q) if kind == "gaussian" else _flow(q, seed)


def _flow(q: DiagonalGaussian, seed: int) -> FlowPrior:
    generator = stream(seed, "aggregate flow")
    with torch.random.fork_rng(devices=[]):  # zuko draws its weights from the global generator
        torch.manual_seed(generator.initial_seed())
        prior = FlowPrior.maf(tuple(q.mean.shape[1:]), transforms=2, hidden=(128,))
    prior.to(q.mean.device)
    order = torch.randperm(len(q.mean), generator=generator).to(q.mean.device)
    held, used = order.split([int(HELD * len(order)), len(order) - int(HELD * len(order))])
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3, weight_decay=1e-4)
    judged = _draw(q, held, generator)
    best, kept = float("inf"), copy.deepcopy(prior.state_dict())
    for update in range(UPDATES + 1):
        if update % 20 == 0:
            with torch.no_grad():
                cost = -float(prior.log_density(judged).mean())
            if cost < best:
                best, kept = cost, copy.deepcopy(prior.state_dict())
        pick = used[torch.randint(len(used), (BATCH,), generator=generator).to(used.device)]
        loss = prior.loss(_draw(q, pick, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prior.load_state_dict(kept)
    return prior.requires_grad_(False)


def _draw(q: DiagonalGaussian, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    mean = q.mean[index].cpu()
    drawn = mean + q.log_scale[index].cpu().exp() * normal(mean, generator)
    return drawn.to(q.mean.device)
