"""Activation functions forwards and backwards into given buffers, without a graph."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["BufferedActivation", "buffered_activation"]

_aten = torch.ops.aten


class BufferedActivation(NamedTuple):
    """An activation f that writes into buffers.

    `forward(x, out)` writes f(x); `backward(grad, x, value, out)` writes `grad f'(x)` given x
    and f(x), and `out` may be `x` or `value`.
    """

    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], object]


def buffered_activation(module: nn.Module) -> BufferedActivation:
    """Returns the buffered form of an activation module.

    Raises:
        TypeError: If there is none for the module; names those that have one.
    """
    if isinstance(module, nn.GELU):
        form = module.approximate
        return BufferedActivation(
            lambda x, out: _aten.gelu.out(x, approximate=form, out=out),
            lambda grad, x, _, out: _aten.gelu_backward.grad_input(
                grad, x, approximate=form, grad_input=out
            ),
        )
    if isinstance(module, nn.SiLU):
        return BufferedActivation(
            lambda x, out: _aten.silu.out(x, out=out),
            lambda grad, x, _, out: _aten.silu_backward.grad_input(grad, x, grad_input=out),
        )
    if isinstance(module, nn.Tanh):
        return BufferedActivation(
            lambda x, out: torch.tanh(x, out=out),
            lambda grad, _, value, out: _aten.tanh_backward.grad_input(
                grad, value, grad_input=out
            ),
        )
    if isinstance(module, nn.ReLU | nn.LeakyReLU):
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
        return BufferedActivation(
            lambda x, out: _aten.leaky_relu.out(x, slope, out=out),
            lambda grad, x, _, out: _aten.leaky_relu_backward.grad_input(
                grad, x, slope, False, grad_input=out
            ),
        )
    raise TypeError(
        f"no buffered form of {module}; there are GELU, SiLU, Tanh, ReLU and LeakyReLU"
    )
