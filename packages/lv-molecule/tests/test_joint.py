"""The joint model: terms of the posterior, cost of a step, gradients, losses."""

import pytest
import torch

from lv_core import Langevin, stream, value_and_grad
from lv_core.nn import mlp
from lv_molecule import LstmDecoder, MoleculeModel
from lv_priors import EnergyPrior, PropertyHead
from lv_priors.presets import sgds_posterior, sgds_prior, sgds_shift

LATENT = 6


def model(*, dropout: float = 0.0, inference_mode="eval") -> MoleculeModel:
    decoder = LstmDecoder(9, LATENT, end=7, start=8, embedding=5, hidden=8, dropout=dropout)
    prior = EnergyPrior(mlp((LATENT, 8, 1)), LATENT, scale=0.5, sampler=sgds_prior(3))
    heads = {name: PropertyHead((LATENT, 8, 1)) for name in ("a", "b")}
    return MoleculeModel(prior, decoder, heads, inference_mode=inference_mode)


@pytest.fixture
def batch():
    tokens = torch.randint(0, 7, (5, 6))
    tokens[0, 3:] = 7
    return tokens, {"a": torch.randn(5), "b": torch.randn(5)}


def test_the_target_is_the_sum_of_its_parts(batch):
    m, (tokens, values) = model().eval(), batch
    z = torch.randn(5, LATENT)
    target = m.target(tokens=tokens, values=values)
    assert target.names == ("prior", "x", "y")
    expected = m.prior.log_density(z) + m.decoder.log_likelihood(tokens, z)
    expected = expected + sum(m.head(n).log_prob(y, z) for n, y in values.items())
    torch.testing.assert_close(target(z), expected)
    assert m.target().names == ("prior",)


@pytest.mark.parametrize("kernel", [sgds_posterior(4), Langevin(steps=4, step_size=0.1)])
def test_one_decoder_forward_per_posterior_step(batch, kernel, monkeypatch):
    m, (tokens, values) = model(), batch
    calls = []
    original = m.decoder.log_likelihood
    monkeypatch.setattr(m.decoder, "log_likelihood", lambda *a: (calls.append(1), original(*a))[1])
    m.infer(kernel, m.prior.init(5), tokens=tokens, values=values)
    assert len(calls) == 4


def test_no_chain_touches_parameter_gradients_or_modes(batch):
    m, (tokens, values) = model(dropout=0.5), batch
    m.train()
    m.infer(sgds_posterior(3), m.prior.init(5), tokens=tokens, values=values)
    m.infer(sgds_shift(2), m.prior.init(5), values=values)
    m.prior.sample(4)
    assert all(p.grad is None and p.requires_grad for p in m.parameters())
    assert m.decoder.training


def test_dropout_acts_in_the_chain_only_where_asked(batch):
    tokens, values = batch

    def chain(mode: str) -> torch.Tensor:
        torch.manual_seed(0)
        m = model(dropout=0.5, inference_mode=mode).train()
        ends = []
        for seed in (1, 2):
            torch.manual_seed(seed)  # dropout draws from the global generator
            u = torch.zeros(5, LATENT)
            g = stream(0, "chain")
            trace = m.infer(sgds_posterior(3), u, tokens=tokens, values=values, generator=g)
            ends.append(trace.state.u)
        return (ends[0] - ends[1]).abs().max()

    assert chain("eval") == 0
    assert chain("train") > 1e-4


def test_the_posterior_chain_is_that_of_the_paper(batch):
    """z <- z + s^2/2 grad(log p(x|z) + log p(z)) + c s eps; then s^2/2 grad log p(y|z) there."""
    m, (tokens, values) = model().eval(), batch
    start, s, c = torch.randn(5, LATENT), 0.5, 0.5
    got = m.infer(
        sgds_posterior(3), start, tokens=tokens, values=values, generator=stream(1, "n")
    ).state.u
    z, g = start, stream(1, "n")
    for _ in range(3):
        target = m.target(tokens=tokens, values=values)
        drift = value_and_grad(target.only("prior", "x"), z).grad
        z = z + 0.5 * s**2 * drift + c * s * torch.empty_like(z).normal_(generator=g)
        z = z + 0.5 * s**2 * value_and_grad(target.only("y"), z).grad
    torch.testing.assert_close(got, z)


def test_losses_are_those_of_the_parts_and_reach_every_parameter(batch):
    m, (tokens, values) = model(), batch
    z, z_prior = torch.randn(5, LATENT), torch.randn(7, LATENT)
    losses = m(tokens, values, z, z_prior)
    torch.testing.assert_close(losses.likelihood, -m.decoder.log_likelihood(tokens, z).mean())
    wanted = sum(10.0 * m.head(n).squared_error(y, z).mean() for n, y in values.items())
    torch.testing.assert_close(losses.properties, wanted)
    tilt = m.prior.tilt
    torch.testing.assert_close(losses.prior, tilt(z_prior).mean() - tilt(z).mean())
    (losses.likelihood + losses.properties + losses.prior).backward()
    # The tilt's last bias is a constant of the density: its gradient is zero, not missing.
    assert all(p.grad is not None for p in m.parameters())


def test_learning_lowers_the_likelihood_loss(batch):
    m, (tokens, values) = model(), batch
    optimizer = torch.optim.Adam(m.parameters(), lr=1e-2)
    first = last = 0.0
    for step in range(60):
        start = m.prior.init(5, generator=stream(0, "u", step))
        trace = m.infer(sgds_posterior(4, clip=10.0), start, tokens=tokens, values=values)
        losses = m(tokens, values, trace.state.u, m.prior.sample(5))
        optimizer.zero_grad()
        (losses.likelihood + losses.properties).backward()
        optimizer.step()
        last = losses.likelihood.item()
        first = first or last
    assert last < 0.7 * first


def test_an_unknown_property_is_named(batch):
    with pytest.raises(ValueError, match="unknown property 'c'; there are: a, b"):
        model().target(values={"c": torch.zeros(5)})
