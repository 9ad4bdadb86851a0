"""Which slots matter: costs when one is replaced by the prior's mean."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import DiagonalGaussian, frozen
from lv_text.model import ThoughtModel, evaluating
from lv_text.probes.blank import check_latents, prior_mean

__all__ = ["SlotAblation", "slot_ablation"]

IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class SlotAblation:
    """What single slots and whole layers of latents are worth, nats; larger = more important.

    Worth alone, with all others in place: two slots that hold the same are worth nothing each.
    """

    tokens: Tensor
    """Scored tokens, `(B,)`, to divide by."""
    nll: Tensor
    """NLL with all latents, `(B,)`."""
    slots: Tensor
    """Increase of the NLL without a slot, `(L, M, B)`; negative if the slot does harm."""
    layers: Tensor
    """Increase without all slots of a layer, `(L, B)`."""
    everything: Tensor
    """Increase without any latent in place, `(B,)`: all at the prior's mean."""

    def per_token(self) -> Float[Tensor, "layers slots"]:
        """Returns the importance of each slot: total increase over total tokens."""
        return self.slots.sum(-1) / self.tokens.sum()


def slot_ablation(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    z: Float[Tensor, "batch layers slots width"],
    *,
    prior: DiagonalGaussian | None = None,
) -> SlotAblation:
    """Scores sequences with one slot after the other replaced by the prior's mean.

    Arguments:
        model: The model; L M + L + 2 forward passes.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        z: Latents of the sequences.
        prior: Gaussian of one latent, event shape `config.event`; None = N(0, I).

    Raises:
        ValueError: If shapes do not fit, or a sequence scores nothing.

    Example:
        >>> slot_ablation(model, x, y, z).per_token().argmax()  # the most important slot
    """
    check_latents(model, tokens, targets, z)
    _, layers, slots, _ = z.shape
    mean = prior_mean(z, prior)
    with frozen(model), torch.no_grad(), evaluating(model):
        log_likelihood = model.likelihood(tokens, targets)

        def cost(gone: Tensor) -> Tensor:
            return -log_likelihood(torch.where(gone[..., None], mean, z))

        none = torch.zeros(layers, slots, dtype=torch.bool, device=z.device)
        nll = cost(none)
        single = []
        for place in range(layers * slots):
            gone = none.clone()
            gone.view(-1)[place] = True
            single.append(cost(gone) - nll)
        whole = []
        for layer in range(layers):
            gone = none.clone()
            gone[layer] = True
            whole.append(cost(gone) - nll)
        everything = cost(~none) - nll
    return SlotAblation(
        tokens=(targets != IGNORED).sum(1),
        nll=nll,
        slots=torch.stack(single).view(layers, slots, -1),
        layers=torch.stack(whole),
        everything=everything,
    )
