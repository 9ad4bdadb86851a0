"""Convergence diagnostics against ArviZ and against autoregressive chains in closed form."""

import contextlib
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lv_core import stream
from lv_core.diagnostics.autocorrelation import autocorrelation
from lv_core.diagnostics.convergence import (
    autocorrelation_time,
    ess_bulk,
    ess_mean,
    ess_tail,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    rhat,
)
from lv_core.diagnostics.incomplete_beta import beta_quantile


def normals(*shape: int, name: str = "noise") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=stream(0, name))


def autoregressive(phi: float, draws: int, *shape: int) -> Tensor:
    """Returns stationary draws with variance one and autocorrelation phi^lag."""
    eps = normals(draws, *shape, name=f"ar {phi}")
    rows = [eps[0]]
    for row in eps[1:]:
        rows.append(phi * rows[-1] + math.sqrt(1 - phi**2) * row)
    return torch.stack(rows)


def ours(u: Tensor) -> Tensor:
    """Returns every diagnostic of `(draws, chains, event)`, stacked along a last axis."""
    values = [f(u) for f in (rhat, ess_bulk, ess_tail, ess_mean, mcse_mean, mcse_sd)]
    return torch.stack([*values, *(mcse_quantile(u, prob=p) for p in (0.1, 0.5))], -1)


def load_arviz() -> Any:
    # Some releases warn at their first import of the day that a newer line exists.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    # Where numba happens to be installed, arviz 0.23 fails on numpy >= 2.4; plain numpy agrees.
    with contextlib.suppress(ValueError):
        arviz.Numba.disable_numba()
    return arviz


def theirs(u: Tensor) -> Tensor:
    arviz = load_arviz()
    rows = []
    for k in range(u.shape[2]):
        x = u[..., k].T.numpy()
        with np.errstate(all="ignore"):
            values = [
                arviz.rhat(x),
                arviz.ess(x, method="bulk"),
                arviz.ess(x, method="tail", prob=(0.05, 0.95)),
                arviz.ess(x, method="mean"),
                arviz.mcse(x, method="mean"),
                arviz.mcse(x, method="sd"),
                arviz.mcse(x, method="quantile", prob=0.1),
                arviz.mcse(x, method="quantile", prob=0.5),
            ]
        rows.append([float(v) for v in values])
    return torch.tensor(rows, dtype=torch.float64)


def alternating(u: Tensor) -> Tensor:
    sign = 1.0 - 2.0 * (torch.arange(len(u)) % 2)
    return sign[:, None, None] * u.abs()


def with_entry(u: Tensor, value: float) -> Tensor:
    changed = u.clone()
    changed[1, 0, 0] = value
    return changed


SHAPES = [(4, 1), (5, 2), (7, 3), (10, 1), (50, 2), (121, 4)]
CASES = {
    "independent": lambda d, c: normals(d, c, 2),
    "sticky": lambda d, c: autoregressive(0.9, d, c, 2),
    "antithetic": lambda d, c: autoregressive(-0.8, d, c, 2),
    "alternating": lambda d, c: alternating(normals(d, c, 2)),
    "two values": lambda d, c: alternating(torch.ones(d, c, 1, dtype=torch.float64)),
    "ties": lambda d, c: normals(d, c, 2).round(),
    "chains apart": lambda d, c: normals(d, c, 2) + torch.arange(c)[:, None],
    "scales apart": lambda d, c: normals(d, c, 2) * (1 + torch.arange(c)[:, None]),
    "heavy tails": lambda d, c: normals(d, c, 2) / normals(d, c, 2, name="other"),
    "trend": lambda d, c: torch.arange(d).double()[:, None, None].expand(d, c, 1).clone(),
    # Numbers that sum exactly: otherwise 0/0 depends on the order of the sum.
    "constant": lambda d, c: torch.full((d, c, 2), 0.5, dtype=torch.float64),
    "one stuck": lambda d, c: normals(d, c, 2) * (torch.arange(c)[:, None] > 0),
    "a NaN in one coordinate": lambda d, c: with_entry(normals(d, c, 2), math.nan),
    "an infinity": lambda d, c: with_entry(normals(d, c, 2), math.inf),
    "all infinite": lambda d, c: torch.full((d, c, 1), math.inf, dtype=torch.float64),
    "tiny": lambda d, c: 1e-16 * normals(d, c, 2),
    "far away": lambda d, c: 1e8 + 1e3 * normals(d, c, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_arviz(name: str) -> None:
    for draws, chains in SHAPES:
        u = CASES[name](draws, chains)
        torch.testing.assert_close(ours(u), theirs(u), rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 2, 1), (3, 4, 2)])
