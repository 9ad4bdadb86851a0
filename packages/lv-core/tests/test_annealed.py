"""Kernels on a density that changes with the step."""

import io
import math

import pytest
import torch
from torch import Tensor

from lv_core import (
    ChainState,
    DivergenceError,
    Draws,
    Evaluation,
    Geometric,
    GradientStep,
    Langevin,
    Linear,
    Mala,
    Sequence,
    Sum,
    stream,
    tempered,
)
from lv_core.kernels.annealed import Annealed, Scaled
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.tempering import ParallelTempering
from lv_core.kernels.underdamped import Underdamped

RISE = Geometric(start=0.1, end=1.0, steps=12)


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def wide(u: Tensor) -> Tensor:
    """N(0, 9), without its constant."""
    return -0.5 * u.square().sum(-1) / 9


TARGET = Sum({"a": normal_density, "b": (lambda u: u.cos().sum(-1), 0.5)})

INNER = {
    "langevin": Langevin(steps=1, step_size=0.5),
    "mala": Mala(steps=1, step_size=0.9),
    "underdamped": Underdamped(steps=1, step_size=0.5),
    "tempering": ParallelTempering(kernel=Mala(steps=1, step_size=0.9), betas=(1.0, 0.5), steps=1),
}


def off_by(samples: Tensor, variance: float) -> float:
    """Returns how many standard errors the variance of independent normal samples is off."""
    return abs(samples.var().item() / variance - 1) / math.sqrt(2 / samples.numel())


def test_each_step_sees_its_own_density() -> None:
    u, *eps = torch.randn(4, 5, 2, dtype=torch.float64)
    kernel = Annealed(
        kernel=Langevin(steps=1, step_size=lambda k: 0.1 * (k + 1)),
        schedule=lambda k: 1.0 + k,
        steps=3,
    )
    ends = kernel(normal_density, u, generator=Draws(normals=eps))
    v = u
    for k, noise in enumerate(eps):
        s = 0.1 * (k + 1)
        v = v - s**2 / 2 * (k + 1) * v + s * noise
    torch.testing.assert_close(ends, v)
    # Wrong control: the target from the start.
    plain = Langevin(steps=3, step_size=lambda k: 0.1 * (k + 1))
    assert not torch.allclose(ends, plain(normal_density, u, generator=Draws(normals=eps)))


@pytest.mark.parametrize("name", ["mala", "underdamped", "tempering"])
def test_slow_annealing_ends_in_the_target(name) -> None:
    n = 20_000
    # Wide starts, N(0, 10) = the density at b = 0.1, then a slow rise: at b the relaxation takes
    # about 2 / (s^2 b) steps.
    start = math.sqrt(10) * torch.randn(n, 1, generator=stream(0, "start"))
    kernel = Annealed(
        kernel=INNER[name], schedule=Geometric(start=0.1, end=1.0, steps=60), steps=90
    )
    trace = kernel.run(normal_density, start, generator=stream(0, name))
    assert off_by(trace.state.u, 1.0) < 5
    assert off_by(start, 10.0) < 5
    # Wrong control: the rise of a few steps leaves the chains wide.
    quench = Annealed(kernel=INNER[name], schedule=Geometric(start=0.1, end=1.0, steps=3), steps=3)
    assert off_by(quench(normal_density, start, generator=stream(0, name)), 1.0) > 5


def test_slow_annealing_finds_the_higher_mode_and_fast_annealing_does_not() -> None:
    def density(u: Tensor) -> Tensor:
        return (-3 * (u.square() - 1).square() + 1.5 * u).sum(-1)  # higher at 1.06 than at -0.93

    start = torch.full((500, 1), -1.0)

    def right(schedule, steps: int) -> Tensor:
        # Steps that suit a mode at each b; larger ones would leap from mode to mode.
        inner = Mala(steps=1, step_size=lambda k: 0.6 * schedule(k) ** -0.5)
        kernel = Annealed(kernel=inner, schedule=schedule, steps=steps)
        return (kernel(density, start, generator=stream(0)) > 0).float().mean()

    # The density at b = 10 has all but exp(-30) of its mass at the higher mode.
    slow, fast = (right(Geometric(start=0.2, end=10.0, steps=n), n) for n in (250, 10))
    assert slow > 0.9
    # Wrong controls: a fast rise, and none.
    assert fast < 0.7
    assert right(lambda k: 10.0, 250) < 0.1


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["mala", "underdamped"])
def test_between_base_and_target_lies_their_geometric_mean(name, b) -> None:
    n = 20_000

    def target(u: Tensor) -> Tensor:
        return normal_density(u - 3.0)

    precision = (1 - b) / 9 + b
    mean, variance = 3 * b / precision, 1 / precision
    start = mean + variance**0.5 * torch.randn(n, 1, generator=stream(0, "start"))
    kernel = Annealed(kernel=INNER[name], schedule=lambda k: b, steps=30, base=wide)
    ends = kernel(target, start, generator=stream(0, name))
    assert off_by(ends, variance) < 5
    assert abs(ends.mean().item() - mean) < 5 * math.sqrt(variance / n)
    # Wrong control: base and target the other way round.
    swapped = Annealed(kernel=INNER[name], schedule=lambda k: 1 - b, steps=60, base=wide)
    assert off_by(swapped(target, start, generator=stream(0, name)), variance) > 5


