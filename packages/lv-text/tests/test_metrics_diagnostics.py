"""Diagnostics of latents against Gaussians whose answers are known."""

import math

import pytest
import torch

from lv_core import stream
from lv_text.metrics import active_units, aggregate_posterior, kl_summary, mutual_information


def normal(*shape, name):
    return torch.randn(*shape, dtype=torch.float64, generator=stream(0, name))


def test_counts_units_whose_means_vary():
    means = torch.zeros(500, 2, 3)
    means[:, 0, 1] = normal(500, name="active").float()
    means[:, 1, 2] = 0.05 * normal(500, name="weak").float()  # variance 0.0025
    means[:, 1, 0] = 7.0  # constant: shifted, but not active
    got = active_units(means)
    assert got.count == 1
    assert got.share == pytest.approx(1 / 6)
    assert got.active.tolist() == [[False, True, False], [False, False, False]]
    assert active_units(means, threshold=0.001).count == 2
    # control: mean squares instead of variances would count the shifted unit
    assert int((means.square().mean(0) > 0.01).sum()) == 2


def test_active_units_need_two_data():
    with pytest.raises(ValueError, match="two data or more"):
        active_units(torch.zeros(1, 3))


def test_separate_posteriors_reach_the_ceiling():
    means = 100 * normal(64, 4, name="far")
    got = mutual_information(means, torch.full_like(means, -4.0), generator=stream(0, "z"))
    assert got.nats == pytest.approx(math.log(64), abs=1e-9)
    assert got.ceiling == pytest.approx(math.log(64))


def test_equal_posteriors_carry_nothing():
    means = normal(1, 4, name="one").expand(64, 4)
    log_vars = torch.full_like(means, -1.0)
    got = mutual_information(means, log_vars, generator=stream(0, "z"))
    assert got.nats == pytest.approx(0, abs=1e-9)
    # control: their KL is far from nothing, so it alone does not tell
    assert got.kl == pytest.approx(got.aggregate_kl)
    assert got.kl > 0.5


def exact_two(mean):
    """Mutual information of a fair coin and N(+-mean, 1), by the trapezoidal rule."""
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    up = torch.exp(-((z - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
    mixture = (up + up.flip(0)) / 2
    return float(torch.trapezoid(up * (up / mixture).log(), z))


def test_agrees_with_quadrature_for_two_data():
    means = torch.tensor([[0.8], [-0.8]], dtype=torch.float64)
    got = mutual_information(
        means, torch.zeros_like(means), samples=20000, generator=stream(0, "two")
    )
    assert abs(got.nats - exact_two(0.8)) < 5 * got.standard_error
    assert got.standard_error < 0.01
    # control: neighboring separations are told apart
    assert abs(got.nats - exact_two(1.0)) > 5 * got.standard_error
    assert got.kl == pytest.approx(0.32)


def test_agrees_with_the_channel_capacity_formula():
    # z = x + noise, x ~ N(0, 0.75), noise 0.25: I = 0.5 ln(1 / 0.25) = 0.693 per dimension
    n = 3000
    means = 0.75**0.5 * normal(n, 1, name="channel")
    log_vars = torch.full_like(means, math.log(0.25))
    got = mutual_information(means, log_vars, samples=4, generator=stream(0, "noise"))
    # standard error over 3000 data of a variable with spread about 0.7
    assert got.nats == pytest.approx(math.log(2), abs=5 * 0.7 / n**0.5)
    # the aggregate posterior is N(0, 1), up to the draw of the data
    assert got.aggregate_kl == pytest.approx(0, abs=0.05)


def test_matches_the_loop_over_pairs():
    means, log_vars = normal(5, 2, 3, name="m"), normal(5, 2, 3, name="v")
    got = mutual_information(means, log_vars, generator=stream(0, "pairs"))
    noise = torch.randn(5, 6, dtype=torch.float64, generator=stream(0, "pairs"))
    z = means.flatten(1) + noise * (log_vars.flatten(1) / 2).exp()
    total = 0.0
    for i in range(5):
        log_q = torch.stack(
            [
                torch.distributions.Normal(m.flatten(), (v.flatten() / 2).exp())
                .log_prob(z[i])
                .sum()
                for m, v in zip(means, log_vars, strict=True)
            ]
        )
        total += float(log_q[i] - log_q.logsumexp(0) + math.log(5)) / 5
    assert got.nats == pytest.approx(total)


def test_keeps_its_precision_in_many_dimensions():
    # equal posteriors far from zero: the products cancel to 0 only in double precision
    means = torch.full((8, 4096), 5.0)
    got = mutual_information(means, torch.full_like(means, -5.0), generator=stream(0, "wide"))
    assert abs(got.nats) < 1e-6


@pytest.mark.parametrize("samples", [0, 1])
def test_mutual_information_refuses_too_little(samples):
    means = torch.zeros(1 + (samples == 0), 3)
    with pytest.raises(ValueError, match="two data or more and samples be positive"):
        mutual_information(means, means, samples=samples)


def test_kl_at_the_floor_holds_nothing():
    got = kl_summary(torch.full((4,), 12.0), torch.full((4,), 6), floor=12.0)
    assert got.per_token == got.floor_per_token == 2.0
    assert got.excess_per_token == got.excess_share == got.above_floor == 0


def test_kl_above_the_floor_is_split():
    got = kl_summary(torch.tensor([10.0, 30.0]), torch.tensor([5, 15]), floor=12.0)
    assert got.per_token == 2.0
    assert got.floor_per_token == pytest.approx(1.2)
    assert got.excess_per_token == pytest.approx(0.8)
    assert got.excess_share == pytest.approx(0.4)
    assert got.above_floor == 0.5


def test_no_kl_has_no_excess():
    assert kl_summary(torch.zeros(2), torch.ones(2).long(), floor=0.0).excess_share == 0


@pytest.mark.parametrize("floor", [-1.0, math.nan, math.inf])
def test_refuses_floors_that_are_no_kl(floor):
    with pytest.raises(ValueError, match="floor must be a KL"):
        kl_summary(torch.ones(2), torch.ones(2).long(), floor=floor)


@pytest.mark.parametrize(("kl", "tokens"), [([math.nan], [1]), ([1.0], [0]), ([], [])])
def test_refuses_sequences_without_kl_or_tokens(kl, tokens):
    with pytest.raises(ValueError, match="one finite KL"):
        kl_summary(torch.tensor(kl), torch.tensor(tokens, dtype=torch.int64), floor=0.0)


def test_aggregate_of_the_prior_is_the_prior():
    got = aggregate_posterior(torch.zeros(7, 2, 3), torch.zeros(7, 2, 3))
    assert (got.mean_square, got.mean_variance, got.mean_log_var) == (0.0, 1.0, 0.0)
    assert (got.second_moment, got.center_square) == (1.0, 0.0)


def test_aggregate_shows_shift_and_spread():
    means = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    log_vars = torch.full_like(means, math.log(0.25))
    got = aggregate_posterior(means, log_vars)
    assert got.mean_square == pytest.approx(10 / 4)
    assert got.center_square == pytest.approx(2.0)
    assert got.second_moment == pytest.approx(2.75)
    assert got.mean_log_var == pytest.approx(math.log(0.25))


def test_refuses_means_and_variances_of_different_shapes(wrong_types):
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        aggregate_posterior(torch.zeros(2, 3), torch.zeros(2, 4))
