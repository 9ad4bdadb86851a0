"""Models of Pyro, NumPyro and JAX sampled by our kernels, and our targets by their samplers.

The reference values are those of test_posteriors.py: potentials at some points and moments of a
long run of NumPyro's NUTS on eight schools.
"""

import json
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lv_core import Nuts, PerceptronTarget, Sum, adapt, ais, stream, tempered, value_and_grad
from lv_core.diagnostics import mcse_mean, rhat
from lv_core.interop import (
    from_numpyro,
    from_potential,
    from_pyro,
    to_jax_potential,
    to_potential,
)
from lv_core.targets import EightSchools, Gaussian

REFERENCE = json.loads(
    (Path(__file__).parent / "references" / "eight_schools.json").read_text(encoding="utf-8")
)
POINTS = torch.tensor(REFERENCE["points"], dtype=torch.float64)
POTENTIALS = torch.tensor(REFERENCE["potentials"], dtype=torch.float64)
SCHOOLS = EightSchools()
COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 2.0]])


def schools(ppl, dist):
    """Returns eight schools in the language that Pyro and NumPyro share."""

    def model(effects, errors):
        mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
        tau = ppl.sample("tau", dist.HalfCauchy(5.0))
        with ppl.plate("schools", 8):
            eta = ppl.sample("eta", dist.Normal(0.0, 1.0))
            theta = ppl.deterministic("theta", mu + tau * eta)
            ppl.sample("y", dist.Normal(theta, errors), obs=effects)

    return model


@pytest.fixture(scope="module")
def pyro():
    return pytest.importorskip("pyro")


@pytest.fixture(scope="module")
def pyro_schools(pyro):
    model = schools(pyro, pyro.distributions)
    return from_pyro(model, SCHOOLS.effects, errors=SCHOOLS.errors)


