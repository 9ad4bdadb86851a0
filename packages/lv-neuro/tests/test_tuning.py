"""Tuning curves: Gaussian fits, bumps, widths, mean vectors, the Rayleigh test."""

import csv
import math
import os
import time
from pathlib import Path

import pytest
import torch
from scipy.special import i0e, i1e

from lv_core import stream
from lv_neuro.analysis import (
    active,
    bumps,
    gaussian_fit,
    half_width,
    largest_gap,
    mean_vector,
    preferred_directions,
    rayleigh_test,
    tuning_summary,
    untuned,
)
from lv_neuro.angles import angular_distance, grid

DEG = math.pi / 180


def headings(bins):
    return grid(bins, like=torch.zeros((), dtype=torch.float64))[:, None]


def gaussians(bins, center, sigma, amplitude=1.0, offset=0.0):
    """Returns bumps with these numbers, one neuron each."""
    center, sigma, amplitude, offset = (
        torch.as_tensor(value, dtype=torch.float64) for value in (center, sigma, amplitude, offset)
    )
    delta = angular_distance(headings(bins), center)
    return amplitude * torch.exp(-delta.square() / (2 * sigma**2)) + offset


def von_mises(bins, kappa, center):
    center = torch.as_tensor(center, dtype=torch.float64)
    return torch.exp(kappa * (torch.cos(headings(bins) - center) - 1))


# Gaussian fit


def test_finds_the_numbers_of_exact_bumps():
    center = torch.tensor([0.0, 0.31, 1.7, 3.3, 6.2])
    sigma = torch.tensor([0.1, 0.3, 0.45, 0.8, 1.3])
    amplitude = torch.tensor([1.0, 0.2, 30.0, 5.0, 2.0])
    offset = torch.tensor([0.0, 0.1, 2.0, -1.0, 7.0])
    fit = gaussian_fit(gaussians(100, center, sigma, amplitude, offset))
    # the search ends at 1e-5 of the width, and R^2 errs by its square
    assert torch.allclose(fit.r2, torch.ones(5).double(), atol=1e-8)
    assert torch.allclose(fit.sigma, sigma.double(), rtol=1e-3)
    assert angular_distance(fit.center, center.double()).max() < 1e-3
    assert torch.allclose(fit.amplitude, amplitude.double(), rtol=3e-3)
    assert torch.allclose(fit.offset, offset.double(), atol=1e-2)
    wrong = gaussian_fit(gaussians(100, center, 1.1 * sigma, amplitude, offset))
    assert not torch.isclose(wrong.sigma, sigma.double(), rtol=0.05).any()


def test_fits_recorded_looking_curves_as_well_as_a_brute_force_search():
    noise = torch.randn(60, 4, generator=stream(0, "brute force"), dtype=torch.float64)
    curves = gaussians(60, [0.2, 2.0, 4.0, 5.5], [0.3, 0.4, 0.5, 0.6], 10.0, 1.0) + noise
    fit = gaussian_fit(curves)
    step = 2 * math.pi / 60
    for neuron in range(4):
        y = curves[:, neuron]
        mu = (int(y.argmax()) + torch.linspace(-3, 3, 121).double()) * step
        s = torch.logspace(math.log10(0.08), math.log10(1.6), 300).double()
        delta = angular_distance(headings(60)[:, 0], mu[:, None])
        bump = torch.exp(-delta[:, None].square() / (2 * s[:, None] ** 2))
        bump = bump - bump.mean(-1, keepdim=True)
        residual = y - y.mean()
        share = (bump @ residual).clamp_min(0) ** 2 / bump.square().sum(-1)
        best = float(share.max() / residual.square().sum())
        # finer than the brute force grid, so never worse; 1e-4 is what that grid misses
        assert best - 1e-9 <= float(fit.r2[neuron]) < best + 1e-4


def test_r2_is_the_explained_share_of_the_variance():
    curves = von_mises(90, 1.0, [1.0]) + 0.2 * torch.cos(5 * headings(90))
    fit = gaussian_fit(curves)
    found = gaussians(90, fit.center, fit.sigma, fit.amplitude, fit.offset)
    unexplained = (curves - found).square().sum() / (curves - curves.mean()).square().sum()
    assert float(fit.r2) == pytest.approx(1 - float(unexplained), abs=1e-9)
    assert 0.5 < float(fit.r2) < 0.99


