"""Stein variational gradient descent against autograd, fixed points and identities."""

import io
import math

import pytest
import torch
from torch import Tensor

from lv_core import ChainState, DivergenceError, GradientStep, Sum, stream
from lv_core.kernels.svgd import Svgd, stein_direction
from lv_core.targets import Gaussian, Mixture


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def by_autograd(u: Tensor, grad: Tensor, h: float, temperature: float) -> Tensor:
    """Returns the Stein direction by its definition, for one group of vectors."""

    def kernel(v: Tensor, w: Tensor) -> Tensor:
        return (-(v - w).square().sum() / h).exp()

    phi = []
    for w in u:
        terms = []
        for v, g in zip(u, grad, strict=True):
            point = v.clone().requires_grad_(True)
            value = kernel(point, w)
            (slope,) = torch.autograd.grad(value, point)
            terms.append(value.detach() * g + temperature * slope)
        phi.append(torch.stack(terms).mean(0))
    return torch.stack(phi)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_direction_is_that_of_autograd(temperature) -> None:
    u, grad = torch.randn(2, 6, 3, dtype=torch.float64)
    phi, width = stein_direction(u, grad, batch_ndim=1, bandwidth=1.7, temperature=temperature)
    torch.testing.assert_close(phi, by_autograd(u, grad, 1.7, temperature))
    assert width.tolist() == [1.7]
    # Wrong control: repulsion of the other sign.
    assert not torch.allclose(phi, by_autograd(u, grad, 1.7, -temperature))


def test_the_median_rule_is_taken_for_each_group() -> None:
    u, grad = torch.randn(2, 4, 7, 3, dtype=torch.float64)
    u = u * torch.tensor([0.1, 1.0, 10.0, 1.0]).reshape(4, 1, 1)
    phi, width = stein_direction(u, grad, batch_ndim=2)
    assert width.shape == (4, 1)
    for group in range(4):
        squared = torch.nn.functional.pdist(u[group]).square()
        h = squared.median().item() / math.log(8)
        assert width[group].item() == pytest.approx(h)
        torch.testing.assert_close(phi[group], by_autograd(u[group], grad[group], h, 1.0))


def test_particles_far_from_the_origin_lose_no_digits() -> None:
    # Squared distances are about 1e-4 of |u|^2 = 1e4 there, and single precision has 7 digits.
    u, grad = torch.randn(2, 20, 3, dtype=torch.float64)
    near, _ = stein_direction(u, grad, batch_ndim=1)
    far, _ = stein_direction((u + 100).float(), grad.float(), batch_ndim=1)
    torch.testing.assert_close(far, near.float(), rtol=1e-3, atol=1e-3)


def test_one_particle_alone_climbs_the_gradient() -> None:
    target = Gaussian(
        torch.tensor([1.0, -2.0]).double(), torch.diag(torch.tensor([0.5, 2.0])).double()
    )
    u = torch.randn(5, 1, 2, dtype=torch.float64)
    for s in (0.4, torch.tensor([0.1, 0.4])):
        alone = Svgd(steps=10, step_size=s)(target, u)
        climbed = GradientStep(steps=10, step_size=s)(target, u)
        torch.testing.assert_close(alone, climbed)
    # Wrong control: two particles do not.
    pair = torch.randn(1, 2, 2, dtype=torch.float64)
    ends = Svgd(steps=10, step_size=0.4)(target, pair)
    assert not torch.allclose(ends, GradientStep(steps=10, step_size=0.4)(target, pair))


