"""A run that was killed and resumed is the same run."""

import io
from dataclasses import replace

import pytest
import torch

from lv_core import stream
from lv_dynamics.config import OdeConfig
from lv_dynamics.learning import Learner, LearningSettings
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import Solver

SHORT = LearningSettings(
    iterations=8, batch_size=4, lr=0.02, warm_up=0.5, curriculum=0.25, validate_every=2, steps=2
)


def learner(settings: LearningSettings, weights: int = 0, seed: int = 0) -> Learner:
    torch.manual_seed(weights)
    config = OdeConfig(
        observed=(1,),
        state=2,
        static=1,
        field_hidden=(8,),
        emission_hidden=(8,),
        energy_hidden=(8,),
        prior_steps=3,
        solver=Solver(method="midpoint", step_size=0.5),
    )
    times = torch.rand(7, 5, generator=stream(0, "times")).cumsum(1)
    data = Sequences(times, torch.sin(times)[..., None])

    def error(model: EnergyOde) -> float:
        return float(sum(p.detach().square().sum() for p in model.emission.parameters()))

    return Learner(EnergyOde(config), data, settings, seed=seed, validation=error)


def saved(one: Learner) -> dict:
    """Passes the state through a file that holds tensors and plain values alone."""
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def numbers(logs: dict) -> dict:
    return {name: value for name, value in logs.items() if name != "seconds"}


@pytest.mark.parametrize("method", ["persistent", "short_run", "encoder"])
@pytest.mark.parametrize("killed_at", [3, 6])
def test_a_resumed_run_takes_the_same_updates_bit_for_bit(method, killed_at):
    settings = replace(SHORT, method=method)
    whole = learner(settings)
    logs = [numbers(whole.step()) for _ in range(8)]

    first = learner(settings)
    for _ in range(killed_at):
        first.step()
    state = saved(first)
    first.step()  # what happens after saving must not matter
    second = learner(settings, weights=1)  # other weights, which the state replaces
    second.load_state_dict(state)
    resumed = [numbers(second.step()) for _ in range(8 - killed_at)]

    assert resumed == logs[killed_at:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name
    assert second.words() == whole.words()
    assert second.best["error"] == whole.best["error"]
    best = whole.load_best().state_dict()
    for name, tensor in second.load_best().state_dict().items():
        assert torch.equal(best[name], tensor), name


def test_a_run_resumed_without_its_chains_is_another():
    whole, first = learner(SHORT), learner(SHORT)
    for _ in range(8):
        whole.step()
    for _ in range(3):
        first.step()
    second, state = learner(SHORT), saved(first)
    state["source"] = second.source.state_dict()
    second.load_state_dict(state)
    for _ in range(5):
        second.step()
    weight = whole.model.field.network[0].weight
    assert not torch.equal(second.model.field.network[0].weight, weight)


def test_refuses_the_state_of_another_seed():
    with pytest.raises(ValueError, match="run with seed 0, this learner has 1"):
        learner(SHORT, seed=1).load_state_dict(learner(SHORT).state_dict())
