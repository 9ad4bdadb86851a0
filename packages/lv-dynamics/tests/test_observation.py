import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from lv_core import stream
from lv_dynamics.observation import Bernoulli, GaussianNoise


def test_the_gaussian_is_that_of_torch():
    noise = GaussianNoise((2, 3), 0.4).double()
    noise.set_sigma(torch.rand(2, 3, dtype=torch.float64) + 0.1)
    x, g = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(noise.log_prob(x, g), Normal(g, noise.sigma).log_prob(x))
    torch.testing.assert_close(noise.variance(g), noise.sigma.square().expand(5, 2, 3))
    assert noise.mean(g) is g


@pytest.mark.parametrize("rows", [True, False])
def test_the_scorer_is_the_masked_sum_of_the_entries(rows):
    noise = GaussianNoise((2, 3)).double()
    noise.set_sigma(torch.rand(2, 3, dtype=torch.float64) + 0.1)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    mask = torch.rand(5, 1, 1) < 0.5 if rows else torch.rand(5, 2, 3) < 0.5
    g = torch.randn(4, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.where(mask, noise.log_prob(x, g), 0.0).sum((-2, -1))
    got = noise.scorer(torch.where(mask, x, 1e3), mask)(g)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), g), torch.autograd.grad(expected.sum(), g)
    )
    # Not what the mask hides: the wrong control.
    assert not torch.allclose(got, noise.log_prob(x, g).sum((-2, -1)))


def test_the_scorer_takes_another_sigma_and_another_type():
    noise = GaussianNoise((2,), 0.5, per_dimension=False)
    x, mask, g = torch.zeros(3, 2), torch.ones(3, 1, dtype=torch.bool), torch.randn(3, 2)
    wide = noise.scorer(x, mask, sigma=2.0, dtype=torch.float64)(g)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), Normal(g, 2.0).log_prob(x).sum(-1))
    each = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(
        noise.scorer(x, mask, sigma=each)(g), Normal(g, each).log_prob(x).sum(-1)
    )
    with pytest.raises(ValueError, match=r"sigma must be positive, got 0\.0"):
        noise.scorer(x, mask, sigma=0.0)
    with pytest.raises(ValueError, match=r"broadcast to the shape \(2,\), got \(3,\)"):
        noise.scorer(x, mask, sigma=torch.ones(3))


@pytest.mark.parametrize("inputs", ["logits", "probabilities"])
def test_the_bernoulli_is_that_of_torch(inputs):
    x = torch.bernoulli(torch.full((7, 4), 0.5, dtype=torch.float64))
    logits = torch.randn(7, 4, dtype=torch.float64)
    output = logits if inputs == "logits" else torch.sigmoid(logits)
    noise = Bernoulli((4,), inputs=inputs)
    torch.testing.assert_close(
        noise.log_prob(x, output), TorchBernoulli(logits=logits).log_prob(x)
    )
    torch.testing.assert_close(noise.mean(output), torch.sigmoid(logits))
    p = torch.sigmoid(logits)
    torch.testing.assert_close(noise.variance(output), p * (1 - p))


def test_logits_survive_where_probabilities_round():
    x = torch.zeros(1)
    assert Bernoulli((1,)).log_prob(x, torch.tensor([200.0])) == -200
    rounded = Bernoulli((1,), inputs="probabilities").log_prob(x, torch.tensor([1.0]))
    assert rounded == -math.inf  # the wrong control: probability 1 of what did not happen


def test_fit_gives_the_maximum_of_the_likelihood():
    generator = stream(0, "residuals")
    scale = torch.tensor([0.3, 2.0], dtype=torch.float64)
    residual = scale * torch.randn(40, 25, 2, dtype=torch.float64, generator=generator)
    mask = torch.rand(40, 25, 2, generator=generator) < 0.5
    spoiled = torch.where(mask, residual, math.nan)
    noise = GaussianNoise((2,)).double()
    fitted = noise.fit(spoiled, mask)
    expected = torch.stack([residual[..., k][mask[..., k]].square().mean() for k in range(2)])
    torch.testing.assert_close(fitted, expected.sqrt())
    torch.testing.assert_close(noise.sigma, fitted)

    def total(sigma):
        each = Normal(0.0, sigma).log_prob(residual)
        return torch.where(mask, each, 0.0).sum()

    best = total(fitted)
    assert total(1.01 * fitted) < best
    assert total(0.99 * fitted) < best


