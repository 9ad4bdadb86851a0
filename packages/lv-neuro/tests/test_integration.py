"""Path integration: exact on a rotation, large turns, modes, noise, what is refused."""

import math

import pytest
import torch

from lv_core import stream
from lv_neuro import HeadDirectionModel, random_walks
from lv_neuro.angles import angular_distance, grid
from lv_neuro.integration import apply_turn, integrate

DOUBLE = torch.float64
BINS, LARGEST = 60, 3
STEP = 2 * math.pi / BINS


def rotation(*, seeds=1, frequencies=(1, 2, 3, 4), amplitudes=(0.7, 0.5, 0.4, 0.3)):
    """A model whose codes are harmonics and whose group turns them exactly."""
    model = HeadDirectionModel(
        "linear_group",
        neurons=2 * len(frequencies),
        bins=BINS,
        max_step=LARGEST,
        seeds=seeds,
        non_negative=False,
        anti_collapse="none",
    ).double()
    x = grid(BINS, like=model.code.table)
    with torch.no_grad():
        model.transformation.upper.zero_()
        for i, (m, a) in enumerate(zip(frequencies, amplitudes, strict=True)):
            model.code.table[..., 2 * i] = a * (m * x).cos()
            model.code.table[..., 2 * i + 1] = a * (m * x).sin()
            model.transformation.upper[:, 2 * i + 1, 2 * i] = m
        model.code.project()
    return model


def walks(count=10, steps=30, max_step=LARGEST):
    return random_walks(count, steps, bins=BINS, max_step=max_step, generator=stream(0, "walks"))


# Without noise


def test_an_exact_rotation_is_followed_exactly():
    model = rotation(seeds=2)
    start, turns, truth = (part.double() for part in walks(steps=200))
    found = model.integrate(start, turns)
    assert found.heading.shape == (2, 10, 200)
    assert found.state.shape == (2, 10, 8)
    # on the grid a code is read without error but for the rounding of turns in float32
    assert angular_distance(found.heading, truth).max() < 1e-4
    torch.testing.assert_close(found.state, model.encode(truth[:, -1]), atol=1e-4, rtol=0)
    late = angular_distance(found.heading[..., :-1], truth[:, 1:])
    assert late.max() > STEP  # headings before the turn are other ones
    assert not found.heading.requires_grad
    assert not found.state.requires_grad


def test_a_wrong_generator_drifts():
    model = rotation()
    start, turns = walks().start, walks().turns.abs() + STEP
    truth = start[:, None] + turns.cumsum(1)
    assert angular_distance(model.integrate(start, turns).heading, truth).max() < 0.02
    with torch.no_grad():
        model.transformation.upper.mul_(0.95)
    error = angular_distance(model.integrate(start, turns).heading, truth)[0].mean(0)
    assert error[-1] > 5 * error[1]


def test_integration_is_step_by_step():
    model = rotation()
    start, turns, _ = walks()
    found = model.integrate(start, turns)
    v = model.encode(start)
    for t in range(turns.shape[1]):
        v = model.step(v, turns[:, t])
        torch.testing.assert_close(model.decode(v), found.heading[..., t])
    torch.testing.assert_close(v, found.state)


@pytest.mark.parametrize("variant", ["fc_table", "conv", "fc_taylor", "additive"])
def test_large_turns_are_split_into_equal_small_ones(variant):
    options = {"kernel_width": 13} if variant == "conv" else {}
    model = HeadDirectionModel(
        variant, neurons=24, bins=24, max_step=2, seeds=2, **options
    ).double()
    with torch.no_grad():
        for p in model.transformation.parameters():
            p.add_(0.2 * torch.rand(p.shape, generator=torch.Generator().manual_seed(4)))
    h = 2 * math.pi / 24
    start = torch.tensor([0.3, 1.0, 2.0], dtype=DOUBLE)
    # 5.4 steps are three turns of 1.8 steps; 2 is just allowed, -3 is two of -1.5
    turns = torch.tensor([[5.4], [2.0], [-3.0]], dtype=DOUBLE) * h
    found = model.integrate(start, turns).state
    for walk, (parts, size) in enumerate([(3, 1.8), (1, 2.0), (2, -1.5)]):
        alone = model.integrate(
            start[walk : walk + 1], torch.full((1, parts), size * h, dtype=DOUBLE)
        )
        torch.testing.assert_close(found[:, walk], alone.state[:, 0])
        if parts > 1:  # other parts give something else
            uneven = torch.tensor([[2.0] * (parts - 1)], dtype=DOUBLE) * size / abs(size)
            rest = abs(size) * parts - 2.0 * (parts - 1)
            last = torch.tensor([[rest]], dtype=DOUBLE) * size / abs(size)
            other = model.integrate(start[walk : walk + 1], torch.cat([uneven, last], 1) * h)
            assert (other.state[:, 0] - found[:, walk]).abs().max() > 1e-6


