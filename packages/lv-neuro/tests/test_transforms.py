"""Transformations: what all of them share, and what each of them is."""

import math

import pytest
import torch

from lv_neuro.transforms import (
    AdditiveRecurrence,
    ConvRecurrence,
    LinearGroup,
    LinearPoly,
    TableRecurrence,
    TaylorRecurrence,
    Transformation,
)
from lv_neuro.transforms.base import normalize

DOUBLE = torch.float64
BINS, LARGEST, STEP = 14, 2, 2 * math.pi / 14


def two_rings(**options):
    return ConvRecurrence(channels=2, **{"kernel_width": 5, **options})


def one_ring(**options):
    return ConvRecurrence(**{"kernel_width": 9, **options})


FAMILY = {
    "table": TableRecurrence,
    "taylor": TaylorRecurrence,
    "additive": AdditiveRecurrence,
    "conv": one_ring,
    "two rings": two_rings,
    "group": LinearGroup,
    "poly": LinearPoly,
}
CONTINUOUS = {"taylor", "group", "poly"}
members = pytest.mark.parametrize("name", FAMILY)


def make(name, *, seeds=(0, 1), neurons=12, **options) -> Transformation:
    """A member in float64 whose weights are large enough to see."""
    f = FAMILY[name](neurons=neurons, bins=BINS, max_step=LARGEST, seeds=seeds, **options).double()
    with torch.no_grad():
        for n, (which, p) in enumerate(f.named_parameters()):
            fresh = [
                torch.randn(p.shape[1:], generator=torch.Generator().manual_seed(10 * n + seed))
                for seed in seeds
            ]
            p.copy_(0.4 * torch.stack(fresh))
            if which == "bias":
                p.abs_().add_(1)  # no code shall be silenced altogether
    return f


def codes(seeds=2, count=5, neurons=12):
    drawn = torch.rand(
        seeds, count, neurons, generator=torch.Generator().manual_seed(1), dtype=DOUBLE
    )
    return normalize(drawn)


def turn(f, v, k):
    return f(v, torch.full((len(v),), k))


def angles(v, k):
    return torch.full(v.shape[:2], k * STEP, dtype=v.dtype)


# What all share


@members
@pytest.mark.parametrize("renormalize", [True, False])
def test_a_stepper_at_grid_turns_is_the_transformation_itself(name, renormalize):
    f, v = make(name, renormalize=renormalize), codes()
    step = f.stepper()
    for k in range(-LARGEST, LARGEST + 1):
        torch.testing.assert_close(step(v, angles(v, k)), turn(f, v, k), atol=1e-12, rtol=0)
    assert (step(v, angles(v, 1)) - turn(f, v, -1)).abs().max() > 1e-2


@members
@pytest.mark.parametrize("renormalize", [True, False])
def test_all_turns_are_the_single_ones(name, renormalize):
    f, v = make(name, renormalize=renormalize), codes()
    wanted = torch.stack([turn(f, v, k) for k in range(-LARGEST, LARGEST + 1)], dim=1)
    torch.testing.assert_close(f.all_turns(v), wanted, atol=1e-12, rtol=0)
    assert (f.all_turns(v) - wanted.flip(1)).abs().max() > 1e-2


@members
@pytest.mark.parametrize("renormalize", [True, False])
def test_an_unrolled_walk_takes_the_same_turns_with_the_same_gradients(name, renormalize):
    f = make(name, renormalize=renormalize)
    turns = torch.tensor([[2, 0, -1, 2], [-2, 1, 1, 0]])
    ends = []
    for unrolled in (True, False):
        v, seen = codes(), []
        for t, one in enumerate(f.unroll(turns)):
            v = one(v) if unrolled else f(v, turns[:, t])
            seen.append(v)
        assert len(seen) == 4
        loss = sum((1 + t) * (v[..., 0] ** 2).sum() for t, v in enumerate(seen))
        ends.append((torch.stack(seen), *torch.autograd.grad(loss, tuple(f.parameters()))))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)
    other = f.unroll(turns)[1](codes())
    assert (other - ends[0][0][0]).abs().max() > 1e-2


