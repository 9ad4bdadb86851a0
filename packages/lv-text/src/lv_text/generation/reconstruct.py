"""How much of a text its latents hold."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lv_core import Source
from lv_core.evidence.joint import LatentPrior
from lv_text.encoder import ThoughtEncoder
from lv_text.generation.generate import check_prompt, generate
from lv_text.generation.latents import Latent, think
from lv_text.generation.sampling import Sampling
from lv_text.inference import Inference, Inferred
from lv_text.model import ThoughtModel, evaluating

__all__ = ["Reconstruction", "reconstruct"]

# Shapes: B documents, T tokens, D width, V ids.

IGNORED = -100
ROWS = 2**22
"""Scores that exist at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """Documents decoded from their own latents."""

    tokens: Tensor
    """Decoded ids `(B, T)`: the given first token, then the most probable ones; those behind a
    document's end are -100."""
    share: Tensor
    """Share of decoded tokens equal to the document's at the same place, `(B,)`. Decoding runs
    free: after one token too many all others are misplaced."""
    forced: Tensor
    """Share of tokens that are the most probable one given the document before them, `(B,)`."""
    found: Inferred | None
    """The inference; None for latent='none'."""


def reconstruct(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    settings: Inference | None = None,
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    latent: Latent = "fitted",
    encoder: ThoughtEncoder | None = None,
    prior: LatentPrior = None,
    generator: Source = None,
) -> Reconstruction:
    """Infers latents on whole documents and decodes them greedily from the first token.

    Compare with `latent="none"`, or with latents of other documents: what a language model gets
    right by itself is no merit of the latents.

    Arguments:
        model: The model.
        tokens: Documents, padded at the end by any ids.
        settings: How latents are inferred; None = the defaults of `Inference`.
        lengths: Tokens of each document; None = all.
        latent: Which latents; see `Latent`.
        encoder: Of amortised methods.
        prior: The prior; None = N(0, I).
        generator: Source of randomness of the inference.

    Raises:
        ValueError: If a document has less than two tokens or more than the model's length + 1,
            or an id is outside the vocabulary.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, released evaluation.

    Example:
        >>> found = reconstruct(model, tokens)
        >>> found.share.mean(), found.forced.mean()
    """
    batch, time = tokens.shape
    if lengths is None:
        lengths = tokens.new_full((batch,), time)
    config = model.config
    low, high = int(lengths.min()), int(lengths.max())
    if len(lengths) != batch or low < 2 or high > min(time, config.length + 1):
        raise ValueError(
            f"lengths must be 2 to {min(time, config.length + 1)} for each of {batch} documents "
            f"(model of length {config.length}), got {lengths.tolist()}: cut the documents"
        )
    tokens = tokens[:, :high]
    place = torch.arange(1, high, device=tokens.device)
    scored = place < lengths[:, None]
    known = torch.cat((torch.ones_like(scored[:, :1]), scored), 1)
    tokens = tokens.where(known, 0)  # no scored token sees what stands behind the end
    check_prompt(tokens, config.vocabulary)
    inputs, wanted = tokens[:, :-1], tokens[:, 1:]
    targets = wanted.where(scored, IGNORED)
    z, found = think(
        model,
        inputs,
        targets,
        settings,
        latent=latent,
        prior=prior,
        encoder=encoder,
        generator=generator,
    )
    greedy = Sampling(temperature=0.0)
    drawn = generate(model, prompt=tokens[:, :1], z=z, new_tokens=high - 1, sampling=greedy)
    with torch.no_grad(), evaluating(model):
        best = _best(model, model.decoder(inputs, z))
    decoded = torch.cat((tokens[:, :1], drawn.tokens), 1)
    count = scored.sum(1)
    return Reconstruction(
        tokens=decoded.where(known, IGNORED),
        share=((drawn.tokens == wanted) & scored).sum(1) / count,
        forced=((best == wanted) & scored).sum(1) / count,
        found=found,
    )


def _best(model: ThoughtModel, hidden: Tensor) -> Tensor:
    """Returns the most probable ids `(B, T)`, without the scores of all tokens at once."""
    rows = max(ROWS // model.config.vocabulary, 1)
    parts = [
        model.decoder.logits(part).argmax(-1) for part in torch.split(hidden.flatten(0, 1), rows)
    ]
    return torch.cat(parts).view(hidden.shape[:2])
