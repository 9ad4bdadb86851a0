"""Training: its settings, its updates, stacked seeds, resuming, what is refused."""

import io
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lv_core import stream
from lv_neuro import HeadDirectionModel, Trainer, Training
from lv_neuro.losses import kernel_loss, rollout_loss

QUICK = Training(iterations=40, lr=0.003)
SMALL = {"neurons": 24, "bins": 20, "max_step": 2}
OPTIONS = {"conv": {"kernel_width": 9}}
VARIANTS = ["fc_table", "fc_taylor", "additive", "conv", "linear_group", "linear_poly"]


def make(variant="fc_table", **options):
    return HeadDirectionModel(variant, **{**SMALL, **OPTIONS.get(variant, {}), **options})


def run(model, settings, updates):
    trainer = Trainer(model, settings)
    return trainer, [trainer.step() for _ in range(updates)]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# Settings


def test_the_step_size_rises_stays_and_falls():
    s = Training(iterations=1000, lr=0.5, warm_up=0.1, decay_from=0.3, decay_to=0.01)
    corners = {0: 0.005, 49: 0.25, 99: 0.5, 200: 0.5, 299: 0.5, 649: 0.2525, 999: 0.005}
    for step, lr in corners.items():
        assert math.isclose(s.lr_at(step), lr, rel_tol=1e-9), step
    each = [s.lr_at(step) for step in range(1000)]
    assert max(each) == 0.5
    assert max(abs(a - b) for a, b in pairwise(each)) < 0.0051
    # who goes on is not given a negative step size
    assert s.lr_at(5000) == s.lr_at(999)


def test_the_step_size_may_be_constant():
    s = Training(iterations=10, lr=0.5, warm_up=0.0, decay_from=1.0)
    assert {s.lr_at(step) for step in range(12)} == {0.5}
    down = Training(iterations=10, lr=0.5, warm_up=0.0, decay_from=0.0, decay_to=0.0)
    assert down.lr_at(0) == 0.45
    assert down.lr_at(9) == 0


def test_the_transformations_weight_grows_geometrically():
    s = Training(
        iterations=100, transition_weight=2.0, refine=16.0, refine_from=0.4, refine_to=0.8
    )
    corners = {0: 2.0, 39: 2.0, 49: 4.0, 59: 8.0, 79: 32.0, 99: 32.0, 500: 32.0}
    for step, weight in corners.items():
        assert math.isclose(s.transition_weight_at(step), weight, rel_tol=1e-9), step
    same = replace(s, refine=1.0)
    assert {same.transition_weight_at(step) for step in range(100)} == {2.0}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *[(name, 0, f"{name} must be positive, got 0") for name in ("iterations", "rollout")],
        *[
            (name, value, f"{name} must be positive, got {value}")
            for name in ("lr", "clip", "refine")
            for value in (0.0, -1.0, math.nan)
        ],
        *[
            (name, value, f"{name} must not be negative, got {value}")
            for name in ("noise", "transition_weight", "anti_collapse_weight")
            for value in (-0.1, math.nan)
        ],
        ("warm_up", 0.5, r"warm_up <= decay_from .* got 0.5, 0.3 and 0.01"),
        ("warm_up", -0.1, r"0 <= warm_up"),
        ("decay_from", 1.1, r"decay_from <= 1"),
        ("decay_to", 1.5, r"0 <= decay_to <= 1"),
        ("refine_from", 1.0, r"refine_from < refine_to .* must hold, got 1.0 and"),
        ("refine_to", 1.2, r"refine_to <= 1"),
    ],
)
def test_settings_that_cannot_train_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Training(**{field: value})


# Updates


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_falls(variant):
    model = make(variant)
    # a growing weight would hide it; 300 updates are too few for the end, not for the direction
    settings = replace(model.default_training(), iterations=300, refine=1.0)
    _, losses = run(model, settings, 300)
    first, last = losses[0], losses[-1]
    assert last.total < 0.5 * first.total
    assert last.total.shape == (1,)
    assert not last.total.requires_grad


