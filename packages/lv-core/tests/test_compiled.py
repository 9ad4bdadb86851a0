"""Compiled kernels give the chains of the kernels themselves."""

import pytest
import torch
from torch import Tensor

from lv_core import (
    Annealed,
    ChainState,
    Compiled,
    DivergenceError,
    GradientStep,
    Langevin,
    Linear,
    Mala,
    Nuts,
    OnlineStepSize,
    ParallelTempering,
    Psgld,
    Sequence,
    Shard,
    Sum,
    Svgd,
    stream,
)


def density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1) + (2 * u).sin().sum(-1)


TARGET = Sum({"prior": lambda u: -0.5 * u.square().sum(-1), "x": lambda u: (2 * u).sin().sum(-1)})
CHEAP = Compiled(Langevin(steps=6, step_size=0.3, temperature=0.5), TARGET, chunk=2)
"""Built once for all tests that need no other kernel: building takes seconds."""


@pytest.fixture(autouse=True)
def compilable(request: pytest.FixtureRequest) -> None:
    """Skips where every function is wrapped by run-time type checks, which cannot be compiled."""
    if request.config.getoption("jaxtyping_packages", None):
        pytest.skip("run-time type checks cannot be compiled")


def test_draws_the_same_numbers_as_the_kernel() -> None:
    u = torch.randn(8, 3)
    alone = CHEAP.kernel(TARGET, u, generator=stream(0))
    torch.testing.assert_close(CHEAP(u, generator=stream(0)), alone)
    assert not torch.allclose(CHEAP(u, generator=stream(1)), alone)


def test_a_run_has_the_same_record() -> None:
    u = torch.randn(8, 3)
    one = CHEAP.run(u, generator=stream(0), thin=4)
    two = CHEAP.kernel.run(TARGET, u, generator=stream(0), thin=4)
    assert one.u.shape == (1, 8, 3)
    assert one.thin == 4
    torch.testing.assert_close(one.u, two.u)
    torch.testing.assert_close(one.log_density, two.log_density)
    torch.testing.assert_close(one.displacement, two.displacement)
    for name in ("prior", "x"):
        torch.testing.assert_close(one.parts[name], two.parts[name])
    assert one.state.step == 6


def test_goes_on_from_a_state() -> None:
    u, generator = torch.randn(8, 3), stream(0)
    whole = CHEAP.kernel.run(TARGET, u, generator=stream(0), steps=8).state
    half = CHEAP.run(u, generator=generator, steps=4).state
    saved = ChainState.from_state_dict(half.state_dict())
    later = CHEAP.run(saved, generator=generator, steps=4).state
    torch.testing.assert_close(later.u, whole.u)
    assert later.step == 8


def test_global_generator_and_shards() -> None:
    u = torch.randn(8, 3)
    torch.manual_seed(5)
    one = CHEAP(u)
    torch.manual_seed(5)
    torch.testing.assert_close(one, CHEAP.kernel(TARGET, u))
    whole = CHEAP(u, generator=stream(3))
    shard = Shard(generator=stream(3), rank=0, world=1)
    torch.testing.assert_close(CHEAP(u, generator=shard), whole)


@pytest.mark.slow
def test_a_bad_chain_is_frozen_and_alone() -> None:
    def walled(u: Tensor) -> Tensor:
        return torch.where(u.amax(-1) > 1, torch.nan, 4 * u.sum(-1))

    kernel = GradientStep(steps=4, step_size=0.5**0.5, max_bad=0.5)
    compiled = Compiled(kernel, walled, chunk=4)
    u = torch.tensor([[-1.5, -1.5], [-50.0, -50.0]])
    one, two = compiled.run(u).state, kernel.run(walled, u).state
    assert one.bad.tolist() == two.bad.tolist() == [True, False]
    torch.testing.assert_close(one.u, two.u)
    torch.testing.assert_close(one.u[:, 0], torch.tensor([0.5, -46.0]))
    with pytest.raises(DivergenceError, match=r"100\.0% of the chains"):
        compiled(torch.full((2, 2), 2.0))