def test_one_sigma_for_all_pools_the_entries():
    residual = torch.tensor([[1.0, 3.0]])
    noise = GaussianNoise((2,), per_dimension=False)
    both = noise.fit(residual, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(both, torch.tensor([math.sqrt(5.0)]))
    # A mask of whole rows counts each entry of the row.
    assert torch.equal(noise.fit(residual, torch.ones(1, 1, dtype=torch.bool)), both)
    assert noise.log_prob(torch.zeros(4, 2), torch.zeros(4, 2)).shape == (4, 2)


def test_an_entry_never_observed_keeps_its_sigma():
    noise = GaussianNoise((2,), 0.7)
    mask = torch.tensor([[True, False]])
    noise.fit(torch.tensor([[2.0, math.nan]]), mask)
    torch.testing.assert_close(noise.sigma, torch.tensor([2.0, 0.7]))


def test_a_rate_below_one_is_a_running_mean_of_variances():
    noise = GaussianNoise((1,), 1.0)
    noise.fit(torch.tensor([[3.0]]), torch.tensor([[True]]), rate=0.25)
    torch.testing.assert_close(noise.sigma, torch.tensor([math.sqrt(0.75 + 0.25 * 9)]))


def test_the_floor_holds_sigma_up():
    noise = GaussianNoise((1,), floor=0.05)
    noise.fit(torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(noise.sigma, torch.tensor([0.05]))


def test_draws_have_the_moments_of_the_model():
    # 200,000 draws: standard errors 0.5 / sqrt(n) = 0.0011 and 0.5 / sqrt(2 n) = 0.0008.
    generator = stream(0, "draws")
    x = GaussianNoise((1,), 0.5).sample(torch.full((200_000, 1), 2.0), generator=generator)
    assert abs(x.mean() - 2) < 0.006
    assert abs(x.std() - 0.5) < 0.004
    # Standard error sqrt(0.2 * 0.8 / n) = 0.0009.
    y = Bernoulli((1,), inputs="probabilities").sample(
        torch.full((200_000, 1), 0.2), generator=generator
    )
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert abs(y.mean() - 0.2) < 0.005


def test_sigma_belongs_to_the_checkpoint():
    noise, other = GaussianNoise((3,), "learned"), GaussianNoise((3,), 0.1)
    assert noise.learned
    assert not other.learned
    assert torch.equal(noise.sigma, torch.ones(3))
    noise.set_sigma(0.25)
    other.load_state_dict(noise.state_dict())
    assert torch.equal(other.sigma, torch.full((3,), 0.25))
    assert not list(noise.parameters())
    assert "sigma=0.25" in repr(noise)
    assert "inputs='logits'" in repr(Bernoulli((2,)))
    noise.set_sigma(torch.tensor([0.1, 0.2, 0.3]))
    assert "sigma=0.1..0.3" in repr(noise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise((2,), 0.0), "sigma must be positive, got 0.0"),
        (lambda: GaussianNoise((2,), math.inf), "sigma must be positive, got inf"),
        (lambda: GaussianNoise((), 1.0), r"obs must be one or more positive lengths, got \(\)"),
        (lambda: GaussianNoise((2,), floor=0.0), "floor must be positive, got 0.0"),
        (lambda: GaussianNoise((2,)).set_sigma(-1.0), "sigma must be positive, got -1.0"),
        (lambda: GaussianNoise((2,)).set_sigma(math.nan), "sigma must be positive, got nan"),
        (lambda: GaussianNoise((2,)).set_sigma(torch.ones(3)), r"shape \(2,\), got \(3,\)"),
        (
            lambda: GaussianNoise((2,)).fit(torch.zeros(5, 3), torch.tensor(True)),
            r"residual must end in the observation's shape \(2,\), got \(5, 3\)",
        ),
        (
            lambda: GaussianNoise((2,)).fit(torch.zeros(5, 2), torch.tensor(True), rate=0.0),
            r"rate must lie in \(0, 1\], got 0.0",
        ),
    ],
)
def test_refuses_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_unknown_names(wrong_types):
    with pytest.raises(ValueError, match="sigma must be a number or 'learned', got 'free'"):
        GaussianNoise((2,), "free")
    with pytest.raises(ValueError, match="unknown inputs 'odds'"):
        Bernoulli((2,), inputs="odds")