def test_too_few_draws_are_unknown_as_in_arviz(shape: tuple[int, int, int]) -> None:
    u = normals(*shape)
    assert ours(u).isnan().all()
    assert theirs(u).isnan().all()


def reference_draws() -> dict[str, Tensor]:
    """Returns 61 draws of 3 chains by formula, so that no random numbers need to be stored."""
    t, c = torch.arange(61).double()[:, None], torch.arange(3).double()
    smooth = (t**2 * 2**0.5 + c * 3**0.5) % 1 + 0.3 * torch.sin(t / 9 + c)
    ties = (7 * t**2 + 13 * c * t + 5 * c) % 11
    return {"smooth": smooth, "ties": ties, "antithetic": smooth * (-1) ** t}


# Computed by ArviZ 1.3.0 (and the same by 0.23.4): R-hat, ESS of bulk, tail (0.05, 0.95) and mean,
# MCSE of the mean, the standard deviation and the 0.3 quantile.
REFERENCE = {
    "smooth": [
        1.0572875611534478,
        33.84327082153756,
        68.03560114647757,
        33.92078205910141,
        0.06009075629841455,
        0.018227849437892754,
        0.06393976435168991,
    ],
    "ties": [
        0.9841464786670522,
        405.9490509185951,
        180.0,
        405.9490509185951,
        0.14655421411218483,
        0.10288388814779889,
        0.5,
    ],
    "antithetic": [
        1.0501846552056806,
        405.9490509185951,
        124.70770880335955,
        405.9490509185951,
        0.031090393070679546,
        0.04493102815178369,
        0.031075589486797423,
    ],
}


@pytest.mark.parametrize("name", REFERENCE)
def test_equals_stored_values_of_arviz(name: str) -> None:
    u = reference_draws()[name]
    functions = (rhat, ess_bulk, ess_tail, ess_mean, mcse_mean, mcse_sd)
    values = [f(u).item() for f in functions] + [mcse_quantile(u, prob=0.3).item()]
    assert values == pytest.approx(REFERENCE[name], rel=1e-9)


def test_any_event_shape_is_judged_coordinate_by_coordinate() -> None:
    u = normals(40, 2, 3, 2)
    each = torch.stack([ours(u[..., i, :]) for i in range(3)])
    flat = ours(u.flatten(2)).unflatten(0, (3, 2))
    assert rhat(u).shape == (3, 2)
    assert rhat(u[..., 0, 0]).shape == ()
    assert rhat(u[..., :0]).shape == (3, 0)
    torch.testing.assert_close(flat, each, rtol=1e-12, atol=0)


def test_float32_draws_are_judged_in_float64() -> None:
    u = normals(40, 2, 3).float()
    torch.testing.assert_close(ours(u), ours(u.double()), rtol=0, atol=0)
    assert ess_mean(u.requires_grad_()).dtype == torch.float64
    assert not ess_mean(u).requires_grad


