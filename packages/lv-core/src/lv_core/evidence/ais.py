"""Annealed importance sampling: log normalisers, from below and from above."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import LogDensity
from lv_core.evidence.estimate import Bound, LogEstimate, log_mean_exp
from lv_core.evidence.path import Base, Path, draw_base, temperatures
from lv_core.evidence.tune import tune_path
from lv_core.kernels.base import Kernel

__all__ = ["AisResult", "ais", "ais_reverse"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AisResult:
    """A log normaliser by annealing, with what it was made of; detached.

    Arguments:
        log_z: Estimate per item, shape `(*batch,)`: a lower bound in expectation forward, an
            upper bound in reverse; no bound (`bound` is "none") where the kernel reports no
            acceptance, since an unadjusted kernel leaves other densities invariant.
        log_weights: Log weight of each chain, shape `(chains, *batch)`. Forward their mean lies
            below log Z and the mean of `exp(w)` is Z; in reverse the mean lies above and the mean
            of `exp(-w)` is 1 / Z.
        u: Last positions, shape `(chains, *batch, *event)`; forward, together with the weights,
            draws from the target.
        accept: Mean acceptance at each temperature, over chains and steps, in the order visited,
            shape `(n - 1,)`; None where the kernel reports none.
    """

    log_z: LogEstimate
    log_weights: Tensor
    u: Tensor
    accept: Tensor | None


def ais(
    base: Base,
    target: LogDensity,
    *,
    kernel: Kernel | None = None,
    betas: Float[Tensor, " n"] | int = 100,
    chains: int = 64,
    batch: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
) -> AisResult:
    """Estimates the log normaliser of a target by annealing from a base.

    Chains start at exact draws of the base and take `kernel.steps` steps at each temperature of
    `base^(1 - beta) target^beta`; the log weight is `sum (beta_k - beta_(k-1)) log (target /
    base)` along the way. With base = prior and target = joint density, log Z is the log evidence
    of each item.

    `E[exp(w)] = Z` holds for any kernel that leaves each density of the path invariant, mixing or
    not; an unadjusted kernel does not, and its estimate is labelled as no bound. By Jensen's
    inequality log Z is underestimated, so that the normalised log likelihoods of an energy-based
    model come out too high: see `bidirectional`.

    Arguments:
        base: Normalised start of the path; with an unnormalised one log Z is relative to its own.
        target: Unnormalised log density, `(chains, *batch, *event) -> (chains, *batch)`, finite
            wherever the base puts mass.
        kernel: Metropolis kernel; its step size may be a schedule of the temperature's index,
            as `tune_path` finds it. None = `Mala` tuned by chains of its own.
        betas: Number of steps from base to target, spaced along a sigmoid, or the inverse
            temperatures themselves, from 0 to 1.
        chains: Independent chains per item.
        batch: Shape of the items where the base draws one event at a time; `()` where there is
            one item, or the base has batch axes of its own.
        generator: Source of randomness.

    Raises:
        ValueError: If betas, chains or batch are out of range, or a chain meets a non-finite
            density at a start.

    Source:
        Neal, "Annealed importance sampling", 2001.

    Example:
        >>> log_z = ais(Gaussian(torch.zeros(2), torch.eye(2)), log_density).log_z
    """
    path, beta = Path(base, target), temperatures(betas)
    if kernel is None:
        kernel = tune_path(
            base, target, betas=betas, chains=chains, batch=batch, generator=generator
        )
    state = ChainState(u=draw_base(base, chains, batch, generator))
    with torch.no_grad():
        weights = beta[1] * path.tilt(state.u)
    accepts = []
    for k in range(1, len(beta) - 1):
        state, accept = path.visit(kernel, state, beta[k], k, generator)
        accepts.append(accept)
        with torch.no_grad():
            weights = weights + (beta[k + 1] - beta[k]) * path.tilt(state.u)
    estimate = log_mean_exp(weights, bound=_label("lower", accepts))
    return AisResult(log_z=estimate, log_weights=weights, u=state.u, accept=_means(accepts))


def ais_reverse(
    base: Base,
    target: LogDensity,
    samples: Float[Tensor, "chains ..."],
    *,
    kernel: Kernel | None = None,
    betas: Float[Tensor, " n"] | int = 100,
    generator: torch.Generator | None = None,
) -> AisResult:
    """Estimates the log normaliser from above, annealing from the target back to the base.

    Needs exact draws of the target: of a model that can be sampled, or of a posterior given data
    simulated from the draw itself (`bdmc`). The kernel must be reversible, as Mala and Hmc are.

    Arguments:
        base: Normalised end of the path.
        target: Unnormalised log density.
        samples: Exact draws of the target, shape `(chains, *batch, *event)`.
        kernel: Reversible Metropolis kernel; None = `Mala` tuned on forward chains.
        betas: As in `ais`; the same for both directions of a sandwich.
        generator: Source of randomness.

    Raises:
        ValueError: If betas are out of range, or a chain meets a non-finite density at a start.

    Source:
        Grosse, Ghahramani and Adams, "Sandwiching the marginal likelihood using bidirectional
        Monte Carlo", 2015.
    """
    path, beta = Path(base, target), temperatures(betas)
    if kernel is None:
        kernel = tune_path(base, target, betas=betas, like=samples, generator=generator)
    state = ChainState(u=samples.detach())
    with torch.no_grad():
        weights = (1 - beta[-2]) * path.tilt(state.u)
    accepts = []
    for k in range(len(beta) - 2, 0, -1):
        state, accept = path.visit(kernel, state, beta[k], k, generator)
        accepts.append(accept)
        with torch.no_grad():
            weights = weights + (beta[k] - beta[k - 1]) * path.tilt(state.u)
    inverse = log_mean_exp(-weights, bound=_label("upper", accepts))
    return AisResult(
        log_z=replace(inverse, mean=-inverse.mean),
        log_weights=weights,
        u=state.u,
        accept=_means(accepts),
    )


def _label(bound: Bound, accepts: list[Tensor | None]) -> Bound:
    # Without a Metropolis rule the kernel has a stationary density of its own, and the weights
    # are biased either way. A path without visits is plain importance sampling.
    return "none" if any(accept is None for accept in accepts) else bound


def _means(accepts: list[Tensor | None]) -> Tensor | None:
    means = [accept.mean() for accept in accepts if accept is not None]
    return torch.stack(means) if means else None