@members
def test_stacked_seeds_are_single_ones(name):
    both, v = make(name, seeds=(3, 8)), codes()
    k = torch.tensor([2, -1])
    dx = torch.rand(2, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)) * STEP
    for i, seed in enumerate((3, 8)):
        one, w = make(name, seeds=(seed,)), v[i : i + 1]
        torch.testing.assert_close(both(v, k)[i : i + 1], one(w, k[i : i + 1]), atol=1e-12, rtol=0)
        torch.testing.assert_close(both.all_turns(v)[i : i + 1], one.all_turns(w))
        torch.testing.assert_close(
            both.stepper()(v, dx)[i : i + 1], one.stepper()(w, dx[i : i + 1])
        )
    # the other seed's weights give something else
    assert (both(v, k)[1:] - one(v[1:], k[:1])).abs().max() > 1e-2


@members
def test_initial_weights_belong_to_the_seed(name):
    stacked = FAMILY[name](neurons=12, bins=BINS, max_step=LARGEST, seeds=(4, 9))
    alone = FAMILY[name](neurons=12, bins=BINS, max_step=LARGEST, seeds=(9,))
    for a, b in zip(stacked.parameters(), alone.parameters(), strict=True):
        assert len(a) == 2
        torch.testing.assert_close(a[1:], b, atol=0, rtol=0)
        assert (a == 0).all() or not torch.equal(a[0], a[1])


@members
def test_gradients_are_those_of_finite_differences(name):
    f, v = make(name, neurons=10), codes(count=2, neurons=10)
    names = [n for n, _ in f.named_parameters()]
    start = [p.detach().clone().requires_grad_() for p in f.parameters()]
    k = torch.tensor([1, -2])

    def one(v, *values):
        return torch.func.functional_call(f, dict(zip(names, values, strict=True)), (v, k))

    assert torch.autograd.gradcheck(one, (v.requires_grad_(), *start))

    class All(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = f

        def forward(self, v):
            return self.f.all_turns(v)

    def every(v, *values):
        named = {f"f.{n}": value for n, value in zip(names, values, strict=True)}
        return torch.func.functional_call(All(), named, (v,))

    assert torch.autograd.gradcheck(every, (v, *start))


@members
def test_renormalized_outputs_have_norm_one(name):
    v = 3 * codes()
    free, tied = make(name, renormalize=False), make(name, renormalize=True)
    dx = torch.full((2, 5), 0.3 * STEP, dtype=DOUBLE)
    for f, is_one in ((tied, True), (free, False)):
        for out in (turn(f, v, 1), f.all_turns(v), f.stepper()(v, dx)):
            size = out.norm(dim=-1)
            assert torch.allclose(size, torch.ones_like(size)) == is_one
    # the direction is the same
    torch.testing.assert_close(normalize(turn(free, v, 1)), turn(tied, v, 1))


@members
def test_rectified_ones_give_rates(name):
    f, v = make(name), codes()
    dx = torch.full((2, 5), -0.3 * STEP, dtype=DOUBLE)
    for out in (turn(f, v, 1), f.all_turns(v), f.stepper()(v, dx)):
        assert (out.min() >= 0) == f.rectified


@members
def test_codes_turn_by_angles_of_their_own(name):
    f, v = make(name), codes()
    dx = torch.linspace(-1, 1, 10, dtype=DOUBLE).view(2, 5) * LARGEST * STEP
    step = f.stepper()
    both = step(v, dx)
    for i in range(5):
        torch.testing.assert_close(both[:, i : i + 1], step(v[:, i : i + 1], dx[:, i : i + 1]))


@members
def test_between_grid_steps_outputs_are_interpolated_or_exact(name):
    f, v = make(name, renormalize=False), codes()
    found = f.stepper()(v, angles(v, 0.25))
    mixed = 0.75 * turn(f, v, 0) + 0.25 * turn(f, v, 1)
    if name in CONTINUOUS:
        assert (found - mixed).abs().max() > 1e-4
    else:
        torch.testing.assert_close(found, mixed)
        assert (found - turn(f, v, 0)).abs().max() > 1e-2


@members
def test_renormalized_interpolations_have_norm_one(name):
    f, v = make(name, renormalize=True), codes()
    found = f.stepper()(v, angles(v, -1.4))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 5, dtype=DOUBLE))


