"""Hamiltonian Monte Carlo against Mala, closed forms and its unadjusted variant."""

import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import ChainState, Draws, Evaluation, Linear, Mala, Nuts, Sum, stream
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.leapfrog import dot, drift, kick
from lv_core.targets import Gaussian


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def quartic(u: Tensor) -> Tensor:
    return -(0.25 * u**4 + 0.5 * u.square()).sum(-1)


def worst(samples: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Returns the largest deviation of mean and covariance, in standard errors."""
    n = len(samples)
    variance = covariance.diagonal()
    # Standard errors for n normal vectors: mean sqrt(C_ii / n), covariance
    # sqrt((C_ii C_jj + C_ij^2) / n).
    first = (samples.mean(0) - mean).abs() / (variance / n).sqrt()
    error = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    second = (samples.T.cov() - covariance).abs() / error
    return max(first.max().item(), second.max().item())


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_one_leapfrog_step_is_mala(temperature) -> None:
    u = torch.randn(200, 3, dtype=torch.float64, generator=stream(0))
    settings = {"steps": 1, "step_size": 0.9, "temperature": temperature}
    mala, hmc = Mala(**settings), Hmc(**settings, leapfrog=1)
    there, expected = mala.step(quartic, mala.init(quartic, u), generator=stream(1))
    here, info = hmc.step(quartic, hmc.init(quartic, u), generator=stream(1))
    torch.testing.assert_close(here.u, there.u, rtol=0, atol=1e-12)
    torch.testing.assert_close(info.accept, expected.accept, rtol=0, atol=1e-10)
    torch.testing.assert_close(here.log_density, there.log_density, rtol=0, atol=1e-11)
    # Wrong control: with the wrong half of the kick, as with two steps, they differ.
    two = Hmc(**settings, leapfrog=2)
    _, other = two.step(quartic, two.init(quartic, u), generator=stream(1))
    assert (other.accept - expected.accept).abs().max() > 0.01


def test_trajectory_is_that_of_kicks_and_drifts() -> None:
    u = torch.randn(50, 2, dtype=torch.float64, generator=stream(0))
    eps = torch.randn(50, 2, dtype=torch.float64, generator=stream(1))
    s = torch.tensor([0.1, 0.2], dtype=torch.float64)
    kernel = Hmc(steps=1, step_size=s, leapfrog=5)
    always = Draws(normals=[eps], uniforms=[torch.zeros(50, dtype=torch.float64)])
    state, info = kernel.step(quartic, kernel.init(quartic, u), generator=always)
    q, p = u, eps
    for _ in range(5):
        p = p + 0.5 * s * -(q**3 + q)
        q = q + s * p
        p = p + 0.5 * s * -(q**3 + q)
    torch.testing.assert_close(state.u, q, rtol=0, atol=1e-12)
    energy = (0.5 * p.square().sum(-1) - quartic(q)) - (0.5 * eps.square().sum(-1) - quartic(u))
    torch.testing.assert_close(info.stats["energy_error"], energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(info.accept, energy.neg().exp().clamp(max=1.0))


def test_is_exact_at_a_large_step_where_the_unadjusted_trajectory_is_not() -> None:
    target = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    n = 20_000
    start = target.mean + torch.randn(n, 2, generator=stream(0, "start"))
    # The smaller standard deviation is 0.45, so steps of 0.6 have a large energy error.
    kernel = Hmc(steps=40, step_size=0.6, leapfrog=3)
    trace = kernel.run(target, start, generator=stream(0, "hmc"))
    assert 0.5 < trace.accept.mean() < 0.95
    assert worst(trace.state.u, target.mean, target.covariance) < 5
    # Wrong control: the same without the Metropolis test, by uniforms that accept everything.
    generator, state = stream(0, "control"), kernel.init(target, start)
    for _ in range(40):
        eps = torch.randn(n, 2, generator=generator)
        always = Draws(normals=[eps], uniforms=[torch.zeros(n)])
        state, _ = kernel.step(target, state, generator=always)
    assert worst(state.u, target.mean, target.covariance) > 10


def test_unadjusted_variance_is_the_closed_form_of_the_leapfrog_map() -> None:
    # Leapfrog steps of the harmonic oscillator conserve q^2 (1 - s^2/4) + p^2, and fresh momenta
    # have variance one: the variance of q is 1 / (1 - s^2/4).
    n, s = 20_000, 1.2
    kernel = Hmc(steps=1, step_size=s, leapfrog=2)
    generator = stream(0)
    state = kernel.init(normal_density, torch.randn(n, 1, generator=generator))
    for _ in range(30):
        eps = torch.randn(n, 1, generator=generator)
        always = Draws(normals=[eps], uniforms=[torch.zeros(n)])
        state, _ = kernel.step(normal_density, state, generator=always)

    def off(variance: float) -> float:
        return abs(state.u.var().item() / variance - 1) / math.sqrt(2 / n)

    assert off(1 / (1 - s**2 / 4)) < 5
    assert off(1.0) > 5


def test_leapfrog_steps_are_undone_by_reversed_momenta() -> None:
    def trajectory(q: Tensor, p: Tensor, *, forget: bool = False) -> tuple[Tensor, Tensor]:
        for _ in range(20):
            p = kick(p, -(q**3 + q), 0.1, 1.0 if forget else 0.5)
            q = drift(q, p, 0.1)
            p = p if forget else kick(p, -(q**3 + q), 0.1)
        return q, p

    u, p = torch.randn(2, 100, 3, dtype=torch.float64, generator=stream(0))
    end, speed = trajectory(u, p)
    back, _ = trajectory(end, -speed)
    torch.testing.assert_close(back, u, rtol=0, atol=1e-10)
    assert (end - u).abs().max() > 0.5
    # Wrong control: whole kicks (symplectic Euler) are not reversible.
    end, speed = trajectory(u, p, forget=True)
    back, _ = trajectory(end, -speed, forget=True)
    assert (back - u).abs().max() > 1e-2


def test_energy_error_is_of_second_order_in_the_step() -> None:
    u, eps = torch.randn(2, 500, 3, dtype=torch.float64, generator=stream(0))
    errors = []
    for s, leapfrog in ((0.02, 50), (0.01, 100)):
        kernel = Hmc(steps=1, step_size=s, leapfrog=leapfrog)
        draws = Draws(normals=[eps], uniforms=[torch.zeros(500, dtype=torch.float64)])
        _, info = kernel.step(quartic, kernel.init(quartic, u), generator=draws)
        errors.append(info.stats["energy_error"].abs().mean().item())
    # Order one would give 2, order four 16; terms of fourth order change 4 by about s^2.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_samples_the_tempered_density(temperature) -> None:
    generator, n = stream(0, "temperature", repr(temperature)), 20_000
    u = torch.randn(n, 1, generator=generator)
    kernel = Hmc(steps=30, step_size=0.7, leapfrog=3, temperature=temperature)
    ends = kernel(normal_density, u, generator=generator)

    def off(variance: float) -> float:
        return abs(ends.var().item() / variance - 1) / math.sqrt(2 / n)

    assert off(temperature) < 5
    assert off(1.0) > 5


def test_steps_for_each_component_are_a_mass_matrix() -> None:
    scale = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)
    x, eps = torch.randn(2, 40, 3, dtype=torch.float64, generator=stream(0))
    half = torch.full((40,), 0.5, dtype=torch.float64)

    def run(target, u, step_size):
        kernel = Hmc(steps=1, step_size=step_size, leapfrog=4)
        draws = Draws(normals=[eps], uniforms=[half])
        return kernel.step(target, kernel.init(target, u), generator=draws)

    expected, info = run(quartic, x, 0.3)
    state, scaled = run(lambda u: quartic(u / scale), x * scale, 0.3 * scale)
    torch.testing.assert_close(state.u / scale, expected.u)
    torch.testing.assert_close(scaled.accept, info.accept)
    _, wrong = run(lambda u: quartic(u / scale), x * scale, 0.01)
    assert (wrong.accept - info.accept).abs().max() > 0.01


def test_jitter_scales_the_step_of_each_chain() -> None:
    u, eps = torch.randn(2, 6, 2, generator=stream(0))
    v, accept = torch.rand(2, 6, generator=stream(1))
    jittered = Hmc(steps=1, step_size=0.5, leapfrog=3, jitter=0.4)
    draws = Draws(normals=[eps], uniforms=[v, accept])
    state, _ = jittered.step(quartic, jittered.init(quartic, u), generator=draws)
    sizes = 0.5 * (1 + 0.4 * (2 * v - 1))
    plain = Hmc(steps=1, step_size=sizes[:, None], leapfrog=3)
    draws = Draws(normals=[eps], uniforms=[accept])
    expected, _ = plain.step(quartic, plain.init(quartic, u), generator=draws)
    torch.testing.assert_close(state.u, expected.u)
    assert sizes.std() > 0.01


def test_jitter_breaks_the_resonance_of_a_whole_period() -> None:
    # Trajectories of length 2 pi return to where they came from.
    start = torch.full((4000, 1), 3.0)
    settings = {"steps": 20, "step_size": 2 * math.pi / 32, "leapfrog": 32}
    stuck = Hmc(**settings)(normal_density, start, generator=stream(0))
    free = Hmc(**settings, jitter=0.5)(normal_density, start, generator=stream(0))
    # Standard error of a mean of 4000: 0.016.
    assert abs(free.mean()) < 0.08
    assert stuck.mean() > 0.5


def test_evaluates_the_target_once_per_leapfrog_step_and_once_at_the_start() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    Hmc(steps=7, step_size=0.1, leapfrog=5)(density, torch.zeros(4, 2))
    assert len(calls) == 36


def cliff(u: Tensor) -> Tensor:
    """A standard normal to the left of 1, undefined beyond."""
    return torch.where(u < 1, -0.5 * u.square(), torch.nan).sum(-1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_trajectory_through_a_non_finite_value_is_accepted(value) -> None:
    def density(u: Tensor) -> Tensor:
        return torch.where((u < 1) | (u > 1.3), -0.5 * u.square(), value).sum(-1)

    u = torch.full((500, 1), 0.5)
    kernel = Hmc(steps=1, step_size=0.2, leapfrog=12)
    eps = torch.full((500, 1), 1.5)
    state, info = kernel.step(
        density, kernel.init(density, u), generator=Draws(normals=[eps], uniforms=[eps[:, 0] * 0])
    )
    # The way leads into the gap; beyond it the density is finite again.
    assert info.bad.all()
    assert (info.accept == 0).all()
    assert info.stats["divergent"].all()
    assert torch.isinf(info.stats["energy_error"]).all()
    assert torch.equal(state.u, u)


def test_the_target_is_never_asked_at_a_non_finite_point() -> None:
    def density(u: Tensor) -> Tensor:
        assert torch.isfinite(u).all()
        return cliff(u)

    u = torch.randn(200, 1, generator=stream(0)).clamp(max=0.9)
    trace = Hmc(steps=20, step_size=0.4, leapfrog=10).run(density, u, generator=stream(0))
    assert trace.bad.any()
    assert (trace.state.u < 1).all()


def test_a_large_energy_error_is_divergent_and_a_small_one_is_not() -> None:
    u = torch.ones(10, 1)
    stiff = Hmc(steps=1, step_size=40.0, leapfrog=3).run(normal_density, u, generator=stream(0))
    assert stiff.stats["divergent"].all()
    assert not stiff.bad.any()
    calm = Hmc(steps=1, step_size=0.1, leapfrog=3).run(normal_density, u, generator=stream(0))
    assert not calm.stats["divergent"].any()
    assert (calm.stats["leapfrogs"] == 3).all()


def test_nan_in_one_chain_touches_no_other() -> None:
    u = torch.randn(8, 2, generator=stream(0)) * 0.3
    sick = torch.arange(8) == 3

    def density(u: Tensor) -> Tensor:
        away = (u[:, 0] - start[:, 0]).abs() > 1e-6
        return torch.where(sick & away, torch.nan, quartic(u))

    start = u
    kernel = Hmc(steps=10, step_size=0.4, leapfrog=4)
    healthy, ill = (kernel(d, u, generator=stream(1)) for d in (quartic, density))
    assert torch.equal(healthy[~sick], ill[~sick])
    assert torch.equal(ill[sick], u[sick])
    assert not torch.equal(healthy[sick], u[sick])


def test_a_frozen_chain_stays() -> None:
    kernel = Hmc(steps=1, step_size=0.3, leapfrog=2)
    state = kernel.init(normal_density, torch.ones(4, 2))
    bad = torch.tensor([True, False, False, False])
    state = ChainState(u=state.u, log_density=state.log_density, grad=state.grad, bad=bad)
    moved, _ = kernel.step(normal_density, state, generator=stream(0))
    assert torch.equal((moved.u != state.u).any(-1), ~bad)


def test_caches_and_parts_belong_to_the_position() -> None:
    kernel = Hmc(steps=20, step_size=0.9, leapfrog=3)
    target = Sum({"a": quartic, "b": (lambda u: u.sum(-1), 0.5)})
    trace = kernel.run(target, torch.randn(50, 3), generator=stream(0))
    fresh = kernel.init(target, trace.state.u)
    torch.testing.assert_close(trace.state.log_density, fresh.log_density)
    torch.testing.assert_close(trace.state.grad, fresh.grad)
    torch.testing.assert_close(trace.state.extra["part/b"], fresh.extra["part/b"])
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)
    assert 0 < trace.accept.mean() < 1


class Buffered:
    """A standard normal that returns the same two tensors at every evaluation."""

    def __init__(self, like: Tensor) -> None:
        self.value, self.grad = torch.empty(like.shape[0]), torch.empty_like(like)

    def __call__(self, u: Tensor) -> Tensor:
        return normal_density(u)

    def evaluate(self, u: Tensor) -> Evaluation:
        self.value.copy_(normal_density(u))
        self.grad.copy_(-u)
        return Evaluation(self.value, self.grad, {})


def test_targets_may_reuse_the_tensors_they_return() -> None:
    u = torch.randn(16, 3, generator=stream(0))
    kernel = Hmc(steps=10, step_size=0.9, leapfrog=3)
    own = kernel(Buffered(u), u, generator=stream(1))
    torch.testing.assert_close(own, kernel(normal_density, u, generator=stream(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_keeps_shape_and_dtype(dtype, event, device) -> None:
    def density(u: Tensor) -> Tensor:
        return -0.5 * u.square().reshape(2, 5, -1).sum(-1)

    u = torch.zeros(2, 5, *event, dtype=dtype, device=device)
    size = torch.tensor(0.3, dtype=torch.float64)
    kernel = Hmc(steps=2, step_size=size, leapfrog=2, jitter=0.1)
    trace = kernel.run(density, u, generator=stream(0, device=device), thin=1)
    assert trace.u.shape == (2, *u.shape)
    assert trace.u.dtype == dtype
    assert trace.accept.dtype == dtype
    assert trace.stats["energy_error"].shape == (2, 2, 5)


def test_a_schedule_of_step_sizes_is_followed() -> None:
    u = torch.randn(5, 2, generator=stream(0))
    ramp = Linear(start=0.1, end=0.5, steps=2)
    trace = Hmc(steps=2, step_size=ramp, leapfrog=2).run(quartic, u, generator=stream(1))
    generator = stream(1)
    first = Hmc(steps=1, step_size=0.1, leapfrog=2)(quartic, u, generator=generator)
    second = Hmc(steps=1, step_size=0.5, leapfrog=2)(quartic, first, generator=generator)
    torch.testing.assert_close(trace.state.u, second)


def test_a_saved_state_goes_on_bit_for_bit(tmp_path) -> None:
    kernel = Hmc(steps=5, step_size=0.4, leapfrog=3, jitter=0.2)
    u, generator = torch.randn(8, 2, generator=stream(0)), stream(1)
    state = kernel.run(quartic, u, generator=generator).state
    torch.save({"chains": state.state_dict(), "rng": generator.get_state()}, tmp_path / "s.pt")
    whole = kernel.run(quartic, state, generator=generator).state
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    generator.set_state(saved["rng"])
    again = kernel.run(quartic, ChainState.from_state_dict(saved["chains"]), generator=generator)
    assert torch.equal(again.state.u, whole.u)
    assert torch.equal(again.state.grad, whole.grad)


def test_leaves_parameter_gradients_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    Hmc(steps=3, step_size=0.1, leapfrog=3)(lambda u: network(u).squeeze(-1), torch.zeros(4, 2))
    assert all(p.grad is None for p in network.parameters())


def test_inner_products_cover_all_event_axes() -> None:
    a, b = torch.randn(2, 4, 2, 3, generator=stream(0))
    torch.testing.assert_close(dot(a, b, (1, 2)), (a * b).reshape(4, -1).sum(-1))
    torch.testing.assert_close(dot(a, b, (2,)), (a * b).sum(-1))
    assert torch.equal(dot(a, b, ()), a * b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leapfrog": 0}, "leapfrog must be at least 1, got 0"),
        ({"jitter": 1.0}, r"jitter must lie in \[0, 1\), got 1"),
        ({"jitter": -0.1}, "jitter must lie"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Hmc(**{"steps": 1, "step_size": 0.1, "leapfrog": 2, **settings})


def test_a_start_outside_the_support_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 chains start at a non-finite"):
        Hmc(steps=1, step_size=0.1, leapfrog=1)(cliff, torch.tensor([[0.0], [2.0]]))


def test_a_state_without_caches_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"make it by Hmc\.init"):
        Hmc(steps=1, step_size=0.1, leapfrog=1).step(
            normal_density, ChainState(u=torch.zeros(2, 1))
        )


@pytest.mark.parametrize(
    "kernel", [Hmc(steps=5, step_size=0.2, leapfrog=3), Nuts(steps=5, step_size=0.2)]
)
def test_autocast_leaves_energies_exact(kernel) -> None:
    u = torch.randn(64, 300, generator=stream(0, "start"))
    plain = kernel.run(standard_normal, u, generator=stream(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = kernel.run(standard_normal, u, generator=stream(0))
    torch.testing.assert_close(cast.accept, plain.accept)
    torch.testing.assert_close(cast.state.u, plain.state.u)
    # Wrong control: an inner product that autocast rounds to bfloat16.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = torch.linalg.vecdot(u, u).float()
    assert (rounded - u.square().sum(-1)).abs().max() > 0.1


def standard_normal(u: torch.Tensor) -> torch.Tensor:
    return -0.5 * u.square().sum(-1)
