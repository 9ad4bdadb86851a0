import torch
from torch import nn

from lv_core import stream
from lv_dynamics.config import OdeConfig
from lv_dynamics.inference import InferenceSettings, infer
from lv_dynamics.model import EnergyOde
from lv_dynamics.ood import ood_score
from lv_dynamics.sequences import Sequences

SETTINGS = InferenceSettings(restarts=4, steps=25, polish=8, anneal=(), start="normal")


class Turning(nn.Module):
    """Circles whose frequency is the static variable."""

    def forward(self, y, static):
        return (2 + static) * torch.stack((y[..., 1], -y[..., 0]), dim=-1)


def turning_model():
    config = OdeConfig(observed=(2,), state=2, static=1, prior="gaussian", sigma=0.1)
    return EnergyOde(config, field=Turning(), emission=nn.Identity()).double()


def circles(radius, *, jump=0.0, batch=4):
    times = torch.arange(6, dtype=torch.float64) * 0.2
    phase = 2 * times + torch.arange(batch)[:, None]
    values = radius * torch.stack((phase.cos(), -phase.sin()), dim=-1)
    noise = torch.randn(values.shape, generator=stream(0, "noise"), dtype=torch.float64)
    values = values + 0.1 * noise
    values[:, ::2] += jump
    return Sequences(times, values)


def test_the_scores_are_their_formulas():
    model, data = turning_model(), circles(1.0)
    posterior = infer(model, data, settings=SETTINGS)
    scores = ood_score(model, posterior)
    draws, w = posterior.draws[0], posterior.weights
    torch.testing.assert_close(scores.prior_energy, (w * model.energy(draws)).sum(0))
    torch.testing.assert_close(
        scores.misfit, -(w * model.log_likelihood(posterior.z, data)).sum(0) / 12
    )
    torch.testing.assert_close(
        scores.posterior_energy, -(w * model.posterior(data)(posterior.z)).sum(0) / 12
    )


def test_sequences_are_inferred_first():
    model, data = turning_model(), circles(1.0)
    given = ood_score(model, infer(model, data, settings=SETTINGS, seed=5))
    own = ood_score(model, data, settings=SETTINGS, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(given, own, strict=True))


def test_each_score_sees_its_own_kind_of_strangeness():
    model = turning_model()
    usual = ood_score(model, circles(1.0), settings=SETTINGS)
    # A large circle obeys the dynamics, but starts where the prior has little mass.
    large = ood_score(model, circles(4.0), settings=SETTINGS)
    assert (large.prior_energy > usual.prior_energy.max() + 2).all()
    assert ((large.misfit - usual.misfit).abs() < 0.5).all()
    # A shaking one is explained by no latent.
    shaking = ood_score(model, circles(1.0, jump=1.0), settings=SETTINGS)
    assert (shaking.misfit > usual.misfit.max() + 2).all()
    assert (shaking.posterior_energy > usual.posterior_energy.max() + 2).all()