@members
@pytest.mark.parametrize("max_step", [0, 7])
def test_refuses_turns_past_half_the_circle(name, max_step):
    with pytest.raises(ValueError, match=rf"max_step must lie between 1 and 6 .*, got {max_step}"):
        FAMILY[name](neurons=12, bins=BINS, max_step=max_step)


@members
def test_keeps_the_precision(name):
    f = FAMILY[name](neurons=12, bins=BINS, max_step=LARGEST)
    v = codes(seeds=1).float()
    for out in (turn(f, v, 1), f.all_turns(v), f.stepper()(v, angles(v, 1))):
        assert out.dtype == torch.float32
    f, v = f.double(), v.double()
    # turns may come in another precision than codes
    for out in (turn(f, v, 1), f.all_turns(v), f.stepper()(v, angles(v, 1).float())):
        assert out.dtype == DOUBLE


# The linear group


def rotations(frequencies, neurons=8):
    """A group whose generator turns planes (0, 1), (2, 3), ... with these frequencies."""
    f = LinearGroup(neurons=neurons, bins=BINS, max_step=LARGEST).double()
    with torch.no_grad():
        f.upper.zero_()
        for i, m in enumerate(frequencies):
            f.upper[0, 2 * i + 1, 2 * i] = m
    return f


def test_turns_of_the_group_add_up():
    f, v = make("group"), codes()
    step = f.stepper()
    a, b = angles(v, 0.7), angles(v, -1.6)
    torch.testing.assert_close(step(step(v, a), b), step(v, a + b), atol=1e-12, rtol=0)
    torch.testing.assert_close(step(v, 0 * a), v, atol=1e-12, rtol=0)
    torch.testing.assert_close(step(v, a).norm(dim=-1), v.norm(dim=-1))
    # the second-order series does not
    poly = make("poly").stepper()
    assert (poly(poly(v, a), b) - poly(v, a + b)).abs().max() > 1e-2


def test_the_generator_is_skew_and_the_turn_its_exponential():
    f, v = make("group"), codes()
    torch.testing.assert_close(f.generator, -f.generator.mT)
    wanted = v @ torch.linalg.matrix_exp(0.9 * f.generator).mT
    torch.testing.assert_close(f.stepper()(v, torch.full((2, 5), 0.9, dtype=DOUBLE)), wanted)
    assert (v @ torch.linalg.matrix_exp(0.9 * f.generator) - wanted).abs().max() > 1e-2


def test_the_spectrum_makes_up_the_generator():
    f = make("group")
    frequencies, modes = f.spectrum()
    assert frequencies.shape == (2, 12)
    back = modes @ torch.diag_embed(1j * frequencies).to(modes.dtype) @ modes.mH
    torch.testing.assert_close(back.real, f.generator)
    torch.testing.assert_close(back.imag, torch.zeros_like(back.imag), atol=1e-12, rtol=0)
    exponential = modes @ torch.diag_embed(torch.exp(0.4j * frequencies)) @ modes.mH
    torch.testing.assert_close(exponential.real, torch.linalg.matrix_exp(0.4 * f.generator))
    # frequencies come in pairs of both signs
    torch.testing.assert_close(frequencies, -frequencies.flip(-1))


@pytest.mark.parametrize(
    ("frequencies", "closes"), [((1, 2, 3, 3), True), ((1, 2, 3, 2.5), False), ((0.9,), False)]
)
def test_whole_frequencies_alone_close_after_a_whole_turn(frequencies, closes):
    f, v = rotations(frequencies), codes(seeds=1, neurons=8)
    around = f.stepper()(v, torch.full((1, 5), 2 * math.pi, dtype=DOUBLE))
    assert torch.allclose(around, v) == closes
    found = f.spectrum().frequencies.abs()[0]
    wanted = torch.tensor([*frequencies, *[0.0] * (4 - len(frequencies))], dtype=DOUBLE)
    torch.testing.assert_close(found.sort().values, wanted.repeat_interleave(2).sort().values)


