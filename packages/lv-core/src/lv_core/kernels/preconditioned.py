"""Langevin dynamics whose step sizes adapt to each component, as in RMSProp."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import (
    Kernel,
    StepSize,
    Temperature,
    check_positive,
    event_axes,
    over_event,
    resolve_step_size,
)
from lv_core.kernels.langevin import check_settings
from lv_core.random import Source, normal
from lv_core.schedule import at

__all__ = ["Psgld"]

SECOND_MOMENT = "second_moment"


@dataclass(frozen=True, kw_only=True)
class Psgld(Kernel):
    """Unadjusted Langevin dynamics with a diagonal preconditioner from running squared gradients.

    V' = V + w (grad^2 - V),  P = 1 / (epsilon + sqrt(V')),
    u' = u + s^2/2 P grad log p(u) + sqrt(temperature) s sqrt(P) eps

    V starts at one, which counts like one gradient: the weight `w = (1 - decay) /
    (1 - decay^(k+2))` at step k makes V the exponential average of that one and all squares seen.
    So the first steps are near those of `Langevin`, and no component leaps because its first
    gradient happens to be small. `decay=1` is the plain average of all steps. V is kept for each
    chain and component in `state.extra["second_moment"]`.

    While V moves the stationary law is not the target: P depends on the position through V, and
    the drift lacks the derivative of P, the term Gamma of the source, which takes second
    derivatives and is dropped here as in common practice. How much this matters depends on the
    memory of V. With none (`decay=0`) and small steps the chain samples a density proportional to
    `p(u) (epsilon + |grad log p(u)|)` in one dimension, far from p; the longer the memory beside
    the mixing time, the less. Therefore `warmup`: after that many steps V stays as it is, and the
    kernel is `Langevin` with the step sizes `s sqrt(P)`, which has that kernel's error and no
    other. With `decay=1` the adaptation fades by itself.

    Near the target sqrt(V) is about the inverse scale of a component, so the steps s sqrt(P) grow
    with the root of the scale: the range of scales is narrowed to its root, not removed.

    Non-finite values are treated as in `Langevin`.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Li, Chen, Carlson and Carin, "Preconditioned stochastic gradient Langevin dynamics for deep
        neural networks", 2016.

    Example:
        >>> kernel = Psgld(steps=500, step_size=0.1, warmup=250)
        >>> z = kernel(log_density, torch.randn(256, 64))
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """s: the step sizes of `Langevin` are s sqrt(P)"""
    decay: float = 0.99
    """share of V that is kept, from 0 (the newest square alone) to 1 (the average of all)"""
    epsilon: float = 1e-5
    """added to sqrt(V), in units of the gradient; bounds P by 1 / epsilon"""
    warmup: int | None = None
    """steps done before V is fixed; None = V never is"""
    temperature: Temperature = 1.0
    """variance factor of the noise; 0 is RMSProp without noise"""
    max_bad: float = 0.1
    """tolerated share of non-finite chains"""

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, max_bad=self.max_bad)
        check_positive("epsilon", self.epsilon)
        check_positive("temperature", self.temperature, allow_zero=True)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {self.decay}")
        if self.warmup is not None and self.warmup < 1:
            raise ValueError(f"warmup must be at least 1 step, or None, got {self.warmup}")

    def preconditioner(self, state: ChainState) -> Tensor:
        """Returns P as the last step used it, shape `(*batch, *event)`.

        Raises:
            ValueError: If no step has been done.
        """
        if SECOND_MOMENT not in state.extra:
            raise ValueError("the state has seen no gradient: do at least one step of Psgld first")
        return 1 / (self.epsilon + state.extra[SECOND_MOMENT].sqrt())

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state one step on; see the class for the update."""
        s = resolve_step_size(self.step_size, state.step, state.u)
        noise_scale = at(self.temperature, state.step) ** 0.5
        value, grad, parts = value_and_grad(log_density, state.u)
        axes = event_axes(state.u, value)
        norm = torch.linalg.vector_norm(grad, dim=axes) if axes else grad.abs()
        bad = ~torch.isfinite(value + norm)
        bad = bad if state.bad is None else bad | state.bad
        mask = over_event(bad, grad)
        grad = torch.where(mask, 0.0, grad)
        here = state.u
        here = here if state.previous is None else torch.where(mask, state.previous, here)
        second = self._second_moment(grad, state, mask)
        root = s * (self.epsilon + second.sqrt()).rsqrt()
        moved = here + 0.5 * root.square() * grad
        if noise_scale > 0:
            moved = moved + noise_scale * root * normal(moved, generator)
        info = StepInfo(value, norm, bad=bad, parts=parts)
        return ChainState(
            u=torch.where(mask, here, moved),
            previous=here,
            bad=bad,
            step=state.step + 1,
            extra={**state.extra, SECOND_MOMENT: second},
        ), info

    def _second_moment(self, grad: Tensor, state: ChainState, mask: Tensor) -> Tensor:
        before = state.extra.get(SECOND_MOMENT, torch.ones_like(grad))
        if self.warmup is not None and state.step >= self.warmup:
            return before
        n = state.step + 2
        weight = 1 / n if self.decay == 1 else (1 - self.decay) / (1 - self.decay**n)
        return torch.where(mask, before, torch.lerp(before, grad.square(), weight))
