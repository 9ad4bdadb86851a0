"""What the watchers of priors say, and when."""

import json

import pytest
import torch
from torch import Tensor, nn

from lv_core.nn import mlp
from lv_priors import EnergyHealth, EnergyPrior
from lv_priors.health import Health, LayeredHealth, SymbolHealth, TransportHealth
from lv_priors.layered import LayeredPrior, Level
from lv_priors.symbol import SymbolEnergyPrior
from lv_priors.transport import TransportPrior


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


def test_divergence_within_the_window_is_not_forgotten() -> None:
    z = 0.5 * torch.randn(2, 500, 3)
    health = EnergyHealth(EnergyPrior(Scaled(1.0), 3, scale=0.5), window=4)
    health.update(z[0] * float("nan"), z[1])
    health.update(z[0], 6 * z[1])
    first, second = health.words()
    assert first.startswith("a sign is not finite in 1 of the last 2 updates")
    assert "the chain escapes" in second
    for _ in range(4):
        health.update(z[0], z[1])
    assert health.words()[0].startswith("healthy: gap ")


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


def test_conditions_belong_to_one_set() -> None:
    class Shifted(nn.Module):
        def forward(self, z: Tensor, condition: Tensor) -> Tensor:
            return (z * condition).sum(-1)

    c, z = torch.randn(6, 3), torch.randn(2, 6, 3)
    bound = EnergyPrior(Shifted(), 3, conditional=True).given(c)
    signs = EnergyHealth(bound).update(z[0], z[1])
    expected = ((z[0] - z[1]) * c).sum(-1).mean().item()
    assert signs["gap"] == pytest.approx(expected, rel=1e-4)


def scaled(*factors: float) -> TransportPrior:
    """Returns a transport that scales each entry."""
    network = nn.Linear(len(factors), len(factors), bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.tensor(factors).diag())
    return TransportPrior(network, len(factors)).double()


def transported(u: Tensor, *factors: float, **settings: int) -> TransportHealth:
    health = TransportHealth(scaled(*factors), **settings)
    health.update(u)
    return health


def test_signs_of_a_transport_are_those_of_its_matrix() -> None:
    u = torch.randn(400, 4).double()
    health = TransportHealth(scaled(2.0, 1.0, 0.1, 1e-5))
    signs = health.update(u)
    variance = (u.var(0) * torch.tensor([4.0, 1.0, 0.01, 1e-10])).mean()
    assert signs["std_latent"] == pytest.approx(variance.sqrt().item())
    assert signs["std_noise"] == pytest.approx(u.var(0).mean().sqrt().item())
    assert signs["dead"] == 0.25
    assert health.words()[0].startswith("25% of the directions of the latent are dead")


def test_dead_directions_are_counted_among_those_that_samples_can_show() -> None:
    # Three samples span two directions; wrong control: the third, which they cannot, as dead.
    assert TransportHealth(scaled(*[1.0] * 5)).update(torch.randn(3, 5).double())["dead"] == 0.0
    # Directions need not be axes: the all-ones matrix has one.
    prior = scaled(*[1.0] * 4)
    with torch.no_grad():
        prior.network.weight.fill_(1.0)
    assert TransportHealth(prior).update(torch.randn(50, 4).double())["dead"] == 0.75


def test_only_the_rows_asked_for_are_decomposed() -> None:
    u = torch.randn(10, 3).double()
    u[:5] = u[:1]  # the first five samples are one point
    assert TransportHealth(scaled(1.0, 1.0, 1.0), rows=5).update(u)["dead"] == 1.0
    assert TransportHealth(scaled(1.0, 1.0, 1.0)).update(u)["dead"] == 0.0
    with pytest.raises(ValueError, match="rows must be at least 2, got 1"):
        TransportHealth(scaled(1.0), rows=1)


def test_a_healthy_transport_is_called_healthy() -> None:
    (line,) = transported(torch.randn(200, 3).double(), 1.0, 0.7, 0.5).words()
    assert line.startswith("healthy: standard deviation ")


def test_a_collapsed_transport_is_called_out() -> None:
    u = torch.randn(200, 3).double()
    (line,) = transported(u, 1e-3, 1e-3, 1e-3).words()
    assert "collapsed to a point" in line
    assert transported(u, 0.1, 0.1, 0.1).words()[0].startswith("healthy")


@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_noise_that_leaves_its_prior_is_called_out(factor) -> None:
    (line,) = transported(factor * torch.randn(200, 3).double(), 1.0, 1.0, 1.0).words()
    assert "times as wide as the prior's" in line


