"""Dynamics of exact and deliberately wrong rings."""

import math

import pytest
import torch

from lv_core import stream
from lv_neuro.analysis import (
    error_correction,
    generator_frequencies,
    group_law,
    identity_error,
    path_integration,
)
from lv_neuro.angles import angular_distance, grid, heading
from lv_neuro.walks import Integration, Walks, random_walks

BINS = 40
H = 2 * math.pi / BINS
DOUBLE = torch.zeros((), dtype=torch.float64)


class Circle:
    """v(x) = (cos x, sin x) turned by a function of dx; exact for the identity."""

    def __init__(self, speed=lambda dx: dx, seeds=2, pull=0.0):
        x = grid(BINS, like=DOUBLE)
        self.codes = torch.stack([x.cos(), x.sin()], dim=-1).expand(seeds, -1, -1)
        self.speed, self.pull = speed, pull

    def step(self, v, dx):
        turned = torch.atan2(v[..., 1], v[..., 0]) + self.speed(dx)
        radius = v.norm(dim=-1) ** (1 - self.pull)
        return radius[..., None] * torch.stack([turned.cos(), turned.sin()], dim=-1)

    def decode(self, v):
        return heading(torch.atan2(v[..., 1], v[..., 0]))

    def integrate(self, start, turns, *, noise=0.0, generator=None):
        start, turns = start.double(), turns.double()
        v = torch.stack([start.cos(), start.sin()], dim=-1).expand(len(self.codes), -1, -1)
        found = []
        for dx in turns.unbind(1):
            v = self.step(v, dx)
            if noise:
                drawn = torch.randn(v.shape, generator=generator, dtype=v.dtype)
                v = v + noise * drawn / math.sqrt(2)
            found.append(self.decode(v))
        return Integration(torch.stack(found, dim=-1), v)


def fast(dx):
    return 1.01 * dx


def doubled_walks(walks, steps):
    drawn = random_walks(walks, steps, bins=BINS, generator=stream(0, "walks"))
    k = torch.round(drawn.turns.double() / H)
    first = torch.round(drawn.start.double() / H)
    return Walks(first * H, k * H, heading((first[:, None] + k.cumsum(1)) * H))


# Path integration


def test_an_exact_rotation_never_errs():
    errors = path_integration(Circle(), doubled_walks(20, 300))
    assert errors.error.shape == (2, 20, 300)
    assert errors.curve.shape == (2, 300)
    assert float(errors.error.max()) < 1e-10
    assert float(errors.at_end.max()) < 1e-8


def test_a_wrong_speed_errs_by_a_hundredth_of_the_way():
    walks = doubled_walks(50, 200)
    errors = path_integration(Circle(fast), walks)
    wanted = 0.01 * walks.turns.cumsum(1).abs()
    assert torch.allclose(errors.error, wanted.expand(2, -1, -1), atol=1e-10)
    degrees = torch.rad2deg(wanted)
    assert torch.allclose(errors.at_end, degrees[:, -1].mean().expand(2))
    assert torch.allclose(errors.mean, degrees.mean().expand(2))
    assert torch.allclose(errors.curve[0], degrees.mean(0))
    assert float(errors.at_end[0]) > 1


def test_errors_are_wrapped():
    walks = Walks(torch.tensor([0.1]), torch.zeros(1, 2), torch.tensor([[0.1, 0.1]]))
    back = Circle(lambda dx: dx - 0.3)
    errors = path_integration(back, walks)
    # 0.1 - 0.3 is decoded as 2 pi - 0.2
    assert torch.allclose(errors.error[0, 0], torch.tensor([0.3, 0.6]).double(), atol=1e-6)


def test_noise_is_passed_on_and_drawn_from_the_generator():
    walks = doubled_walks(100, 50)
    one, same, other = (
        path_integration(Circle(pull=1.0), walks, noise=0.1, generator=stream(0, name))
        for name in ("a", "a", "b")
    )
    assert torch.equal(one.error, same.error)
    assert not torch.equal(one.error, other.error)
    # F sets the radius to one, so the heading diffuses: 0.1 / sqrt(2) a step (next order: 1 %);
    # the mean of |normal| is sqrt(2 / pi) of it. 100 walks: standard error 7.6 %, two seeds each
    spread = math.degrees(0.1 / math.sqrt(2) * math.sqrt(50) * math.sqrt(2 / math.pi))
    assert float(one.at_end.mean()) == pytest.approx(spread, rel=0.28)
    quiet = path_integration(Circle(pull=1.0), walks, noise=0.05, generator=stream(0, "a"))
    assert float(quiet.at_end.mean()) < 0.7 * float(one.at_end.mean())


