"""Samplers against long runs of another library on four standard posteriors.

The files of references/ are written by benchmarks/references.py: NumPyro's NUTS in float64, with
the models written a second time. They hold potential energies, which catch a missing Jacobian or
another prior, and the moments that our samplers must reach.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lv_core import Draws, Hmc, Nuts, adapt, normal, stream
from lv_core.diagnostics import mcse_mean, rhat
from lv_core.targets import Autoregression, EightSchools, OrderedMixture, ScaledRegression

FOLDER = Path(__file__).parent / "references"
TARGETS = {
    "eight_schools": EightSchools(),
    "scaled_regression": ScaledRegression(),
    "autoregression": Autoregression(),
    "ordered_mixture": OrderedMixture(),
}
every = pytest.mark.parametrize("name", TARGETS)


def reference(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def scalars(target, u) -> dict[str, torch.Tensor]:
    """Returns every scalar of `named(u)`: `theta` as `theta[0]`, ..."""
    found = {}
    for name, values in target.named(u).items():
        if values.ndim == u.ndim - 1:
            found[name] = values
        else:
            found |= {f"{name}[{k}]": values[..., k] for k in range(values.shape[-1])}
    return found


# Logarithms of the transforms' Jacobian determinants, which a user may forget.
JACOBIANS = {
    "eight_schools": lambda u: u[..., 1],
    "scaled_regression": lambda u: u[..., -1],
    "autoregression": lambda u: u[..., -1],
    "ordered_mixture": lambda u: u[..., 1] + u[..., 2:4].sum(-1),
}


@every
def test_log_density_is_that_of_the_same_model_in_numpyro(name) -> None:
    target, record = TARGETS[name], reference(name)
    u = torch.tensor(record["points"], dtype=torch.float64)
    expected = -torch.tensor(record["potentials"], dtype=torch.float64)
    torch.testing.assert_close(target(u), expected, rtol=1e-10, atol=1e-8)
    # Up to a constant, the density without the Jacobian is another one.
    gap = target(u) - JACOBIANS[name](u) - expected
    assert (gap - gap.mean()).abs().max() > 0.1


def test_jacobian_of_the_order_is_the_determinant_of_the_map() -> None:
    target = TARGETS["ordered_mixture"]
    u = torch.tensor([0.3, -0.7, 0.2, 0.4, 1.1], dtype=torch.float64)

    def free(u):
        named = target.named(u)
        return torch.cat((named["means"], named["scales"].log(), named["weights"][:1]))

    exact = torch.autograd.functional.jacobian(free, u).det().log()
    w = u[4].sigmoid()
    torch.testing.assert_close(exact, u[1] + (w * (1 - w)).log())


@every
def test_named_quantities_keep_their_constraints(name) -> None:
    target = TARGETS[name]
    named = target.named(3 * torch.randn(2, 50, target.dim, dtype=torch.float64))
    assert {*named} == {key.split("[")[0] for key in reference(name)["quantities"]}
    for positive in {"tau", "sigma", "scales", "weights"} & {*named}:
        assert (named[positive] > 0).all()
    if "weights" in named:
        assert (named["weights"].sum(-1) - 1).abs().max() < 1e-12
        assert (named["means"].diff(dim=-1) > 0).all()


@every
def test_log_density_takes_any_batch_and_dtype(name) -> None:
    target = TARGETS[name]
    u = 0.3 * torch.randn(2, 3, target.dim, dtype=torch.float64)
    value = target(u)
    assert value.shape == (2, 3)
    torch.testing.assert_close(target(u[1, 2]), value[1, 2])
    single = target(u.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), value, rtol=1e-4, atol=1e-3)


def test_lags_are_the_values_before() -> None:
    target = TARGETS["autoregression"]
    for k in range(1, 8):
        assert torch.equal(target.lags[:, k - 1], target.series[7 - k : -k])


@every
def test_reference_runs_converged(name) -> None:
    for quantity in reference(name)["quantities"].values():
        assert abs(quantity["rhat"] - 1) < 0.002
        assert quantity["mcse_mean"] < 0.01 * quantity["sd"]


CHAINS = 64
KERNELS = {
    "hmc": Hmc(steps=400, step_size=0.1, leapfrog=10, jitter=0.3),
    "nuts": Nuts(steps=250, step_size=0.1),
}


def starts(target, generator):
    return torch.empty(CHAINS, target.dim, dtype=torch.float64).normal_(generator=generator)


def adapted_from_afar(kernel, target, generator):
    """Adapts in three stages, for starts thousands of nats below the mode.

    A step size for each chain brings them near (one for all would leave behind those that need
    a shorter one); short trajectories learn the scales; then the kernel itself is tuned.
    """
    short = Hmc(steps=1, step_size=0.1, leapfrog=5)
    near = adapt(
        short,
        target,
        starts(target, generator),
        steps=200,
        per_chain=True,
        scale=False,
        generator=generator,
    )
    rough = adapt(short, target, near.state, steps=200, generator=generator)
    kernel = replace(kernel, step_size=rough.kernel.step_size)
    return adapt(kernel, target, rough.state, steps=200, generator=generator)


def misses(name: str, u, *, largest_rhat: float = 1.02) -> dict[str, str]:
    """Returns what is wrong with draws `(draws, chains, dim)`, by quantity."""
    found = {}
    expected = reference(name)["quantities"]
    for quantity, values in scalars(TARGETS[name], u).items():
        record = expected[quantity]
        error = (mcse_mean(values).square() + record["mcse_mean"] ** 2).sqrt()
        score = ((values.mean() - record["mean"]) / error).item()
        ratio = (values.std() / record["sd"]).item()
        spread = rhat(values).item()
        # Some 60 means are compared: 4.5 errors are passed by chance once in 2,500 suites. The
        # deviations' own errors are below 1.5 %.
        if not (abs(score) < 4.5 and 0.93 < ratio < 1.07 and spread < largest_rhat):
            found[quantity] = f"mean off by {score:.1f} errors, sd {ratio:.3f}, R-hat {spread:.3f}"
    return found


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_reaches_the_reference_on_eight_schools(kernel) -> None:
    target, generator = TARGETS["eight_schools"], stream(0, "eight schools")
    tuned = adapt(kernel, target, starts(target, generator), steps=300, generator=generator)
    trace = tuned.kernel.run(target, tuned.state, generator=generator, thin=1)
    assert misses("eight_schools", trace.u) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaled_regression", "autoregression", "ordered_mixture"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_reaches_the_reference_from_afar(kernel, name) -> None:
    target, generator = TARGETS[name], stream(0, "afar", name)
    tuned = adapted_from_afar(kernel, target, generator)
    steps = 2 * kernel.steps
    trace = tuned.kernel.run(target, tuned.state, generator=generator, steps=steps, thin=1)
    assert misses(name, trace.u) == {}


def test_with_the_jacobian_twice_the_reference_is_missed() -> None:
    target, generator = TARGETS["eight_schools"], stream(0, "Jacobian")

    def wrong(u):
        return target(u) + JACOBIANS["eight_schools"](u)

    u = starts(target, generator)
    tuned = adapt(KERNELS["hmc"], wrong, u, steps=100, generator=generator)
    trace = tuned.kernel.run(wrong, tuned.state, generator=generator, steps=200, thin=1)
    assert "tau" in misses("eight_schools", trace.u, largest_rhat=1.2)


def test_without_the_metropolis_step_the_reference_is_missed() -> None:
    name, generator = "eight_schools", stream(0, "Metropolis")
    target = TARGETS[name]
    u = starts(target, generator)
    tuned = adapt(KERNELS["hmc"], target, u, steps=200, generator=generator)
    # A longer step than the tuned one, so that there is something to correct.
    coarse = replace(tuned.kernel, step_size=1.5 * tuned.kernel.step_size, leapfrog=3)
    exact = coarse.run(target, tuned.state, generator=generator, steps=400, thin=1)
    assert misses(name, exact.u) == {}
    state, kept = coarse.refresh(target, tuned.state), []
    for _ in range(200):
        # No jitter, and a uniform number of zero accepts every proposal of finite energy.
        zero = torch.zeros(CHAINS, dtype=torch.float64)
        half = zero + 0.5
        draws = Draws(normals=[normal(state.u, generator)], uniforms=[half, zero])
        state, _ = coarse.step(target, state, generator=draws)
        kept.append(state.u)
    assert len(misses(name, torch.stack(kept), largest_rhat=1.3)) > 5
