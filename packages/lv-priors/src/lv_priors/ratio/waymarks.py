"""Waymarks: sets of samples that lead from one distribution to another in small steps."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Moments",
    "ScheduleName",
    "balanced_schedule",
    "check_coefficients",
    "ldebm_schedule",
    "linear_schedule",
    "moments",
    "named_schedule",
    "power_schedule",
    "stage_pairs",
    "waymark_moments",
    "waymarks",
]

ScheduleName = Literal["ldebm", "linear"]
"""Schedules that need nothing but the number of stages."""


class Moments(NamedTuple):
    """Mean `(*waymarks, dim)` and covariance `(*waymarks, dim, dim)` of one or more sets."""

    mean: Tensor
    covariance: Tensor


def waymarks(
    z0: Float[Tensor, "n ..."], eps: Float[Tensor, "n ..."], coefficients: Float[Tensor, " marks"]
) -> Float[Tensor, "marks n ..."]:
    """Returns the waymarks `z_k = c_k z0 + sqrt(1 - c_k^2) eps`, k = 0..K.

    Arguments:
        z0: Samples of the first distribution, shape `(n, *event)`.
        eps: Noise, or samples of the last distribution, same shape.
        coefficients: c_k, from 1 (z0 itself) down to 0 (eps itself), shape `(K + 1,)`.

    Raises:
        ValueError: If the shapes differ or a coefficient lies outside [0, 1].

    Source:
        Rhodes et al., "Telescoping Density-Ratio Estimation", 2020.

    Example:
        >>> marks = waymarks(z0, torch.randn_like(z0), linear_schedule(6))
    """
    if z0.shape != eps.shape:
        raise ValueError(
            f"z0 and eps must have one shape, got {tuple(z0.shape)} and {tuple(eps.shape)}"
        )
    c = coefficients.to(z0).reshape(-1, *(1,) * z0.ndim)
    return c * z0 + _rest(coefficients).to(z0).reshape(c.shape) * eps


def _rest(coefficients: Tensor) -> Tensor:
    """Returns sqrt(1 - c^2), taken in float64, where it does not cancel."""
    c = coefficients.double()
    return ((1 - c) * (1 + c)).sqrt()


def stage_pairs(
    z0: Tensor, eps: Tensor, coefficients: Tensor, other: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Returns what each stage tells apart, shape `(K, n + n, *event)`.

    Stage k has waymark k - 1, then waymark k, of the same samples ("coupled"), or the latter of
    the pair `other` of samples ("shuffled").
    """
    first = waymarks(z0, eps, coefficients)
    second = first if other is None else waymarks(*other, coefficients)
    return torch.cat((first[:-1], second[1:]), dim=1)


def check_coefficients(coefficients: Tensor, stages: int) -> Tensor:
    """Returns the coefficients in float64 if they lead from 1 to 0 in `stages` stages.

    Raises:
        ValueError: Unless they are a vector of length `stages + 1` that starts at 1, falls
            strictly and ends at 0.
    """
    c = coefficients.double()
    ok = c.shape == (stages + 1,) and bool(c[0] == 1) and bool(c[-1] == 0)
    if not (ok and bool((c.diff() < 0).all())):
        raise ValueError(
            f"coefficients must be stages + 1 = {stages + 1} numbers that start at 1, fall "
            f"strictly and end at 0, got {coefficients.tolist()}"
        )
    return c


def power_schedule(stages: int, exponent: float) -> Float[Tensor, " marks"]:
    """Returns c_k = sqrt(1 - a_k^2) with the noise coefficient a_k = (k / stages)^exponent.

    Arguments:
        stages: Number of ratios, at least 1.
        exponent: 1 = linear; 5 to 7 for a first distribution that is very narrow.

    Raises:
        ValueError: If an argument is not positive.

    Source:
        Rhodes et al., "Telescoping Density-Ratio Estimation", 2020.
    """
    check_stages(stages)
    if not exponent > 0:
        raise ValueError(f"exponent must be positive, got {exponent}")
    noise = torch.linspace(0, 1, stages + 1, dtype=torch.float64) ** exponent
    return _rest(noise)


def linear_schedule(stages: int) -> Float[Tensor, " marks"]:
    """Returns the schedule whose noise coefficient sqrt(1 - c_k^2) is k / stages."""
    return power_schedule(stages, 1.0)


def ldebm_schedule(stages: int = 6) -> Float[Tensor, " marks"]:
    """Returns the levels of a diffusion of 1000 steps, every hundredth one and the last.

    c = sqrt(prod (1 - beta_i)), beta from 1e-4 to 0.02 in equal steps, read after steps 0, 100,
    ..., 100 (stages - 1), 999. The first and last level, 0.99995 and 0.006, are set to 1 and 0,
    so that the product of the ratios is that between the two distributions themselves.

    Arguments:
        stages: Number of ratios, 1 to 10; the paper has 6.

    Raises:
        ValueError: If `stages` is out of range.

    Source:
        Yu et al., "Latent Diffusion Energy-Based Model for Interpretable Text Modeling", 2022
        (levels); the exact ends are ours.
    """
    check_stages(stages)
    if stages > 10:
        raise ValueError(f"stages must be at most 10 for this schedule, got {stages}")
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    levels = (1 - beta).cumprod(0).sqrt()
    c = levels[torch.tensor([*range(0, 100 * stages, 100), 999])]
    c[0], c[-1] = 1.0, 0.0
    return c


