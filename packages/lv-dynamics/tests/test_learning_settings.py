"""Settings of learning and their schedules."""

from dataclasses import replace

import pytest

from lv_dynamics.learning import LearningSettings


def test_the_phases_follow_each_other():
    s = LearningSettings(iterations=100, warm_up=0.6, curriculum=0.4, anneal=0.5)
    assert [s.horizon_at(k) for k in (0, 9, 10, 39, 40, 99)] == [0.2, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [s.in_warm_up(k) for k in (0, 59, 60, 99)] == [True, True, False, False]
    assert [s.learns_energy(k) for k in (0, 39, 40, 99)] == [False, False, True, True]
    assert [s.sigma_share_at(k) for k in (0, 25, 50, 99)] == [1.0, 0.5, 0.0, 0.0]
    assert s.decay(0) == 1.0
    assert s.decay(100) == s.decay(150) == pytest.approx(s.lr_end)


def test_everything_can_be_left_out():
    s = LearningSettings(iterations=10, warm_up=0.0, curriculum=0.0, anneal=0.0, kl_warm_up=0.0)
    assert not s.in_warm_up(0)
    assert s.learns_energy(0)
    assert s.horizon_at(0) == 1.0
    assert s.sigma_share_at(0) == 0.0
    assert s.kl_weight_at(0) == 1.0
    assert LearningSettings(horizons=(1.0,)).horizon_at(0) == 1.0


def test_other_methods_have_no_warm_up_and_wait_for_the_whole_horizon():
    s = LearningSettings(iterations=10, method="short_run", curriculum=0.5)
    assert not s.in_warm_up(0)
    assert [s.learns_energy(k) for k in (0, 4, 5)] == [False, False, True]
    assert replace(s, energy_from=0.2).learns_energy(2)


def test_the_weight_of_the_divergence_grows():
    s = LearningSettings(iterations=10, kl_warm_up=0.5, kl_weight=2.0)
    assert [s.kl_weight_at(k) for k in (0, 2, 5, 9)] == pytest.approx([0.0, 0.8, 2.0, 2.0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "vae"}, "unknown method 'vae'; there are: persistent, short_run, encoder"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": -1.0}, "lr must be a number that is not negative"),
        ({"lr": float("nan")}, "lr must be a number that is not negative"),
        ({"sigma_start": 0.0}, "sigma_start must be a positive number"),
        ({"warm_up": 1.5}, r"warm_up must be a share in \[0, 1\], got 1.5"),
        ({"sigma_rate": 0.0}, r"sigma_rate must lie in \(0, 1\]"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"horizons": (0.5, 0.4, 1.0)}, "horizons must be rising shares"),
        ({"horizons": (0.5,)}, "horizons must be rising shares"),
        ({"prior_steps": 0}, "prior_steps must be at least 1 or None, got 0"),
    ],
)
def test_refuses_settings_out_of_range(setting, message, wrong_types):
    with pytest.raises(ValueError, match=message):
        LearningSettings(**setting)
