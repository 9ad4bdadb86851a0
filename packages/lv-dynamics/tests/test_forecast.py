import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from lv_core import stream
from lv_dynamics.config import OdeConfig
from lv_dynamics.forecast import Forecast, forecast, swap_static
from lv_dynamics.inference import InferenceSettings, infer
from lv_dynamics.model import EnergyOde
from lv_dynamics.posterior import Posterior

TIMES = torch.tensor([0.0, 0.15, 0.4, 0.9], dtype=torch.float64)


def small_model(**settings):
    torch.manual_seed(0)
    sizes = {"state": 2, "static": 1, "field_hidden": (8,), "emission_hidden": (8,)}
    return EnergyOde(OdeConfig(**{"observed": (2,), "sigma": 0.3, **sizes, **settings})).double()


def posterior_of(z, draws, weights=None):
    """A record of given chains, z (R, B, D) and draws (S, R, B, D)."""
    shape = z.shape[:2]
    zero = torch.zeros(shape, dtype=z.dtype)
    return Posterior(
        z=z,
        log_density=-z.square().sum(-1),
        log_likelihood=zero,
        misfit=zero,
        weights=torch.full_like(zero, 1 / len(z)) if weights is None else weights,
        draws=draws,
        exact=True,
        accept=zero,
        step_size=zero,
        rise=zero,
        moved=zero.bool(),
        observed=torch.ones(shape[1], dtype=z.dtype),
        state=2,
    )


def some_posterior(draws=5, restarts=3, batch=2, dim=3):
    g = stream(0, "posterior")
    z = torch.randn(restarts, batch, dim, dtype=torch.float64, generator=g)
    kept = torch.randn(draws, restarts, batch, dim, dtype=torch.float64, generator=g)
    weights = torch.rand(restarts, batch, dtype=torch.float64, generator=g).softmax(0)
    return posterior_of(z, kept, weights)


def test_mean_and_deviations_are_those_of_the_weighted_mixture():
    model, posterior = small_model(), some_posterior()
    model.noise.set_sigma(torch.tensor([0.2, 0.7], dtype=torch.float64))
    found = forecast(model, posterior, TIMES, most=None)
    paths = torch.stack([model.mean(z, TIMES) for z in posterior.draws.flatten(0, 1)]).detach()
    weights = (posterior.weights.repeat(5, 1) / 5)[..., None, None]
    mean = (weights * paths).sum(0)
    spread = (weights * (paths - mean) ** 2).sum(0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.epistemic, spread.sqrt())
    torch.testing.assert_close(found.std, (spread + model.noise.sigma**2).sqrt())
    torch.testing.assert_close(found.best, model.mean(posterior.best(), TIMES).detach())
    assert found.mean.shape == (2, 4, 2)
    # The wrong control: equal weights.
    assert not torch.allclose(found.mean, paths.mean(0), rtol=1e-3)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_quantiles_are_those_of_the_mixture():
    found = forecast(small_model(), some_posterior(), TIMES)
    low, middle, high = (found.quantile(q) for q in (0.05, 0.5, 0.95))
    assert (low < middle).all()
    assert (middle < high).all()
    weights = found.weights.T[:, None, None, :].expand(2, 4, 2, 15)
    mixture = MixtureSameFamily(
        Categorical(probs=weights),
        Normal(found.paths.movedim(0, -1), found.variance.movedim(0, -1).sqrt()),
    )
    for q, bound in ((0.05, low), (0.5, middle), (0.95, high)):
        expected = torch.full_like(bound, q)
        torch.testing.assert_close(mixture.cdf(bound), expected, rtol=1e-8, atol=1e-8)
    # The wrong control: the normal with the same mean and deviation is another distribution.
    normal = Normal(found.mean, found.std).icdf(torch.tensor(0.05, dtype=torch.float64))
    assert (mixture.cdf(normal) - 0.05).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"q must lie in \(0, 1\), got 1\.0"):
        found.quantile(1.0)


