"""What stands in for a latent that a probe takes away."""

import torch
from torch import Tensor

from lv_core import DiagonalGaussian, Source, normal
from lv_text.model import ThoughtModel

__all__ = ["check_latents", "prior_draw", "prior_mean"]

# Shapes: B sequences, L layers that read latents, M slots, D width of a slot.


def check_latents(model: ThoughtModel, tokens: Tensor, targets: Tensor, z: Tensor) -> None:
    """Raises unless latents and targets belong to the sequences and the model.

    Raises:
        ValueError: If shapes do not fit, or a sequence has no target that is scored.
    """
    if tokens.shape != targets.shape:
        raise ValueError(
            f"tokens and targets must have one shape, got {tuple(tokens.shape)} and "
            f"{tuple(targets.shape)}: targets are the tokens shifted by one"
        )
    wanted = (len(tokens), *model.config.event)
    if tuple(z.shape) != wanted:
        raise ValueError(
            f"z must be (batch, layers, slots, width) = {wanted} for these sequences and this "
            f"model, got {tuple(z.shape)}: infer it with this model"
        )
    empty = ((targets != -100).sum(1) == 0).nonzero()
    if len(empty):
        raise ValueError(
            f"targets must score a token of each sequence, sequence {int(empty[0])} has only "
            "-100: leave it out"
        )


def prior_mean(z: Tensor, prior: DiagonalGaussian | None) -> Tensor:
    """Returns the mean of the prior in the shape of `z`; zeros for None, N(0, I)."""
    return torch.zeros_like(z) if prior is None else prior.mean.to(z).expand_as(z)


def prior_draw(z: Tensor, prior: DiagonalGaussian | None, generator: Source) -> Tensor:
    """Returns one draw of the prior for each sequence, in the shape of `z`."""
    noise = normal(z, generator)
    if prior is None:
        return noise
    return prior.mean.to(z) + prior.scale.to(z) * noise