def test_a_dip_is_no_bump():
    dip = 1 - torch.eye(40, dtype=torch.float64)[:, :1]
    fit = gaussian_fit(torch.cat([dip, gaussians(40, 3.0, 0.4)], dim=1))
    assert (fit.amplitude >= 0).all()
    assert float(fit.r2[0]) < 0.1  # a wide bump opposite of the dip explains a little
    assert float(fit.r2[1]) > 0.999


def test_curves_that_no_bump_improves_have_r2_zero():
    # the highest bin is alone in the middle of a dip, far from everything else that is high
    curve = torch.full((400, 1), 0.99, dtype=torch.float64)
    curve[100:141] = 0.0
    curve[120] = 1.0
    fit = gaussian_fit(curve)
    assert (float(fit.r2), float(fit.amplitude)) == (0, 0)
    assert float(fit.offset) == pytest.approx(float(curve.mean()))
    assert fit.sigma.isnan().all()
    assert fit.center.isnan().all()
    assert float(gaussian_fit(1 - curve + 2 * curve * (curve == 1)).r2) > 0.1  # a bump instead


def test_flat_curves_have_no_fit():
    curves = torch.full((20, 2), 0.7, dtype=torch.float64)
    curves[:, 1] = gaussians(20, 1.0, 0.5)[:, 0]
    fit = gaussian_fit(curves)
    assert untuned(curves).tolist() == [True, False]
    assert fit.r2.isnan().tolist() == [True, False]
    assert fit.sigma.isnan().tolist() == [True, False]
    assert fit.center.isnan().tolist() == [True, False]
    assert (float(fit.amplitude[0]), float(fit.offset[0])) == (0, pytest.approx(0.7))


def test_fit_follows_a_rotation_and_a_change_of_units(device):
    curves = von_mises(72, 2.0, [1.0, 2.0, 5.0]).to(device)
    fit, moved = gaussian_fit(curves), gaussian_fit(1000 * curves.roll(10, 0) + 5)
    assert torch.allclose(moved.r2, fit.r2, atol=1e-9)
    assert torch.allclose(moved.sigma, fit.sigma, atol=1e-6)
    assert angular_distance(moved.center, fit.center + 10 * 2 * math.pi / 72).max() < 1e-6


def test_batches_and_single_precision_change_nothing():
    curves = torch.stack([von_mises(50, k, [0.4, 2.4, 4.4]) for k in (0.5, 2.0, 8.0)])
    whole, single = gaussian_fit(curves), gaussian_fit(curves.float())
    assert single.r2.dtype == torch.float32
    assert whole.r2.shape == (3, 3)
    for k, population in enumerate(curves):
        alone = gaussian_fit(population)
        assert torch.allclose(alone.sigma, whole.sigma[k], rtol=1e-9)
    assert torch.allclose(single.sigma.double(), whole.sigma, rtol=2e-3)
    assert torch.allclose(single.r2.double(), whole.r2, atol=1e-5)


def test_memory_is_bounded_by_chunks(monkeypatch):
    curves = von_mises(30, 2.0, torch.linspace(0, 6, 50))
    whole = gaussian_fit(curves)
    monkeypatch.setattr("lv_neuro.analysis.gaussian.CHUNK", 3000)
    assert torch.allclose(gaussian_fit(curves).sigma, whole.sigma, rtol=1e-9)


def test_coarse_grids_keep_amplitudes_of_the_size_of_the_curve():
    spike = torch.zeros(12, 1, dtype=torch.float64)
    spike[3] = 1.0
    fit = gaussian_fit(spike)
    # without the bound of half a bin a narrow bump between bins would be thousands high
    assert float(fit.amplitude) < 3
    assert float(fit.sigma) >= math.pi / 12 - 1e-9


def test_report_of_one_model_takes_less_than_two_seconds():
    curves = von_mises(100, 3.0, torch.linspace(0, 6.2, 100)).float()
    tuning_summary(curves)
    start = time.perf_counter()
    tuning_summary(curves)
    assert time.perf_counter() - start < 2  # 0.02 s measured on one core


# One neuron at a time


def test_counts_bumps():
    x = headings(60)
    curves = torch.cat([torch.cos(k * (x - 0.3)) for k in (1, 2, 3, 10)], dim=1)
    assert bumps(curves).tolist() == [1, 2, 3, 10]
    assert bumps(curves - 5).tolist() == [1, 2, 3, 10]  # also where rates are negative
    assert bumps(torch.ones(60, 1)).tolist() == [0]


