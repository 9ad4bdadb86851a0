"""Multi-layer perceptrons."""

import pytest
import torch
from torch import nn

from lv_core.nn import mlp


def test_has_linear_layers_of_the_sizes_with_activations_between() -> None:
    network = mlp((5, 4, 3, 1), activation="silu")
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    shapes = [tuple(layer.weight.shape) for layer in network[::2]]
    assert shapes == [(4, 5), (3, 4), (1, 3)]


def test_two_sizes_are_one_linear_layer() -> None:
    assert [type(layer) for layer in mlp((2, 1))] == [nn.Linear]


@pytest.mark.parametrize("name", ["gelu", "silu", "relu", "tanh", "leaky_relu"])
def test_every_activation_bends_the_line(name) -> None:
    network = mlp((1, 16, 1), activation=name).double()
    left, middle, right = network(torch.tensor([[-1.0], [0.0], [1.0]]).double()).squeeze(-1)
    assert abs((left + right - 2 * middle).item()) > 1e-6


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 1)])
def test_refuses_sizes_that_make_no_network(sizes) -> None:
    with pytest.raises(ValueError, match="at least two positive widths"):
        mlp(sizes)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_unknown_activations_and_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown activation 'swish'; there are: gelu, silu"):
        mlp((2, 1), activation="swish")
