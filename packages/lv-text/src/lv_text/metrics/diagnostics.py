"""Whether latents carry anything: active units, mutual information, KL above its floor.

Posteriors of n data are diagonal Gaussians given by means and log variances of shape
`(n, *event)`; the event (layers, slots, width) is flattened, the prior is N(0, I).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

__all__ = [
    "ActiveUnits",
    "AggregatePosterior",
    "KlSummary",
    "MutualInformation",
    "active_units",
    "aggregate_posterior",
    "kl_summary",
    "mutual_information",
]


@dataclass(frozen=True, kw_only=True)
class ActiveUnits:
    """Which latent numbers follow the data."""

    variance: Float[Tensor, "..."]
    """variance of the posterior mean over the data, shape `event`"""
    active: Bool[Tensor, "..."]
    """variance above the threshold, same shape"""
    count: int
    """number of active units"""
    share: float
    """active units / units"""


@dataclass(frozen=True, kw_only=True)
class MutualInformation:
    """Mutual information between datum and latent under the posteriors of a set of data."""

    nats: float
    """estimate; between 0 and `ceiling` up to Monte-Carlo error"""
    standard_error: float
    """Monte-Carlo error for this set of data"""
    kl: float
    """mean KL(q(z|x) || p(z)), in closed form"""
    aggregate_kl: float
    """KL(aggregate posterior || p(z)) = kl - nats"""
    ceiling: float
    """log n: no set of n data can show more, so an estimate near it says only "at least" """


@dataclass(frozen=True, kw_only=True)
class KlSummary:
    """KL of local posteriors against the part that short fitting leaves over with no data."""

    per_token: float
    """total KL / total tokens"""
    floor_per_token: float
    """floor of all sequences / total tokens"""
    excess_per_token: float
    """difference of both: what can hold information; may be negative"""
    excess_share: float
    """excess / KL"""
    above_floor: float
    """share of sequences whose KL is above the floor"""


@dataclass(frozen=True, kw_only=True)
class AggregatePosterior:
    """How far the mixture of all posteriors is from the prior that generation samples."""

    mean_square: float
    """mean over data of |mean|^2 / dimension"""
    mean_variance: float
    """mean posterior variance"""
    mean_log_var: float
    """mean posterior log variance; 0 is the prior's"""
    second_moment: float
    """E |z|^2 / dimension = mean_square + mean_variance; 1 for the prior"""
    center_square: float
    """|mean over data of the mean|^2 / dimension: the shift shared by all data; 0 for the prior"""


def active_units(means: Float[Tensor, "n ..."], *, threshold: float = 0.01) -> ActiveUnits:
    """Counts the latent numbers whose posterior mean varies over the data.

    active_d = Var_x(E_q(z|x) z_d) > threshold

    Arguments:
        means: Posterior means of n >= 2 data, shape `(n, *event)`.
        threshold: Variance above which a unit counts.

    Raises:
        ValueError: If there are fewer than two data.

    Source:
        Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016, section 5.2.
    """
    if len(means) < 2:
        raise ValueError(f"means must hold two data or more, got shape {tuple(means.shape)}")
    variance = means.detach().double().var(0, correction=0).to(means.dtype)
    active = variance > threshold
    return ActiveUnits(
        variance=variance,
        active=active,
        count=int(active.sum()),
        share=float(active.double().mean()),
    )


