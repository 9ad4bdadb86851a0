"""The state of chains, the record of a step and the record of a run."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ChainState", "StepInfo", "Trace"]


@dataclass(frozen=True, kw_only=True)
class ChainState:
    """Everything a kernel needs to go on; a plain record of tensors, hence a checkpoint.

    Arguments:
        u: Positions, shape `(*batch, *event)`.
        log_density: Value at `u`, shape `(*batch,)`, or None where the kernel evaluates lazily.
        grad: Gradient at `u`, or None likewise.
        previous: Position before the last step; where an unadjusted kernel returns a chain whose
            new position turns out to be non-finite.
        bad: True for chains frozen after a non-finite value, shape `(*batch,)`; None = none yet.
        step: Steps done.
        extra: Further tensors by name: momentum, preconditioner, adaptation, temperatures.
    """

    u: Tensor
    log_density: Tensor | None = None
    grad: Tensor | None = None
    previous: Tensor | None = None
    bad: Tensor | None = None
    step: int = 0
    extra: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**record, "extra": dict(self.extra)}

    @classmethod
    def from_state_dict(cls, record: dict[str, Any]) -> "ChainState":
        """Returns the state saved by `state_dict`."""
        return cls(**{**record, "extra": dict(record["extra"])})

    def __getitem__(self, index: Tensor | slice | int) -> "ChainState":
        """Returns the chains selected along the first batch axis."""
        picked: dict[str, Any] = {
            n: None if t is None else t[index] for n, t in self._tensors().items()
        }
        return replace(self, **picked, extra={n: t[index] for n, t in self.extra.items()})

    @classmethod
    def cat(cls, states: "list[ChainState]") -> "ChainState":
        """Joins states along the first batch axis.

        Raises:
            ValueError: If there is none, if a field is set in some and missing in others, or if
                the numbers of steps differ (schedules would not know where they are).
        """
        if not states:
            raise ValueError("states must not be empty")
        joined: dict[str, Any] = {}
        for name in states[0]._tensors():
            values = [getattr(state, name) for state in states]
            if name == "bad" and any(v is not None for v in values):
                # None says that no chain was bad yet, which kernels may do until one is.
                like = next(v for v in values if v is not None)
                values = [
                    like.new_zeros((len(state.u), *like.shape[1:])) if v is None else v
                    for state, v in zip(states, values, strict=True)
                ]
            if any(v is None for v in values) and not all(v is None for v in values):
                raise ValueError(f"field {name!r} is set in some states and missing in others")
            joined[name] = None if values[0] is None else torch.cat(values)
        names = [set(state.extra) for state in states]
        if differing := names[0].union(*names) - names[0].intersection(*names):
            raise ValueError(
                f"extra {sorted(differing)} is set in some states and missing in others"
            )
        if len({s.step for s in states}) > 1:
            raise ValueError(
                f"states must have done equally many steps, got {[s.step for s in states]}; set "
                "step by dataclasses.replace where the kernel has no schedule"
            )
        extra = {n: torch.cat([s.extra[n] for s in states]) for n in states[0].extra}
        return cls(**joined, extra=extra, step=states[0].step)

    def _tensors(self) -> dict[str, Tensor | None]:
        names = ("u", "log_density", "grad", "previous", "bad")
        return {name: getattr(self, name) for name in names}


class StepInfo(NamedTuple):
    """What a step reports and no later step needs; tensors of shape `(*batch,)`, or None.

    `log_density` and `parts` are values at the position the step started from; `bad` marks
    chains frozen for a non-finite value, or proposals rejected for one; `stats` holds what only
    some kernels report, such as the number of leapfrog steps, by name.
    """

    log_density: Tensor
    grad_norm: Tensor
    accept: Tensor | None = None
    bad: Tensor | None = None
    clipped: Tensor | None = None
    parts: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple default, never mutated
    stats: dict[str, Tensor] = {}  # noqa: RUF012 - likewise


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The record of a run: final state, kept positions, and per-step diagnostics.

    Arguments:
        state: State after the last step.
        u: Kept positions, shape `(kept, *batch, *event)`; empty when nothing was kept.
        log_density: Value at the start of each step, shape `(steps, *batch)`.
        grad_norm: Norm of the gradient there, shape `(steps, *batch)`.
        accept: Acceptance probability, shape `(steps, *batch)`, or None for unadjusted kernels.
        bad: Frozen chains or rejected non-finite proposals, shape `(steps, *batch)`, or None.
        clipped: Share of gradients clipped, or None where nothing clips.
        parts: Named parts of the target, each `(steps, *batch)`.
        stats: What only some kernels report, each `(steps, *batch)`.
        displacement: Distance between start and end, shape `(*batch,)`.
        thin: Every `thin`-th position was kept; None = none was.
    """

    state: ChainState
    u: Tensor
    log_density: Tensor
    grad_norm: Tensor
    accept: Tensor | None
    bad: Tensor | None
    clipped: Tensor | None
    parts: dict[str, Tensor]
    stats: dict[str, Tensor]
    displacement: Tensor
    thin: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**record, "state": self.state.state_dict()}

    @classmethod
    def from_state_dict(cls, record: dict[str, Any]) -> "Trace":
        """Returns the trace saved by `state_dict`."""
        return cls(**{**record, "state": ChainState.from_state_dict(record["state"])})