def test_a_plane_turns_counter_clockwise():
    f = rotations([1], neurons=2)
    v = torch.tensor([[[1.0, 0.0]]], dtype=DOUBLE)
    out = f.stepper()(v, torch.tensor([[0.3]], dtype=DOUBLE))
    torch.testing.assert_close(
        out[0, 0], torch.tensor([math.cos(0.3), math.sin(0.3)], dtype=DOUBLE)
    )
    torch.testing.assert_close(turn(f, v, 1)[0, 0, 1], torch.tensor(math.sin(STEP), dtype=DOUBLE))


def test_the_series_is_the_exponential_up_to_third_order():
    group, poly = make("group"), make("poly")
    with torch.no_grad():
        poly.generator.copy_(group.generator)
    v = codes()
    errors = []
    for dx in (0.02, 0.01):
        x = torch.full((2, 5), dx, dtype=DOUBLE)
        errors.append(float((poly.stepper()(v, x) - group.stepper()(v, x)).detach().norm()))
    # a third-order remainder falls eightfold when the turn is halved; a second-order one fourfold
    assert 7 < errors[0] / errors[1] < 9


# The recurrent networks


def test_the_table_has_one_matrix_for_each_turn():
    f, v = make("table", renormalize=False), codes()
    with torch.no_grad():
        f.bias.normal_(std=0.2)
    for s in range(2):
        for k in range(-LARGEST, LARGEST + 1):
            weight = f.recurrent[s] + f.turning[s, k + LARGEST]
            wanted = torch.stack([(weight @ x + f.bias[s, 0]).relu() for x in v[s]])
            torch.testing.assert_close(turn(f, v, k)[s], wanted)
            torch.testing.assert_close(f.matrices()[s, k + LARGEST], weight)
            transposed = torch.stack([(weight.T @ x + f.bias[s, 0]).relu() for x in v[s]])
            assert (transposed - wanted).abs().max() > 1e-2


def test_the_taylor_series_is_quadratic_in_the_turn():
    f, v = make("taylor", renormalize=False), codes()
    step = f.stepper()
    for share in (-1.0, -0.3, 0.0, 0.6):
        dx = torch.full((2, 5), share * f.largest_turn, dtype=DOUBLE)
        weight = f.terms[:, 0] + share * f.terms[:, 1] + share**2 * f.terms[:, 2]
        torch.testing.assert_close(step(v, dx), (v @ weight.mT + f.bias).relu())
    matrices = f.matrices()
    assert matrices.shape == (2, 2 * LARGEST + 1, 12, 12)
    for k in range(-LARGEST, LARGEST + 1):
        wanted = turn(f, v, k)
        torch.testing.assert_close((v @ matrices[:, k + LARGEST].mT + f.bias).relu(), wanted)
        assert (
            (v @ matrices[:, LARGEST].mT + f.bias).relu() - wanted
        ).abs().max() > 1e-2 or k == 0


def test_the_additive_drive_changes_no_weight():
    f, v = make("additive", renormalize=False), codes()
    for k in range(-LARGEST, LARGEST + 1):
        inside = v @ f.recurrent.mT + f.drive[:, k + LARGEST, None] + f.bias
        torch.testing.assert_close(turn(f, v, k), inside.relu())
    # where all neurons fire, the difference of two turns is the same for all codes ...
    with torch.no_grad():
        f.bias.fill_(100.0)
    difference = turn(f, v, 1) - turn(f, v, -1)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    # ... and is not in the table
    table = make("table", renormalize=False)
    with torch.no_grad():
        table.bias.fill_(100.0)
    other = turn(table, v, 1) - turn(table, v, -1)
    assert (other - other[:, :1]).abs().max() > 1e-2


