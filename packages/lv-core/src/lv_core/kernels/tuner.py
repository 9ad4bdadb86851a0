"""Tuning of step sizes and scales, one step at a time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity
from lv_core.kernels.base import Kernel, over_event, retuned
from lv_core.kernels.cache import cached
from lv_core.kernels.dual_averaging import DualAveraging
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.mala import Mala
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.step_search import search_step_size
from lv_core.kernels.welford import Moments
from lv_core.kernels.windows import slow_windows
from lv_core.random import Source, normal
from lv_core.schedule import at

__all__ = ["Adaptation", "AdaptationState", "default_accept"]

# A chain whose last proposals were all non-finite is stuck and says nothing about step sizes.
_STUCK = 10
# Weight, in positions, of the old scale in the new one.
_PRIOR = 5.0


@dataclass(frozen=True, kw_only=True)
class AdaptationState:
    """Everything an adaptation needs to go on; a plain record, hence a checkpoint."""

    chains: ChainState
    """where the chains are"""
    averaging: DualAveraging
    """the step size that multiplies the scale"""
    moments: Moments
    """of the positions in the current window"""
    scale: Tensor
    """factor of each component, shaped like the event"""
    failures: Tensor
    """non-finite proposals in a row, shape `(*batch,)`"""
    step: int = 0
    """steps done"""

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        return {
            "chains": self.chains.state_dict(),
            "averaging": self.averaging.state_dict(),
            "moments": self.moments.state_dict(),
            "scale": self.scale,
            "failures": self.failures,
            "step": self.step,
        }

    @classmethod
    def from_state_dict(cls, record: dict[str, Any]) -> "AdaptationState":
        """Returns the state saved by `state_dict`."""
        return cls(
            chains=ChainState.from_state_dict(record["chains"]),
            averaging=DualAveraging(**record["averaging"]),
            moments=Moments(**record["moments"]),
            scale=record["scale"],
            failures=record["failures"],
            step=record["step"],
        )


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Dual averaging of the step size and learning of scales, one step at a time.

    Step size = a scalar (one for all chains, or one for each) times a scale for each component,
    the standard deviation of all positions in a window: a diagonal mass matrix. Phases as in
    Stan: step size alone, windows that double with new scales after each, step size alone. The
    positions of all chains are pooled, so that with dozens of chains windows start at 10 steps.
    Towards the old scale a new one is shrunk in logarithms, with the weight of five positions,
    which has no preferred unit.

    Left out of all pooled statistics are chains that are frozen, that never moved in the window,
    or whose last ten proposals were non-finite.

    Chains tied to different data have different targets: pooled scales then measure the spread
    of the data as well. Use `per_chain=True, scale=False` for them.

    Raises:
        ValueError: If a setting is out of range, the step size is a schedule, or no target
            acceptance is given for a kernel that has no default.

    Source:
        Hoffman and Gelman, "The no-U-turn sampler", 2014; windows: Stan reference manual, section
        on automatic parameter tuning.
    """

    kernel: Kernel
    """kernel with a `step_size` that caches value and gradient and reports acceptance"""
    steps: int = 1000
    """number of steps"""
    target_accept: float | None = None
    """acceptance to reach; None = `default_accept(kernel)`"""
    scale: bool = True
    """whether to learn a scale for each component"""
    per_chain: bool = False
    """whether each chain has its own scalar; else the mean acceptance of the ensemble counts"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        target = self.target_accept
        if target is None:
            default_accept(self.kernel)
        elif not 0 < target < 1:
            raise ValueError(f"target_accept must lie in (0, 1), got {target}")
        if not isinstance(getattr(self.kernel, "step_size", None), float | int | Tensor):
            raise ValueError(
                "kernel must have a step_size that is a number or a tensor, to start from; got "
                f"{self.kernel!r}"
            )

    def init(
        self, log_density: LogDensity, u: Tensor | ChainState, *, generator: Source = None
    ) -> AdaptationState:
        """Returns the state before the first step, with a step size found by doubling.

        Raises:
            ValueError: If a chain starts where the log density or gradient is not finite.
        """
        chains = self._chains(log_density, u)
        position, value, _ = cached(chains, type(self.kernel).__name__)
        given = torch.as_tensor(getattr(self.kernel, "step_size")).to(position)  # noqa: B009
        if given.ndim > position.ndim - value.ndim:
            raise ValueError(
                f"step_size has shape {tuple(given.shape)}, which has an axis of chains; start "
                "from a number or one value for each component"
            )
        scale = given.expand(position.shape[value.ndim :])
        middle = scale.log().mean()
        shape = value.shape if self.per_chain else ()
        state = AdaptationState(
            chains=chains,
            averaging=DualAveraging.start(middle.expand(shape).clone()),
            moments=Moments.start(position),
            scale=scale / middle.exp(),
            failures=torch.zeros_like(value, dtype=torch.int64),
        )
        return self._searched(log_density, state, generator)

    def step(
        self, log_density: LogDensity, state: AdaptationState, *, generator: Source = None
    ) -> tuple[AdaptationState, StepInfo]:
        """Returns the state after one step of the kernel and of the adaptation.

        Raises:
            ValueError: If the kernel reports no acceptance.
        """
        averaging = state.averaging
        kernel = retuned(
            self.kernel, step_size=_step_size(averaging.log_step, state.scale, state.chains.u)
        )
        chains, info = kernel.step(log_density, state.chains, generator=generator)
        if info.accept is None or info.bad is None:
            raise ValueError(
                f"{type(kernel).__name__} reports no acceptance, so there is nothing to adapt to: "
                "use Mala, Hmc or Nuts"
            )
        failures = torch.where(info.bad, state.failures + 1, 0)
        state = replace(state, chains=chains, failures=failures, step=state.step + 1)
        target = self.target_accept
        goal = default_accept(self.kernel) if target is None else target
        accept = self._reduced(info.accept, _usable(state))
        state = replace(state, averaging=averaging.update(accept, goal))
        if not self.scale:
            return state, info
        first, ends = slow_windows(self.steps, failures.numel())
        if first < state.step <= self.steps and ends and state.step <= ends[-1]:
            state = replace(state, moments=state.moments.add(chains.u))
        if state.step in ends:
            state = self._searched(log_density, _rescaled(state), generator)
        return state, info

    def tuned(self, state: AdaptationState) -> Kernel:
        """Returns the kernel with the step size found so far, frozen.

        A number if there is one step size for all, else a tensor `(*event)` or
        `(*batch, *event)`.
        """
        log_step = state.averaging.log_average
        size: float | Tensor = _step_size(log_step, state.scale, state.chains.u)
        if log_step.ndim == 0 and bool((state.scale == state.scale.flatten()[0]).all()):
            size = (log_step.exp() * state.scale.flatten()[0]).item()
        settings: dict[str, Any] = {"step_size": size}
        return replace(self.kernel, **settings)

    def _chains(self, log_density: LogDensity, u: Tensor | ChainState) -> ChainState:
        if isinstance(u, Tensor):
            return self.kernel.init(log_density, u)
        return self.kernel.refresh(log_density, u)

    def _reduced(self, accept: Tensor, usable: Tensor) -> Tensor:
        """Returns the acceptance of each chain, or the mean over the usable ones."""
        if self.per_chain:
            return accept
        some = usable.any()
        counted = torch.where(usable, accept, 0.0).sum() / usable.sum().clamp(min=1)
        return torch.where(some, counted, accept.mean())

    def _searched(
        self, log_density: LogDensity, state: AdaptationState, generator: Source
    ) -> AdaptationState:
        usable = _usable(state)

        def median(accept: Tensor) -> Tensor:
            # Unlike a mean it can be reached whatever less than half of the chains do.
            kept = accept[usable]
            return (kept if kept.numel() else accept).median()

        log_step = search_step_size(
            log_density,
            state.chains,
            state.averaging.log_average,
            state.scale,
            normal(state.chains.u, generator),
            temperature=at(getattr(self.kernel, "temperature", 1.0), state.chains.step),
            reduce=(lambda accept: accept) if self.per_chain else median,
        )
        chains = 1 if self.per_chain else state.failures.numel()
        return replace(state, averaging=DualAveraging.start(log_step, chains=chains))


def default_accept(kernel: Kernel) -> float:
    """Returns the acceptance that is best for a kernel: 0.574 Mala, 0.651 Hmc, 0.8 Nuts.

    Raises:
        ValueError: If no such number is known.

    Source:
        Roberts and Rosenthal, 1998 (Langevin proposals); Beskos et al., "Optimal tuning of the
        hybrid Monte Carlo algorithm", 2013; 0.8: Stan's default.
    """
    for kind, accept in ((Mala, 0.574), (Hmc, 0.651), (Nuts, 0.8)):
        if isinstance(kernel, kind):
            return accept
    raise ValueError(
        f"no target acceptance is known for {type(kernel).__name__}: give target_accept"
    )


def _step_size(log_step: Tensor, scale: Tensor, u: Tensor) -> Tensor:
    return over_event(log_step.exp(), u) * scale if log_step.ndim else log_step.exp() * scale


def _usable(state: AdaptationState) -> Tensor:
    usable = state.failures < _STUCK
    bad = state.chains.bad
    return usable if bad is None else usable & ~bad


def _rescaled(state: AdaptationState) -> AdaptationState:
    """Returns the state with the scales of the window that has ended, and a new window."""
    variance, n = state.moments.pooled(_usable(state))
    share = n / (n + _PRIOR)
    wanted = share * 0.5 * variance.log() + (1 - share) * state.scale.log()
    scale = torch.where((variance > 0) & torch.isfinite(variance), wanted.exp(), state.scale)
    # The search goes on from steps of the same length.
    shift = (state.scale.log() - scale.log()).mean()
    log_step = state.averaging.log_average + shift
    return replace(
        state,
        averaging=DualAveraging.start(log_step),
        moments=Moments.start(state.chains.u),
        scale=scale,
    )
