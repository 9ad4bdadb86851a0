"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity, value_and_grad
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
from lv_core.kernels.leapfrog import dot, drift, kick
from lv_core.random import Source, normal, uniform
from lv_core.schedule import at

__all__ = ["Hmc"]


@dataclass(frozen=True, kw_only=True)
class Hmc(Kernel):
    """Hamiltonian Monte Carlo: `leapfrog` steps of size s, accepted by the energy error.

    Momenta are drawn from N(0, T) with unit mass, so the target is `p^(1/T)`; a tensor of step
    sizes, one a component, is a diagonal mass matrix. With one leapfrog step the proposal and
    its acceptance are those of `Mala` with the same `step_size`. Value and gradient are cached:
    exactly `leapfrog` evaluations a step.

    A trajectory that meets a non-finite value or gradient anywhere is rejected and marked in
    `info.bad`; it stops where it met it, so that the target is never asked at a non-finite point.

    `info.stats` holds "energy_error" (`(H(end) - H(start)) / T`, infinite where bad), "leapfrogs",
    and "divergent" (bad, or an energy error above 1000). Draws: normals = the momenta, shaped
    like u; uniforms = the jitter if `jitter > 0`, then the acceptance, both `(*batch,)`.

    Raises:
        ValueError: If a setting is out of range, or the start has a non-finite log density.

    Source:
        Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC using Hamiltonian dynamics", 2011;
        optimal acceptance 0.651: Beskos et al., 2013.

    Example:
        >>> kernel = Hmc(steps=200, step_size=0.2, leapfrog=8, jitter=0.2)
        >>> z = kernel(lambda z: -0.5 * z.square().sum(-1), torch.randn(256, 64))
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """s, as in `Mala`: a number, a tensor over components or chains, or a schedule"""
    leapfrog: int
    """leapfrog steps of one trajectory, whose length is s times their number"""
    temperature: Temperature = 1.0
    """the target is p^(1/temperature)"""
    jitter: float = 0.0
    """the step size of each chain is s (1 + jitter v), v uniform on [-1, 1); in [0, 1)

    Jitter breaks up the resonance of trajectories whose length is near the period of a component,
    after which a chain returns to where it came from."""

    steps_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, None)
        check_positive("temperature", self.temperature)
        if self.leapfrog < 1:
            raise ValueError(f"leapfrog must be at least 1, got {self.leapfrog}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must lie in [0, 1), got {self.jitter}")

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
        """Returns the state after one trajectory; `info.accept` is the acceptance probability.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`.
        """
        u, value, grad = cached(state, "Hmc")
        s = resolve_step_size(self.step_size, state.step, u)
        temperature = at(self.temperature, state.step)
        axes = event_axes(u, value)
        p = normal(u, generator) * temperature**0.5
        if self.jitter > 0:
            v = 2 * uniform(value.shape, u, generator) - 1
            s = s * over_event(1 + self.jitter * v, u)
        start_kinetic = 0.5 * dot(p, p, axes)
        p = kick(p, grad, s)
        proposal, alive = u, torch.ones_like(value, dtype=torch.bool)
        for k in range(self.leapfrog):
            proposal = torch.where(over_event(alive, u), drift(proposal, p, s), proposal)
            new_value, new_grad, new_parts = value_and_grad(log_density, proposal)
            # Two half kicks between drifts are one whole kick.
            p = kick(p, new_grad, s, 0.5 if k == self.leapfrog - 1 else 1.0)
            # A non-finite gradient has just made the momenta non-finite: one test for both.
            kinetic = 0.5 * dot(p, p, axes)
            alive = alive & torch.isfinite(new_value - kinetic)
        error = ((value - start_kinetic) - (new_value - kinetic)) / temperature
        error = torch.where(alive, error, torch.inf)
        accept = (-error).clamp(max=0.0).exp()
        taken = uniform(value.shape, u, generator) < accept
        if state.bad is not None:  # frozen by another kernel of a sequence
            taken = taken & ~state.bad
        mask = over_event(taken, u)
        parts = {name: state.extra[PART + name] for name in new_parts}
        moved = {PART + n: torch.where(taken, new, parts[n]) for n, new in new_parts.items()}
        info = StepInfo(
            value,
            dot(grad, grad, axes).sqrt(),
            accept=accept,
            bad=~alive,
            parts=parts,
            stats={
                "energy_error": error,
                "leapfrogs": torch.full_like(value, self.leapfrog, dtype=torch.int64),
                "divergent": error > 1000.0,
            },
        )
        return ChainState(
            u=torch.where(mask, proposal, u),
            log_density=torch.where(taken, new_value, value),
            grad=torch.where(mask, new_grad, grad),
            previous=state.previous,
            bad=state.bad,
            step=state.step + 1,
            extra={**state.extra, **moved},
        ), info
