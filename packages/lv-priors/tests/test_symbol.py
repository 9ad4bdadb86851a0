"""The symbol prior with linear logits, which is a mixture of normals with known weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import Langevin, Mala, stream
from lv_core.nn import mlp
from lv_core.targets import Gaussian
from lv_priors.energy import contrastive_loss
from lv_priors.symbol import SymbolEnergyPrior

A = torch.tensor([[1.2, 0.0], [-0.9, 0.8], [0.1, -1.4]], dtype=torch.float64)
B = torch.tensor([0.3, -0.2, 0.8], dtype=torch.float64)
LOG_WEIGHTS = B + 0.5 * A.square().sum(-1)  # of the components N(a_k, I)
SHARES = LOG_WEIGHTS.softmax(0)
EXACT = Mala(steps=120, step_size=0.8)


def linear(**settings: object) -> SymbolEnergyPrior:
    """Returns logits a_k.z + b_k: p(z) = sum_k w_k N(z; a_k, I), w_k ~ exp(b_k + |a_k|^2/2)."""
    logits = nn.Linear(2, 3).double()
    with torch.no_grad():
        logits.weight.copy_(A)
        logits.bias.copy_(B)
    return SymbolEnergyPrior(logits, 2, symbols=3, **settings).double()


def mixture(z: Tensor, shares: Tensor) -> Tensor:
    each = [Gaussian(a, torch.eye(2).double())(z) for a in A]
    return (torch.stack(each, -1) + shares.log()).logsumexp(-1)


def draw(n: int, name: str) -> tuple[Tensor, Tensor]:
    """Returns exact pairs of latent and symbol."""
    generator = stream(0, name)
    y = torch.multinomial(SHARES, n, replacement=True, generator=generator)
    return A[y] + torch.randn(n, 2, generator=generator).double(), y


def test_density_is_that_of_the_mixture() -> None:
    z, prior = torch.randn(4, 7, 2).double(), linear()
    log_z = LOG_WEIGHTS.logsumexp(0) + math.log(2 * math.pi)
    torch.testing.assert_close(prior.log_density(z) - log_z, mixture(z, SHARES))
    # wrong control: the weights without |a_k|^2 / 2
    assert (prior.log_density(z) - log_z - mixture(z, B.softmax(0))).abs().max() > 0.1


def test_quadrature_finds_the_normalising_constant() -> None:
    axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
    points, cell = torch.cartesian_prod(axis, axis), 0.1**2
    prior = linear()
    with torch.no_grad():
        found = (prior.log_density(points).logsumexp(0) + math.log(cell)).item()
        hard = prior.logits(points).amax(-1) - 0.5 * points.square().sum(-1)
    exact = (LOG_WEIGHTS.logsumexp(0) + math.log(2 * math.pi)).item()
    assert abs(found - exact) < 1e-8
    # wrong control: the largest logit in place of their logsumexp
    assert abs((hard.logsumexp(0) + math.log(cell)).item() - exact) > 0.1


def test_given_a_symbol_the_prior_is_its_component() -> None:
    z, prior = torch.randn(4, 3, 2).double(), linear()
    y = torch.tensor([2, 0, 1])
    value = prior.given(y).log_density(z) - LOG_WEIGHTS[y] - math.log(2 * math.pi)
    exact = torch.stack([Gaussian(A[k], torch.eye(2).double())(z[:, i]) for i, k in enumerate(y)])
    torch.testing.assert_close(value, exact.T)
    assert (prior.given(y.flip(0)).log_density(z) - prior.given(y).log_density(z)).abs().max() > 1


def test_symbols_given_the_latent_follow_bayes() -> None:
    z, prior = torch.randn(5, 2).double(), linear()
    each = torch.stack([Gaussian(a, torch.eye(2).double())(z) for a in A], -1)
    exact = (each + SHARES.log()).log_softmax(-1)
    torch.testing.assert_close(prior.symbol_log_prob(z), exact)
    assert (prior.symbol_log_prob(z) - each.log_softmax(-1)).abs().max() > 0.1  # no weights
    # p(z) p(y | z) = p(y) p(z | y), unnormalised alike.
    both = prior.log_density(z) + prior.symbol_log_prob(z)[:, 1]
    torch.testing.assert_close(both, prior.given(torch.tensor([1])).log_density(z))


def test_samples_have_the_moments_of_the_mixture() -> None:
    n = 4000
    draws = linear(sampler=EXACT).sample(n, generator=stream(0, "mixture"))
    mean = SHARES @ A
    covariance = torch.eye(2) + (SHARES[:, None] * A).T @ A - torch.outer(mean, mean)
    error = (covariance.diagonal() / n).sqrt()
    assert ((draws.mean(0) - mean).abs() / error).max() < 5
    assert ((draws.mean(0) - A.mean(0)).abs() / error).max() > 5  # wrong control: equal weights


def test_samples_given_symbols_have_the_means_of_their_components() -> None:
    n = 3000
    prior = linear(sampler=EXACT)
    y = torch.arange(3).repeat_interleave(n)
    draws = prior.given(y).sample(len(y), generator=stream(0, "given")).reshape(3, n, 2)
    error = n**-0.5
    assert (draws.mean(1) - A).abs().max() < 5 * error
    assert (draws.var(1) - 1).abs().max() < 5 * 2**0.5 * error
    assert (draws.mean(1) - A.roll(1, 0)).abs().max() > 5 * error  # wrong control
    one = prior.given(torch.tensor([2])).sample(n, generator=stream(0, "one"))
    assert (one.mean(0) - A[2]).abs().max() < 5 * error
    assert all(p.grad is None for p in prior.parameters())


def test_loss_of_pairs_has_the_gradient_of_their_likelihood() -> None:
    z, y = draw(60, "pairs")
    z = z + 0.5
    n = 40_000
    negative, _ = draw(n, "negative")
    prior = linear()
    loss, logs = prior.loss(z, negative, symbols=y)
    loss.backward()
    # log p(z, y) = a_y.z + b_y - log sum_k w_k + ...: its gradient, exactly.
    mine = (y[:, None] == torch.arange(3)).double()
    by_a = mine.T @ z / len(z) - SHARES[:, None] * A
    by_b = mine.mean(0) - SHARES
    # Only the negative samples are random: standard errors sqrt(E |z|^2 / n), 1 / sqrt(n).
    assert (prior.network.weight.grad + by_a).abs().max() < 5 * 2 / n**0.5
    assert (prior.network.bias.grad + by_b).abs().max() < 5 / n**0.5
    assert {"gap", "cross_entropy", "accuracy"} <= set(logs)
    # wrong control: latents alone, symbols unknown
    alone = linear()
    alone.loss(z, negative)[0].backward()
    assert (alone.network.weight.grad + by_a).abs().max() > 5 * 2 / n**0.5


def test_loss_adds_the_cross_entropy_of_known_symbols_alone() -> None:
    prior, (z, y) = linear(), draw(6, "few")
    other, _ = draw(4, "other")
    plain = contrastive_loss(prior.tilt, z, other).loss
    known = y.clone()
    known[[1, 4]] = -1
    score = prior.symbol_log_prob(z)
    picked = score[torch.arange(6), y]
    expected = -picked[[0, 2, 3, 5]].sum() / 6
    loss, logs = prior.loss(z, other, symbols=known, symbol_weight=0.7)
    torch.testing.assert_close(loss, plain + 0.7 * expected)
    torch.testing.assert_close(logs["cross_entropy"], expected.detach())
    right = (score.argmax(-1) == y)[[0, 2, 3, 5]].double().mean()
    torch.testing.assert_close(logs["accuracy"], right)
    nothing = prior.loss(z, other, symbols=torch.full((6,), -1))
    torch.testing.assert_close(nothing.loss, plain)
    assert nothing.logs["accuracy"] == 0


def test_learning_from_pairs_tells_symbols_apart() -> None:
    torch.manual_seed(0)
    prior = SymbolEnergyPrior(
        mlp((2, 3)), 2, symbols=3, sampler=Langevin(steps=30, step_size=0.6)
    ).double()
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.5)
    generator = stream(0, "learn")
    for step in range(60):
        z, y = draw(500, f"batch {step}")
        loss, _ = prior.loss(z, generator=generator, symbols=y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = prior.network[0].weight.detach()
    # The chain's bias is 10 % of variance at this step size; noise of updates below 0.05.
    assert (learned - A).abs().max() < 0.2
    assert (learned - A.roll(1, 0)).abs().max() > 1


def test_symbols_that_do_not_fit_are_refused() -> None:
    prior, z = linear(), torch.zeros(5, 2).double()
    with pytest.raises(ValueError, match=r"symbols must lie in 0\.\.2, got 0\.\.3"):
        prior.given(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"symbols must lie in -1\.\.2, got -2\.\.0"):
        prior.loss(z, z, symbols=torch.tensor([0, 0, 0, -2, -1]))
    with pytest.raises(ValueError, match=r"one entry for each posterior sample, 5, got 4"):
        prior.loss(z, z, symbols=torch.zeros(4).long())
    with pytest.raises(ValueError, match="symbols must be at least 2, got 1"):
        SymbolEnergyPrior(mlp((2, 1)), 2, symbols=1)
    with pytest.raises(ValueError, match=r"one logit per symbol, shape \(5, 4\), got \(5, 3\)"):
        SymbolEnergyPrior(mlp((2, 3)), 2, symbols=4).tilt(torch.zeros(5, 2))
