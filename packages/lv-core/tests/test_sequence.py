"""Steps in stages, each on its own terms of the target."""

import pytest
import torch
from torch import Tensor

from lv_core import (
    Annealed,
    DivergenceError,
    Draws,
    GradientStep,
    Hmc,
    Langevin,
    Linear,
    Mala,
    OnlineStepSize,
    ParallelTempering,
    Sequence,
    Sum,
    Underdamped,
    normal,
    stream,
    value_and_grad,
)


def prior(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def wavy(u: Tensor) -> Tensor:
    return (3 * u).sin().sum(-1)


TARGET = Sum({"prior": prior, "x": wavy, "y": (lambda u: -(u.sum(-1) - 2).square(), 10.0)})
LANGEVIN = Langevin(steps=1, step_size=0.5, temperature=0.25)
TWO_STAGES = Sequence(
    stages=((LANGEVIN, ("prior", "x")), (GradientStep(step_size=0.25), ("y",))), steps=20
)


def test_equals_the_loop_written_by_hand_to_the_bit() -> None:
    u = torch.randn(32, 3)
    generator, z = stream(0), u
    # All factors are powers of two: no rounding depends on the order of multiplications.
    for _ in range(20):
        grad = value_and_grad(TARGET.only("prior", "x"), z).grad
        z = z + 0.125 * grad + 0.25 * normal(z, generator)
        z = z + 0.03125 * value_and_grad(TARGET.only("y"), z).grad
    assert torch.equal(TWO_STAGES(TARGET, u, generator=stream(0)), z)


def test_differs_from_the_joint_step() -> None:
    u, eps = torch.randn(2, 32, 3)
    two, _ = TWO_STAGES.step(TARGET, TWO_STAGES.init(TARGET, u), generator=Draws(normals=[eps]))
    grads = {name: value_and_grad(TARGET.only(name), u).grad for name in TARGET.names}
    joint = u + 0.125 * (grads["prior"] + grads["x"]) + 0.25 * eps + 0.03125 * grads["y"]
    assert (two.u - joint).abs().max() > 0.1


def test_each_stage_evaluates_its_own_terms_once() -> None:
    calls = []

    def counted(name):
        def term(u: Tensor) -> Tensor:
            calls.append(name)
            return prior(u)

        return term

    target = Sum({name: counted(name) for name in ("prior", "x", "y")})
    TWO_STAGES(target, torch.zeros(4, 2))
    assert calls == ["prior", "x", "y"] * 20


def test_reports_the_first_stage_and_the_parts_of_all() -> None:
    u, eps = torch.randn(2, 32, 3)
    state, info = TWO_STAGES.step(
        TARGET, TWO_STAGES.init(TARGET, u), generator=Draws(normals=[eps])
    )
    only = value_and_grad(TARGET.only("prior", "x"), u)
    torch.testing.assert_close(info.log_density, only.value)
    torch.testing.assert_close(info.grad_norm, only.grad.norm(dim=-1))
    assert set(info.parts) == {"prior", "x", "y"}
    assert state.step == 1


def test_clipped_counts_any_stage() -> None:
    stages = (
        (Langevin(steps=1, step_size=0.1, clip=1e6), ("prior",)),
        (GradientStep(step_size=0.1, clip=1e-6), ("y",)),
    )
    trace = Sequence(stages=stages, steps=3).run(TARGET, torch.randn(4, 3))
    assert trace.clipped.all()
    assert TWO_STAGES.run(TARGET, torch.randn(4, 3), steps=2).clipped is None


def test_empty_names_are_the_whole_target() -> None:
    u = torch.randn(8, 3)
    kernel = Sequence(stages=((LANGEVIN, ()),), steps=5)
    plain = Langevin(steps=5, step_size=0.5, temperature=0.25)
    assert torch.equal(kernel(prior, u, generator=stream(0)), plain(prior, u, generator=stream(0)))


def test_mala_as_the_only_stage_is_mala() -> None:
    u = torch.randn(8, 3)
    mala = Mala(steps=5, step_size=0.9)
    kernel = Sequence(stages=((mala, ()),), steps=5)
    assert torch.equal(kernel(prior, u, generator=stream(0)), mala(prior, u, generator=stream(0)))


def walled(u: Tensor) -> Tensor:
    return torch.where(u.amax(-1) > 1, torch.nan, u.sum(-1))


@pytest.mark.parametrize("order", [("wall", "free"), ("free", "wall")])
def test_a_chain_bad_in_any_stage_is_frozen_for_all(order) -> None:
    target = Sum({"wall": walled, "free": lambda u: u.sum(-1)})
    step = GradientStep(step_size=0.5)  # moves by 0.125
    kernel = Sequence(stages=tuple((step, (name,)) for name in order), steps=20, max_bad=0.5)
    state = kernel.run(target, torch.tensor([[0.0], [-50.0]])).state
    assert state.bad.tolist() == [True, False]
    assert 0.7 < state.u[0].item() <= 1.0
    assert state.u[1].item() == -50 + 20 * 0.25
    assert torch.isfinite(walled(state.u)).all()
    with pytest.raises(DivergenceError, match=r"50\.0% of the chains .* by step 20"):
        Sequence(stages=kernel.stages, steps=20)(target, torch.tensor([[0.0], [-50.0]]))


def test_marks_of_bad_chains_survive_a_mala_stage() -> None:
    target = Sum({"wall": walled, "free": prior})
    stages = ((GradientStep(step_size=0.5), ("wall",)), (Mala(steps=1, step_size=0.01), ("free",)))
    kernel = Sequence(stages=stages, steps=20, max_bad=0.5)
    trace = kernel.run(target, torch.tensor([[0.5], [-50.0]]), generator=stream(0), thin=1)
    assert trace.state.bad.tolist() == [True, False]
    assert trace.u[-1, 0].item() == trace.u[-8, 0].item()
    assert trace.u[-1, 1].item() != trace.u[-8, 1].item()


def test_named_terms_need_a_sum() -> None:
    with pytest.raises(TypeError, match="the target must be a Sum, got function"):
        TWO_STAGES(prior, torch.zeros(4, 2))


def test_unknown_terms_are_refused() -> None:
    with pytest.raises(KeyError, match="unknown term 'y'; there are: prior, x"):
        TWO_STAGES(TARGET.only("prior", "x"), torch.zeros(4, 2))


@pytest.mark.parametrize(("stages", "steps"), [((), 3), (((LANGEVIN, ()),), 0)])
def test_needs_a_stage_and_a_step(stages, steps) -> None:
    with pytest.raises(ValueError, match="a sequence needs a stage and a step"):
        Sequence(stages=stages, steps=steps)


# Stages with a memory or a schedule of their own.


def test_an_annealed_stage_samples_its_target() -> None:
    """Fails if a stage caches the density of one step and moves by that of another."""
    annealed = Annealed(
        kernel=Mala(steps=1, step_size=1.0),
        schedule=Linear(start=0.05, end=1.0, steps=30),
        steps=60,
        base=lambda u: -0.125 * u.square().sum(-1),
    )
    kernel = Sequence(stages=((annealed, ()),), steps=60)
    u = 2 * torch.randn(20_000, 1, generator=stream(0, "start"))
    ends = kernel(prior, u, generator=stream(0, "annealed stage"))
    # 20,000 chains: standard error of the variance 0.01.
    assert abs(ends.var().item() - 1.0) < 0.05


def test_a_stage_keeps_the_step_sizes_it_learns() -> None:
    online = OnlineStepSize(kernel=Mala(steps=1, step_size=0.05))
    u = torch.randn(32, 2)
    alone = online.run(prior, u, generator=stream(0), steps=30).state
    staged = Sequence(stages=((online, ()),), steps=30).run(prior, u, generator=stream(0)).state
    torch.testing.assert_close(staged.extra["0/log_step_factor"], alone.extra["log_step_factor"])
    assert staged.extra["0/log_step_factor"].min() > 1.0  # ten times the first step and more


def test_a_tempered_stage_keeps_its_replicas() -> None:
    tempered = ParallelTempering(kernel=Mala(steps=1, step_size=0.8), betas=(1.0, 0.4), steps=1)
    u = torch.randn(8, 2)
    alone = tempered.run(prior, u, generator=stream(0), steps=12).state
    staged = Sequence(stages=((tempered, ()),), steps=12).run(prior, u, generator=stream(0)).state
    torch.testing.assert_close(staged.u, alone.u)
    assert torch.equal(staged.extra["0/round_trips"], alone.extra["round_trips"])


@pytest.mark.parametrize(
    "stage",
    [
        Underdamped(steps=1, step_size=0.3),
        Hmc(steps=1, step_size=0.3, leapfrog=2),
        OnlineStepSize(kernel=Mala(steps=1, step_size=0.3)),
        Annealed(kernel=Mala(steps=1, step_size=0.3), schedule=lambda k: 1.0, steps=1),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_a_chain_that_a_later_stage_moves_out_of_the_support_goes_back(stage) -> None:
    walled = Sum(
        {
            "a": lambda u: torch.where(u.amax(-1) > 5, torch.nan, prior(u)),
            "b": lambda u: 1000 * (u - 1).relu().sum(-1),
        }
    )
    kernel = Sequence(
        stages=((stage, ("a",)), (GradientStep(step_size=1.0), ("b",))), steps=3, max_bad=0.5
    )
    u = torch.tensor([[1.5, -3.0], [-3.0, -3.0], [-4.0, -3.0]])
    state = kernel.run(walled, u, generator=stream(0)).state
    assert state.bad.tolist() == [True, False, False]
    assert torch.isfinite(walled.only("a")(state.u)).all()


def test_the_tolerated_share_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"max_bad must be a share in \[0, 1\], got nan"):
        Sequence(stages=((LANGEVIN, ()),), steps=1, max_bad=float("nan"))
