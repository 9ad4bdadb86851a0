import math

import pytest
import torch
from torch import Tensor

from lv_core import stream
from lv_priors.ratio.waymarks import (
    Moments,
    balanced_schedule,
    check_coefficients,
    ldebm_schedule,
    linear_schedule,
    moments,
    named_schedule,
    power_schedule,
    stage_pairs,
    waymark_moments,
    waymarks,
)


def test_linear_schedule_has_the_known_values() -> None:
    known = torch.tensor([1, 0.986, 0.943, 0.866, 0.745, 0.553, 0], dtype=torch.float64)
    torch.testing.assert_close(linear_schedule(6), known, atol=5e-4, rtol=0)


def test_diffusion_schedule_has_the_known_values() -> None:
    known = torch.tensor([1, 0.946, 0.810, 0.628, 0.440, 0.279, 0.006], dtype=torch.float64)
    c = ldebm_schedule(6)
    torch.testing.assert_close(c[:-1], known[:-1], atol=6e-4, rtol=0)
    assert c[0] == 1  # 0.99995 set to 1
    assert c[-1] == 0  # 0.006 set to 0


def test_noise_of_a_power_schedule_is_that_power() -> None:
    c = power_schedule(4, 7.0)
    noise = (1 - c.square()).sqrt()
    expected = (torch.arange(5, dtype=torch.float64) / 4) ** 7
    torch.testing.assert_close(noise, expected, atol=1e-7, rtol=0)
    assert torch.equal(power_schedule(4, 1.0), linear_schedule(4))


@pytest.mark.parametrize("stages", [1, 2, 6, 10])
def test_every_schedule_leads_from_one_to_zero(stages) -> None:
    unit = Moments(torch.zeros(2).double(), torch.eye(2).double())
    far = Moments(torch.tensor([3.0, 0.0]).double(), 0.01 * torch.eye(2).double())
    for c in (
        linear_schedule(stages),
        power_schedule(stages, 3.0),
        ldebm_schedule(stages),
        named_schedule(None, stages),
        balanced_schedule(stages, far, unit),
    ):
        assert torch.equal(check_coefficients(c, stages), c)


def test_name_none_is_the_diffusion_for_six_stages_and_linear_else() -> None:
    assert torch.equal(named_schedule(None, 6), ldebm_schedule(6))
    assert torch.equal(named_schedule(None, 5), linear_schedule(5))
    assert torch.equal(named_schedule("linear", 6), linear_schedule(6))


def test_waymarks_mix_signal_and_noise_and_keep_the_variance() -> None:
    generator = stream(0, "marks")
    z0, eps = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
    c = linear_schedule(4)
    marks = waymarks(z0, eps, c)
    assert torch.equal(marks[0], z0)
    assert torch.equal(marks[-1], eps)
    torch.testing.assert_close(marks[2], c[2] * z0 + (1 - c[2] ** 2).sqrt() * eps)
    # 60,000 numbers: standard error of the variance 0.006.
    assert ((marks.var((1, 2)) - 1).abs() < 0.03).all()
    straight = c[:, None, None] * z0 + (1 - c)[:, None, None] * eps  # the wrong noise rule
    assert ((straight.var((1, 2)) - 1).abs() > 0.03).any()


def test_waymarks_keep_the_dtype_and_the_event() -> None:
    z0 = torch.randn(5, 2, 3)
    assert waymarks(z0, torch.randn(5, 2, 3), linear_schedule(3)).shape == (4, 5, 2, 3)
    assert waymarks(z0, z0, linear_schedule(3)).dtype == torch.float32


def test_pairs_are_neighbours_of_the_same_samples_or_of_others() -> None:
    z0, eps, z1, eta = torch.randn(4, 5, 2)
    c = linear_schedule(3)
    marks, others = waymarks(z0, eps, c), waymarks(z1, eta, c)
    coupled, shuffled = stage_pairs(z0, eps, c), stage_pairs(z0, eps, c, (z1, eta))
    assert torch.equal(coupled, torch.cat((marks[:-1], marks[1:]), 1))
    assert torch.equal(shuffled, torch.cat((marks[:-1], others[1:]), 1))


