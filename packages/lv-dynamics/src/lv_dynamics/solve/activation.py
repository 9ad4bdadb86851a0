"""Activations of the fused solve: forwards into buffers, backwards from what was kept."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lv_dynamics.field import FieldActivation

__all__ = ["BUFFERED", "BufferedActivation"]

_aten = torch.ops.aten


class BufferedActivation(NamedTuple):
    """An activation f that writes into buffers and keeps one tensor for the way back.

    `sign` is that of the variables it works with: softplus is computed as
    softplus(x) = -log(sigmoid(-x)), so that with -x given and -softplus(x) returned it takes
    two cheap operations, and its derivative 1 - sigmoid(-x) none of the expensive ones.

    Attributes:
        sign: +1 or -1; of the input given and of the value returned, relative to x and f(x).
        forward: `(raw, kept, value)`: reads `raw`, writes `kept` and `value`.
        backward: `(grad, kept, out)`: writes `grad f'(x)`; `out` may be `grad`.
        keeps_raw: The kept tensor is the input; the caller passes it as `raw` and `kept`.
        keeps_value: The kept tensor is the output; the caller passes it as `kept` and `value`.
    """

    forward: Callable[[Tensor, Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor], object]
    sign: float = 1.0
    keeps_raw: bool = False
    keeps_value: bool = False


def _softplus(raw: Tensor, kept: Tensor, value: Tensor) -> None:
    torch.sigmoid(raw, out=kept)
    torch.log(kept, out=value)


BUFFERED: dict[FieldActivation, BufferedActivation] = {
    "softplus": BufferedActivation(
        _softplus,
        lambda grad, kept, out: torch.addcmul(grad, grad, kept, value=-1.0, out=out),
        sign=-1.0,
    ),
    "tanh": BufferedActivation(
        lambda raw, _, value: torch.tanh(raw, out=value),
        lambda grad, kept, out: _aten.tanh_backward.grad_input(grad, kept, grad_input=out),
        keeps_value=True,
    ),
    "silu": BufferedActivation(
        lambda raw, _, value: _aten.silu.out(raw, out=value),
        lambda grad, kept, out: _aten.silu_backward.grad_input(grad, kept, grad_input=out),
        keeps_raw=True,
    ),
    "elu": BufferedActivation(
        lambda raw, _, value: _aten.elu.out(raw, out=value),
        lambda grad, kept, out: _aten.elu_backward.grad_input(
            grad, 1.0, 1.0, 1.0, True, kept, grad_input=out
        ),
        keeps_value=True,
    ),
    "gelu": BufferedActivation(
        lambda raw, _, value: _aten.gelu.out(raw, out=value),
        lambda grad, kept, out: _aten.gelu_backward.grad_input(grad, kept, grad_input=out),
        keeps_raw=True,
    ),
}
"""Name to form, for every activation of a `VectorField`."""
