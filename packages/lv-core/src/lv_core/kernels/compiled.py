"""Kernels whose steps are compiled into chunks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import unwrap
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo, Trace
from lv_core.density import LogDensity
from lv_core.kernels.base import Kernel, make_trace
from lv_core.random import Draws, Source, normal, uniform

__all__ = ["Compiled", "recorded_draws"]

_NUMBERS = count()


class Compiled:
    """A kernel and its target, compiled into chunks of several steps.

    Random numbers are drawn outside the compiled graph and passed in, in the order in which the
    kernel alone would draw them: a run differs from the kernel's own by rounding. Small targets
    gain several times, a perceptron's log density a little; the first call takes seconds to
    build, and so does each new shape. Parameters that an optimizer changes in place need no new
    build; switching their `requires_grad` does.

    Arguments:
        kernel: A kernel whose steps are all alike, without a schedule: `Langevin`,
            `GradientStep`, `Mala`, `Hmc`, `Underdamped`, or a `Sequence` of the first two.
        log_density: Its target, compiled with it.
        chunk: Most gradient evaluations in one graph, which bounds the time to build it; the
            largest fitting divisor of the number of steps is used.
        mode: Mode of `torch.compile`; `"reduce-overhead"` records CUDA graphs.
        dynamic: As in `torch.compile`; None lets a second shape make sizes symbolic.

    Raises:
        ValueError: If `chunk` is not positive, the kernel another one, or a setting a schedule.

    Example:
        >>> sampler = Compiled(Langevin(steps=60, step_size=0.1), Mixture.ring())
        >>> z = sampler(torch.randn(256, 2), generator=stream(0))
    """

    def __init__(
        self,
        kernel: Kernel,
        log_density: LogDensity,
        *,
        chunk: int = 10,
        mode: str | None = None,
        dynamic: bool | None = None,
    ) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        if not kernel.steps_alike:
            raise ValueError(
                f"{type(kernel).__name__} steps by the number of steps done, or waits for the "
                "device in between, which a compiled chunk cannot: run the kernel itself"
            )
        for name in ("step_size", "temperature"):
            if callable(getattr(kernel, name, None)):
                raise ValueError(
                    f"{name} must be constant in a compiled kernel, got a schedule: run the "
                    "kernel itself, or compile one kernel for each stage"
                )
        self.kernel, self.log_density, self.chunk, self.mode = kernel, log_density, chunk, mode
        steps = _with_own_code(_steps)
        self._loop = torch.compile(steps, fullgraph=True, dynamic=dynamic, mode=mode)
        self._made_for: tuple[object, ...] | None = None

    def __call__(self, u: Tensor, *, generator: Source = None) -> Tensor:
        """Returns the positions after the kernel's steps from `u`.

        Raises:
            DivergenceError: If too many chains became non-finite.
        """
        state = self.kernel.init(self.log_density, u)
        state, _, _ = self._advance(state, self.kernel.steps, generator, traced=False)
        self.kernel.check(state)
        return state.u

    def run(
        self,
        u: Tensor | ChainState,
        *,
        generator: Source = None,
        steps: int | None = None,
        thin: int | None = None,
    ) -> Trace:
        """Returns the record of a run, as `Kernel.run` does.

        Arguments:
            u: Start positions, or a state to go on from (its caches are renewed first).
            generator: Source of randomness.
            steps: Number of steps; None = the kernel's own.
            thin: Keep every `thin`-th position; None keeps none.

        Raises:
            DivergenceError: If too many chains became non-finite.
            ValueError: If `steps` or `thin` is not positive.
        """
        n = self.kernel.steps if steps is None else steps
        if n < 1 or (thin is not None and thin < 1):
            raise ValueError(f"steps and thin must be positive, got {steps=}, {thin=}")
        if isinstance(u, ChainState):
            state = self.kernel.refresh(self.log_density, u)
        else:
            state = self.kernel.init(self.log_density, u)
        start = state.u
        state, infos, path = self._advance(state, n, generator, traced=True)
        self.kernel.check(state)
        kept = [] if thin is None else path[thin - 1 :: thin]
        return make_trace(state, start, kept, infos, thin=thin)

    def _advance(
        self, state: ChainState, steps: int, generator: Source, *, traced: bool
    ) -> tuple[ChainState, list[StepInfo], list[Tensor]]:
        most = max(1, self.chunk // getattr(self.kernel, "leapfrog", 1))
        chunk = max(k for k in range(1, min(most, steps) + 1) if steps % k == 0)
        infos: list[StepInfo] = []
        path: list[Tensor] = []
        first = state.step
        state = self._prepared(state)
        for done in range(0, steps, chunk):
            draws = _drawn(self._order * chunk, state.u, generator)
            if self.mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            # The step count stays out of the graph, which would be built again for each value.
            state, new, visited = self._loop(
                self.kernel, self.log_density, replace(state, step=0), draws, chunk, traced
            )
            if self.mode == "reduce-overhead":
                # The graph's own memory is written over by the next chunk.
                state, new, visited = _copied((state, new, visited))
            state = replace(state, step=first + done + chunk)
            infos += new
            path += visited
        return state, infos, path

    def _prepared(self, state: ChainState) -> ChainState:
        """Notes what a step draws; fills fields that would give the next chunk another graph."""
        u = state.u
        made_for = (tuple(u.shape), u.dtype, u.device)
        if self._made_for != made_for:
            recorder = _Recorder(u)
            after, info = self.kernel.step(self.log_density, state, generator=recorder)
            self._order, self._made_for = recorder.order, made_for
            self._freezes, self._batch = after.previous is not None, info.log_density.shape
        if not self._freezes:
            return state
        none = torch.zeros(self._batch, dtype=torch.bool, device=u.device)
        return replace(
            state,
            bad=none if state.bad is None else state.bad,
            # Not u itself: a graph for two names of one tensor is another one.
            previous=u.clone() if state.previous is None else state.previous,
        )


def recorded_draws(
    kernel: Kernel, log_density: LogDensity, state: ChainState, *, generator: Source = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the normal and the uniform numbers that the next step would draw.

    `Draws` of them makes the same step as `generator`. Costs one step.
    """
    recorder = _Recorder(state.u)
    kernel.step(log_density, state, generator=recorder)
    return _drawn(recorder.order, state.u, generator)


