"""Preconditioned Langevin dynamics: what it equals, what it wins and where it is biased."""

import io
import math

import pytest
import torch
from torch import Tensor

from lv_core import ChainState, DivergenceError, Draws, Langevin, Sum, stream
from lv_core.kernels.preconditioned import Psgld


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def test_one_step_is_the_formula() -> None:
    u, eps, other = torch.randn(3, 5, 3, dtype=torch.float64)
    kernel = Psgld(steps=2, step_size=0.3, decay=0.9, epsilon=0.2, temperature=0.49)
    state, info = kernel.step(normal_density, ChainState(u=u), generator=Draws(normals=[eps]))
    # The average of 1 and the squares, with the weights 0.9 and 1.
    p = 1 / (0.2 + ((0.9 + u.square()) / 1.9).sqrt())
    torch.testing.assert_close(state.u, u - 0.045 * p * u + 0.7 * 0.3 * p.sqrt() * eps)
    torch.testing.assert_close(kernel.preconditioner(state), p)
    torch.testing.assert_close(info.log_density, normal_density(u))
    torch.testing.assert_close(info.grad_norm, u.norm(dim=-1))
    after, _ = kernel.step(normal_density, state, generator=Draws(normals=[other]))
    second = (0.81 + 0.9 * u.square() + state.u.square()) / 2.71
    torch.testing.assert_close(after.extra["second_moment"], second)
    with pytest.raises(AssertionError):  # wrong control: the average that starts at zero
        torch.testing.assert_close(second, 0.09 * u.square() + 0.1 * state.u.square())


def test_a_start_at_the_mode_does_not_leap() -> None:
    ends = Psgld(steps=3, step_size=0.1)(normal_density, torch.zeros(1000, 2), generator=stream(0))
    assert ends.abs().max() < 2


def test_decay_one_is_the_plain_average() -> None:
    kernel = Psgld(steps=6, step_size=0.3, decay=1.0, epsilon=1.0)
    start = torch.randn(4, 3, dtype=torch.float64)
    trace = kernel.run(normal_density, start, generator=stream(0), thin=1)
    seen = torch.cat((torch.ones(1, 4, 3), start.unsqueeze(0), trace.u[:-1]))
    torch.testing.assert_close(trace.state.extra["second_moment"], seen.square().mean(0))


def test_with_a_fixed_preconditioner_it_is_langevin_with_a_tensor_step_size() -> None:
    scale = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)

    def density(u: Tensor) -> Tensor:
        return normal_density(u / scale)

    kernel = Psgld(steps=20, step_size=0.2, warmup=20, temperature=0.8)
    warm = kernel.run(density, scale * torch.randn(6, 3), generator=stream(0)).state
    after = kernel.run(density, warm, generator=stream(1)).state
    assert torch.equal(after.extra["second_moment"], warm.extra["second_moment"])
    step = 0.2 * kernel.preconditioner(warm).sqrt()
    plain = Langevin(steps=20, step_size=step, temperature=0.8)
    torch.testing.assert_close(after.u, plain(density, warm.u, generator=stream(1)))
    # Wrong control: the preconditioner in place of its root.
    wrong = Langevin(steps=20, step_size=0.2 * kernel.preconditioner(warm), temperature=0.8)
    assert not torch.allclose(after.u, wrong(density, warm.u, generator=stream(1)))
    # And without `warmup` it goes on adapting.
    moving = Psgld(steps=20, step_size=0.2, temperature=0.8)
    moved = moving.run(density, warm, generator=stream(1)).state
    assert not torch.equal(moved.extra["second_moment"], warm.extra["second_moment"])


def off_by(samples: Tensor, variance: float) -> float:
    """Returns how many standard errors the second moment about zero is off, for normal samples."""
    squares = samples.square()
    return abs(squares.mean().item() - variance) / (squares.std().item() / len(samples) ** 0.5)


