"""The report: every measure, in degrees, reproducible, one value per seed."""

import json
import math

import pytest
import torch

from lv_core import stream
from lv_neuro import (
    HeadDirectionModel,
    Training,
    path_integration,
    principal_circle,
    random_walks,
    report,
)
from lv_neuro.analysis import error_correction, group_law, identity_error, kernel_error
from lv_neuro.angles import grid

SMALL = {"neurons": 24, "bins": 24, "max_step": 2}
AMPLITUDES = (0.7, 0.5, 0.4, 0.3)
FAST = {"walks": 20, "lengths": (5, 12), "noise": (0.0, 0.1)}

ALWAYS = {
    "active",
    "gaussian_r2_median",
    "gaussian_r2_low",
    "tuning_sigma",
    "half_width",
    "bumps",
    "mean_vector_length",
    "largest_gap",
    "radius_cv",
    "winding",
    "variance_share",
    "group_law",
    "identity",
}


def make(variant="fc_table", *, iterations=60, **options):
    extra = {"kernel_width": 9} if variant == "conv" else {}
    model = HeadDirectionModel(variant, **{**SMALL, **extra, **options})
    model.fit(Training(iterations=iterations, lr=0.005, refine=1.0))
    return model


@pytest.fixture(scope="module")
def model():
    return make(seeds=2, iterations=300)


def rotation():
    """An exact ring of four harmonics."""
    model = HeadDirectionModel(
        "linear_group", neurons=8, bins=40, max_step=3, non_negative=False, anti_collapse="cosine"
    )
    x = grid(40)
    with torch.no_grad():
        model.transformation.upper.zero_()
        for i, size in enumerate(AMPLITUDES):
            model.code.table[0, :, 2 * i] = size * ((i + 1) * x).cos()
            model.code.table[0, :, 2 * i + 1] = size * ((i + 1) * x).sin()
            model.transformation.upper[0, 2 * i + 1, 2 * i] = i + 1
        model.code.project()
    return model


def test_every_measure_is_there_with_one_value_per_seed(model):
    found = report(model)
    paths = {
        f"path_{kind}_T{length}_noise{level}"
        for kind in ("error", "mean")
        for length in (100, 1000)
        for level in ("0", "0.05", "0.1")
    }
    corrections = {
        f"{kind}_scale{scale}_after{times}"
        for kind in ("off_ring", "correction_error")
        for scale in ("0.3", "0.6", "1")
        for times in (0, 1, 3, 10)
    }
    assert set(found) == ALWAYS | paths | corrections | {"kernel_error"}
    for name, values in found.items():
        assert len(values) == 2, name
        assert all(type(v) is float and math.isfinite(v) for v in values), name
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("variant", "options", "extra"),
    [
        ("conv", {}, {"topography", "kernel_error"}),
        ("conv", {"channels": 2}, {"kernel_error"}),
        ("linear_group", {}, {"frequency_distance", "kernel_error"}),
        ("fc_table", {"anti_collapse": "none"}, set()),
        ("fc_table", {"anti_collapse": "von_mises"}, {"kernel_error"}),
    ],
)
def test_some_measures_belong_to_some_models(variant, options, extra):
    options = {**options, "renormalize": True}
    found = report(make(variant, **options), **FAST)
    others = {name for name in found if not name.startswith(("path_", "off_", "correction_"))}
    assert others == ALWAYS | extra


def test_figures_are_those_of_the_functions_they_name(model):
    found = report(model, **FAST)
    tuning, circle = model.tuning(), principal_circle(model.codes)
    wanted = {
        "active": tuning.neurons,
        "gaussian_r2_median": tuning.r2_median,
        "gaussian_r2_low": tuning.r2_low,
        "tuning_sigma": tuning.sigma_median * 180 / math.pi,
        "half_width": tuning.half_width_median * 180 / math.pi,
        "bumps": tuning.bumps_mean,
        "mean_vector_length": tuning.length_median,
        "largest_gap": tuning.largest_gap * 180 / math.pi,
        "radius_cv": circle.radius_cv,
        "winding": circle.winding,
        "variance_share": circle.variance_share,
        "group_law": group_law(model, max_step=2),
        "identity": identity_error(model),
        "kernel_error": kernel_error(model.codes, sigma=0.65),
    }
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values.tolist(), rel=1e-5), name
    assert found["group_law"] != pytest.approx(group_law(model, max_step=1).tolist(), rel=1e-5)