def test_the_largest_turn_in_float32_is_not_split():
    taken = []

    def stepper(v, dx):
        taken.append(dx)
        return v

    v = torch.zeros(1, 2, 3)
    for bins in range(8, 400):
        for largest in (1, 2, 3):
            h = 2 * math.pi / bins
            dx = torch.tensor([largest * h, -largest * h]) * torch.tensor(1 + 1e-7)
            taken.clear()
            apply_turn(stepper, v, dx, largest=largest * h)
            assert len(taken) == 1
    apply_turn(stepper, v, torch.tensor([1.001 * largest * h, 0.0]), largest=largest * h)
    assert len(taken) == 3


def test_half_and_whole_turns_come_out_right():
    model = rotation()
    turns = torch.tensor([[math.pi], [2 * math.pi], [-math.pi / 2]])
    found = model.integrate(torch.full((3,), 1.0), turns).heading[0, :, 0]
    wanted = torch.tensor([1.0 + math.pi, 1.0, 1.0 - math.pi / 2], dtype=DOUBLE)
    assert angular_distance(found, wanted).max() < 0.02
    assert angular_distance(found, wanted.flip(0)).max() > 1


def test_walks_do_not_mix():
    model = rotation()
    start, turns, _ = walks()
    turns = 3 * turns  # some are split, some are not
    both = model.integrate(start, turns)
    for walk in (0, 7):
        one = model.integrate(start[walk : walk + 1], turns[walk : walk + 1])
        torch.testing.assert_close(one.heading[:, 0], both.heading[:, walk])


# Modes


def test_reencoding_goes_on_from_the_decoded_heading():
    model = rotation(seeds=2)
    with torch.no_grad():  # seeds that err differently
        model.transformation.upper[0].mul_(1.3)
    start, turns, _ = walks(steps=6)
    start = start + 0.02
    found = model.integrate(start, turns, mode="reencode")
    x = start.expand(2, -1).double()
    for t in range(6):
        v = model.step(model.code.look_up(x), turns[:, t])
        x = model.decode(v)
        torch.testing.assert_close(found.heading[..., t], x)
    torch.testing.assert_close(found.state, v)
    vanilla = model.integrate(start, turns)
    assert (vanilla.heading - found.heading).abs().max() > 3e-4
    torch.testing.assert_close(vanilla.heading[..., 0], found.heading[..., 0])


def test_reencoding_removes_noise_off_the_ring():
    model = rotation()
    start, turns, _ = walks(count=50, steps=50)
    sizes = {}
    for mode in ("vanilla", "reencode"):
        found = model.integrate(start, turns, noise=0.2, mode=mode, generator=stream(0, "noise"))
        book = model.codes[0]
        v = found.state[0] / found.state[0].norm(dim=-1, keepdim=True)
        sizes[mode] = 1 - (v @ book.mT).amax(1).mean()
    assert sizes["reencode"] < 0.2 * sizes["vanilla"]


# Noise


def test_noise_has_the_expected_norm():
    model = rotation()
    start, turns, _ = walks(count=2000, steps=1)
    quiet = model.integrate(start, turns).state
    for level in (0.05, 0.4):
        noisy = model.integrate(start, turns, noise=level, generator=stream(0, "noise")).state
        added = (noisy - quiet)[0]
        # 16000 normal numbers: the standard error of the mean square is below 1.2 %
        assert abs(float(added.square().sum(-1).mean()) / level**2 - 1) < 0.06
        assert added.mean(0).abs().max() < 5 * level / math.sqrt(8 * 2000)


def test_noise_adds_up_over_turns():
    model = rotation()
    start, turns, _ = walks(count=2000, steps=9)
    quiet = model.integrate(start, turns).state
    noisy = model.integrate(start, turns, noise=0.1, generator=stream(0, "noise")).state
    # rotations keep the norm, so nine independent vectors add up
    assert abs(float((noisy - quiet).square().sum(-1).mean()) / (9 * 0.01) - 1) < 0.06


