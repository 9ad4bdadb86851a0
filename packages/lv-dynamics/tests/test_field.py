import pytest
import torch
from torch import nn

from lv_dynamics.field import VectorField


def test_is_a_perceptron_of_state_and_static_part():
    field = VectorField(3, static=2, hidden=(5, 7), activation="tanh").double()
    y, s = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    hidden = torch.cat((y, s), dim=-1)
    for layer in field.linear[:-1]:
        hidden = torch.tanh(hidden @ layer.weight.T + layer.bias)
    expected = hidden @ field.linear[-1].weight.T + field.linear[-1].bias
    torch.testing.assert_close(field(y, s), expected)
    assert not torch.allclose(field(y, s.flip(0)), expected)


def test_second_order_moves_positions_by_velocities():
    field = VectorField(4, static=1, hidden=(5,), order=2).double()
    y, s = torch.randn(6, 4).double(), torch.randn(6, 1).double()
    change = field(y, s)
    assert torch.equal(change[:, :2], y[:, 2:])
    torch.testing.assert_close(change[:, 2:], field.network(torch.cat((y, s), dim=-1)))


def test_bound_field_gives_the_same_for_any_number_of_axes():
    field = VectorField(2, static=3, hidden=(4,)).double()
    y, s = torch.randn(5, 6, 2).double(), torch.randn(6, 3).double()
    bound = field.bind(s)
    torch.testing.assert_close(bound(y), field(y, s.expand(5, 6, 3)))


def test_parameters_and_static_part_have_gradients():
    field = VectorField(2, static=1, hidden=(4,)).double()
    y, s = torch.randn(3, 2).double(), torch.randn(3, 1).double().requires_grad_()
    field(y, s).square().sum().backward()
    assert s.grad is not None
    assert s.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


@pytest.mark.parametrize("order", [1, 2])
def test_zero_last_stands_still_or_moves_straight_on(order):
    field = VectorField(4, order=order, zero_last=True)
    y = torch.randn(3, 4)
    expected = torch.zeros(3, 4)
    if order == 2:
        expected[:, :2] = y[:, 2:]
    assert torch.equal(field(y), expected)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("softplus", nn.Softplus),
        ("tanh", nn.Tanh),
        ("silu", nn.SiLU),
        ("elu", nn.ELU),
        ("gelu", nn.GELU),
    ],
)
def test_activations_go_by_name(name, module):
    assert isinstance(VectorField(1, hidden=(2,), activation=name).network[1], module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": 0}, "must be positive"),
        ({"state": 2, "static": -1}, "not negative"),
        ({"state": 2, "hidden": (3, 0)}, "must be positive"),
        ({"state": 3, "order": 2}, "state must be even"),
    ],
)
def test_refuses_impossible_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        VectorField(**options)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"unknown activation 'relu'; there are: softplus"):
        VectorField(2, activation="relu")
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        VectorField(2, order=3)


def test_refuses_a_static_part_it_does_not_know():
    with pytest.raises(ValueError, match=r"2 static numbers of this field .* got None"):
        VectorField(2, static=2)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"0 static numbers .* got shape \(3, 1\)"):
        VectorField(2)(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"2 numbers of the state, got shape \(3, 4\)"):
        VectorField(2)(torch.zeros(3, 4))