def test_updates_are_those_of_plain_adam():
    """The fused Adam walks through memory: a transposed gradient would move other weights."""
    for variant in ("fc_table", "linear_group", "additive", "conv"):
        model, other = make(variant), make(variant)
        settings = replace(QUICK, refine=1.0, rollout=2)
        trainer = Trainer(model, settings)
        plain = torch.optim.Adam(other.parameters(), lr=1.0, fused=False, foreach=False)
        turns = torch.randint(-2, 3, (256, 2), generator=stream(0, "turns", 0))
        for step in range(4):
            trainer.step()
            table = other.code.table
            loss = rollout_loss(table, other.transformation, turns[None, step])
            loss = loss + kernel_loss(table @ table.mT, other.target)
            plain.zero_grad()
            loss.sum().backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), settings.clip)
            plain.param_groups[0]["lr"] = settings.lr_at(step)
            plain.step()
            other.code.project()
        for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
            # entries whose gradient is rounding alone move by a whole step in some direction
            share = ((a - b).abs() > 1e-5).float().mean()
            assert share < 0.01, (variant, name)
            mirrored = (a.mT.reshape(b.shape) - b).abs() > 1e-5
            if name in ("transformation.recurrent", "transformation.upper") and a.dim() == 3:
                assert mirrored.float().mean() > 0.5  # a control: the other way round is noticed


def test_constraints_hold_after_every_update():
    for options, low in (({}, 0.0), ({"non_negative": False}, -1.0)):
        model = make(seeds=2, **options)
        trainer = Trainer(model, QUICK)
        for _ in range(5):
            trainer.step()
            torch.testing.assert_close(model.codes.norm(dim=-1), torch.ones(2, 20))
            assert model.codes.min() >= low
    assert model.codes.min() < 0


def test_gradients_are_clipped_for_each_seed_alone(generator):
    trainer = Trainer(make(seeds=3), replace(QUICK, clip=2.0))
    grads = tuple(torch.randn(p.shape, generator=generator) for p in trainer.parameters)
    size = torch.tensor([100.0, 0.001, 1.0])
    norm = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    grads = tuple(g * (size / norm).view(-1, *[1] * (g.dim() - 1)) for g in grads)
    clipped = trainer._clipped(grads)
    after = torch.stack([g.flatten(1).square().sum(1) for g in clipped]).sum(0).sqrt()
    torch.testing.assert_close(after, torch.tensor([2.0, 0.001, 1.0]), rtol=1e-5, atol=0)
    for g, c in zip(grads, clipped, strict=True):
        torch.testing.assert_close(c[0] / 0.02, g[0])  # the direction is kept
        torch.testing.assert_close(c[1:], g[1:])
        assert c.is_contiguous()
    strided = tuple(g.mT.contiguous().mT if g.dim() > 2 else g for g in grads)
    assert any(not g.is_contiguous() for g in strided)
    for c, d in zip(clipped, trainer._clipped(strided), strict=True):
        assert d.is_contiguous()
        torch.testing.assert_close(c, d)


def test_a_small_clip_slows_nothing_down_but_adam_sees_it():
    """Adam divides by the size of gradients: constant clipping leaves the first update alone."""
    models = [make() for _ in range(2)]
    for model, clip in zip(models, (1e-4, 1e4), strict=True):
        run(model, replace(QUICK, clip=clip), 1)
    a, b = (model.codes for model in models)
    assert (a - b).abs().max() < 0.01


@pytest.mark.parametrize("rollout", [1, 3])
def test_noise_disturbs_the_codes_before_each_turn(rollout):
    model = make(seeds=2)
    trainer = Trainer(model, replace(QUICK, rollout=rollout, noise=0.5))
    noise = trainer._noise()
    assert noise.shape == (rollout, 2, 20, 24)
    # the mean of 20 or more squared norms of 24 numbers each: standard error below 7 %
    assert abs(float(noise.square().sum(-1).mean()) / 0.25 - 1) < 0.33
    assert not torch.equal(noise[:, 0], noise[:, 1])
    # it has an effect, and another one in the next update
    calm = make(seeds=2)
    run(calm, replace(QUICK, rollout=rollout), 1)
    trainer.step()
    assert (model.transformation.recurrent - calm.transformation.recurrent).abs().max() > 1e-4
    assert not torch.equal(trainer._noise(), noise)
    assert Trainer(model, QUICK)._noise() is None


