"""Which of several continuations a model finds most probable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lv_core import Source
from lv_core.evidence.joint import LatentPrior
from lv_core.nn import KVCache, token_nll
from lv_text.encoder import ThoughtEncoder
from lv_text.generation.generate import check_prompt
from lv_text.generation.latents import Latent, posterior_samples, think
from lv_text.inference import Inference, Inferred
from lv_text.model import ThoughtModel, evaluating

__all__ = ["Scores", "score_candidates"]

# Shapes: K draws of z, C candidates, T tokens, D width.

IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Log probabilities of candidates after a prompt."""

    score: Tensor
    """What candidates are ranked by, `(C,)`: `log_prob`, or that per token if asked for."""
    log_prob: Tensor
    """log mean_k p(candidate | prompt, z_k), `(C,)`, nats."""
    by_draw: Tensor
    """log p(candidate | prompt, z_k), `(K, C)`, nats."""
    lengths: Tensor
    """Tokens of each candidate, `(C,)`."""
    found: Inferred | None
    """The inference on the prompt; None for latent='none'."""

    @property
    def best(self) -> int:
        """Place of the candidate with the largest score."""
        return int(self.score.argmax())


def score_candidates(
    model: ThoughtModel,
    prompt: Int[Tensor, " time"],
    candidates: Sequence[Sequence[int]],
    settings: Inference | None = None,
    *,
    draws: int = 1,
    per_token: bool = False,
    latent: Latent = "fresh",
    encoder: ThoughtEncoder | None = None,
    prior: LatentPrior = None,
    generator: Source = None,
) -> Scores:
    """Infers latents on the prompt alone and scores what may follow it.

    score_c = log (1/K) sum_k p(c | prompt, z_k),  z_k ~ q(z | prompt)

    The prompt runs through the decoder once per draw, whose keys and values all candidates then
    share in a second pass.

    Arguments:
        model: The model.
        prompt: Ids of the prompt, at least two, or one with `latent="none"`.
        candidates: Ids of each continuation; their lengths may differ.
        settings: How latents are inferred; None = the defaults of `Inference`.
        draws: K; more than one needs `latent="fresh"`.
        per_token: Whether candidates are ranked by nats per token, else by their sum.
        latent: Which latents; "fitted" suits langevin and map, which have no q, and "none" is
            the autoregressive model.
        encoder: Of amortised methods.
        prior: The prior; None = N(0, I).
        generator: Source of randomness; `Rows` holds a single one.

    Raises:
        ValueError: If prompt, candidates or one of them are empty, they are too long together,
            an id is outside the vocabulary, or `draws` does not fit `latent`.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, released evaluation, which runs the decoder once per token.

    Example:
        >>> prompt = torch.tensor([vocabulary.bos, *vocabulary.encode("The sky is")])
        >>> choices = [vocabulary.encode(text) for text in (" blue", " made of cheese")]
        >>> score_candidates(model, prompt, choices, draws=8).best
    """
    if draws < 1 or (draws > 1 and latent != "fresh"):
        raise ValueError(
            f"draws must be 1 for latent={latent!r} and at least 1 for 'fresh', got {draws}"
        )
    rows = _padded(model, prompt, candidates, latent)
    row = prompt[None]
    z, found = think(
        model,
        row[:, :-1],
        row[:, 1:],
        settings,
        # With several draws the first comes from `posterior_samples` like the others.
        latent="fitted" if latent == "fresh" and _has_posterior(settings) else latent,
        prior=prior,
        encoder=encoder,
        generator=generator,
    )
    if latent == "fresh" and found is not None:
        z = posterior_samples(found, draws, prior=prior, generator=generator)[:, 0]
    with torch.no_grad(), evaluating(model):
        by_draw = _score(model, row.expand(draws, -1), rows, z)
    log_prob = by_draw.logsumexp(0) - math.log(draws)
    lengths = (rows != IGNORED).sum(1)
    return Scores(
        score=log_prob / lengths if per_token else log_prob,
        log_prob=log_prob,
        by_draw=by_draw,
        lengths=lengths,
        found=found,
    )


def _has_posterior(settings: Inference | None) -> bool:
    return settings is None or settings.method not in ("langevin", "map")


def _score(model: ThoughtModel, prompt: Tensor, rows: Tensor, z: Tensor | None) -> Tensor:
    """Returns log p(candidate | prompt, z) of each draw and candidate."""
    draws, choices = len(prompt), len(rows)
    decoder, weight = model.decoder, model.decoder.head_weight
    cache = KVCache(decoder.config)
    # (K, 1, D): the state before the first token of every candidate.
    last = decoder(prompt, z, cache=cache)[:, -1:]
    each = torch.arange(draws, device=prompt.device).repeat_interleave(choices)
    hidden = last.index_select(0, each)
    if rows.shape[1] > 1:
        cache.reorder(each)
        # Behind the end, where no scored token sees it, any id will do.
        inputs = rows[:, :-1].clamp(min=0).repeat(draws, 1)
        hidden = torch.cat((hidden, decoder(inputs, cache=cache)), 1)
    nll = token_nll(hidden, weight, rows.repeat(draws, 1))
    return -nll.sum(1).view(draws, choices)


def _padded(
    model: ThoughtModel, prompt: Tensor, candidates: Sequence[Sequence[int]], latent: Latent
) -> Tensor:
    """Returns the candidates `(C, longest)`, padded by -100."""
    least = 1 if latent == "none" else 2
    if len(prompt) < least:
        raise ValueError(
            f"prompt must have at least {least} tokens for latent={latent!r}, got {len(prompt)}: "
            "begin with BOS"
        )
    config = model.config
    check_prompt(prompt[None], config.vocabulary)
    empty = [place for place, ids in enumerate(candidates) if len(ids) == 0]
    if len(candidates) == 0 or empty:
        raise ValueError(
            f"candidates must be one or more non-empty lists of ids, got {len(candidates)} with "
            f"empty ones at places {empty}"
        )
    for place, ids in enumerate(candidates):
        if min(ids) < 0 or max(ids) >= config.vocabulary:
            raise ValueError(
                f"candidates must hold ids in [0, {config.vocabulary}), got "
                f"{min(ids) if min(ids) < 0 else max(ids)} at place {place}"
            )
    longest = max(len(ids) for ids in candidates)
    if len(prompt) + longest - 1 > config.length:
        raise ValueError(
            f"prompt and candidates must have at most {config.length + 1} tokens together, got "
            f"{len(prompt)} + {longest}: cut the front of the prompt"
        )
    parts = [torch.tensor(list(ids), device=prompt.device) for ids in candidates]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=IGNORED)