@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
def test_two_particles_settle_at_their_closed_form(temperature) -> None:
    # On N(m, 1) particles at m +- a have phi = 0 where, with k = exp(-4 a^2 / h),
    # -a + k a + temperature 4 a k / h = 0, i.e. a^2 = h / 4 log(1 + 4 temperature / h).
    h, m = 1.5, 3.0
    a = math.sqrt(h / 4 * math.log(1 + 4 * temperature / h))
    kernel = Svgd(steps=400, step_size=1.0, bandwidth=h, temperature=temperature)
    start = torch.tensor([[2.0], [3.5]], dtype=torch.float64)
    ends, info = kernel(lambda u: normal_density(u - m), start), None
    assert ends.flatten().tolist() == pytest.approx([m - a, m + a], abs=1e-8)
    _, info = kernel.step(lambda u: normal_density(u - m), kernel.init(normal_density, ends))
    assert info.stats["stein"].max() < 1e-8
    # Wrong control: the distance for a kernel exp(-|.|^2 / (2 h)).
    assert abs(a - math.sqrt(h / 2 * math.log(1 + 2 * temperature / h))) > 0.01


def test_without_repulsion_particles_collapse() -> None:
    u = torch.randn(50, 2, generator=stream(0, "u"))
    settings = {"steps": 500, "step_size": 0.5}
    spread = Svgd(**settings)(normal_density, u).var(0)
    collapsed = Svgd(**settings, temperature=0.0)(normal_density, u).var(0)
    assert (spread > 0.6).all()
    assert (collapsed < 0.06).all()


def test_many_particles_have_mean_and_covariance_of_the_target() -> None:
    target = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    u = torch.randn(200, 2, generator=stream(0, "u"))
    ends = Svgd(steps=400, step_size=0.3, optimizer="adam")(target, u)
    torch.testing.assert_close(ends.mean(0), target.mean, atol=0.03, rtol=0)
    # A finite set understates the spread a little.
    torch.testing.assert_close(ends.T.cov(), target.covariance, atol=0.1, rtol=0)
    # Wrong control: the covariance without the correlation is further off.
    assert (ends.T.cov() - torch.eye(2)).abs().max() > 0.4


