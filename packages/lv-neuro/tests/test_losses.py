"""Losses: against naive loops, on codes whose losses are known, with their controls."""

import math

import pytest
import torch

from lv_neuro.losses import (
    isometry_loss,
    kernel_loss,
    kernel_target,
    one_step_loss,
    rollout_loss,
)
from lv_neuro.transforms import ConvRecurrence, LinearGroup, LinearPoly, TableRecurrence
from lv_neuro.transforms.base import normalize

DOUBLE = torch.float64
BINS, LARGEST = 14, 3
STEP = 2 * math.pi / BINS


def circle(*amplitudes, bins=BINS):
    """Codes a_m (cos m x, sin m x) for m = 1, 2, ..., and the group that turns them exactly."""
    x = torch.arange(bins, dtype=DOUBLE) * (2 * math.pi / bins)
    a = torch.tensor(amplitudes, dtype=DOUBLE)
    a = a / a.norm()
    m = torch.arange(1, len(a) + 1)
    table = torch.stack([a * (m * x[:, None]).cos(), a * (m * x[:, None]).sin()], -1).flatten(1)
    group = LinearGroup(neurons=2 * len(a), bins=bins, max_step=LARGEST).double()
    with torch.no_grad():
        group.upper.zero_()
        for i in range(len(a)):
            group.upper[0, 2 * i + 1, 2 * i] = i + 1
    return table[None], group


def random_codes(seeds=2, neurons=12):
    drawn = torch.rand(
        seeds, BINS, neurons, generator=torch.Generator().manual_seed(1), dtype=DOUBLE
    )
    return normalize(drawn)


def networks():
    size = {"neurons": 12, "bins": BINS, "max_step": LARGEST, "seeds": (0, 1)}
    for f in (
        TableRecurrence(**size),
        ConvRecurrence(kernel_width=11, **size),
        LinearPoly(**size),
    ):
        f = f.double()
        with torch.no_grad():
            for p in f.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
        yield f


# The transformation losses


def test_a_roll_out_is_its_naive_loop():
    table = random_codes()
    turns = torch.tensor([[3, 0, -2, 1], [-3, -3, 1, 2]])
    noise = 0.1 * torch.randn(4, 2, BINS, 12, dtype=DOUBLE)
    for f in networks():
        for added in (None, noise):
            found = rollout_loss(table, f, turns, noise=added)
            assert found.shape == (2,)
            for s in range(2):
                total, wrong = 0.0, 0.0
                for n in range(BINS):
                    v, place = table[:, n : n + 1], n
                    for t in range(4):
                        if added is not None:
                            v = v + added[t, :, n : n + 1]
                        v = f(v, turns[:, t])
                        place += int(turns[s, t])
                        total += ((v[s, 0] - table[s, place % BINS]) ** 2).sum()
                        wrong += ((v[s, 0] - table[s, n]) ** 2).sum()
                torch.testing.assert_close(found[s], total / (4 * BINS))
                assert (found[s] - wrong / (4 * BINS)).abs() > 1e-4


def test_one_step_is_its_naive_loop():
    table, noise = random_codes(), 0.1 * torch.randn(2, BINS, 12, dtype=DOUBLE)
    for f in networks():
        for added in (None, noise):
            found = one_step_loss(table, f, noise=added)
            total = torch.zeros(2, dtype=DOUBLE)
            wrong = torch.zeros(2, dtype=DOUBLE)
            for k in range(-LARGEST, LARGEST + 1):
                moved = f(table if added is None else table + added, torch.full((2,), k))
                for n in range(BINS):
                    total += ((moved[:, n] - table[:, (n + k) % BINS]) ** 2).sum(-1)
                    wrong += ((moved[:, n] - table[:, (n - k) % BINS]) ** 2).sum(-1)
            count = BINS * (2 * LARGEST + 1)
            torch.testing.assert_close(found, total / count)
            assert (found - wrong / count).abs().max() > 1e-4


def test_all_roll_outs_of_one_turn_make_up_the_one_step_loss():
    table = random_codes()
    for f in networks():
        each = [
            rollout_loss(table, f, torch.full((2, 1), k)) for k in range(-LARGEST, LARGEST + 1)
        ]
        torch.testing.assert_close(torch.stack(each).mean(0), one_step_loss(table, f))


