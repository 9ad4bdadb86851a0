"""Sequences: what they keep, how parts of them are taken, what they refuse."""

import dataclasses
import math

import pytest
import torch

from lv_core import stream
from lv_dynamics.scaling import Scaling
from lv_dynamics.sequences import Sequences

T = torch.arange(6) * 0.5


def values(batch=3, rows=6, *obs):
    obs = obs or (2,)
    count = math.prod((batch, rows, *obs))
    return torch.arange(1.0, count + 1).reshape(batch, rows, *obs)


def irregular():
    """Three sequences of lengths 6, 4, 2, of which the second lacks entries."""
    x = values()
    mask = torch.ones(3, 6, 2, dtype=torch.bool)
    mask[1, 0] = False
    mask[1, 2, 1] = False
    return Sequences(
        T, x, mask, torch.tensor([6, 4, 2]), {"label": torch.tensor([7, 8, 9]), "f": T[:3]}
    )


# ------------------------------------------------------------------ what is kept


def test_shares_one_grid_and_observes_everything_by_default():
    s = Sequences(T, values())
    assert s.times.shape == (3, 6)
    assert torch.equal(s.observed, torch.tensor([12, 12, 12]))
    assert s.obs_shape == (2,)
    assert bool(s.mask.all())
    assert s.mask.shape == (3, 6, 1)


def test_padding_is_masked_zero_and_repeats_the_last_time():
    s = irregular()
    assert torch.equal(s.horizon, torch.tensor([2.5, 1.5, 0.5]))
    assert torch.equal(s.times[2], torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5, 0.5]))
    assert not bool(s.mask[2, 2:].any())
    assert not bool(s.values[2, 2:].any())
    assert torch.equal(s.observed, torch.tensor([12, 5, 4]))


def test_padding_may_hold_anything():
    x, t = values(2), T.repeat(2, 1)
    x[1, 3:], t[1, 3:] = math.nan, -math.inf
    s = Sequences(t, x, lengths=torch.tensor([6, 3]))
    assert bool(torch.isfinite(s.values).all())
    assert torch.equal(s.times[1, 2:], torch.full((4,), 1.0))


def test_masked_values_may_be_nan_and_are_stored_as_zero():
    x = values()
    x[1, 2, 0] = math.nan
    s = Sequences(T, x, mask=~x.isnan())
    assert s.values[1, 2, 0] == 0
    assert s.observed.tolist() == [12, 11, 12]


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 1, 1, 1), (2, 6, 1, 4, 4)])
def test_counts_entries_of_images_whatever_the_shape_of_the_mask(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    mask[1, 3:] = False
    s = Sequences(T, values(2, 6, 1, 4, 4), mask)
    assert s.observed.tolist() == [96, 48]
    assert s.rows.sum(1).tolist() == [6, 3]


def test_rebuilds_from_its_own_fields():
    s = irregular()
    again = dataclasses.replace(s)
    for name in ("times", "values", "mask", "lengths"):
        assert torch.equal(getattr(again, name), getattr(s, name))
    assert "3 x 6 rows of (2,)" in repr(s)


def test_keeps_float64_and_gives_times_the_type_of_values():
    assert Sequences(T, values().double()).times.dtype == torch.float64
    assert Sequences(T.double(), values()).times.dtype == torch.float32


# ------------------------------------------------------------------ lists


def test_pads_a_list_and_shifts_its_clocks():
    items = [(T + 1, values(1)[0]), (T[:2] + 3, values(1, 2)[0], torch.tensor([True, False]))]
    s = Sequences.from_list(items, shift=True, factors={"k": torch.tensor([1, 2])})
    assert s.lengths.tolist() == [6, 2]
    assert torch.equal(s.times[0], T)
    assert s.times[1].tolist() == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert s.observed.tolist() == [12, 2]
    assert s.factors["k"].tolist() == [1, 2]
    kept = Sequences.from_list(items)
    assert kept.times[1, 0] == 3


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one sequence"),
        ([(T, torch.ones(6, 1)), (T[:0], torch.ones(0, 1))], "sequence 1: .*at least one row"),
        ([(T, torch.ones(6, 1)), (T, torch.ones(5, 1))], "sequence 1: "),
        ([(T, torch.ones(6, 1)), (T, torch.ones(6, 2))], r"sequence 1: .*\('T', 1\)"),
        ([(T, torch.ones(6, 1), torch.ones(5, dtype=torch.bool))], "sequence 0: the mask"),
    ],
)
def test_refuses_lists_that_do_not_fit(items, message):
    with pytest.raises(ValueError, match=message):
        Sequences.from_list(items)


