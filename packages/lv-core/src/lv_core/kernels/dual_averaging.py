"""Dual averaging of a log step size."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["DualAveraging"]

# Constants of the paper, section 3.2: shrinkage to the center, stabilisation of the first steps,
# the exponent of the weights of the average, and how far the center lies above the first step.
_GAMMA, _OFFSET, _KAPPA, _AHEAD = 0.05, 10.0, 0.75, 10.0


@dataclass(frozen=True, kw_only=True)
class DualAveraging:
    """A step size, or one for each chain, on its way to a target acceptance.

    With error e_t = e_{t-1} + (target - accept - e_{t-1}) / (t + 10), the step size to use next
    is `log s_t = center - sqrt(t) e_t / gamma`, and the one to keep in the end is the average
    `t^(-0.75) log s_t + (1 - t^(-0.75)) log average`.

    The constants of the paper, gamma 0.05 and a center ten times the first step size, are made
    for the noisy acceptance of one chain. The mean over many chains has little noise, and the
    same gain makes the step size swing between far too large and far too small. With n chains
    gamma is 0.05 f and the center 10^(1/f) times the first step size, f = min(4, sqrt(n)).

    Source:
        Hoffman and Gelman, "The no-U-turn sampler", 2014, section 3.2.
    """

    log_step: Tensor
    """of the step size to use next, shape `()` or `(*batch,)`"""
    log_average: Tensor
    """of the step size to keep"""
    error: Tensor
    """weighted mean of target - accept"""
    center: Tensor
    """log step size to which early iterations are drawn"""
    gamma: float = _GAMMA
    """shrinkage to the center; larger moves the step size less"""
    count: int = 0
    """updates done"""

    @classmethod
    def start(cls, log_step: Tensor, *, chains: int = 1) -> "DualAveraging":
        """Returns the state before the first update.

        Arguments:
            log_step: Logarithm of the first step size.
            chains: Number of chains over which each acceptance will be averaged.
        """
        factor = min(4.0, math.sqrt(chains))
        return cls(
            log_step=log_step,
            log_average=log_step,
            error=torch.zeros_like(log_step),
            center=log_step + math.log(_AHEAD) / factor,
            gamma=_GAMMA * factor,
        )

    def update(self, accept: Tensor, target: float) -> "DualAveraging":
        """Returns the state after an observed acceptance, shaped like the step size."""
        t = self.count + 1
        share = 1.0 / (t + _OFFSET)
        error = (1.0 - share) * self.error + share * (target - accept)
        log_step = self.center - (math.sqrt(t) / self.gamma) * error
        weight = t**-_KAPPA
        average = weight * log_step + (1.0 - weight) * self.log_average
        return replace(self, log_step=log_step, log_average=average, error=error, count=t)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