def test_a_symmetric_start_keeps_the_mean_of_a_symmetric_target_exact() -> None:
    half = torch.randn(30, 3, dtype=torch.float64)
    target = Mixture(torch.tensor([[2.0, 0, 0], [-2.0, 0, 0]]).double(), scale=1.0)
    ends = Svgd(steps=50, step_size=0.5)(target, torch.cat((half, -half)))
    torch.testing.assert_close(ends.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_stein_identity_holds_for_draws_of_the_target_and_no_other() -> None:
    target = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    draws = target.sample(2000, generator=stream(0, "draws"))

    def largest(u: Tensor, temperature: float = 1.0) -> float:
        grad = -torch.linalg.solve(target.covariance, (u - target.mean).T).T
        phi, _ = stein_direction(u, grad, batch_ndim=1, bandwidth=1.0, temperature=temperature)
        # Means of 2000 summands of size about 1: standard error 0.02.
        return phi.abs().max().item()

    assert largest(draws) < 0.12
    assert largest(draws, temperature=0.0) > 0.2
    assert largest(1.5 * draws) > 0.2


def test_order_of_particles_does_not_matter() -> None:
    u = torch.randn(3, 8, 2, dtype=torch.float64)
    order = torch.randperm(8)
    kernel = Svgd(steps=5, step_size=0.5, optimizer="adam")
    one, two = kernel(normal_density, u)[:, order], kernel(normal_density, u[:, order])
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer", [None, "adagrad", "rms", "adam"])
def test_groups_do_not_see_each_other(optimizer) -> None:
    u = torch.randn(2, 3, 8, 2, dtype=torch.float64)
    kernel = Svgd(steps=5, step_size=0.5, optimizer=optimizer)
    together = kernel(normal_density, u)
    alone = kernel(normal_density, u[1, 2])
    torch.testing.assert_close(together[1, 2], alone)
    # Wrong control: particles of one group do see each other.
    changed = u[1, 2].clone()
    changed[0] += 1
    assert not torch.allclose(kernel(normal_density, changed)[1:], alone[1:])


def walled(u: Tensor) -> Tensor:
    """The normal density; nan beyond 3 in the first coordinate."""
    return torch.where(u[..., 0] > 3, torch.nan, normal_density(u))


@pytest.mark.parametrize("optimizer", [None, "rms", "adam"])
def test_bad_particles_touch_no_other(optimizer) -> None:
    u = torch.randn(2, 9, 2, dtype=torch.float64)
    u[0, 4, 0] = 5.0
    kernel = Svgd(steps=6, step_size=0.4, optimizer=optimizer, max_bad=0.5)
    trace = kernel.run(walled, u)
    state = trace.state
    assert state.bad.sum() == 1
    assert state.bad[0, 4]
    assert torch.equal(state.u[0, 4], u[0, 4])
    others = torch.arange(9) != 4
    alone = kernel(walled, u[0, others])
    torch.testing.assert_close(state.u[0, others], alone)
    torch.testing.assert_close(state.u[1], kernel(walled, u[1]))
    assert torch.isfinite(trace.stats["stein"]).all()
    # Wrong control: a finite particle there would be felt.
    assert not torch.allclose(kernel(normal_density, u)[0, others], alone)
    with pytest.raises(DivergenceError):
        Svgd(steps=6, step_size=0.4, max_bad=0.05)(walled, u)


def test_a_particle_that_turns_bad_goes_back() -> None:
    def pulled(u: Tensor) -> Tensor:
        return torch.where(u[..., 0] > 1, torch.nan, 4 * u.sum(-1))

    u = torch.tensor([[0.5], [-50.0], [-60.0]])
    kernel = Svgd(steps=4, step_size=1.0, bandwidth=1.0, max_bad=0.5)
    state = kernel.run(pulled, u).state
    assert state.bad.tolist() == [True, False, False]
    assert state.u[0].item() == 0.5
    # Alone in reach, the others move by s^2 / 2 grad / 3 in the first step and by / 2 after it.
    assert state.u[1].item() == pytest.approx(-50 + 2 / 3 + 3 * 1.0, abs=1e-4)


def test_a_group_of_bad_particles_is_left_alone() -> None:
    u = torch.full((2, 3, 2), 5.0)
    u[1] = torch.randn(3, 2)
    trace = Svgd(steps=2, step_size=0.1, max_bad=0.5).run(walled, u)
    assert torch.equal(trace.state.u[0], u[0])
    assert torch.isfinite(trace.state.u).all()
    assert torch.isfinite(trace.stats["bandwidth"]).all()


def test_particles_on_one_point_stay_finite() -> None:
    ends = Svgd(steps=3, step_size=0.5)(normal_density, torch.ones(4, 2))
    torch.testing.assert_close(ends, torch.full((4, 2), (1 - 0.125) ** 3))


def test_optimizers_are_their_formulas() -> None:
    u = torch.randn(5, 2, dtype=torch.float64)
    s, length = 0.1, 4
    ends = {
        name: Svgd(steps=length, step_size=s, optimizer=name)(normal_density, u)
        for name in ("adagrad", "rms", "adam")
    }
    for name, end in ends.items():
        v, phis = u, []
        for k in range(1, length + 1):
            phis.append(stein_direction(v, -v, batch_ndim=1).direction)
            squares = [phi.square() for phi in phis]
            if name == "adagrad":
                move = phis[-1] / (sum(squares).sqrt() + 1e-6)
            elif name == "rms":
                mean = squares[0]
                for square in squares[1:]:
                    mean = 0.9 * mean + 0.1 * square
                move = phis[-1] / (mean.sqrt() + 1e-6)
            else:
                first = sum(0.1 * 0.9 ** (k - 1 - j) * p for j, p in enumerate(phis))
                second = sum(0.001 * 0.999 ** (k - 1 - j) * q for j, q in enumerate(squares))
                second = second / (1 - 0.999**k)
                move = first / (1 - 0.9**k) / (second.sqrt() + 1e-6)
            v = v + s * move
        torch.testing.assert_close(end, v)
    # Wrong control: the formulas differ from each other.
    assert not torch.allclose(ends["adagrad"], ends["rms"])
    assert not torch.allclose(ends["adam"], ends["rms"])


@pytest.mark.parametrize("optimizer", [None, "adagrad", "rms", "adam"])
def test_continues_exactly_from_a_saved_state(optimizer) -> None:
    kernel = Svgd(steps=4, step_size=0.3, optimizer=optimizer)
    u = torch.randn(2, 6, 3)
    whole = kernel.run(normal_density, u, steps=8).state
    file = io.BytesIO()
    torch.save(kernel.run(normal_density, u).state.state_dict(), file)
    file.seek(0)
    loaded = ChainState.from_state_dict(torch.load(file, weights_only=True))
    again = kernel.run(normal_density, loaded).state
    assert torch.equal(again.u, whole.u)
    assert again.extra.keys() == whole.extra.keys()


def test_draws_nothing_evaluates_once_per_step_and_reports() -> None:
    calls = []

    def density(u: Tensor) -> Tensor:
        calls.append(u.shape)
        return normal_density(u)

    target = Sum({"a": density, "b": (lambda u: u.sum(-1), 0.5)})
    before = torch.get_rng_state()
    trace = Svgd(steps=7, step_size=0.1).run(target, torch.randn(2, 4, 2, generator=stream(0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(calls) == 7
    torch.testing.assert_close(trace.parts["a"] + trace.parts["b"], trace.log_density)
    assert trace.stats["stein"].shape == trace.stats["bandwidth"].shape == (7, 2, 4)


def test_events_of_any_shape_are_vectors() -> None:
    u = torch.randn(2, 5, 6, dtype=torch.float64)
    kernel = Svgd(steps=3, step_size=0.4)
    flat = kernel(normal_density, u)
    shaped = kernel(lambda u: normal_density(u.flatten(-2)), u.reshape(2, 5, 3, 2))
    torch.testing.assert_close(shaped.reshape(2, 5, 6), flat)
    numbers = kernel(lambda u: -0.5 * u.square(), u[..., 0])
    torch.testing.assert_close(numbers.unsqueeze(-1), kernel(normal_density, u[..., :1]))
    double = Svgd(steps=3, step_size=torch.full((6,), 0.1, dtype=torch.float64))
    assert double(normal_density, u.float()).dtype == torch.float32


def test_schedules_follow_the_step() -> None:
    u = torch.randn(5, 2, dtype=torch.float64)
    kernel = Svgd(steps=2, step_size=lambda k: 0.1 * (k + 1), temperature=lambda k: float(k))
    first = Svgd(steps=1, step_size=0.1, temperature=0.0)(normal_density, u)
    second = Svgd(steps=1, step_size=0.2, temperature=1.0)(normal_density, first)
    torch.testing.assert_close(kernel(normal_density, u), second)


def test_particles_without_an_axis_are_refused() -> None:
    with pytest.raises(ValueError, match="u must have an axis of particles"):
        stein_direction(torch.zeros(3), torch.zeros(3), batch_ndim=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"bandwidth": 0.0}, "bandwidth must be positive"),
        ({"temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Svgd(**{"steps": 1, "step_size": 0.1, **settings})


@pytest.mark.usefixtures("wrong_types")
def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="bandwidth must be 'median' or a positive number"):
        Svgd(steps=1, step_size=0.1, bandwidth="mean")
    with pytest.raises(ValueError, match="optimizer must be None or one of adagrad, rms, adam"):
        Svgd(steps=1, step_size=0.1, optimizer="sgd")


def test_parameters_get_no_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    kernel = Svgd(steps=3, step_size=0.3)
    ends = kernel(lambda u: (weight * normal_density(u).unsqueeze(-1)).sum(-1), torch.randn(4, 3))
    assert weight.grad is None
    assert not ends.requires_grad