# ------------------------------------------------------------------ choosing sequences


def test_takes_some_sequences_with_their_factors():
    s = irregular()
    for index in ([2, 0], torch.tensor([2, 0])):
        part = s[index]
        assert part.lengths.tolist() == [2, 6]
        assert part.factors["label"].tolist() == [9, 7]
    assert s[1:].factors["label"].tolist() == [8, 9]
    assert s[torch.tensor([False, True, False])].factors["label"].tolist() == [8]
    assert s[-1].lengths.tolist() == [2]
    assert [int(part.lengths) for part in s] == [6, 4, 2]
    with pytest.raises(IndexError, match="no sequence 3; there are 3"):
        s[3]


def test_cat_pads_and_undoes_slicing():
    s = irregular()
    joined = Sequences.cat([s[:2], s[2:].crop(2)])
    for name in ("times", "values", "mask", "lengths"):
        assert torch.equal(getattr(joined, name), getattr(s, name)), name
    assert joined.factors["label"].tolist() == [7, 8, 9]


def test_cat_takes_masks_of_different_shapes():
    wide = Sequences(T, values(1), torch.ones(1, 6, 2, dtype=torch.bool))
    joined = Sequences.cat([Sequences(T, values(1)), wide])
    assert joined.observed.tolist() == [12, 12]


def test_cat_refuses_parts_that_do_not_fit():
    s = irregular()
    with pytest.raises(ValueError, match="at least one batch"):
        Sequences.cat([])
    with pytest.raises(ValueError, match="at index 1"):
        Sequences.cat([s, Sequences(T, values())])


# ------------------------------------------------------------------ choosing rows


def test_prefix_keeps_times_and_masks_what_follows():
    s = irregular().prefix(3)
    assert s.times.shape == (3, 6)
    assert torch.equal(s.horizon, irregular().horizon)
    assert s.observed.tolist() == [6, 3, 4]
    assert not bool(s.values[:, 3:].any())


def test_prefix_takes_a_number_for_each_sequence():
    assert irregular().prefix(torch.tensor([1, 4, 2])).observed.tolist() == [2, 5, 4]


def test_prefix_of_observed_rows_skips_gaps():
    s = irregular()
    assert s.prefix(1, of="observed").observed.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="sequence 1: has no observed entry in its first rows"):
        s.prefix(1)
    with pytest.raises(ValueError, match="count must be at least 1"):
        s.prefix(0)


def test_crop_drops_rows():
    s = irregular().crop(3)
    assert s.times.shape == (3, 3)
    assert s.lengths.tolist() == [3, 3, 2]
    assert s.horizon.tolist() == [1.0, 1.0, 0.5]
    with pytest.raises(ValueError, match="sequence 1"):
        irregular().crop(1)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        irregular().crop(0)


def test_window_shifts_the_clock_unless_told():
    s = irregular()[:2]
    part = s.window(torch.tensor([3, 1]), 3)
    assert part.times.tolist() == [[0.0, 0.5, 1.0]] * 2
    assert torch.equal(part.values[0], s.values[0, 3:])
    assert torch.equal(part.mask[1], s.mask[1, 1:4])
    assert part.lengths.tolist() == [3, 3]
    kept = s.window(torch.tensor([3, 1]), 3, shift=False)
    assert kept.times.tolist() == [[1.5, 2.0, 2.5], [0.5, 1.0, 1.5]]


def test_window_refuses_to_leave_a_sequence():
    s = irregular()
    with pytest.raises(ValueError, match=r"sequence 1 \(and 1 more\): has no 3 rows"):
        s.window(torch.tensor([3, 2, 1]), 3)
    with pytest.raises(ValueError, match="count must be at least 1"):
        s.window(torch.tensor([0, 0, 0]), 0)
    with pytest.raises(ValueError, match="sequence 1: has no observed entry in its window"):
        s.window(torch.tensor([0, 0, 0]), 1)


