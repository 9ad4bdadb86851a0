"""How the trajectory of the no-U-turn sampler grows."""

from typing import NamedTuple

import torch
from torch import Tensor

from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import over_event
from lv_core.kernels.leapfrog import dot, drift, kick
from lv_core.kernels.tree import CHUNK, Candidate, Tally, Turns, pick

__all__ = ["End", "Trajectory", "Uniforms", "turned"]


class End(NamedTuple):
    """Position, momenta and gradient at an end of a trajectory."""

    u: Tensor
    p: Tensor
    grad: Tensor


class Uniforms:
    """Hands out the uniform numbers of a transition, one for each chain at a time."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._taken = 0

    def take(self) -> Tensor:
        """Returns the next number of each chain, shape `(*batch,)`."""
        self._taken += 1
        return self._numbers[..., self._taken - 1]


class Trajectory(NamedTuple):
    """What stays the same while a trajectory grows."""

    log_density: LogDensity
    step_size: float | Tensor
    temperature: float
    base: Tensor
    """log joint density at the start"""
    limit: float
    """largest energy error"""
    axes: tuple[int, ...]
    """axes of the event"""
    tally: Tally
    """counts the leaves"""
    clone: bool
    """whether the target reuses the tensors it returns"""

    def grow(
        self, end: End, active: Tensor, leaves: int, v: Uniforms
    ) -> tuple[End, Tensor, Tensor, Candidate, Tensor] | None:
        """Adds a subtree of `leaves` leapfrog steps at `end`.

        Returns:
            The new end, the momenta of the first leaf, the sum of the momenta, a candidate drawn
            from the leaves, and the chains whose subtree is valid; None if there is none.
        """
        (u, p, grad), first = end, end.p
        turns, points = Turns(self.axes), list[Candidate]()
        for n in range(leaves):
            p = kick(p, grad, self.step_size)
            moved = drift(u, p, self.step_size)
            # Finished chains stay where they are: the target never sees a non-finite point.
            u = torch.where(over_event(active, u), moved, u)
            value, grad, parts = value_and_grad(self.log_density, u)
            if self.clone:  # buffers of the next evaluation
                value, grad = value.clone(), grad.clone()
                parts = {name: part.clone() for name, part in parts.items()}
            p = kick(p, grad, self.step_size)
            log_weight = torch.sub(value, dot(p, p, self.axes), alpha=0.5) - self.base
            if self.temperature != 1.0:
                log_weight = log_weight / self.temperature
            self.tally.add(log_weight, active)
            # False for NaN, which a non-finite gradient also leads to; +inf is left for the end.
            active = active & (log_weight >= -self.limit)
            if n == 0:
                first = p
            straight_on = turns.add(p)
            if straight_on is not None:
                active = active & straight_on
            if not bool(active.any()):  # waits for the device
                return None
            points.append(Candidate(log_weight, -log_weight, value, u, grad, parts))
            if (n + 1) % CHUNK == 0 or n + 1 == leaves:
                points = [pick(points, v.take())]
        assert turns.total is not None
        (candidate,) = points
        # A value of +inf, though no divergence, makes the weight of the subtree infinite.
        active = active & (candidate.log_weight < torch.inf)
        return End(u, p, grad), first, turns.total, candidate, active


def turned(flip: Tensor, front: End, back: End, rho: Tensor) -> tuple[End, End, Tensor]:
    """Returns the ends with their roles exchanged, and time reversed, where `flip`.

    With time reversed the trajectory grows forward at either end, so the step size keeps its sign.
    """
    mask = over_event(flip, rho)
    if front is back:
        p = torch.where(mask, -front.p, front.p)
        end = End(front.u, p, front.grad)
        return end, end, p
    new_front = End(
        torch.where(mask, back.u, front.u),
        torch.where(mask, -back.p, front.p),
        torch.where(mask, back.grad, front.grad),
    )
    new_back = End(
        torch.where(mask, front.u, back.u),
        torch.where(mask, -front.p, back.p),
        torch.where(mask, front.grad, back.grad),
    )
    return new_front, new_back, torch.where(mask, -rho, rho)