def named_schedule(name: ScheduleName | None, stages: int) -> Float[Tensor, " marks"]:
    """Returns the schedule of that name; None is "ldebm" for six stages and else "linear".

    Raises:
        ValueError: If the name is unknown.
    """
    known = {"ldebm": ldebm_schedule, "linear": linear_schedule}
    name = ("ldebm" if stages == 6 else "linear") if name is None else name
    if name not in known:
        raise ValueError(f"unknown schedule {name!r}; there are: balanced, {', '.join(known)}")
    return known[name](stages)


def moments(x: Float[Tensor, "n dim"]) -> Moments:
    """Returns mean and covariance (divisor n) in float64, shapes `(dim,)` and `(dim, dim)`."""
    mean = x.mean(0, dtype=torch.float64)
    centered = x.double() - mean
    return Moments(mean, centered.T @ centered / len(x))


def waymark_moments(first: Moments, last: Moments, coefficients: Tensor) -> Moments:
    """Returns the moments of waymarks between two independent distributions.

    mean_k = c_k m + s_k m', covariance_k = c_k^2 S + s_k^2 S', s_k = sqrt(1 - c_k^2); with normal
    ends every waymark is normal and this is all there is to know.
    """
    c = coefficients.double()[:, None]
    s = _rest(c)
    mean = c * first.mean + s * last.mean
    square = c.square()[..., None]
    return Moments(mean, square * first.covariance + (1 - square) * last.covariance)


def balanced_schedule(stages: int, first: Moments, last: Moments) -> Float[Tensor, " marks"]:
    """Returns the schedule whose stages are equally hard, judged by the first two moments.

    The path of normals with the waymarks' moments is cut into pieces of equal length, where
    length adds up the root of the symmetric Kullback-Leibler divergence of close neighbours.
    Fixed schedules leave most of a large ratio to one stage, which then saturates.

    Arguments:
        stages: Number of ratios.
        first: Moments of the numerator.
        last: Moments of the denominator.

    Raises:
        ValueError: If `stages` is not positive.
    """
    check_stages(stages)
    # In coordinates where the last covariance is I and the first diagonal, both stay diagonal.
    factor = torch.linalg.cholesky(_regular(last.covariance))
    half = torch.linalg.solve_triangular(factor, _regular(first.covariance), upper=False)
    inner = torch.linalg.solve_triangular(factor, half.T.contiguous(), upper=False)
    variance, axes = torch.linalg.eigh(0.5 * (inner + inner.T))
    ends = torch.stack((first.mean, last.mean), -1).double()
    means = axes.T @ torch.linalg.solve_triangular(factor, ends, upper=False)
    # Fine at both ends, where the path of a very narrow or wide distribution is over at once.
    near = torch.logspace(-9, math.log10(0.25 * math.pi), 1024, dtype=torch.float64)
    right = torch.tensor([0.5 * math.pi], dtype=torch.float64)
    angle = torch.cat((right * 0, near, (right - near).flip(0)[1:], right)).to(means.device)
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    mean = c * means[:, 0] + s * means[:, 1]
    # No variance is below what the first angle adds to it, lest that cell be of infinite length.
    var = c.square() * variance.clamp(min=1e-18) + s.square()
    gap = mean.diff(dim=0).square()
    before, after = var[:-1], var[1:]
    divergence = 0.5 * ((before - after).square() / (before * after)).sum(-1)
    divergence = divergence + 0.5 * (gap / before + gap / after).sum(-1)
    # The small term cuts evenly where the two distributions agree.
    length = (divergence.sqrt() + 1e-6 * angle.diff()).cumsum(0)
    length = torch.cat((length.new_zeros(1), length))
    targets = torch.linspace(0, 1, stages + 1, dtype=torch.float64, device=length.device)
    place = torch.searchsorted(length, targets[1:-1] * length[-1]).clamp(1, len(angle) - 1)
    share = (targets[1:-1] * length[-1] - length[place - 1]) / (length[place] - length[place - 1])
    cut = angle[place - 1] + share * (angle[place] - angle[place - 1])
    return torch.cat((cut.new_ones(1), cut.cos(), cut.new_zeros(1)))


def _regular(covariance: Tensor) -> Tensor:
    """Returns the covariance with a ridge, as samples may lie in a subspace."""
    size = covariance.double().diagonal().mean().clamp(min=1e-12)
    return covariance.double() + 1e-6 * size * torch.eye(len(covariance)).to(size)


def check_stages(stages: int) -> None:
    """Raises a ValueError unless there is at least one stage."""
    if stages < 1:
        raise ValueError(f"stages must be at least 1, got {stages}")
