"""The closed-form perceptron target against automatic differentiation."""

import pytest
import torch
from torch import nn

from lv_core import Langevin, Mala, PerceptronTarget, Sum, stream, value_and_grad
from lv_core.nn import mlp

ACTIVATIONS = ("gelu", "silu", "tanh", "relu", "leaky_relu")
SIZES = ((5, 16, 12, 1), (5, 16, 3), (5, 7, 1), (5, 1), (5, 4))


def automatic(target: PerceptronTarget, u: torch.Tensor):
    # A plain function, which hides the closed form.
    return value_and_grad(lambda point: target(point), u)


@pytest.mark.parametrize("scale", [0.5, None])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_automatic_differentiation(device, activation, sizes, scale) -> None:
    network = mlp(sizes, activation=activation).double().to(device)
    target = PerceptronTarget(network, scale=scale)
    u = torch.randn(3, 4, 5, dtype=torch.float64, device=device)
    own, other = target.evaluate(u), automatic(target, u)
    torch.testing.assert_close(own.value, other.value)
    torch.testing.assert_close(own.grad, other.grad)
    # Wrong control: another reference.
    wrong = PerceptronTarget(network, scale=0.7).evaluate(u)
    assert not torch.allclose(own.value, wrong.value)
    assert not torch.allclose(own.grad, wrong.grad)


def test_one_output_is_taken_as_it_is_and_several_by_logsumexp() -> None:
    one, several = mlp((5, 6, 1)), mlp((5, 6, 3))
    u = torch.randn(4, 5)
    flat = PerceptronTarget(one, scale=None)
    torch.testing.assert_close(flat.evaluate(u).value, one(u).squeeze(-1))
    mixed = PerceptronTarget(several, scale=None)
    torch.testing.assert_close(mixed.evaluate(u).value, several(u).logsumexp(-1))


def test_the_tanh_form_of_gelu_and_layers_without_bias() -> None:
    network = nn.Sequential(
        nn.Linear(5, 8, bias=False), nn.GELU(approximate="tanh"), nn.Linear(8, 1, bias=False)
    ).double()
    target, u = PerceptronTarget(network), torch.randn(6, 5, dtype=torch.float64)
    own, other = target.evaluate(u), automatic(target, u)
    torch.testing.assert_close(own.value, other.value)
    torch.testing.assert_close(own.grad, other.grad)


def test_sees_parameters_change_in_place_and_by_replacement() -> None:
    network, u = mlp((5, 6, 6, 1)), torch.randn(4, 5)
    target = PerceptronTarget(network)
    before = target.evaluate(u).grad.clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network(u).sum().backward()
    optimizer.step()
    after = target.evaluate(u).grad.clone()
    torch.testing.assert_close(after, automatic(target, u).grad)
    assert not torch.allclose(after, before)
    network[0].weight = nn.Parameter(torch.randn(6, 5))
    torch.testing.assert_close(target.evaluate(u).grad, automatic(target, u).grad)
    network.double()
    torch.testing.assert_close(
        target.evaluate(u.double()).grad, automatic(target, u.double()).grad
    )


def test_leaves_parameter_gradients_alone() -> None:
    network = mlp((5, 6, 1))
    Langevin(steps=3, step_size=0.1)(PerceptronTarget(network), torch.randn(4, 5))
    assert all(p.grad is None for p in network.parameters())


def test_works_for_batches_of_changing_size_and_layout() -> None:
    target = PerceptronTarget(mlp((5, 6, 1)))
    for u in (torch.randn(4, 5), torch.randn(7, 5), torch.randn(4, 5), torch.randn(5, 4).T):
        torch.testing.assert_close(target.evaluate(u).grad, automatic(target, u).grad)
    assert target.evaluate(torch.randn(5)).value.shape == ()


@pytest.mark.parametrize(
    "kernel", [Langevin(steps=9, step_size=0.3), Mala(steps=9, step_size=0.9)]
)
def test_kernels_give_the_chain_of_automatic_differentiation(kernel) -> None:
    """Fails if a kernel kept a gradient that lies in the target's buffer."""
    target = PerceptronTarget(mlp((5, 16, 16, 1)).double(), scale=0.8)
    u = torch.randn(32, 5, dtype=torch.float64)
    own = kernel.run(target, u, generator=stream(0), thin=1)
    other = kernel.run(lambda point: target(point), u, generator=stream(0), thin=1)
    torch.testing.assert_close(own.u, other.u)
    torch.testing.assert_close(own.log_density, other.log_density)
    torch.testing.assert_close(own.grad_norm, other.grad_norm)


def test_is_a_term_of_a_sum() -> None:
    target = PerceptronTarget(mlp((5, 6, 1)))
    u = torch.randn(4, 5)
    total = Sum({"prior": target, "x": (lambda z: z.sum(-1), 2.0)})
    torch.testing.assert_close(value_and_grad(total, u).grad, automatic(target, u).grad + 2.0)


def test_has_the_stationary_variance_of_the_flat_energy() -> None:
    network = mlp((4, 8, 1))
    nn.init.zeros_(network[-1].weight)
    u = torch.randn(50_000, 4, generator=stream(0, "start"))
    ends = Langevin(steps=60, step_size=0.4)(
        PerceptronTarget(network), u, generator=stream(0, "flat")
    )
    # 200,000 numbers: standard error of the variance 0.0033.
    assert abs(ends.var().item() - 1 / (1 - 0.04)) < 0.0165
    assert abs(ends.var().item() - 1.0) > 0.0165  # wrong control: the target's own variance


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (nn.Linear(5, 1), TypeError, "must be an nn.Sequential, got Linear"),
        (nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1)), TypeError, "no buffered"),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1)), ValueError, "one activation between"),
        (nn.Sequential(nn.Linear(5, 4), nn.Tanh()), ValueError, "one activation between"),
        (nn.Sequential(), ValueError, "one activation between"),
    ],
)
def test_refuses_networks_without_closed_form(network, error, message) -> None:
    with pytest.raises(error, match=message):
        PerceptronTarget(network)


def test_refuses_points_of_another_shape_or_dtype() -> None:
    target = PerceptronTarget(mlp((5, 6, 1)))
    with pytest.raises(ValueError, match=r"must end in 5 coordinates of torch.float32"):
        target.evaluate(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"got shape \(3, 5\) of torch.float64"):
        target.evaluate(torch.zeros(3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"scale must be positive or None, got -1\.0"):
        PerceptronTarget(mlp((5, 6, 1)), scale=-1.0)


def test_has_a_hessian_at_the_origin() -> None:
    target = PerceptronTarget(mlp((3, 6, 1), activation="tanh").double(), scale=0.5)
    hessian = torch.autograd.functional.hessian(target, torch.zeros(3, dtype=torch.float64))
    assert torch.isfinite(hessian).all()
    bare = PerceptronTarget(target.network, scale=None)
    at_zero = torch.autograd.functional.hessian(bare, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(hessian, at_zero - 4 * torch.eye(3, dtype=torch.float64))
