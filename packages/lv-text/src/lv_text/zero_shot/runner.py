"""A model's costs on blocks of a benchmark, by all definitions side by side."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core import Rows
from lv_core.evidence.joint import Joint, LatentPrior
from lv_text.bounds import Bounds, autoregressive_nll, evaluate_bounds
from lv_text.encoder import ThoughtEncoder
from lv_text.inference import Inference, infer
from lv_text.metrics.likelihood import Perplexity, perplexity
from lv_text.model import ThoughtModel
from lv_text.zero_shot.blocks import ZeroShotBlocks

__all__ = ["Score", "ZeroShot", "zero_shot"]

SCORED = ("nelbo_shared_noise", "nelbo", "iwae")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One definition of cost on one set."""

    perplexity: Perplexity
    """Both aggregates: `sequence_mean` is the mean of the blocks' perplexities, as the release
    prints it, `corpus` is exp of the total."""
    bits_per_byte: float
    """Total bits over bytes of the original text."""
    bound: bool
    """Whether it is -log p(x), or above it in expectation. Only such numbers can be compared with
    other models."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShot:
    """Costs of a model on a set."""

    scores: Mapping[str, Score]
    """By name: `nelbo_shared_noise` (with shared noise the paper's number, no bound), `nelbo`,
    `iwae` and `autoregressive` (no latents)."""
    bounds: Bounds
    """Costs of each block in nats, with their parts, for error bars."""
    autoregressive: Tensor
    """NLL of each block without latents, nats."""


def zero_shot(
    model: ThoughtModel,
    blocks: ZeroShotBlocks,
    settings: Inference | None = None,
    *,
    baseline: ThoughtModel | None = None,
    encoder: ThoughtEncoder | None = None,
    prior: LatentPrior = None,
    samples: int = 16,
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ZeroShot:
    """Infers latents of each block and scores it by all definitions.

    A block's noise is a function of seed and number, so results depend on `batch_size` up to
    rounding only. The bounds see the text that they score, as any variational bound does; for a
    predictive comparison see `lv_text.continuation`.

    Arguments:
        model: The model.
        blocks: What `zero_shot_blocks` returned, with the model's vocabulary.
        settings: How latents are inferred, with a method that has a posterior; None = the
            defaults of `Inference`.
        baseline: The model whose NLL without latents is reported; None = the same, which means
            little unless it was trained without latents, too.
        encoder: Of amortised methods.
        prior: The prior; None = N(0, I).
        samples: Fresh draws of the posterior.
        batch_size: Blocks at a time.
        limit: Only the first so many blocks; None = all.
        seed: Of the noise.
        progress: Called after each batch with the number of blocks done and in all.

    Raises:
        DivergenceError: If inference of more than a tenth of a batch became non-finite.
        ValueError: If blocks do not fit a model's vocabulary or length, the method has no
            posterior, or a setting is out of range.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, for the protocol.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(
            f"batch_size and limit must be positive, got batch_size={batch_size}, limit={limit}"
        )
    plain = model if baseline is None else baseline
    _check(model, blocks, "model")
    _check(plain, blocks, "baseline")
    settings = Inference() if settings is None else settings
    if settings.method in ("langevin", "map"):
        raise ValueError(
            f"settings must have a method with a posterior, got {settings.method!r}: points give "
            "no bound; use 'vb', 'amortised' or 'semi_amortised'"
        )
    total = len(blocks.tokens) if limit is None else min(limit, len(blocks.tokens))
    places = [next(m.parameters()).device for m in (model, plain)]
    parts, alone = [], []
    for start in range(0, total, batch_size):
        rows = range(start, min(start + batch_size, total))
        tokens, targets = (x[rows.start : rows.stop] for x in (blocks.tokens, blocks.targets))
        x, y = tokens.to(places[0]), targets.to(places[0])
        found = infer(
            model,
            x,
            y,
            settings,
            prior=prior,
            encoder=encoder,
            generator=Rows.of(seed, rows, "zero-shot inference"),
        )
        fresh = Rows.of(seed, rows, "zero-shot bounds")
        parts.append(
            evaluate_bounds(model, x, y, found, samples=samples, prior=prior, generator=fresh)
        )
        alone.append(autoregressive_nll(plain, tokens.to(places[1]), targets.to(places[1])))
        if progress is not None:
            progress(rows.stop, total)
    bounds, nll = Bounds.cat(parts), torch.cat(alone)
    size = float(blocks.size[:total].sum())
    # An energy without its normalizer shifts every bound by an unknown constant.
    normalized = Joint(torch.zeros_like, prior).normalized
    valid = {name: normalized for name in SCORED} | {"autoregressive": True}
    valid["nelbo_shared_noise"] = found.bound == "lower"
    named = {name: getattr(bounds, name) for name in SCORED} | {"autoregressive": nll}
    return ZeroShot(
        scores={
            name: _score(cost, bounds.tokens, size, bound=valid[name])
            for name, cost in named.items()
        },
        bounds=bounds,
        autoregressive=nll,
    )


def _score(cost: Tensor, tokens: Tensor, size: float, *, bound: bool) -> Score:
    nats = cost.detach().double().cpu()
    return Score(
        perplexity=perplexity(nats, tokens.cpu().long()),
        bits_per_byte=float(nats.sum()) / math.log(2) / size,
        bound=bound,
    )


def _check(model: ThoughtModel, blocks: ZeroShotBlocks, name: str) -> None:
    config, highest = model.config, int(max(blocks.tokens.max(), blocks.targets.max()))
    if highest >= config.vocabulary:
        raise ValueError(
            f"blocks must hold ids below the {config.vocabulary} of {name}, got {highest}: make "
            "them with its vocabulary"
        )
    if blocks.tokens.shape[1] > config.length:
        raise ValueError(
            f"blocks must have at most {config.length} inputs for {name}, got "
            f"{blocks.tokens.shape[1]}: use zero_shot_blocks(length={config.length + 1}) or less"
        )
