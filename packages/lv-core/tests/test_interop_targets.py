"""Targets from functions, potentials and distributions of torch, against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as D

from lv_core import Hmc, Sum, adapt, stream, tempered, value_and_grad
from lv_core.diagnostics import mcse_mean
from lv_core.interop import from_distribution, from_log_prob, from_potential
from lv_core.interop.batching import over_chains
from lv_core.interop.given_gradient import given_gradient
from lv_core.interop.potential import PotentialTarget
from lv_core.targets import EightSchools, Gaussian

every = pytest.mark.parametrize("batching", ["vmap", "loop", "native"])


def one_density(w: Tensor) -> Tensor:
    """A density of one chain that looks at all its coordinates."""
    return -0.25 * (w[0] - 1) ** 4 - (w[1:] * w[0]).square().sum() - w.cos().prod()


def gradient_of(function, u: Tensor) -> Tensor:
    point = u.detach().clone().requires_grad_(True)
    return torch.autograd.grad(function(point), point)[0]


# --- functions of one chain


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_function_of_one_chain_serves_all(batching, batch) -> None:
    u = torch.randn(*batch, 4, dtype=torch.float64)
    found = value_and_grad(from_log_prob(one_density, batching=batching), u[None])
    rows = u.reshape(-1, 4)
    values = torch.stack([one_density(row) for row in rows]).reshape(1, *batch)
    grads = torch.stack([gradient_of(one_density, row) for row in rows]).reshape(1, *batch, 4)
    torch.testing.assert_close(found.value, values)
    torch.testing.assert_close(found.grad, grads)


def test_events_may_have_any_number_of_axes() -> None:
    u = torch.randn(5, 2, 3)
    image = from_log_prob(lambda w: -w.square().sum() * w[1, 2], event_ndim=2)
    torch.testing.assert_close(image(u), -u.square().sum((1, 2)) * u[:, 1, 2])
    number = from_log_prob(lambda w: -w.square(), event_ndim=0)
    torch.testing.assert_close(number(u), -u.square())
    with pytest.raises(ValueError, match=r"at least event_ndim=2 axes, got \(3,\)"):
        image(u[0, 0])
    with pytest.raises(ValueError, match="event_ndim must not be negative, got -1"):
        from_log_prob(one_density, event_ndim=-1)


def test_native_functions_take_the_chains_as_one_axis() -> None:
    seen = []

    def density(u):
        seen.append(u.shape)
        return -u.square().sum(-1)

    u = torch.randn(2, 3, 4)
    target = from_log_prob(density, batching="native")
    torch.testing.assert_close(target(u), -u.square().sum(-1))
    assert seen == [(6, 4)]


def branching(w: Tensor) -> Tensor:
    return -w.square().sum() if w[0].item() > 0 else -w.abs().sum()


@pytest.mark.parametrize(
    "function",
    [
        branching,
        lambda w: -w.square().sum() if w.sum() > 0 else -w.abs().sum(),
        lambda w: -(w + torch.randn(3)).square().sum(),
        lambda w: -w.data.square().sum(),
    ],
    ids=["item", "if", "random", "data"],
)
def test_functions_that_vmap_refuses_are_told_what_to_do(function) -> None:
    with pytest.raises(RuntimeError, match=r"works on one chain.*torch\.where.*batching='loop'"):
        from_log_prob(function)(torch.randn(4, 3))
    assert from_log_prob(function, batching="loop")(torch.randn(4, 3)).shape == (4,)


def test_loop_is_right_where_vmap_refuses() -> None:
    u = torch.tensor([[1.0, 2.0], [-1.0, 2.0]])
    found = value_and_grad(from_log_prob(branching, batching="loop"), u)
    assert found.value.tolist() == [-5.0, -3.0]
    assert found.grad.tolist() == [[-2.0, -4.0], [1.0, -1.0]]


def test_errors_of_the_function_itself_pass_unchanged() -> None:
    def broken(w):
        return (w @ torch.ones(7)).sum()

    with pytest.raises(RuntimeError) as caught:
        from_log_prob(broken)(torch.randn(4, 3))
    assert "works on one chain" not in str(caught.value)


@pytest.mark.usefixtures("wrong_types")
@every
def test_functions_must_return_one_number_each(batching) -> None:
    with pytest.raises(ValueError, match=r"must return a tensor of shape \((4,)?\).*got \("):
        from_log_prob(lambda u: u.square().sum((0, -1))[None, None], batching=batching)(
            torch.ones(4, 3, 2)[..., 0]
        ) if batching == "native" else from_log_prob(lambda w: w, batching=batching)(
            torch.ones(4, 3)
        )
    with pytest.raises(ValueError, match="got float"):
        from_log_prob(lambda u: 1.0, batching=batching)(torch.ones(4, 3))


@pytest.mark.usefixtures("wrong_types")
def test_unknown_ways_of_batching_are_refused() -> None:
    with pytest.raises(ValueError, match="'vmap', 'loop' or 'native', got 'pmap'"):
        over_chains(one_density, "pmap")
    with pytest.raises(ValueError, match="framework must be 'torch' or 'jax', got 'tf'"):
        from_potential(one_density, {"u": (2,)}, framework="tf")


@every
def test_parameters_get_no_gradients(batching) -> None:
    net = nn.Linear(3, 1)
    target = from_log_prob(lambda u: net(u).squeeze(-1), batching=batching)
    u = torch.randn(5, 3)
    torch.testing.assert_close(value_and_grad(target, u).grad, net.weight.detach().expand(5, 3))
    assert net.weight.grad is None
    # Where a loss asks for them, they are there.
    target(u).sum().backward()
    torch.testing.assert_close(net.weight.grad, u.sum(0, keepdim=True))


# --- potentials

SHAPES = {"mu": (), "log_tau": (), "eta": (8,)}


def schools_potential(z: dict[str, Tensor]) -> Tensor:
    """Eight schools, one chain, in pieces of torch.distributions."""
    data = EightSchools()
    tau = z["log_tau"].exp()
    theta = z["mu"] + tau * z["eta"]
    prior = D.Normal(0.0, 5.0).log_prob(z["mu"]) + z["log_tau"]
    prior = prior + math.log(2 / (5 * math.pi)) - torch.log1p((tau / 5) ** 2)
    prior = prior + D.Normal(0.0, 1.0).log_prob(z["eta"]).sum()
    noise = D.Normal(theta, data.errors, validate_args=False)
    return -(prior + noise.log_prob(data.effects).sum())


def test_potential_of_one_chain_is_the_target_of_all() -> None:
    exact = EightSchools()
    target = from_potential(schools_potential, SHAPES)
    u = torch.randn(3, 5, target.dim, dtype=torch.float64)
    ours, expected = value_and_grad(target, u), value_and_grad(exact, u)
    torch.testing.assert_close(ours.value, expected.value)
    torch.testing.assert_close(ours.grad, expected.grad)
    # A density in place of a potential is another target.
    wrong = from_potential(lambda z: -schools_potential(z), SHAPES)
    assert (wrong(u) - expected.value).abs().min() > 1
    assert target.dim == 10
    assert repr(target) == f"TorchPotentialTarget({SHAPES})"


@every
def test_values_come_by_name(batching) -> None:
    def constrain(z):
        return {"mu": z["mu"], "tau": z["log_tau"].exp(), "sum": z["eta"].sum(-1)}

    target = from_potential(schools_potential, SHAPES, batching=batching, constrain=constrain)
    u = torch.randn(3, 5, 10)
    named = target.constrain(u)
    assert list(named) == ["mu", "tau", "sum"]
    torch.testing.assert_close(named["tau"], u[..., 1].exp())
    torch.testing.assert_close(named["sum"], u[..., 2:].sum(-1))
    free = target.unpack(u)
    assert torch.equal(target.pack(free), u)
    plain = from_potential(schools_potential, SHAPES)
    assert torch.equal(plain.constrain(u)["eta"], free["eta"])


@every
def test_values_of_a_model_are_detached(batching) -> None:
    target = from_potential(
        schools_potential, SHAPES, batching=batching, constrain=lambda z: {"m": 2 * z["mu"]}
    )
    assert not target.constrain(torch.randn(4, 10, requires_grad=True))["m"].requires_grad


def test_native_potentials_get_all_chains() -> None:
    def potential(z):
        return 0.5 * z["a"].square() + 0.5 * z["b"].square().sum(-1)

    target = from_potential(potential, {"a": (), "b": (2,)}, batching="native")
    u = torch.randn(4, 6, 3)
    torch.testing.assert_close(target(u), -0.5 * u.square().sum(-1))


def run_on(potential) -> Tensor:
    target = from_potential(potential, {"a": (), "b": (2,)})
    kernel = Hmc(steps=300, step_size=0.7, leapfrog=3)
    u = torch.randn(64, 3, generator=stream(0, "start"))
    return kernel.run(target, u, generator=stream(0, "hmc"), thin=1).u


def test_sign_of_the_potential_decides_where_chains_go() -> None:
    def potential(z):
        return 0.5 * z["a"].square() + 0.5 * z["b"].square().sum() / 4

    u = run_on(potential)
    exact = torch.tensor([1.0, 4.0, 4.0])
    # Five standard errors of the mean square.
    assert ((u.square().mean((0, 1)) - exact).abs() < 5 * mcse_mean(u.square())).all()
    away = run_on(lambda z: -potential(z))
    assert (away[-1].square().mean(0) > 5 * exact).all()


# --- starts


def test_starts_are_uniform_and_a_function_of_the_generator() -> None:
    target = from_potential(schools_potential, SHAPES)
    before = torch.get_rng_state()
    u = target.init(4000, generator=stream(0, "starts"))
    assert torch.equal(u, target.init(4000, generator=stream(0, "starts")))
    assert not torch.equal(u, target.init(4000, generator=stream(1, "starts")))
    assert torch.equal(torch.get_rng_state(), before)
    assert u.abs().max() <= 2
    # Var = 4 / 3 with standard error sqrt((16 / 5 - 16 / 9) / 40000) = 0.006.
    assert abs(u.square().mean().item() - 4 / 3) < 0.03
    assert target.init(50, radius=0.1).abs().max() <= 0.1


def test_starts_of_non_finite_density_are_drawn_again() -> None:
    def potential(z):  # infinite, or of NaN gradient, below zero
        return -torch.log(z["a"]) + z["a"] + 0.0 * z["b"].sqrt().sum()

    target = from_potential(potential, {"a": (), "b": (2,)})
    u = target.init(200, generator=stream(0, "starts"))
    assert (u > 0).all()
    nowhere = from_potential(lambda z: (-1 - z["a"].square()).log(), {"a": ()})
    with pytest.raises(ValueError, match=r"5 of 5 chains found no start .* within 2\.0"):
        nowhere.init(5)
    for n, radius in ((0, 1.0), (5, 0.0)):
        with pytest.raises(ValueError, match="n and radius must be positive"):
            target.init(n, radius=radius)


# --- distributions

SCALARS = {
    "normal": D.Normal(1.0, 2.0),
    "gamma": D.Gamma(torch.tensor(3.5), torch.tensor(1.5)),
    "beta": D.Beta(torch.tensor(2.0), torch.tensor(3.0)),
    "half": D.HalfNormal(torch.tensor(2.0)),
    "uniform": D.Uniform(torch.tensor(-1.0), torch.tensor(3.0)),
    "mixture": D.MixtureSameFamily(
        D.Categorical(torch.tensor([0.3, 0.7])),
        D.Gamma(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0])),
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_density_over_unconstrained_points_has_mass_one(name) -> None:
    distribution = SCALARS[name]
    target = from_distribution(distribution)
    u = torch.linspace(-40, 40, 200_001)
    mass = torch.trapezoid(target(u).double().exp(), u.double())
    assert abs(mass.item() - 1) < 1e-3
    if name != "normal":
        bare = target.distribution.log_prob(target.constrain(u))  # without the Jacobian
        mass = torch.trapezoid(bare.double().exp(), u.double())
        assert abs(mass.item() - 1) > 0.1


def test_log_normal_becomes_normal() -> None:
    u = torch.linspace(-5, 5, 101)
    target = from_distribution(D.LogNormal(torch.tensor(0.5), torch.tensor(0.7)))
    torch.testing.assert_close(target(u), D.Normal(0.5, 0.7).log_prob(u), rtol=1e-4, atol=1e-4)


VECTORS = {
    "independent": (D.Independent(D.Gamma(torch.ones(3), torch.ones(3)), 1), (3,), ()),
    "dirichlet": (D.Dirichlet(torch.tensor([2.0, 3.0, 5.0])), (2,), ()),
    "normal": (D.MultivariateNormal(torch.zeros(3), torch.eye(3)), (3,), ()),
    "lkj": (D.LKJCholesky(3, 2.0), (3,), ()),
    "items": (D.Dirichlet(torch.ones(5, 3)), (2,), (5,)),
    "flow": (
        D.TransformedDistribution(
            D.Independent(D.Normal(torch.zeros(2), torch.ones(2)), 1), [D.ExpTransform()]
        ),
        (2,),
        (),
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_one_value_per_event_whatever_its_shape(name) -> None:
    distribution, event, batch = VECTORS[name]
    target = from_distribution(distribution)
    assert target.event_shape == event
    u = target.init(6, generator=stream(0, "starts"))
    assert u.shape == (6, *batch, *event)
    found = value_and_grad(target, u)
    assert found.value.shape == (6, *batch)
    x = target.constrain(u)
    assert distribution.support.check(x).all()
    torch.testing.assert_close(target.unconstrain(x), u, rtol=1e-3, atol=1e-4)


def test_points_out_of_range_are_not_errors() -> None:
    dirichlet = from_distribution(D.Dirichlet(torch.ones(3)))
    extreme = torch.tensor([[1e4, 0.0], [-1e4, 1e4], [math.nan, 0.0]])
    assert dirichlet(extreme).shape == (3,)
    gamma = D.Independent(D.Gamma(torch.ones(2), torch.ones(2)), 1)
    assert from_distribution(gamma)(torch.full((3, 2), math.nan)).isnan().all()
    assert gamma._validate_args  # the original is as it was
    assert gamma.base_dist._validate_args


def test_chains_on_a_simplex_reach_its_moments() -> None:
    concentration = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    target = from_distribution(D.Dirichlet(concentration))
    u = target.init(64, generator=stream(0, "starts"))
    assert u.dtype == torch.float64
    kernel = Hmc(steps=300, step_size=0.5, leapfrog=4)
    tuned = adapt(kernel, target, u, steps=100, generator=stream(0, "tune"))
    trace = tuned.kernel.run(target, tuned.state, generator=stream(0, "run"), thin=1)
    x = target.constrain(trace.u)
    error = mcse_mean(x)
    assert ((x.mean((0, 1)) - concentration / 10).abs() < 5 * error).all()
    # Without the Jacobian the concentrations are less by one: 1, 2, 4 of 7.
    assert ((torch.tensor([1.0, 2.0, 4.0]) / 7 - concentration / 10).abs() > 10 * error).any()


def test_distributions_without_parameters_start_in_the_default_dtype() -> None:
    class Standard(D.Distribution):
        arg_constraints: dict = {}  # noqa: RUF012
        support = D.constraints.real

        def log_prob(self, value):
            return -0.5 * value.square()

    u = from_distribution(Standard()).init(3)
    assert (u.shape, u.dtype) == ((3,), torch.float32)
    doubles = D.Independent(D.Normal(torch.zeros(2).double(), 1.0), 1)
    assert from_distribution(doubles).init(3).dtype == torch.float64


def test_supports_without_a_map_are_refused() -> None:
    bounds = D.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))
    uneven = D.MixtureSameFamily(D.Categorical(torch.ones(2)), bounds)
    for discrete in (D.Poisson(2.0), D.Categorical(torch.ones(3)), uneven):
        with pytest.raises(ValueError, match="must have a continuous support"):
            from_distribution(discrete)


# --- gradients given by somebody else


def test_given_gradients_enter_sums_and_tempering() -> None:
    exact = Gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 2.0, 3.0])))

    class Own(PotentialTarget):
        def evaluate(self, u):
            return value_and_grad(exact, u)

        def __call__(self, u):
            return given_gradient(self.evaluate, u)

    own, u = Own({"u": (3,)}), torch.randn(2, 5, 3)
    for wrap in (lambda f: Sum({"x": (f, 2.0), "y": f}), lambda f: tempered(f, 0.3)):
        ours, expected = value_and_grad(wrap(own), u), value_and_grad(wrap(exact), u)
        torch.testing.assert_close(ours.value, expected.value)
        torch.testing.assert_close(ours.grad, expected.grad)
    point = u.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(own(point).square().sum(), point, create_graph=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(grad.sum(), point)
