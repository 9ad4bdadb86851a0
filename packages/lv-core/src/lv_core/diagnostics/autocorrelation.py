"""Autocorrelation of kept draws."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["autocorrelation", "autocovariance", "columns"]


def autocorrelation(
    u: Float[Tensor, "draws chains *event"],
) -> Float[Tensor, "draws chains *event"]:
    """Returns the autocorrelation of each chain at lags 0, 1, ..., draws - 1, by FFT.

    Divides every lag by the number of draws, which biases long lags towards zero and keeps the
    sequence positive definite. NaN for a constant chain.

    Arguments:
        u: Kept positions.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    covariance = autocovariance(columns(u))
    return (covariance / covariance[:1]).reshape(u.shape)


def autocovariance(x: Tensor) -> Tensor:
    """Returns the autocovariance along the first axis at all lags, each over all draws."""
    draws = len(x)
    # Zeros behind the draws keep the circular convolution from wrapping round.
    length = 1 << max(2 * draws - 1, 1).bit_length()
    spectrum = torch.fft.rfft(x - x.mean(0), n=length, dim=0)
    power = spectrum.real.square() + spectrum.imag.square()
    sums: Tensor = torch.fft.irfft(power, n=length, dim=0)
    return sums[:draws] / draws


def columns(u: Tensor) -> Tensor:
    """Returns draws as `(draws, chains, coordinates)` in float64, detached.

    Raises:
        ValueError: If `u` has no axis of draws or of chains.
    """
    if u.ndim < 2:
        raise ValueError(
            f"u must have shape (draws, chains, *event), got {tuple(u.shape)}: add the missing "
            "axis, such as u[:, None] for one chain"
        )
    return u.detach().double().reshape(*u.shape[:2], u.shape[2:].numel())
