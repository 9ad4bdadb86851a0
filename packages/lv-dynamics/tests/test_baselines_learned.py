"""Learned baselines, tiny: each beats a trivial one, and does not where nothing is learned."""

from dataclasses import replace

import pytest
import torch

from lv_core import stream
from lv_dynamics.baselines import GruForecaster, GruSettings, LatentOde, MonodeLike, Trivial
from lv_dynamics.baselines.gru_network import GruNetwork
from lv_dynamics.config import OdeConfig
from lv_dynamics.learning import LearningSettings
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import Solver

CONFIG = OdeConfig(
    observed=(1,),
    state=2,
    static=1,
    field_hidden=(16,),
    emission_hidden=(16,),
    sigma=0.2,
    solver=Solver(method="midpoint", step_size=0.25),
)
LEARNING = LearningSettings(iterations=150, batch_size=40, lr=0.02, anneal=0.3, curriculum=0.3)
GRU = GruSettings(hidden=24, iterations=150, batch_size=40, lr=0.02)


def waves(n: int, name: str = "train", rows: int = 8) -> Sequences:
    generator = stream(0, name)
    times = 0.1 * torch.rand(n, rows, generator=generator) + 0.25 * torch.arange(rows)
    phase = 6.3 * torch.rand(n, 1, generator=generator)
    return Sequences(times, torch.sin(3.0 * times + phase)[..., None])


def made(kind: str, *, learns: bool = True, iterations: int | None = None):
    changes = {} if learns else {"lr": 0.0, "iterations": 2}
    changes |= {} if iterations is None else {"iterations": iterations}
    if kind == "gru":
        return GruForecaster(replace(GRU, **changes))
    if kind == "monode":
        return MonodeLike(CONFIG, replace(LEARNING, **changes), hidden=16, window=3)
    return LatentOde(CONFIG, replace(LEARNING, **changes), hidden=16)


KINDS = pytest.mark.parametrize("kind", ["gru", "monode", "latent_ode"])


def error(forecaster, test: Sequences, seen: int) -> float:
    predicted = forecaster.predict(test.prefix(seen), test.times, draws=4, seed=1)
    return float((predicted.best - test.values)[:, seen:].square().mean())


@KINDS
def test_beats_holding_the_last_value_and_does_not_without_a_step_size(kind):
    train, test = waves(40), waves(30, "test")
    hold = error(Trivial("hold_last").fit(train), test, 5)
    assert error(made(kind).fit(train, seed=0), test, 5) < 0.6 * hold
    assert error(made(kind, learns=False).fit(train, seed=0), test, 5) > 0.6 * hold


@KINDS
def test_a_fit_is_a_function_of_its_seed_and_leaves_the_random_state_alone(kind):
    before = torch.get_rng_state()
    train, asked = waves(6), torch.tensor([0.5, 2.5])
    first, again, other = (
        made(kind, iterations=2).fit(train, seed=seed).predict(train, asked, draws=3, seed=0)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.paths, again.paths)
    assert not torch.equal(first.paths, other.paths)


@KINDS
def test_forecasts_have_draws_times_of_each_sequence_and_a_band(kind):
    train = waves(6)
    forecaster = made(kind, iterations=2).fit(train, seed=0)
    own = torch.rand(6, 5, generator=stream(0, "own")).cumsum(1) + 1.0
    predicted = forecaster.predict(train.prefix(4), own, draws=7, seed=3)
    assert predicted.paths.shape == predicted.variance.shape == (7, 6, 5, 1)
    assert predicted.best.shape == predicted.mean.shape == (6, 5, 1)
    assert bool((predicted.std > predicted.epistemic).all())
    assert bool((predicted.quantile(0.9) > predicted.quantile(0.1)).all())
    torch.testing.assert_close(predicted.weights.sum(0), torch.ones(6))
    other = forecaster.predict(train.prefix(4), own, draws=7, seed=4)
    assert torch.equal(other.best, predicted.best)
    assert not torch.equal(other.paths, predicted.paths)


