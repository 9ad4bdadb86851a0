"""The plain recurrent network: its cell, its training, stacked seeds, tuning, integration."""

import math
from dataclasses import replace

import pytest
import torch

from lv_core import stream
from lv_neuro.angles import angular_distance, grid
from lv_neuro.baselines import AnalyticRing, RingAttractor, RnnSettings, RnnTrainer, SinCosRnn
from lv_neuro.walks import Walks, random_walks

DOUBLE = torch.float64
QUICK = RnnSettings(
    units=24, bins=20, max_step=2, horizon=6, batch_size=16, iterations=6, lr=0.01, clip=1.0
)


def walks(count=12, steps=9, bins=20, max_step=2):
    return random_walks(
        count, steps, bins=bins, max_step=max_step, generator=torch.Generator().manual_seed(5)
    )


def reference(rnn, seed):
    """torch.nn.RNN with the weights of one seed."""
    settings = rnn.settings
    other = torch.nn.RNN(
        1, settings.units, nonlinearity=settings.activation, batch_first=True, dtype=DOUBLE
    )
    with torch.no_grad():
        other.weight_ih_l0.copy_(rnn.turn[seed][:, None])
        other.weight_hh_l0.copy_(rnn.recurrent[seed])
        other.bias_ih_l0.copy_(rnn.bias[seed])
        other.bias_hh_l0.zero_()
    return other


# The cell


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_values_and_gradients_are_those_of_torchs_cell(activation, generator):
    settings = RnnSettings(units=7, activation=activation, bins=20, max_step=2)
    rnn = SinCosRnn(settings, seeds=2).double()
    with torch.no_grad():
        rnn.bias.normal_(generator=generator)
    start = torch.rand(2, 3, generator=generator, dtype=DOUBLE)
    turns = torch.randn(2, 3, 5, generator=generator, dtype=DOUBLE)
    h = rnn.hidden(start, turns)
    weight = torch.randn(h.shape, generator=generator, dtype=DOUBLE)
    grads = torch.autograd.grad((weight * h).sum(), (rnn.recurrent, rnn.turn, rnn.bias))
    for seed in range(2):
        other = reference(rnn, seed)
        first = torch.stack([start[seed].sin(), start[seed].cos()], -1) @ rnn.start[seed].mT
        wanted, _ = other(turns[seed][..., None], first[None].detach())
        torch.testing.assert_close(h[seed], wanted, atol=1e-10, rtol=0)
        (weight[seed] * wanted).sum().backward()
        torch.testing.assert_close(grads[0][seed], other.weight_hh_l0.grad, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            grads[1][seed], other.weight_ih_l0.grad[:, 0], atol=1e-6, rtol=0
        )
        torch.testing.assert_close(grads[2][seed], other.bias_ih_l0.grad, atol=1e-6, rtol=0)
        # weights the wrong way round are noticed
        assert (grads[0][seed].mT - other.weight_hh_l0.grad).abs().max() > 1e-2


def test_steps_make_up_the_integration():
    rnn = SinCosRnn(QUICK, seeds=2)
    found = rnn.integrate(walks().start, walks().turns)
    v = rnn.encode(walks().start)
    for t in range(9):
        v = rnn.step(v, walks().turns[:, t])
        torch.testing.assert_close(rnn.decode(v), found.heading[..., t])
    torch.testing.assert_close(v, found.state)
    both = walks().turns[:, 0].expand(2, -1)
    torch.testing.assert_close(rnn.step(v, both), rnn.step(v, walks().turns[:, 0]), atol=0, rtol=0)
    assert (rnn.step(v, -both) - rnn.step(v, both)).abs().max() > 1e-3


def test_the_loss_is_the_mean_squared_error_of_sine_and_cosine():
    rnn = SinCosRnn(QUICK, seeds=1).double()
    start, turns, x = (part.double()[None] for part in walks())
    h = rnn.hidden(start, turns)
    out = h @ rnn.readout[0].mT + rnn.offset[0]
    error = (out[..., 0] - x.sin()) ** 2 + (out[..., 1] - x.cos()) ** 2
    torch.testing.assert_close(rnn(start, turns, x), error.mean()[None] / 2)
    swapped = (out[..., 1] - x.sin()) ** 2 + (out[..., 0] - x.cos()) ** 2
    assert (rnn(start, turns, x) - swapped.mean() / 2).abs() > 1e-4


def test_decoding_reads_sine_and_cosine():
    rnn = SinCosRnn(QUICK)
    with torch.no_grad():
        rnn.readout.zero_()
        rnn.readout[0, 0, 0] = rnn.readout[0, 1, 1] = 1.0
    x = grid(9)
    v = torch.zeros(1, 9, 24)
    v[0, :, 0], v[0, :, 1] = x.sin(), x.cos()
    torch.testing.assert_close(rnn.decode(v)[0], x)
    assert rnn.decode(v.view(1, 3, 3, 24)).shape == (1, 3, 3)
    assert rnn.encode(x.view(3, 3)).shape == (1, 3, 3, 24)


# Initial values