def test_parameters_changed_in_place_are_seen() -> None:
    scale = torch.nn.Parameter(torch.tensor(1.0))
    kernel = GradientStep(steps=2, step_size=0.5)
    # On the CPU this mode records no graph, but its results are copied all the same.
    compiled = Compiled(
        kernel, lambda u: -0.5 * scale * u.square().sum(-1), chunk=1, mode="reduce-overhead"
    )
    u = torch.ones(4, 2)
    torch.testing.assert_close(compiled(u), (1 - 0.125) ** 2 * u)
    with torch.no_grad():
        scale.mul_(2)
    torch.testing.assert_close(compiled(u), (1 - 0.25) ** 2 * u)
    assert scale.grad is None


@pytest.mark.slow
def test_mala_keeps_cached_values_and_parts_through_the_graph() -> None:
    kernel, u = Mala(steps=6, step_size=0.9), torch.randn(8, 3, dtype=torch.float64)
    compiled = Compiled(kernel, TARGET, chunk=3)
    one = compiled.run(u, generator=stream(0), thin=1)
    two = kernel.run(TARGET, u, generator=stream(0), thin=1)
    torch.testing.assert_close(one.u, two.u)
    torch.testing.assert_close(one.accept, two.accept)
    torch.testing.assert_close(one.state.log_density, two.state.log_density)
    torch.testing.assert_close(one.parts["x"], two.parts["x"])


@pytest.mark.slow
def test_another_number_of_chains_is_served() -> None:
    for n in (8, 5, 3):
        u = torch.randn(n, 3)
        alone = CHEAP.kernel(TARGET, u, generator=stream(0))
        torch.testing.assert_close(CHEAP(u, generator=stream(0)), alone)


def test_settings_it_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        Compiled(CHEAP.kernel, TARGET, chunk=0)
    scheduled = Langevin(steps=2, step_size=Linear(start=1.0, end=0.5, steps=2))
    with pytest.raises(ValueError, match="step_size must be constant"):
        Compiled(scheduled, TARGET)
    with pytest.raises(ValueError, match="steps and thin must be positive"):
        CHEAP.run(torch.zeros(2, 3), steps=0)


@pytest.mark.parametrize(
    "kernel",
    [
        Psgld(steps=40, step_size=0.3, warmup=20),
        Svgd(steps=4, step_size=0.3, optimizer="adam"),
        Annealed(kernel=Mala(steps=1, step_size=0.5), schedule=lambda k: 1.0, steps=4),
        ParallelTempering(kernel=Mala(steps=1, step_size=0.5), betas=(1.0, 0.5), steps=4),
        OnlineStepSize(kernel=Mala(steps=1, step_size=0.5), steps=4),
        Nuts(steps=4, step_size=0.5),
        Sequence(stages=((Mala(steps=1, step_size=0.5), ()),), steps=4),
        Sequence(stages=((Langevin(steps=1, step_size=lambda k: 0.1), ()),), steps=4),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_kernels_that_count_their_steps_are_refused(kernel) -> None:
    """Chunks begin at step 0, so these would silently be other kernels."""
    with pytest.raises(ValueError, match=f"{type(kernel).__name__} steps by the number of steps"):
        Compiled(kernel, TARGET)


def test_a_sequence_of_unadjusted_stages_is_served() -> None:
    stages = (
        (Langevin(steps=1, step_size=0.3), ("prior",)),
        (GradientStep(step_size=0.2), ("x",)),
    )
    kernel, u = Sequence(stages=stages, steps=2), torch.randn(8, 3)
    expected = kernel(TARGET, u, generator=stream(0))
    torch.testing.assert_close(Compiled(kernel, TARGET)(u, generator=stream(0)), expected)
