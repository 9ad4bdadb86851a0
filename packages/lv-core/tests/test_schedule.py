"""Schedules, and kernels whose settings follow one."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import (
    ChainState,
    Cosine,
    Draws,
    Geometric,
    GradientStep,
    Langevin,
    Linear,
    Mala,
    Polynomial,
    Sequence,
    stream,
)
from lv_core.schedule import at


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def test_ramps_pass_through_their_closed_forms_and_stay_at_the_end() -> None:
    steps = range(7)
    linear = Linear(start=1.0, end=3.0, steps=5)
    assert [linear(k) for k in steps] == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0])
    geometric = Geometric(start=1.0, end=16.0, steps=5)
    assert [geometric(k) for k in steps] == pytest.approx([1, 2, 4, 8, 16, 16, 16])
    cosine = Cosine(start=1.0, end=0.0, steps=3)
    assert [cosine(k) for k in steps] == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert cosine(1) == pytest.approx(0.5)
    assert Cosine(start=1.0, end=0.0, steps=4)(1) == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 3))
    )


def test_a_ramp_of_one_step_starts_where_it_says() -> None:
    assert [Linear(start=2.0, end=5.0, steps=1)(k) for k in (0, 1)] == [2.0, 5.0]


def test_polynomial_decay() -> None:
    schedule = Polynomial(scale=2.0, shift=4.0, power=0.5)
    assert [schedule(k) for k in (0, 5, 12)] == pytest.approx([1.0, 2 / 3, 0.5])


def test_constants_and_tensors_are_themselves() -> None:
    tensor = torch.ones(3)
    assert at(0.3, 7) == 0.3
    assert at(tensor, 7) is tensor
    assert at(lambda k: 0.1 * k, 7) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(start=0.0, end=1.0, steps=0), "steps must be at least 1, got 0"),
        (lambda: Cosine(start=math.nan, end=1.0, steps=2), "start and end must be finite"),
        (lambda: Geometric(start=0.0, end=1.0, steps=2), "start and end must be positive"),
        (lambda: Polynomial(scale=1.0, power=-1.0), r"power must be positive, got -1\.0"),
        (lambda: Langevin(steps=1, step_size=lambda k: -0.1), "step_size must be positive"),
        (lambda: Mala(steps=1, step_size=0.1, temperature=lambda k: 0.0), "temperature must be"),
    ],
)
def test_settings_out_of_range_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_each_step_uses_its_own_step_size_and_temperature() -> None:
    u, noise = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 4, 3, dtype=torch.float64)
    kernel = Langevin(
        steps=3,
        step_size=Linear(start=0.5, end=0.1, steps=3),
        temperature=Geometric(start=1.0, end=0.25, steps=3),
    )
    state, expected = ChainState(u=u), u
    for k, (s, temperature) in enumerate([(0.5, 1.0), (0.3, 0.5), (0.1, 0.25)]):
        state, _ = kernel.step(normal_density, state, generator=Draws(normals=[noise[k]]))
        expected = expected - s**2 / 2 * expected + temperature**0.5 * s * noise[k]
    torch.testing.assert_close(state.u, expected)
    # Wrong control: the first step's settings throughout.
    constant = Langevin(steps=3, step_size=0.5)
    other = ChainState(u=u)
    for k in range(3):
        other, _ = constant.step(normal_density, other, generator=Draws(normals=[noise[k]]))
    assert (other.u - expected).abs().max() > 0.05


def test_a_run_that_goes_on_continues_the_schedule() -> None:
    schedule = Linear(start=0.5, end=0.1, steps=6)
    kernel, u = GradientStep(steps=6, step_size=schedule), torch.randn(4, 3, dtype=torch.float64)
    half = kernel.run(normal_density, u, steps=3).state
    assert torch.equal(
        kernel.run(normal_density, half, steps=3).state.u, kernel(normal_density, u)
    )
    assert not torch.equal(kernel(normal_density, half.u), kernel(normal_density, u))


def test_a_sequence_passes_its_step_on_to_the_stages() -> None:
    schedule = Linear(start=0.5, end=0.1, steps=3)
    u = torch.randn(4, 3, dtype=torch.float64)
    stages = ((GradientStep(steps=1, step_size=schedule), ()),)
    direct = GradientStep(steps=3, step_size=schedule)(normal_density, u)
    assert torch.equal(Sequence(stages=stages, steps=3)(normal_density, u), direct)


def test_mala_with_a_schedule_stays_exact() -> None:
    kernel = Mala(steps=40, step_size=Linear(start=1.8, end=0.9, steps=40))
    u = torch.randn(20_000, 1, generator=stream(0, "start"))
    ends = kernel(normal_density, u, generator=stream(0, "scheduled mala"))
    # 20,000 chains: standard error of the variance 0.01.
    assert abs(ends.var().item() - 1.0) < 0.05