def test_without_memory_it_samples_another_density_and_with_a_fixed_average_the_target() -> None:
    n, s = 20_000, 0.2
    start = torch.randn(n, 1, generator=stream(0, "start"))
    settings = {"steps": 300, "step_size": s, "epsilon": 1.0}
    # Without memory and with small steps: density (1 + |u|) exp(-u^2 / 2) up to a constant, whose
    # variance is (sqrt(2 pi) + 4) / (sqrt(2 pi) + 2) = 1.44.
    root = math.sqrt(2 * math.pi)
    tilted = (root + 4) / (root + 2)
    biased = Psgld(**settings, decay=0.0)(normal_density, start, generator=stream(0, "biased"))
    assert abs(biased.var().item() / tilted - 1) < 0.03  # steps of 0.2 and a sampling error of 1 %
    assert off_by(biased, 1.0) > 5
    # With the average fixed: Langevin dynamics whose step size differs from chain to chain.
    kernel = Psgld(**settings, decay=1.0, warmup=100)
    state = kernel.run(normal_density, start, generator=stream(0, "fixed")).state
    step = s * kernel.preconditioner(state).sqrt()
    exact = (1 / (1 - step.square() / 4)).mean().item()
    assert off_by(state.u, exact) < 5
    assert abs(exact - 1) < 0.01


def test_reaches_a_badly_scaled_target_sooner_than_langevin() -> None:
    # Scales 0.1 and 10: Langevin is stable below s = 0.2 and then needs about (10 / 0.1)^2 steps
    # for the wide component, the preconditioned kernel about their ratio.
    scale = torch.tensor([0.1, 10.0])

    def density(u: Tensor) -> Tensor:
        return normal_density(u / scale)

    start = torch.zeros(4000, 2)
    settings = {"steps": 400, "temperature": 1.0}
    # The same distance to instability in the narrow component: s sqrt(P) = s sqrt(0.1).
    kernel = Psgld(**settings, step_size=0.1 / 0.1**0.5, decay=1.0, warmup=200)
    fast = kernel(density, start, generator=stream(0)).var(0) / scale.square()
    slow = Langevin(**settings, step_size=0.1)(density, start, generator=stream(0))
    slow = slow.var(0) / scale.square()
    assert fast[0] < 1.7
    assert slow[0] == pytest.approx(1 / (1 - 0.01 / (4 * 0.01)), rel=0.1)
    # A component that starts at 0 has reached the share 1 - a^(2 steps) of its variance, a =
    # 1 - s^2 / (2 scale^2) = 1 - 5e-5: 4 percent.
    assert slow[1] == pytest.approx(0.04, rel=0.1)
    assert fast[1] > 0.3


