import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lv_priors.ratio.loss import chance_loss, n2ce_loss, ratio_mass, stage_signs, stage_words

N = 100_000
# Midpoints of equal slices of probability: the mean over them is a quadrature of E under N(0, 1).
NODES = torch.special.ndtri((torch.arange(N, dtype=torch.float64) + 0.5) / N)
POSITIVE, NEGATIVE = NODES + 1, NODES  # N(1, 1) against N(0, 1): log ratio z - 1/2


def gradient(extra: float, magnitude: float) -> Tensor:
    """Returns the derivative of the loss at `z - 1/2 + extra * z` in five directions."""
    theta = torch.zeros(5, dtype=torch.float64, requires_grad=True)

    def f(z: Tensor) -> Tensor:
        directions = (torch.ones_like(z), z, z.square(), z.sin(), torch.tanh(3 * z))
        bend = sum(t * d for t, d in zip(theta, directions, strict=True))
        return z - 0.5 + extra * z + bend

    n2ce_loss(f(POSITIVE), f(NEGATIVE), magnitude=magnitude).backward()
    return theta.grad


@pytest.mark.parametrize(
    ("magnitude", "value"),
    [(1.0, 2 * math.log(2)), (10.0, 2.39790 + 0.95310), (100.0, 5.61015)],
)
def test_value_at_zero_is_the_known_one(magnitude, value) -> None:
    f = torch.zeros(7, dtype=torch.float64)
    loss = n2ce_loss(f, f[:3], magnitude=magnitude)
    assert loss.item() == pytest.approx(value, abs=2e-5)
    assert chance_loss(magnitude) == pytest.approx(loss.item(), abs=1e-12)


def test_value_for_a_hundred_is_log_101_plus_a_hundred_log_1_01() -> None:
    assert chance_loss(100.0) == pytest.approx(math.log(101) + 100 * math.log(1.01), abs=1e-12)


@pytest.mark.parametrize("magnitude", [0.5, 1.0, 100.0])
def test_true_ratio_is_the_optimum_for_every_magnitude(magnitude) -> None:
    # The quadrature leaves out the tails beyond 1e-5: below 1e-3 even where e^z weights them.
    assert gradient(0.0, magnitude).abs().max() < 1e-3
    assert gradient(0.3, magnitude).abs().max() > 0.03


def test_gradient_tends_to_that_of_maximum_likelihood() -> None:
    def difference(magnitude: float) -> float:
        theta = torch.tensor([0.4, -0.1], dtype=torch.float64, requires_grad=True)

        def f(z: Tensor) -> Tensor:
            return theta[0] * z + theta[1]

        loss = n2ce_loss(f(POSITIVE), f(NEGATIVE), magnitude=magnitude)
        (contrast,) = torch.autograd.grad(loss, theta)
        (likelihood,) = torch.autograd.grad(f(NEGATIVE).exp().mean() - f(POSITIVE).mean(), theta)
        return ((contrast - likelihood).norm() / likelihood.norm()).item()

    differences = [difference(m) for m in (10.0, 100.0, 1000.0, 10_000.0)]
    # The weight M / (M + r) leaves a difference of order 1 / M.
    assert all(b < 0.2 * a for a, b in pairwise(differences))
    assert differences[-1] < 2e-3
    assert difference(1.0) > 0.2  # ordinary noise contrast is another gradient


def test_is_the_plain_formula_where_that_does_not_overflow() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    m = 30.0
    plain = -(p.exp() / (m + p.exp())).log().mean(-1) - m * (m / (m + q.exp())).log().mean(-1)
    torch.testing.assert_close(n2ce_loss(p, q, magnitude=m), plain)


def test_stays_finite_at_a_thousand_nats() -> None:
    f = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = n2ce_loss(f, f)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(f.grad).all()