def test_initial_recurrent_weights_are_what_they_are_called():
    rotation = SinCosRnn(RnnSettings(initial="orthogonal")).recurrent[0]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(100), atol=1e-5, rtol=0)
    assert (rotation - torch.eye(100)).abs().max() > 0.1
    torch.testing.assert_close(
        SinCosRnn(RnnSettings(initial="identity")).recurrent[0], torch.eye(100)
    )
    uniform = SinCosRnn(RnnSettings()).recurrent[0].detach()
    assert uniform.abs().max() <= 0.1
    # 10^4 numbers uniform in +-0.1: the standard error of the sd, 0.0577, is below 1 %
    assert abs(float(uniform.std()) / 0.0577 - 1) < 0.03


def test_counts_the_learned_numbers_of_one_seed():
    # start 2 d, recurrent d^2, turn d, bias d, read-out 2 d, offset 2
    assert SinCosRnn().parameters_count == 200 + 10_000 + 100 + 100 + 200 + 2
    assert SinCosRnn(seeds=3).parameters_count == SinCosRnn().parameters_count


# Training


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_training_learns_to_follow_short_walks(activation):
    settings = RnnSettings(
        units=40, activation=activation, horizon=8, batch_size=64, iterations=500, lr=1e-2,
        initial="orthogonal", clip=1.0, decay_to=0.01,
    )  # fmt: skip
    rnn = SinCosRnn(settings)
    test = random_walks(100, 8, generator=torch.Generator().manual_seed(1))
    before = angular_distance(rnn.integrate(*test[:2]).heading[0], test.heading)
    losses = rnn.fit()
    after = angular_distance(rnn.integrate(*test[:2]).heading[0], test.heading)
    assert losses.shape == (500, 1)
    assert losses[0] > 0.3
    assert losses[-1] < 0.01
    assert before[:, -1].mean() > 0.5
    assert after[:, -1].mean() < 0.1
    # what it learned is to use the turns, not to keep the start
    still = rnn.integrate(test.start, torch.zeros_like(test.turns)).heading[0]
    assert angular_distance(still, test.heading)[:, -1].mean() > 0.2


def test_stacked_seeds_train_as_if_alone():
    stacked = SinCosRnn(QUICK, seeds=(3, 8))
    losses = stacked.fit()
    for place, seed in enumerate((3, 8)):
        alone = SinCosRnn(QUICK, seeds=[seed])
        torch.testing.assert_close(alone.fit()[:, 0], losses[:, place], atol=1e-5, rtol=0)
        for one, both in zip(alone.parameters(), stacked.parameters(), strict=True):
            torch.testing.assert_close(one[0], both[place], atol=1e-5, rtol=0)
    assert (stacked.recurrent[0] - stacked.recurrent[1]).abs().max() > 0.1


def test_clipping_bounds_the_gradient_of_each_seed():
    rnn = SinCosRnn(RnnSettings(units=24, bins=20, max_step=2, horizon=6, clip=0.01), seeds=2)
    RnnTrainer(rnn).step()
    norms = sum(p.grad.flatten(1).square().sum(1) for p in rnn.parameters()).sqrt()
    torch.testing.assert_close(norms, torch.full((2,), 0.01), atol=1e-6, rtol=0)


def test_gradients_lie_in_memory_like_their_parameters():
    rnn = SinCosRnn(QUICK)
    RnnTrainer(rnn).step()
    assert all(p.grad.stride() == p.stride() for p in rnn.parameters())


def test_training_goes_on_where_it_was_saved():
    whole = SinCosRnn(QUICK)
    whole.fit()
    first = SinCosRnn(QUICK)
    trainer = RnnTrainer(first)
    for _ in range(3):
        trainer.step()
    second = SinCosRnn(QUICK, seeds=[0])
    second.load_state_dict(first.state_dict())
    resumed = RnnTrainer(second)
    resumed.load_state_dict(trainer.state_dict())
    for _ in range(3):
        resumed.step()
    assert resumed.done == 6
    torch.testing.assert_close(second.recurrent, whole.recurrent, atol=0, rtol=0)
    assert (first.recurrent - whole.recurrent).abs().max() > 1e-4


def test_training_can_go_on_with_longer_walks():
    rnn = SinCosRnn(QUICK)
    before = rnn.recurrent.detach().clone()
    trainer = RnnTrainer(rnn, replace(QUICK, horizon=11, lr=0.02))
    trainer.step()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.02
    longer = (rnn.recurrent - before).detach()
    other = SinCosRnn(QUICK)
    RnnTrainer(other, replace(QUICK, lr=0.02)).step()
    # Adam's first step has the size lr whatever the gradient, so only its signs can differ
    assert (longer - (other.recurrent - before)).abs().max() > 0.03


def test_progress_is_reported():
    seen = []
    SinCosRnn(QUICK, seeds=2).fit(callback=lambda done, loss: seen.append((done, loss.shape)))
    assert seen == [(done, (2,)) for done in range(1, 7)]