@pytest.mark.parametrize("phi", [0.9, 0.5, 0.0, -0.5])
def test_time_of_an_autoregressive_chain_is_the_closed_form(phi: float) -> None:
    u = autoregressive(phi, 4000, 4, 16)
    exact = (1 + phi) / (1 - phi)
    # Sixteen coordinates of 16,000 draws: the mean's spread is measured, five standard errors,
    # plus 4 % since Geyer's sequence stops early.
    times = autocorrelation_time(u)
    margin = 5 * times.std().item() / 4 + 0.04 * exact
    assert abs(times.mean().item() - exact) < margin
    if phi:  # wrong control: the time of independent draws
        assert abs(1.0 - exact) > margin
    torch.testing.assert_close(ess_mean(u), 16000 / times)


def test_standard_error_of_the_mean_covers_it() -> None:
    phi = 0.8
    u = autoregressive(phi, 400, 2, 500)
    exact = math.sqrt((1 + phi) / (1 - phi) / 800)
    spread = u.mean((0, 1)).std().item()
    # 500 means: relative standard error of their spread 1/sqrt(1000) = 3.2 %.
    assert mcse_mean(u).mean().item() == pytest.approx(spread, rel=0.16)
    assert exact == pytest.approx(spread, rel=0.16)
    naive = math.sqrt(1 / 800)  # wrong control: as if the draws were independent
    assert naive != pytest.approx(spread, rel=0.16)


def test_standard_errors_of_spread_and_median_are_the_closed_forms() -> None:
    u = normals(500, 4, 200)
    # Normal: 1/sqrt(2n) for the deviation, sqrt(pi/2n) for the median; 200 means of estimates.
    assert mcse_sd(u).mean().item() == pytest.approx(1 / math.sqrt(4000), rel=0.05)
    median = math.sqrt(math.pi / 4000)
    assert mcse_quantile(u, prob=0.5).mean().item() == pytest.approx(median, rel=0.05)


def test_rhat_finds_chains_that_disagree_in_place_or_in_spread_alone() -> None:
    u = normals(500, 4, 1)
    moved, wider = u.clone(), u.clone()
    moved[:, 0] += 1.0
    wider[:, 0] *= 3.0
    assert rhat(u).item() < 1.01
    assert rhat(moved).item() > 1.05
    assert rhat(wider).item() > 1.05  # only the folded part sees this


def test_autocorrelation_is_the_direct_sum() -> None:
    u = normals(13, 2, 3)
    centred = u - u.mean(0)
    lags = [(centred[k:] * centred[: 13 - k]).sum(0) / centred.square().sum(0) for k in range(13)]
    torch.testing.assert_close(autocorrelation(u), torch.stack(lags))
    circular = (centred.roll(1, 0) * centred).sum(0) / centred.square().sum(0)
    assert (autocorrelation(u)[1] - circular).abs().max() > 1e-3  # wrong control: no zeros behind


def test_beta_quantile_is_the_closed_form() -> None:
    # Beta(a, 1): x = p^(1/a); Beta(1, b): x = 1 - (1 - p)^(1/b); Beta(a, a): median 1/2.
    a, one = torch.tensor([1.0, 2.5, 40.0, 3000.0]).double(), torch.ones(4).double()
    for p in (0.01, 0.1586553, 0.8413447, 0.999):
        torch.testing.assert_close(beta_quantile(p, a, one), p ** (1 / a))
        torch.testing.assert_close(beta_quantile(p, one, a), 1 - (1 - p) ** (1 / a))
    torch.testing.assert_close(beta_quantile(0.5, a, a), torch.full_like(a, 0.5))
    with pytest.raises(ValueError, match="probability must lie strictly between 0 and 1, got 1"):
        beta_quantile(1.0, a, one)


def test_missing_axes_and_bad_probabilities_are_refused(wrong_types: None) -> None:
    with pytest.raises(
        ValueError, match=r"u must have shape \(draws, chains, \*event\), got \(9,\)"
    ):
        rhat(torch.zeros(9))
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], got 1.5"):
        mcse_quantile(normals(9, 2), prob=1.5)
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], got -1"):
        ess_tail(normals(9, 2), prob=(-1.0, 0.9))
