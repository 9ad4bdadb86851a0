"""Step sizes that follow a path of densities, found by a pilot run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import LogDensity
from lv_core.evidence.path import Base, Path, draw_base, temperatures
from lv_core.kernels.base import Kernel
from lv_core.kernels.mala import Mala

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
    kernel: Mala | None = None,
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
        kernel: Kernel whose `step_size`, a number, is where tuning begins; None = one step of
            `Mala` of size 0.5.
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
    if not isinstance(kernel.step_size, int | float):
        raise ValueError(
            f"kernel.step_size must be a number to start from, got {kernel.step_size!r}"
        )
    path, beta = Path(base, target), temperatures(betas)
    u = (
        draw_base(base, chains, batch, generator)
        if like is None
        else _draw_like(base, like, generator)
    )
    state, size, table = ChainState(u=u), float(kernel.step_size), [float(kernel.step_size)]
    for k in range(1, len(beta)):
        for _ in range(rounds):
            trial = replace(kernel, step_size=size)
            state, measured = path.visit(trial, state, beta[k], k, generator)
            assert measured is not None
            # Synchronises with the device: the pilot is short and the size a Python number.
            miss = measured.mean().item() - accept
            size *= float(torch.tensor(miss).exp())
        table.append(size)
    return replace(kernel, step_size=StepTable(tuple(table)))


def _draw_like(base: Base, like: Tensor, generator: torch.Generator | None) -> Tensor:
    one = base.sample(1, generator=generator).detach()
    batch = like.shape[1 : like.ndim - (one.ndim - 1)]
    return draw_base(base, len(like), tuple(batch), generator)
