"""Underdamped Langevin dynamics: positions with momentum, friction and noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

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
from lv_core.kernels.cache import evaluate_state
from lv_core.kernels.langevin import check_settings
from lv_core.random import Source, normal
from lv_core.schedule import at

__all__ = ["Underdamped"]

MOMENTUM = "momentum"


@dataclass(frozen=True, kw_only=True)
class Underdamped(Kernel):
    """Langevin dynamics with momentum, by the splittings BAOAB or OBABO; unadjusted.

    du = p dt,  dp = grad log p(u) dt - friction p dt + sqrt(2 friction temperature) dW

    With time step h the splittings are made of three moves:

    - A: `u' = u + t p`, t = h/2 twice (BAOAB) or h once (OBABO)
    - B: `p' = p + h/2 grad log p(u)`
    - O: `p' = c p + sqrt(temperature (1 - c^2)) eps`, c = exp(-friction h) (BAOAB, once a step)
      or exp(-friction h / 2) (OBABO, at both ends of it)

    One evaluation per step, as value and gradient are cached. The mass is one: another mass for
    a component is another step size for it. On N(0, 1) BAOAB has the position variance
    `temperature` whatever h, and the momentum variance `temperature (1 - h^2 / 4)`; OBABO has
    `temperature / (1 - h^2 / 4)` and `temperature`. Both are stable iff h is below twice the
    smallest standard deviation. With infinite friction OBABO is `Langevin` with step size h, and
    BAOAB is the same with the noise of each step averaged with that of the step before.

    The momentum is no argument: the first step from a state without one draws it afresh (its
    first O has c = 0), which costs no draw of its own; the half step of BAOAB before that O
    starts at rest. From then on the momentum lies in `state.extra["momentum"]`. BAOAB draws
    one normal tensor a step and OBABO two.

    A move to a non-finite value or gradient is not made: the chain stays at its last finite
    position, is marked and never moves again; `DivergenceError` is raised at the end of a call
    when their share exceeds `max_bad`. `info.stats["kinetic"]` is `|p|^2 / 2` after the step.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for
        molecular sampling", 2013 (BAOAB); Bussi and Parrinello, "Accurate sampling using Langevin
        dynamics", 2007 (OBABO).

    Example:
        >>> kernel = Underdamped(steps=100, step_size=0.3, friction=1.0)
        >>> z = kernel(lambda z: -0.5 * z.square().sum(-1), torch.randn(256, 64))
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """h, the time step; one `Langevin` step of size s takes the time s^2 / 2 instead"""
    friction: float = 1.0
    """rate at which momentum is forgotten, per unit of time; infinity draws it anew each step"""
    temperature: Temperature = 1.0
    """the target is p^(1/temperature); 0 is a damped descent without noise"""
    scheme: Literal["baoab", "obabo"] = "baoab"
    """order of the moves: BAOAB for exact positions, OBABO for exact momenta"""
    max_bad: float = 0.1
    """tolerated share of non-finite chains"""

    steps_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, max_bad=self.max_bad)
        check_positive("friction", self.friction)
        check_positive("temperature", self.temperature, allow_zero=True)
        if self.scheme not in ("baoab", "obabo"):
            raise ValueError(f"scheme must be 'baoab' or 'obabo', got {self.scheme!r}")

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the state at `u` with value and gradient; the momentum is drawn by `step`."""
        return evaluate_state(log_density, u)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state one time step on.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`.
        """
        if state.log_density is None or state.grad is None:
            raise ValueError(
                "the state holds no value and gradient: make it by Underdamped.init or "
                "Underdamped.refresh"
            )
        u, value, grad = state.u, state.log_density, state.grad
        h = resolve_step_size(self.step_size, state.step, u)
        scale = at(self.temperature, state.step) ** 0.5
        p = state.extra.get(MOMENTUM)
        if self.scheme == "baoab":
            kicked = 0.5 * h * grad if p is None else p + 0.5 * h * grad
            middle = u + 0.5 * h * kicked
            thermal = self._thermostat(None if p is None else kicked, u, h, scale, generator)
            moved = middle + 0.5 * h * thermal
        else:
            thermal = self._thermostat(p, u, 0.5 * h, scale, generator) + 0.5 * h * grad
            moved = u + h * thermal
        new_value, new_grad, new_parts = value_and_grad(log_density, moved)
        momentum = thermal + 0.5 * h * new_grad
        if self.scheme == "obabo":
            momentum = self._thermostat(momentum, u, 0.5 * h, scale, generator)
        axes = event_axes(u, value)
        # Summands that are not all finite have no finite sum: one test for the whole event.
        bad = ~torch.isfinite(value + _total(grad, axes) + new_value + _total(new_grad, axes))
        bad = bad if state.bad is None else bad | state.bad
        mask = over_event(bad, u)
        momentum = torch.where(mask, torch.zeros_like(u) if p is None else p, momentum)
        held = {PART + n: torch.where(bad, state.extra[PART + n], x) for n, x in new_parts.items()}
        info = StepInfo(
            value,
            _total(grad.square(), axes).sqrt(),
            bad=bad,
            parts={n: state.extra[PART + n] for n in new_parts},
            stats={"kinetic": 0.5 * _total(momentum.square(), axes)},
        )
        return ChainState(
            u=torch.where(mask, u, moved),
            log_density=torch.where(bad, value, new_value),
            grad=torch.where(mask, grad, new_grad),
            previous=state.previous,
            bad=bad,
            step=state.step + 1,
            extra={**state.extra, **held, MOMENTUM: momentum},
        ), info

    def _thermostat(
        self, p: Tensor | None, u: Tensor, t: float | Tensor, scale: float, generator: Source
    ) -> Tensor:
        """Returns the momentum after friction and noise for the time `t`; None = a new one."""
        # Drawn at temperature zero as well: the number of draws belongs to the scheme.
        noise = scale * normal(u, generator)
        if p is None or math.isinf(self.friction):
            return noise
        if isinstance(t, Tensor):
            left, new = (-self.friction * t).exp(), (-torch.expm1(-2 * self.friction * t)).sqrt()
            return left * p + new * noise
        new_share = math.sqrt(-math.expm1(-2 * self.friction * t))
        return math.exp(-self.friction * t) * p + new_share * noise


def _total(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.sum(dim=axes) if axes else x