def test_a_base_leads_to_the_target() -> None:
    n = 20_000
    start = 3 * torch.randn(n, 1, generator=stream(0, "start"))
    kernel = Annealed(
        kernel=Mala(steps=1, step_size=1.0),
        schedule=Linear(start=0.0, end=1.0, steps=40),
        steps=60,
        base=wide,
    )
    ends = kernel(lambda u: normal_density(u - 3.0), start, generator=stream(0))
    assert off_by(ends, 1.0) < 5
    assert abs(ends.mean().item() - 3.0) < 5 * math.sqrt(1 / n)


def test_without_a_base_caches_are_scaled_not_evaluated() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    u = torch.randn(4, 2)
    for name in ("mala", "underdamped"):
        calls.clear()
        Annealed(kernel=INNER[name], schedule=RISE, steps=12)(density, u)
        assert len(calls) == 13
    calls.clear()
    Annealed(kernel=INNER["langevin"], schedule=RISE, steps=12)(density, u)
    assert len(calls) == 12
    # With one, whenever b changes: 12 steps, 11 changes and the start.
    calls.clear()
    Annealed(kernel=INNER["mala"], schedule=RISE, steps=12, base=wide)(density, u)
    assert len(calls) == 24
    calls.clear()
    Annealed(kernel=INNER["mala"], schedule=lambda k: 0.5, steps=12, base=wide)(density, u)
    assert len(calls) == 13


def test_at_a_constant_b_it_is_the_kernel_on_the_tempered_density() -> None:
    u = torch.randn(50, 2, dtype=torch.float64)
    for kernel in (*INNER.values(), Nuts(steps=1, step_size=0.4)):
        one = Annealed(kernel=kernel, schedule=lambda k: 0.3, steps=6)
        annealed = one.run(normal_density, u, generator=stream(0)).state
        plain = kernel.run(tempered(normal_density, 0.3), u, generator=stream(0), steps=6).state
        torch.testing.assert_close(annealed.u, plain.u)
        other = kernel.run(normal_density, u, generator=stream(0), steps=6).state
        assert not torch.allclose(annealed.u, other.u)


@pytest.mark.parametrize("kernel", [Nuts(steps=1, step_size=0.4), *INNER.values()])
def test_caches_are_those_of_the_last_density(kernel) -> None:
    if isinstance(kernel, Langevin):
        return
    scaled = Annealed(kernel=kernel, schedule=RISE, steps=7)
    state = scaled.run(TARGET, torch.randn(50, 3), generator=stream(0)).state
    b = RISE(6) if isinstance(kernel, ParallelTempering) else 1.0
    torch.testing.assert_close(state.log_density, b * TARGET(state.u))
    torch.testing.assert_close(state.extra["part/a"], b * normal_density(state.u))
    based = Annealed(kernel=kernel, schedule=RISE, steps=7, base=wide)
    state = based.run(TARGET, torch.randn(50, 3), generator=stream(0)).state
    b = RISE(6)
    wanted = (1 - b) * wide(state.u) + b * TARGET(state.u)
    torch.testing.assert_close(state.log_density, wanted)
    torch.testing.assert_close(state.extra["part/base"], (1 - b) * wide(state.u))


@pytest.mark.parametrize("base", [None, wide])
@pytest.mark.parametrize("name", INNER)
def test_two_runs_are_one_longer_run_and_saving_changes_nothing(name, base) -> None:
    kernel = Annealed(kernel=INNER[name], schedule=RISE, steps=6, base=base)
    u, generator = torch.randn(40, 3), stream(0)
    half = kernel.run(TARGET, u, generator=generator).state
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    loaded = ChainState.from_state_dict(torch.load(file, weights_only=True))
    parts = kernel.run(TARGET, loaded, generator=generator).state
    whole = kernel.run(TARGET, u, generator=stream(0), steps=12).state
    assert torch.equal(parts.u, whole.u)
    assert parts.step == whole.step == 12
    # Wrong control: a run that begins the schedule again.
    again = kernel.run(TARGET, half.u, generator=stream(1)).state
    other = kernel.run(TARGET, half, generator=stream(1)).state
    assert not torch.equal(again.u, other.u)