def _drawn(
    order: Sequence[tuple[str, tuple[int, ...]]], u: Tensor, generator: Source
) -> tuple[list[Tensor], list[Tensor]]:
    normals, uniforms = [], []
    for kind, shape in order:
        if kind == "normal":
            buffer = u.new_empty(shape)
            normals.append(normal(buffer, generator, out=buffer))
        else:
            uniforms.append(uniform(shape, u, generator))
    return normals, uniforms


def _steps(
    kernel: Kernel,
    log_density: LogDensity,
    state: ChainState,
    draws: tuple[Sequence[Tensor], Sequence[Tensor]],
    steps: int,
    traced: bool,
) -> tuple[ChainState, list[StepInfo], list[Tensor]]:
    source = Draws(normals=draws[0], uniforms=draws[1])
    infos, path = [], []
    for _ in range(steps):
        state, info = kernel.step(log_density, state, generator=source)
        if traced:
            infos.append(info)
            path.append(state.u)
    return state, infos, path


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with a code object of its own.

    Graphs are kept by code object, of which only so many are allowed and whose shapes are
    compared: two compiled kernels must not count as one.
    """
    function = unwrap(function)  # what checks shapes at run time wraps the functions
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_NUMBERS)}")
    return FunctionType(code, function.__globals__, code.co_name)


class _Recorder(Draws):
    """Notes what a step draws, and hands out numbers that are finite whatever the kernel."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.like = like
        self.order: list[tuple[str, tuple[int, ...]]] = []

    def take(self, kind: str, shape: Sequence[int]) -> Tensor:
        self.order.append((kind, tuple(shape)))
        return self.like.new_full(tuple(shape), 0.5)


def _copied(record: Any) -> Any:  # noqa: ANN401 - whatever a chunk returns
    if isinstance(record, Tensor):
        return record.clone()
    if isinstance(record, ChainState):
        return ChainState.from_state_dict(_copied(record.state_dict()))
    if isinstance(record, StepInfo):
        return StepInfo(*map(_copied, record))
    if isinstance(record, dict):
        return {name: _copied(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return type(record)(map(_copied, record))
    return record