def test_thin_keeps_a_random_subset_of_observed_rows(generator):
    s = irregular()
    thin = s.thin(0.5, generator=generator)
    assert thin.rows.sum(1).tolist() == [3, 2, 1]  # of 6, 3, 2 with rounding half to even
    assert not bool((thin.rows & ~s.rows).any())
    assert torch.equal(thin.times, s.times)
    assert s.thin(count=2, generator=generator).rows.sum(1).tolist() == [2, 2, 2]
    assert s.thin(0.01).rows.sum(1).tolist() == [1, 1, 1]
    assert torch.equal(s.thin(1.0).mask, s.mask)


def test_thin_is_a_function_of_its_generator_and_uniform():
    s = Sequences(torch.arange(5.0), torch.ones(4000, 5, 1))
    first, again = (s.thin(count=2, generator=stream(0, "thin")).rows for _ in range(2))
    other = s.thin(count=2, generator=stream(1, "thin")).rows
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # each row stays in 2 of 5 cases: standard error sqrt(0.24 / 4000) = 0.0077, five of them
    assert (first.float().mean(0) - 0.4).abs().max() < 0.039


@pytest.mark.parametrize("arguments", [{}, {"share": 0.5, "count": 2}])
def test_thin_wants_share_or_count(arguments):
    with pytest.raises(ValueError, match="give either share or count"):
        irregular().thin(**arguments)


@pytest.mark.parametrize("arguments", [{"share": 0.0}, {"share": 1.1}, {"count": 0}])
def test_thin_refuses_what_is_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
        irregular().thin(**arguments)


def test_only_keeps_given_rows_where_they_were_observed():
    data = Sequences(torch.arange(4.0), torch.ones(2, 4, 1)).prefix(3)
    keep = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert data.only(keep).rows.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
    ]
    assert torch.equal(data.only(keep).times, data.times)
    with pytest.raises(ValueError, match=r"sequence 1.*no observed entry"):
        data.only(torch.tensor([[True] * 4, [False, False, False, True]]))
    with pytest.raises(ValueError, match=r"\(2, 4\), got \(2, 3\)"):
        data.only(keep[:, :3])


def test_compact_drops_unobserved_rows_and_keeps_times():
    s = irregular().compact()
    assert s.lengths.tolist() == [6, 3, 2]
    assert s.times[1].tolist() == [0.5, 1.0, 1.5, 1.5, 1.5, 1.5]
    assert torch.equal(s.observed, irregular().observed)
    sparse = Sequences(T, values()).thin(count=2).compact()
    assert sparse.times.shape == (3, 2)


# ------------------------------------------------------------------ scaling and moving


def test_standard_scaling_uses_observed_entries_only():
    x = torch.randn(50, 6, 2, generator=stream(0, "scale"), dtype=torch.float64) * 3 + 5
    mask = torch.rand(50, 6, 2, generator=stream(1, "scale")) < 0.7
    mask[:, 0] = True
    s = Sequences(T.double(), torch.where(mask, x, 1e6), mask)
    scaling = s.scaling()
    for k in range(2):
        seen = x[..., k][mask[..., k]]
        torch.testing.assert_close(scaling.offset[k], seen.mean())
        torch.testing.assert_close(scaling.scale[k], seen.std(correction=0))
    scaled = s.scaled(scaling)
    assert not bool(scaled.values[~mask].any())
    torch.testing.assert_close(scaling.invert(scaled.values)[mask], x[mask])
    wrong = x.mean((0, 1))  # of all entries
    assert (scaling.offset - wrong).abs().max() > 0.01


def test_standardized_divides_by_the_deviation():
    s = Sequences(T, values()).standardized(torch.tensor([1.0, 2.0]), torch.tensor(2.0))
    torch.testing.assert_close(s.values[0, 0], torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(s.values[0, 1], torch.tensor([1.0, 1.0]))


def test_by_maximum_is_not_by_range():
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 2.0])
    x = torch.tensor([[3.0, 2.0], [-1.0, -2.0]])
    torch.testing.assert_close(
        Scaling.by_maximum(low, high).apply(x), torch.tensor([[4 / 3, 2.0], [0.0, 0.0]])
    )
    torch.testing.assert_close(
        Scaling.by_range(low, high).apply(x), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    )
    scaling = Scaling.by_maximum(low, torch.tensor([3.0, -2.0]))
    assert scaling.invert_deviation(torch.ones(2)).tolist() == [3.0, 2.0]