def test_the_step_size_falls_over_the_second_half():
    settings = RnnSettings(iterations=100, lr=0.1, decay_to=0.2)
    assert [settings.lr_at(step) for step in (0, 49, 74, 99)] == pytest.approx(
        [0.1, 0.1, 0.06, 0.02]
    )
    assert RnnSettings(lr=0.1, decay_to=1.0).lr_at(2999) == pytest.approx(0.1)


def test_divergence_is_reported():
    settings = RnnSettings(units=8, bins=20, max_step=2, horizon=2, batch_size=2, iterations=100)
    rnn = SinCosRnn(settings)
    with torch.no_grad():
        rnn.offset.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite after 100 updates"):
        rnn.fit()


# Noise


def test_noise_is_relative_to_the_norm_of_the_state():
    rnn = SinCosRnn(RnnSettings(units=400, initial="orthogonal", bins=20, max_step=2))
    one = walks(40, 1)
    clean = rnn.integrate(one.start, one.turns).state
    noisy = rnn.integrate(
        one.start, one.turns, noise=0.3, generator=torch.Generator().manual_seed(2)
    ).state
    size = (noisy - clean).norm(dim=-1) / clean.norm(dim=-1)
    # a norm of 400 normals has a standard deviation of 3.5 %; the mean of 40 of 0.6 %
    assert abs(float(size.mean()) / 0.3 - 1) < 0.03
    again = rnn.integrate(
        one.start, one.turns, noise=0.3, generator=torch.Generator().manual_seed(2)
    ).state
    torch.testing.assert_close(again, noisy, atol=0, rtol=0)


@pytest.mark.parametrize("noise", [-1.0, math.nan])
def test_no_baseline_takes_negative_noise(noise):
    one = walks(2, 3)
    for model in (SinCosRnn(QUICK), AnalyticRing(), RingAttractor()):
        with pytest.raises(ValueError, match=f"noise must not be negative, got {noise}"):
            model.integrate(one.start, one.turns, noise=noise)


# Tuning


def test_tuning_is_the_mean_activity_at_each_heading():
    rnn = SinCosRnn(QUICK, seeds=2).double()
    some = walks(60, 12)
    h = rnn.hidden(
        some.start.double().expand(2, -1), some.turns.double().expand(2, -1, -1)
    ).detach()
    tuning = rnn.tuning(some)
    assert tuning.shape == (2, 20, 24)
    for n in (0, 7, 19):
        here = angular_distance(some.heading, n * 2 * math.pi / 20) < 1e-3
        assert here.any()
        torch.testing.assert_close(tuning[:, n], h[:, here].mean(1))
    assert rnn.tuning(some, bins=5).shape == (2, 5, 24)


def test_codes_are_tuning_curves_on_the_grid():
    rnn = SinCosRnn(QUICK, seeds=2)
    fixed = random_walks(200, 6, bins=20, max_step=2, generator=stream(0, "tuning walks"))
    torch.testing.assert_close(rnn.codes, rnn.tuning(fixed), atol=0, rtol=0)
    assert not rnn.codes.requires_grad


def test_refuses_walks_that_miss_a_heading():
    with pytest.raises(ValueError, match="walks must visit all 20 headings, got 1"):
        SinCosRnn(QUICK).tuning(walks(1, 9))


# Bad inputs


def test_refuses_angles_that_are_no_numbers():
    rnn = SinCosRnn(QUICK)
    bad = torch.tensor([math.nan])
    with pytest.raises(ValueError, match="x must be finite"):
        rnn.encode(bad)
    with pytest.raises(ValueError, match="dx must be finite"):
        rnn.step(rnn.encode(torch.zeros(1)), bad)
    with pytest.raises(ValueError, match="turns must be finite"):
        rnn.integrate(torch.zeros(1), bad[None])
    with pytest.raises(ValueError, match="turns must be finite"):
        rnn.tuning(Walks(torch.zeros(1), bad[None], bad[None]))


@pytest.mark.usefixtures("wrong_types")
def test_refuses_walks_of_other_shapes():
    with pytest.raises(ValueError, match="start must have shape"):
        SinCosRnn(QUICK).integrate(torch.zeros(3), torch.zeros(2, 4))


def test_warns_of_degrees():
    with pytest.warns(UserWarning, match="turns reaches 18"):
        SinCosRnn(QUICK).integrate(torch.zeros(1), torch.full((1, 2), 18.0))


def test_refuses_no_seeds():
    with pytest.raises(ValueError, match="seeds must name at least one seed"):
        SinCosRnn(QUICK, seeds=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "units must be positive, got 0"),
        ({"clip": math.nan}, "clip must be positive, got nan"),
        ({"decay_to": 2.0}, r"decay_to must lie in \[0, 1\], got 2.0"),
        ({"max_step": 50}, "max_step must lie between 1 and half of bins=100, got 50"),
    ],
)
def test_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RnnSettings(**settings)


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "gelu"}, "unknown activation 'gelu'; there are: relu, tanh"),
        ({"initial": "zero"}, "unknown initial 'zero'"),
    ],
)
def test_refuses_unknown_names(settings, message):
    with pytest.raises(ValueError, match=message):
        RnnSettings(**settings)
