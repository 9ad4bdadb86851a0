"""Tuning of step sizes and scales before sampling."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity
from lv_core.kernels.base import Kernel
from lv_core.kernels.tuner import Adaptation, AdaptationState
from lv_core.random import Source

__all__ = ["Adaptation", "AdaptationState", "Adapted", "adapt"]


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A tuned kernel and where its chains are."""

    kernel: Kernel
    """the kernel with its step size frozen"""
    state: ChainState
    """the chains after adaptation; not yet samples to keep"""
    step_sizes: Tensor
    """scalar used at each step, shape `(steps,)` or `(steps, *batch)`"""
    accept: Tensor
    """acceptance at each step, shape `(steps, *batch)`"""
    scale: Tensor
    """factor of each component, shaped like the event; about the standard deviations"""
    adaptation: AdaptationState
    """to go on from, or to save"""


def adapt(
    kernel: Kernel,
    log_density: LogDensity,
    u: Tensor | ChainState | AdaptationState,
    *,
    steps: int = 1000,
    target_accept: float | None = None,
    scale: bool = True,
    per_chain: bool = False,
    generator: Source = None,
    callback: Callable[[int, AdaptationState, StepInfo], bool | None] | None = None,
) -> Adapted:
    """Tunes the step size of a kernel while its chains find the bulk of the target.

    See `Adaptation` for what is done. The chains' positions on the way are no samples, as the
    kernel changes with them; sampling starts with the returned kernel and state.

    One step size serves all chains, so starts far apart in curvature, such as N(0, I) on a badly
    scaled posterior, can leave a few chains stuck where it is too large (the share of divergent
    steps shows it). Then go in three stages: `Hmc(leapfrog=5)` with `per_chain=True,
    scale=False` to bring every chain to the bulk, the same kernel pooled to learn the scales,
    and the kernel that is to sample from that `step_size`.

    Arguments:
        kernel: `Mala`, `Hmc` or `Nuts`; its step size is where the search starts.
        log_density: The target.
        u: Start positions `(*batch, *event)`, a state of chains, or an adaptation of the same
            target to finish.
        steps: Steps of the adaptation as a whole.
        target_accept: In (0, 1); None = 0.574 for `Mala`, 0.651 for `Hmc`, 0.8 for `Nuts`.
        scale: Whether to learn a scale for each component.
        per_chain: Whether each chain gets its own step size.
        generator: Source of all randomness.
        callback: Called as `callback(k, state, info)` after step k (from 1), for progress and for
            checkpoints; returning True stops.

    Raises:
        ValueError: If a setting is out of range, a chain starts at a non-finite log density, or
            the adaptation to finish has done all its steps.

    Example:
        >>> adapted = adapt(Nuts(steps=1, step_size=0.1), target, u, generator=generator)
        >>> trace = adapted.kernel.run(target, adapted.state, steps=1000, thin=1)
    """
    tuner = Adaptation(
        kernel=kernel,
        steps=steps,
        target_accept=target_accept,
        scale=scale,
        per_chain=per_chain,
    )
    if isinstance(u, AdaptationState):
        state = u
    else:
        state = tuner.init(log_density, u, generator=generator)
    if state.step >= steps:
        raise ValueError(f"the adaptation has done {state.step} of {steps} steps: none is left")
    sizes, accepts = list[Tensor](), list[Tensor]()
    for k in range(state.step + 1, steps + 1):
        sizes.append(state.averaging.log_step.exp())
        state, info = tuner.step(log_density, state, generator=generator)
        assert info.accept is not None
        accepts.append(info.accept)
        if callback is not None and callback(k, state, info):
            break
    return Adapted(
        kernel=tuner.tuned(state),
        state=state.chains,
        step_sizes=torch.stack(sizes),
        accept=torch.stack(accepts),
        scale=state.scale,
        adaptation=state,
    )