def test_ripples_count_where_they_cross_half_height():
    x = headings(200)
    ripple = torch.cos(9 * x)
    one, many = bumps(torch.cos(x) + torch.cat([0.02 * ripple, 2 * ripple], dim=1)).tolist()
    assert one == 1
    assert many > 1


def test_mean_vector_of_von_mises_curves_is_a_ratio_of_bessel_functions():
    for kappa in (0.1, 1.0, 4.0, 20.0):
        length, direction = mean_vector(von_mises(100, kappa, [0.0, 1.0, 6.0]))
        assert torch.allclose(length, torch.full_like(length, i1e(kappa) / i0e(kappa)))
        wanted = torch.tensor([0.0, 1.0, 6.0]).double()
        assert angular_distance(direction, wanted).max() < 1e-9
    raised = mean_vector(von_mises(100, 4.0, [1.0]) + 0.5)
    assert not torch.isclose(raised.length, torch.tensor(i1e(4.0) / i0e(4.0)).double(), rtol=0.1)


def test_negative_curves_have_a_direction_but_no_length():
    curves = torch.cos(headings(40) - torch.tensor([0.5, 2.5])) + torch.tensor([0.0, 1.0])
    length, direction = mean_vector(curves)
    assert length.isnan().tolist() == [True, False]
    assert float(length[1]) == pytest.approx(0.5)
    assert torch.allclose(direction, torch.tensor([0.5, 2.5]).double())


def test_curves_without_first_harmonic_have_no_direction():
    x = headings(60)
    curves = torch.cat([1 + torch.cos(3 * x), torch.zeros_like(x), torch.ones_like(x)], dim=1)
    length, direction = mean_vector(curves)
    assert direction.isnan().all()
    assert torch.allclose(length[[0, 2]], torch.zeros(2).double(), atol=1e-12)
    assert length[1].isnan()
    assert preferred_directions(1 + 0.1 * torch.cos(x) + torch.cos(3 * x)).isfinite().all()


def test_half_width_of_known_bumps():
    wanted = 2 * math.sqrt(2 * math.log(2)) * 0.3
    fine = half_width(gaussians(720, [0.0, 1.0, 3.14], 0.3, 4.0, 1.0))
    assert torch.allclose(fine, torch.full_like(fine, wanted), rtol=1e-3)
    # a triangle is linear between bins, so that coarse bins change nothing
    triangle = (1 - angular_distance(headings(40), torch.tensor(math.pi)) / 1.0).clamp_min(0)
    width = 2 * math.pi / 40
    exact = half_width(triangle / triangle.max())
    assert float(exact) == pytest.approx(1.0, abs=width**2)
    assert float(half_width(1 + torch.cos(headings(100)))) == pytest.approx(math.pi)
    assert float(half_width(1 + torch.cos(2 * headings(100)))) == pytest.approx(math.pi / 2)
    assert half_width(torch.ones(20, 1)).isnan().all()


def test_largest_gap_between_directions():
    even = torch.arange(10) * (2 * math.pi / 10)
    assert float(largest_gap(even)) == pytest.approx(2 * math.pi / 10, rel=1e-6)
    missing = torch.ones(10, dtype=torch.bool)
    missing[[0, 9]] = False
    assert float(largest_gap(even, missing)) == pytest.approx(3 * 2 * math.pi / 10, rel=1e-6)
    nan = torch.tensor([[0.0, math.nan, 1.0], [math.nan] * 3, [6.0, 6.0 - 2 * math.pi, 6.0]])
    gaps = largest_gap(nan)
    assert float(gaps[0]) == pytest.approx(2 * math.pi - 1)
    assert gaps[1].isnan()
    assert float(gaps[2]) == pytest.approx(2 * math.pi, rel=1e-5)


def test_active_neurons_pass_a_tenth_of_the_highest_peak():
    curves = torch.tensor([1.0, 0.11, 0.1, 0.0]) * torch.rand(20, 4).clamp_max(0.9)
    curves[3] = torch.tensor([1.0, 0.11, 0.09, 0.0])
    assert active(curves).tolist() == [True, True, False, False]
    assert active(curves, share=0.5).tolist() == [True, False, False, False]
    assert not active(torch.zeros(20, 4)).any()


# Summary