@pytest.mark.parametrize("name", INNER)
def test_the_trace_is_that_of_each_density(name) -> None:
    u = torch.randn(6, 3)
    for base in (None, wide):
        kernel = Annealed(kernel=INNER[name], schedule=RISE, steps=5, base=base)
        trace = kernel.run(TARGET, u, generator=stream(0), thin=1)
        b = torch.tensor([RISE(k) for k in range(5)]).unsqueeze(-1)
        torch.testing.assert_close(trace.stats["beta"], b.expand(5, 6))
        starts = torch.cat((u.unsqueeze(0), trace.u[:-1]))
        wanted = b * TARGET(starts) + (0 if base is None else (1 - b) * wide(starts))
        torch.testing.assert_close(trace.log_density, wanted)
        torch.testing.assert_close(trace.parts["a"], b * normal_density(starts))
        torch.testing.assert_close(sum(trace.parts.values()), trace.log_density)
        assert set(trace.parts) == {"a", "b"} | ({"base"} if base else set())


def test_a_plain_target_and_its_base_are_parts() -> None:
    kernel = Annealed(kernel=INNER["mala"], schedule=RISE, steps=2, base=wide)
    trace = kernel.run(normal_density, torch.randn(6, 3), generator=stream(0))
    assert set(trace.parts) == {"target", "base"}