def test_refuses_headings_that_do_not_fit_the_walks():
    class Lazy(Circle):
        def integrate(self, start, turns, **options):
            found = super().integrate(start, turns, **options)
            return Integration(found.heading[..., -1:], found.state)

    with pytest.raises(ValueError, match=r"headings of shape \(seeds, 5, 10\)"):
        path_integration(Lazy(), doubled_walks(5, 10))


# Group law and identity


def test_rotations_obey_the_group_law():
    for speed in (lambda dx: dx, fast):  # a wrong speed is a representation as well
        assert float(group_law(Circle(speed)).max()) < 1e-12
        assert float(identity_error(Circle(speed)).max()) < 1e-12


def test_turns_that_do_not_add_up_break_the_group_law():
    bend, k = 0.2, 3
    model = Circle(lambda dx: dx + bend * dx**2)
    # F(F(v, a), b) and F(v, a + b) differ by the angle 2 bend a b
    wanted = [
        abs(2 * math.sin(bend * a * b * H**2))
        for a in range(-k, k + 1)
        for b in range(-k, k + 1)
        if abs(a + b) <= k
    ]
    assert len(wanted) == 37
    found = group_law(model, max_step=k)
    assert found.shape == (2,)
    assert torch.allclose(found, torch.full((2,), sum(wanted) / len(wanted)).double())
    assert float(identity_error(model).max()) < 1e-12


def test_a_drift_breaks_the_identity():
    found = identity_error(Circle(lambda dx: dx + 0.01))
    assert torch.allclose(found, torch.full((2,), 2 * math.sin(0.005)).double())