def mutual_information(
    means: Float[Tensor, "n ..."],
    log_vars: Float[Tensor, "n ..."],
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> MutualInformation:
    """Estimates the mutual information of datum and latent from the mixture of the posteriors.

    I = E_x KL(q(z|x) || p(z)) - KL(q(z) || p(z)) = E_x E_q(z|x) [log q(z|x) - log q(z)], with the
    mixture q(z) = 1/n sum_j q(z|x_j) over the data given. For this mixture the estimate is
    unbiased. For the population it is a lower bound in expectation, at most log n.

    Arguments:
        means: Posterior means, shape `(n, *event)`, n >= 2.
        log_vars: Posterior log variances, same shape.
        samples: Draws per datum, 1 or more.
        generator: Source of randomness.

    Returns:
        The estimate with its parts, in nats.

    Raises:
        ValueError: If shapes differ, there are fewer than two data or no sample.

    Source:
        Hoffman and Johnson, "ELBO surgery", 2016; He et al., "Lagging Inference Networks and
        Posterior Collapse in Variational Autoencoders", 2019, section 3.
    """
    mean, log_var = _flat(means, log_vars)
    if len(mean) < 2 or samples < 1:
        raise ValueError(
            f"means must hold two data or more and samples be positive, got shape "
            f"{tuple(means.shape)} and {samples}"
        )
    n = len(mean)
    precision = (-log_var).exp()
    # (z - m)^2 / v = z^2 / v - 2 z m / v + m^2 / v: two matrix products instead of n x n x d
    # differences; float64 leaves 1e-10 after the cancellation.
    weighted = mean * precision
    constant = (mean * weighted + log_var).sum(-1)
    gaps = []
    for _ in range(samples):
        noise = _normal(mean, generator)
        z = mean + noise * (log_var / 2).exp()
        quadratic = z.square() @ precision.T - 2 * z @ weighted.T + constant
        log_q = -quadratic / 2
        gaps.append(log_q.diagonal() - log_q.logsumexp(-1) + math.log(n))
    gap = torch.stack(gaps)
    # Data are fixed, draws are not: the error is that within data, which one draw cannot show
    # apart from the spread between data, so that the latter serves as an upper value then.
    spread = gap.var(0) / samples if samples > 1 else gap[0].var().expand(n)
    kl = float(0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1).mean())
    nats = float(gap.mean())
    return MutualInformation(
        nats=nats,
        standard_error=float((spread.mean() / n).sqrt()),
        kl=kl,
        aggregate_kl=kl - nats,
        ceiling=math.log(n),
    )


def kl_summary(
    kl: Float[Tensor, " sequences"], tokens: Int[Tensor, " sequences"], *, floor: float
) -> KlSummary:
    """Compares the KL of fitted posteriors with its floor.

    The floor is the KL that the same fitting leaves over when the likelihood is switched off: log
    variances start far below 0 and need their steps to get there. Only KL above it can mean that
    latents are used.

    Arguments:
        kl: KL(q || p) of each sequence in nats.
        tokens: Tokens of each sequence, 1 or more.
        floor: KL of one sequence in nats after fitting with the likelihood switched off.

    Raises:
        ValueError: If there is no sequence, a count is not positive, a KL is not finite, or the
            floor is negative or not finite.
    """
    if not len(kl) or int(tokens.min()) < 1 or not bool(kl.isfinite().all()):
        raise ValueError(
            f"kl and tokens must hold one finite KL and one positive count per sequence, got "
            f"{kl.tolist()[:8]} and {tokens.tolist()[:8]}"
        )
    if not 0 <= floor < math.inf:
        raise ValueError(f"floor must be a KL in nats per sequence, 0 or more, got {floor}")
    nats = kl.detach().double()
    total, count = float(nats.sum()), int(tokens.sum())
    excess = total - floor * len(nats)
    return KlSummary(
        per_token=total / count,
        floor_per_token=floor * len(nats) / count,
        excess_per_token=excess / count,
        excess_share=excess / total if total else 0.0,
        above_floor=float((nats > floor).double().mean()),
    )


def aggregate_posterior(
    means: Float[Tensor, "n ..."], log_vars: Float[Tensor, "n ..."]
) -> AggregatePosterior:
    """Computes moments of the aggregate posterior that the prior N(0, I) has as 0 and 1.

    Arguments:
        means: Posterior means, shape `(n, *event)`.
        log_vars: Posterior log variances, same shape.

    Raises:
        ValueError: If shapes differ or there is no datum.
    """
    mean, log_var = _flat(means, log_vars)
    square, variance = float(mean.square().mean()), float(log_var.exp().mean())
    return AggregatePosterior(
        mean_square=square,
        mean_variance=variance,
        mean_log_var=float(log_var.mean()),
        second_moment=square + variance,
        center_square=float(mean.mean(0).square().mean()),
    )


def _flat(
    means: Tensor, log_vars: Tensor
) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, "n d"]]:
    """Returns both in float64 with a flat event, or says what is wrong with them."""
    if means.shape != log_vars.shape or means.ndim < 2 or not means.numel():
        raise ValueError(
            "means and log_vars must have one shape (n, *event) that is not empty, got "
            f"{tuple(means.shape)} and {tuple(log_vars.shape)}"
        )
    return means.detach().double().flatten(1), log_vars.detach().double().flatten(1)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws standard normal numbers where the generator lives, for tensors that may not."""
    at = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=at).to(
        like.device
    )
