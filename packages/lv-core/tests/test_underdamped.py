"""Underdamped Langevin dynamics against the closed forms of its splittings."""

import io
import itertools
import math

import pytest
import torch
from torch import Tensor

from lv_core import ChainState, DivergenceError, Draws, Langevin, Sum, stream
from lv_core.kernels.underdamped import Underdamped

SCHEMES = ("baoab", "obabo")


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def moved(kernel: Underdamped, u: Tensor, p: Tensor, *eps: Tensor) -> Tensor:
    """Returns positions and momenta, `(2, *shape of u)`, after a step with the given noise."""
    state = kernel.init(normal_density, u)
    state.extra["momentum"] = p
    state, _ = kernel.step(normal_density, state, generator=Draws(normals=list(eps)))
    return torch.stack((state.u, state.extra["momentum"]))


def stationary(kernel: Underdamped) -> Tensor:
    """Returns the stationary covariance of position and momentum on N(0, 1), to rounding.

    On a normal target a step is a linear map, which is read off its action on unit vectors.
    """
    draws = 1 if kernel.scheme == "baoab" else 2
    one, zero = torch.eye(2 + draws, dtype=torch.float64).unsqueeze(-1), torch.zeros(2 + draws, 1)
    columns = moved(kernel, one[0], one[1], *one[2:]).squeeze(-1)
    assert torch.equal(moved(kernel, *[zero.double()] * (2 + draws)), torch.zeros(2, 2 + draws, 1))
    drift, noise = columns[:, :2], columns[:, 2:]
    # C = drift C drift' + noise noise', a linear system for the entries of C.
    system = torch.eye(4, dtype=torch.float64) - torch.kron(drift, drift)
    return torch.linalg.solve(system, (noise @ noise.T).flatten()).reshape(2, 2)


@pytest.mark.parametrize("friction", [0.3, 1.0, 20.0, math.inf])
@pytest.mark.parametrize("h", [0.1, 0.5, 1.0])
def test_stationary_covariances_are_the_closed_forms(h, friction) -> None:
    factor = 1 - h**2 / 4
    exact = {"baoab": (1.0, factor), "obabo": (1 / factor, 1.0)}
    for scheme, (position, momentum) in exact.items():
        kernel = Underdamped(steps=1, step_size=h, friction=friction, scheme=scheme)
        wanted = torch.tensor([position, momentum], dtype=torch.float64).diag()
        torch.testing.assert_close(stationary(kernel), wanted, rtol=1e-9, atol=1e-9)
    assert factor == pytest.approx({0.1: 0.9975, 0.5: 0.9375, 1.0: 0.75}[h])
    # Wrong control: each scheme is off the other's values.
    assert (stationary(kernel)[0, 0] - 1).abs() > 2e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_noise_of_a_wrong_scale_is_seen(scheme) -> None:
    # sqrt(1 - e^(-friction t)) in place of sqrt(1 - e^(-2 friction t)) is noise of another
    # temperature.
    friction, h = 1.0, 0.5
    t = h if scheme == "baoab" else h / 2
    wrong = math.expm1(-friction * t) / math.expm1(-2 * friction * t)
    settings = {"steps": 1, "step_size": h, "friction": friction, "scheme": scheme}
    right = stationary(Underdamped(**settings))
    off = stationary(Underdamped(**settings, temperature=wrong))
    assert off[0, 0] / right[0, 0] == pytest.approx(wrong)
    assert wrong < 0.65


@pytest.mark.parametrize("scheme", SCHEMES)
def test_temperature_scales_both_covariances(scheme) -> None:
    settings = {"steps": 1, "step_size": 0.7, "friction": 2.0, "scheme": scheme}
    warm, unit = (stationary(Underdamped(**settings, temperature=t)) for t in (2.5, 1.0))
    torch.testing.assert_close(warm, 2.5 * unit)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_temperature_zero_settles_at_the_mode(scheme) -> None:
    kernel = Underdamped(steps=200, step_size=0.5, temperature=0.0, scheme=scheme)
    assert kernel(lambda u: normal_density(u - 3.0), torch.zeros(2, 1)).flatten().tolist() == (
        pytest.approx([3.0, 3.0], abs=1e-5)
    )


def test_variance_of_chains_is_exact_where_langevin_is_not() -> None:
    # 40,000 independent chains: relative standard error of a variance sqrt(2 / n) = 0.7 %.
    n, h = 40_000, 1.0
    start = torch.randn(n, 1, generator=stream(0, "start"))
    kernel = Underdamped(steps=30, step_size=h)
    trace = kernel.run(normal_density, start, generator=stream(0, "baoab"))
    error = 5 * math.sqrt(2 / n)
    assert abs(trace.state.u.var().item() - 1) < error
    assert abs(trace.state.extra["momentum"].var().item() - 0.75) < error
    assert abs(2 * trace.stats["kinetic"][-1].mean().item() - 0.75) < error
    biased = Langevin(steps=30, step_size=h)(normal_density, start, generator=stream(0, "ula"))
    assert abs(biased.var().item() - 1) > error


