"""Forecasts without a model, on irregular grids with masks, against values worked out by hand."""

import pytest
import torch

from lv_dynamics.baselines import constant_velocity, hold_last, linear_interpolation
from lv_dynamics.sequences import Sequences

NAN = float("nan")


@pytest.fixture
def irregular() -> Sequences:
    """Two sequences of two entries; the second is shorter and its entries differ in their gaps."""
    times = torch.tensor([[0.0, 1.0, 3.0, 4.0], [0.5, 2.5, 3.0, 3.0]], dtype=torch.float64)
    values = torch.tensor(
        [
            [[1.0, 10.0], [3.0, NAN], [NAN, 16.0], [9.0, NAN]],
            [[2.0, NAN], [6.0, 5.0], [NAN, 8.0], [NAN, NAN]],
        ],
        dtype=torch.float64,
    )
    return Sequences(times, values, values.isfinite(), torch.tensor([4, 3]))


ASKED = torch.tensor([0.0, 2.0, 3.5, 6.0], dtype=torch.float64)


def test_holding_the_last_value_is_exact(irregular):
    expected = [
        [[1.0, 10.0], [3.0, 10.0], [3.0, 16.0], [9.0, 16.0]],
        [[2.0, 5.0], [2.0, 5.0], [6.0, 8.0], [6.0, 8.0]],
    ]
    assert hold_last(irregular, ASKED).tolist() == expected


def test_interpolation_is_exact_and_stays_beyond_the_ends(irregular):
    expected = [
        [[1.0, 10.0], [5.0, 14.0], [8.0, 16.0], [9.0, 16.0]],
        [[2.0, 5.0], [5.0, 5.0], [6.0, 8.0], [6.0, 8.0]],
    ]
    torch.testing.assert_close(linear_interpolation(irregular, ASKED).tolist(), expected)


def test_constant_velocity_goes_on_beyond_both_ends(irregular):
    expected = [
        # slopes at the end: (9 - 3) / 3 = 2 and (16 - 10) / 3 = 2
        [[1.0, 10.0], [5.0, 14.0], [8.0, 17.0], [13.0, 22.0]],
        # slopes 2 and 6: 2 - 0.5 * 2 at time 0, 5 - 2.5 * 6 for the other entry
        [[1.0, -10.0], [5.0, 2.0], [8.0, 11.0], [13.0, 26.0]],
    ]
    torch.testing.assert_close(constant_velocity(irregular, ASKED).tolist(), expected)


def test_a_single_observation_stands_still():
    one = Sequences(torch.tensor([[1.0]]), torch.tensor([[[7.0]]]))
    asked = torch.tensor([[0.0, 1.0, 5.0]])
    for forecast in (hold_last, linear_interpolation, constant_velocity):
        assert forecast(one, asked).flatten().tolist() == [7.0, 7.0, 7.0]


def test_an_observed_time_gives_the_observation(irregular):
    mask = irregular.mask[0]
    for forecast in (hold_last, linear_interpolation, constant_velocity):
        values = forecast(irregular[0], irregular.times[:1])[0]
        torch.testing.assert_close(values[mask], irregular.values[0][mask], rtol=0, atol=0)


def test_each_sequence_may_ask_for_times_of_its_own(irregular):
    own = torch.tensor([[2.0, 6.0], [3.5, 0.0]], dtype=torch.float64)
    both = constant_velocity(irregular, own)
    for i in range(2):
        torch.testing.assert_close(both[i], constant_velocity(irregular[i], own[i])[0])


def test_straight_lines_are_forecast_without_error_and_holding_is_not(generator):
    times = torch.rand(3, 9, generator=generator, dtype=torch.float64).cumsum(1)
    slope = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64)
    lines = Sequences(times, 1.0 + slope * times[..., None])
    seen = lines.prefix(4)
    torch.testing.assert_close(constant_velocity(seen, times), lines.values)
    assert float((hold_last(seen, times) - lines.values).abs().max()) > 0.1


def test_images_keep_their_shape():
    frames = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 1, 4, 4)
    shown = Sequences(torch.tensor([0.0, 1.0, 2.0]), frames)
    middle = linear_interpolation(shown, torch.tensor([0.5]))
    torch.testing.assert_close(middle, frames[:, :2].mean(1, keepdim=True))


def test_an_entry_never_seen_is_refused_or_filled():
    values = torch.tensor([[[1.0, NAN], [2.0, NAN]]])
    half = Sequences(torch.tensor([0.0, 1.0]), values, values.isfinite())
    with pytest.raises(ValueError, match="entry 1 of sequence 0 is never observed"):
        hold_last(half, torch.tensor([2.0]))
    filled = hold_last(half, torch.tensor([2.0]), fill=torch.tensor([5.0, 6.0]))
    assert filled.tolist() == [[[2.0, 6.0]]]


def test_refuses_times_for_another_number_of_sequences(irregular):
    with pytest.raises(ValueError, match=r"times must have shape \(Q,\) or \(2, Q\)"):
        hold_last(irregular, torch.zeros(3, 4))