def test_summary_counts_active_neurons_only():
    good = von_mises(60, 5.0, [0.5, 2.0, 3.5, 5.0])
    weak = 0.03 * (1 + torch.cos(3 * headings(60)))
    curves = torch.cat([good, weak, torch.zeros_like(weak)], dim=1)
    found, wanted = tuning_summary(curves), tuning_summary(good)
    assert found.counted.tolist() == [True] * 4 + [False] * 2
    assert (int(found.neurons), int(found.untuned)) == (4, 0)
    for name in ("r2_median", "r2_low", "sigma_median", "bumps_mean", "length_median"):
        assert torch.isclose(getattr(found, name), getattr(wanted, name)), name
    assert float(found.largest_gap) == pytest.approx(2 * math.pi - 4.5)
    everything = tuning_summary(curves, mask=torch.ones(6, dtype=torch.bool))
    assert float(everything.bumps_mean) == pytest.approx((4 + 3) / 6)
    assert float(everything.r2_low) < float(found.r2_low)
    assert int(everything.untuned) == 1


def test_summary_of_stacked_seeds_is_that_of_each_seed():
    codes = torch.stack([von_mises(40, k, torch.linspace(0, 6, 9)) for k in (1.0, 5.0)])
    both = tuning_summary(codes)
    for seed, population in enumerate(codes):
        alone = tuning_summary(population)
        assert torch.isclose(both.sigma_median[seed], alone.sigma_median)
        assert torch.isclose(both.half_width_median[seed], alone.half_width_median)
    assert both.r2_median.shape == (2,)


def test_summary_of_collapsed_codes_is_nan():
    summary = tuning_summary(torch.full((30, 5), 0.3))
    assert (int(summary.neurons), int(summary.untuned)) == (5, 5)
    assert summary.r2_median.isnan()
    assert summary.largest_gap.isnan()
    assert float(summary.bumps_mean) == 0


@pytest.mark.data
def test_recorded_cells_have_the_published_tuning():
    path = Path(os.environ["LV_DATA"]) / "head_direction" / "adn_mouse_tuning_curves.csv"
    with path.open() as file:
        rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    table = torch.tensor(rows, dtype=torch.float64)
    assert torch.equal(table[0, 1:], table[-1, 1:])
    summary = tuning_summary(table[:-1, 1:], mask=torch.ones(19, dtype=torch.bool))
    sigma = summary.fit.sigma / DEG
    assert float(summary.r2_median) == pytest.approx(0.988, abs=0.001)
    assert float(summary.fit.r2.min()) == pytest.approx(0.70, abs=0.01)
    assert float(summary.fit.r2.sort().values[1]) > 0.96  # one outlier only
    # our grid is finer than the one behind the 25.2 degrees on record
    assert float(sigma.median()) == pytest.approx(25.6, abs=0.1)
    assert 17 <= float(sigma.min()) < 18
    assert 33 <= float(sigma.max()) < 34
    assert float(summary.length_median) == pytest.approx(0.755, abs=0.001)
    # 66 degrees on record are 11 whole bins of 6 degrees above half height
    assert float(summary.half_width_median) / DEG == pytest.approx(62.3, abs=0.1)
    assert summary.bumps.tolist().count(1) == 18


# Rayleigh test


def test_rayleigh_test_agrees_with_published_values():
    # the example of the documentation of pingouin.circ_rayleigh
    angles = torch.tensor([0.785, 1.570, 3.141, 0.839, 5.934], dtype=torch.float64)
    test = rayleigh_test(angles)
    assert float(test.statistic) == pytest.approx(1.236, abs=5e-4)
    assert float(test.p_value) == pytest.approx(0.304844, abs=1e-6)
    weighted = rayleigh_test(angles, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), bin_width=0.2)
    assert float(weighted.statistic) == pytest.approx(0.278, abs=5e-4)
    assert float(rayleigh_test(angles[:4]).p_value) != pytest.approx(0.304844, abs=1e-3)


@pytest.mark.parametrize(("samples", "span"), [(10, 0.55), (30, 0.7)])
def test_rayleigh_p_value_is_the_share_of_longer_resultants(samples, span):
    draw = torch.rand(100_000, samples, generator=stream(0, "null"), dtype=torch.float64)
    null = rayleigh_test(2 * math.pi * draw)
    one = torch.linspace(0, 2 * math.pi * span, samples, dtype=torch.float64)
    tested = rayleigh_test(one)
    share = float((null.length >= tested.length).double().mean())
    # 1e5 draws: five standard errors of p = 0.1 are 0.0047; the approximation adds 0.001
    assert float(tested.p_value) == pytest.approx(share, abs=0.0057)
    assert 0.02 < share < 0.1
    # under the null p-values are even: 5 % below 0.05, five standard errors 0.0035
    assert float((null.p_value < 0.05).double().mean()) == pytest.approx(0.05, abs=0.0055)
    uniform = rayleigh_test(torch.arange(samples) * (2 * math.pi / samples))
    assert float(uniform.p_value) == pytest.approx(1)