def test_an_exact_representation_has_no_loss():
    table, group = circle(0.8, 0.5, 0.3)
    turns = torch.tensor([[3, -1, 2, -3, 0, 1]])
    assert rollout_loss(table, group, turns) < 1e-25
    assert one_step_loss(table, group) < 1e-25


def test_turning_the_wrong_way_has_the_loss_of_the_double_angle():
    table, group = circle(1.0)
    with torch.no_grad():
        group.upper.neg_()
    # ||R(-a) v - R(a) v|| = 2 |sin a|
    k = torch.arange(-LARGEST, LARGEST + 1)
    wanted = (4 * (k * STEP).sin() ** 2).mean().to(DOUBLE)
    torch.testing.assert_close(one_step_loss(table, group)[0], wanted)
    walk = torch.tensor([[1, 1]])
    wanted = (4 * math.sin(STEP) ** 2 + 4 * math.sin(2 * STEP) ** 2) / 2
    torch.testing.assert_close(float(rollout_loss(table, group, walk).detach()), wanted)


def test_a_constant_code_that_stays_has_no_loss():
    """Why codes must be kept apart by another term."""
    table = torch.ones(1, BINS, 4, dtype=DOUBLE) / 2
    group = LinearGroup(neurons=4, bins=BINS, max_step=LARGEST).double()
    with torch.no_grad():
        group.upper.zero_()
    assert one_step_loss(table, group) == 0
    assert kernel_loss(table @ table.mT, kernel_target("kernel", BINS, 0.65, like=table)) > 0.3


def test_noise_before_a_turn_that_does_nothing_is_the_loss():
    table = random_codes(seeds=1, neurons=4)
    group = LinearGroup(neurons=4, bins=BINS, max_step=LARGEST).double()
    with torch.no_grad():
        group.upper.zero_()
    noise = torch.randn(2, 1, BINS, 4, dtype=DOUBLE)
    found = rollout_loss(table, group, torch.zeros(1, 2, dtype=torch.long), noise=noise)
    wanted = (noise[0].square().sum(-1) + (noise[0] + noise[1]).square().sum(-1)).mean() / 2
    torch.testing.assert_close(found[0], wanted)


@pytest.mark.parametrize("one_step", [True, False])
def test_losses_have_the_gradients_of_finite_differences(one_step):
    table, group = circle(0.8, 0.5)
    table = (table + 0.1).requires_grad_()
    turns = torch.tensor([[2, -1]])

    def loss(table, upper):
        class Loss(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.group = group

            def forward(self, table):
                if one_step:
                    return one_step_loss(table, self.group)
                return rollout_loss(table, self.group, turns)

        return torch.func.functional_call(Loss(), {"group.upper": upper}, (table,))

    assert torch.autograd.gradcheck(loss, (table, group.upper.detach().requires_grad_()))


def test_seeds_do_not_mix():
    table = random_codes().requires_grad_()
    f = next(networks())
    losses = rollout_loss(table, f, torch.tensor([[1, 2], [-1, 3]])) + one_step_loss(table, f)
    (grad,) = torch.autograd.grad(losses[0], table)
    assert grad[0].abs().max() > 0
    assert (grad[1] == 0).all()


# What keeps codes apart


def distance(n, m):
    d = abs(n - m) % BINS
    return min(d, BINS - d) * STEP


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("kernel", lambda d, s: math.exp(-(d**2) / (2 * s**2))),
        ("von_mises", lambda d, s: math.exp((math.cos(d) - 1) / s**2)),
        ("cosine", lambda d, s: (1 + math.cos(d)) / 2),
    ],
)
def test_targets_are_those_of_their_formulas(kind, value):
    target = kernel_target(kind, BINS, 0.6)
    assert target.dtype == torch.float32
    precise = kernel_target(kind, BINS, 0.6, like=torch.zeros(1, dtype=DOUBLE))
    for n in range(BINS):
        for m in range(BINS):
            wanted = value(distance(n, m), 0.6)
            assert math.isclose(precise[n, m], wanted, rel_tol=1e-12, abs_tol=1e-15)
            assert math.isclose(target[n, m], wanted, abs_tol=1e-6)
    # twice as wide is something else, except for the one that has no width
    wider = kernel_target(kind, BINS, 1.2)
    assert torch.allclose(wider, target) == (kind == "cosine")