def test_scaling_refuses_constant_and_unseen_channels():
    x = values()
    x[..., 1] = 0.1
    with pytest.raises(ValueError, match=r"channel \(1,\) is constant"):
        Sequences(T, x).scaling()
    mask = torch.ones(3, 6, 2, dtype=torch.bool)
    mask[..., 0] = False
    with pytest.raises(ValueError, match=r"channel \(0,\) is never observed"):
        Sequences(T, x, mask).scaling()
    with pytest.raises(ValueError, match="scale must not be zero"):
        Scaling(offset=torch.zeros(1), scale=torch.zeros(1))
    with pytest.raises(ValueError, match="offset must be finite"):
        Scaling(offset=torch.tensor([math.nan]), scale=torch.ones(1))


def test_moves_and_casts(device):
    s = irregular().to(device).to(torch.float64)
    assert s.values.dtype == s.times.dtype == s.factors["f"].dtype == torch.float64
    assert s.factors["label"].dtype == torch.int64
    assert s.mask.dtype == torch.bool
    assert s.mask.device.type == device.type
    assert (
        s.thin(0.5, generator=stream(0, "cpu"))[torch.tensor([0])].values.device
        == s[0].mask.device
    )


def test_refuses_to_cast_times_until_they_are_equal():
    s = Sequences(
        torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64), torch.ones(1, 2, 1).double()
    )
    with pytest.raises(ValueError, match=r"sequence 0: .*duplicate"):
        s.to(torch.float32)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0.0, 2.0, 1.0], "sequence 1: times must rise strictly, got unsorted ones: 2 in row 1"),
        ([0.0, 1.0, 1.0], "sequence 1: .*duplicate ones: 1 in row 1 and 1 in row 2"),
        ([-1.0, 0.0, 1.0], "sequence 1: times must not be negative"),
        ([0.0, math.nan, 1.0], "sequence 1: times must be finite"),
        ([0.0, 1.0, math.inf], "sequence 1: times must be finite"),
    ],
)
def test_names_the_sequence_with_bad_times(bad, message):
    good = [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=message):
        Sequences(torch.tensor([good, bad, good]), values(3, 3))


def test_names_the_sequence_with_a_bad_value_or_none():
    x = values()
    x[2, 4, 1] = math.nan
    with pytest.raises(ValueError, match="sequence 2: an observed value is NaN or inf, in row 4"):
        Sequences(T, x)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1:] = False
    with pytest.raises(ValueError, match=r"sequence 1 \(and 1 more\): it has no observed entry"):
        Sequences(T, values(), mask)


@pytest.mark.parametrize("length", [0, 7, -1])
def test_names_the_sequence_with_a_bad_length(length):
    with pytest.raises(ValueError, match=r"sequence 1: its length must be in 1\.\.6"):
        Sequences(T, values(), lengths=torch.tensor([6, length, 6]))


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((T, values().long()), TypeError, "values must hold floating-point numbers"),
        ((T.cfloat(), values()), TypeError, "times must hold floating-point numbers"),
        ((T, values()[..., 0]), ValueError, r"values\[..., None\]"),
        ((T[:0], values()[:, :0]), ValueError, "none empty"),
        ((T[:5], values()), ValueError, r"times must have shape \(3, 6\) or \(6,\)"),
        ((T, values(), torch.ones(3, 6)), TypeError, "mask must be boolean"),
        ((T, values(), torch.ones(3, 5).bool()), ValueError, "mask must have the shape"),
        ((T, values(), torch.ones(3, 6, 3).bool()), ValueError, "mask must have the shape"),
        ((T, values(), torch.ones(3, 6, 1, 1).bool()), ValueError, "mask must have the shape"),
        ((T, values(), None, torch.ones(3)), TypeError, "lengths must hold integers"),
        ((T, values(), None, torch.ones(2).long()), ValueError, "one number per sequence"),
        ((T, values(), None, None, {"a": torch.ones(2)}), ValueError, r"factors\['a'\]"),
    ],
)
def test_refuses_wrong_types_and_shapes(arguments, error, message):
    with pytest.raises(error, match=message):
        Sequences(*arguments)


def test_refuses_tensors_on_different_devices():
    with pytest.raises(ValueError, match="times must be on the device of values, meta"):
        Sequences(T, values().to("meta"))
