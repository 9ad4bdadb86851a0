"""Latents to decode with: draws of the prior, of posteriors, or the fitted ones."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import DiagonalGaussian, Source, normal
from lv_core.density import LogDensityPrior
from lv_core.evidence.joint import LatentPrior
from lv_text.encoder import ThoughtEncoder
from lv_text.inference import Inference, Inferred, infer
from lv_text.model import ThoughtModel

__all__ = ["Latent", "Thought", "posterior_samples", "prior_samples", "think"]

# Shapes: B sequences, L layers that read latents, M slots, D width of a slot.

Latent = Literal["fitted", "fresh", "mean", "none"]
"""fitted: what inference returned (with shared noise the draw that it optimized, with fresh noise
a draw of q); fresh: a new draw of q; mean: the mean of q; none: no latents, nothing inferred."""


class Thought(NamedTuple):
    """A latent to decode with, and the inference behind it."""

    z: Tensor | None
    """`(B, L, M, D)`; None = no latents."""
    found: Inferred | None
    """None = nothing was inferred."""


def prior_samples(
    model: ThoughtModel,
    count: int,
    *,
    scale: float = 1.0,
    prior: object = None,
    generator: Source = None,
) -> Float[Tensor, "count layers slots width"]:
    """Draws latents of the prior, times a factor.

    With factor 1 and a BOS token in front, `generate` then draws from p(x) = E_p(z) p(x | z).

    Arguments:
        model: The model that will read them.
        count: How many.
        scale: Factor; released scripts sweep 0.5 to 1. Not 1 = not the model's distribution.
        prior: Anything with `sample(count, generator=)` that yields latents, such as a prior of
            lv-priors or `gaussian_prior`; None = N(0, I).
        generator: Source of randomness; `Rows` = one for each latent.

    Raises:
        TypeError: If `prior` cannot be sampled.
        ValueError: If `count` is not positive, `scale` negative, or the prior's latents are not
            the model's.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, released sampling scripts.

    Example:
        >>> z = prior_samples(model, 8, scale=0.8)
        >>> generate(model, z=z, bos=vocabulary.bos, new_tokens=128)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not scale >= 0:
        raise ValueError(f"scale must not be negative, got {scale}")
    weight = next(model.parameters())
    kind = torch.promote_types(weight.dtype, torch.float32)
    like = torch.empty(count, *model.config.event, dtype=kind, device=weight.device)
    with torch.no_grad():
        if prior is None:
            z = normal(like, generator)
        elif isinstance(prior, DiagonalGaussian):
            # Not its `sample`, whose first axis is no batch that `Rows` could serve.
            z = prior.rsample(normal(like, generator))
        elif callable(draw := getattr(prior, "sample", None)):
            z = draw(count, generator=generator)
        else:
            raise TypeError(
                "prior must have a method sample(count, generator=) or be None for N(0, I), got "
                f"{type(prior).__name__}"
            )
    if z.shape != like.shape:
        raise ValueError(
            f"prior must yield latents of shape {tuple(like.shape)}, got {tuple(z.shape)}: its "
            f"event shape must be {model.config.event}"
        )
    return scale * z.to(like)


def posterior_samples(
    found: Inferred,
    count: int,
    *,
    prior: LatentPrior = None,
    generator: Source = None,
) -> Float[Tensor, "count batch layers slots width"]:
    """Draws latents of inferred posteriors, as the decoder reads them.

    Arguments:
        found: What `infer` returned.
        count: Draws of each sequence.
        prior: The prior that it was inferred with.
        generator: Source of randomness; `Rows` = one for each sequence.

    Raises:
        ValueError: If `count` is not positive, or `found` has points only (langevin, map).
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if found.q is None:
        raise ValueError(
            "found must hold a posterior q to draw from, got points: infer with method 'vb', "
            "'amortised' or 'semi_amortised', or take the point itself (latent='fitted')"
        )
    mean = found.q.mean
    with torch.no_grad():
        draws = [found.q.rsample(normal(mean, generator)) for _ in range(count)]
        return torch.stack([_pushed(u, prior) for u in draws])


def think(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    settings: Inference | None = None,
    *,
    latent: Latent = "fitted",
    prior: LatentPrior = None,
    encoder: ThoughtEncoder | None = None,
    start: DiagonalGaussian | None = None,
    generator: Source = None,
) -> Thought:
    """Infers latents and returns those to decode with.

    Arguments:
        model: The decoder.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        settings: How latents are inferred.
        latent: Which latents; see `Latent`.
        prior: The prior; None = N(0, I).
        encoder: Of amortised methods.
        start: Where vb begins.
        generator: Source of randomness.

    Raises:
        ValueError: If `latent` is unknown, or needs a posterior and the method has none.
    """
    if latent not in ("fitted", "fresh", "mean", "none"):
        raise ValueError(f"unknown latent {latent!r}; there are: fitted, fresh, mean, none")
    if latent == "none":
        return Thought(None, None)
    if latent != "fitted" and settings is not None and settings.method in ("langevin", "map"):
        raise ValueError(
            f"latent={latent!r} needs a posterior, which method {settings.method!r} does not "
            "give: use latent='fitted'"
        )
    found = infer(
        model,
        tokens,
        targets,
        settings,
        prior=prior,
        encoder=encoder,
        start=start,
        generator=generator,
    )
    if latent == "mean" and found.q is not None:
        with torch.no_grad():
            return Thought(_pushed(found.q.mean, prior), found)
    if latent == "fresh":
        z = posterior_samples(found, 1, prior=prior, generator=generator)[0]
        return Thought(z, found)
    return Thought(found.z, found)


def _pushed(u: Tensor, prior: LatentPrior) -> Tensor:
    """Returns the latent that the decoder sees for a value of the variable that is inferred."""
    return prior.push(u) if isinstance(prior, LogDensityPrior) else u