@pytest.mark.parametrize("kind", ["kernel", "von_mises", "cosine"])
def test_targets_are_inner_products_of_some_code(kind):
    target = kernel_target(kind, 40, 0.5, like=torch.zeros(1, dtype=DOUBLE))
    # the wrapped Gaussian is positive definite up to its kink at half a turn
    assert torch.linalg.eigvalsh(target).min() > -1e-6
    torch.testing.assert_close(target.diagonal(), torch.ones(40, dtype=DOUBLE))


def test_the_kernel_loss_is_the_mean_over_pairs():
    table = random_codes()
    target = kernel_target("kernel", BINS, 0.6, like=table)
    found = kernel_loss(table @ table.mT, target)
    for s in range(2):
        total = sum(
            (table[s, n].dot(table[s, m]) - target[n, m]) ** 2
            for n in range(BINS)
            for m in range(BINS)
        )
        torch.testing.assert_close(found[s], total / BINS**2)


def test_collapsed_codes_have_the_loss_of_the_closed_form():
    table = torch.zeros(1, BINS, 4, dtype=DOUBLE)
    table[..., 2] = 1
    target = kernel_target("cosine", BINS, 1.0, like=table)
    # the mean of ((1 - cos D) / 2)^2 is (1 + 1/2) / 4
    torch.testing.assert_close(kernel_loss(table @ table.mT, target)[0].item(), 3 / 8)
    gauss = kernel_target("kernel", 2000, 0.3, like=table)
    # mean (1 - g)^2 = 1 - 2 mean g + mean g^2 with mean g = sigma / sqrt(2 pi)
    wanted = 1 - 2 * 0.3 / math.sqrt(2 * math.pi) + 0.3 / (2 * math.sqrt(math.pi))
    assert math.isclose(kernel_loss(torch.ones_like(gauss)[None], gauss), wanted, abs_tol=1e-6)


def test_codes_with_the_wanted_products_have_no_kernel_loss():
    table, _ = circle(1.0)
    # a cosine is what one harmonic and a constant can make
    table = torch.cat([table, torch.ones(1, BINS, 1, dtype=DOUBLE)], -1) / math.sqrt(2)
    gram = table @ table.mT
    assert kernel_loss(gram, kernel_target("cosine", BINS, 1.0, like=table)) < 1e-25
    assert kernel_loss(gram, kernel_target("kernel", BINS, 0.65, like=table)) > 1e-2
    assert kernel_loss(gram, kernel_target("von_mises", BINS, 0.65, like=table)) > 1e-2


# Isometry


def test_codes_at_the_wanted_distances_have_no_isometry_loss():
    n = torch.arange(BINS)
    far = (n[:, None] - n).abs()
    far = torch.minimum(far, BINS - far) * STEP
    # ||V_n - V_m||^2 = 2 - 2 <V_n, V_m> = (s D)^2
    gram = (1 - (0.3 * far) ** 2 / 2).to(DOUBLE)[None]
    assert isometry_loss(gram, scale=0.3, reach=BINS // 2) < 1e-12
    assert isometry_loss(gram, scale=0.4, reach=BINS // 2) > 1e-3


@pytest.mark.parametrize("reach", [1, 4, 7])
def test_a_circle_misses_by_the_difference_of_arc_and_chord(reach):
    table, _ = circle(1.0)
    k = torch.arange(1, reach + 1, dtype=DOUBLE) * STEP
    wanted = ((2 * (k / 2).sin() - 1.0 * k) ** 2).mean()
    torch.testing.assert_close(isometry_loss(table @ table.mT, scale=1.0, reach=reach)[0], wanted)


def test_a_short_reach_cannot_tell_windings_apart():
    n = torch.arange(100, dtype=DOUBLE) * (2 * math.pi / 100)
    losses = []
    for windings in (1, 5):
        table = torch.stack([(windings * n).cos(), (windings * n).sin()], -1)[None]
        losses.append(
            [
                float(isometry_loss(table @ table.mT, scale=float(windings), reach=reach))
                for reach in (1, 50)
            ]
        )
    assert max(losses[0][0], losses[1][0]) < 1e-5
    assert losses[1][1] > 10 * losses[0][1]


def test_collapsed_codes_have_an_isometry_loss_with_finite_gradients():
    table = torch.ones(1, BINS, 4, dtype=DOUBLE) / 2
    table.requires_grad_()
    loss = isometry_loss(table @ table.mT, scale=1.0, reach=2)
    wanted = (1 + 4) / 2 * STEP**2
    torch.testing.assert_close(loss.item(), wanted, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(loss.sum(), table)
    assert torch.isfinite(grad).all()
