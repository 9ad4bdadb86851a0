"""Learning with tiny models in seconds, each bound with a control that misses it."""

import math
from dataclasses import replace

import pytest
import torch

from lv_core import Rows, stream
from lv_dynamics.config import OdeConfig
from lv_dynamics.inference import InferenceSettings, infer
from lv_dynamics.learning import Learner, LearningSettings, fit, reconstruction_error
from lv_dynamics.learning.sources import Batch
from lv_dynamics.model import EnergyOde
from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import Solver


def waves(n: int, rows: int = 8, *, share: float = 1.0) -> Sequences:
    """Sinusoids of one frequency and random phase, on irregular grids."""
    generator = stream(n, "waves")
    times = 0.1 * torch.rand(n, rows, generator=generator) + 0.2 * torch.arange(rows)
    phase = 6.3 * torch.rand(n, 1, generator=generator)
    data = Sequences(times, torch.sin(3.0 * times + phase)[..., None])
    return data if share == 1.0 else data.thin(share, generator=generator)


def tiny(**settings) -> EnergyOde:
    torch.manual_seed(1)
    config = {
        "observed": (1,),
        "state": 2,
        "static": 1,
        "field_hidden": (16,),
        "emission_hidden": (16,),
        "energy_hidden": (16,),
        "sigma": 0.2,
        "prior_steps": 10,
        "solver": Solver(method="midpoint", step_size=0.25),
    }
    return EnergyOde(OdeConfig(**{**config, **settings}))


SHORT = LearningSettings(iterations=150, batch_size=20, lr=0.02, table_lr=0.1, validate_every=0)


def run(settings: LearningSettings, data: Sequences, **model) -> tuple[Learner, list[dict]]:
    learner = Learner(tiny(**model), data, settings, seed=0)
    return learner, [learner.step() for _ in range(settings.iterations)]


# Bounds are half of the variance (0.5); a run without learning stays above it.
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("persistent", {"warm_up": 0.8}),
        ("persistent", {"warm_up": 0.0, "step_size": 0.2}),
        ("short_run", {"langevin_steps": 10, "langevin_step_size": 0.1}),
        ("encoder", {"encoder_hidden": 16}),
    ],
)
def test_learns_and_does_not_without_a_step_size(method, settings):
    data = waves(20)
    s = replace(SHORT, method=method, **settings)
    _, logs = run(s, data)
    bound = 0.25
    assert sum(entry["mse"] for entry in logs[-10:]) / 10 < bound
    _, control = run(replace(s, lr=0.0, table_lr=0.0, iterations=30), data)
    assert sum(entry["mse"] for entry in control[-10:]) / 10 > bound


def test_learns_from_thinned_sequences_what_was_masked():
    data, whole = waves(30, 12, share=0.5), waves(30, 12)
    model = fit(tiny(), data, replace(SHORT, iterations=250, batch_size=30), seed=0)
    hidden = ~data.mask
    assert bool(hidden.any())
    posterior = infer(model, data, settings=InferenceSettings(restarts=4, steps=60))
    with torch.no_grad():
        error = (model.mean(posterior.best(), whole.times) - whole.values)[hidden].square().mean()
    assert float(error) < 0.25  # half of the variance; predicting zero gives 0.5
    assert float(whole.values[hidden].square().mean()) > 0.4


def test_logs_are_plain_numbers_under_known_names():
    learner, logs = run(replace(SHORT, iterations=10, warm_up=0.5), waves(20))
    for entry in logs:
        assert all(type(value) is float and math.isfinite(value) for value in entry.values())
    assert set(logs[0]) == {"loss", "mse", "posterior_norm", "sigma", "horizon", "seconds"}
    more = {"accept", "step_size", "climb", "gap", "prior_norm"}
    assert set(logs[-1]) == set(logs[0]) | more
    assert learner.words()
    _, encoded = run(replace(SHORT, iterations=2, method="encoder"), waves(5))
    assert "kl" in encoded[-1]


def test_chains_go_on_where_the_table_ended():
    data = waves(6)
    s = replace(SHORT, iterations=10, warm_up=0.5, batch_size=6)
    learner = Learner(tiny(), data, s)
    every = torch.arange(6)
    for _ in range(5):
        learner.step()
    table = learner.source.bank.get(every)
    assert learner.source.bank.age(every).tolist() == [5] * 6
    learner.step()
    chains = learner.source.bank.get(every)
    assert learner.source.bank.age(every).tolist() == [6] * 6
    moved = (chains - table).norm(dim=1)
    # Four steps of at most about 0.05 * sqrt(3) each; fresh starts from N(0, I) are much farther.
    assert float(moved.max()) < 1.0
    assert float(moved.max()) > 0.0
    fresh = torch.randn(6, 3, generator=stream(3, "fresh"))
    assert float((fresh - table).norm(dim=1).max()) > 1.0


