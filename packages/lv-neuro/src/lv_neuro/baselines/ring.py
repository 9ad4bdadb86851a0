"""Shifts of a population whose preferred directions are equispaced on the circle."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["circulant", "shift", "unit_bump"]


def shift(
    v: Float[Tensor, "... neurons"], dx: Float[Tensor, "..."]
) -> Float[Tensor, "... neurons"]:
    """Returns the population moved along its ring: each harmonic k is turned by k dx.

    A turn by a multiple of 2 pi / d is a permutation of the neurons. Any other turn
    interpolates with the harmonics below d / 2, which is exact for band-limited activity and
    keeps the norm; of an even number of neurons only the alternating harmonic, which has no
    direction, is scaled by cos(d dx / 2).

    Arguments:
        v: Activity; neuron i prefers 2 pi i / d.
        dx: Turns in radians, counter-clockwise positive; they and the batch axes of v broadcast.
    """
    d = v.shape[-1]
    k = torch.arange(d // 2 + 1, dtype=v.dtype, device=v.device)
    phase = dx.to(v)[..., None] * k
    real, imaginary = phase.cos(), -phase.sin()
    if d % 2 == 0:
        imaginary[..., -1] = 0
    harmonics = torch.fft.rfft(v) * torch.complex(real, imaginary)
    turned: Tensor = torch.fft.irfft(harmonics, n=d)
    return turned


def circulant(kernel: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """Returns the matrix C with C[i, j] = kernel[(i - j) mod n], the circular convolution."""
    n = torch.arange(kernel.shape[-1], device=kernel.device)
    return kernel[..., torch.remainder(n[:, None] - n, kernel.shape[-1])]


def unit_bump(neurons: int, kappa: float) -> Float[Tensor, " neurons"]:
    """Returns exp(kappa (cos(mu_i) - 1)) at mu_i = 2 pi i / d, in float64, norm 1."""
    mu = torch.arange(neurons, dtype=torch.float64) * (2 * math.pi / neurons)
    v = torch.exp(kappa * (mu.cos() - 1))
    unit: Tensor = v / v.norm()
    return unit