def test_obabo_without_memory_is_langevin_with_that_step_size() -> None:
    u, *eps = torch.randn(11, 6, 3, dtype=torch.float64)
    kernel = Underdamped(steps=5, step_size=0.4, friction=math.inf, scheme="obabo")
    # The second draw of a step is a momentum that the next step replaces.
    ends = kernel(normal_density, u, generator=Draws(normals=eps))
    plain = Langevin(steps=5, step_size=0.4)
    torch.testing.assert_close(ends, plain(normal_density, u, generator=Draws(normals=eps[::2])))
    other = plain(normal_density, u, generator=Draws(normals=eps[1::2]))
    assert not torch.allclose(ends, other)


def test_baoab_without_memory_averages_the_noise_of_two_steps() -> None:
    u, *eps = torch.randn(7, 6, 3, dtype=torch.float64)
    h = 0.4
    kernel = Underdamped(steps=5, step_size=h, friction=math.inf)
    state = kernel.init(normal_density, u)
    state, _ = kernel.step(normal_density, state, generator=Draws(normals=[eps[0]]))
    expected = state.u
    for before, now in itertools.pairwise(eps):
        expected = expected - h**2 / 2 * expected + h * (before + now) / 2
        state, _ = kernel.step(normal_density, state, generator=Draws(normals=[now]))
        torch.testing.assert_close(state.u, expected)


def test_large_friction_approaches_no_memory() -> None:
    u, *eps = torch.randn(11, 6, 3, dtype=torch.float64)
    ends = [
        Underdamped(steps=10, step_size=0.4, friction=f)(
            normal_density, u, generator=Draws(normals=eps)
        )
        for f in (math.inf, 100.0, 1.0)
    ]
    torch.testing.assert_close(ends[1], ends[0])
    assert not torch.allclose(ends[2], ends[0])


def test_the_first_momentum_is_drawn_and_later_ones_are_kept() -> None:
    u, eps, other = torch.randn(3, 6, 3, dtype=torch.float64)
    kernel = Underdamped(steps=1, step_size=0.4, temperature=0.25)
    state = kernel.init(normal_density, u)
    assert "momentum" not in state.extra
    one, _ = kernel.step(normal_density, state, generator=Draws(normals=[eps]))
    # B and A halves with no momentum, then a new one of variance `temperature`.
    middle = u - 0.4**2 / 4 * u
    torch.testing.assert_close(one.u, middle + 0.2 * 0.5 * eps)
    torch.testing.assert_close(one.extra["momentum"], 0.5 * eps - 0.2 * one.u)
    again = kernel.refresh(normal_density, one)
    assert torch.equal(again.extra["momentum"], one.extra["momentum"])
    two, _ = kernel.step(normal_density, again, generator=Draws(normals=[other]))
    assert not torch.allclose(two.extra["momentum"] + 0.2 * two.u, 0.5 * other)


def test_evaluates_the_target_once_per_step_and_once_at_the_start() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    for scheme in SCHEMES:
        calls.clear()
        Underdamped(steps=7, step_size=0.1, scheme=scheme)(density, torch.zeros(4, 2))
        assert len(calls) == 8


@pytest.mark.parametrize("scheme", SCHEMES)
def test_caches_and_parts_belong_to_the_position(scheme) -> None:
    target = Sum({"a": normal_density, "b": (lambda u: u.sum(-1), 0.5)})
    kernel = Underdamped(steps=9, step_size=0.5, scheme=scheme)
    trace = kernel.run(target, torch.randn(50, 3), generator=stream(0))
    fresh = kernel.init(target, trace.state.u)
    assert torch.equal(trace.state.log_density, fresh.log_density)
    assert torch.equal(trace.state.grad, fresh.grad)
    assert torch.equal(trace.state.extra["part/b"], fresh.extra["part/b"])
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (2, 3, 4)])
def test_tensor_step_sizes_are_step_sizes_of_the_components(shape) -> None:
    h = 0.1 + torch.rand(shape)
    u, *eps = torch.randn(7, 2, 3, 4, dtype=torch.float64)
    for scheme in SCHEMES:
        kernel = Underdamped(steps=3, step_size=h, scheme=scheme)
        ends = kernel(normal_density, u, generator=Draws(normals=eps))
        assert ends.dtype == torch.float64
        picked = h.double().expand(2, 3, 4)[1, 2, 3].item()
        number = Underdamped(steps=3, step_size=picked, scheme=scheme)
        alone = number(normal_density, u, generator=Draws(normals=eps))
        torch.testing.assert_close(ends[1, 2, 3], alone[1, 2, 3])
    half = Underdamped(steps=2, step_size=h.double())
    assert half(normal_density, torch.randn(2, 3, 4)).dtype == torch.float32