def test_counts_are_repeated_samples():
    angles = torch.tensor([0.1, 1.0, 2.5], dtype=torch.float64)
    counts = torch.tensor([3, 0, 2])
    repeated = rayleigh_test(angles.repeat_interleave(counts))
    weighted = rayleigh_test(angles, counts)
    assert torch.isclose(repeated.p_value, weighted.p_value)
    assert torch.isclose(repeated.length, weighted.length)


def test_bin_width_undoes_the_grouping():
    kappa, bins = 2.0, 12
    fine = grid(1200, like=torch.zeros((), dtype=torch.float64))
    density = torch.exp(kappa * (fine - 3).cos())
    centers = grid(bins, like=fine)
    bin_of = torch.round(fine / (2 * math.pi / bins)).long() % bins
    counts = torch.zeros(bins).double().index_add(0, bin_of, density)
    wanted = float(rayleigh_test(fine, density).length)
    raw = float(rayleigh_test(centers, counts).length)
    corrected = float(rayleigh_test(centers, counts, bin_width=2 * math.pi / bins).length)
    assert abs(corrected - wanted) < 1e-3 < 5e-3 < wanted - raw


def test_strong_tuning_keeps_its_logarithm():
    spikes = torch.zeros(2, 5000)
    spikes[1] = 0.001
    test = rayleigh_test(spikes)
    assert test.p_value.tolist() == [0, 0]
    # R = n: log p = sqrt(1 + 4n) - (1 + 2n)
    assert float(test.log_p_value[0]) == pytest.approx(math.sqrt(20001) - 10001, rel=1e-5)
    silent = rayleigh_test(torch.zeros(3), torch.zeros(3))
    assert silent.p_value.isnan()


@pytest.mark.parametrize(
    ("angles", "counts", "bin_width", "message"),
    [
        (torch.zeros(3), torch.ones(4), None, "counts must broadcast"),
        (torch.zeros(3), -torch.ones(3), None, "not negative"),
        (torch.zeros(3), torch.full((3,), math.nan), None, "finite"),
        (torch.tensor([math.nan]), None, None, "angles must be finite"),
        (torch.zeros(3), None, 0.0, "bin_width"),
        (torch.zeros(3), None, 6.0, "bin_width"),
    ],
)
def test_rayleigh_refuses(angles, counts, bin_width, message):
    with pytest.raises(ValueError, match=message):
        rayleigh_test(angles, counts, bin_width=bin_width)


def test_rayleigh_warns_of_degrees():
    with pytest.warns(UserWarning, match="degrees"):
        rayleigh_test(torch.tensor([0.0, 90.0, 180.0]))


# Bad input

MEASURES = [active, bumps, gaussian_fit, half_width, mean_vector, tuning_summary, untuned]


@pytest.mark.parametrize("measure", MEASURES)
def test_refuses_what_is_no_set_of_tuning_curves(measure):
    with pytest.raises(ValueError, match=r"at least 8 bins.*\(7, 30\)"):
        measure(torch.rand(7, 30))
    with pytest.raises(ValueError, match="empty axes"):
        measure(torch.rand(20, 0))
    broken = torch.rand(20, 3)
    broken[4, 1] = math.nan
    with pytest.raises(ValueError, match="got 1 NaN"):
        measure(broken)


@pytest.mark.parametrize("measure", MEASURES)
def test_refuses_wrong_types_and_shapes(measure, wrong_types):
    with pytest.raises(TypeError, match=r"\.float\(\)"):
        measure(torch.ones(20, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="bins, neurons"):
        measure(torch.rand(20))


def test_refuses_shares_that_no_neuron_passes():
    with pytest.raises(ValueError, match="share"):
        active(torch.rand(20, 3), share=1.0)


def test_refuses_masks_of_another_population(wrong_types):
    with pytest.raises(ValueError, match="mask must have shape"):
        tuning_summary(torch.rand(20, 3), mask=torch.ones(4, dtype=torch.bool))
