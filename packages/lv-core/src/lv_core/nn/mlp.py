"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

__all__ = ["Activation", "mlp"]

Activation = Literal["gelu", "silu", "relu", "tanh", "leaky_relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


def mlp(sizes: Sequence[int], *, activation: Activation = "gelu") -> nn.Sequential:
    """Returns linear layers of the given sizes with an activation between them.

    Arguments:
        sizes: Widths from input to output, such as `(100, 200, 200, 1)`.
        activation: Name of the activation; smooth ones suit energies, whose gradient is used.

    Raises:
        ValueError: If there are fewer than two sizes, one is not positive, or the activation is
            unknown.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {tuple(sizes)}")
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"unknown activation {activation!r}; there are: {known}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