def test_turns_are_uniform_and_last_beyond_a_block():
    trainer = Trainer(make(seeds=2), replace(QUICK, rollout=5))
    seen = []
    for update in range(600):
        trainer.done = update
        seen.append(trainer._turns())
    turns = torch.stack(seen)
    assert turns.shape == (600, 2, 5)
    share = torch.bincount((turns + 2).flatten(), minlength=5) / turns.numel()
    assert (share - 0.2).abs().max() < 5 * math.sqrt(0.16 / turns.numel())
    assert not torch.equal(turns[:256, 0], turns[:256, 1])
    assert not torch.equal(turns[:256], turns[256:512])
    trainer.done = 3  # back into an earlier block
    assert torch.equal(trainer._turns(), turns[3])
    assert Trainer(make(), replace(QUICK, rollout=1))._turns() is None


# Seeds


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_stacked_seeds_train_as_if_they_were_alone(variant, noise):
    settings = replace(make(variant).default_training(), iterations=8, noise=noise)
    together = make(variant, seeds=(7, 2))
    _, losses = run(together, settings, 8)
    for i, seed in enumerate((7, 2)):
        alone = make(variant, seeds=(seed,))
        _, single = run(alone, settings, 8)
        torch.testing.assert_close(losses[-1].total[i], single[-1].total[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together.codes[i], alone.codes[0], rtol=0, atol=2e-3)
    assert (together.codes[0] - together.codes[1]).abs().max() > 0.02


def test_the_same_seed_gives_the_same_run_whatever_the_global_state():
    runs = []
    for number in (1, 2):
        torch.manual_seed(number)
        model = make()
        run(model, replace(QUICK, noise=0.1), 5)
        runs.append(state(model))
    assert difference(*runs) == 0


# Saving and resuming


@pytest.mark.parametrize("variant", ["fc_table", "conv", "linear_group"])
def test_resuming_gives_the_same_bits(variant):
    settings = replace(make(variant).default_training(), iterations=12, noise=0.05)
    whole = make(variant, seeds=2, readout="learned")
    run(whole, settings, 12)

    half = make(variant, seeds=2, readout="learned")
    trainer, _ = run(half, settings, 5)
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "trainer": trainer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = make(variant, seeds=2, readout="learned")
    again = Trainer(resumed, settings)
    again.step()  # what was done before is forgotten
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["trainer"])
    assert again.done == 5
    for _ in range(7):
        again.step()
    assert difference(state(whole), state(resumed)) == 0

    # without the optimizer's state it would be another run
    forgetful = make(variant, seeds=2, readout="learned")
    forgetful.load_state_dict(saved["model"])
    other = Trainer(forgetful, settings)
    other.done = 5
    for _ in range(7):
        other.step()
    assert difference(state(whole), state(forgetful)) > 1e-4


# Divergence


@pytest.mark.parametrize(("iterations", "found"), [(100, 100), (250, 100), (30, 30)])
def test_divergence_is_an_error(iterations, found):
    model = make("linear_poly")
    with torch.no_grad():
        model.transformation.generator.fill_(1e30)
    settings = Training(iterations=iterations)
    with pytest.raises(
        FloatingPointError, match=rf"not finite after {found} updates: \[nan\].*lower lr"
    ):
        model.fit(settings)


def test_one_bad_seed_of_two_is_an_error_too():
    model = make("linear_poly", seeds=2)
    with torch.no_grad():
        model.transformation.generator[1].fill_(1e30)
    with pytest.raises(FloatingPointError, match=r"\[\d+\.\d+, nan\] \(one value per seed\)"):
        model.fit(iterations=4)
