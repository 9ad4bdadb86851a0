"""Scores against closed forms and independent computations, each with a wrong control."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import mannwhitneyu, norm

from lv_core import stream
from lv_dynamics.metrics import (
    amplitude,
    auroc,
    block_mse,
    coverage,
    crps,
    error_curve,
    gaussian_crps,
    interval_width,
    log_score,
    median_mse,
    mse,
    r2_of_factors,
    sequence_mse,
)
from lv_dynamics.sequences import Sequences
from lv_dynamics.systems import sinusoids


def draw(*shape, name="draw"):
    return torch.randn(shape, dtype=torch.float64, generator=stream(0, name))


@pytest.fixture
def target():
    """Four sequences of lengths 9, 9, 7, 3 with missing entries."""
    mask = torch.rand(4, 9, 2, generator=stream(0, "mask")) < 0.7
    mask[:, 0] = True
    times = draw(4, 9, name="t").abs().cumsum(1)
    return Sequences(times, draw(4, 9, 2, name="y"), mask, torch.tensor([9, 9, 7, 3]))


def entries(target, *others):
    """Observed entries as NumPy vectors."""
    mask = target.mask.expand_as(target.values)
    return [x[..., mask].numpy() for x in (target.values, *others)]


# ------------------------------------------------------------------ squared errors


def test_errors_agree_with_a_loop_over_entries(target):
    prediction = draw(4, 9, 2)
    for first, last in ((0, None), (0, 4), (0, 2), (0, 9)):
        expected = []
        for i in range(4):
            found = [
                float(prediction[i, j, k] - target.values[i, j, k]) ** 2
                for j in range(first, last or 9)
                for k in range(2)
                if target.mask[i, j, k]
            ]
            expected.append(sum(found) / len(found))
        errors = sequence_mse(prediction, target, first=first, last=last)
        np.testing.assert_allclose(errors, expected)
        assert float(mse(prediction, target, last=last)) == pytest.approx(np.mean(expected))
        assert float(median_mse(prediction, target, last=last)) == pytest.approx(
            np.median(expected)
        )
    unmasked = (prediction - target.values).square().mean()
    assert abs(float(mse(prediction, target)) - float(unmasked)) > 0.01


def test_errors_are_cumulative_from_the_start_and_blocks_are_not():
    target = Sequences(torch.arange(6.0), torch.zeros(1, 6, 1))
    prediction = torch.tensor([1.0, 1, 1, 1, 2, 2])[None, :, None]
    assert float(mse(prediction, target, last=4)) == 1
    assert float(mse(prediction, target)) == 2  # (4 + 8) / 6
    assert block_mse(prediction, target, (0, 4, 6)).tolist() == [1, 4]


def test_the_median_does_not_see_one_failure():
    target = Sequences(torch.arange(2.0), torch.zeros(5, 2, 1))
    prediction = torch.tensor([1.0, 2, 3, 2, 1000])[:, None, None].expand(5, 2, 1)
    assert float(median_mse(prediction, target)) == 4
    assert float(mse(prediction, target)) > 1e5
    assert float(median_mse(prediction[1:3], target[1:3])) == 6.5  # the mean of the middle two


def test_masked_predictions_may_be_nan(target):
    prediction = torch.where(target.mask, draw(4, 9, 2), math.nan)
    assert math.isfinite(float(mse(prediction, target)))
    prediction[2, 0, 1] = math.nan
    with pytest.raises(ValueError, match="sequence 2: its prediction is NaN"):
        mse(prediction, target)


def test_the_curve_over_rows_is_a_mean_of_observed_entries(target):
    prediction = draw(4, 9, 2)
    curve = error_curve(prediction, target)
    for j in range(9):
        seen = target.mask[:, j]
        expected = (prediction - target.values)[:, j][seen].square().mean()
        torch.testing.assert_close(curve[j], expected)


def test_the_curve_over_time_collects_entries_of_its_bins(target):
    prediction = draw(4, 9, 2)
    edges = torch.tensor([0.5, 1.5, float(target.times[0, 3]), 6.0, 50.0, 60.0])
    curve = error_curve(prediction, target, edges=edges.double())
    for k in range(4):
        inside = (target.times >= edges[k].double()) & (target.times < edges[k + 1].double())
        seen = inside[..., None] & target.mask
        expected = (prediction - target.values)[seen].square().mean()
        torch.testing.assert_close(curve[k], expected)
    assert math.isnan(curve[4])
    with pytest.raises(ValueError, match="two rising times"):
        error_curve(prediction, target, edges=torch.tensor([1.0, 1.0]))


def test_errors_refuse_what_does_not_fit(target):
    with pytest.raises(ValueError, match="prediction must have the shape of the values"):
        mse(draw(4, 9, 3), target)
    with pytest.raises(ValueError, match="0 <= first < last <= 9"):
        mse(draw(4, 9, 2), target, last=10)
    with pytest.raises(ValueError, match="at least two rows"):
        block_mse(draw(4, 9, 2), target, (0,))
    with pytest.raises(ValueError, match=r"sequence 3: it has no observed entry in rows 3\.\.8"):
        mse(draw(4, 9, 2), target, first=3)


# ------------------------------------------------------------------ uncertainty


def test_coverage_and_width_agree_with_counting(target):
    center = draw(4, 9, 2)
    low, high = center - 0.8, center + draw(4, 9, 2, name="h").abs()
    y, a, b = entries(target, low, high)
    assert float(coverage(low, high, target)) == pytest.approx(np.mean((a <= y) & (y <= b)))
    assert float(interval_width(low, high, target)) == pytest.approx(np.mean(b - a))


def test_coverage_of_the_true_interval_is_its_level():
    target = Sequences(torch.arange(50.0).double(), draw(400, 50, 1))
    half = torch.full((400, 50, 1), norm.ppf(0.95), dtype=torch.float64)
    # 20,000 entries: standard error 0.0021
    assert abs(float(coverage(-half, half, target)) - 0.9) < 0.011
    assert abs(float(coverage(-half / 2, half / 2, target)) - 0.9) > 0.2


def test_intervals_must_not_be_turned_round(target):
    one = torch.ones(4, 9, 2, dtype=torch.float64)
    for function in (coverage, interval_width):
        with pytest.raises(ValueError, match="low must not exceed high"):
            function(one, -one, target)
        with pytest.raises(ValueError, match="low must not exceed high"):
            function(one * math.nan, one, target)


@pytest.mark.usefixtures("wrong_types")
def test_intervals_must_have_the_shape_of_the_values(target):
    one = torch.ones(4, 9, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="high must end in the shape"):
        coverage(one, one[:, :3], target)


@pytest.mark.parametrize("fair", [True, False])
def test_crps_agrees_with_a_sum_over_pairs(target, fair):
    samples = draw(7, 4, 9, 2)
    y, x = entries(target, samples)
    pairs = np.abs(x[:, None] - x[None]).sum((0, 1)) / (7 * 6 if fair else 49)
    expected = (np.abs(x - y).mean(0) - pairs / 2).mean()
    assert float(crps(samples, target, fair=fair)) == pytest.approx(expected)
    other = float(crps(samples, target, fair=not fair))
    assert other != pytest.approx(expected, rel=1e-3)


def test_crps_of_one_sample_is_the_absolute_error(target):
    samples = draw(1, 4, 9, 2)
    y, x = entries(target, samples)
    assert float(crps(samples, target)) == pytest.approx(np.abs(x[0] - y).mean())


def test_gaussian_crps_is_the_integral_of_its_definition():
    mean, std, y = 0.3, 0.7, 1.1
    left = quad(lambda x: norm.cdf(x, mean, std) ** 2, -10, y)[0]
    right = quad(lambda x: norm.sf(x, mean, std) ** 2, y, 10)[0]
    target = Sequences(torch.zeros(1).double(), torch.tensor([[[y]]], dtype=torch.float64))
    at = torch.full((1, 1, 1), mean, dtype=torch.float64)
    width = torch.tensor(std, dtype=torch.float64)
    assert float(gaussian_crps(at, width, target)) == pytest.approx(left + right, rel=1e-7)
    assert float(gaussian_crps(at, width * 1.1, target)) != pytest.approx(left + right, rel=1e-2)


def test_gaussian_crps_without_spread_is_the_absolute_error(target):
    mean, std = draw(4, 9, 2), torch.tensor([0.0, 2.0]).double()
    y, x = entries(target, mean)
    near = float(gaussian_crps(mean, std + 1e-9, target))
    assert float(gaussian_crps(mean, std, target)) == pytest.approx(near, abs=1e-8)
    alone = float(gaussian_crps(mean, std * 0, target))
    assert alone == pytest.approx(np.abs(x - y).mean())
    assert alone != pytest.approx(near, rel=1e-2)


def test_log_score_refuses_forecasts_without_spread(target):
    with pytest.raises(ValueError, match=r"std must be positive, got 0\.0 as"):
        log_score(draw(1, 4, 9, 2), torch.zeros(()).double(), target)


def test_crps_of_many_samples_is_that_of_their_distribution(target):
    mean, std = draw(4, 9, 2), torch.tensor([0.5, 2.0]).double()
    exact = float(gaussian_crps(mean, std, target))
    sampled = float(crps(mean + std * draw(4000, 4, 9, 2, name="s"), target))
    # the error of a mean of 4000 samples is about 2 / sqrt(4000) = 0.03 an entry, over some 40
    assert abs(sampled - exact) < 0.03


def test_log_score_is_the_density_of_the_mixture(target):
    means, std = draw(3, 4, 9, 2), torch.tensor([0.5, 2.0]).double()
    y, x, s = entries(target, means, std.expand(4, 9, 2))
    expected = np.log(norm.pdf(y, x, s).mean(0)).mean()
    assert float(log_score(means, std, target)) == pytest.approx(expected)
    averaged = norm.logpdf(y, x, s).mean()  # of log densities: the wrong order
    assert averaged < expected - 0.1


@pytest.mark.parametrize("score", [gaussian_crps, log_score])
def test_scores_refuse_bad_forecasts(score, target):
    mean = draw(4, 9, 2) if score is gaussian_crps else draw(1, 4, 9, 2)
    rule = "must not be negative" if score is gaussian_crps else "must be positive"
    with pytest.raises(ValueError, match=f"std {rule}, got -1.0 as the smallest"):
        score(mean, -torch.ones(()).double(), target)
    with pytest.raises(ValueError, match="must end in the shape"):
        score(mean[..., :1], torch.ones(()).double(), target)
    mean[..., 1, 0, 0] = math.nan
    with pytest.raises(ValueError, match="sequence 1: its forecast is NaN"):
        score(mean, torch.ones(()).double(), target)


# ------------------------------------------------------------------ telling groups apart


def test_auroc_agrees_with_counting_pairs_and_with_mann_whitney():
    a = (draw(60, name="a") * 2).round()  # many ties
    b = (draw(45, name="b") * 2 + 1).round()
    pairs = (b[:, None] > a).double() + (b[:, None] == a).double() / 2
    found = float(auroc(a, b))
    assert found == pytest.approx(float(pairs.mean()))
    assert found == pytest.approx(mannwhitneyu(b.numpy(), a.numpy()).statistic / (60 * 45))
    assert float(auroc(b, a)) == pytest.approx(1 - found)
    ignoring_ties = float((b[:, None] > a).double().mean())
    assert abs(found - ignoring_ties) > 0.05


def test_auroc_has_its_extremes():
    low, high = torch.tensor([1.0, 2.0]), torch.tensor([3.0, math.inf])
    assert float(auroc(low, high)) == 1
    assert float(auroc(high, low)) == 0
    assert float(auroc(low, low)) == 0.5


def test_auroc_refuses_empty_groups_and_nan():
    with pytest.raises(ValueError, match="both groups need scores, got 0 and 2"):
        auroc(torch.ones(0), torch.ones(2))
    with pytest.raises(ValueError, match="must not be NaN"):
        auroc(torch.ones(2), torch.tensor([math.nan]))


# ------------------------------------------------------------------ factors


def test_r2_of_a_linear_map_with_noise_is_known():
    x = draw(4000, 3)
    weights = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    y = x @ weights + draw(4000, 2, name="noise") * torch.tensor([1.0, 1.0]).double() + 7
    found = r2_of_factors(x, y, generator=stream(0))
    # explained 5 of 6; standard error about 2 (1 - R2) sqrt(R2 / 4000) = 0.005
    assert abs(float(found.held_out[0]) - 5 / 6) < 0.025
    assert abs(float(found.in_sample[0]) - 5 / 6) < 0.025
    assert abs(float(found.held_out[1])) < 0.01
    shuffled = r2_of_factors(x, y.flip(0), generator=stream(0))
    assert float(shuffled.held_out[0]) < 0.02


def test_r2_agrees_with_a_loop_over_folds():
    x, y = draw(40, 3), draw(40, 1, name="y")
    fold = torch.randperm(40, generator=stream(5)) % 4
    fit = np.empty(40)
    for k in range(4):
        inside, out = (fold != k).numpy(), (fold == k).numpy()
        design = np.column_stack([np.ones(40), x.numpy()])
        weights = np.linalg.lstsq(design[inside], y[inside, 0].numpy(), rcond=None)[0]
        fit[out] = design[out] @ weights
    z = y[:, 0].numpy()
    expected = 1 - ((z - fit) ** 2).sum() / ((z - z.mean()) ** 2).sum()
    found = r2_of_factors(x, y, folds=4, generator=stream(5))
    assert float(found.held_out) == pytest.approx(expected)
    assert found.predicted[:, 0].numpy() == pytest.approx(fit)


def test_in_sample_r2_of_pure_noise_is_latents_over_sequences_and_held_out_is_not():
    found = [
        r2_of_factors(draw(60, 12, name=f"x{k}"), draw(60, 1, name=f"y{k}"), generator=stream(k))
        for k in range(60)
    ]
    inside = torch.cat([each.in_sample for each in found])
    outside = torch.cat([each.held_out for each in found])
    # a beta distribution of mean 12 / 59, deviation 0.052: standard error 0.007
    assert abs(float(inside.mean()) - 12 / 59) < 0.035
    assert float(outside.mean()) < -0.1


def test_r2_takes_constant_and_repeated_latents():
    x = draw(50, 2)
    wide = torch.cat([x, x[:, :1], torch.zeros(50, 1)], 1)
    y = x @ torch.ones(2, 1).double()
    assert float(r2_of_factors(wide, y).held_out) == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((30, 2), lambda x, y: (x, y[:29]), "factors must have shape"),
        ((30, 2), lambda x, y: (x, y * math.inf), "must be finite"),
        ((30, 2), lambda x, y: (x, y * 0 + 3), "factor 0 is constant"),
        ((12, 9), lambda x, y: (x, y), "folds must be in 2..12 and leave more than 10"),
    ],
)
@pytest.mark.usefixtures("wrong_types")
def test_r2_refuses_what_it_cannot_regress(shape, change, message):
    x, y = change(draw(*shape), draw(shape[0], 1, name="y"))
    with pytest.raises(ValueError, match=message):
        r2_of_factors(x, y)


# ------------------------------------------------------------------ amplitude


def test_amplitude_of_whole_periods_is_that_over_root_two():
    times = torch.arange(40).double() / 40
    x = torch.tensor([1.0, 3.0]).double()[:, None] * torch.sin(4 * math.pi * times + 0.3) + 5
    found = amplitude(Sequences(times, x[..., None]))
    expected = torch.tensor([1.0, 3.0]).double() / math.sqrt(2)
    torch.testing.assert_close(found.each[:, 0], expected)
    assert float(found.mean) == pytest.approx(math.sqrt(2))
    assert float(found.spread) == pytest.approx(math.sqrt(0.5))


def test_amplitude_uses_observed_entries(target):
    found = amplitude(target[:3])
    for i in range(3):
        for k in range(2):
            seen = target.values[i, :, k][target.mask[i, :, k]]
            torch.testing.assert_close(found.each[i, k], seen.std(correction=0))


def test_amplitude_of_the_sinusoids_is_that_of_the_paper_note():
    found = amplitude(sinusoids(3000, generator=stream(0, "amplitude")))
    # A ~ U(1, 4): mean 2.5 / sqrt(2) = 1.77 and deviation 0.61, less or more in part periods
    assert float(found.mean) == pytest.approx(1.78, abs=0.05)
    assert float(found.spread) == pytest.approx(0.61, abs=0.03)


def test_amplitude_refuses_a_channel_seen_once():
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[1, 1:, 1] = False
    with pytest.raises(
        ValueError, match=r"sequence 1: channel \(1,\) is observed less than twice"
    ):
        amplitude(Sequences(torch.arange(3.0), torch.ones(2, 3, 2), mask))
