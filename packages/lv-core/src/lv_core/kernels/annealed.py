"""Kernels whose target changes from step to step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import Evaluation, LogDensity, Sum, value_and_grad
from lv_core.kernels.base import Kernel, event_axes
from lv_core.kernels.cache import evaluate_state, evaluation_of, with_evaluation
from lv_core.random import Source
from lv_core.schedule import Schedule

__all__ = ["Annealed", "Scaled"]

BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Annealed(Kernel):
    """Runs a kernel on a density that changes with the step until it is the target.

    Step k sees `(1 - b) base(u) + b log p(u)`, b = schedule(k), and `b log p(u)` without a base.
    With a base, b from 0 to 1 leads from a density that is easy to sample to the target. Without
    one, b is an inverse temperature: from small to 1 it flattens the target first, beyond 1 it
    sharpens it towards the modes (simulated annealing). Where the schedule is constant the kernel
    is the inner one on a fixed density.

    Step counts are shared: a schedule of the inner kernel's step size runs along. Its `steps` is
    not used. Without a base a cached value and gradient are those of log p itself and are scaled
    when b changes, so MALA still costs one evaluation per step. With a base, or around a kernel
    that caches more than that (`ParallelTempering`), they are evaluated anew whenever b changes;
    kernels without caches pay nothing.

    The trace reports the density of each step: value, gradient and parts of the density above,
    and b under `stats["beta"]`. A `Sum` keeps its parts, each times b; the base is the part
    `"base"`. Divide by `beta` for the parts of the target itself.

    Raises:
        ValueError: If `steps` is not positive, or b leaves its range: positive without a base,
            [0, 1] with one.

    Source:
        Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing", 1983; Neal,
        "Annealed importance sampling", 2001, for the path from a base.

    Example:
        >>> kernel = Annealed(
        ...     kernel=Langevin(steps=1, step_size=0.1),
        ...     schedule=Geometric(start=0.01, end=1.0, steps=400),
        ...     steps=500,
        ... )
    """

    kernel: Kernel
    """what moves the chains"""
    schedule: Schedule
    """b at step k, counted from 0"""
    steps: int
    """number of steps"""
    base: LogDensity | None = None
    """log density at b = 0"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        self._beta(0)

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the inner kernel's state at `u`, made on the density of the first step."""
        if self._scales:
            target = Scaled(log_density, self._beta(0))
            return target.unscaled(self.kernel.init(target, u), None)
        return self.kernel.init(self._target(log_density, self._beta(0)), u)

    def refresh(self, log_density: LogDensity, state: ChainState) -> ChainState:
        """Returns `state` with caches renewed, on the density that the next step will see."""
        if self._scales:
            target = Scaled(log_density, self._beta(state.step))
            return target.unscaled(self.kernel.refresh(target, state), None)
        return self.kernel.refresh(self._target(log_density, self._beta(state.step)), state)

    def check(self, state: ChainState) -> None:
        """Raises if more chains are marked bad than the inner kernel tolerates.

        Raises:
            DivergenceError: Names the step and the share.
        """
        self.kernel.check(state)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one step of the inner kernel on the density of this step."""
        now = self._beta(state.step)
        if self._scales and state.log_density is not None:
            scaled = Scaled(log_density, now)
            inner = with_evaluation(state, scaled.scale(evaluation_of(state)))
            after, info = self.kernel.step(scaled, inner, generator=generator)
            after = scaled.unscaled(after, state)
        else:
            target = self._target(log_density, now)
            # What the state caches is the density of the step before.
            if state.log_density is not None and state.step and self._beta(state.step - 1) != now:
                state = self._recached(target, state)
            after, info = self.kernel.step(target, state, generator=generator)
        beta = torch.full_like(info.log_density, now)
        return after, info._replace(stats={**info.stats, "beta": beta})

    @property
    def _scales(self) -> bool:
        # A kernel with a refresh of its own caches more than we could scale.
        return self.base is None and type(self.kernel).refresh is Kernel.refresh

    def _recached(self, target: LogDensity, state: ChainState) -> ChainState:
        if type(self.kernel).refresh is not Kernel.refresh:
            return self.kernel.refresh(target, state)
        # Not by refresh, which waits for the device to refuse a start outside the support.
        return with_evaluation(state, evaluation_of(evaluate_state(target, state.u)))

    def _beta(self, step: int) -> float:
        beta = self.schedule(step)
        if self.base is None and not beta > 0:
            raise ValueError(
                f"schedule must be positive where there is no base, got {beta} at step {step}; "
                "start at a small number, or give a base to start from"
            )
        if self.base is not None and not 0 <= beta <= 1:
            raise ValueError(
                f"schedule must stay in [0, 1] where there is a base, got {beta} at step {step}"
            )
        return beta

    def _target(self, log_density: LogDensity, beta: float) -> LogDensity:
        if self.base is None:
            if isinstance(log_density, Sum):  # remains one, for the stages of a Sequence
                return Sum({n: (log_density.only(n), beta) for n in log_density.names})
            return Scaled(log_density, beta)
        if hasattr(log_density, "evaluate") or hasattr(self.base, "evaluate"):
            return _Path(self.base, log_density, beta)
        terms = {"target": log_density}
        if isinstance(log_density, Sum):
            terms = {n: log_density.only(n) for n in log_density.names}
        if BASE in terms:
            raise ValueError(
                f"the target has a term named {BASE!r}, which is the name of the base's part: "
                "rename the term"
            )
        weighted = {n: _weighted(term, beta) for n, term in terms.items()}
        return Sum({BASE: _weighted(self.base, 1 - beta), **weighted})


class Scaled:
    """The log density times a factor, whose last evaluation can be had without the factor.

    Kernels cache what they evaluated, scaled. Dividing by the factor would return rounded numbers,
    and a resumed run other ones than an unbroken run; so the unscaled ones are kept aside.

    Arguments:
        log_density: The target.
        factor: A number, or a tensor that broadcasts against the values, of as many axes.
        known: A state whose caches hold the unscaled evaluation at its positions, which is then
            not repeated.
    """

    def __init__(
        self, log_density: LogDensity, factor: float | Tensor, known: ChainState | None = None
    ) -> None:
        self._log_density, self._factor = log_density, factor
        self._last = None if known is None else (known.u, evaluation_of(known))

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the scaled log density."""
        return self._factor * self._log_density(u)

    def evaluate(self, u: Tensor) -> Evaluation:
        """Returns scaled value, gradient and parts."""
        if self._last is None or self._last[0] is not u:
            self._last = (u, evaluation_of(evaluate_state(self._log_density, u)))
        return self.scale(self._last[1])

    def scale(self, evaluation: Evaluation) -> Evaluation:
        """Returns an evaluation of the log density times the factor."""
        value, grad, parts = evaluation
        scaled = {n: self._factor * x for n, x in parts.items()}
        return Evaluation(self._factor * value, self._over_event(grad) * grad, scaled)

    def unscaled(self, after: ChainState, before: ChainState | None) -> ChainState:
        """Returns the state with caches of the log density itself.

        Arguments:
            after: What the kernel returned; its caches are scaled, or there are none.
            before: Where the kernel started, its caches unscaled; None = nothing is known of it.
        """
        if after.log_density is None:
            return after
        assert self._last is not None
        point, last = self._last
        scaled = evaluation_of(after)
        axes = event_axes(after.u, scaled.value)
        # Where a chain is neither at the point evaluated last nor where it was, divide after all.
        grad = scaled.grad / self._over_event(scaled.grad)
        found = Evaluation(
            scaled.value / self._factor,
            grad,
            {n: x / self._factor for n, x in scaled.parts.items()},
        )
        if before is not None:
            found = _where(_equal(after.u, before.u, axes), evaluation_of(before), found)
        return with_evaluation(after, _where(_equal(after.u, point, axes), last, found))

    def _over_event(self, grad: Tensor) -> float | Tensor:
        factor = self._factor
        if not isinstance(factor, Tensor):
            return factor
        return factor.reshape(factor.shape + (1,) * (grad.ndim - factor.ndim))