@pytest.fixture(scope="module")
def jax():
    """Gives JAX in double precision, as the reference was computed."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def numpyro(jax):
    return pytest.importorskip("numpyro")


@pytest.fixture(scope="module")
def numpyro_schools(numpyro):
    model = schools(numpyro, numpyro.distributions)
    return from_numpyro(model, SCHOOLS.effects.numpy(), errors=SCHOOLS.errors.numpy())


@pytest.fixture(params=["pyro_schools", "numpyro_schools"])
def target(request):
    return request.getfixturevalue(request.param)


def check_target(target) -> None:
    """Asserts values, gradients and names of a target that is eight schools."""
    assert dict(target.layout.shapes) == {"mu": (), "tau": (), "eta": (8,)}
    found, exact = value_and_grad(target, POINTS), value_and_grad(SCHOOLS, POINTS)
    torch.testing.assert_close(found.value, -POTENTIALS, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.grad, exact.grad, rtol=1e-6, atol=1e-6)
    assert (found.value - POTENTIALS).abs().min() > 50  # the sign forgotten


def test_value_and_gradient_are_those_of_the_model(target) -> None:
    check_target(target)
    u = POINTS.reshape(2, 3, 10)
    torch.testing.assert_close(target(u), target(POINTS).reshape(2, 3))
    torch.testing.assert_close(target(u[0, 0]), target(POINTS)[0])
    with pytest.raises(ValueError, match="10"):
        target(POINTS[:, :9])


def test_sites_come_by_name_in_the_space_of_the_model(target) -> None:
    u = POINTS.reshape(2, 3, 10)
    named, exact = target.constrain(u), SCHOOLS.named(u)
    assert set(named) == {"mu", "tau", "eta", "theta"}
    for name, value in exact.items():
        torch.testing.assert_close(named[name], value, rtol=1e-6, atol=1e-6)
    assert torch.equal(target.pack(target.unpack(u)), u)


def test_starts_are_finite_and_leave_the_global_state_alone(target) -> None:
    before = torch.get_rng_state()
    u = target.init(20, generator=stream(0, "starts"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(u, target.init(20, generator=stream(0, "starts")))
    assert u.shape == (20, 10)
    assert target(u).isfinite().all()


def test_points_out_of_range_are_not_errors(target) -> None:
    far = torch.stack((POINTS[0], 1e4 * POINTS[1], torch.full((10,), math.nan).double()))
    values = target(far)
    assert values.isfinite().tolist() == [True, False, False]


def misses(target, u: Tensor) -> list[str]:
    """Returns quantities whose mean is more than five errors from the reference."""
    named, found = target.constrain(u), []
    for name, expected in REFERENCE["quantities"].items():
        site, _, index = name.partition("[")
        draws = named[site][..., int(index[:-1])] if index else named[site]
        error = math.hypot(mcse_mean(draws).item(), expected["mcse_mean"])
        if abs(draws.mean().item() - expected["mean"]) > 5 * error or rhat(draws) > 1.05:
            found.append(name)
    return found


def draws_from(target, init, *, steps: int) -> Tensor:
    generator = stream(0, "schools")
    u = init(64, generator=generator)
    tuned = adapt(Nuts(steps=1, step_size=0.1), target, u, steps=150, generator=generator)
    kernel, state = tuned.kernel, tuned.state
    return kernel.run(target, state, steps=steps, generator=generator, thin=1).u


def test_numpyro_model_sampled_here_reaches_the_reference(numpyro_schools) -> None:
    assert (
        misses(numpyro_schools, draws_from(numpyro_schools, numpyro_schools.init, steps=120)) == []
    )


@pytest.mark.slow
def test_pyro_model_sampled_here_reaches_the_reference(pyro_schools) -> None:
    assert misses(pyro_schools, draws_from(pyro_schools, pyro_schools.init, steps=120)) == []


@pytest.mark.slow
def test_the_check_notices_another_prior(numpyro_schools) -> None:
    # mu ~ N(0, 3^2) in place of N(0, 5^2)
    narrower = Sum({"x": numpyro_schools, "prior": lambda u: -(1 / 18 - 1 / 50) * u[..., 0] ** 2})
    u = draws_from(narrower, numpyro_schools.init, steps=60)
    assert "mu" in misses(numpyro_schools, u)


# --- Pyro


def test_pyro_potential_is_the_one_of_its_own_samplers(pyro) -> None:
    dist = pyro.distributions

    def model(x):  # vectors, bounds, a simplex and a scale on the log density
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        low = pyro.sample("low", dist.Uniform(-1.0, 2.0))
        cov = pyro.sample("cov", dist.LKJCholesky(2, 1.0))
        with pyro.poutine.scale(scale=0.5):
            pyro.sample("x", dist.MultivariateNormal(w[:2] + low, scale_tril=cov), obs=x)

    x = torch.tensor([0.3, -0.2])
    fast, slow = from_pyro(model, x), from_pyro(model, x, batching="loop")
    assert dict(fast.layout.shapes) == {"w": (2,), "low": (), "cov": (1,)}
    u = fast.init(6, generator=stream(0, "u"))
    ours, theirs = value_and_grad(fast, u), value_and_grad(slow, u)
    torch.testing.assert_close(ours.value, theirs.value)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    named = fast.constrain(u.reshape(2, 3, 4))
    assert {name: tuple(v.shape) for name, v in named.items()} == {
        "w": (2, 3, 3),
        "low": (2, 3),
        "cov": (2, 3, 2, 2),
    }
    for name, value in slow.constrain(u).items():
        torch.testing.assert_close(named[name].flatten(0, 1), value)


def test_looking_at_a_pyro_model_draws_nothing_for_good(pyro) -> None:
    before = torch.get_rng_state()
    from_pyro(schools(pyro, pyro.distributions), SCHOOLS.effects, SCHOOLS.errors)
    assert torch.equal(torch.get_rng_state(), before)


def test_discrete_sites_of_pyro_are_summed_out_in_a_loop(pyro) -> None:
    dist = pyro.distributions

    def model(x):
        center = pyro.sample("center", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.3))
        pyro.deterministic("shift", 2.0 * k)
        pyro.sample("x", dist.Normal(center + 4.0 * k, 1.0), obs=x)

    x = torch.tensor(2.5)
    with pytest.raises(ValueError, match=r"discrete sites \['k'\].*batching='loop'"):
        from_pyro(model, x)
    target, u = from_pyro(model, x, batching="loop"), torch.randn(5, 1)

    def normal(x: Tensor, mean: Tensor | float) -> Tensor:
        return torch.distributions.Normal(mean, 1.0).log_prob(x)

    c = u[:, 0]
    both = torch.stack((normal(x, c) + math.log(0.7), normal(x, c + 4) + math.log(0.3)))
    torch.testing.assert_close(target(u), normal(c, 0.0) + both.logsumexp(0))
    assert list(target.constrain(u)) == ["center"]

    def all_discrete():
        pyro.sample("k", dist.Bernoulli(0.3))

    with pytest.raises(ValueError, match="must have a continuous latent site"):
        from_pyro(all_discrete)


def test_branching_pyro_models_are_told_what_to_do(pyro) -> None:
    dist = pyro.distributions

    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if a > 0:
            pyro.factor("bonus", -a)

    with pytest.raises(RuntimeError, match=r"works on one chain.*batching='loop'"):
        from_pyro(model)(torch.randn(4, 1))
    u = torch.tensor([[1.0], [-1.0]])
    gap = from_pyro(model, batching="loop")(u)
    torch.testing.assert_close(gap[0] - gap[1], torch.tensor(-1.0))


def test_pyro_samples_our_target(pyro) -> None:
    potential = to_potential(Gaussian(torch.zeros(2), COVARIANCE), {"a": (), "b": (1,)})
    assert pickle.loads(pickle.dumps(potential)).layout == potential.layout
    kernel = pyro.infer.NUTS(potential_fn=potential)
    start = {"a": torch.zeros(()), "b": torch.zeros(1)}
    mcmc = pyro.infer.MCMC(
        kernel, 250, warmup_steps=150, initial_params=start, disable_progbar=True
    )
    mcmc.run()
    draws = mcmc.get_samples()
    u = torch.stack((draws["a"], draws["b"][:, 0]), -1)[:, None]
    assert (u.mean((0, 1)).abs() < 5 * mcse_mean(u)).all()
    square = u.square()
    assert ((square.mean((0, 1)) - COVARIANCE.diag()).abs() < 5 * mcse_mean(square)).all()


# --- potentials for others


def test_potential_is_minus_the_log_density_by_name() -> None:
    shapes = {"mu": (), "log_tau": (), "eta": (8,)}
    potential = to_potential(SCHOOLS, shapes)
    values = from_potential(lambda z: z["mu"], shapes).unpack(POINTS)
    torch.testing.assert_close(potential(values), POTENTIALS, rtol=1e-8, atol=1e-8)
    one = {name: value[0] for name, value in values.items()}
    assert potential(one).shape == ()
    back = from_potential(potential, shapes)
    torch.testing.assert_close(back(POINTS), -POTENTIALS)
    with pytest.raises(ValueError, match="do not average over the batch"):
        to_potential(lambda u: u.sum(), shapes)(one)


def test_potential_has_the_gradient_that_a_target_computes_itself() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    potential = to_potential(PerceptronTarget(network), {"a": (), "b": (2,)})
    u = torch.randn(5, 3, requires_grad=True)
    energy = potential({"a": u[:, 0], "b": u[:, 1:]})
    (grad,) = torch.autograd.grad(energy.sum(), u)
    exact = 0.5 * u.square().sum(-1) - network(u)[:, 0]
    torch.testing.assert_close(energy, exact)
    torch.testing.assert_close(grad, torch.autograd.grad(exact.sum(), u)[0])


def test_jax_sees_our_target(jax) -> None:
    potential = to_jax_potential(SCHOOLS, {"mu": (), "log_tau": (), "eta": (8,)})
    values = {
        "mu": jax.numpy.array(POINTS[:, 0].numpy()),
        "log_tau": jax.numpy.array(POINTS[:, 1].numpy()),
        "eta": jax.numpy.array(POINTS[:, 2:].numpy()),
    }
    energy, grad = jax.jit(jax.vmap(jax.value_and_grad(potential)))(values)
    assert np.allclose(energy, POTENTIALS.numpy(), rtol=1e-10)
    exact = -value_and_grad(SCHOOLS, POINTS).grad.numpy()
    assert np.allclose(grad["mu"], exact[:, 0], rtol=1e-10)
    assert np.allclose(grad["eta"], exact[:, 2:], rtol=1e-10)
    half = jax.grad(lambda z: 0.5 * potential(z))({name: v[0] for name, v in values.items()})
    assert np.allclose(half["log_tau"], 0.5 * exact[0, 1], rtol=1e-10)
    with pytest.raises(ValueError, match=r"values must be \['mu', 'log_tau', 'eta'\], got"):
        potential({"mu": 0.0})


@pytest.mark.slow
def test_chains_of_numpyro_call_our_target_once_for_all(jax, numpyro) -> None:
    sizes = []

    def density(u):
        sizes.append(len(u))
        return Gaussian(torch.zeros(2, dtype=u.dtype), COVARIANCE.to(u))(u)

    potential = to_jax_potential(density, {"a": (), "b": (1,)})
    # Few calls, as each of them goes to and fro between threads.
    kernel = numpyro.infer.HMC(
        potential_fn=potential,
        trajectory_length=1.2,
        step_size=0.4,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    mcmc = numpyro.infer.MCMC(
        kernel,
        num_warmup=10,
        num_samples=60,
        num_chains=64,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = {"a": jax.numpy.zeros(64), "b": jax.numpy.zeros((64, 1))}
    mcmc.run(jax.random.PRNGKey(0), init_params=start)
    draws = mcmc.get_samples(group_by_chain=True)
    u = np.stack((draws["a"], draws["b"][..., 0]), -1)
    u = torch.from_numpy(u).transpose(0, 1)
    assert set(sizes) == {64}
    assert (u.mean((0, 1)).abs() < 5 * mcse_mean(u)).all()
    square = u.square()
    assert ((square.mean((0, 1)) - COVARIANCE.diag()).abs() < 5 * mcse_mean(square)).all()


# --- JAX

SHAPES = {"a": (), "b": (2, 2)}


@pytest.mark.parametrize("batching", ["vmap", "loop", "native"])
def test_jax_potential_agrees_with_torch(jax, batching) -> None:
    def potential(z):
        scale = np.array([[1.0, 2.0], [3.0, 4.0]])
        return 0.5 * z["a"] ** 2 + (scale * z["b"] ** 2).sum((-1, -2)) * z["a"] ** 2

    def constrain(z):
        return {"a": jax.numpy.exp(z["a"]), "trace": z["b"][..., 0, 0] + z["b"][..., 1, 1]}

    target = from_potential(
        potential, SHAPES, framework="jax", batching=batching, constrain=constrain
    )
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for dtype in (torch.float64, torch.float32):
        u = torch.randn(2, 3, 5, dtype=dtype)

        def exact(u):
            a, b = u[..., 0], u[..., 1:]
            return -0.5 * a**2 - (weight.to(u) * b**2).sum(-1) * a**2

        ours, expected = value_and_grad(target, u), value_and_grad(exact, u)
        assert ours.value.dtype == dtype
        torch.testing.assert_close(ours.value, expected.value)
        torch.testing.assert_close(ours.grad, expected.grad)
    named = target.constrain(u)
    torch.testing.assert_close(named["a"], u[..., 0].exp())
    torch.testing.assert_close(named["trace"], u[..., 1] + u[..., 4])


def test_jax_targets_enter_sums_tempering_and_annealing(jax) -> None:
    def potential(z):  # N(1, I) without its normaliser
        return 0.5 * ((z["u"] - 1.0) ** 2).sum()

    target = from_potential(potential, {"u": (2,)}, framework="jax")
    u = torch.randn(4, 2)
    for wrapped in (tempered(target, 0.5), Sum({"x": (target, 0.5)})):
        found = value_and_grad(wrapped, u)
        torch.testing.assert_close(found.value, -0.25 * (u - 1).square().sum(-1))
        torch.testing.assert_close(found.grad, -0.5 * (u - 1))
    base = Gaussian(torch.zeros(2), 2 * torch.eye(2))
    found = ais(base, target, betas=20, chains=500, generator=stream(0, "ais")).log_z
    assert abs(found.mean.item() - math.log(2 * math.pi)) < 5 * found.standard_error.item()
    assert found.standard_error < 0.1


def test_dtypes_that_jax_would_change_are_refused(jax) -> None:
    target = from_potential(lambda z: (z["u"] ** 2).sum(), {"u": (2,)}, framework="jax")
    with pytest.raises(ValueError, match="float32 or float64 for a target of JAX"):
        target(torch.zeros(3, 2, dtype=torch.bfloat16))
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="u is float64 but JAX computes in float32"):
            target(torch.zeros(3, 2, dtype=torch.float64))
        single = from_potential(lambda z: (z["u"] ** 2).sum(), {"u": (2,)}, framework="jax")
        assert single.init(3).dtype == torch.float32
        assert single(torch.ones(3, 2)).tolist() == [-2.0, -2.0, -2.0]
    finally:
        jax.config.update("jax_enable_x64", True)
    assert target.init(3).dtype == torch.float64


def test_jax_potentials_must_return_one_number(jax) -> None:
    for batching, shape in (("vmap", r"\(\)"), ("native", r"\(3,\)")):
        target = from_potential(
            lambda z: z["u"] ** 2, {"u": (2,)}, framework="jax", batching=batching
        )
        with pytest.raises(ValueError, match=f"potential must return shape {shape}"):
            target(torch.ones(3, 2))


def test_models_of_numpyro_without_latents_are_refused(numpyro) -> None:
    def model():
        numpyro.sample("x", numpyro.distributions.Normal(0.0, 1.0), obs=0.5)

    with pytest.raises(ValueError, match="must have a continuous latent site"):
        from_numpyro(model)


# --- absence


@pytest.mark.parametrize(
    ("missing", "call", "package"),
    [
        ("pyro", lambda: from_pyro(lambda: None), "pyro-ppl"),
        ("jax", lambda: from_potential(lambda z: z, {"u": ()}, framework="jax"), "jax"),
        ("jax", lambda: to_jax_potential(SCHOOLS, {"u": (10,)}), "jax"),
        ("jax", lambda: from_numpyro(lambda: None), "jax"),
        ("numpyro.infer.util", lambda: from_numpyro(lambda: None), "numpyro"),
    ],
)
def test_absence_of_a_library_names_it(monkeypatch, missing, call, package) -> None:
    if missing.startswith("numpyro"):
        pytest.importorskip("jax")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"does not require: pip install {package}"):
        call()
