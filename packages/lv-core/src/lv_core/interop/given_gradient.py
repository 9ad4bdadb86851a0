"""Values whose gradient somebody else has computed, as part of an autograd graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lv_core.density import Evaluation
from lv_core.kernels.base import over_event

__all__ = ["given_gradient"]


def given_gradient(evaluate: Callable[[Tensor], Evaluation], u: Tensor) -> Tensor:
    """Returns the value at `u`, differentiable once in `u` by the gradient that comes with it.

    Makes a target with a gradient of its own usable inside `Sum`, tempered, or annealed. Neither
    second derivatives nor gradients of parameters pass through.

    Arguments:
        evaluate: Maps points `(*batch, *event)` to value and gradient.
        u: Points, shape `(*batch, *event)`.
    """
    value: Tensor = _Given.apply(u, evaluate)  # type: ignore[no-untyped-call]
    return value


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, evaluate: Callable[[Tensor], Evaluation]) -> Tensor:  # noqa: ANN401
        evaluation = evaluate(u.detach())
        # Both may lie in buffers of the next evaluation.
        ctx.save_for_backward(evaluation.grad.clone())
        return evaluation.value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (grad,) = ctx.saved_tensors
        return over_event(upper, grad) * grad, None
