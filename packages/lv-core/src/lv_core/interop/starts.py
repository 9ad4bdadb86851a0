"""Starts of chains in an unconstrained space."""

import torch
from torch import Tensor

from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import over_event
from lv_core.random import Source, uniform

__all__ = ["finite_starts"]

ROUNDS = 100
"""How often starts are drawn anew before the target is held to be at fault."""


def finite_starts(
    log_density: LogDensity,
    n: int,
    event: tuple[int, ...],
    *,
    radius: float = 2.0,
    like: Tensor,
    generator: Source = None,
) -> Tensor:
    """Returns `n` points uniform on a cube, all of finite value and gradient.

    The rule by which Stan, Pyro and NumPyro start chains in unconstrained space. Points of
    non-finite value or gradient are drawn again.

    Arguments:
        log_density: The target, `(n, *items, *event)` to `(n, *items)`.
        n: Number of chains of each item, at least 1.
        event: Shape of what lies behind the chains, `(*items, *event)`.
        radius: Half of the cube's edge, positive.
        like: Tensor whose dtype and device the starts get.
        generator: Source of randomness.

    Raises:
        ValueError: If `n` or `radius` is not positive, or some chain has found no start after
            100 draws.
    """
    if n < 1 or not radius > 0:
        raise ValueError(f"n and radius must be positive, got {n=}, {radius=}")
    found = torch.empty((n, *event), dtype=like.dtype, device=like.device)
    missing = torch.ones((), dtype=torch.bool, device=like.device)
    for _ in range(ROUNDS):
        drawn = radius * (2 * uniform(found.shape, found, generator) - 1)
        found = torch.where(over_event(missing, found), drawn, found)
        value, grad, _ = value_and_grad(log_density, found)
        missing = ~(value.isfinite() & grad.reshape((*value.shape, -1)).isfinite().all(-1))
        if not missing.any():  # once per round, before sampling
            return found
    raise ValueError(
        f"{int(missing.sum())} of {missing.numel()} chains found no start of finite log density "
        f"and gradient within {radius} of the origin: check the target there, or start elsewhere"
    )