def test_penalty_is_the_mean_square_of_both_sets() -> None:
    p, q = torch.randn(2, 8), torch.randn(2, 5)
    added = n2ce_loss(p, q, penalty=0.1) - n2ce_loss(p, q)
    squares = 0.05 * (p.square().mean(-1) + q.square().mean(-1))
    torch.testing.assert_close(added, squares, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("magnitude", [0.0, -1.0, math.inf, math.nan])
def test_refuses_magnitudes_that_are_not_positive(magnitude) -> None:
    with pytest.raises(ValueError, match="magnitude must be positive and finite, got"):
        n2ce_loss(torch.zeros(2), torch.zeros(2), magnitude=magnitude)


def test_refuses_a_negative_penalty() -> None:
    with pytest.raises(ValueError, match="penalty must not be negative"):
        n2ce_loss(torch.zeros(2), torch.zeros(2), penalty=-1.0)


def test_signs_at_the_true_ratio() -> None:
    signs = stage_signs((POSITIVE - 0.5)[None], (NEGATIVE - 0.5)[None])
    # KL of unit normals one apart is 1/2 both ways; the threshold lies half a deviation from each.
    assert signs.positive.item() == pytest.approx(0.5, abs=1e-3)
    assert signs.negative.item() == pytest.approx(-0.5, abs=1e-3)
    assert signs.accuracy.item() == pytest.approx(0.691462, abs=1e-3)
    assert signs.mass.item() == pytest.approx(1.0, abs=1e-3)
    assert stage_signs(POSITIVE[None], NEGATIVE[None]).mass.item() > 1.5


def test_mass_of_a_normalised_ratio_is_one_and_its_effective_share_known() -> None:
    mass = ratio_mass(NEGATIVE - 0.5)
    assert mass.mean.item() == pytest.approx(1.0, abs=1e-3)
    # E r^2 = e, hence an effective share of 1 / e.
    assert mass.ess.item() == pytest.approx(math.exp(-1), abs=2e-3)
    deviation = math.sqrt(math.e - 1)
    assert mass.standard_error.item() == pytest.approx(deviation / math.sqrt(N), rel=1e-2)
    assert ratio_mass(NEGATIVE).mean.item() == pytest.approx(math.exp(0.5), abs=2e-3)


def test_effective_share_survives_hundreds_of_nats() -> None:
    log_ratio = torch.tensor([900.0, 900.0, -900.0, -900.0])
    assert ratio_mass(log_ratio).ess.item() == pytest.approx(0.5)


def test_mass_of_one_sample_has_no_error() -> None:
    mass = ratio_mass(torch.tensor([0.5]))
    assert mass.mean.item() == pytest.approx(math.exp(0.5))
    assert math.isnan(mass.standard_error.item())
    assert mass.ess.item() == 1.0


GOOD = {
    "loss": [5.5, 5.4],
    "accuracy": [0.6, 0.7],
    "positive": [0.1, 0.2],
    "negative": [-0.1, -0.2],
    "mass": [1.0, 0.99],
}


def test_words_call_good_stages_healthy() -> None:
    (word,) = stage_words(GOOD, magnitude=100.0, ess=0.3)
    assert word.startswith("healthy")
    assert "0.160" in word  # 5.61015 less the mean of 5.5 and 5.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [math.nan, 5.4]}, "a sign is not finite"),
        ({"loss": [5.7, 5.4]}, "stage 1 lose more than f = 0 would"),
        ({"accuracy": [0.97, 0.99]}, "stages 1, 2 tell their waymarks apart"),
        ({"mass": [1.0, 3.0]}, "stage 2 have a mean ratio far from 1"),
    ],
)
def test_words_name_what_is_wrong(change, message) -> None:
    assert stage_words({**GOOD, **change}, magnitude=100.0)[0].startswith(message)


def test_words_warn_of_few_effective_samples() -> None:
    (word,) = stage_words(GOOD, magnitude=100.0, ess=0.001)
    assert word.startswith("the ratio weights 0.10% of the denominator's samples")
