"""How much of a text the latents of the first layers hold."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import DiagonalGaussian, Source, frozen
from lv_core.nn import token_nll
from lv_text.model import ThoughtModel, evaluating
from lv_text.probes.blank import check_latents, prior_draw, prior_mean

__all__ = ["LayerDecoding", "LayerReconstruction", "layer_decoding", "layer_reconstruction"]

# Shapes: B sequences, T tokens, L layers that read latents, M slots, D width of a slot.

IGNORED = -100
SCORES = 2**22
"""Scores that exist at a time."""

Decode = Callable[[Tensor, Tensor, int], Tensor]
"""Greedy decoding: first tokens `(B, 1)`, latents, number of new tokens to ids `(B, new)`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerReconstruction:
    """Costs of sequences when only the first l reading layers keep their latents.

    Row l of each table belongs to l kept layers, l = 0 to L; the last row is the whole latent.
    """

    tokens: Tensor
    """Scored tokens, `(B,)`, to divide by."""
    nll_mean: Tensor
    """NLL in nats where the prior's mean replaces the others, `(L + 1, B)`."""
    accuracy_mean: Tensor
    """Share of tokens that are the most probable one given the true tokens before them, there."""
    nll_prior: Tensor
    """NLL where draws of the prior replace the others, mean over the draws."""
    accuracy_prior: Tensor
    """That share with draws of the prior, mean over the draws."""

    def per_token(self) -> Float[Tensor, "kinds rows"]:
        """Returns total nats over total tokens: row 0 with means, row 1 with draws."""
        return torch.stack((self.nll_mean.sum(1), self.nll_prior.sum(1))) / self.tokens.sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDecoding:
    """Shares of tokens that greedy decoding gets right, free running; row l keeps l layers."""

    share_mean: Tensor
    """Where the prior's mean replaces the latents of the other layers, `(L + 1, B)`."""
    share_prior: Tensor
    """Where one draw of the prior does."""


def layer_reconstruction(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    z: Float[Tensor, "batch layers slots width"],
    *,
    prior: DiagonalGaussian | None = None,
    samples: int = 1,
    generator: Source = None,
) -> LayerReconstruction:
    """Scores sequences with the latents of the first l layers, l = 0 to all.

    Teacher-forced: each token is predicted from the true ones before it. What is right at l = 0
    is due to the language model alone. What replaces the later latents in the paper is not
    published; both curves are given.

    Arguments:
        model: The model.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        z: Latents of the sequences, such as `infer(...).z`.
        prior: Gaussian of one latent, event shape `config.event`; None = N(0, I).
        samples: Draws of the prior, each shared by all l.
        generator: Source of the draws.

    Raises:
        ValueError: If shapes do not fit, a sequence scores nothing, or `samples` is not positive.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, probing by layers.

    Example:
        >>> found = layer_reconstruction(model, x, y, infer(model, x, y).z)
        >>> found.accuracy_mean.mean(1)  # one value for each number of layers
    """
    check_latents(model, tokens, targets, z)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    with frozen(model), torch.no_grad(), evaluating(model):
        lower = model.lower(tokens)  # does not depend on latents
        mean = prior_mean(z, prior)
        tables = [_curve(model, lower, targets, z, mean)]
        for _ in range(samples):
            drawn = prior_draw(z, prior, generator)
            tables.append(_curve(model, lower, targets, z, drawn))
    tables_prior = torch.stack(tables[1:]).mean(0)
    return LayerReconstruction(
        tokens=(targets != IGNORED).sum(1),
        nll_mean=tables[0][0],
        accuracy_mean=tables[0][1],
        nll_prior=tables_prior[0],
        accuracy_prior=tables_prior[1],
    )


def layer_decoding(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    z: Float[Tensor, "batch layers slots width"],
    *,
    prior: DiagonalGaussian | None = None,
    generator: Source = None,
    decode: Decode | None = None,
) -> LayerDecoding:
    """Decodes documents greedily from the latents of the first l layers, l = 0 to all.

    Free running from the first token: after one token too many all others are misplaced, so this
    is much harder than `layer_reconstruction`.

    Arguments:
        model: The model.
        tokens: Documents of one length, without padding, first token included.
        z: Latents of the documents.
        prior: Gaussian of one latent; None = N(0, I).
        generator: Source of the draws of the prior.
        decode: Greedy decoding, `(first (B, 1), z, new) -> (B, new)`; None = that of
            `lv_text.generation`.

    Raises:
        ValueError: If shapes do not fit, or documents have less than two tokens.

    Source:
        Kong et al., 2025, probing by layers; released evaluation for the share of equal tokens.
    """
    if tokens.shape[1] < 2:
        raise ValueError(
            f"tokens must be documents of two tokens or more, got shape {tuple(tokens.shape)}"
        )
    inputs, wanted = tokens[:, :-1], tokens[:, 1:]
    check_latents(model, inputs, wanted, z)
    run = _greedy(model) if decode is None else decode
    count = wanted.shape[1]
    shares = []
    with frozen(model), torch.no_grad(), evaluating(model):
        for blank in (prior_mean(z, prior), prior_draw(z, prior, generator)):
            decoded = [
                run(tokens[:, :1], _kept(z, blank, kept), count) for kept in range(z.shape[1] + 1)
            ]
            equal = torch.stack(decoded) == wanted
            shares.append(equal.to(z.dtype).mean(-1))
    return LayerDecoding(share_mean=shares[0], share_prior=shares[1])


def _kept(z: Tensor, blank: Tensor, kept: int) -> Tensor:
    return torch.cat((z[:, :kept], blank[:, kept:]), 1)


def _curve(
    model: ThoughtModel, lower: Tensor, targets: Tensor, z: Tensor, blank: Tensor
) -> Tensor:
    """Returns NLL and accuracy for each number of kept layers, `(2, L + 1, B)`."""
    rows = [_score(model, lower, targets, _kept(z, blank, l)) for l in range(z.shape[1] + 1)]
    return torch.stack(rows, 1)


def _score(model: ThoughtModel, lower: Tensor, targets: Tensor, z: Tensor) -> Tensor:
    """Returns NLL and teacher-forced accuracy of each sequence, `(2, B)`."""
    decoder = model.decoder
    hidden = decoder.upper(lower, z)
    nll = token_nll(hidden, decoder.head_weight, targets).sum(1)
    rows = max(SCORES // model.config.vocabulary, 1)
    best = torch.cat(
        [decoder.logits(h).argmax(-1) for h in torch.split(hidden.flatten(0, 1), rows)]
    )
    scored = targets != IGNORED
    hits = (best.view_as(targets) == targets) & scored
    return torch.stack((nll, (hits.sum(1) / scored.sum(1)).to(nll.dtype)))


def _greedy(model: ThoughtModel) -> Decode:
    from lv_text.generation import Sampling, generate  # heavier than all other probes

    def decode(first: Tensor, z: Tensor, new: int) -> Tensor:
        sampling = Sampling(temperature=0.0)
        return generate(model, prompt=first, z=z, new_tokens=new, sampling=sampling).tokens

    return decode