def test_temperature_zero_draws_nothing_and_climbs() -> None:
    before = torch.get_rng_state()
    kernel = Psgld(steps=500, step_size=0.2, temperature=0.0, decay=0.9, epsilon=0.1)
    ends = kernel(lambda u: normal_density(u - 3.0), torch.zeros(5, 3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(ends, torch.full((5, 3), 3.0), atol=1e-2, rtol=0)


def test_evaluates_the_target_once_per_step_and_reports_parts() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    target = Sum({"a": density, "b": (lambda u: u.sum(-1), 0.5)})
    trace = Psgld(steps=7, step_size=0.1).run(target, torch.zeros(4, 2))
    assert len(calls) == 7
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)


def walled(u: Tensor) -> Tensor:
    """Pulls to the right; nan beyond 1."""
    return torch.where(u.amax(-1) > 1, torch.nan, 4 * u.sum(-1))


def test_a_bad_chain_stays_at_its_last_finite_position() -> None:
    u = torch.linspace(-300, 0.9, 64).unsqueeze(-1)
    kernel = Psgld(steps=20, step_size=2.0, max_bad=1.0)
    state = kernel.run(walled, u, generator=stream(0)).state
    free = kernel.run(lambda u: 4 * u.sum(-1), u, generator=stream(0)).state
    assert 0 < int(state.bad.sum()) < 64
    assert torch.isfinite(walled(state.u[state.bad])).all()
    assert torch.isfinite(state.extra["second_moment"]).all()
    assert torch.equal(state.u[~state.bad], free.u[~state.bad])
    assert not torch.equal(state.u[state.bad], free.u[state.bad])
    again = kernel.run(walled, state, generator=stream(1)).state
    assert torch.equal(again.u[state.bad], state.u[state.bad])
    with pytest.raises(DivergenceError):
        Psgld(steps=20, step_size=2.0)(walled, u, generator=stream(0))


def test_a_chain_that_starts_bad_never_moves() -> None:
    u = torch.tensor([[2.0], [-50.0]])
    assert Psgld(steps=3, step_size=0.5, max_bad=0.5)(walled, u)[0].item() == 2.0


@pytest.mark.parametrize("warmup", [None, 2])
def test_continues_exactly_from_a_saved_state(warmup) -> None:
    kernel = Psgld(steps=4, step_size=0.4, warmup=warmup)
    generator = stream(0)
    whole = kernel.run(normal_density, torch.ones(6, 3), generator=stream(0), steps=8).state
    half = kernel.run(normal_density, torch.ones(6, 3), generator=generator).state
    file = io.BytesIO()
    torch.save({"state": half.state_dict(), "noise": generator.get_state()}, file)
    file.seek(0)
    record = torch.load(file, weights_only=True)
    generator = torch.Generator()
    generator.set_state(record["noise"])
    loaded = ChainState.from_state_dict(record["state"])
    again = kernel.run(normal_density, loaded, generator=generator).state
    assert torch.equal(again.u, whole.u)
    assert torch.equal(again.extra["second_moment"], whole.extra["second_moment"])


def test_chains_without_event_axes_are_numbers() -> None:
    u, *eps = torch.randn(4, 5, dtype=torch.float64)
    kernel = Psgld(steps=3, step_size=0.4)
    ends = kernel(lambda u: -0.5 * u.square(), u, generator=Draws(normals=eps))
    column = [x.unsqueeze(-1) for x in (u, *eps)]
    other = kernel(normal_density, column[0], generator=Draws(normals=column[1:]))
    torch.testing.assert_close(ends, other.squeeze(-1))


def test_step_sizes_may_be_tensors_and_schedules_and_keep_the_dtype() -> None:
    u, *eps = torch.randn(3, 5, 3, dtype=torch.float64)
    by_tensor = Psgld(steps=2, step_size=torch.tensor([0.1, 0.2, 0.3]))
    by_step = Psgld(steps=2, step_size=lambda k: 0.1 * (k + 1))
    ends = by_tensor(normal_density, u, generator=Draws(normals=eps))
    one = Psgld(steps=2, step_size=0.2)(normal_density, u, generator=Draws(normals=eps))
    torch.testing.assert_close(ends[:, 1], one[:, 1], rtol=1e-6, atol=1e-6)
    moved = by_step(normal_density, u, generator=Draws(normals=eps))
    assert not torch.allclose(moved[:, 0], ends[:, 0])
    wide = Psgld(steps=2, step_size=torch.full((3,), 0.1, dtype=torch.float64))
    assert wide(normal_density, u.float()).dtype == torch.float32


def test_a_state_without_gradients_has_no_preconditioner() -> None:
    with pytest.raises(ValueError, match="do at least one step of Psgld first"):
        Psgld(steps=1, step_size=0.1).preconditioner(ChainState(u=torch.zeros(2, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], got 1\.5"),
        ({"warmup": 0}, "warmup must be at least 1 step, or None, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Psgld(**{"steps": 1, "step_size": 0.1, **settings})


def test_parameters_get_no_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    kernel = Psgld(steps=3, step_size=0.3)
    ends = kernel(lambda u: (weight * normal_density(u).unsqueeze(-1)).sum(-1), torch.randn(4, 3))
    assert weight.grad is None
    assert not ends.requires_grad
