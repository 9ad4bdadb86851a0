"""The no-U-turn sampler, all chains in one batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity
from lv_core.kernels.base import (
    PART,
    Kernel,
    StepSize,
    Temperature,
    check_positive,
    event_axes,
    over_event,
    resolve_step_size,
)
from lv_core.kernels.cache import cached, checked_start
from lv_core.kernels.langevin import check_settings
from lv_core.kernels.leapfrog import dot
from lv_core.kernels.trajectory import End, Trajectory, Uniforms, turned
from lv_core.kernels.tree import Candidate, Tally, straight, uniforms_per_step
from lv_core.random import Source, normal, uniform
from lv_core.schedule import at

__all__ = ["Nuts"]


@dataclass(frozen=True, kw_only=True)
class Nuts(Kernel):
    """The no-U-turn sampler: trajectories that double until they turn back.

    The next point is drawn from the trajectory in proportion to exp(-H), with a bias to the newer
    half at each doubling; a trajectory ends when the sum of momenta of any balanced subtree, or
    of one half and the seam, points away from an end. Step size and temperature are as in `Hmc`.

    All chains of a batch take their leapfrog steps together; those that have finished wait,
    masked, so a transition costs as many evaluations as the longest trajectory in the batch. The
    host looks after each leapfrog whether any chain goes on: cheap on the CPU, one
    synchronisation on a GPU, where it still costs less than a wasted leapfrog. What a chain draws
    does not depend on what the others do: every transition takes the same amount of random
    numbers. Draws: normals = the momenta, shaped like u; uniforms = one tensor
    `(*batch, uniforms_per_step(max_depth))`.

    `info.accept` is the mean of min(1, exp(H(start) - H)) over the trajectory, which step-size
    adaptation aims at; `info.stats` holds "depth" (doublings that were kept), "leapfrogs",
    "energy_error" and "energy" (both of the new point), and "divergent"; `info.bad` marks
    trajectories that met a non-finite value or gradient.

    Raises:
        ValueError: If a setting is out of range, or the start has a non-finite log density.

    Source:
        Hoffman and Gelman, "The no-U-turn sampler", 2014; Betancourt, "A conceptual introduction
        to Hamiltonian Monte Carlo", 2017, appendix A (multinomial sampling, generalized
        criterion).

    Example:
        >>> adapted = adapt(Nuts(steps=500, step_size=0.1), target, u, generator=generator)
        >>> trace = adapted.kernel.run(target, adapted.state, generator=generator, thin=1)
    """

    steps: int
    """number of transitions"""
    step_size: StepSize
    """s of the leapfrog steps"""
    max_depth: int = 10
    """largest number of doublings: at most 2^max_depth - 1 leapfrog steps"""
    temperature: Temperature = 1.0
    """the target is p^(1/temperature)"""
    max_energy_error: float = 1000.0
    """a leapfrog step with a larger error ends the trajectory and counts as divergent"""

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, None)
        check_positive("temperature", self.temperature)
        check_positive("max_energy_error", self.max_energy_error)
        if not 1 <= self.max_depth <= 20:
            raise ValueError(f"max_depth must lie in 1..20, got {self.max_depth}")

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the state at `u` with value and gradient.

        Raises:
            ValueError: If a chain starts where the log density or gradient is not finite.
        """
        return checked_start(log_density, u)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one trajectory.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`.
        """
        u, value, grad = cached(state, "Nuts")
        axes = event_axes(u, value)
        temperature = at(self.temperature, state.step)
        p = normal(u, generator)
        if temperature != 1.0:
            p = p * temperature**0.5
        v = Uniforms(uniform((*value.shape, uniforms_per_step(self.max_depth)), u, generator))
        base = value - 0.5 * dot(p, p, axes)
        run = Trajectory(
            log_density=log_density,
            step_size=resolve_step_size(self.step_size, state.step, u),
            temperature=temperature,
            base=base,
            limit=self.max_energy_error,
            axes=axes,
            tally=Tally(value, self.max_energy_error),
            clone=hasattr(log_density, "evaluate"),
        )
        zero = torch.zeros_like(value)
        parts = {n[len(PART) :]: t for n, t in state.extra.items() if n.startswith(PART)}
        sample = Candidate(zero, zero, value, u, grad, parts)
        # The end at which the trajectory grows next, and the other one.
        front = back = End(u, p, grad)
        rho, depth = p, torch.zeros_like(value, dtype=torch.int64)
        active = torch.ones_like(value, dtype=torch.bool) if state.bad is None else ~state.bad
        for doubling in range(self.max_depth):
            front, back, rho = turned(v.take() < 0.5, front, back, rho)
            seam = front.p
            grown = run.grow(front, active, 2**doubling, v)
            keep = v.take()
            if grown is None:
                break
            front, first, total, candidate, active = grown
            sample = _merged(sample, candidate, keep, active)
            depth = depth + active
            active = active & _no_turn(rho, total, back.p, seam, first, front.p, axes)
            rho = rho + total
            if not bool(active.any()):  # waits for the device
                break
        run.tally.flush()
        return _result(state, sample, depth, base / temperature, run.tally)


def _merged(sample: Candidate, new: Candidate, v: Tensor, valid: Tensor) -> Candidate:
    # Biased to the new half: taken with probability min(1, new weight / old weight).
    take = valid & (v < (new.log_weight - sample.log_weight).exp())
    mask = over_event(take, sample.u)
    return Candidate(
        log_weight=torch.logaddexp(sample.log_weight, new.log_weight),
        error=torch.where(take, new.error, sample.error),
        value=torch.where(take, new.value, sample.value),
        u=torch.where(mask, new.u, sample.u),
        grad=torch.where(mask, new.grad, sample.grad),
        parts={n: torch.where(take, new.parts[n], old) for n, old in sample.parts.items()},
    )


def _no_turn(
    old: Tensor,
    new: Tensor,
    back: Tensor,
    seam: Tensor,
    first: Tensor,
    front: Tensor,
    axes: tuple[int, ...],
) -> Tensor:
    """Checks the whole trajectory between its ends and across the seam of its two halves."""
    whole, left, right = old + new, old + first, new + seam
    return straight(
        [
            (back, whole),
            (front, whole),
            (back, left),
            (first, left),
            (seam, right),
            (front, right),
        ],
        axes,
    )


def _result(
    state: ChainState, sample: Candidate, depth: Tensor, base: Tensor, tally: Tally
) -> tuple[ChainState, StepInfo]:
    u, value, grad = cached(state, "Nuts")
    axes = event_axes(u, value)
    info = StepInfo(
        value,
        dot(grad, grad, axes).sqrt(),
        accept=tally.accept / tally.leapfrogs.clamp(min=1),
        bad=tally.bad,
        parts={name: state.extra[PART + name] for name in sample.parts},
        stats={
            "depth": depth,
            "leapfrogs": tally.leapfrogs,
            "energy_error": sample.error,
            "energy": sample.error - base,
            "divergent": tally.divergent,
        },
    )
    parts = {PART + name: part for name, part in sample.parts.items()}
    return ChainState(
        u=sample.u,
        log_density=sample.value,
        grad=sample.grad,
        previous=state.previous,
        bad=state.bad,
        step=state.step + 1,
        extra={**state.extra, **parts},
    ), info
