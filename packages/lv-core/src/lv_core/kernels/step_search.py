"""A first step size of the right order."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import event_axes, over_event
from lv_core.kernels.leapfrog import dot, drift, kick

__all__ = ["search_step_size"]

# A factor of 10^45 in either direction; reached by targets that are flat or nowhere finite.
_MOST = 150


def search_step_size(
    log_density: LogDensity,
    state: ChainState,
    log_step: Tensor,
    scale: Tensor,
    momenta: Tensor,
    *,
    temperature: float,
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """Returns the log step size at which one leapfrog step is accepted with probability 0.8.

    The step is doubled or halved until the acceptance crosses 0.8, always with the same momenta.
    Each trial is one evaluation, after which the host looks whether to go on.

    Arguments:
        log_density: The target.
        state: Chains with value and gradient.
        log_step: Where to start, shape `()` or `(*batch,)`.
        scale: Factors of the components, shaped like the event.
        momenta: Standard normal, shaped like u.
        temperature: The target is p^(1/temperature).
        reduce: Maps the acceptance of each chain to the shape of `log_step`.

    Source:
        Hoffman and Gelman, "The no-U-turn sampler", 2014, algorithm 4 (there with 0.5; 0.8 as in
        Stan).
    """
    value, grad = state.log_density, state.grad
    assert value is not None
    assert grad is not None
    axes = event_axes(state.u, value)
    p = momenta * temperature**0.5
    before = value - 0.5 * dot(p, p, axes)

    def passes(log_s: Tensor) -> Tensor:
        s = over_event(log_s.exp().expand_as(value), p) * scale
        half = kick(p, grad, s)
        u = drift(state.u, half, s)
        # A step far too large may overflow: such chains are asked at their start and rejected.
        inside = over_event(torch.isfinite(dot(u, u, axes)), u)
        new, force, _ = value_and_grad(log_density, torch.where(inside, u, state.u))
        end = kick(half, force, s)
        ratio = (new - 0.5 * dot(end, end, axes) - before) / temperature
        accept = ratio.clamp(max=0.0).exp()
        ok = torch.isfinite(ratio) & inside.reshape((*value.shape, -1)).all(-1)
        return reduce(torch.where(ok, accept, 0.0)) > 0.8

    small = passes(log_step)
    change = torch.where(small, math.log(2.0), -math.log(2.0)).to(log_step)
    going = torch.ones_like(small)
    for _ in range(_MOST):
        log_step = torch.where(going, log_step + change, log_step)
        going = going & (passes(log_step) == small)
        if not bool(going.any()):  # waits for the device
            break
    return log_step
