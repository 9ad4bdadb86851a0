"""Unadjusted Langevin dynamics, and its noise-free limit."""

import math
from dataclasses import dataclass
from typing import ClassVar

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
from lv_core.random import Source, normal
from lv_core.schedule import at

__all__ = ["GradientStep", "Langevin"]


@dataclass(frozen=True, kw_only=True)
class Langevin(Kernel):
    """Unadjusted Langevin dynamics: `u' = u + s^2/2 grad log p(u) + sqrt(temperature) s eps`.

    One evaluation per step, of the position the step starts from; the last position is not
    evaluated. A chain whose value or gradient is not finite goes back to the last position where
    both were, stays there and is counted; `DivergenceError` is raised at the end of a call when
    their share exceeds `max_bad`.

    Short chains are a finite-step generator, not posterior samples: along flat directions twenty
    steps of 0.1 hardly leave the start. On N(0, sigma^2 I) the stationary variance is
    `temperature sigma^2 / (1 - s^2 / (4 sigma^2))`, and the chain is stable iff `s < 2 sigma`.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Roberts and Tweedie, "Exponential convergence of Langevin distributions and their
        discrete approximations", 1996; short-run use: Nijkamp et al., 2019.

    Example:
        >>> kernel = Langevin(steps=60, step_size=0.4)
        >>> z = kernel(lambda z: -0.5 * z.square().sum(-1), torch.randn(256, 64))
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """s: drift s^2/2, noise s; codes with drift h and noise sqrt(2h) have h = s^2/2"""
    temperature: Temperature = 1.0
    """variance factor of the noise; 0 is gradient ascent; a code's noise factor c is c^2"""
    clip: float | None = None
    """largest norm of one chain's gradient; None leaves it alone"""
    max_bad: float = 0.1
    """tolerated share of non-finite chains"""

    steps_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, self.clip, max_bad=self.max_bad)
        check_positive("temperature", self.temperature, allow_zero=True)

    @classmethod
    def from_noise_factor(
        cls, *, steps: int, step_size: StepSize, noise_factor: float, clip: float | None = None
    ) -> "Langevin":
        """Returns the kernel whose noise is `noise_factor * s * eps`, i.e. temperature c^2."""
        return cls(steps=steps, step_size=step_size, temperature=noise_factor**2, clip=clip)

    @classmethod
    def from_eta(cls, *, steps: int, eta: float, temperature: float = 1.0) -> "Langevin":
        """Returns the kernel with drift `eta grad` and noise `sqrt(2 eta)`: s = sqrt(2 eta)."""
        check_positive("eta", eta)
        return cls(steps=steps, step_size=(2.0 * eta) ** 0.5, temperature=temperature)

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
        drifted, here, mask, info = _drift(log_density, state, s, self.clip)
        if noise_scale > 0:
            eps = normal(drifted, generator)
            if isinstance(s, Tensor):
                drifted.add_(s * eps, alpha=noise_scale)
            else:
                drifted.add_(eps, alpha=s * noise_scale)
        return _advance(state, here, drifted, mask, info), info


@dataclass(frozen=True, kw_only=True)
class GradientStep(Kernel):
    """Gradient ascent `u' = u + s^2/2 grad log p(u)`: Langevin dynamics without noise.

    Kept as a kernel of its own because three papers move in two stages, a Langevin step on one
    part of the target and a noise-free one on another.
    """

    steps: int = 1
    """number of steps"""
    step_size: StepSize
    """s: the gradient is multiplied by s^2/2, as in `Langevin`"""
    clip: float | None = None
    """largest norm of one chain's gradient; None leaves it alone"""
    max_bad: float = 0.1
    """tolerated share of non-finite chains"""

    steps_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, self.clip, max_bad=self.max_bad)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state one step up the gradient; draws nothing."""
        s = resolve_step_size(self.step_size, state.step, state.u)
        drifted, here, mask, info = _drift(log_density, state, s, self.clip)
        return _advance(state, here, drifted, mask, info), info


def check_settings(
    steps: int, step_size: StepSize, clip: float | None = None, *, max_bad: float = 0.1
) -> None:
    """Raises a ValueError that names the first setting out of range."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    check_positive("step_size", step_size)
    if clip is not None:
        check_positive("clip", clip)
    if not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad must be a share in [0, 1], got {max_bad}")


def _drift(
    log_density: LogDensity, state: ChainState, step_size: float | Tensor, clip: float | None
) -> tuple[Tensor, Tensor, Tensor | None, StepInfo]:
    """Evaluates the target at the state and moves along the gradient.

    Returns:
        The new positions (a fresh tensor that the caller may change in place), the positions they
        started from, with non-finite chains put back, the mask of chains that must stay there
        (None = no such chain), and the report of the step.
    """
    # Autocast may run the target in bfloat16; positions and their arithmetic keep their dtype.
    value, grad, parts = value_and_grad(log_density, state.u)
    axes = event_axes(state.u, value)
    norm = torch.linalg.vector_norm(grad, dim=axes) if axes else grad.abs()
    bad = _mark_bad(value, norm, state.bad)
    here, mask = state.u, None if bad is None else over_event(bad, grad)
    if mask is not None:
        grad = torch.where(mask, 0.0, grad)
        here = here if state.previous is None else torch.where(mask, state.previous, here)
    clipped = None
    if clip is not None:
        clipped = norm > clip
        grad = grad * over_event((clip / norm.clamp(min=1e-30)).clamp(max=1.0), grad)
    if isinstance(step_size, Tensor):
        moved = here + 0.5 * step_size.square() * grad
    else:
        moved = torch.add(here, grad, alpha=0.5 * step_size**2)
    info = StepInfo(value, norm, bad=bad, clipped=clipped, parts=parts)
    return moved, here, mask, info


def _mark_bad(value: Tensor, norm: Tensor, before: Tensor | None) -> Tensor | None:
    """Returns which chains are bad, now or before; None on the CPU where none ever was."""
    # A non-finite value or gradient anywhere in the event makes this sum non-finite: one test.
    total = value + norm
    on_cpu = total.device.type == "cpu" and not torch.compiler.is_compiling()
    # The usual case on the CPU takes two small operations instead of five: the sum over chains is
    # finite. It may also overflow, which only leads to the test of each chain. On a GPU, and in
    # a compiled loop, chains are masked whether needed or not, as asking would synchronise.
    if on_cpu and math.isfinite(total.sum().item()):
        return before
    bad = ~torch.isfinite(total)
    return bad if before is None else bad | before


def _advance(
    state: ChainState, here: Tensor, moved: Tensor, mask: Tensor | None, info: StepInfo
) -> ChainState:
    if mask is not None:
        moved = torch.where(mask, here, moved)
    return ChainState(u=moved, previous=here, bad=info.bad, step=state.step + 1, extra=state.extra)
