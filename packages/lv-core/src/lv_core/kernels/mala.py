"""The Metropolis-adjusted Langevin algorithm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import (
    PART,
    Kernel,
    StepSize,
    Temperature,
    check_positive,
    event_axes,
    over_event,
    resolve_step_size,
)
from lv_core.kernels.cache import cached, checked_start
from lv_core.kernels.langevin import check_settings
from lv_core.random import Source, normal, uniform
from lv_core.schedule import at

__all__ = ["Mala"]


@dataclass(frozen=True, kw_only=True)
class Mala(Kernel):
    """Langevin proposals accepted by the Metropolis-Hastings rule: exact at any step size.

    The proposal is `u' = u + s^2/2 grad log p(u) + sqrt(temperature) s eps`, the target
    `p^(1/temperature)`, which that proposal leaves nearly invariant. Value and gradient are
    cached: one evaluation per step. A proposal with a non-finite value or gradient is rejected.

    Raises:
        ValueError: If a setting is out of range, or the start has a non-finite log density.

    Source:
        Roberts and Tweedie, 1996; Roberts and Rosenthal, "Optimal scaling of discrete
        approximations to Langevin diffusions", 1998 (acceptance 0.574).
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """s, as in `Langevin`"""
    temperature: Temperature = 1.0
    """the target is p^(1/temperature)"""

    steps_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, None)
        check_positive("temperature", self.temperature)

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the state at `u` with value and gradient.

        Raises:
            ValueError: If a chain starts where the log density or gradient is not finite.
        """
        return checked_start(log_density, u)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one proposal; `info.accept` is the acceptance probability.

        `info.bad` marks proposals that were rejected for a non-finite value or gradient.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`.
        """
        u, value, grad = cached(state, "Mala")
        s = resolve_step_size(self.step_size, state.step, u)
        temperature = at(self.temperature, state.step)
        axes = event_axes(u, value)
        eps = normal(u, generator)
        drift, scale = 0.5 * s**2, temperature**0.5 * s
        proposal = u + drift * grad + scale * eps
        new_value, new_grad, new_parts = value_and_grad(log_density, proposal)
        # The reverse move's noise: (u - proposal - drift new_grad) / scale.
        reverse = (u - proposal - drift * new_grad) / scale
        log_ratio = (new_value - value) / temperature
        log_ratio = log_ratio + 0.5 * (_total(eps.square(), axes) - _total(reverse.square(), axes))
        finite = _finite(new_value, new_grad) & torch.isfinite(log_ratio)
        accept = torch.where(finite, log_ratio.clamp(max=0.0).exp(), 0.0)
        taken = uniform(value.shape, u, generator) < accept
        if state.bad is not None:  # frozen by another kernel of a sequence
            taken = taken & ~state.bad
        mask = over_event(taken, u)
        parts = {name: state.extra[PART + name] for name in new_parts}
        moved = {PART + n: torch.where(taken, new, parts[n]) for n, new in new_parts.items()}
        info = StepInfo(
            value, _total(grad.square(), axes).sqrt(), accept=accept, bad=~finite, parts=parts
        )
        return ChainState(
            u=torch.where(mask, proposal, u),
            log_density=torch.where(taken, new_value, value),
            grad=torch.where(mask, new_grad, grad),
            previous=state.previous,
            bad=state.bad,
            step=state.step + 1,
            extra={**state.extra, **moved},
        ), info


def _total(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.sum(dim=axes) if axes else x


def _finite(value: Tensor, grad: Tensor) -> Tensor:
    axes = event_axes(grad, value)
    ok = torch.isfinite(grad)
    return torch.isfinite(value) & (ok.all(dim=axes) if axes else ok)
