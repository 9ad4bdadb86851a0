"""The model: what it refuses, that every variant trains, what the ablation switches do."""

import math
from dataclasses import replace

import pytest
import torch

from lv_core import stream
from lv_neuro import (
    HeadDirectionModel,
    Training,
    path_integration,
    principal_circle,
    random_walks,
    topography,
)
from lv_neuro.analysis import kernel_error
from lv_neuro.angles import angular_distance, grid
from lv_neuro.losses import isometry_loss, kernel_loss, one_step_loss, rollout_loss
from lv_neuro.transforms import TaylorRecurrence

SMALL = {"neurons": 30, "bins": 30, "max_step": 2}
OPTIONS = {"conv": {"kernel_width": 11}}
VARIANTS = ["fc_table", "fc_taylor", "additive", "conv", "linear_group", "linear_poly"]
SHORT = Training(iterations=600, lr=0.005, refine=1.0)


def make(variant="fc_table", **options):
    return HeadDirectionModel(variant, **{**SMALL, **OPTIONS.get(variant, {}), **options})


def degrees(model, steps=50, **options):
    """Mean error of path integration after the last turn."""
    walks = random_walks(
        100, steps, bins=model.bins, max_step=model.max_step, generator=stream(0, "walks")
    )
    return path_integration(model, walks, **options).at_end


@pytest.fixture(scope="module")
def trained():
    """A small network, trained as long as it takes to follow headings."""
    model = make(seeds=2, readout="learned")
    model.fit(SHORT)
    return model


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fc"}, r"unknown variant 'fc'; there are: additive, conv, fc_table, fc_ta"),
        ({"anti_collapse": "gauss"}, r"unknown anti_collapse 'gauss'; there are: kernel, von_mis"),
        ({"readout": "linear"}, r"unknown readout 'linear'; there are: codebook, learned"),
        ({"sigma": 0.0}, r"sigma must be positive \(radians\), got 0.0"),
        ({"sigma": math.nan}, r"sigma must be positive \(radians\), got nan"),
        ({"bins": 7}, r"bins \(N\) must be at least 8, got 7"),
        ({"sigma": 37.0}, r"sigma must be at most pi radians, got 37: is it in degrees"),
        ({"neurons": 1}, r"neurons \(d\) must be at least 2, got 1"),
        ({"bins": 9}, r"bins \(N\) is too small .* one bin is 0.698 rad, sigma is 0.65 .* 10 bin"),
        ({"neurons": 9}, r"neurons \(d\) is too small .* sigma = 0.65 .* at least 10 .* got 9"),
        ({"seeds": 0}, r"seeds must name at least one seed, got none"),
        ({"seeds": ()}, r"seeds must name at least one seed, got none"),
        ({"max_step": 15}, r"max_step must lie between 1 and 14 .*bins=30\), got 15"),
        ({"max_step": 0}, r"max_step must lie between 1 and 14"),
        (
            {"anti_collapse": "isometry", "isometry_scale": 2.0},
            r"isometry_scale .* at most 0.45 for .* 15 .* got 2:",
        ),
        (
            {"anti_collapse": "isometry", "isometry_scale": 0.0},
            r"isometry_scale must be positive .* got 0:",
        ),
        (
            {"anti_collapse": "isometry", "isometry_reach": 16},
            r"isometry_reach must lie between 1 and 15 \(half of bins=30\), got 16",
        ),
        (
            {"anti_collapse": "isometry", "isometry_reach": 0},
            r"isometry_reach must lie between 1 and 15 \(half of bins=30\), got 0",
        ),
        ({"variant": "conv", "kernel_width": 5}, r"kernel_width must exceed 5, got 5"),
        ({"variant": "conv", "channels": 4}, r"channels must divide neurons=30, got 4"),
    ],
)
def test_what_cannot_work_is_refused_with_its_remedy(options, message, request):
    types = {"variant": "fc", "anti_collapse": "gauss", "readout": "linear"}
    if any(options.get(name) == value for name, value in types.items()):
        request.getfixturevalue("wrong_types")
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("v", "dx", "message"),
    [
        (
            (4, 30),
            (4,),
            r"\(2, ..., 30\), got \(4, 30\); seeds come first",
        ),
        ((2, 4, 7), (4,), r"= \(2, ..., 30\), got \(2, 4, 7\)"),
        ((2, 4, 30), (3,), r"broadcasts to .* got \(2, 4, 30\) and \(3,\)"),
        ((2, 30), (), r"got \(2, 30\) and \(\); encode a single heading as"),
    ],
)
def test_codes_and_turns_that_do_not_fit_are_refused(v, dx, message, wrong_types):
    with pytest.raises(ValueError, match=message):
        make(seeds=2).step(torch.rand(v), torch.rand(dx))


