"""Samplers against long runs of another library on four standard posteriors.

The files of references/ are written by benchmarks/references.py: NumPyro's NUTS in float64, with
the models written a second time. They hold potential energies, which catch a missing Jacobian or
another prior, and the moments that our samplers must reach.
"""

import json
from pathlib import Path

import pytest
import torch

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
