"""Value, gradient and parts that a state carries from step to step."""

from dataclasses import replace

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.density import Evaluation, LogDensity, value_and_grad
from lv_core.kernels.base import PART, event_axes

__all__ = ["cached", "checked_start", "evaluate_state", "evaluation_of", "with_evaluation"]


def evaluate_state(log_density: LogDensity, u: Tensor) -> ChainState:
    """Returns the state at `u` with value, gradient and parts cached; parts lie in `extra`."""
    value, grad, parts = value_and_grad(log_density, u)
    if hasattr(log_density, "evaluate"):  # its gradient may be a buffer of the next evaluation
        grad = grad.clone()
    extra = {PART + name: part for name, part in parts.items()}
    return ChainState(u=u.detach(), log_density=value, grad=grad, extra=extra)


def checked_start(log_density: LogDensity, u: Tensor) -> ChainState:
    """Returns the state at `u` with value, gradient and parts.

    Raises:
        ValueError: If a chain starts where the log density or gradient is not finite.
    """
    state = evaluate_state(log_density, u)
    assert state.log_density is not None
    assert state.grad is not None
    axes = event_axes(state.grad, state.log_density)
    ok = torch.isfinite(state.grad)
    finite = torch.isfinite(state.log_density) & (ok.all(dim=axes) if axes else ok)
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {finite.numel()} chains start at a non-finite log "
            "density or gradient; start inside the support"
        )
    return state


def cached(state: ChainState, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns position, value and gradient of a state.

    Raises:
        ValueError: If the state holds no value and gradient.
    """
    if state.log_density is None or state.grad is None:
        raise ValueError(
            f"the state holds no value and gradient: make it by {kernel}.init or {kernel}.refresh"
        )
    return state.u, state.log_density, state.grad


def evaluation_of(state: ChainState) -> Evaluation:
    """Returns value, gradient and parts from the caches of a state that has them."""
    assert state.log_density is not None
    assert state.grad is not None
    parts = {n.removeprefix(PART): x for n, x in state.extra.items() if n.startswith(PART)}
    return Evaluation(state.log_density, state.grad, parts)


def with_evaluation(state: ChainState, evaluation: Evaluation) -> ChainState:
    """Returns the state with other caches."""
    value, grad, parts = evaluation
    extra = {**state.extra, **{PART + n: x for n, x in parts.items()}}
    return replace(state, log_density=value, grad=grad, extra=extra)