def test_codes_of_another_size_do_not_decode(wrong_types):
    with pytest.raises(ValueError, match="seeds come first"):
        make(seeds=2).decode(torch.rand(4, 30))


def test_fields_of_the_training_are_changed_one_by_one():
    model = make(variant="conv", kernel_width=11)
    model.fit(iterations=1, lr=0.5)
    same = make(variant="conv", kernel_width=11)
    same.fit(replace(same.default_training(), iterations=1, lr=0.5))
    torch.testing.assert_close(model.codes, same.codes)
    with pytest.raises(TypeError, match="no_such"):
        model.fit(no_such=1.0)


def test_fields_of_the_training_that_make_no_sense_are_refused(wrong_types):
    with pytest.raises(ValueError, match=r"rollout must be a whole number, got 2.5"):
        make().fit(rollout=2.5)


def test_sizes_matter_only_to_the_losses_that_need_them():
    for kind in ("cosine", "none"):
        assert make(anti_collapse=kind, bins=9, neurons=3).codes.shape == (1, 9, 3)
    assert make(bins=10).bins == 10
    assert make(neurons=10).neurons == 10
    # negative codes reach twice as far apart as a right angle's chord
    wide = {"anti_collapse": "isometry", "isometry_scale": 0.6}
    assert make(non_negative=False, **wide).isometry_reach == 15
    with pytest.raises(ValueError, match=r"isometry_scale must be positive and at most 0.45"):
        make(**wide)


def test_options_belong_to_their_variant():
    with pytest.raises(TypeError, match="kernel_width"):
        make("fc_table", kernel_width=11)
    assert make("conv", kernel_width=9).transformation.kernel_width == 9


# Building


def test_the_defaults_suit_the_variant():
    assert HeadDirectionModel().default_training() == Training()
    assert isinstance(make("fc_taylor").transformation, TaylorRecurrence)
    assert make("conv").default_training().lr == 0.01
    assert make("linear_group").default_training().rollout == 1
    for variant in VARIANTS:
        rectified = make(variant).transformation.rectified
        assert make(variant).transformation.renormalize == rectified
        for value in (True, False):
            assert make(variant, renormalize=value).transformation.renormalize == value


def test_seeds_are_counted_or_named():
    assert make(seeds=3).seeds == (0, 1, 2)
    assert make(seeds=[5, 1]).seeds == (5, 1)
    assert make(seeds=iter((4,))).seeds == (4,)
    torch.testing.assert_close(make(seeds=3).codes[1:2], make(seeds=[1]).codes)


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    for variant in VARIANTS:
        make(variant)
    assert torch.equal(before, torch.get_rng_state())


def test_targets_are_no_part_of_the_state():
    model = make(readout="learned", seeds=2)
    assert "target" not in model.state_dict()
    other = make(readout="learned", seeds=[8, 9])
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.codes, model.codes)


# Losses


@pytest.mark.parametrize("kind", ["kernel", "von_mises", "cosine", "isometry", "none"])
def test_the_loss_is_the_weighted_sum_of_its_terms(kind):
    options = {"isometry_scale": 0.3, "isometry_reach": 4} if kind == "isometry" else {}
    model = make(seeds=2, anti_collapse=kind, readout="learned", **options)
    settings = Training(
        iterations=100, transition_weight=3.0, anti_collapse_weight=0.5, refine=4.0
    )
    turns = torch.tensor([[1, -2], [0, 2]])
    noise = 0.1 * torch.randn(2, 2, 30, 30)
    table, f, gram = model.code.table, model.transformation, model.code.gram()
    apart = {
        "none": torch.zeros(2),
        "isometry": isometry_loss(gram, scale=0.3, reach=4),
    }.get(kind)
    if apart is None:
        apart = kernel_loss(gram, model.target)
        rms = kernel_error(model.codes, sigma=0.65, kind=kind)
        torch.testing.assert_close(apart.detach(), rms.square())
    for step, weight in ((0, 3.0), (99, 12.0)):
        for given in (None, turns):
            for added in (None, noise):
                found = model(given, settings=settings, noise=added, step=step)
                moved = (
                    one_step_loss(table, f, noise=None if added is None else added[0])
                    if given is None
                    else rollout_loss(table, f, given, noise=added)
                )
                read = model.readout.loss(table, done=step / 100)
                torch.testing.assert_close(found.transition, moved)
                torch.testing.assert_close(found.anti_collapse, apart)
                torch.testing.assert_close(found.readout, read)
                torch.testing.assert_close(found.total, weight * moved + 0.5 * apart + read)


