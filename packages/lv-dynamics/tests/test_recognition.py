"""The inference network for irregular, partly observed sequences."""

import pytest
import torch

from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.sequences import Sequences


@pytest.fixture
def seen(generator) -> Sequences:
    times = 0.1 + torch.rand(4, 7, generator=generator).cumsum(1)
    values = torch.randn(4, 7, 2, generator=generator)
    mask = torch.rand(4, 7, 2, generator=generator) < 0.6
    mask[:, 2] = True
    return Sequences(times, values, mask, torch.tensor([7, 5, 6, 7]))


def network(cell: str, observed: tuple[int, ...] = (2,)) -> RecognitionNetwork:
    torch.manual_seed(0)
    net = RecognitionNetwork(observed, 3, hidden=12, embedding=8, cell=cell)
    return net.requires_grad_(False)


CELLS = pytest.mark.parametrize("cell", ["gru", "ode_rnn"])


@CELLS
def test_returns_one_distribution_for_each_sequence(seen, cell):
    q = network(cell)(seen)
    assert q.mean.shape == q.log_scale.shape == (4, 3)
    assert bool((q.log_scale > -7.0).all())


@CELLS
def test_reads_a_sequence_as_if_it_were_alone(seen, cell):
    together = network(cell)(seen).mean
    for i in range(len(seen)):
        alone = network(cell)(seen[i].compact()).mean[0]
        torch.testing.assert_close(alone, together[i], rtol=1e-5, atol=1e-6)


@CELLS
def test_what_is_masked_changes_nothing_and_what_is_seen_does(seen, cell):
    other = torch.where(seen.mask, seen.values, 99.0)
    same = Sequences(seen.times, other, seen.mask, seen.lengths)
    before = network(cell)(seen).mean
    torch.testing.assert_close(network(cell)(same).mean, before, rtol=0, atol=0)
    moved = Sequences(seen.times, torch.where(seen.mask, other + 0.1, 0), seen.mask, seen.lengths)
    assert float((network(cell)(moved).mean - before).abs().min(1).values.max()) > 1e-5


@CELLS
def test_gaps_and_the_distance_to_time_zero_are_seen(seen, cell):
    before = network(cell)(seen).mean
    for times in (2.0 * seen.times, seen.times + 1.0):
        later = Sequences(times, seen.values, seen.mask, seen.lengths)
        assert float((network(cell)(later).mean - before).abs().max()) > 1e-4


@CELLS
def test_an_unseen_entry_differs_from_a_zero(cell):
    times, values = torch.tensor([0.0, 1.0]), torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    zero = network(cell)(Sequences(times, values)).mean
    mask = torch.tensor([[[True, False], [True, False]]])
    assert float((network(cell)(Sequences(times, values, mask)).mean - zero).abs().max()) > 1e-4


@CELLS
def test_gradients_reach_every_parameter(seen, cell):
    net = network(cell).requires_grad_(True)
    q = net(seen)
    (q.mean.sum() + q.log_scale.square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_the_state_of_an_ode_rnn_stays_bounded_over_huge_gaps(seen):
    far = Sequences(1e4 * seen.times, seen.values, seen.mask, seen.lengths)
    assert bool(network("ode_rnn")(far).mean.isfinite().all())


def test_scales_come_from_observed_entries_alone():
    nan = float("nan")
    values = torch.tensor([[[1.0, 5.0], [nan, 5.0], [3.0, nan]]])
    data = Sequences(torch.tensor([0.0, 1.0, 3.0]), values, values.isfinite())
    net = network("gru").calibrate(data)
    assert net.center.tolist() == [2.0, 5.0]
    assert net.spread.tolist() == [1.0, 1.0]  # 1 where an entry is constant
    assert float(net.time_scale) == 1.5
    single = Sequences(torch.tensor([[2.0]]), torch.tensor([[[1.0, 1.0]]]))
    assert float(network("gru").calibrate(single).time_scale) == 1.0


def test_scaling_data_and_time_changes_nothing_after_calibration(seen):
    before = network("gru").calibrate(seen)(seen).mean
    scaled = Sequences(10.0 * seen.times, 5.0 * seen.values + 3.0, seen.mask, seen.lengths)
    after = network("gru").calibrate(scaled)(scaled).mean
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("observed", [(10, 9), (1, 10, 9), (2, 10, 9)])
def test_reads_images_with_a_mask_of_rows(generator, observed):
    frames = torch.rand(3, 4, *observed, generator=generator)
    mask = torch.tensor([[True, True, False, True]]).expand(3, 4)
    data = Sequences(torch.arange(4.0), frames, mask)
    net = network("gru", observed).calibrate(data)
    assert net(data).mean.shape == (3, 3)
    assert net.center.shape == ()


def test_keeps_double_precision(seen):
    net = network("gru").double()
    assert net(seen.to(torch.float64)).mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"observed": ()}, r"observed must be \(p,\), \(height, width\)"),
        ({"cell": "lstm"}, "cell must be 'gru' or 'ode_rnn', got 'lstm'"),
    ],
)
def test_refuses_settings_out_of_range(kwargs, message, wrong_types):
    with pytest.raises(ValueError, match=message):
        RecognitionNetwork(**{"observed": (2,), "latent": 3, **kwargs})


def test_refuses_observations_of_another_shape(seen):
    with pytest.raises(ValueError, match=r"observations of shape \(3,\), got \(2,\)"):
        network("gru", (3,))(seen)
