"""Kernels made of kernels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity, Sum, value_and_grad
from lv_core.kernels.base import PART, Kernel, event_axes, over_event
from lv_core.kernels.langevin import GradientStep, Langevin
from lv_core.random import Source

__all__ = ["Sequence"]


@dataclass(frozen=True, kw_only=True)
class Sequence(Kernel):
    """One step of each stage in turn, each on its own terms of a `Sum`.

    Three official codes move in two stages: Langevin on likelihood and prior, then a noise-free
    step on the property term at the moved point. This is not the same as one joint step, which
    costs one gradient instead of two and is the default for new work.

    A chain that meets a non-finite value in any stage goes back to the start of the last round
    in which the first stage was finite, and stays there.

    Arguments:
        stages: Pairs (kernel, names of the terms it sees); empty names = the whole target.
        steps: How often the stages are gone through; the stages' own `steps` are not used.
        max_bad: Tolerated share of non-finite chains.

    Raises:
        ValueError: If there is no stage or `steps` is not positive.

    Example:
        >>> kernel = Sequence(
        ...     stages=(
        ...         (Langevin(steps=1, step_size=0.5, temperature=0.25), ("prior", "x")),
        ...         (GradientStep(step_size=0.5), ("y",)),
        ...     ),
        ...     steps=20,
        ... )
    """

    stages: tuple[tuple[Kernel, tuple[str, ...]], ...]
    steps: int
    max_bad: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages or self.steps < 1:
            raise ValueError(
                f"a sequence needs a stage and a step, got {len(self.stages)} stages, "
                f"{self.steps} steps"
            )
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad must be a share in [0, 1], got {self.max_bad}")

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one step of every stage; reports the first stage.

        Raises:
            TypeError: If a stage names terms and the target is not a `Sum`.
        """
        start, previous, first, clipped = state, state.previous, None, None
        parts: dict[str, Tensor] = {}
        extra = dict(start.extra)
        for i, (kernel, names) in enumerate(self.stages):
            target = _select(log_density, names)
            # Each stage sees another target, so cached values of the stage before are stale;
            # its own memory, such as a momentum, lasts.
            own = {
                n.removeprefix(f"{i}/"): t for n, t in start.extra.items() if n.startswith(f"{i}/")
            }
            inner = ChainState(
                u=state.u, previous=previous, bad=state.bad, step=start.step, extra=own
            )
            inner = _entered(kernel, target, inner)
            state, info = kernel.step(target, inner, generator=generator)
            extra |= {f"{i}/{n}": t for n, t in state.extra.items() if not n.startswith(PART)}
            if first is None:
                # Where later stages, and the first one of the next round, send bad chains back
                # to: the first stage has been evaluated there, unlike at the stage's own start.
                first, previous = info, _start_of_round(start.u, state)
            parts |= info.parts
            if info.clipped is not None:
                clipped = info.clipped if clipped is None else clipped | info.clipped
        assert first is not None
        state = replace(
            start, u=state.u, previous=previous, bad=state.bad, step=start.step + 1, extra=extra
        )
        return state, first._replace(parts=parts, clipped=clipped, bad=state.bad)

    @property
    def steps_alike(self) -> bool:  # type: ignore[override]
        """Whether a step never depends on their number; stages with caches wait for the device."""
        return all(
            isinstance(kernel, Langevin | GradientStep)
            and not callable(kernel.step_size)
            and not callable(getattr(kernel, "temperature", None))
            for kernel, _ in self.stages
        )


def _entered(kernel: Kernel, target: LogDensity, state: ChainState) -> ChainState:
    """Returns the state with the stage's caches; chains moved out of its support go back."""
    try:
        inner = kernel.refresh(target, state)
    except ValueError:
        if state.previous is None:
            raise
        # Kernels that refuse such starts are asked again from where the chains go back to.
        inner = kernel.refresh(target, _back(target, state))
    if inner.log_density is None or inner.previous is None:
        return inner
    if bool(torch.isfinite(inner.log_density).all()):
        return inner
    return kernel.refresh(target, _back(target, state))


def _back(target: LogDensity, state: ChainState) -> ChainState:
    assert state.previous is not None
    value, grad, _ = value_and_grad(target, state.u)
    axes = event_axes(grad, value)
    finite = torch.isfinite(grad)
    out = ~(torch.isfinite(value) & (finite.all(dim=axes) if axes else finite))
    bad = out if state.bad is None else out | state.bad
    return replace(
        state, u=torch.where(over_event(out, state.u), state.previous, state.u), bad=bad
    )


def _start_of_round(u: Tensor, state: ChainState) -> Tensor:
    return u if state.bad is None else torch.where(over_event(state.bad, u), state.u, u)


def _select(log_density: LogDensity, names: tuple[str, ...]) -> LogDensity:
    if not names:
        return log_density
    if not isinstance(log_density, Sum):
        raise TypeError(
            f"a stage of the sequence asks for the terms {names}: the target must be a Sum, got "
            f"{type(log_density).__name__}"
        )
    return log_density.only(*names)
