"""What is said about a run."""

import pytest
import torch

from lv_core import Mala, stream
from lv_core.nn import mlp
from lv_dynamics.learning import LearningSettings
from lv_dynamics.learning.energy import EnergyLearner
from lv_dynamics.learning.watch import LearningHealth
from lv_priors import EnergyPrior

SOUND = {
    "mse": 0.1,
    "sigma": 0.3,
    "horizon": 1.0,
    "posterior_norm": 2.0,
    "prior_norm": 2.2,
    "accept": 0.55,
    "step_size": 0.05,
    "climb": 0.1,
}


def words(**changes: float) -> list[str]:
    health = LearningHealth(LearningSettings(), dim=4)
    for _ in range(3):
        health.update({**SOUND, **changes})
    return health.words()


def test_a_sound_run_is_called_healthy_with_its_figures():
    (word,) = words()
    assert word.startswith("healthy: mse 0.1, |z| 2.00, |z| of the prior 2.20, acceptance 55%")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": 0.1}, "chains accept 10% of their proposals"),
        ({"step_size": 1e-4}, "median step size is 1.0e-04"),
        ({"climb": 5.0}, "chains climb 5.0 nats in each visit"),
        ({"posterior_norm": 9.0}, "length 9.0 where prior samples have 2.2: the prior does not"),
        ({"posterior_norm": 0.3}, "length 0.3 where prior samples have 2.2: they have shrunk"),
    ],
)
def test_each_sign_of_illness_has_a_word(changes, message):
    (word,) = words(**changes)
    assert message in word


def test_the_warm_up_is_compared_with_the_reference_normal():
    health = LearningHealth(LearningSettings(), dim=4)
    assert health.words() == ["no update has been seen yet"]
    health.update({"mse": 1.0, "posterior_norm": 8.0, "sigma": 1.0, "horizon": 0.2})
    (word,) = health.words()
    assert "where the reference normal expects 2.0" in word


def test_the_words_of_a_resumed_run_are_the_same():
    health, other = (LearningHealth(LearningSettings(), dim=4) for _ in range(2))
    health.update({**SOUND, "accept": 0.1})
    other.load_state_dict(health.state_dict())
    assert other.words() == health.words()


def prior() -> EnergyPrior:
    torch.manual_seed(0)
    return EnergyPrior(mlp((2, 16, 1)), 2, closed_form=True)


@pytest.mark.parametrize(("lr", "learned"), [(0.01, True), (0.0, False)])
def test_the_energy_prior_goes_where_posterior_samples_are(lr, learned):
    learner = EnergyLearner(prior(), LearningSettings(energy_lr=2 * lr, prior_steps=10), seed=0)
    generator = stream(0, "posterior")
    for done in range(50):
        z = 1.0 + 0.5 * torch.randn(64, 2, generator=generator)
        logs = learner.step(z, done)
    mean = learner.prior.sample(400, generator=stream(0, "test")).mean()
    # The standard error of the mean is about 0.04.
    assert (float(mean) > 0.5) is learned
    assert set(logs) == {"gap", "prior_norm"}


def test_an_energy_that_runs_away_is_reported():
    learner = EnergyLearner(prior(), LearningSettings(energy_lr=0.0), seed=0)
    with torch.no_grad():
        learner.prior.network[-1].weight.fill_(100.0)
    learner.step(torch.full((8, 2), 5.0), 0)
    health = LearningHealth(LearningSettings(), dim=2)
    health.update(SOUND)
    assert any("the tilt gap averages" in word for word in health.words(learner))


def test_refuses_to_shorten_a_sampler_that_is_no_langevin_kernel():
    other = EnergyPrior(mlp((2, 8, 1)), 2, sampler=Mala(steps=5, step_size=0.1))
    with pytest.raises(ValueError, match="prior_steps shortens a Langevin chain"):
        EnergyLearner(other, LearningSettings(prior_steps=3), seed=0)


def test_a_run_without_chains_is_praised_by_the_figures_it_has():
    health = LearningHealth(LearningSettings(), dim=4)
    health.update({"mse": 0.2, "posterior_norm": 2.0, "sigma": 1.0, "horizon": 0.2})
    assert health.words() == ["healthy: mse 0.2, |z| 2.00"]