class _Path:
    """`Annealed._target` where base or target compute their own gradient."""

    def __init__(self, base: LogDensity, log_density: LogDensity, beta: float) -> None:
        self._base, self._log_density, self._beta = base, log_density, beta

    def __call__(self, u: Tensor) -> Tensor:
        return self.evaluate(u).value

    def evaluate(self, u: Tensor) -> Evaluation:
        value, grad, parts = value_and_grad(self._log_density, u)
        parts = {n: _times(x, self._beta) for n, x in (parts or {"target": value}).items()}
        value, grad = _times(value, self._beta), _times(grad, self._beta)
        if BASE in parts:
            raise ValueError(f"the target must not name a part {BASE!r}: the base has that name")
        start = value_and_grad(self._base, u)
        part = _times(start.value, 1 - self._beta)
        whole = {BASE: part, **parts}
        return Evaluation(part + value, _times(start.grad, 1 - self._beta) + grad, whole)


def _where(mask: Tensor, one: Evaluation, other: Evaluation) -> Evaluation:
    event = mask.reshape(mask.shape + (1,) * (one.grad.ndim - mask.ndim))
    return Evaluation(
        torch.where(mask, one.value, other.value),
        torch.where(event, one.grad, other.grad),
        {n: torch.where(mask, x, other.parts[n]) for n, x in one.parts.items()},
    )


def _equal(u: Tensor, v: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (u == v).all(dim=axes) if axes else u == v


def _times(x: Tensor, weight: float) -> Tensor:
    # Outside the support of an end that has no weight its value is infinite: no 0 * inf.
    return weight * x if weight else torch.zeros_like(x)


def _weighted(term: LogDensity, weight: float) -> tuple[LogDensity, float]:
    return (term, weight) if weight else (lambda u: torch.zeros_like(term(u)), 1.0)