def test_noise_does_not_depend_on_what_a_seed_is_stacked_with():
    start, turns, _ = walks()
    one, two = rotation(), rotation(seeds=2)
    alone = one.integrate(start, turns, noise=0.1, generator=stream(0, "noise")).heading
    both = two.integrate(start, turns, noise=0.1, generator=stream(0, "noise")).heading
    for seed in range(2):
        torch.testing.assert_close(both[seed], alone[0])


def test_noise_comes_from_the_generator_alone():
    model = rotation()
    start, turns, _ = walks()

    def noisy(seed):
        return model.integrate(start, turns, noise=0.1, generator=stream(seed, "noise")).heading

    torch.manual_seed(1)
    first = noisy(0)
    torch.manual_seed(2)
    assert torch.equal(first, noisy(0))
    assert not torch.equal(first, noisy(1))
    torch.manual_seed(3)
    free = model.integrate(start, turns, noise=0.1).heading
    torch.manual_seed(3)
    assert torch.equal(free, model.integrate(start, turns, noise=0.1).heading)
    before = torch.get_rng_state()
    model.integrate(start, turns)
    assert torch.equal(before, torch.get_rng_state())  # none is drawn without noise


# What is refused


@pytest.mark.parametrize(
    ("start", "turns"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 3)),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, 0)),
        (torch.zeros(0), torch.zeros(0, 4)),
    ],
)
def test_walks_that_are_none_are_refused(start, turns, wrong_types):
    with pytest.raises(ValueError, match=r"start must have shape \(walks,\) and turns .*got \("):
        rotation().integrate(start, turns)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_angles_are_refused(bad):
    good, wrong = torch.zeros(2), torch.tensor([0.0, bad])
    with pytest.raises(ValueError, match=r"start must be finite, got 1 NaN"):
        rotation().integrate(wrong, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"turns must be finite, got 2 NaN"):
        rotation().integrate(good, wrong[:, None].expand(2, 2))
    with pytest.raises(ValueError, match=r"dx must be finite"):
        rotation().step(rotation().codes, torch.tensor(bad))
    with pytest.raises(ValueError, match=r"x must be finite"):
        rotation().encode(wrong)


def test_degrees_are_warned_of():
    model = rotation()
    with pytest.warns(UserWarning, match=r"start reaches 90: radians .*degrees"):
        model.integrate(torch.tensor([90.0]), torch.tensor([[0.1]]))
    with pytest.warns(UserWarning, match=r"turns reaches 18: .*\[-pi, pi\).*degrees"):
        model.integrate(torch.tensor([1.0]), torch.tensor([[-18.0]]))
    with pytest.warns(UserWarning, match=r"dx reaches 18: .*degrees"):
        model.step(model.codes[:, :1], torch.tensor([18.0]))
    with pytest.warns(UserWarning, match=r"x reaches 180: .*degrees"):
        model.encode(torch.tensor([180.0]))


def test_integers_are_refused(wrong_types):
    with pytest.raises(TypeError, match=r"start must hold floating-point radians"):
        rotation().integrate(torch.zeros(1, dtype=torch.long), torch.zeros(1, 1))
    with pytest.raises(TypeError, match=r"turns must hold floating-point radians"):
        rotation().integrate(torch.zeros(1), torch.ones(1, 1, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"dx must hold floating-point radians"):
        rotation().step(rotation().codes, torch.tensor(1))


def test_unknown_modes_are_refused(wrong_types):
    with pytest.raises(ValueError, match=r"unknown mode 'encode'; there are: vanilla, reencode"):
        rotation().integrate(torch.zeros(1), torch.zeros(1, 1), mode="encode")


@pytest.mark.parametrize("noise", [-0.1, math.nan])
def test_negative_noise_is_refused(noise):
    with pytest.raises(ValueError, match=rf"noise must not be negative, got {noise}"):
        rotation().integrate(torch.zeros(1), torch.zeros(1, 1), noise=noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_models_precision_is_kept(dtype):
    model = rotation().to(dtype)
    for given in (torch.float32, torch.float64):
        found = model.integrate(torch.zeros(1, dtype=given), torch.zeros(1, 2, dtype=given))
        assert found.heading.dtype == found.state.dtype == dtype


def test_any_functions_can_be_integrated():
    """The heading itself is a state of one number."""
    found = integrate(
        lambda v, dx: v + dx[..., None],
        lambda x: x.expand(1, -1)[..., None],
        lambda v: v[..., 0],
        torch.tensor([0.5]),
        torch.tensor([[0.1, 0.2]]),
        largest=1.0,
    )
    torch.testing.assert_close(found.heading, torch.tensor([[[0.6, 0.8]]]))
    torch.testing.assert_close(found.state, torch.tensor([[[0.8]]]))
