"""What all kernels share: calling one, and running one with diagnostics."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo, Trace
from lv_core.density import LogDensity
from lv_core.errors import DivergenceError
from lv_core.random import Source
from lv_core.schedule import Schedule, at

__all__ = [
    "PART",
    "Kernel",
    "StepSize",
    "Temperature",
    "check_positive",
    "event_axes",
    "make_trace",
    "over_event",
    "resolve_step_size",
    "retuned",
]

PART = "part/"
"""Prefix of the names in `ChainState.extra` under which parts of a `Sum` are cached."""

StepSize = float | Tensor | Schedule
"""A number, a tensor that broadcasts against `(*batch, *event)` (a step size for each component
or each chain), or a function of the number of steps done."""

Temperature = float | Schedule
"""A number or a function of the number of steps done; T makes the target `p^(1/T)`."""


@dataclass(frozen=True, kw_only=True)
class Kernel(ABC):
    """A Markov kernel as an immutable record of its own settings.

    `kernel(log_density, u)` runs `steps` steps and returns the new positions. `init` and `step`
    are the pieces for composition: state in, state out, the target an argument of each call
    because it changes while a model learns. `run` adds diagnostics and kept positions.
    """

    steps: int

    steps_alike: ClassVar[bool] = False
    """whether a step does the same whatever the number of steps done, schedules apart"""

    @abstractmethod
    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one step, and what the step has to report.

        Arguments:
            log_density: The target, `(*batch, *event) -> (*batch,)`.
            state: Where the chains are.
            generator: Source of all randomness; None = torch's global generator, `Draws` = the
                numbers themselves.
        """

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the state at `u`; kernels that cache value and gradient evaluate here."""
        return ChainState(u=u.detach())

    def refresh(self, log_density: LogDensity, state: ChainState) -> ChainState:
        """Returns `state` with caches renewed, needed after the target has changed.

        Step count, marks of frozen chains and extra tensors are kept.
        """
        fresh = self.init(log_density, state.u)
        return replace(
            fresh,
            previous=state.previous,
            bad=state.bad,
            step=state.step,
            # Parts of another target must not outlive it.
            extra={n: t for n, t in state.extra.items() if not n.startswith(PART)} | fresh.extra,
        )

    def __call__(self, log_density: LogDensity, u: Tensor, *, generator: Source = None) -> Tensor:
        """Returns the positions after `steps` steps from `u`, detached, shaped like `u`.

        Raises:
            DivergenceError: If more than the tolerated share of chains became non-finite.
            ValueError: If the target does not return one value per chain.
        """
        state = self.init(log_density, u)
        for _ in range(self.steps):
            state, _ = self.step(log_density, state, generator=generator)
        self.check(state)
        return state.u

    def check(self, state: ChainState) -> None:
        """Raises if too many chains are marked bad; unadjusted kernels wait for a GPU only here.

        Raises:
            DivergenceError: Names the step and the share.
        """
        limit = getattr(self, "max_bad", 1.0)
        if state.bad is None:
            return
        share = state.bad.float().mean().item()
        if share > limit:
            raise DivergenceError(
                f"{share:.1%} of the chains met a non-finite log density or gradient by step "
                f"{state.step} (tolerated: {limit:.1%}); lower step_size, set clip, or check the "
                "log density at the last positions"
            )

    def run(
        self,
        log_density: LogDensity,
        u: Tensor | ChainState,
        *,
        generator: Source = None,
        steps: int | None = None,
        thin: int | None = None,
        callback: Callable[[int, ChainState, StepInfo], bool | None] | None = None,
    ) -> Trace:
        """Returns the record of a run.

        Arguments:
            log_density: The target.
            u: Start positions, or a state to go on from (its caches are renewed first).
            generator: Source of randomness.
            steps: Number of steps; None = the kernel's own.
            thin: Keep every `thin`-th position; None keeps none.
            callback: Called as `callback(k, state, info)` after step k (from 1); returning True
                stops the run.

        Raises:
            DivergenceError: If too many chains became non-finite.
            ValueError: If `steps` or `thin` is not positive.
        """
        n = self.steps if steps is None else steps
        if n < 1 or (thin is not None and thin < 1):
            raise ValueError(f"steps and thin must be positive, got {steps=}, {thin=}")
        state = self._resume(log_density, u)
        start, kept, infos = state.u, [], []
        for k in range(1, n + 1):
            state, info = self.step(log_density, state, generator=generator)
            infos.append(info)
            if thin is not None and k % thin == 0:
                kept.append(state.u)
            if callback is not None and callback(k, state, info):
                break
        self.check(state)
        return make_trace(state, start, kept, infos, thin=thin)

    def _resume(self, log_density: LogDensity, u: Tensor | ChainState) -> ChainState:
        if isinstance(u, Tensor):
            return self.init(log_density, u)
        return self.refresh(log_density, u)


def make_trace(
    state: ChainState,
    start: Tensor,
    kept: list[Tensor],
    infos: list[StepInfo],
    *,
    thin: int | None,
) -> Trace:
    """Returns the record of a run from its last state, start, kept positions and reports."""

    def stacked(name: str) -> Tensor | None:
        values = [getattr(info, name) for info in infos]
        if all(v is None for v in values):
            return None
        # Where no chain was bad yet, kernels need not say so.
        zeros = torch.zeros_like(next(v for v in values if v is not None))
        return torch.stack([zeros if v is None else v for v in values])

    def named(name: str) -> dict[str, Tensor]:
        records = [getattr(info, name) for info in infos]
        return {key: torch.stack([record[key] for record in records]) for key in records[0]}

    value, norm = torch.stack([i.log_density for i in infos]), stacked("grad_norm")
    assert norm is not None
    moved = (state.u - start).reshape(*value.shape[1:], -1)
    return Trace(
        state=state,
        u=torch.stack(kept) if kept else start.new_empty((0, *start.shape)),
        log_density=value,
        grad_norm=norm,
        accept=stacked("accept"),
        bad=stacked("bad"),
        clipped=stacked("clipped"),
        parts=named("parts"),
        stats=named("stats"),
        displacement=torch.linalg.vector_norm(moved, dim=-1),
        thin=thin,
    )


def event_axes(u: Tensor, value: Tensor) -> tuple[int, ...]:
    """Returns the axes of `u` that belong to the event, given one `value` per chain."""
    return tuple(range(value.ndim, u.ndim))


def over_event(value: Tensor, u: Tensor) -> Tensor:
    """Returns `value` of shape `(*batch,)` with trailing axes, ready to broadcast against `u`."""
    return value.reshape(value.shape + (1,) * (u.ndim - value.ndim))


def resolve_step_size(step_size: StepSize, step: int, u: Tensor) -> float | Tensor:
    """Returns the step size of step `step`; a tensor gets the dtype of `u`."""
    s = at(step_size, step)
    # A float64 step size must not turn float32 positions into float64 ones.
    return s.to(u) if isinstance(s, Tensor) else s


def check_positive(
    name: str, value: float | Tensor | Schedule, *, allow_zero: bool = False
) -> None:
    """Raises unless `value` is positive (or zero where allowed); of a schedule its first value.

    Raises:
        ValueError: Names the argument and the value received.
    """
    first = at(value, 0)
    smallest = first.min().item() if isinstance(first, Tensor) else first
    if not (smallest >= 0 if allow_zero else smallest > 0):
        rule = "must not be negative" if allow_zero else "must be positive"
        raise ValueError(f"{name} {rule}, got {first}")


KernelType = TypeVar("KernelType", bound=Kernel)


def retuned(kernel: KernelType, **settings: object) -> KernelType:
    """Returns a copy with other settings that are not validated.

    For settings that an algorithm computes in a loop: validating a tensor waits for the device.
    """
    other = copy(kernel)
    for name, value in settings.items():
        object.__setattr__(other, name, value)
    return other