def test_a_transport_that_diverged_comes_first() -> None:
    u = torch.randn(200, 3).double()
    u[0, 0] = torch.nan
    assert "the prior has diverged" in transported(u, 1.0, 1.0, 1.0).words()[0]


def hierarchy(weight: float, scale: float, **settings: object) -> LayeredPrior:
    """Returns a level of one entry above one of two, `z2 = weight z1 + scale u2`."""
    down = nn.Linear(1, 2, bias=False)
    nn.init.constant_(down.weight, weight)
    levels = {"top": Level(1), "low": Level(2, down, scale=scale)}
    return LayeredPrior(levels, **settings).double()


@pytest.mark.parametrize("space", ["noise", "latent"])
def test_signs_of_a_hierarchy_are_shares_of_variance(space) -> None:
    prior = hierarchy(2.0, 1.0, space=space)
    z = prior.sample(20_000)
    health = LayeredHealth(prior)
    signs = health.update(prior.pull(z))
    # Standard errors of a standard deviation: 1 / sqrt(2 n) = 0.5 % of it.
    assert signs["std/top"] == pytest.approx(1.0, rel=0.025)
    assert signs["std/low"] == pytest.approx(5**0.5, rel=0.025)
    assert signs["from_above/top"] == 0.0
    assert signs["from_above/low"] == pytest.approx(0.8, abs=0.01)
    assert health.words() == ["healthy: levels move, from above: 80% of low"]


def layered_words(weight: float, scale: float, shrink: float = 1.0) -> list[str]:
    prior = hierarchy(weight, scale, space="latent")
    health = LayeredHealth(prior)
    with torch.no_grad():
        z = prior.sample(500)
    z[:, 1:] *= shrink
    health.update(z)
    return health.words()


def test_levels_that_are_dead_are_called_out() -> None:
    (line,) = layered_words(1e-2, 1.0)
    assert "level 'low' ignores the levels above" in line
    (line,) = layered_words(1.0, 1e-2)
    assert "the noise of level 'low' is dead" in line
    (line,) = layered_words(1.0, 1.0, shrink=1e-3)
    assert "level 'low' has collapsed to a point" in line
    single = LayeredHealth(LayeredPrior({"only": Level(2)}))
    single.update(torch.randn(50, 2))
    assert single.words() == ["healthy: levels move, from above: nothing, a single level"]


def symbols(logits: Tensor) -> SymbolHealth:
    """Returns a watcher that saw a prior whose logits are fixed, whatever the latent."""
    network = nn.Linear(2, len(logits))
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(logits)
    health = SymbolHealth(SymbolEnergyPrior(network, 2, symbols=len(logits)))
    health.update(torch.randn(100, 2), torch.randn(100, 2))
    return health


def test_signs_of_symbols_are_their_shares_and_entropy() -> None:
    shares = torch.tensor([0.6, 0.38, 0.019, 0.001])
    health = symbols(shares.log())
    (record,) = health.state_dict()["recent"]
    assert record["unused"] == 2  # below 0.1 / 4
    entropy = -(shares * shares.log()).sum() / torch.tensor(4.0).log()
    assert record["blur"] == pytest.approx(entropy.item(), rel=1e-4)
    assert record["gap"] == pytest.approx(0.0, abs=1e-5)
    (line,) = health.words()
    assert line.startswith("2 of 4 symbols are unused")


def test_symbols_that_mean_nothing_are_called_out() -> None:
    (line,) = symbols(torch.zeros(4)).words()
    assert "symbols do not tell latents apart" in line
    (line,) = symbols(torch.tensor([2.0, 0.0, 0.0])).words()
    assert line.startswith("healthy: gap ")
    assert "entropy of symbols" in line


def test_signs_come_back_bit_for_bit() -> None:
    u = torch.randn(20, 2)
    energy = EnergyHealth(EnergyPrior(mlp((2, 1)), 2), window=3)
    energy.update(u, u + 0.1)
    transport = TransportHealth(TransportPrior(mlp((2, 2)), 2), window=3)
    layers = LayeredHealth(LayeredPrior({"a": Level(2)}), window=3)
    for _ in range(4):
        u = torch.randn(20, 2)
        transport.update(u)
        layers.update(u)
    watchers: list[Health] = [energy, transport, layers, symbols(torch.randn(3))]
    for health in watchers:
        state = json.loads(json.dumps(health.state_dict()))
        prior = health.prior
        other = type(health)(prior, window=3)
        other.load_state_dict(state)
        assert other.state_dict() == health.state_dict() == state
        assert other.words() == health.words()
    assert len(transport.state_dict()["recent"]) == 3
