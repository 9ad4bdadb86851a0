"""What a sequence costs under the model: the bound that the paper prints, and valid ones."""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Int
from torch import Tensor

from lv_core import DiagonalGaussian, Source, frozen, normal
from lv_core.evidence.joint import Joint, LatentPrior
from lv_text.encoder import ThoughtEncoder
from lv_text.inference import Inference, Inferred, infer
from lv_text.model import ThoughtModel, evaluating

__all__ = [
    "Bounds",
    "Continuation",
    "autoregressive_nll",
    "continuation",
    "evaluate_bounds",
    "gaussian_prior",
]

IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """Costs of each sequence in nats, `(B,)` each; smaller is better."""

    tokens: Tensor
    """Scored tokens, to divide by."""
    nelbo_shared_noise: Tensor
    """NLL + KL at the noise that inference used last: with shared noise the paper's number, which
    is NO bound on -log p(x), since the optimizer has seen the noise; NaN for methods without q."""
    nelbo: Tensor
    """Mean of NLL over fresh draws of q, plus KL: above -log p(x) in expectation."""
    iwae: Tensor
    """-log mean of importance weights over the same draws: above -log p(x), tighter."""
    nll_posterior: Tensor
    """NLL given fresh draws of q, the first part of `nelbo`."""
    kl: Tensor
    """KL(q, prior), the second part."""
    kl_floor: Tensor
    """What of it inference leaves without any data; NaN where not defined."""
    nll_prior: Tensor
    """NLL given draws of N(0, I); NaN where another prior was given."""
    nll_zero: Tensor
    """NLL at z = 0."""
    nll_swapped: Tensor
    """NLL given the latent that inference found for ANOTHER sequence of the batch: beside the NLL
    at its own (`nelbo_shared_noise` - `kl`) it says what the latent carries, in the draw as well
    as in q. NaN in a batch of one."""

    def per_token(self) -> dict[str, Tensor]:
        """Returns total nats over total tokens of each number."""
        total = self.tokens.sum()
        names = [field.name for field in fields(self) if field.name != "tokens"]
        return {name: getattr(self, name).sum() / total for name in names}

    @classmethod
    def cat(cls, parts: list["Bounds"]) -> "Bounds":
        """Returns the costs of several batches as one."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def evaluate_bounds(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    found: Inferred,
    *,
    samples: int = 16,
    prior: LatentPrior = None,
    generator: Source = None,
) -> Bounds:
    """Scores sequences by all definitions side by side.

    Arguments:
        model: The decoder.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        found: What `infer` returned for the same sequences, with a posterior q.
        samples: Fresh draws of q, which the paper's number does without.
        prior: The prior; None = N(0, I).
        generator: Source of the fresh draws; not that of the inference, which has been drawn on.

    Raises:
        ValueError: If `found` has no posterior (langevin, map), or `samples` is not positive.

    Source:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016, for `iwae`;
        Kong et al., 2025, for `nelbo_shared_noise`.
    """
    if found.q is None:
        raise ValueError(
            "found must hold a posterior q to bound the likelihood, got points: infer with "
            "method 'vb', 'amortised' or 'semi_amortised'"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    q = found.q
    with frozen(model), torch.no_grad(), evaluating(model):
        joint = Joint(model.likelihood(tokens, targets), prior)
        scored, weights = [], []
        for _ in range(samples):  # one at a time: the decoder's states of one draw fill memory
            u = q.rsample(normal(q.mean, generator))
            log_likelihood = joint.likelihood_at(u)
            scored.append(-log_likelihood)
            weights.append(log_likelihood + joint.prior_at(u, event_ndim=3) - q.log_prob(u))
        nll = torch.stack(scored)
        kl = joint.divergence(q)
        if kl is None:  # no closed form: the same draws estimate it
            kl = -(nll.mean(0) + torch.stack(weights).mean(0))
        swapped = torch.full_like(kl, math.nan)
        if len(tokens) > 1:
            swapped = -joint.log_likelihood(found.z.roll(1, 0))
        blank = normal(q.mean, generator)
        at_prior = -joint.log_likelihood(blank) if prior is None else torch.full_like(kl, math.nan)
        at_zero = -joint.log_likelihood(torch.zeros_like(blank))
    floor = found.kl_floor
    return Bounds(
        tokens=(targets != IGNORED).sum(1).to(kl.dtype),
        nelbo_shared_noise=found.nll + found.kl,
        nelbo=nll.mean(0) + kl,
        iwae=math.log(samples) - torch.stack(weights).logsumexp(0),
        nll_posterior=nll.mean(0),
        kl=kl,
        kl_floor=torch.full_like(kl, math.nan) if floor is None else floor,
        nll_prior=at_prior,
        nll_zero=at_zero,
        nll_swapped=swapped,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Continuation:
    """Costs of the second part of each sequence given the first, in nats, `(B,)` each."""

    tokens: Tensor
    """Scored tokens."""
    nll: Tensor
    """-log of the mean probability over draws of q(z | first part): the negative log-likelihood
    of a proper predictive distribution, to be compared with an autoregressive model's."""
    nll_mean: Tensor
    """Mean NLL over the draws, which is larger."""
    nll_prior: Tensor
    """`nll` with draws of N(0, I) in place of those of q: what the first part adds through z."""

    @classmethod
    def cat(cls, parts: list["Continuation"]) -> "Continuation":
        """Returns the costs of several batches as one."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def continuation(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    settings: Inference | None = None,
    *,
    split: int,
    samples: int = 16,
    encoder: ThoughtEncoder | None = None,
    prior: LatentPrior = None,
    generator: Source = None,
) -> Continuation:
    """Scores the tokens from `split` on, with latents inferred from those before it alone.

    Unlike a bound, nothing that is scored has been seen by inference: the predictive protocol.
    The decoder's states see the first part as context, as those of an autoregressive model do.

    Arguments:
        model: The decoder.
        tokens: Inputs.
        targets: Their successors; -100 is not scored.
        settings: How latents are inferred.
        split: First target that is scored, counted from 0.
        samples: Draws of z.
        encoder: Of amortised methods.
        prior: The prior; None = N(0, I).
        generator: Source of randomness.

    Raises:
        ValueError: If `split` leaves one part empty, or `samples` is not positive.
    """
    if not 1 <= split < tokens.shape[1]:
        raise ValueError(
            f"split must be in 1..{tokens.shape[1] - 1} for {tokens.shape[1]} tokens, got {split}"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    place = torch.arange(tokens.shape[1], device=tokens.device)
    known = targets.masked_fill(place >= split, IGNORED)
    scored = targets.masked_fill(place < split, IGNORED)
    found = infer(
        model,
        tokens[:, :split],
        known[:, :split],
        settings,
        prior=prior,
        encoder=encoder,
        generator=generator,
    )
    with frozen(model), torch.no_grad(), evaluating(model):
        joint = Joint(model.likelihood(tokens, scored), prior)
        like = found.z
        given, blind = [], []
        for _ in range(samples):
            noise = normal(like, generator)
            if found.q is None:
                given.append(joint.log_likelihood(found.z))
            else:
                given.append(joint.likelihood_at(found.q.rsample(noise)))
            blind.append(joint.log_likelihood(normal(like, generator)))
    inside, outside = torch.stack(given), torch.stack(blind)
    return Continuation(
        tokens=(scored != IGNORED).sum(1).to(inside.dtype),
        nll=math.log(samples) - inside.logsumexp(0),
        nll_mean=-inside.mean(0),
        nll_prior=math.log(samples) - outside.logsumexp(0),
    )


@torch.no_grad()
def autoregressive_nll(
    model: ThoughtModel,
    tokens: Int[Tensor, "batch time"],
    targets: Int[Tensor, "batch time"],
    *,
    split: int = 0,
) -> Tensor:
    """Returns the exact NLL of each sequence without latents, from the target `split` on, nats."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    scored = targets.masked_fill(place < split, IGNORED)
    with evaluating(model):
        nll = -model.log_likelihood(tokens, scored)
    return nll


def gaussian_prior(q: DiagonalGaussian) -> DiagonalGaussian:
    """Returns the Gaussian with the mean and variance of the aggregate posterior, per number.

    Fitted after training, it prices what all posteriors have in common once instead of in each
    divergence; a valid prior for data that it was not fitted on.

    Arguments:
        q: Posteriors of many training sequences.
    """
    mean = q.mean.mean(0)
    variance = q.scale.square().mean(0) + q.mean.var(0, unbiased=False)
    return DiagonalGaussian(mean, 0.5 * variance.log(), event_ndim=q.event_ndim)
