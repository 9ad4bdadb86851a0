"""Rotating digits and the digits drawn by strokes."""

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from lv_core import stream
from lv_dynamics.systems import glyph_digits, rotating_digits


@pytest.fixture(scope="module")
def digits():
    return glyph_digits(300, generator=stream(0, "digits"))


def test_turns_by_24_degrees_from_a_random_angle(digits):
    s = rotating_digits(digits.images, digits.labels, 30, generator=stream(0))
    pictures = (digits.images * 255).round().to(torch.uint8).numpy()
    for i in range(5):
        picture = pictures[int(s.factors["index"][i])]
        begin = float(s.factors["start"][i])
        for k in (0, 1, 7, 15):
            turned = rotate(picture, begin + 24 * k, reshape=False, order=3)
            shown = s.values[i, k, 0].numpy() * 255
            # angles beyond 360 degrees differ from those below by rounding only
            assert np.abs(shown - turned).max() <= 1
        backwards = rotate(picture, begin - 24, reshape=False, order=3)
        assert np.abs(s.values[i, 1, 0].numpy() * 255 - backwards).max() > 50
    assert len(s.factors["start"].unique()) > 8
    torch.testing.assert_close(s.values[:, 15], s.values[:, 0])
    assert not torch.equal(s.values[:, 14], s.values[:, 0])


def test_never_shows_the_same_picture_twice_in_a_row(digits):
    s = rotating_digits(digits.images, digits.labels, 40, loops=3, generator=stream(1))
    assert (s.values.diff(dim=1).abs().flatten(2).amax(2) > 0.1).all()


def test_test_sets_make_three_turns(digits):
    s = rotating_digits(digits.images, digits.labels, 4, loops=3, step=0.5, generator=stream(0))
    assert s.values.shape == (4, 45, 1, 28, 28)
    assert torch.equal(s.values[:, :15], s.values[:, 30:])
    assert s.horizon.tolist() == [22.0] * 4
    assert s.mask.numel() == 180  # one flag for a picture, not for a pixel


def test_start_angles_are_uniform(digits):
    s = rotating_digits(
        digits.images[:, ::4, ::4].contiguous(), digits.labels, 3200, generator=stream(0, "a")
    )
    counts = s.factors["start"].div(24).round().long().bincount(minlength=15)
    # of 16 numbers, 0 and 15 are both angle 0: 400 and 200 expected, standard errors 19 and 14
    assert abs(int(counts[0]) - 400) < 95
    assert (counts[1:] - 200).abs().max() < 70


def test_draws_from_the_classes_asked_for(digits):
    s = rotating_digits(digits.images, digits.labels, 60, classes=[3, 8], generator=stream(0))
    assert set(s.factors["label"].tolist()) == {3, 8}
    assert torch.equal(digits.labels[s.factors["index"]], s.factors["label"])


def test_takes_bytes_and_fractions_alike(digits):
    as_bytes = (digits.images * 255).round().to(torch.uint8)
    first, second = (
        rotating_digits(x, digits.labels, 5, frames=4, generator=stream(0), dtype=torch.float64)
        for x in (as_bytes, digits.images)
    )
    assert torch.equal(first.values, second.values)
    assert first.values.dtype == torch.float64
    assert first.values.min() >= 0
    assert first.values.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [3, 12]}, r"classes must be some of \[0, 1, 2"),
        ({"classes": []}, "classes must be some of"),
        ({"frames": 1}, "frames at least 2"),
        ({"n": 0}, "n and step must be positive"),
    ],
)
def test_refuses_what_it_cannot_turn(arguments, message, digits):
    with pytest.raises(ValueError, match=message):
        rotating_digits(digits.images, digits.labels, **arguments)


def test_refuses_pictures_of_another_scale_or_type(digits):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .*divide"):
        rotating_digits(digits.images * 255, digits.labels)
    with pytest.raises(TypeError, match="images must be uint8 or floating-point"):
        rotating_digits((digits.images * 255).int(), digits.labels)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_labels_of_another_number(digits):
    with pytest.raises(ValueError, match="labels must hold one class per picture"):
        rotating_digits(digits.images, digits.labels[:-1])


# ------------------------------------------------------------------ glyphs


def test_glyphs_are_gray_pictures_of_ten_classes(digits):
    assert digits.images.shape == (300, 28, 28)
    assert digits.images.min() >= 0
    assert digits.images.max() <= 1
    assert digits.images.amax((1, 2)).min() > 0.8
    assert set(digits.labels.tolist()) == set(range(10))
    edge = torch.cat([digits.images[:, [0, -1]].flatten(1), digits.images[:, :, 0]], 1)
    assert edge.max() < 0.2  # all ink lies inside
    ink = digits.images.mean((1, 2))
    assert ink.min() > 0.04
    assert ink.max() < 0.35


def test_glyphs_vary_within_a_class_and_can_be_told_apart():
    train = glyph_digits(400, generator=stream(0, "train"))
    test = glyph_digits(100, generator=stream(0, "test"))
    distance = torch.cdist(test.images.flatten(1), train.images.flatten(1))
    guess = train.labels[distance.argmin(1)]
    assert (guess == test.labels).float().mean() > 0.93
    assert (guess == (test.labels + 1) % 10).float().mean() < 0.07  # a control
    assert distance.min() > 0.2  # no two are equal


def test_glyphs_take_labels_sizes_and_seeds():
    labels = torch.tensor([4, 4, 7])
    first, again, other = (
        glyph_digits(3, labels=labels, size=14, generator=stream(k, "x")) for k in (0, 0, 1)
    )
    assert first.labels.tolist() == [4, 4, 7]
    assert first.images.shape == (3, 14, 14)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images[0], first.images[1])
    assert glyph_digits(2).images.shape == (2, 28, 28)


def test_a_one_is_a_line_and_a_zero_has_a_hole():
    images = glyph_digits(40, labels=torch.arange(2).repeat(20), generator=stream(0)).images
    centers = images[:, 12:16, 12:16].mean((1, 2))
    assert centers[0::2].max() < 0.2 < 0.3 < centers[1::2].min()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be positive"),
        ({"n": 1, "size": 7}, "size at least 8"),
        ({"n": 1, "labels": torch.tensor([10])}, "labels must hold 1 digits"),
        ({"n": 2, "labels": torch.tensor([1])}, "labels must hold 2 digits"),
    ],
)
def test_glyphs_refuse_what_they_cannot_draw(arguments, message):
    with pytest.raises(ValueError, match=message):
        glyph_digits(**arguments)