class Own:
    """A target that is no function of torch, but knows its gradient."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, u: Tensor) -> Tensor:
        return self.evaluate(u).value

    def evaluate(self, u: Tensor) -> Evaluation:
        u = u.detach() / self.scale
        return Evaluation(-0.5 * u.square().sum(-1), -u / self.scale, {})


@pytest.mark.parametrize("inner", ["langevin", "mala", "underdamped"])
def test_targets_with_their_own_gradient_keep_it(inner) -> None:
    u = torch.randn(6, 3, dtype=torch.float64)

    def ends(target, base) -> Tensor:
        kernel = Annealed(kernel=INNER[inner], schedule=RISE, steps=6, base=base)
        trace = kernel.run(target, u, generator=stream(0))
        assert base is None or set(trace.parts) == {"target", "base"}
        return trace.state.u

    torch.testing.assert_close(ends(Own(1.0), None), ends(normal_density, None))
    expected = ends(normal_density, wide)
    for target, base in [(Own(1.0), wide), (normal_density, Own(3.0)), (Own(1.0), Own(3.0))]:
        torch.testing.assert_close(ends(target, base), expected)
    assert not torch.allclose(ends(Own(2.0), wide), expected)
    path = Annealed(kernel=INNER[inner], schedule=lambda k: 0.25, steps=1, base=wide)
    value = path._target(Own(1.0), 0.25)(u)
    torch.testing.assert_close(value, 0.75 * wide(u) + 0.25 * normal_density(u))


@pytest.mark.parametrize("own", [False, True])
def test_an_end_without_weight_may_be_infinite(own) -> None:
    def half(u: Tensor) -> Tensor:
        return torch.where(u > 0, -0.5 * u.square(), -torch.inf).sum(-1)

    u = 3 * torch.randn(500, 1, generator=stream(0))
    base = Own(3.0) if own else wide
    kernel = Annealed(
        kernel=Mala(steps=1, step_size=2.0), schedule=lambda k: 0.0, steps=20, base=base
    )
    trace = kernel.run(half, u, generator=stream(0))
    assert torch.isfinite(trace.log_density).all()
    assert (trace.state.u < 0).float().mean() > 0.3
    with pytest.raises(ValueError, match="start at a non-finite"):
        Annealed(kernel=Mala(steps=1, step_size=2.0), schedule=RISE, steps=1, base=base)(half, u)


def test_stages_of_a_sequence_select_their_terms() -> None:
    u, *eps = torch.randn(4, 5, 2, dtype=torch.float64)
    inner = Sequence(
        stages=(
            (Langevin(steps=1, step_size=0.3), ("a",)),
            (GradientStep(step_size=0.2), ("b",)),
        ),
        steps=1,
    )
    kernel = Annealed(kernel=inner, schedule=lambda k: 0.5 + k, steps=3)
    ends = kernel(TARGET, u, generator=Draws(normals=eps))
    v = u
    for k, noise in enumerate(eps):
        v = v - 0.045 * (0.5 + k) * v + 0.3 * noise
        v = v - 0.02 * (0.5 + k) * 0.5 * v.sin()
    torch.testing.assert_close(ends, v)


def walled(u: Tensor) -> Tensor:
    """Pulls to the right; nan beyond 1."""
    return torch.where(u.amax(-1) > 1, torch.nan, 4 * u.sum(-1))


@pytest.mark.parametrize("base", [None, wide])
@pytest.mark.parametrize("name", ["langevin", "underdamped"])
def test_bad_chains_freeze_and_touch_no_other(name, base) -> None:
    inner = {
        "langevin": Langevin(steps=1, step_size=1.0, max_bad=1.0),
        "underdamped": Underdamped(steps=1, step_size=1.0, max_bad=1.0),
    }[name]
    u = torch.linspace(-3000, 0.9, 64, dtype=torch.float64).unsqueeze(-1)
    kernel = Annealed(kernel=inner, schedule=RISE, steps=10, base=base)
    state = kernel.run(walled, u, generator=stream(0)).state
    free = kernel.run(lambda u: 4 * u.sum(-1), u, generator=stream(0)).state
    assert 0 < int(state.bad.sum()) < 64
    assert torch.isfinite(walled(state.u)[state.bad]).all()
    assert torch.equal(state.u[~state.bad], free.u[~state.bad])
    assert not torch.equal(state.u[state.bad], free.u[state.bad])
    strict = Annealed(kernel=type(inner)(steps=1, step_size=1.0), schedule=RISE, steps=10)
    with pytest.raises(DivergenceError):
        strict(walled, torch.full((4, 1), 0.9), generator=stream(0))


def test_mala_keeps_the_support_at_every_b() -> None:
    u = torch.rand(100, 1) - 0.5
    kernel = Annealed(kernel=INNER["mala"], schedule=RISE, steps=12)
    trace = kernel.run(walled, u, generator=stream(0))
    assert trace.bad.any()
    assert (trace.state.u <= 1).all()
    assert torch.isfinite(trace.state.log_density).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": lambda k: 0.0}, "schedule must be positive where there is no base"),
        ({"schedule": lambda k: 1.5, "base": wide}, r"schedule must stay in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Annealed(**{"kernel": INNER["mala"], "schedule": RISE, "steps": 1, **settings})


def test_a_schedule_that_leaves_its_range_is_refused_at_that_step() -> None:
    kernel = Annealed(kernel=INNER["mala"], schedule=lambda k: 1.0 - k / 3, steps=5)
    with pytest.raises(ValueError, match=r"got 0\.0 at step 3"):
        kernel(normal_density, torch.zeros(2, 1))


def test_a_term_named_base_is_refused_where_there_is_one() -> None:
    kernel = Annealed(kernel=INNER["mala"], schedule=RISE, steps=5, base=wide)
    with pytest.raises(ValueError, match="rename the term"):
        kernel(Sum({"base": normal_density}), torch.zeros(2, 1))


def test_a_scaled_density_is_the_density_times_the_factor() -> None:
    u = torch.randn(3, 4, 2, dtype=torch.float64)
    factor = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64).reshape(3, 1)
    scaled = Scaled(TARGET, factor)
    value, grad, parts = scaled.evaluate(u)
    torch.testing.assert_close(scaled(u), factor * TARGET(u))
    torch.testing.assert_close(value, scaled(u))
    torch.testing.assert_close(grad, factor.unsqueeze(-1) * (-u - 0.5 * u.sin()))
    torch.testing.assert_close(parts["a"] + parts["b"], value)


@pytest.mark.parametrize("base", [None, wide])
@pytest.mark.parametrize("name", INNER)
def test_parameters_get_no_gradients(name, base) -> None:
    weight = torch.ones(3, requires_grad=True)
    kernel = Annealed(kernel=INNER[name], schedule=RISE, steps=3, base=base)
    ends = kernel(lambda u: (weight * normal_density(u).unsqueeze(-1)).sum(-1), torch.randn(4, 3))
    assert weight.grad is None
    assert not ends.requires_grad


def test_the_schedule_is_asked_for_no_step_beyond_the_run() -> None:
    table = [0.2, 0.5, 1.0]
    for kernel in (Langevin(steps=1, step_size=0.3), Mala(steps=1, step_size=0.3)):
        annealed = Annealed(kernel=kernel, schedule=lambda k: table[k], steps=3, base=wide)
        annealed(TARGET, torch.randn(8, 2))


def test_a_part_of_the_target_must_not_be_named_base() -> None:
    class Named:
        def __call__(self, u: Tensor) -> Tensor:
            return normal_density(u)

        def evaluate(self, u: Tensor) -> Evaluation:
            return Evaluation(normal_density(u), -u, {"base": normal_density(u)})

    annealed = Annealed(kernel=Mala(steps=1, step_size=0.3), schedule=RISE, steps=3, base=wide)
    with pytest.raises(ValueError, match="must not name a part 'base'"):
        annealed(Named(), torch.randn(8, 2))