def test_moments_of_waymarks_are_those_of_their_samples() -> None:
    generator, n = stream(0, "moments"), 200_000
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = x @ torch.tensor([[1.0, 0.5], [0.0, 0.3]]).double() + torch.tensor([2.0, -1.0])
    y = 0.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64) + 1.0
    c = linear_schedule(3)
    path = waymark_moments(moments(x), moments(y), c)
    for k, mark in enumerate(waymarks(x, y, c)):
        sample = moments(mark)
        # 200,000 samples of variance about 1: standard error 0.003.
        torch.testing.assert_close(path.mean[k], sample.mean, atol=0.015, rtol=0)
        torch.testing.assert_close(path.covariance[k], sample.covariance, atol=0.015, rtol=0)


def jeffreys(path: Moments) -> Tensor:
    """Returns the symmetric divergence (nats) of neighbouring normals."""
    values = []
    for k in range(len(path.mean) - 1):
        a, b = path.covariance[k], path.covariance[k + 1]
        gap = path.mean[k] - path.mean[k + 1]
        ia, ib = torch.linalg.inv(a), torch.linalg.inv(b)
        trace = 0.5 * (torch.trace(ib @ a) + torch.trace(ia @ b) - 2 * len(a))
        values.append(trace + 0.5 * gap @ (ia + ib) @ gap)
    return torch.stack(values)


def test_balanced_stages_are_equally_hard() -> None:
    first = Moments(
        torch.tensor([3.0, -1.0]).double(), torch.tensor([[0.3, 0.1], [0.1, 0.05]]).double()
    )
    last = Moments(
        torch.tensor([-1.0, 0.0]).double(), torch.tensor([[1.0, -0.4], [-0.4, 2.0]]).double()
    )
    even = jeffreys(waymark_moments(first, last, balanced_schedule(8, first, last)))
    fixed = jeffreys(waymark_moments(first, last, linear_schedule(8)))
    assert even.max() / even.min() < 1.5
    assert fixed.max() / fixed.min() > 5
    assert even.max() < fixed.max()


@pytest.mark.parametrize("ratio", [1e-5, 1e-4, 1e-2, 0.5, 2.0, 1e2, 1e4, 1e5])
def test_balanced_stages_are_equally_hard_for_narrow_and_wide_ends(ratio) -> None:
    first = Moments(torch.zeros(1).double(), torch.tensor([[ratio**2]]).double())
    last = Moments(torch.zeros(1).double(), torch.eye(1).double())
    even = jeffreys(waymark_moments(first, last, balanced_schedule(6, first, last)))
    # Means agree, so the path is one of scales alone: its stages divide log(ratio) evenly, and
    # the divergence of normals whose scales differ by the factor r is cosh(2 log r) - 1.
    exact = math.cosh(2 * math.log(ratio) / 6) - 1
    torch.testing.assert_close(even, torch.full_like(even, exact), rtol=2e-3, atol=0)


def test_balanced_schedule_of_equal_distributions_cuts_the_angle_evenly() -> None:
    same = Moments(torch.zeros(3).double(), torch.eye(3).double())
    angles = torch.arange(5, dtype=torch.float64) * math.pi / 8
    torch.testing.assert_close(balanced_schedule(4, same, same), angles.cos(), atol=1e-3, rtol=0)


def test_balanced_schedule_is_finite_for_samples_in_a_subspace() -> None:
    flat = Moments(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 0.0])).double())
    unit = Moments(torch.zeros(2).double(), torch.eye(2).double())
    assert torch.equal(
        check_coefficients(balanced_schedule(5, flat, unit), 5), balanced_schedule(5, flat, unit)
    )


@pytest.mark.parametrize(
    "wrong", [[1.0, 0.5], [0.9, 0.0], [1.0, 1.0, 0.0], [1.0, 0.2, 0.4, 0.0], [0.0]]
)
def test_coefficients_that_do_not_fall_from_one_to_zero_are_refused(wrong) -> None:
    stages = max(1, len(wrong) - 1)
    with pytest.raises(ValueError, match=f"stages \\+ 1 = {stages + 1} numbers that start at 1"):
        check_coefficients(torch.tensor(wrong), stages)


def test_refuses_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="stages must be at least 1, got 0"):
        linear_schedule(0)
    with pytest.raises(ValueError, match="stages must be at most 10"):
        ldebm_schedule(11)
    with pytest.raises(ValueError, match="exponent must be positive"):
        power_schedule(3, 0.0)


def test_refuses_sets_of_two_shapes() -> None:
    with pytest.raises(ValueError, match="z0 and eps must have one shape"):
        waymarks(torch.zeros(4, 2), torch.zeros(4, 3), linear_schedule(2))


def test_refuses_unknown_schedules(wrong_types) -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; there are: balanced, ldebm"):
        named_schedule("cosine", 3)
