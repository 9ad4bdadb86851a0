"""A step size for each chain that follows its acceptance for ever."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity
from lv_core.kernels.base import Kernel, over_event, resolve_step_size, retuned
from lv_core.kernels.tuner import default_accept
from lv_core.random import Source

__all__ = ["FACTOR", "OnlineStepSize"]

FACTOR = "log_step_factor"
"""Name in `ChainState.extra` of the logarithm of each chain's factor, shape `(*batch,)`."""


@dataclass(frozen=True, kw_only=True)
class OnlineStepSize(Kernel):
    """A kernel whose step size follows each chain: `log f += rate (accept - target)`, clamped.

    The step size of a chain is its factor f times the inner kernel's. The factor is part of the
    chain's state, so chains that persist over a training run (one for each data item) keep their
    own, which is also a diagnostic: it falls where the posterior becomes stiff.

    For learning and for point inference only. The rate does not vanish, so the kernel goes on
    depending on the past and its chains do not sample the target exactly; before collecting
    samples, freeze the factors with `frozen`.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> kernel = OnlineStepSize(kernel=Mala(steps=20, step_size=0.1))
        >>> state = kernel.run(posterior, u, generator=generator).state
        >>> exact = kernel.frozen(state).run(posterior, state, steps=500, thin=1)
    """

    kernel: Kernel
    """kernel with a `step_size` that reports acceptance"""
    steps: int = 1
    """number of steps; the inner kernel's own is not used"""
    rate: float = 0.3
    """change of log f per unit of acceptance"""
    target_accept: float | None = None
    """acceptance to follow; None = `default_accept(kernel)`"""
    smallest: float = 1e-4
    """lower bound of the factor"""
    largest: float = 1e4
    """upper bound of the factor"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if self.target_accept is None:
            default_accept(self.kernel)
        elif not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie in (0, 1), got {self.target_accept}")
        if not hasattr(self.kernel, "step_size"):
            raise ValueError(f"kernel must have a step_size to multiply, got {self.kernel!r}")
        if not 0 < self.smallest <= 1 <= self.largest:
            raise ValueError(
                "the bounds of the factor must enclose its start, one: got smallest "
                f"{self.smallest} and largest {self.largest}"
            )

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the inner kernel's state at `u`, all factors one.

        Raises:
            ValueError: If a chain starts where the log density or gradient is not finite, or the
                inner kernel caches no value.
        """
        return self._with_factor(self.kernel.init(log_density, u), None)

    def refresh(self, log_density: LogDensity, state: ChainState) -> ChainState:
        """Returns `state` with the inner kernel's caches renewed; the factors are kept."""
        return self._with_factor(self.kernel.refresh(log_density, state), state.extra.get(FACTOR))

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after a step of the inner kernel and of the factors.

        `info.stats` also holds "step_factor", the factors that the step used.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`, or the inner kernel
                reports no acceptance.
        """
        if FACTOR not in state.extra:
            raise ValueError(
                "the state holds no step factors: make it by OnlineStepSize.init or "
                "OnlineStepSize.refresh"
            )
        log_factor = state.extra[FACTOR]
        moved, info = self._scaled(state, log_factor).step(log_density, state, generator=generator)
        if info.accept is None:
            raise ValueError(f"{type(self.kernel).__name__} reports no acceptance to follow")
        target = self.target_accept
        goal = default_accept(self.kernel) if target is None else target
        changed = (log_factor + self.rate * (info.accept - goal)).clamp(
            math.log(self.smallest), math.log(self.largest)
        )
        if state.bad is not None:
            changed = torch.where(state.bad, log_factor, changed)
        stats = {**info.stats, "step_factor": log_factor.exp()}
        moved = replace(moved, extra={**moved.extra, FACTOR: changed})
        return moved, info._replace(stats=stats)

    def frozen(self, state: ChainState) -> Kernel:
        """Returns the inner kernel with each chain's present step size: an exact kernel again.

        Raises:
            KeyError: If the state holds no factors.
        """
        return self._scaled(state, state.extra[FACTOR])

    def _scaled(self, state: ChainState, log_factor: Tensor) -> Kernel:
        size = resolve_step_size(getattr(self.kernel, "step_size"), state.step, state.u)  # noqa: B009
        return retuned(self.kernel, step_size=over_event(log_factor.exp(), state.u) * size)

    def _with_factor(self, state: ChainState, log_factor: Tensor | None) -> ChainState:
        if state.log_density is None:
            raise ValueError(
                f"{type(self.kernel).__name__} caches no value and has no acceptance to follow: "
                "use Mala, Hmc or Nuts"
            )
        kept = torch.zeros_like(state.log_density) if log_factor is None else log_factor
        return replace(state, extra={**state.extra, FACTOR: kept})
