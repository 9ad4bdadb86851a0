"""Weights of a ring attractor: deconvolved from the tuning curve it shall hold."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lv_neuro.baselines.ring import circulant, unit_bump

__all__ = ["deconvolve", "input_of", "rate_of", "settle"]

# Shape legend: d neurons.

# With these numbers and the default regularization the bump is stable for tuning widths from
# 0.3 to 0.8 rad (eigenvalues of the linearized dynamics); they are ours.
SOFTNESS = 5.0
THRESHOLD = -0.5
SLOPE = SOFTNESS / math.log1p(math.exp(SOFTNESS * (1 - THRESHOLD)))


def rate_of(current: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns the rate f of an input: softplus above a threshold, scaled so that f(1) = 1."""
    return SLOPE * softplus(current - THRESHOLD, SOFTNESS)


def input_of(rate: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns the input that leads to a rate, the inverse of `rate_of`; rates above 0."""
    return torch.log(torch.expm1(rate * SOFTNESS / SLOPE)) / SOFTNESS + THRESHOLD


def deconvolve(
    neurons: int, sigma: float, base_rate: float, regularization: float
) -> tuple[Float[Tensor, " neurons"], Float[Tensor, "two neurons"]]:
    """Returns the wanted tuning curve (peak 1) and the kernels of W and W', in float64."""
    bump = unit_bump(neurons, sigma**-2)
    wanted = base_rate + (1 - base_rate) * bump / bump[0]
    current = input_of(wanted)
    rate_k = torch.fft.rfft(wanted).real
    current_k = torch.fft.rfft(current).real
    even_k = current_k * rate_k / (regularization * rate_k.square().max() + rate_k.square())
    k = torch.arange(len(even_k), dtype=even_k.dtype)
    if neurons % 2 == 0:
        k[-1] = 0  # the alternating harmonic has no odd counterpart
    kernels = torch.stack([even_k + 0j, 1j * k * even_k])
    return wanted, torch.fft.irfft(kernels, n=neurons)


def settle(
    wanted: Float[Tensor, " neurons"], kernel: Float[Tensor, " neurons"], *, steps: int = 20_000
) -> Float[Tensor, " neurons"]:
    """Returns the bump at heading 0 that the network holds, from the wanted one on.

    Arguments:
        wanted: Rates, peak 1.
        kernel: W as a circular convolution.
        steps: Most steps of half a time constant.

    Raises:
        ValueError: If it dissolves, explodes, moves on, or looks unlike the wanted one.
    """
    weights = circulant(kernel)
    bump, change = wanted, math.inf
    for _ in range(steps):
        after = (bump + rate_of(weights @ bump)) / 2
        change = float((after - bump).abs().max())
        bump = after
        if change < 1e-13 or not math.isfinite(change):
            break
    likeness = float(torch.corrcoef(torch.stack([bump, wanted]))[0, 1])
    if not (change < 1e-9 and likeness > 0.95 and bump.amax() > 0.5):
        raise ValueError(
            "no stable bump of the wanted shape: after settling the peak is "
            f"{float(bump.max()):.3g} (wanted 1), the correlation with the wanted tuning curve "
            f"{likeness:.3g}, the last change {change:.2g}; raise regularization or sigma, or "
            "lower base_rate"
        )
    return bump
