"""Fast learning: the latent of each sequence, inferred by a few gradient steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import DiagonalGaussian, Langevin, LocalFit, Source, frozen, normal, value_and_grad
from lv_core.density import LogDensityPrior
from lv_core.evidence.joint import Joint, LatentPrior
from lv_core.schedule import Cosine
from lv_core.variational.adamw import AdamW, Moments
from lv_text.encoder import ThoughtEncoder
from lv_text.model import ThoughtModel

__all__ = ["Inference", "Inferred", "infer", "infer_from"]

# Shapes: B sequences, L layers that read latents, M slots, D width of a slot.

LONG = 24
"""Steps up to which a constant learning rate reaches the prior best."""

Method = Literal["vb", "langevin", "map", "amortised", "semi_amortised"]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How latents are inferred; the defaults are the paper's with fresh noise.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, algorithm 1 and released settings.
    """

    method: Method = "vb"
    """vb: a Gaussian for each sequence by AdamW; langevin: a chain from the prior; map: the most
    probable latent by AdamW; amortised: an encoder alone; semi_amortised: vb from an encoder"""
    steps: int = 16
    """gradient steps, the paper's T_fast"""
    lr: float | None = None
    """learning rate of vb and map; None = what carries the log variance from its start to the
    prior's 0 in so many steps: |init_log_var| / steps, above 24 steps three times that, falling
    as a cosine"""
    schedule: Literal["constant", "cosine"] | None = None
    """course of the rate; None = constant up to 24 steps, cosine (to a tenth) above"""
    noise: Literal["fresh", "shared"] = "fresh"
    """fresh: new noise in each step, as in the paper; shared: one draw for all steps, as in the
    released code, whose objective is then no bound"""
    samples: int = 1
    """draws per step"""
    init_log_var: float = -5.0
    """log variance where vb begins; 0 = at the prior"""
    init_mean_noise: float = 0.01
    """standard deviation of the first means"""
    init_log_var_noise: float = 0.1
    """standard deviation of the first log variances about `init_log_var`"""
    weight_decay: float = 0.01
    """of AdamW; the released code's default"""
    kl_weight: float = 1.0
    """factor on the divergence; below 1 the objective is no bound"""
    free_nats: float = 0.0
    """divergence per sequence that costs nothing"""
    step_size: float = 0.1
    """of langevin: z' = z + s^2/2 grad + s eps"""

    def __post_init__(self) -> None:
        if self.method not in ("vb", "langevin", "map", "amortised", "semi_amortised"):
            raise ValueError(
                f"unknown method {self.method!r}; there are: amortised, langevin, map, "
                "semi_amortised, vb"
            )
        if self.schedule not in (None, "constant", "cosine"):
            raise ValueError(f"unknown schedule {self.schedule!r}; there are: constant, cosine")
        if not self.init_log_var <= 0:
            raise ValueError(
                f"init_log_var must not be positive (0 = the prior), got {self.init_log_var}"
            )
        if not self.init_log_var_noise >= 0:
            raise ValueError(
                f"init_log_var_noise must not be negative, got {self.init_log_var_noise}"
            )
        if self.lr is None and self.init_log_var == 0 and self.method in ("vb", "semi_amortised"):
            raise ValueError(
                "lr must be given when init_log_var is 0: there is no way to the prior to "
                "derive it from"
            )
        self.fit()  # checks the rest
        if not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")

    @property
    def course(self) -> Literal["constant", "cosine"]:
        """The schedule that is used."""
        if self.schedule is not None:
            return self.schedule
        return "constant" if self.steps <= LONG else "cosine"

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        if self.lr is not None:
            return self.lr
        way = abs(self.init_log_var) / self.steps or 0.1
        return 3 * way if self.course == "cosine" else way

    def fit(self) -> LocalFit:
        """Returns the settings of the local fit."""
        return LocalFit(
            steps=self.steps,
            lr=self.rate,
            schedule=self.course,
            noise=self.noise,
            samples=self.samples,
            chunk=1,
            parameter="log_var",
            kl_weight=self.kl_weight,
            nats=self.free_nats,
            init_scale=math.exp(self.init_log_var / 2),
            init_mean_noise=self.init_mean_noise,
            init_log_scale_noise=self.init_log_var_noise / 2,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Inferred:
    """Latents of a batch and what their inference had to say; all detached."""

    z: Tensor
    """Latents that the decoder reads, `(B, L, M, D)`: with shared noise the draw that the fit
    optimised, else a fresh draw of `q`; the last state of a chain; the optimum."""
    q: DiagonalGaussian | None
    """Posteriors; None for langevin and map, which have points only."""
    nll: Tensor
    """-log p(x | z) of each sequence at `z`, nats."""
    kl: Tensor
    """Divergence of q from the prior, nats; NaN without q."""
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
    amortised = settings.method in ("amortised", "semi_amortised")
    if amortised:
        if encoder is None:
            raise ValueError(f"method {settings.method!r} needs an encoder, got None")
        with torch.no_grad():
            start = encoder(tokens, targets)
    modules = [model] if encoder is None else [model, encoder]
    training = [module.training for module in modules]
    with frozen(*modules):
        for module in modules:
            module.eval()  # dropout would make the posterior depend on torch's global generator
        try:
            log_likelihood = model.likelihood(tokens, targets)
            return infer_from(
                log_likelihood,
                tokens.new_zeros((len(tokens), *model.config.event), dtype=_kind(model)),
                settings,
                prior=prior,
                start=start,
                generator=generator,
            )
        finally:
            for module, flag in zip(modules, training, strict=True):
                module.train(flag)


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
        start: Where vb begins; the result itself for amortised.
        generator: Source of randomness.
    """
    joint = Joint(log_likelihood, prior)
    if settings.method == "langevin":
        return _chain(joint, like, settings, generator)
    if settings.method == "map":
        return _optimum(joint, like, settings, generator)
    fit = settings.fit()
    if start is None:
        start = fit.start(like, event_ndim=3, generator=generator)
    if settings.method == "amortised":
        z = start.rsample(normal(like, generator))
        kl = joint.divergence(start)
        with torch.no_grad():
            nll = -joint.likelihood_at(z)
        kl = torch.full_like(nll, math.nan) if kl is None else kl
        return Inferred(
            z=_pushed(z, prior), q=start.detach(), nll=nll, kl=kl, kl_floor=None, bound="lower"
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
