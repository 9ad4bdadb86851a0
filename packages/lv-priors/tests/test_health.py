"""What the watcher of an energy-based prior says, and when."""

import pytest
import torch
from torch import Tensor, nn

from lv_core.nn import mlp
from lv_priors import EnergyHealth, EnergyPrior


class Scaled(nn.Module):
    """The tilt `factor * sum(z)`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z.sum(-1)


def words(z_posterior: Tensor, z_prior: Tensor, *, factor: float = 0.0, **settings) -> list[str]:
    health = EnergyHealth(EnergyPrior(Scaled(factor), 3, scale=0.5), **settings)
    health.update(z_posterior, z_prior)
    return health.words()


def test_signs_are_the_quantities_they_are_named_after() -> None:
    z_posterior, z_prior = torch.randn(6, 3), torch.randn(4, 3)
    prior = EnergyPrior(Scaled(2.0), 3, scale=0.5)
    signs = EnergyHealth(prior).update(z_posterior, z_prior)
    expected = {
        "gap": 2 * (z_posterior.sum(-1).mean() - z_prior.sum(-1).mean()),
        "std_posterior": z_posterior.std(),
        "std_prior": z_prior.std(),
        "absmax_posterior": z_posterior.abs().max(),
        "absmax_prior": z_prior.abs().max(),
        "drift": z_prior.std() / 0.5,
    }
    assert signs == pytest.approx({name: value.item() for name, value in expected.items()})


def test_nothing_seen_is_said_to_be_nothing() -> None:
    assert EnergyHealth(EnergyPrior(mlp((3, 1)), 3)).words() == ["no update has been seen yet"]


def test_healthy_samples_are_called_healthy() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    (line,) = words(z[0], z[1], factor=1.0)
    assert line.startswith("healthy: gap ")


def test_a_large_gap_is_called_out_with_a_remedy() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    for sign in (1, -1):
        (line,) = words(z[0] + sign, z[1], factor=30.0)
        assert "tilt gap averages" in line
        assert "lower the prior's learning rate" in line
    assert words(z[0] + 1, z[1], factor=30.0, max_gap=1000.0)[0].startswith("healthy")


def test_escaping_samples_are_called_out() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    (line,) = words(z[0], 6 * z[1])
    assert "6." in line or "5." in line
    assert "the chain escapes" in line
    assert words(z[0], 3 * z[1])[0].startswith("healthy")


def test_collapsed_samples_are_called_out() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    (line,) = words(z[0], 0.1 * z[1])
    assert "collapsed to a point" in line
    assert words(z[0], 0.4 * z[1])[0].startswith("healthy")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_comes_first(value) -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    broken = z[1].clone()
    broken[0, 0] = value
    assert "the prior has diverged" in words(z[0], broken, factor=1.0)[0]


def test_only_recent_updates_count() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    health = EnergyHealth(EnergyPrior(Scaled(0.0), 3, scale=0.5), window=3)
    health.update(z[0], 0.01 * z[1])
    assert "collapsed" in health.words()[0]
    for _ in range(3):
        health.update(z[0], z[1])
    assert health.words()[0].startswith("healthy")


def test_watching_leaves_gradients_alone() -> None:
    prior = EnergyPrior(mlp((3, 8, 1)), 3)
    EnergyHealth(prior).update(torch.randn(6, 3), torch.randn(6, 3))
    assert all(p.grad is None and p.requires_grad for p in prior.parameters())


def test_a_window_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 2, got 1"):
        EnergyHealth(EnergyPrior(mlp((3, 1)), 3), window=1)