@pytest.mark.parametrize("max_step", [0, BINS // 2])
def test_group_law_refuses_turns_past_half_the_circle(max_step):
    with pytest.raises(ValueError, match="max_step"):
        group_law(Circle(), max_step=max_step)


@pytest.mark.parametrize("measure", [group_law, identity_error, error_correction])
def test_refuses_models_without_a_code_book(measure):
    model = Circle()
    model.codes = model.codes[0]
    with pytest.raises(ValueError, match=r"model.codes must have shape \(seeds, bins, neurons\)"):
        measure(model)
    model.codes = torch.full((1, BINS, 2), math.nan)
    with pytest.raises(ValueError, match=r"model.codes must be finite"):
        measure(model)


# Error correction


class Ring:
    """Bumps in many dimensions; F(., 0) projects on the nearest code or does nothing."""

    def __init__(self, projects, seeds=2, negative=False):
        x = grid(BINS, like=DOUBLE)
        v = torch.exp(3 * (torch.cos(x[:, None] - x) - 1))
        v = v - v.mean() if negative else v
        self.codes = (v / v.norm(dim=-1, keepdim=True)).expand(seeds, -1, -1)
        self.projects = projects

    def step(self, v, dx):
        assert torch.equal(dx, torch.zeros_like(dx))
        if not self.projects:
            return v
        nearest = (v @ self.codes.mT).argmax(dim=-1, keepdim=True)
        return self.codes.gather(1, nearest.expand(*nearest.shape[:2], BINS))

    def decode(self, v):
        return grid(BINS, like=v)[(v @ self.codes.mT).argmax(dim=-1)]


def test_a_projection_removes_noise_off_the_ring_and_keeps_noise_along_it():
    found = error_correction(
        Ring(projects=True), scales=(0.0, 0.3, 1.0), generator=stream(0, "off")
    )
    assert found.off_ring.shape == found.heading_error.shape == (2, 3, 4)
    assert float(found.off_ring[..., 1:].max()) < 1e-12
    assert (found.off_ring[:, 1:, 0] > 0.005).all()
    assert float(found.off_ring[:, 0].max()) < 1e-12
    # the heading is the nearest code before and after
    assert torch.allclose(found.heading_error, found.heading_error[..., :1].expand(2, 3, 4))
    assert (found.heading_error[:, 2] > 0.5).all()
    assert float(found.heading_error[:, 0].max()) == 0


def test_a_ring_that_does_nothing_corrects_nothing():
    found = error_correction(Ring(projects=False), generator=stream(0, "off"))
    assert torch.allclose(found.off_ring, found.off_ring[..., :1].expand(2, 3, 4))
    assert (found.off_ring > 0.005).all()


def test_measures_in_the_order_of_the_applications():
    one, two = (
        error_correction(
            Ring(projects=True), scales=[0.5], applications=asked, generator=stream(0, "order")
        )
        for asked in ((0, 2), (2, 0))
    )
    assert torch.equal(one.off_ring, two.off_ring.flip(-1))
    assert float(one.off_ring[0, 0, 0]) > 0.005


def test_starts_are_the_disturbed_and_rectified_codes():
    model, scale = Ring(projects=False, seeds=1), 0.6
    found = error_correction(
        model, scales=(scale,), applications=(0,), generator=stream(0, "starts")
    )
    noise = torch.randn((1, 1, BINS, BINS), generator=stream(0, "starts"), dtype=torch.float64)[
        :, 0
    ]
    v = (model.codes + scale * noise / math.sqrt(BINS)).relu()
    cosine = (v / v.norm(dim=-1, keepdim=True)) @ model.codes.mT
    assert float(found.off_ring) == pytest.approx(float(1 - cosine.amax(-1).mean()))
    decoded = grid(BINS, like=DOUBLE)[cosine.argmax(-1)]
    error = torch.rad2deg(angular_distance(decoded, grid(BINS, like=DOUBLE))).mean()
    assert float(found.heading_error) == pytest.approx(float(error))


def test_codes_that_may_be_negative_are_not_rectified():
    model = Ring(projects=False, negative=True)
    kept = error_correction(model, scales=(0.0,), rectify=False)
    cut = error_correction(model, scales=(0.0,))
    assert float(kept.off_ring.abs().max()) < 1e-12
    assert float(cut.off_ring.min()) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (-0.1,)}, "scales"),
        ({"applications": ()}, "applications"),
        ({"applications": (0, -1)}, "applications"),
    ],
)
def test_error_correction_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        error_correction(Ring(projects=True), **options)


# Frequencies of a generator


def test_frequencies_count_as_much_as_their_energy():
    frequencies = torch.tensor([[1.0, -2.0, 0.0, 0.5], [1.1, -2.2, 3.0, 0.5]])
    energy = torch.tensor([[1.0, 1.0, 3.0, 0.0], [1.0, 1.0, 2.0, 0.0]])
    found = generator_frequencies(frequencies, energy)
    assert torch.allclose(found.weighted, torch.tensor([0.0, 0.3 / 4]), atol=1e-6)
    assert found.nearest[:, :3].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert torch.allclose(found.distance[1], torch.tensor([0.1, 0.2, 0.0, 0.5]), atol=1e-6)
    assert generator_frequencies(frequencies, 0 * energy).weighted.isnan().all()


def test_frequencies_of_a_rotation_are_whole_and_those_of_a_wrong_speed_are_not():
    blocks = torch.block_diag(*(k * torch.tensor([[0.0, -1], [1, 0]]) for k in (1.0, 2.0, 5.0)))
    for speed, wanted in ((1.0, 0.0), (1.01, 0.01 * 8 / 3)):
        eigenvalues = torch.linalg.eigvals(speed * blocks)
        found = generator_frequencies(eigenvalues.imag[None], torch.ones(1, 6))
        assert float(found.weighted) == pytest.approx(wanted, abs=1e-5)


def test_frequencies_refuse_what_does_not_fit(wrong_types):
    with pytest.raises(ValueError, match="one value per mode"):
        generator_frequencies(torch.rand(1, 3), torch.rand(1, 4))


@pytest.mark.parametrize(
    ("energy", "message"), [(-torch.ones(1, 3), "negative"), (torch.ones(1, 3) / 0, "finite")]
)
def test_frequencies_refuse_energies_that_are_none(energy, message):
    with pytest.raises(ValueError, match=message):
        generator_frequencies(torch.rand(1, 3), energy)
