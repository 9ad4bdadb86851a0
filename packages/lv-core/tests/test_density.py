"""Log densities, their sums, gradients, and frozen parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lv_core import Langevin, Sum, frozen, posterior, tempered, value_and_grad
from lv_core.nn import mlp


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


class Counter:
    """A log density that counts its calls."""

    def __init__(self, function=normal_density) -> None:
        self.function, self.calls = function, 0

    def __call__(self, u: Tensor) -> Tensor:
        self.calls += 1
        return self.function(u)


class BackwardCounter(torch.autograd.Function):
    """The identity, counting how often a gradient flows back through it."""

    calls = 0

    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        return u.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        BackwardCounter.calls += 1
        return grad


class Shifted:
    """A prior whose latent is not its sampling variable."""

    def log_density(self, u: Tensor) -> Tensor:
        return normal_density(u)

    def push(self, u: Tensor) -> Tensor:
        return 2 * u + 1


@given(
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    event=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    double=st.booleans(),
)
def test_gradient_is_that_of_the_formula_for_all_shapes(batch, event, double) -> None:
    u = torch.randn(*batch, *event, dtype=torch.float64 if double else torch.float32)
    axes = tuple(range(len(batch), u.ndim))

    def density(u: Tensor) -> Tensor:
        return (-0.5 * u.square() + u.sin()).sum(axes) if axes else -0.5 * u.square() + u.sin()

    value, grad, parts = value_and_grad(density, u)
    assert value.shape == tuple(batch)
    assert value.dtype == grad.dtype == u.dtype
    assert parts == {}
    torch.testing.assert_close(value, density(u))
    torch.testing.assert_close(grad, -u + u.cos())


def test_a_target_that_is_the_position_itself_has_gradient_one() -> None:
    assert value_and_grad(lambda u: u, torch.zeros(3)).grad.tolist() == [1.0, 1.0, 1.0]


def test_results_are_detached_and_the_input_is_left_alone() -> None:
    u = torch.randn(4, 2)
    value, grad, parts = value_and_grad(Sum({"a": normal_density}), u)
    assert not u.requires_grad
    assert not any(t.requires_grad for t in (value, grad, parts["a"]))


def test_an_input_in_a_graph_is_cut_from_it() -> None:
    w = torch.ones(2, requires_grad=True)
    value_and_grad(normal_density, torch.randn(4, 2) * w)
    assert w.grad is None


def test_parameter_gradients_are_neither_computed_nor_touched() -> None:
    network = mlp((3, 8, 1))
    value_and_grad(lambda u: network(u).squeeze(-1), torch.randn(5, 3))
    assert all(p.grad is None for p in network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    value_and_grad(lambda u: network(u).squeeze(-1), torch.randn(5, 3))
    assert all(bool((p.grad == 7.0).all()) for p in network.parameters())


def test_works_under_no_grad() -> None:
    u = torch.randn(4, 2)
    with torch.no_grad():
        grad = value_and_grad(normal_density, u).grad
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(grad, -u)


def test_a_mean_over_the_batch_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"returned a scalar; .*do not average over the batch"):
        value_and_grad(lambda u: normal_density(u).mean(), torch.randn(4, 2))


@pytest.mark.parametrize(
    "density",
    [lambda u: normal_density(u).unsqueeze(-1), lambda u: normal_density(u)[:2], lambda u: u[0]],
)
def test_other_shapes_are_refused_naming_both(density) -> None:
    with pytest.raises(ValueError, match=r"returned shape .* for u of shape \(4, 2\)"):
        value_and_grad(density, torch.randn(4, 2))


def test_too_many_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the leading"):
        value_and_grad(lambda u: u.unsqueeze(-1), torch.randn(4))


def test_a_detached_target_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"does not depend on u .*remove \.detach\(\)"):
        value_and_grad(lambda u: normal_density(u.detach()), torch.randn(4, 2))


def test_a_target_detached_from_u_alone_is_refused_with_the_remedy() -> None:
    network = nn.Linear(2, 1)  # its parameters give a graph, which u is not part of
    with pytest.raises(ValueError, match=r"does not depend on u .*remove \.detach\(\)"):
        value_and_grad(lambda u: network(u.detach()).squeeze(-1), torch.randn(4, 2))


def test_sum_adds_weighted_terms_and_reports_each() -> None:
    target = Sum({"prior": normal_density, "y": (lambda u: u.sum(-1), 10.0)})
    u = torch.randn(4, 2)
    value, grad, parts = value_and_grad(target, u)
    assert list(parts) == ["prior", "y"] == list(target.names)
    torch.testing.assert_close(parts["y"], 10 * u.sum(-1))
    torch.testing.assert_close(value, normal_density(u) + 10 * u.sum(-1))
    torch.testing.assert_close(target(u), value)
    torch.testing.assert_close(grad, -u + 10)


def test_only_keeps_the_named_terms_with_their_weights() -> None:
    target = Sum({"a": normal_density, "b": (normal_density, 2.0), "c": (normal_density, 4.0)})
    u = torch.randn(4, 2)
    assert target.only("c", "b").names == ("c", "b")
    torch.testing.assert_close(target.only("c", "b")(u), 6 * normal_density(u))


def test_only_refuses_unknown_names_and_lists_the_known() -> None:
    with pytest.raises(KeyError, match="unknown term 'z'; there are: prior, x"):
        Sum({"prior": normal_density, "x": normal_density}).only("prior", "z")


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(ValueError, match="terms must not be empty"):
        Sum({})


@pytest.mark.usefixtures("wrong_types")
def test_a_term_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="term 'x' must be callable, got float"):
        Sum({"x": (1.0, 2.0)})


def test_a_term_averaged_over_the_batch_is_not_broadcast() -> None:
    target = Sum({"prior": normal_density, "x": lambda u: normal_density(u).mean()})
    with pytest.raises(ValueError, match=r"term 'x' has shape \(\), the terms before it \(4,\)"):
        value_and_grad(target, torch.randn(4, 2))


def test_repr_of_a_sum_shows_weights_other_than_one() -> None:
    assert repr(Sum({"a": normal_density, "y": (normal_density, 10)})) == "Sum(a + 10 * y)"


def test_terms_are_evaluated_once_and_share_one_backward_pass() -> None:
    terms = {name: Counter() for name in ("prior", "x", "y")}
    BackwardCounter.calls = 0

    def shared(u: Tensor) -> Tensor:
        return normal_density(BackwardCounter.apply(u))

    value_and_grad(Sum({**terms, "deep": shared}), torch.randn(4, 2))
    assert [term.calls for term in terms.values()] == [1, 1, 1]
    assert BackwardCounter.calls == 1


def test_posterior_adds_prior_of_u_and_likelihood_of_the_pushed_latent() -> None:
    u = torch.randn(4, 2)
    target = posterior(Shifted(), lambda z: 3 * z.sum(-1))
    assert target.names == ("prior", "x")
    torch.testing.assert_close(target(u), normal_density(u) + 3 * (2 * u + 1).sum(-1))


def test_tempered_scales_value_and_gradient() -> None:
    u = torch.randn(4, 2)
    value, grad, _ = value_and_grad(tempered(normal_density, 0.25), u)
    torch.testing.assert_close(value, 0.25 * normal_density(u))
    torch.testing.assert_close(grad, -0.25 * u)


def test_frozen_switches_parameters_off_and_restores_each_flag() -> None:
    network = mlp((2, 3, 1))
    network[0].bias.requires_grad_(False)
    before = [p.requires_grad for p in network.parameters()]
    with frozen(network, network[0]):
        assert not any(p.requires_grad for p in network.parameters())
        with frozen(network):
            pass
        assert not any(p.requires_grad for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == before == [True, False, True, True]


def test_frozen_restores_after_an_exception() -> None:
    network = nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="inside"), frozen(network):
        raise RuntimeError("inside")
    assert all(p.requires_grad for p in network.parameters())


def test_a_frozen_network_still_gives_gradients_of_u() -> None:
    network = mlp((2, 8, 1))

    def density(u: Tensor) -> Tensor:
        return network(u).squeeze(-1)

    u = torch.randn(4, 2)
    expected = value_and_grad(density, u).grad
    with frozen(network):
        assert torch.equal(value_and_grad(density, u).grad, expected)


def test_float32_positions_stay_float32_under_autocast() -> None:
    network = mlp((2, 8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = Langevin(steps=2, step_size=0.1)(lambda u: network(u).squeeze(-1), torch.randn(4, 2))
    assert z.dtype == torch.float32
