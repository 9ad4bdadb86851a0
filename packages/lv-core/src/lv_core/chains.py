"""The state of chains, the record of a step, the record of a run, and chains tied to data."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lv_core.random import stream

__all__ = ["ChainBank", "ChainState", "StepInfo", "Trace"]


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
        return cls(**record)

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
            ValueError: If there is none, or if a field is set in some and None in others.
        """
        if not states:
            raise ValueError("states must not be empty")
        joined: dict[str, Any] = {}
        for name in states[0]._tensors():
            values = [getattr(state, name) for state in states]
            if any(v is None for v in values) and not all(v is None for v in values):
                raise ValueError(f"field {name!r} is set in some states and missing in others")
            joined[name] = None if values[0] is None else torch.cat(values)
        extra = {n: torch.cat([s.extra[n] for s in states]) for n in states[0].extra}
        return cls(**joined, extra=extra, step=states[0].step)

    def _tensors(self) -> dict[str, Tensor | None]:
        names = ("u", "log_density", "grad", "previous", "bad")
        return {name: getattr(self, name) for name in names}


class StepInfo(NamedTuple):
    """What a step reports and no later step needs; tensors of shape `(*batch,)`, or None.

    `log_density` and `parts` are values at the position the step started from.
    """

    log_density: Tensor
    grad_norm: Tensor
    accept: Tensor | None = None
    bad: Tensor | None = None
    clipped: Tensor | None = None
    parts: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple default, never mutated


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The record of a run: final state, kept positions, and per-step diagnostics.

    Arguments:
        state: State after the last step.
        u: Kept positions, shape `(kept, *batch, *event)`; empty when nothing was kept.
        log_density: Value at the start of each step, shape `(steps, *batch)`.
        grad_norm: Norm of the gradient there, shape `(steps, *batch)`.
        accept: Acceptance probability, shape `(steps, *batch)`, or None for unadjusted kernels.
        clipped: Share of gradients clipped, or None where nothing clips.
        parts: Named parts of the target, each `(steps, *batch)`.
        displacement: Distance between start and end, shape `(*batch,)`.
    """

    state: ChainState
    u: Tensor
    log_density: Tensor
    grad_norm: Tensor
    accept: Tensor | None
    clipped: Tensor | None
    parts: dict[str, Tensor]
    displacement: Tensor


class ChainBank:
    """Positions of chains that belong to data items and live as long as the data does.

    Row `i` starts at `scale * N(0, I)` drawn from a stream derived from the seed and the row's
    block, so it does not depend on the order in which rows are first visited.

    Arguments:
        n_items: Number of data items.
        event: Shape of one position.
        seed: Seed of the starts.
        scale: Standard deviation of the starts.
        device: Where rows are stored and served.

    Raises:
        ValueError: If `n_items` is not positive.
    """

    _BLOCK = 1024

    def __init__(
        self,
        n_items: int,
        event: tuple[int, ...],
        *,
        seed: int,
        scale: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_items < 1:
            raise ValueError(f"n_items must be positive, got {n_items}")
        self.n_items, self.event, self.seed, self.scale = n_items, tuple(event), seed, scale
        self._u = torch.zeros((n_items, *self.event), device=device)
        self._age = torch.full((n_items,), -1, dtype=torch.int64, device=device)

    def get(self, index: Tensor) -> Tensor:
        """Returns the positions of items `index` (int64, shape `(n,)`): `(n, *event)`, a copy."""
        self._check(index)
        fresh = index[self._age[index] < 0]
        for block in torch.unique(fresh // self._BLOCK).tolist():
            self._start(fresh[fresh // self._BLOCK == block], block)
        return self._u[index]

    def put(self, index: Tensor, u: Tensor) -> None:
        """Stores `u` as the positions of items `index` and adds one to their age.

        Raises:
            ValueError: If an index occurs twice (which chain should win is undefined), or the
                shapes disagree.
        """
        self._check(index)
        if torch.unique(index).numel() != index.numel():
            raise ValueError("index must not contain an item twice: each item has one chain")
        if tuple(u.shape) != (index.numel(), *self.event):
            expected = (index.numel(), *self.event)
            raise ValueError(f"u must have shape {expected}, got {tuple(u.shape)}")
        self._u[index] = u.detach().to(self._u)
        self._age[index] = self._age[index].clamp(min=0) + 1

    def age(self, index: Tensor) -> Tensor:
        """Returns how often each item was stored; 0 = never."""
        self._check(index)
        return self._age[index].clamp(min=0)

    def state_dict(self) -> dict[str, Any]:
        """Returns all rows and ages."""
        return {"u": self._u, "age": self._age, "seed": self.seed, "scale": self.scale}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Restores rows and ages.

        Raises:
            ValueError: If the record is for another number of items or event shape.
        """
        if record["u"].shape != self._u.shape:
            expected, found = tuple(self._u.shape), tuple(record["u"].shape)
            raise ValueError(f"the saved bank has shape {found}, this one {expected}")
        self._u.copy_(record["u"])
        self._age.copy_(record["age"])
        self.seed, self.scale = record["seed"], record["scale"]

    def _start(self, index: Tensor, block: int) -> None:
        generator = stream(self.seed, "bank", block)
        rows = torch.empty((self._BLOCK, *self.event)).normal_(generator=generator)
        picked = rows[(index % self._BLOCK).cpu()]
        self._u[index] = (self.scale * picked).to(self._u)
        self._age[index] = 0

    def _check(self, index: Tensor) -> None:
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ValueError(f"index must be a vector of int64, got {index.dtype} {index.shape}")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.n_items:
            raise ValueError(f"index must lie in 0..{self.n_items - 1}")