def test_schedules_follow_the_step() -> None:
    u, *eps = torch.randn(5, 6, 3, dtype=torch.float64)
    kernel = Underdamped(
        steps=2, step_size=lambda k: 0.1 * (k + 1), temperature=lambda k: 1.0 / (k + 1)
    )
    state = kernel.run(normal_density, u, generator=Draws(normals=eps)).state
    by_hand = ChainState(u=u)
    generator = Draws(normals=eps)
    for k in range(2):
        one = Underdamped(steps=1, step_size=0.1 * (k + 1), temperature=1.0 / (k + 1))
        by_hand = one.refresh(normal_density, by_hand)
        by_hand, _ = one.step(normal_density, by_hand, generator=generator)
    torch.testing.assert_close(state.u, by_hand.u)


def walled(u: Tensor) -> Tensor:
    """Pulls to the right; nan beyond 1."""
    return torch.where(u.amax(-1) > 1, torch.nan, 4 * u.sum(-1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bad_chain_stays_at_its_last_finite_position(scheme) -> None:
    u = torch.linspace(-3000, 0.9, 64).unsqueeze(-1)
    kernel = Underdamped(steps=25, step_size=0.5, scheme=scheme, max_bad=1.0)
    trace = kernel.run(walled, u, generator=stream(0), thin=1)
    state = trace.state
    assert 0 < int(state.bad.sum()) < 64
    assert torch.isfinite(walled(state.u)).all()
    assert torch.isfinite(state.grad).all()
    assert torch.isfinite(state.extra["momentum"]).all()
    assert (trace.bad[1:] >= trace.bad[:-1]).all()
    frozen = trace.bad[:-1].unsqueeze(-1)
    assert torch.equal(trace.u[1:][frozen], trace.u[:-1][frozen])
    free = kernel.run(lambda u: 4 * u.sum(-1), u, generator=stream(0)).state
    assert torch.equal(state.u[~state.bad], free.u[~state.bad])
    # Wrong control: the frozen ones would have gone on.
    assert not torch.equal(state.u[state.bad], free.u[state.bad])


def test_a_chain_that_starts_bad_never_moves_and_counts() -> None:
    u = torch.tensor([[2.0], [-50.0]])
    settings = {"steps": 3, "step_size": 0.1}
    assert Underdamped(**settings, max_bad=0.5)(walled, u)[0].item() == 2.0
    with pytest.raises(DivergenceError, match=r"50\.0% of the chains"):
        Underdamped(**settings)(walled, u)


def test_a_chain_marked_by_another_kernel_stays() -> None:
    kernel = Underdamped(steps=1, step_size=0.3)
    state = kernel.init(normal_density, torch.randn(3, 2))
    marked = ChainState(**{**vars(state), "bad": torch.tensor([True, False, False])})
    after, info = kernel.step(normal_density, marked)
    assert (after.u == state.u).all(-1).tolist() == [True, False, False]
    assert info.bad.tolist() == [True, False, False]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_continues_exactly_from_a_saved_state(scheme) -> None:
    kernel = Underdamped(steps=4, step_size=0.4, scheme=scheme)
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
    assert torch.equal(again.extra["momentum"], whole.extra["momentum"])
    # Wrong control: without its momentum the chain goes elsewhere.
    loaded = ChainState(**{**record["state"], "extra": {}})
    generator.set_state(record["noise"])
    assert not torch.equal(
        kernel.run(normal_density, loaded, generator=generator).state.u, whole.u
    )


def test_chains_without_event_axes_are_numbers() -> None:
    u, *eps = torch.randn(4, 5, dtype=torch.float64)
    kernel = Underdamped(steps=3, step_size=0.4)
    ends = kernel(lambda u: -0.5 * u.square(), u, generator=Draws(normals=eps))
    column = [x.unsqueeze(-1) for x in (u, *eps)]
    other = kernel(normal_density, column[0], generator=Draws(normals=column[1:]))
    torch.testing.assert_close(ends, other.squeeze(-1))


def test_a_state_without_caches_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"make it by Underdamped\.init"):
        Underdamped(steps=1, step_size=0.1).step(normal_density, ChainState(u=torch.zeros(2, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"friction": 0.0}, r"friction must be positive, got 0\.0"),
        ({"temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Underdamped(**{"steps": 1, "step_size": 0.1, **settings})


@pytest.mark.usefixtures("wrong_types")
def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="scheme must be 'baoab' or 'obabo', got 'abc'"):
        Underdamped(steps=1, step_size=0.1, scheme="abc")


def test_parameters_get_no_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    kernel = Underdamped(steps=3, step_size=0.3)
    ends = kernel(lambda u: (weight * normal_density(u).unsqueeze(-1)).sum(-1), torch.randn(4, 3))
    assert weight.grad is None
    assert not ends.requires_grad
