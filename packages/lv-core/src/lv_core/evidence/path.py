"""The geometric path of densities from a base to a target, and steps along it."""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import LogDensity, Sum
from lv_core.kernels.base import Kernel
from lv_core.random import Source

__all__ = ["Base", "base_density", "draw_base", "temperatures"]


@runtime_checkable
class Base(Protocol):
    """Where a path begins: a normalised density that can be drawn from exactly.

    Its log density is its method `log_prob` or `log_density`, or the object itself where it is
    callable; `DiagonalGaussian`, `lv_core.targets.Gaussian` and Gaussian priors are bases.
    """

    def sample(self, n: int, /, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns `n` exact draws, shape `(n, *event)`."""
        ...


def base_density(base: Base) -> LogDensity:
    """Returns the log density of a base.

    Raises:
        TypeError: If it has none.
    """
    for name in ("log_prob", "log_density"):
        method = getattr(base, name, None)
        if callable(method):
            density: LogDensity = method
            return density
    if callable(base):
        return base
    raise TypeError(
        f"base must have a method log_prob or log_density or be callable, got "
        f"{type(base).__name__}"
    )


def draw_base(
    base: Base, chains: int, batch: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    """Returns exact draws of shape `(chains, *batch, *event)`.

    Raises:
        ValueError: If `chains` or an entry of `batch` is not positive.
    """
    if min(chains, *batch) < 1 if batch else chains < 1:
        raise ValueError(f"chains and batch must be positive, got {chains=}, {batch=}")
    n = chains * int(torch.Size(batch).numel())
    u = base.sample(n, generator=generator).detach()
    return u.reshape(chains, *batch, *u.shape[1:])


def temperatures(betas: Tensor | int, *, slope: float = 4.0) -> tuple[float, ...]:
    """Returns inverse temperatures from 0 to 1: those given, or that many along a sigmoid.

    The sigmoid `1 / (1 + exp(-t))`, t from -slope to slope, rescaled to [0, 1], spends its steps
    near both ends, where densities change fastest.

    Arguments:
        betas: Increasing from exactly 0 to exactly 1, shape `(n + 1,)`; or the number n of steps
            between them.
        slope: Half width of the sigmoid.

    Raises:
        ValueError: If the betas do not rise from 0 to 1, or their number is not positive.

    Source:
        Wu, Burda, Salakhutdinov and Grosse, "On the quantitative analysis of decoder-based
        generative models", 2017.
    """
    if isinstance(betas, int):
        if betas < 1:
            raise ValueError(f"betas must be at least 1 step, got {betas}")
        curve = torch.linspace(-slope, slope, betas + 1, dtype=torch.float64).sigmoid()
        betas = (curve - curve[0]) / (curve[-1] - curve[0])
    values = tuple(float(beta) for beta in betas.tolist())
    rises = all(a < b for a, b in pairwise(values))
    if len(values) < 2 or values[0] != 0.0 or values[-1] != 1.0 or not rises:
        raise ValueError(f"betas must increase from 0 to 1, got {values}")
    return values


class Visit(NamedTuple):
    """Chains at one temperature of the path."""

    state: ChainState
    accept: Tensor | None
    """acceptance probabilities, mean over the steps, `(chains, *batch)`; None without a rule"""


class Path:
    """`log base(u) + beta (log target(u) - log base(u))`, from the base at 0 to the target at 1.

    Raises:
        ValueError: If base and target return different shapes.
    """

    def __init__(self, base: Base, target: LogDensity) -> None:
        self._base, self._target = base_density(base), target

    def tilt(self, u: Tensor) -> Tensor:
        """Returns `log target(u) - log base(u)`, shape `(chains, *batch)`."""
        base, target = self._base(u), self._target(u)
        if base.shape != target.shape:
            raise ValueError(
                f"base and target must return one shape, got {tuple(base.shape)} and "
                f"{tuple(target.shape)} for points of shape {tuple(u.shape)}"
            )
        return target - base

    def visit(
        self, kernel: Kernel, state: ChainState, beta: float, index: int, generator: Source
    ) -> Visit:
        """Returns the chains after the kernel's steps at `beta`.

        The step count is set to `index`, the temperature's place on the path, so that a schedule
        of step sizes follows the path in both directions.
        """
        density = Sum({"base": (self._base, 1 - beta), "target": (self._target, beta)})
        state = kernel.refresh(density, replace(state, step=index))
        accepts = []
        for _ in range(kernel.steps):
            state, info = kernel.step(density, replace(state, step=index), generator=generator)
            if info.accept is not None:
                accepts.append(info.accept)
        return Visit(state, torch.stack(accepts).mean(0) if accepts else None)