def test_the_table_starts_small_and_chains_without_one_start_from_the_reference_normal():
    data, every = waves(200), torch.arange(200)

    def spread(warm_up: float) -> float:
        learner = Learner(tiny(), data, replace(SHORT, warm_up=warm_up))
        return float(learner.source.bank.get(every).std())

    # 600 numbers: standard errors of 3 %.
    assert spread(0.5) == pytest.approx(0.1, rel=0.15)
    assert spread(0.0) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("phase", ["table", "chains", "short_run", "encoder"])
def test_a_latent_does_not_depend_on_its_batch(phase):
    data = waves(6, share=0.7)
    method = phase if phase in ("short_run", "encoder") else "persistent"
    s = replace(SHORT, method=method, warm_up=1.0 if phase == "table" else 0.0)

    def drawn(items: list[int]) -> torch.Tensor:
        learner = Learner(tiny(), data, s, seed=3)
        index = torch.tensor(items)
        part = learner.data[index]
        batch = Batch(index, part, learner.model.likelihood(part))
        return learner.source.propose(batch, 7).z.detach()

    together, alone, mixed = drawn([0, 1, 2, 3, 4, 5]), drawn([4]), drawn([5, 4, 0])
    torch.testing.assert_close(alone[0], together[4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed, together[[5, 4, 0]], rtol=1e-4, atol=1e-5)
    assert float((together[4] - together[5]).abs().max()) > 1e-2


def test_the_table_takes_the_steps_of_adam():
    data, s = waves(4), replace(SHORT, batch_size=4, warm_up=1.0, table_noise=0.0, lr_end=1.0)
    model = tiny(prior="gaussian").requires_grad_(False)
    learner = Learner(model.requires_grad_(True), data, replace(s, lr=0.0, table_lr=0.05))
    every = torch.arange(4)
    z = learner.source.bank.get(every).clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=0.05)
    for done in range(4):
        learner.step()
        rows = learner._stage(s.horizon_at(done))
        learner.noise.before(done)
        loss = -(model.log_likelihood(z, rows) + model.prior.log_density(z)).sum()
        (z.grad,) = torch.autograd.grad(loss, z)
        adam.step()
    # Batches are shuffled, so sums run in another order.
    torch.testing.assert_close(learner.source.bank.get(every), z.detach(), rtol=1e-4, atol=1e-5)


def test_sigma_falls_to_its_end_or_follows_the_residuals():
    data = waves(20)
    s = replace(SHORT, iterations=20, anneal=0.5, batch_size=20)
    _, fixed = run(s, data)
    spread = float(data.values.std(correction=0))
    assert fixed[0]["sigma"] == pytest.approx(0.5 * spread, rel=1e-5)
    assert fixed[10]["sigma"] == fixed[-1]["sigma"] == pytest.approx(0.2, rel=1e-6)
    learner, learned = run(replace(s, sigma_rate=0.5), data, sigma="learned")
    assert learned[9]["sigma"] > 0.1 * spread
    assert learned[-1]["sigma"] > 1.5 * learned[10]["sigma"]  # nothing has been learned yet
    own = tiny(sigma=0.2)
    Learner(own, data, replace(s, anneal=0.0)).step()
    assert own.noise.sigma.tolist() == pytest.approx([0.2])
    assert learner.model.noise.sigma.item() > 0.1


def test_binary_sequences_are_learned_without_a_noise_level():
    data = waves(20)
    binary = Sequences(data.times, (data.values > 0).float())
    learner, logs = run(
        replace(SHORT, iterations=60, anneal=0.0), binary, likelihood="bernoulli", sigma=1.0
    )
    assert learner.noise is None
    assert "sigma" not in logs[-1]
    assert logs[-1]["mse"] < 0.2 < logs[0]["mse"]  # 0.25 is a fair coin


def test_the_best_weights_are_kept():
    data, errors = waves(10), iter([3.0, 1.0, 2.0])
    kept = []

    def error(model: EnergyOde) -> float:
        kept.append(model.emission.network[0].weight.detach().clone())
        return next(errors)

    s = replace(SHORT, iterations=9, curriculum=0.3, validate_every=3, warm_up=1.0)
    model = fit(tiny(), data, s, validation=error)
    assert len(kept) == 3
    assert torch.equal(model.emission.network[0].weight, kept[1])
    assert not torch.equal(kept[1], kept[2])


def test_validation_sequences_are_scored_by_what_comes_of_their_first_rows():
    data = waves(12)
    model = tiny()
    whole = reconstruction_error(model, data, seed=1)
    assert whole == reconstruction_error(model, data, seed=1)
    assert whole <= reconstruction_error(model, data, seen=0.3, seed=1)
    s = replace(SHORT, iterations=2, curriculum=0.0, validate_every=1)
    learner = Learner(tiny(), data, s, validation=data[:4])
    assert learner.step()["validation"] > 0
    encoder = Learner(tiny(), data, replace(s, method="encoder"), validation=data[:4])
    assert encoder.step()["validation"] > 0
    with pytest.raises(ValueError, match=r"seen must lie in \(0, 1\]"):
        reconstruction_error(model, data, seen=0.0)