def test_a_distribution_without_noise_has_quantiles_among_its_paths():
    paths = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    sure = Forecast(
        times=TIMES,
        mean=zero,
        std=zero,
        epistemic=zero,
        best=zero,
        paths=paths,
        variance=torch.zeros_like(paths),
        weights=torch.full((3, 1), 1 / 3, dtype=torch.float64),
    )
    assert float(sure.quantile(0.5)) == pytest.approx(2.0)
    assert float(sure.quantile(0.1)) == pytest.approx(1.0)
    assert float(sure.quantile(0.9)) == pytest.approx(4.0)


def test_a_band_covers_what_the_model_generates():
    # 90 % bands of 60 sequences x 6 later times; outcomes of a sequence depend on each other, so
    # some 60 independent ones: standard error 0.039, five of which are 0.19.
    model = small_model(observed=(1,), prior="gaussian", state=2, static=0, sigma=0.1)
    times = torch.arange(12, dtype=torch.float64) * 0.2
    drawn = model.sample(60, times, generator=stream(0, "truth")).sequences
    settings = InferenceSettings(restarts=8, steps=40, draws=6, thin=3, start="normal")
    posterior = infer(model, drawn.prefix(6), settings=settings)
    found = forecast(model, posterior, times)
    inside = (drawn.values > found.quantile(0.05)) & (drawn.values < found.quantile(0.95))
    assert 0.71 < inside[:, 6:].double().mean() <= 1
    # The wrong control: a band that leaves the noise out.
    narrow = (drawn.values - found.mean).abs() < 1.645 * found.epistemic
    assert narrow[:, 6:].double().mean() < 0.71


def test_each_sequence_may_have_times_of_its_own():
    model, posterior = small_model(), some_posterior()
    own = torch.stack([TIMES, 2 * TIMES])
    found = forecast(model, posterior, own)
    both = forecast(model, posterior, 2 * TIMES)
    torch.testing.assert_close(found.mean[1], both.mean[1])
    torch.testing.assert_close(found.mean[0], forecast(model, posterior, TIMES).mean[0])
    assert not torch.allclose(found.mean[0], both.mean[0])


def test_binary_observations_have_their_own_variance():
    model = small_model(likelihood="bernoulli")
    found = forecast(model, some_posterior(), TIMES)
    # For one bit the variance follows from the mean, however uncertain that is.
    torch.testing.assert_close(found.std.square(), found.mean * (1 - found.mean))


def test_times_before_the_start_are_refused():
    model, posterior = small_model(), some_posterior()
    with pytest.raises(ValueError, match="must not be negative"):
        forecast(model, posterior, TIMES - 0.1)
    own = torch.stack([TIMES, TIMES.flip(0)])
    with pytest.raises(ValueError, match="sequence 1 must increase"):
        forecast(model, posterior, own)


def test_static_variables_change_places():
    model = small_model()
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)
    swapped = swap_static(model, first, second)
    assert torch.equal(swapped.first, torch.cat((first[:, :2], second[:, 2:]), 1))
    assert torch.equal(swapped.second, torch.cat((second[:, :2], first[:, 2:]), 1))
    with pytest.raises(ValueError, match=r"one shape, got \(4, 3\) and \(3, 3\)"):
        swap_static(model, first, second[:3])
    with pytest.raises(ValueError, match="no static variables to swap"):
        swap_static(small_model(static=0, state=3), first, second)


class Turning(nn.Module):
    """Circles whose frequency is the static variable."""

    def forward(self, y, static):
        return (2 + static) * torch.stack((y[..., 1], -y[..., 0]), dim=-1)


def test_what_moves_follows_the_initial_state_and_how_fast_the_static_variable():
    config = OdeConfig(observed=(2,), state=2, static=1, prior="gaussian")
    model = EnergyOde(config, field=Turning(), emission=nn.Identity()).double()
    slow = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    fast = torch.tensor([[0.0, 3.0, 1.0]], dtype=torch.float64)
    swapped = swap_static(model, slow, fast)
    times = torch.tensor([0.5], dtype=torch.float64)
    moved = model.mean(swapped.first, times)[0, 0]
    expected = torch.tensor([math.cos(1.5), -math.sin(1.5)], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
