"""Flows as priors: normalised, exact to sample, and better than a normal where data are not."""

import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, Uniform

from lv_core import Shard, stream
from lv_core.targets import Mixture
from lv_priors.flow import FlowPrior

zuko = pytest.importorskip("zuko", reason="needs lv-priors[flows]")


def grid(half: float, points: int) -> tuple[Tensor, float]:
    """Returns the points of a square grid, shape `(points^2, 2)`, and the area of a cell."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    cell = (2 * half / (points - 1)) ** 2
    return torch.cartesian_prod(axis, axis), cell


def rough(kind: str) -> FlowPrior:
    """Returns a flow far from the identity."""
    torch.manual_seed(1)
    prior = getattr(FlowPrior, kind)(2, hidden=(16,)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.5 if kind == "nsf" else 1.0)  # affine maps get tails that are long
    return prior


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_density_integrates_to_one(kind) -> None:
    prior = rough(kind)
    points, cell = grid(12.0, 301)
    with torch.no_grad():
        flow = prior.flow(None)
        value = prior.log_density(points)
        # wrong control: the base at the transformed points, without the Jacobian
        bare = flow.base.log_prob(flow.transform(points))
    # Splines have kinks, affine flows mass beyond the square: each leaves up to 1e-3.
    assert abs(value.exp().sum().item() * cell - 1) < 2e-3
    assert abs(bare.exp().sum().item() * cell - 1) > 8e-3


def bounded(z: Tensor) -> Tensor:
    """Returns statistics with finite moments whatever the tails."""
    t = z.tanh()
    return torch.cat((t, t.square(), t[:, :1] * t[:, 1:]), dim=-1)


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_samples_follow_the_density(kind) -> None:
    prior, n = rough(kind), 20_000
    points, cell = grid(12.0, 301)
    with torch.no_grad():
        weight = prior.log_density(points).exp() * cell
    mean = (weight[:, None] * bounded(points)).sum(0)

    def off(draws: Tensor) -> float:
        values = bounded(draws)
        error = values.std(0) / n**0.5 + 1e-3 / 5  # and that of the quadrature
        return ((values.mean(0) - mean).abs() / error).max().item()

    assert off(prior.sample(n, generator=stream(0, kind))) < 5
    assert off(torch.randn(n, 2, generator=stream(0, kind)).double()) > 5  # control: the base


def test_learning_comes_closer_to_a_mixture_than_any_normal_can() -> None:
    # Four normals on a circle of radius 1.5; the best normal has their mean and covariance.
    target = Mixture.ring(4, radius=1.5, scale=0.4)
    n, generator = 4000, stream(0, "mixture")

    def draw(count: int) -> Tensor:
        pick = torch.randint(4, (count,), generator=generator)
        return target.centers[pick] + 0.4 * torch.randn(count, 2, generator=generator)

    torch.manual_seed(0)
    prior = FlowPrior.nsf(2, transforms=2, hidden=(32, 32))
    before = prior.log_density(draw(n)).mean().item()
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    for _ in range(300):
        loss, _ = prior.loss(draw(256))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = draw(n)
    with torch.no_grad():
        ratio = target(x) - prior.log_density(x)
    kl = ratio.mean().item()
    variance = 0.4**2 + 1.5**2 / 2
    normal = -0.5 * x.square().sum(-1) / variance - math.log(2 * math.pi * variance)
    best_normal = (target(x) - normal).mean().item()
    assert -5 * ratio.std().item() / n**0.5 < kl < 0.1  # a divergence is not negative
    assert best_normal > 0.5
    assert target(x).mean().item() - before > 0.5  # control: the flow before it learned


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    prior, z = FlowPrior.maf(3, hidden=(8,)), torch.randn(6, 3)
    loss, logs = prior.loss(z, torch.randn(4, 3))
    torch.testing.assert_close(loss, -prior.log_density(z).mean())
    torch.testing.assert_close(logs["surprise"], loss.detach())


def test_starts_are_exact_draws() -> None:
    prior = FlowPrior.maf((2, 2), hidden=(8,))
    one, two = prior.init(5, generator=stream(0)), prior.sample(5, generator=stream(0))
    assert torch.equal(one, two)
    assert one.shape == (5, 2, 2)


def shifted() -> FlowPrior:
    """Returns p(z | c) learned where z ~ N(2 c, 0.5^2)."""
    torch.manual_seed(0)
    prior, generator = FlowPrior.maf(1, context=1, hidden=(16,), transforms=1), stream(0, "c")
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=500)
    for _ in range(500):
        c = 2 * torch.rand(256, 1, generator=generator) - 1
        z = 2 * c + 0.5 * torch.randn(256, 1, generator=generator)
        loss, _ = prior.given(c).loss(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return prior


def test_a_conditional_flow_learns_the_condition() -> None:
    prior = shifted()
    c = torch.tensor([[-0.8], [0.0], [0.8]]).repeat_interleave(4000, 0)
    draws = prior.given(c).sample(len(c), generator=stream(0)).reshape(3, 4000)
    means = torch.tensor([-1.6, 0.0, 1.6])
    # Error of learning, up to a tenth of the standard deviation, and five standard errors.
    assert (draws.mean(1) - means).abs().max() < 0.05 + 5 * 0.008
    assert (draws.std(1) - 0.5).abs().max() < 0.05 + 5 * 0.006
    c, z = c[::4000], means[:, None]
    exact = Normal(0.0, 0.5).log_prob(torch.zeros(3))
    assert (prior.given(c).log_density(z) - exact).abs().max() < 0.2
    swapped = prior.given(-c).log_density(z)
    assert (swapped - exact).abs().max() > 2  # wrong control: another condition


def test_conditions_are_matched_to_latents() -> None:
    prior = FlowPrior.maf(2, context=3, hidden=(8,))
    c, z = torch.randn(5, 3), torch.randn(4, 5, 2)
    value = prior.given(c).log_density(z)
    each = [prior.given(c[k : k + 1]).log_density(z[:, k]) for k in range(5)]
    torch.testing.assert_close(value, torch.stack(each, dim=-1))
    assert prior.given(c[:1]).log_density(z[0, 0]).shape == ()
    with pytest.raises(ValueError, match=r"condition holds 5 rows for latents .* \(4,\)"):
        prior.given(c).log_density(z[:, 0])


def test_conditions_that_are_missing_or_unasked_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a condition: .*prior\.given"):
        FlowPrior.maf(2, context=3).log_density(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"must be \(n, 0\) for context=0"):
        FlowPrior.maf(2).given(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"must be \(n, 3\) for context=3 .*got \(5, 2\)"):
        FlowPrior.maf(2, context=3).given(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="context must not be negative, got -1"):
        FlowPrior(nn.Identity(), 2, context=-1)


def test_a_bound_flow_learns_its_parent() -> None:
    prior = FlowPrior.maf(2, context=3, hidden=(8,)).double()
    bound = prior.given(torch.randn(5, 3).double())
    bound.loss(torch.randn(5, 2).double())[0].backward()
    assert all(p.grad is not None for p in prior.parameters())
    assert set(bound.state_dict()) == set(prior.state_dict())
    assert bound.sample(5).dtype == torch.float64


def test_any_flow_of_the_library_will_do() -> None:
    prior = FlowPrior(zuko.flows.NICE(4, transforms=2, hidden_features=(8,)), (2, 2))
    z = prior.sample(6, generator=stream(0))
    assert prior.log_density(z).shape == (6,)
    shards = [Shard(generator=stream(0), rank=rank, world=2) for rank in (0, 1)]
    parts = torch.cat([prior.sample(3, generator=shard) for shard in shards])
    torch.testing.assert_close(parts, z)


class Flat(nn.Module):
    """A distribution without transformation, uniform on a square."""

    def forward(self, condition: Tensor | None) -> Independent:
        return Independent(Uniform(torch.zeros(2), torch.ones(2)), 1)


def test_a_base_that_is_not_normal_says_so_when_sampled() -> None:
    for flow in (Flat(), zuko.flows.NCSF(2, transforms=1, hidden_features=(8,))):
        prior = FlowPrior(flow, 2)
        assert prior.log_density(torch.full((5, 2), 0.5)).shape == (5,)
        with pytest.raises(NotImplementedError, match="needs a flow with a normal base"):
            prior.sample(5)


def test_without_the_library_the_remedy_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    for make in (FlowPrior.nsf, FlowPrior.maf):
        with pytest.raises(ImportError, match=r"pip install 'lv-priors\[flows\]'"):
            make(2)


def test_base_moments_are_kept() -> None:
    # A flow whose base is not standard: the adapter draws with its mean and deviation.
    class Base(nn.Module):
        def forward(self, condition: Tensor | None) -> Independent:
            return Independent(Normal(torch.tensor([3.0, -1.0]), torch.tensor([0.1, 2.0])), 1)

    flow = zuko.lazy.Flow(zuko.flows.MAF(2, transforms=1, hidden_features=(8,)).transform, Base())
    prior, n = FlowPrior(flow, 2), 10_000
    with torch.no_grad():
        base = flow(None).transform(prior.sample(n, generator=stream(0)))
    error = torch.tensor([0.1, 2.0])
    assert ((base.mean(0) - torch.tensor([3.0, -1.0])).abs() / error).max() < 5 / n**0.5
    assert ((base.std(0) - error).abs() / error).max() < 5 / (2 * n) ** 0.5
