"""Step sizes that follow a path of densities, found by a pilot run."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import LogDensity
from lv_core.evidence.path import Base, Path, draw_base, temperatures
from lv_core.kernels.base import Kernel
from lv_core.kernels.mala import Mala
from lv_core.schedule import Schedule

__all__ = ["StepTable", "tune_path"]


@dataclass(frozen=True)
class StepTable:
    """A schedule of listed values: that of the step, or the last one beyond the list.

    Arguments:
        values: One for each step, counted from 0.

    Raises:
        ValueError: If the list is empty.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must not be empty: give at least one step size")

    def __call__(self, step: int) -> float:
        """Returns the value at `step`."""
        return self.values[min(step, len(self.values) - 1)]


def tune_path(
    base: Base,
    target: LogDensity,
    *,
    kernel: Kernel | None = None,
    betas: Tensor | int = 100,
    chains: int = 64,
    batch: tuple[int, ...] = (),
    like: Tensor | None = None,
    rounds: int = 4,
    accept: float = 0.574,
    generator: torch.Generator | None = None,
) -> Kernel:
    """Returns the kernel with a step size for each temperature of the path.

    Pilot chains go along the path and, at each temperature, correct the logarithm of the step
    size `rounds` times by the miss of their mean acceptance. The pilot is then dropped: chains
    that chose their own steps would bias the weights.

    Arguments:
        base: Start of the path.
        target: Its end.
        kernel: Metropolis kernel whose `step_size`, a number, is where tuning begins; None = one
            step of `Mala` of size 0.5.
        betas: As in `ais`; the same as in the run that the kernel is for.
        chains: Pilot chains per item.
        batch: Shape of the items, as in `ais`.
        like: Tensor `(chains, *batch, *event)` whose shape the pilot shall have; replaces
            `chains` and `batch`.
        rounds: Corrections at each temperature.
        accept: Mean acceptance aimed at.
        generator: Source of randomness.

    Raises:
        ValueError: If `rounds` is not positive, `accept` not in (0, 1), or the step size of the
            kernel not a number.
    """
    kernel = Mala(steps=1, step_size=0.5) if kernel is None else kernel
    if rounds < 1 or not 0 < accept < 1:
        raise ValueError(f"rounds must be >= 1 and accept in (0, 1), got {rounds=}, {accept=}")
    size = getattr(kernel, "step_size", None)
    if not isinstance(size, int | float):
        raise ValueError(f"kernel.step_size must be a number to start from, got {size!r}")
    path, beta = Path(base, target), temperatures(betas)
    if like is None:
        state = ChainState(u=draw_base(base, chains, batch, generator))
    else:
        state = ChainState(u=_draw_like(base, like, generator))
    table = [float(size)]
    for k in range(1, len(beta)):
        size = table[-1]
        for _ in range(rounds):
            trial = _resized(kernel, size)
            state, measured = path.visit(trial, state, beta[k], k, generator)
            if measured is None:
                raise ValueError(
                    f"kernel must report its acceptance, {type(kernel).__name__} reports none: "
                    "annealing needs a Metropolis kernel"
                )
            # Synchronises with the device: the pilot is short and the size a Python number.
            size *= math.exp(measured.mean().item() - accept)
        table.append(size)
    return _resized(kernel, StepTable(tuple(table)))


def _resized(kernel: Kernel, size: float | Schedule) -> Kernel:
    settings: dict[str, Any] = {"step_size": size}  # not a field of the base class
    return replace(kernel, **settings)


def _draw_like(base: Base, like: Tensor, generator: torch.Generator | None) -> Tensor:
    one = base.sample(1, generator=generator).detach()
    batch = like.shape[1 : like.ndim - (one.ndim - 1)]
    return draw_base(base, len(like), tuple(batch), generator)