@KINDS
def test_forecasts_do_not_see_what_is_masked_nor_other_sequences(kind):
    train = waves(6)
    forecaster = made(kind, iterations=2).fit(train, seed=0)
    mask = torch.ones(6, 8, dtype=torch.bool)
    mask[:, 1::3] = False
    mask[:, 6:] = False
    other = torch.where(mask[..., None], train.values, 99.0)
    asked = torch.tensor([0.3, 1.1, 1.9, 2.4])
    seen = Sequences(train.times, train.values, mask)
    best = forecaster.predict(seen, asked, draws=1).best
    same = forecaster.predict(Sequences(train.times, other, mask), asked, draws=1).best
    assert torch.equal(best, same)
    alone = forecaster.predict(seen[2].compact(), asked, draws=1).best
    torch.testing.assert_close(alone[0], best[2], rtol=1e-4, atol=1e-5)


@KINDS
def test_progress_stops_a_fit(kind):
    calls = []
    made(kind).fit(waves(5), seed=0, progress=lambda done, logs: calls.append(logs) or done == 2)
    assert len(calls) == 2
    assert all(type(value) is float for value in calls[0].values())


@KINDS
def test_refuses_a_forecast_before_the_fit_or_without_draws(kind):
    forecaster = made(kind, iterations=1)
    with pytest.raises(ValueError, match="call fit"):
        forecaster.predict(waves(3), torch.tensor([1.0]))
    forecaster.fit(waves(3), seed=0)
    with pytest.raises(ValueError, match="draws must be positive, got 0"):
        forecaster.predict(waves(3), torch.tensor([1.0]), draws=0)


def test_the_prior_of_a_latent_ode_is_normal_and_its_method_the_encoder():
    built = LatentOde(CONFIG, cell="ode_rnn")
    assert built.config.prior == "gaussian"
    assert built.settings.method == "encoder"
    fitted = LatentOde(CONFIG, replace(LEARNING, iterations=1), cell="ode_rnn").fit(waves(3))
    assert fitted.network.drift is not None


def test_static_variables_average_the_windows_of_observed_rows():
    train = waves(4)
    static = made("monode", iterations=1).fit(train).network.static.requires_grad_(False)
    code = static(train[0])
    windows = [static(train[0].prefix(k + 3).crop(k + 3)) for k in range(6)]
    # The mean over the first k + 1 windows is known; its differences give the single codes.
    assert float((windows[0] - windows[5]).abs().max()) > 0
    torch.testing.assert_close(windows[5], code)
    shifted = Sequences(train.times[:1, 1:4] + 5.0, train.values[:1, 1:4])
    second = 2 * windows[1] - windows[0]
    torch.testing.assert_close(static(shifted), second, rtol=1e-4, atol=1e-6)
    assert static(train[0].prefix(1)).shape == (1, 1)  # fewer rows than a window


def test_a_row_that_was_seen_is_predicted_as_it_is():
    train = waves(5)
    fitted = made("gru", iterations=2).fit(train)
    best = fitted.predict(train.prefix(6), train.times, draws=2).best
    torch.testing.assert_close(best[:, :6], train.values[:, :6], rtol=1e-4, atol=1e-5)
    assert float((best - train.values)[:, 6:].abs().min()) > 1e-4


def test_scales_of_a_recurrent_network_cover_images():
    frames = Sequences(torch.arange(3.0), torch.rand(2, 3, 4, 4))
    network = GruNetwork(16, hidden=4).calibrate(frames)
    assert network.center.shape == (16,)
    assert float(network.center.std()) == 0.0
    predicted = (
        GruForecaster(replace(GRU, iterations=1))
        .fit(frames)
        .predict(frames.prefix(2), torch.tensor([2.0, 3.0]), draws=2)
    )
    assert predicted.paths.shape == (2, 2, 2, 4, 4)


def test_refuses_a_loss_that_is_not_finite():
    train = waves(4)
    forecaster = GruForecaster(replace(GRU, iterations=60, lr=1e30, clip=1e30))
    with pytest.raises(FloatingPointError, match=r"loss of update \d+ is .*: lower lr"):
        forecaster.fit(train)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must not be negative"),
        ({"free_running": 2.0}, r"free_running must be a share in \[0, 1\]"),
    ],
)
def test_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        GruSettings(**settings)


def test_refuses_a_monode_without_static_variables_or_window():
    with pytest.raises(ValueError, match=r"config\.static must be positive"):
        MonodeLike(replace(CONFIG, static=0))
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        MonodeLike(CONFIG, window=0)
