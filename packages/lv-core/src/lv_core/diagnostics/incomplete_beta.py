"""Quantiles of the beta distribution, which torch does not offer."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["beta_quantile"]

_TINY = 1e-300
"""Keeps the terms of the continued fraction away from a division by zero."""


def beta_quantile(
    probability: float, a: Float[Tensor, " n"], b: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Returns x with P(X <= x) = probability for X ~ Beta(a, b), to about twelve digits.

    Newton's method on the regularised incomplete beta function, kept inside a shrinking bracket.

    Arguments:
        probability: Strictly between 0 and 1.
        a: First shape parameter, at least 1, float64.
        b: Second shape parameter, at least 1, float64.

    Raises:
        ValueError: If `probability` is not strictly between 0 and 1.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must lie strictly between 0 and 1, got {probability}")
    low, high = torch.zeros_like(a), torch.ones_like(a)
    x = a / (a + b)
    log_scale = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    for _ in range(100):
        excess = _incomplete_beta(x, a, b) - probability
        low, high = torch.where(excess < 0, x, low), torch.where(excess > 0, x, high)
        density = ((a - 1) * x.log() + (b - 1) * (-x).log1p() + log_scale).exp()
        step = x - excess / density
        inside = (step > low) & (step < high)
        new = torch.where(inside, step, 0.5 * (low + high))
        # A report, not a sampler's loop: one synchronisation per iteration is no matter.
        done = bool(((new - x).abs() <= 1e-13 * x).all())
        x = new
        if done:
            break
    return x


def _incomplete_beta(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # The fraction converges fast below the mean; above it, I_x(a, b) = 1 - I_{1-x}(b, a).
    flip = x > (a + 1) / (a + b + 2)
    x, a, b = torch.where(flip, 1 - x, x), torch.where(flip, b, a), torch.where(flip, a, b)
    log_front = a * x.log() + b * (-x).log1p() - a.log()
    log_front = log_front + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    value = log_front.exp() * _fraction(x, a, b)
    return torch.where(flip, 1 - value, value)


def _fraction(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Returns the continued fraction of Abramowitz and Stegun 26.5.8 by Lentz's method."""

    def guarded(term: Tensor) -> Tensor:
        return torch.where(term.abs() < _TINY, _TINY, term)

    numerator = torch.ones_like(x)
    inverse = 1 / guarded(1 - (a + b) * x / (a + 1))
    value = inverse
    for m in range(1, 10_000):  # about sqrt(max(a, b)) terms are needed
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        inverse = 1 / guarded(1 + even * inverse)
        numerator = guarded(1 + even / numerator)
        value = value * inverse * numerator
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        inverse = 1 / guarded(1 + odd * inverse)
        numerator = guarded(1 + odd / numerator)
        change = inverse * numerator
        value = value * change
        if bool(((change - 1).abs() < 1e-14).all()):
            break
    return value
