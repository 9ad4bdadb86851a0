"""The noise-intensified contrastive loss, and what its classifiers say about their own health."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "RatioMass",
    "StageSigns",
    "chance_loss",
    "n2ce_loss",
    "ratio_mass",
    "stage_signs",
    "stage_words",
]


def n2ce_loss(
    f_positive: Float[Tensor, "*stages n"],
    f_negative: Float[Tensor, "*stages m"],
    *,
    magnitude: float = 100.0,
    penalty: float = 0.0,
) -> Float[Tensor, "*stages"]:
    """Returns the noise-intensified noise-contrastive loss of log ratios f, one per stage.

    loss = mean softplus(log M - f_positive) + M mean softplus(f_negative - log M)
           + penalty * (mean f_positive^2 + mean f_negative^2) / 2

    Its optimum is `f = log(p_positive / p_negative)` for every M. M = 1 is ordinary noise
    contrast; as M grows the gradient tends to that of the maximum likelihood of
    `exp(f) p_negative`. M weights the noise term, it asks for no more noise samples. The noise of
    the gradient grows with M as well: M well below a few times the root of the number of samples
    is reasonable.

    Arguments:
        f_positive: Log ratios (nats) at samples of the numerator; the mean is over the last axis.
        f_negative: Log ratios at samples of the denominator.
        magnitude: M, positive.
        penalty: Weight of the mean squared log ratio; 0 keeps the optimum exact.

    Returns:
        One loss for each leading index, a scalar for vectors. At f = 0 it is `chance_loss(M)`.

    Raises:
        ValueError: If `magnitude` is not positive or `penalty` is negative.

    Source:
        Yu et al., "'Noisier' Noise Contrastive Estimation is (Almost) Maximum Likelihood", 2026,
        eq. 5. M is called `nu` in the code published with Rhodes et al., "Telescoping
        Density-Ratio Estimation", 2020; that paper itself has no such weight.

    Example:
        >>> n2ce_loss(torch.zeros(4), torch.zeros(4), magnitude=1.0)  # 2 log 2
        tensor(1.3863)
    """
    check_magnitude(magnitude)
    if not penalty >= 0:
        raise ValueError(f"penalty must not be negative, got {penalty}")
    log_m = math.log(magnitude)
    loss = softplus(log_m - f_positive).mean(-1) + magnitude * softplus(f_negative - log_m).mean(
        -1
    )
    if penalty > 0:
        squares = f_positive.square().mean(-1) + f_negative.square().mean(-1)
        loss = loss + 0.5 * penalty * squares
    return loss


def chance_loss(magnitude: float) -> float:
    """Returns the loss of a classifier that knows nothing, f = 0.

    log(1 + M) + M log(1 + 1/M): 2 log 2 for M = 1, about 5.61015 for M = 100.
    """
    check_magnitude(magnitude)
    return math.log1p(magnitude) + magnitude * math.log1p(1 / magnitude)


def check_magnitude(magnitude: float) -> None:
    """Raises a ValueError unless the weight of the noise term is positive."""
    if not (magnitude > 0 and math.isfinite(magnitude)):
        raise ValueError(f"magnitude must be positive and finite, got {magnitude}")


class RatioMass(NamedTuple):
    """Monte Carlo estimate of the mass of a ratio times its denominator, which should be 1.

    Arguments:
        mean: Mean ratio at the denominator's samples.
        standard_error: Of that mean, NaN for a single sample; too small where the ratio is large
            only in rare places.
        ess: Effective share of the samples, in (0, 1]; below 0.01 the mean says little.
    """

    mean: Tensor
    standard_error: Tensor
    ess: Tensor


@torch.no_grad()
def ratio_mass(log_ratio: Float[Tensor, " n"]) -> RatioMass:
    """Returns the mean of exp(log_ratio) with its error, in float64.

    Arguments:
        log_ratio: Log ratios (nats) at samples of the denominator; the error needs two or more.
    """
    # Scaled by the largest, so that hundreds of nats overflow in the end at most.
    top = log_ratio.double().amax()
    weight = (log_ratio.double() - top).exp()
    unknown = weight.new_tensor(math.nan)
    error = weight.std() / math.sqrt(len(weight)) if len(weight) > 1 else unknown
    ess = weight.sum().square() / weight.square().sum() / len(weight)
    return RatioMass(top.exp() * weight.mean(), top.exp() * error, ess)


class StageSigns(NamedTuple):
    """What each stage's classifier shows on some samples; all detached, shape `(stages,)`.

    Arguments:
        loss: The loss of the stage.
        accuracy: Balanced share of samples on the right side of f = 0; 0.5 is chance.
        positive: Mean log ratio (nats) at the numerator's samples.
        negative: Mean log ratio at the denominator's samples.
        mass: Mean of exp(f) at the denominator's samples; 1 for a normalised ratio.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor
    negative: Tensor
    mass: Tensor


@torch.no_grad()
def stage_signs(
    f_positive: Float[Tensor, "stages n"],
    f_negative: Float[Tensor, "stages m"],
    *,
    magnitude: float = 100.0,
) -> StageSigns:
    """Returns the signs of health of each stage; synchronises nothing."""
    right = (f_positive > 0).to(f_positive).mean(-1) + (f_negative <= 0).to(f_negative).mean(-1)
    return StageSigns(
        loss=n2ce_loss(f_positive, f_negative, magnitude=magnitude),
        accuracy=0.5 * right,
        positive=f_positive.mean(-1),
        negative=f_negative.mean(-1),
        mass=f_negative.exp().mean(-1),
    )


def stage_words(
    signs: Mapping[str, list[float]], *, magnitude: float, ess: float | None = None
) -> list[str]:
    """Returns what the signs of the stages say, worst first, one line each.

    Arguments:
        signs: Fields of `StageSigns` as lists of numbers, from samples not learned from.
        magnitude: M of the loss.
        ess: Effective share, in (0, 1], of denominator samples weighted by the whole ratio.
    """
    found = []
    if not all(math.isfinite(v) for values in signs.values() for v in values):
        found.append("a sign is not finite: learning has diverged; lower lr or magnitude")
    chance = chance_loss(magnitude)
    # One part in a thousand of the chance loss is within the noise of some thousand samples.
    worse = [k for k, loss in enumerate(signs["loss"], 1) if loss > chance * 1.001]
    if worse:
        found.append(
            f"{_stages(worse)} lose more than f = 0 would ({chance:.3f}) on samples not learned "
            "from: over-fitted or diverging; lower lr or magnitude, or give more samples"
        )
    easy = [k for k, share in enumerate(signs["accuracy"], 1) if share > 0.95]
    if easy:
        found.append(
            f"{_stages(easy)} tell their waymarks apart with more than 95 % accuracy: a saturated "
            "classifier does not learn the size of its ratio; add stages or use the balanced "
            "schedule"
        )
    off = [k for k, mass in enumerate(signs["mass"], 1) if not 0.5 < mass < 2.0]
    if off:
        found.append(
            f"{_stages(off)} have a mean ratio far from 1 under their denominator: more steps, "
            "more samples or more stages"
        )
    if ess is not None and ess < 0.01:
        found.append(
            f"the ratio weights {ess:.2%} of the denominator's samples effectively: the ratio may "
            "be right, but do not reweight with it; sample through the stages instead"
        )
    gain = sum(chance - loss for loss in signs["loss"]) / len(signs["loss"])
    return found or [
        f"healthy: stages gain {gain:.3f} on average over the loss at f = 0, largest accuracy "
        f"{max(signs['accuracy']):.2f}"
    ]


def _stages(numbers: list[int]) -> str:
    return f"stage{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
