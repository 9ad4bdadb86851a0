"""Diagnostics of short runs against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import GradientStep, Langevin, stream
from lv_core.diagnostics import esjd, moments_by_step, short_run_report


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def test_esjd_is_the_mean_squared_jump_of_each_chain() -> None:
    u = torch.tensor(
        [[[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]], [[3.0, 3.0], [1.0, 2.0]]]
    )
    assert esjd(u).tolist() == [13.0, 0.5]
    assert esjd(u, event_ndim=2).item() == 13.5
    assert esjd(u, event_ndim=0).tolist() == [[4.5, 8.5], [0.0, 0.5]]


def test_esjd_of_langevin_is_the_closed_form() -> None:
    # Stationary, d dimensions: E|jump|^2 = d (h^2 v + s^2) with h = s^2/2, v = 1/(1 - s^2/4).
    s, dim, chains = 0.4, 4, 4000
    v = 1 / (1 - s**2 / 4)
    start = math.sqrt(v) * torch.randn(chains, dim, generator=stream(0, "start"))
    trace = Langevin(steps=10, step_size=s).run(
        normal_density, start, generator=stream(0, "noise"), thin=1
    )
    jumps = esjd(trace.u)
    exact = dim * ((s**2 / 2) ** 2 * v + s**2)
    error = jumps.std().item() / math.sqrt(chains)
    assert jumps.shape == (chains,)
    assert abs(jumps.mean().item() - exact) < 5 * error
    assert abs(jumps.mean().item() - dim * s**2) > 5 * error  # wrong control: noise alone


def test_esjd_needs_two_positions() -> None:
    with pytest.raises(ValueError, match="at least two kept positions, got 1: run with thin=1"):
        esjd(torch.zeros(1, 4, 2))


def test_moments_follow_the_run_step_by_step() -> None:
    trace = GradientStep(steps=6, step_size=1.0).run(
        normal_density, torch.tensor([[1.0, 3.0], [1.0, -1.0]]), thin=1
    )
    moments = moments_by_step(trace.u)
    halves = 0.5 ** torch.arange(1, 7)
    torch.testing.assert_close(moments.mean, halves)
    torch.testing.assert_close(moments.absmax, 3 * halves)
    torch.testing.assert_close(moments.std, math.sqrt(8 / 3) * halves)


def test_gap_of_a_converged_chain_is_zero_within_its_error() -> None:
    start = torch.randn(4000, 2, generator=stream(0, "start"))
    report = short_run_report(
        Langevin(steps=20, step_size=0.8), normal_density, start, generator=stream(0, "noise")
    )
    assert abs(report.gap) < 5 * report.gap_error
    # Two ends with standard deviation 1.19 each (variance 1/(1 - s^2/4)), hardly correlated.
    assert report.gap_error == pytest.approx(1.19 * math.sqrt(2 / 4000), rel=0.2)
    assert report.clipped == 0.0


def test_gap_of_a_short_run_is_the_closed_form() -> None:
    # From a distant start, without noise: u_K = a^K u_0, log density -a^(2K) |u_0|^2 / 2.
    start, a = torch.full((3, 2), 5.0), 1 - 0.3**2 / 2
    report = short_run_report(
        GradientStep(steps=5, step_size=0.3), normal_density, start, factor=4
    )
    assert report.gap == pytest.approx(25 * (a**10 - a**40), rel=1e-4)
    assert report.gap_error == pytest.approx(0.0, abs=1e-5)
    assert report.displacement == pytest.approx((1 - a**5) * 5 * math.sqrt(2), rel=1e-4)


def test_long_run_goes_on_with_schedules_momenta_and_marks() -> None:
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.3

    kernel = Langevin(steps=5, step_size=schedule)
    seen.clear()  # the check of the settings asks for the first value
    short_run_report(kernel, normal_density, torch.ones(3, 2), factor=3)
    assert sorted(set(seen)) == list(range(15))

    # Halved steps: |u| shrinks by 1 - s^2/2, s = 2^-k, over steps 0..7 in all.
    halved = GradientStep(steps=2, step_size=lambda step: 0.5**step)
    report = short_run_report(halved, normal_density, torch.full((3, 1), 2.0), factor=4)
    factors = (1 - 0.25 ** torch.arange(8.0) / 2).cumprod(0)
    assert report.gap == pytest.approx(2 * (factors[1] ** 2 - factors[7] ** 2).item(), rel=1e-4)
    again = factors[1] ** 2 * factors[5] ** 2  # wrong control: steps counted from 0 once more
    assert report.gap != pytest.approx(2 * (factors[1] ** 2 - again).item(), rel=0.1)


def test_clipped_is_the_share_of_clipped_gradients() -> None:
    start = torch.tensor([[10.0], [0.1], [0.1], [0.1]])
    kernel = GradientStep(steps=3, step_size=0.1, clip=1.0)
    assert short_run_report(kernel, normal_density, start).clipped == 0.25


def test_one_chain_has_no_error() -> None:
    report = short_run_report(GradientStep(step_size=0.3), normal_density, torch.ones(1, 2))
    assert math.isnan(report.gap_error)


def test_factor_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be at least 2, got 1"):
        short_run_report(GradientStep(step_size=0.3), normal_density, torch.ones(1, 2), factor=1)
