"""Forecasters without a model, in the common interface."""

import pytest
import torch

from lv_dynamics.baselines import Trivial, constant_velocity, training_mean
from lv_dynamics.sequences import Sequences

NAN = float("nan")


@pytest.fixture
def train() -> Sequences:
    values = torch.tensor([[1.0, 2.0, 6.0, 4.0], [3.0, 6.0, 8.0, 0.0]])[..., None]
    return Sequences(torch.tensor([0.0, 1.0, 2.0, 3.0]), values)


def test_the_training_mean_of_a_shared_grid_is_that_of_each_step(train):
    curve = training_mean(train)
    assert curve.times.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert curve.values.flatten().tolist() == [2.0, 4.0, 7.0, 2.0]
    predicted = Trivial("training_mean").fit(train).predict(train[0], torch.tensor([0.5, 9.0]))
    assert predicted.mean.flatten().tolist() == [3.0, 2.0]


def test_the_training_mean_of_other_grids_counts_who_covers_a_time():
    times = torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 3.0]])
    values = torch.tensor([[[0.0], [4.0], [0.0]], [[10.0], [20.0], [NAN]]])
    curve = training_mean(Sequences(times, values, lengths=torch.tensor([3, 2])))
    assert curve.times.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    # (2 + 10) / 2, (4 + 15) / 2, (2 + 20) / 2
    assert curve.values.flatten().tolist() == [0.0, 6.0, 9.5, 11.0, 0.0]


def test_a_time_that_no_sequence_covers_lies_on_a_line():
    times = torch.tensor([[0.0, 1.0], [5.0, 6.0], [0.0, 6.0]])
    values = torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[6.0, 1.0], [8.0, 1.0]], [[0.0, 1.0]] * 2])
    mask = torch.ones(3, 2, 2, dtype=torch.bool)
    mask[2, :, 0] = False
    curve = training_mean(Sequences(times, values, mask))
    assert curve.values[0, :, 0].tolist() == [0.0, 2.0, 6.0, 8.0]
    assert curve.values[0, :, 1].tolist() == [1.0] * 4


def test_long_training_sets_keep_a_thousand_times():
    times = torch.arange(3000.0).reshape(3, 1000) / 10
    curve = training_mean(Sequences(times, 2 * times[..., None]))
    assert curve.times.shape == (1, 1000)
    torch.testing.assert_close(curve.values[..., 0], 2 * curve.times)


def test_an_entry_without_a_single_observation_is_refused():
    values = torch.tensor([[[1.0, NAN], [2.0, NAN]]])
    with pytest.raises(ValueError, match="entry 1 is observed in no training sequence"):
        training_mean(Sequences(torch.tensor([0.0, 1.0]), values, values.isfinite()))


def test_the_spread_is_the_error_where_half_of_the_rows_are_seen(train):
    rule = Trivial("hold_last").fit(train)
    # Errors: 0, 0, 4, 2 and 0, 0, 2, -6; the rows that were seen count too.
    predicted = rule.predict(train.prefix(2), train.times)
    assert predicted.mean[..., 0].tolist() == [[1.0, 2.0, 2.0, 2.0], [3.0, 6.0, 6.0, 6.0]]
    torch.testing.assert_close(predicted.std, torch.full((2, 4, 1), (60 / 8) ** 0.5))
    assert predicted.epistemic.abs().max() == 0
    low, high = predicted.quantile(0.1), predicted.quantile(0.9)
    assert bool((low < predicted.mean).all())
    assert bool((high > predicted.mean).all())


def test_rules_are_those_of_the_functions_and_fill_what_a_sequence_never_shows(train):
    asked = torch.tensor([0.5, 5.0])
    for kind in ("hold_last", "linear_interpolation", "constant_velocity"):
        assert Trivial(kind).fit(train).predict(train, asked).mean.shape == (2, 2, 1)
    rule = Trivial("constant_velocity").fit(train, seed=1)
    best = rule.predict(train, asked, draws=3, seed=2).best
    assert torch.equal(best, constant_velocity(train, asked))
    both = Sequences(train.times, train.values.repeat(1, 1, 2))
    half = Sequences(both.times, both.values, torch.tensor([True, False]).expand(2, 4, 2))
    filled = Trivial("hold_last").fit(both).predict(half, asked).mean
    assert filled[..., 1].flatten().tolist() == [3.75] * 4


def test_refuses_an_unknown_kind_and_a_forecast_before_the_fit(train, wrong_types):
    with pytest.raises(ValueError, match="unknown kind 'mean'; there are: hold_last"):
        Trivial("mean")
    with pytest.raises(ValueError, match="call fit"):
        Trivial("hold_last").predict(train, torch.tensor([1.0]))