def test_fit_reports_every_update_and_replaces_the_iterations():
    model, seen = make(seeds=2), []
    last = model.fit(
        SHORT, iterations=7, callback=lambda done, losses: seen.append((done, losses))
    )
    assert [done for done, _ in seen] == list(range(1, 8))
    torch.testing.assert_close(seen[-1][1].total, last.total)
    assert not torch.equal(seen[0][1].total, last.total)
    again = make(seeds=2)
    torch.testing.assert_close(
        again.fit(replace(SHORT, iterations=7)).total, last.total, atol=0, rtol=0
    )
    assert make().fit(iterations=1).total.shape == (1,)


# Use


def test_a_trained_model_follows_headings(trained):
    x = torch.rand(100, generator=stream(0, "x")) * 2 * math.pi
    bin_width = 2 * math.pi / 30
    assert angular_distance(trained.decode(trained.encode(x)), x).mean() < bin_width / 3
    assert (degrees(trained) < 15).all()
    assert (degrees(make(seeds=2)) > 30).all()  # chance is 90
    assert (trained.codes >= 0).all()


def test_the_learned_readout_decodes_by_itself(trained):
    x = grid(30)
    found = trained.readout.decode(trained.codes)
    assert angular_distance(found, x).max() < 0.1
    book = trained.code.decode(trained.codes)
    torch.testing.assert_close(trained.decode(trained.codes), found)
    assert (found - book).abs().max() > 1e-5
    # it has learned: its heat maps are narrower than those of the codes it began with
    fresh = make(seeds=2, readout="learned")
    with torch.no_grad():
        done = trained.readout.loss(trained.codes, done=1.0)
        start = fresh.readout.loss(trained.codes, done=1.0)
    assert (done < 0.2 * start).all()
    assert make().readout is None


