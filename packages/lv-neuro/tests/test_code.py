"""The code book: its constraints, interpolation on the circle, decoding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lv_neuro.angles import angular_distance, grid
from lv_neuro.code import RingCode
from lv_neuro.losses import kernel_target
from lv_neuro.readout import LearnedReadout

DOUBLE = torch.float64
TURN = 2 * math.pi


def bumps(bins=40, neurons=30, sigma=0.65, winding=1):
    """Gaussian tuning of the width that training finds; more windings make it ambiguous."""
    code = RingCode(bins=bins, neurons=neurons).double()
    x = grid(bins, like=code.table) * winding
    with torch.no_grad():
        far = angular_distance(x[:, None], grid(neurons, like=x)[None])
        code.table[0] = torch.exp(-far.square() / sigma**2)
        code.project()
    return code


# Initial values and constraints


def test_rows_are_unit_vectors_without_negative_entries():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1))
    assert code.table.shape == (2, 12, 7)
    torch.testing.assert_close(code.table.norm(dim=-1), torch.ones(2, 12))
    assert code.table.min() >= 0
    # uniform, not a clamped normal, of which half would be zero and stay there
    assert (code.table == 0).float().mean() < 0.05


def test_a_seed_has_the_same_code_alone_and_stacked():
    stacked = RingCode(bins=12, neurons=7, seeds=(5, 3, 5))
    alone = RingCode(bins=12, neurons=7, seeds=(3,))
    torch.testing.assert_close(stacked.table[1:2], alone.table, atol=0, rtol=0)
    torch.testing.assert_close(stacked.table[0], stacked.table[2], atol=0, rtol=0)
    assert (stacked.table[0] - stacked.table[1]).abs().max() > 0.1


def test_projection_restores_both_constraints(generator):
    code = RingCode(bins=12, neurons=7)
    with torch.no_grad():
        code.table.copy_(torch.randn(1, 12, 7, generator=generator))
    wanted = code.table.detach().clamp(min=0)
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    code.project()
    torch.testing.assert_close(code.table.detach(), wanted)
    assert (code.table == 0).any()
    again = code.table.detach().clone()
    code.project()
    torch.testing.assert_close(code.table.detach(), again)


def test_without_the_constraint_rates_may_be_negative(generator):
    code = RingCode(bins=12, neurons=7, non_negative=False)
    assert code.table.min() < -0.1
    with torch.no_grad():
        code.table.copy_(torch.randn(1, 12, 7, generator=generator))
    signs = code.table.detach().sign()
    code.project()
    torch.testing.assert_close(code.table.detach().sign(), signs)
    torch.testing.assert_close(code.table.norm(dim=-1), torch.ones(1, 12))


# Encoding


def test_headings_on_the_grid_have_the_rows_as_codes():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1)).double()
    v = code.encode(grid(12, like=code.table))
    torch.testing.assert_close(v, code.table)
    assert (v - code.table.roll(1, 1)).abs().max() > 0.1


def test_codes_between_two_rows_are_their_normalized_mixture():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1)).double()
    x = torch.tensor([3.25, 11.75], dtype=DOUBLE) * (TURN / 12)
    v = code.encode(x)
    for i, (low, high, share) in enumerate(((3, 4, 0.25), (11, 0, 0.75))):
        mixed = (1 - share) * code.table[:, low] + share * code.table[:, high]
        torch.testing.assert_close(v[:, i], mixed / mixed.norm(dim=-1, keepdim=True))
        swapped = share * code.table[:, low] + (1 - share) * code.table[:, high]
        assert (v[:, i] - swapped).abs().max() > 0.02
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(2, 2, dtype=DOUBLE))


@given(x=st.floats(-20, 20), bins=st.sampled_from([8, 12, 30]))
def test_codes_are_continuous_and_the_same_after_a_whole_turn(x, bins):
    code = RingCode(bins=bins, neurons=7).double()
    x = torch.tensor([x, x + TURN, x - 3 * TURN, x + 1e-6], dtype=DOUBLE)
    v = code.encode(x)[0]
    # neighbouring rows differ by at most sqrt(2), a bin is at least 0.2 rad
    assert (v - v[:1]).norm(dim=-1).max() < 1e-4
    assert torch.isfinite(v).all()


def test_codes_are_continuous_across_a_whole_turn_in_float32():
    code = RingCode(bins=100, neurons=50)
    ends = torch.tensor([TURN, 0.0])
    below = torch.nextafter(ends, torch.full((2,), -1.0))
    v = code.encode(torch.cat([ends, below, below - TURN]))
    # float32 at 4 pi: 5e-7 rad, times 16 bins per radian and a distance of sqrt(2)
    assert (v - code.table[:, :1]).abs().max() < 2e-5
    assert (code.encode(torch.tensor([TURN / 200])) - code.table[:, :1]).abs().max() > 1e-3


def test_seeds_may_have_headings_of_their_own():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1)).double()
    x = torch.rand(2, 5, 3, dtype=DOUBLE) * TURN
    v = code.look_up(x)
    assert v.shape == (2, 5, 3, 7)
    for seed in range(2):
        torch.testing.assert_close(v[seed], code.encode(x[seed])[seed])
    assert (v[0] - code.encode(x[1])[0]).abs().max() > 0.01


def test_gradients_reach_the_two_rows_between_which_a_heading_lies():
    code = RingCode(bins=8, neurons=5).double()
    weight = torch.rand(5, dtype=DOUBLE)
    x = torch.tensor(2.5 * TURN / 8, dtype=DOUBLE)

    def value(table):
        return torch.func.functional_call(code, {"table": table}, (x,)) @ weight

    code.forward = code.encode  # functional_call calls it
    table = code.table.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, table)
    (grad,) = torch.autograd.grad(value(table).sum(), table)
    assert set(grad[0].abs().sum(1).nonzero().flatten().tolist()) == {2, 3}


# Decoding


@pytest.mark.parametrize(("bins", "share"), [(200, 0.01), (100, 0.01), (40, 0.02), (12, 0.05)])
def test_codes_decode_to_their_headings_finer_than_the_grid(bins, share):
    code = bumps(bins=bins)
    x = torch.linspace(0, TURN, 998, dtype=DOUBLE)
    v = code.encode(x).detach()
    error = angular_distance(code.decode(v)[0], x).detach()
    assert error.max() < share * TURN / bins
    if bins < 60:  # a fixed sharpness reads coarse bins less finely
        fixed = angular_distance(code.decode(v, sharpness=200.0)[0], x).detach()
        assert fixed.max() > 5 * share * TURN / bins
    nearest = angular_distance(code.decode(v, sharpness=1e5)[0], x).detach()
    assert nearest.max() > 0.4 * TURN / bins  # the nearest row alone is worse


def test_ambiguous_codes_do_not_decode():
    x = torch.linspace(0.01, TURN, 200, dtype=DOUBLE)
    twice = bumps(winding=2, sigma=1.3)
    error = angular_distance(twice.decode(twice.encode(x))[0], x)
    assert error.max() > 1.0
    # two headings half a turn apart have one code
    half = twice.encode(x + math.pi)
    torch.testing.assert_close(half, twice.encode(x), atol=1e-9, rtol=0)


def test_decoding_keeps_the_axes_and_lands_in_a_whole_turn():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1))
    for shape in ((), (1,), (4,), (3, 4), (0,)):
        x = torch.rand(shape) * TURN
        v = code.encode(x)
        assert v.shape == (2, *shape, 7)
        found = code.decode(v)
        assert found.shape == (2, *shape)
        assert (found >= 0).all()
        assert (found < TURN).all()


def test_each_seed_decodes_with_its_own_book():
    code = RingCode(bins=12, neurons=40, seeds=(0, 1))
    x = grid(12)
    v = code.encode(x)
    # untrained codes are no ring: their neighbors are no closer than others
    assert angular_distance(code.decode(v, sharpness=200.0), x).max() < 0.02
    assert angular_distance(code.decode(v.flip(0), sharpness=200.0), x).max() > 0.5


def test_the_gram_matrix_holds_all_products():
    code = RingCode(bins=6, neurons=7, seeds=(0, 1))
    for s in range(2):
        for n in range(6):
            for m in range(6):
                product = code.table[s, n].dot(code.table[s, m])
                torch.testing.assert_close(code.gram()[s, n, m], product)


# The read-out that is learned


def test_the_readouts_loss_is_that_of_its_formula():
    code = RingCode(bins=12, neurons=7, seeds=(0, 1)).double()
    readout = LearnedReadout(code, sigma=0.5, weight=2.0, penalty=0.3).double()
    with torch.no_grad():
        readout.vectors.mul_(torch.tensor([1.5, 0.5], dtype=DOUBLE)[:, None, None])
    target = kernel_target("kernel", 12, 0.5)
    for done in (0.0, 0.25, 1.0):
        found = readout.loss(code.table, done=done)
        for s in range(2):
            maps = code.table[s] @ readout.vectors[s].T
            wanted = 2.0 * ((maps - target) ** 2).mean()
            # vectors have norm 1.5 and 0.5
            wanted = wanted + 0.3 * (1 - done) * (1.5, 0.5)[s] ** 2
            torch.testing.assert_close(found[s], wanted)


def test_a_readout_starts_as_the_code_book_and_goes_its_own_way():
    code = bumps()
    readout = LearnedReadout(code).double()
    x = torch.rand(3, 4, dtype=DOUBLE) * TURN
    v = code.encode(x)
    torch.testing.assert_close(readout.decode(v), code.decode(v, sharpness=50.0))
    assert readout.decode(v).shape == (1, 3, 4)
    assert readout.decode(v[:, 0, 0]).shape == (1,)
    with torch.no_grad():
        readout.vectors.copy_(readout.vectors.roll(10, 1))  # a quarter of the grid
    turned = angular_distance(readout.decode(v), x + math.pi / 2)
    assert turned.max() < 0.1
    assert angular_distance(code.decode(v), x).max() < 0.1


@pytest.mark.parametrize("sigma", [0.2, 0.8])
def test_the_target_of_the_readout_is_as_wide_as_asked(sigma):
    code = RingCode(bins=50, neurons=7)
    target = LearnedReadout(code, sigma=sigma).target
    step = TURN / 50
    assert math.isclose(target[0, 3], math.exp(-((3 * step / sigma) ** 2) / 2), rel_tol=1e-5)
    assert "target" not in LearnedReadout(code).state_dict()