# Convolution


def circular(kernel, v, bias):
    """conv1d correlates; a convolution has its kernel flipped."""
    reach = kernel.shape[-1] // 2
    padded = torch.nn.functional.pad(v, (reach, reach), mode="circular")
    return torch.nn.functional.conv1d(padded, kernel.flip(-1), bias)


@pytest.mark.parametrize(
    ("neurons", "channels", "width"),
    [(12, 1, 9), (12, 1, 11), (11, 1, 11), (12, 2, 5), (24, 3, 7)],
)
def test_kernels_lie_where_torch_puts_them(neurons, channels, width):
    f = ConvRecurrence(
        neurons=neurons,
        bins=BINS,
        max_step=1,
        seeds=(0, 1),
        renormalize=False,
        kernel_width=width,
        channels=channels,
    ).double()
    with torch.no_grad():
        for p in f.parameters():
            p.normal_()
        f.bias.add_(3)
    v = codes(neurons=neurons)
    ring = neurons // channels
    for s in range(2):
        for k in (-1, 0, 1):
            kernel = f.recurrent[s] + f.turning[s, k + 1]
            torch.testing.assert_close(f.kernels()[s, k + 1], kernel)
            wanted = circular(kernel, v[s].view(5, channels, ring), f.bias[s])
            found = turn(f, v, k)[s]
            torch.testing.assert_close(found, wanted.flatten(1).relu())
            flipped = circular(kernel.flip(-1), v[s].view(5, channels, ring), f.bias[s])
            assert (found - flipped.flatten(1).relu()).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["conv", "two rings"])
def test_a_convolution_commutes_with_moves_along_the_ring_and_a_table_does_not(name):
    f, v = make(name), codes()
    rings = f.channels

    def roll(w):
        return w.unflatten(-1, (rings, -1)).roll(2, -1).flatten(-2)

    dx = torch.rand(2, 5, dtype=DOUBLE) * STEP
    for out in (lambda w: turn(f, w, 1), f.all_turns, lambda w: f.stepper()(w, dx)):
        torch.testing.assert_close(out(roll(v)), roll(out(v)))
        assert (out(roll(v)) - out(v)).abs().max() > 1e-2
    table = make("table")
    assert (turn(table, roll(v), 1) - roll(turn(table, v, 1))).abs().max() > 1e-2


def test_a_kernel_with_one_weight_moves_the_bump_that_far():
    f = make("conv", seeds=(0,))
    with torch.no_grad():
        for p in f.parameters():
            p.zero_()
        f.turning[0, LARGEST + 1, 0, 0, f.kernel_width // 2 + 3] = 1.0
    v = codes(seeds=1)
    torch.testing.assert_close(turn(f, v, 1), v.roll(3, -1))
    assert (turn(f, v, 1) - v.roll(-3, -1)).abs().max() > 1e-2


def test_weights_beyond_the_kernel_are_zero():
    m = make("conv").matrices()
    far = torch.arange(12)[:, None] - torch.arange(12)
    far = torch.minimum(far.remainder(12), (-far).remainder(12))
    assert (m[..., far > 4] == 0).all()
    assert (m[..., far <= 4] != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_width": 8}, r"kernel_width must be odd .* 12 neurons, got 8"),
        ({"kernel_width": 13}, r"kernel_width must be odd and at most the ring's 12 .* got 13"),
        ({"kernel_width": -1}, r"kernel_width must be odd .*, got -1"),
        ({"kernel_width": 5, "channels": 3}, r"at most the ring's 4 neurons, got 5"),
        ({"kernel_width": 3}, r"kernel_width must exceed 4.42857, got 3.*carries .* 1.71429"),
        ({"channels": 5}, r"channels must divide neurons=12, got 5"),
        ({"channels": 0}, r"channels must divide neurons=12, got 0"),
    ],
)
def test_refuses_kernels_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ConvRecurrence(neurons=12, bins=BINS, max_step=LARGEST, **{"kernel_width": 9, **options})