def test_a_run_can_be_stopped_by_its_progress():
    seen = []
    fit(tiny(), waves(5), SHORT, progress=lambda done, logs: seen.append(done) or done == 3)
    assert seen == [1, 2, 3]


def test_sampling_and_learning_leave_no_gradient_on_the_prior_during_warm_up():
    learner = Learner(tiny(), waves(5), replace(SHORT, warm_up=1.0))
    learner.step()
    assert all(parameter.grad is None for parameter in learner.model.prior.parameters())


def test_a_gaussian_prior_has_no_energy_to_learn():
    _, logs = run(replace(SHORT, iterations=3, warm_up=0.0), waves(5), prior="gaussian")
    assert "gap" not in logs[-1]
    learner = Learner(tiny(), waves(5), replace(SHORT, energy_lr=0.0))
    assert learner.energy is None


def test_short_chains_of_the_prior_leave_its_own_sampler_alone():
    model = tiny()
    learner = Learner(model, waves(5), replace(SHORT, warm_up=0.0, prior_steps=3))
    learner.step()
    assert model.prior.sampler.steps == 10
    assert learner.energy._negative.sampler.steps == 3


def test_a_loss_that_is_not_finite_names_the_sequences():
    model = tiny()
    with torch.no_grad():
        model.emission.network[-1].bias.fill_(float("inf"))
    learner = Learner(model, waves(3), replace(SHORT, warm_up=1.0))
    with pytest.raises(FloatingPointError, match=r"loss of update 0 is .* training sequences \["):
        learner.step()


def test_refuses_a_recognition_network_for_chains_and_other_data():
    network = RecognitionNetwork((1,), 3)
    with pytest.raises(ValueError, match="recognition is for the method 'encoder'"):
        Learner(tiny(), waves(3), SHORT, recognition=network)
    wide = Sequences(torch.arange(3.0), torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match=r"observations of shape \(2,\)"):
        Learner(tiny(), wide, SHORT)


def test_the_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = tiny()
    torch.set_rng_state(before)
    learner = Learner(model, waves(4), replace(SHORT, method="encoder"), seed=0)
    learner.step()
    assert torch.equal(torch.get_rng_state(), before)
    other = Learner(tiny(), waves(4), replace(SHORT, method="encoder"), seed=0)
    first, second = learner.recognition.center, other.recognition.center
    assert torch.equal(first, second)


def test_prefixes_are_shown_to_half_of_the_sequences():
    data = waves(40)
    source = Learner(tiny(), data, replace(SHORT, method="encoder")).source
    shown = source._shown(data, Rows.of(0, range(40), "x")).rows.sum(1)
    assert 10 <= int((shown == 8).sum()) <= 32  # 20 +- 5 standard errors, and full prefixes
    assert int(shown.min()) >= 1
    everything = Learner(tiny(), data, replace(SHORT, method="encoder", shown="all")).source
    assert everything._shown(data, Rows.of(0, range(40), "x")) is data


def test_subsets_are_shown_to_half_of_the_sequences():
    data = waves(40).prefix(torch.arange(40) % 6 + 3)
    settings = replace(SHORT, method="encoder", shown="subsets")
    source = Learner(tiny(), data, settings).source
    shown = source._shown(data, Rows.of(0, range(40), "shown"))
    count, whole = shown.rows.sum(1), data.rows.sum(1)
    assert bool((shown.rows <= data.rows).all())
    assert int(count.min()) >= 1
    assert 10 <= int((count == whole).sum()) <= 32  # 20 +- 5 standard errors, and full subsets
    # no prefixes: somewhere a row is missing before the last one shown
    last = (shown.rows * torch.arange(1, 9)).amax(1)
    assert int((count < last).sum()) >= 5
    # a sequence is shown alike in another batch
    alone = source._shown(data[7], Rows.of(0, [7], "shown"))
    assert torch.equal(alone.rows[0], shown.rows[7])


def test_an_entry_that_is_constant_up_to_rounding_does_not_set_the_scale():
    data = waves(6)
    still = 1e-8 * torch.randn(data.values.shape, generator=stream(0, "rounding"))
    both = Sequences(data.times, torch.cat([data.values, still], -1))
    model = tiny(observed=(2,), sigma="learned")
    log = Learner(model, both, replace(SHORT, iterations=3)).step()
    assert math.isfinite(log["loss"])
    start = model.noise.sigma / SHORT.sigma_start
    spread = data.values.std()
    assert start.tolist() == pytest.approx([float(spread), 1.0], rel=0.05)
    small = Sequences(data.times, torch.cat([data.values, 1e4 * still], -1))  # a unit, no rounding
    other = tiny(observed=(2,), sigma="learned")
    Learner(other, small, replace(SHORT, iterations=3)).step()
    assert other.noise.sigma[1] < 1e-3
