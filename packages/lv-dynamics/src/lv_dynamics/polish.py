"""Noise-free ascent of a log density, every chain with its own step."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import LogDensity, value_and_grad

__all__ = ["Climbed", "climb"]

_MEMORY = 5  # accepted values that a new one is compared with
_LARGEST_CHANGE = 10.0  # of a step size from one step to the next


class Climbed(NamedTuple):
    """The best points met."""

    u: Tensor
    """positions, shape `(*batch, *event)`"""
    log_density: Tensor
    """values there, shape `(*batch,)`"""


def climb(
    log_density: LogDensity,
    u: Float[Tensor, "..."],
    *,
    steps: int,
    step_size: float | Float[Tensor, "..."],
) -> Climbed:
    """Returns the best points of a gradient ascent from `u`, never worse than `u` itself.

    The step of each chain is that of Barzilai and Borwein, the inverse of the curvature along its
    last move, which needs far fewer steps than a constant one where curvatures differ by orders
    of magnitude, as those of a frequency and an offset do. A step is taken unless the value falls
    below the lowest of the last five; otherwise the next is four times shorter. Chains do not
    influence each other, one evaluation a step.

    Arguments:
        log_density: The target.
        u: Start positions, at finite values.
        steps: Number of evaluations after the first; 0 only evaluates.
        step_size: First step h of `u + h grad`, for all or for each chain, shape `(*batch,)`.

    Raises:
        ValueError: If `steps` is negative or a step size not positive.

    Source:
        Barzilai and Borwein, 1988; Grippo, Lampariello and Lucidi, 1986 (the memory).

    Example:
        >>> climb(posterior, z, steps=30, step_size=0.01).u
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    here = value_and_grad(log_density, u)
    value, grad = here.value, here.grad.clone()
    h = torch.as_tensor(step_size, dtype=u.dtype, device=u.device).expand(value.shape)
    if not bool((h > 0).all()):
        raise ValueError(f"step_size must be positive, got {float(h.min())}")
    u = best_u = u.detach()
    best, recent = value, value.expand(_MEMORY, *value.shape)

    def wide(x: Tensor) -> Tensor:
        return x.reshape(x.shape + (1,) * (u.ndim - value.ndim))

    def total(x: Tensor) -> Tensor:
        return x.reshape(*value.shape, -1).sum(-1)

    for _ in range(steps):
        move = wide(h) * grad
        new_value, new_grad, _ = value_and_grad(log_density, u + move)
        taken = torch.isfinite(new_value) & torch.isfinite(total(new_grad))
        taken = taken & (new_value >= recent.amin(0))
        curvature = total(move * (grad - new_grad))
        ideal = torch.where(curvature > 0, total(move.square()) / curvature, torch.inf)
        ideal = torch.minimum(torch.maximum(ideal, h / _LARGEST_CHANGE), h * _LARGEST_CHANGE)
        h = torch.where(taken, ideal, h / 4)
        u = torch.where(wide(taken), u + move, u)
        grad = torch.where(wide(taken), new_grad, grad)
        value = torch.where(taken, new_value, value)
        recent = torch.where(taken, torch.cat((recent[1:], value[None])), recent)
        better = value > best
        best, best_u = torch.where(better, value, best), torch.where(wide(better), u, best_u)
    return Climbed(best_u, best)