def test_path_errors_are_those_of_the_longest_walks(model):
    found = report(model, seed=3, **FAST)
    walks = random_walks(20, 12, bins=24, max_step=2, generator=stream(3, "walks"))
    for level, name in ((0.0, "0"), (0.1, "0.1")):
        errors = path_integration(model, walks, noise=level, generator=stream(3, "path noise"))
        assert found[f"path_error_T12_noise{name}"] == pytest.approx(errors.at_end.tolist())
        assert found[f"path_mean_T12_noise{name}"] == pytest.approx(errors.mean.tolist())
        early = errors.curve[:, :5]
        assert found[f"path_error_T5_noise{name}"] == pytest.approx(early[:, -1].tolist())
        assert found[f"path_mean_T5_noise{name}"] == pytest.approx(early.mean(1).tolist())
    assert found["path_error_T12_noise0"] != found["path_error_T5_noise0"]


def test_corrections_stand_under_their_names(model):
    found = report(
        model, **FAST, correction_scales=(0.2, 0.9), correction_applications=(2, 0), seed=4
    )
    wanted = error_correction(
        model, scales=(0.2, 0.9), applications=(2, 0), generator=stream(4, "correction")
    )
    for i, scale in enumerate((0.2, 0.9)):
        for j, times in enumerate((2, 0)):
            name = f"scale{scale}_after{times}"
            assert found[f"off_ring_{name}"] == pytest.approx(wanted.off_ring[:, i, j].tolist())
            assert found[f"correction_error_{name}"] == pytest.approx(
                wanted.heading_error[:, i, j].tolist()
            )
    assert found["off_ring_scale0.9_after0"] > found["off_ring_scale0.2_after0"]


def test_an_exact_rotation_has_a_perfect_report():
    model = rotation()
    found = {name: values[0] for name, values in report(model, **FAST).items()}
    assert found["winding"] == 1
    assert found["group_law"] < 1e-5
    assert found["identity"] < 1e-5
    assert found["frequency_distance"] < 1e-5
    assert found["path_error_T12_noise0"] < 0.05
    assert found["path_error_T12_noise0.1"] > 1
    # harmonics are no bumps: the report does not say yes to everything
    assert found["bumps"] == 2.5
    assert found["gaussian_r2_median"] < 0.9
    with torch.no_grad():
        model.transformation.upper.mul_(1.1)
    wrong = {name: values[0] for name, values in report(model, **FAST).items()}
    assert wrong["path_error_T12_noise0"] > 0.5
    # frequencies 1.1, 2.2, 3.3, 4.4, weighted by energy
    energies = [a**2 for a in AMPLITUDES]
    distance = sum(e * d for e, d in zip(energies, (0.1, 0.2, 0.3, 0.4), strict=True))
    assert wrong["frequency_distance"] == pytest.approx(distance / sum(energies), abs=1e-4)


def test_the_report_is_reproducible(model):
    torch.manual_seed(1)
    first = report(model, **FAST)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert report(model, **FAST) == first
    assert torch.equal(torch.get_rng_state(), state)
    other = report(model, **FAST, seed=1)
    assert other["path_error_T12_noise0.1"] != first["path_error_T12_noise0.1"]
    assert other["bumps"] == first["bumps"]


def test_a_seed_has_the_same_report_alone():
    """Noise is drawn for all seeds together: only what has no noise can be compared."""
    together, alone = make(seeds=[4, 6]), make(seeds=[6])
    alone.load_state_dict({n: v[1:] for n, v in together.state_dict().items()})
    options = {**FAST, "noise": (0.0,), "correction_scales": (0.0,)}
    both, one = report(together, **options), report(alone, **options)
    for name, values in one.items():
        assert both[name][1] == pytest.approx(values[0], rel=1e-4, abs=1e-4), name
    assert both["kernel_error"][0] != both["kernel_error"][1]


@pytest.mark.parametrize("lengths", [(), (0, 5), (-1,)])
def test_lengths_that_are_none_are_refused(model, lengths):
    with pytest.raises(ValueError, match=r"lengths must hold numbers of at least 1, got \("):
        report(model, walks=5, lengths=lengths)


def test_other_numbers_that_cannot_be_are_refused(model):
    with pytest.raises(ValueError, match=r"walks must be positive, got 0"):
        report(model, walks=0, lengths=(2,))
    with pytest.raises(ValueError, match=r"noise must not be negative, got -1"):
        report(model, walks=2, lengths=(2,), noise=(-1.0,))
    with pytest.raises(ValueError, match=r"scales must hold numbers"):
        report(model, walks=2, lengths=(2,), correction_scales=())