def test_steps_turn_codes_by_angles_of_their_own(trained):
    x = grid(30)
    v = trained.codes
    dx = torch.linspace(-1, 1, 30)  # far beyond the largest turn of 0.42 rad
    found = trained.decode(trained.step(v, dx))
    error = angular_distance(found, x + dx)
    assert error.mean() < 0.1
    assert angular_distance(found, x - dx).mean() > 0.5
    each = torch.stack([trained.step(v[:, i : i + 1], dx[i])[:, 0] for i in range(30)], 1)
    torch.testing.assert_close(each, trained.step(v, dx), atol=1e-5, rtol=0)
    own = torch.stack([dx, -dx])
    both = trained.step(v, own)
    torch.testing.assert_close(both[0], trained.step(v, dx)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(both[1], trained.step(v, -dx)[1], atol=1e-5, rtol=0)


def test_gradients_flow_through_steps():
    model = make("fc_table").double()
    v = model.codes.clone().requires_grad_()
    dx = torch.linspace(-0.5, 0.5, 30, dtype=torch.float64)
    model.step(v, dx)[..., 0].sum().backward()
    assert v.grad.abs().sum() > 0
    assert model.transformation.turning.grad.abs().sum() > 0


def test_tuning_is_that_of_the_codes(trained):
    tuning = trained.tuning()
    assert tuning.counted.shape == (2, 30)
    assert tuning.fit.r2.shape == (2, 30)
    assert (tuning.bumps_mean < make(seeds=2).tuning().bumps_mean).all()
    assert not trained.codes.requires_grad


def test_a_saved_model_is_the_same_model(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    other = make(seeds=2, readout="learned")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(degrees(other), degrees(trained))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_usable_at_once(variant, device):
    model = make(variant, seeds=2).to(device)
    model.fit(iterations=3)
    x = torch.rand(4, 3)
    v = model.encode(x)
    assert v.shape == (2, 4, 3, 30)
    assert model.decode(v).shape == (2, 4, 3)
    assert model.step(v[:, 0], torch.tensor([0.1, -0.2, 0.0])).shape == (2, 3, 30)
    found = model.integrate(x[:, 0], x - 0.5, noise=0.1, mode="reencode", generator=None)
    assert found.heading.shape == (2, 4, 3)
    assert torch.isfinite(found.heading).all()
    assert found.heading.device.type == device.type


def test_double_precision_goes_through():
    model = make("conv").double()
    model.fit(iterations=2)
    x = torch.rand(3, dtype=torch.float64)
    assert model.encode(x).dtype == torch.float64
    assert model.decode(model.step(model.encode(x), x)).dtype == torch.float64


# Ablations


def test_without_anti_collapse_codes_collapse(trained):
    model = make(anti_collapse="none")
    losses = model.fit(SHORT)
    assert losses.anti_collapse == 0
    assert losses.transition < 1e-3  # the collapsed code solves this term ...
    assert kernel_error(model.codes) > 0.5  # ... and forgets the heading
    assert (kernel_error(trained.codes) < 0.1).all()
    assert degrees(model) > 45


def test_without_the_sign_constraint_codes_are_negative_and_have_more_bumps():
    free, bound = (make("linear_group", non_negative=n) for n in (False, True))
    settings = replace(free.default_training(), iterations=600)
    for model in (free, bound):
        model.fit(settings)
        assert degrees(model) < 10
    assert free.codes.min() < -0.1
    assert bound.codes.min() == 0
    assert free.tuning().r2_median < bound.tuning().r2_median - 0.1
    assert free.tuning().bumps_mean > bound.tuning().bumps_mean


def test_without_renormalization_norms_are_not_one(trained):
    model = make(renormalize=False)
    model.fit(SHORT, iterations=100)
    start, turns = torch.zeros(3), torch.full((3, 10), 0.2)
    one = torch.ones(1, 3)
    assert not torch.allclose(model.integrate(start, turns).state.norm(dim=-1), one, atol=1e-2)
    torch.testing.assert_close(
        trained.integrate(start, turns).state.norm(dim=-1), one.expand(2, -1)
    )


def test_a_wider_kernel_gives_wider_tuning():
    widths = []
    for sigma in (0.5, 0.9):
        model = make("linear_group", sigma=sigma)
        model.fit(replace(model.default_training(), iterations=600))
        widths.append(float(model.tuning().sigma_median))
    # sigma / sqrt(2): what products of Gaussian bumps come out as
    assert widths[0] < widths[1]
    assert all(
        abs(w / (s / math.sqrt(2)) - 1) < 0.25 for w, s in zip(widths, (0.5, 0.9), strict=True)
    )


def test_a_short_isometry_winds_many_times():
    """Looks perfect in PCA and stands for several headings: why the winding is reported."""
    model = make(
        anti_collapse="isometry", isometry_reach=2, isometry_scale=2.0, non_negative=False
    )
    model.fit(SHORT)
    assert principal_circle(model.codes).winding > 1
    whole = make(anti_collapse="isometry")
    whole.fit(SHORT)
    assert principal_circle(whole.codes).winding == 1


# The claims, with the settings users get


def check_claims(model):
    tuning, circle = model.tuning(), principal_circle(model.codes)
    assert (tuning.r2_median > 0.95).all(), tuning.r2_median
    assert (tuning.bumps_mean < 1.15).all(), tuning.bumps_mean
    assert (circle.winding == 1).all()
    assert (circle.radius_cv < 0.03).all(), circle.radius_cv
    walks = random_walks(200, 100, generator=stream(0, "walks"))
    errors = path_integration(model, walks)
    assert (errors.at_end < 2).all(), errors.at_end
    # sigma / sqrt(2) = 26 degrees
    width = torch.rad2deg(tuning.sigma_median)
    assert ((width > 22) & (width < 31)).all(), width
    return tuning


@pytest.mark.slow
def test_the_fully_connected_network_makes_a_ring():
    model = HeadDirectionModel("fc_table")
    model.fit()
    tuning = check_claims(model)
    # its neurons lie in no order
    assert (topography(tuning.mean_vector.direction, tuning.counted) < 0.5).all()


@pytest.mark.slow
def test_the_convolutional_network_makes_a_ring_in_order():
    model = HeadDirectionModel("conv")
    model.fit()
    tuning = check_claims(model)
    assert (topography(tuning.mean_vector.direction, tuning.counted) > 0.95).all()


@pytest.mark.slow
def test_the_linear_group_becomes_a_representation():
    model = HeadDirectionModel("linear_group", neurons=50)
    model.fit()
    check_claims(model)
    # a whole turn is the identity on the codes, half a turn is not
    v = model.codes
    for turns, still in ((2 * math.pi, True), (math.pi, False)):
        moved = model.step(v, torch.full((100,), turns)) - v
        assert (moved.norm(dim=-1).mean() < 0.1) == still


@pytest.mark.slow
def test_without_the_sign_constraint_there_are_no_bumps():
    model = HeadDirectionModel("linear_group", neurons=50, non_negative=False)
    model.fit()
    assert (model.tuning().r2_median < 0.8).all()
    # what does not need the constraint is still there
    assert (principal_circle(model.codes).winding == 1).all()
    walks = random_walks(200, 100, generator=stream(0, "walks"))
    assert (path_integration(model, walks).at_end < 2).all()
