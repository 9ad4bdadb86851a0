"""Whether a latent is its own sequence's: costs under the latents of others."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import frozen
from lv_text.model import ThoughtModel, evaluating
from lv_text.probes.blank import check_latents

__all__ = ["SwapTest", "swap_test"]

IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class SwapTest:
    """Costs of each sequence under the latent of each sequence, B of them."""

    tokens: Tensor
    """Scored tokens, `(B,)`."""
    nll: Tensor
    """-log p(x_i | z_j) in nats at row i, column j, `(B, B)`."""
    gap: Tensor
    """`nll[i, j] - nll[i, i]`: what the wrong latent costs; the diagonal is 0."""
    gap_per_token: float
    """Mean gap over all pairs of two sequences, in nats per token."""
    retrieval: float
    """Share of sequences that cost least under their own latent; 1 / B by chance."""


def swap_test(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    z: Float[Tensor, "batch layers slots width"],
) -> SwapTest:
    """Scores all sequences of a small batch under all latents of the batch.

    A latent that holds nothing gives a gap of 0. Latents that were fitted with shared noise give
    a gap although their posteriors may hold nothing: use fresh draws of q to ask about those.

    Arguments:
        model: The model.
        tokens: Inputs of two sequences or more; B^2 forward passes of one sequence each.
        targets: Their successors; -100 is not scored.
        z: Latents of the sequences.

    Raises:
        ValueError: If shapes do not fit, there is one sequence only, or one scores nothing.

    Example:
        >>> swap_test(model, x, y, infer(model, x, y).z).gap_per_token
    """
    check_latents(model, tokens, targets, z)
    batch = len(tokens)
    if batch < 2:
        raise ValueError(f"tokens must hold two sequences or more to swap latents, got {batch}")
    place = torch.arange(batch, device=z.device)
    with frozen(model), torch.no_grad(), evaluating(model):
        log_likelihood = model.likelihood(tokens, targets)
        nll = torch.stack([-log_likelihood(z[j].expand_as(z)) for j in range(batch)], 1)
    own = nll.diagonal()
    gap = nll - own[:, None]
    count = (targets != IGNORED).sum(1)
    return SwapTest(
        tokens=count,
        nll=nll,
        gap=gap,
        gap_per_token=float(gap.sum() / (count.sum() * (batch - 1))),
        retrieval=float((nll.argmin(1) == place).double().mean()),
    )
