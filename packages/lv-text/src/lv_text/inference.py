"""Fast learning: the latent of each sequence, inferred by a few gradient steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import (
    DiagonalGaussian,
    DivergenceError,
    Langevin,
    Source,
    frozen,
    normal,
    value_and_grad,
)
from lv_core.density import LogDensityPrior
from lv_core.evidence.joint import Joint, LatentPrior
from lv_core.schedule import Cosine
from lv_core.variational import AdamW, Moments, elbo_terms
from lv_text.encoder import ThoughtEncoder
from lv_text.model import ThoughtModel, evaluating
from lv_text.settings import AMORTISED, Inference

__all__ = ["Inference", "Inferred", "infer", "infer_from"]

# Shapes: B sequences, L layers that read latents, M slots, D width of a slot.


@dataclass(frozen=True, kw_only=True, eq=False)
class Inferred:
    """Latents of a batch and what their inference had to say; all detached."""

    z: Tensor
    """Latents that the decoder reads, `(B, L, M, D)`: with shared noise the draw that the fit
    optimised, else a fresh draw of `q`; the last state of a chain; the optimum."""
    q: DiagonalGaussian | None
    """Posteriors; None for langevin and map, which have points only."""
    nll: Tensor
    """-log p(x | z) of each sequence at `z`, nats; with several draws per step their mean."""
    kl: Tensor
    """Divergence of q from the prior, nats, estimated by the draws where it has no closed form;
    NaN without q."""
    kl_floor: Tensor | None
    """What of it the same steps leave without any data; None where that is not defined."""
    bound: Literal["lower", "none"]
    """Whether `nll + kl` bounds -log p(x) from above in expectation."""


def infer(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    settings: Inference | None = None,
    *,
    prior: LatentPrior = None,
    encoder: ThoughtEncoder | None = None,
    start: DiagonalGaussian | None = None,
    generator: Source = None,
) -> Inferred:
    """Infers the latent of each sequence from its tokens.

    No parameter gets a gradient. A sequence's result does not depend on its batch but for the
    noise; give `Rows.of(seed, index)` to make that its own, too.

    Arguments:
        model: The decoder.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        settings: How; None = the defaults of `Inference`.
        prior: Prior of the latent, shape of one = `model.config.event`; None = N(0, I).
        encoder: Needed by the amortised methods.
        start: Where vb begins instead of its cold start, such as an earlier posterior.
        generator: Source of randomness.

    Raises:
        DivergenceError: If more than a tenth of the sequences became non-finite.
        ValueError: If an amortised method has no encoder, or shapes do not fit.

    Example:
        >>> found = infer(model, x[:, :-1], x[:, 1:], generator=Rows.of(0, range(len(x))))
        >>> (found.nll + found.kl) / 64  # nats per token, one noisy draw of the bound
    """
    settings = Inference() if settings is None else settings
    modules = [model] if encoder is None else [model, encoder]
    # Dropout would make the posterior depend on torch's global generator.
    with frozen(*modules), evaluating(*modules):
        if settings.method in AMORTISED:
            if encoder is None:
                raise ValueError(f"method {settings.method!r} needs an encoder, got None")
            with torch.no_grad():
                start = encoder(tokens, targets)
        return infer_from(
            model.likelihood(tokens, targets),
            tokens.new_zeros((len(tokens), *model.config.event), dtype=_kind(model)),
            settings,
            prior=prior,
            start=start,
            generator=generator,
        )


def infer_from(
    log_likelihood: Callable[[Tensor], Tensor],
    like: Float[Tensor, "batch layers slots width"],
    settings: Inference,
    *,
    prior: LatentPrior = None,
    start: DiagonalGaussian | None = None,
    generator: Source = None,
) -> Inferred:
    """Infers latents from a likelihood; `infer` for one that is not a model's own.

    Arguments:
        log_likelihood: z `(B, L, M, D)` to log p(x | z) of each sequence.
        like: Any tensor of the latents' shape.
        settings: How.
        prior: Prior of the latent; None = N(0, I).
        start: Where vb begins; needed by the amortised methods, of which it is the encoder's say.
        generator: Source of randomness.

    Raises:
        DivergenceError: If more than a tenth of the sequences became non-finite.
        ValueError: If an amortised method has no start, or shapes do not fit.
    """
    joint = Joint(log_likelihood, prior)
    if settings.method == "langevin":
        return _chain(joint, like, settings, generator)
    if settings.method == "map":
        return _optimum(joint, like, settings, generator)
    fit = settings.fit()
    if start is None:
        if settings.method in AMORTISED:
            raise ValueError(
                f"method {settings.method!r} needs start, the posterior of an encoder, got None"
            )
        start = fit.start(like, event_ndim=3, generator=generator)
    if settings.method == "amortised":
        q, noise = start.detach(), normal(like, generator)
        with torch.no_grad():
            terms = elbo_terms(joint, q, noise=noise[None], chunk=1)
        return Inferred(
            z=_pushed(q.rsample(noise), prior),
            q=q,
            nll=terms.nll,
            kl=terms.kl,
            kl_floor=None,
            bound="lower" if joint.normalized else "none",
        )
    found = fit.fit(log_likelihood, prior, start, generator=generator)
    return Inferred(
        z=_pushed(found.z[0], prior),
        q=found.q,
        nll=found.nll,
        kl=found.kl,
        kl_floor=found.kl_floor,
        bound=found.bound,
    )


def _chain(joint: Joint, like: Tensor, settings: Inference, generator: Source) -> Inferred:
    """Langevin from a draw of N(0, I)."""
    kernel = Langevin(steps=settings.steps, step_size=settings.step_size)
    z = kernel(joint, normal(like, generator), generator=generator)
    return _point(joint, z)


def _optimum(joint: Joint, like: Tensor, settings: Inference, generator: Source) -> Inferred:
    """AdamW on log p(x | z) + log p(z)."""
    rule = AdamW(weight_decay=settings.weight_decay)
    zero = torch.zeros_like(like)
    z = settings.init_mean_noise * normal(like, generator)
    moments = Moments(z, zero, zero)
    falling = Cosine(start=1.0, end=0.1, steps=settings.steps + 1)
    for step in range(settings.steps):
        factor = falling(step) if settings.course == "cosine" else 1.0
        _, grad, _ = value_and_grad(joint, moments.value)
        moments = rule.update(moments, -grad, step=step, lr=settings.rate * factor)
    return _point(joint, moments.value)


@torch.no_grad()
def _point(joint: Joint, z: Tensor) -> Inferred:
    nll = -joint.likelihood_at(z)
    lost = (~torch.isfinite(nll)).double().mean().item()
    if lost > 0.1:
        raise DivergenceError(
            f"{lost:.1%} of the sequences ended at a non-finite log-likelihood (tolerated: "
            "10.0%); lower lr or step_size"
        )
    nothing = torch.full_like(nll, math.nan)
    z = _pushed(z, joint.prior)
    return Inferred(z=z, q=None, nll=nll, kl=nothing, kl_floor=None, bound="none")


def _pushed(u: Tensor, prior: LatentPrior) -> Tensor:
    """Returns the latent that the decoder sees for a value of the variable that is sampled."""
    if isinstance(prior, LogDensityPrior) and not isinstance(prior, DiagonalGaussian):
        with torch.no_grad():
            return prior.push(u)
    return u


def _kind(model: ThoughtModel) -> torch.dtype:
    """Latents are float32 at least, whatever the weights are."""
    weight = next(model.parameters())
    return torch.promote_types(weight.dtype, torch.float32)
