import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from lv_core import stream
from lv_priors.ratio.network import StageNetwork, StageSettings
from lv_priors.ratio.waymarks import Moments, linear_schedule, waymark_moments


def path(stages: int = 3) -> Moments:
    """Returns the moments of waymarks from a correlated normal to N(0, I)."""
    first = Moments(
        torch.tensor([2.0, -1.0]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()
    )
    last = Moments(torch.zeros(2).double(), torch.eye(2).double())
    return waymark_moments(first, last, linear_schedule(stages))


def network(stages: int = 3, **settings) -> StageNetwork:
    """Returns a network in float64 with random weights in every layer."""
    net = StageNetwork(2, stages, settings=StageSettings(width=16, **settings))
    net.reset(stream(0, "network"))
    for weight in (net.head, net.constant, net.polynomial):
        if weight is not None:
            weight.data.normal_(generator=stream(0, "head", weight.numel()))
    return net.double()


X = torch.randn(50, 2, generator=stream(0, "x"), dtype=torch.float64)


def test_normal_skip_is_the_optimum_of_every_stage_for_normal_waymarks() -> None:
    net = StageNetwork(2, 3).double()
    marks = path()
    net.set_moments(marks, ridge=0.0)
    normals = [MultivariateNormal(m, c) for m, c in zip(marks.mean, marks.covariance, strict=True)]
    f = net.every(X)
    for k in range(3):
        truth = normals[k].log_prob(X) - normals[k + 1].log_prob(X)
        torch.testing.assert_close(f[k], truth)
        assert (f[k] - truth.neg()).abs().max() > 0.1  # the wrong direction
    torch.testing.assert_close(f.sum(0), normals[0].log_prob(X) - normals[-1].log_prob(X))


def test_carried_points_have_the_moments_of_the_other_waymark() -> None:
    net, marks = StageNetwork(2, 3).double(), path()
    net.set_moments(marks, ridge=0.0)
    moved = net.carry(X, 3, 0)
    root = torch.linalg.cholesky(marks.covariance[0])
    torch.testing.assert_close(moved, marks.mean[0] + X @ root.T)
    torch.testing.assert_close(net.carry(net.carry(X, 2, 1), 1, 2), X)
    assert torch.equal(StageNetwork(2, 3).double().carry(X, 3, 0), X)


@pytest.mark.parametrize("skip", ["quadratic", "none"])
def test_without_normal_skip_learning_starts_at_chance(skip) -> None:
    net = StageNetwork(2, 3, settings=StageSettings(skip=skip))
    net.set_moments(path())
    assert not net.every(X.float()).any()


def test_uncalibrated_normal_skip_is_zero() -> None:
    assert not StageNetwork(2, 3).every(X.float()).any()


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("skip", ["gaussian", "quadratic", "none"])
def test_stages_differ_and_do_not_depend_on_their_company(heads, skip) -> None:
    net = network(heads=heads, skip=skip)
    net.set_moments(path())
    together = net.every(X)
    assert (together[0] - together[1]).abs().max() > 1e-3
    for k in (2, 0):
        alone = net(X[None], torch.tensor([k]))
        torch.testing.assert_close(alone[0], together[k])
    torch.testing.assert_close(net.every(X, first=1), together[1:])


def test_all_stages_cost_one_pass_of_the_trunk() -> None:
    net, calls = network(), []
    net.hidden[0].register_forward_hook(lambda *_: calls.append(1))
    net.every(X)
    assert len(calls) == 1


def test_polynomial_can_be_any_quadratic() -> None:
    net = network(1, skip="quadratic")
    net.head.data.zero_()
    net.set_moments(path(1))
    generator = stream(0, "quadratic")
    x = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    rows = torch.cat((x, x[:, :1] ** 2, x[:, :1] * x[:, 1:], x[:, 1:] ** 2), 1)
    truth = rows @ torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]).double() + 4.0
    columns = []
    for i in range(6):
        unit = torch.eye(6, dtype=torch.float64)[i]
        net.constant.data[0], net.polynomial.data[0] = unit[0], unit[1:]
        columns.append(net.every(x)[0].detach())
    design = torch.stack(columns, 1)
    best = torch.linalg.lstsq(design, truth[:, None]).solution
    torch.testing.assert_close((design @ best)[:, 0], truth)


def test_polynomial_is_orthonormal_under_the_whitened_normal() -> None:
    net = StageNetwork(2, 1, settings=StageSettings(width=1, skip="quadratic")).double()
    x = torch.randn(40_000, 2, generator=stream(0, "orthonormal"), dtype=torch.float64)
    columns = [torch.ones(len(x), dtype=torch.float64)]
    for i in range(5):
        net.polynomial.data[0] = torch.eye(5, dtype=torch.float64)[i]
        columns.append(net.every(x)[0].detach())
    design = torch.stack(columns, 1)
    gram = design.T @ design / len(x)
    # Squares of second-order terms have fourth moments up to 60/4: standard error 0.02.
    torch.testing.assert_close(gram, torch.eye(6).double(), atol=0.1, rtol=0)


def test_reach_ends_the_perceptron_far_away_and_none_does_not() -> None:
    far = 1e4 * X / X.norm(dim=-1, keepdim=True)
    bounded, free = network(skip="none"), network(skip="none", reach=None)
    constant = bounded.constant[:, None]
    assert (bounded.every(far) - constant).abs().max() < 1e-4  # fades as 1 / distance^2
    assert (free.every(far) - constant).abs().max() > 1000
    near = X[X.norm(dim=-1) < math.sqrt(2) + 2.0]
    torch.testing.assert_close(bounded.every(near), free.every(near))


@pytest.mark.parametrize("skip", ["gaussian", "quadratic", "none"])
def test_gain_scales_the_perceptron_alone(skip) -> None:
    net = network(skip=skip)
    net.set_moments(path())
    fixed, perceptron = net.parts(X.expand(3, -1, -1), torch.arange(3))
    assert fixed.shape == perceptron.shape == (3, 50)
    net.gain.copy_(torch.tensor([1.0, 0.0, 0.5]))
    f = net.every(X)
    torch.testing.assert_close(f[0], fixed[0] + perceptron[0])
    torch.testing.assert_close(f[1], fixed[1])
    torch.testing.assert_close(f[2], fixed[2] + 0.5 * perceptron[2])


def test_gradient_at_the_center_is_finite() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    network().every(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_condition_enters_the_trunk_alone_or_for_each_stage() -> None:
    net = StageNetwork(2, 3, condition=1, settings=StageSettings(width=16)).double()
    net.head.data.fill_(1.0)
    y = torch.linspace(-1, 1, len(X), dtype=torch.float64)[:, None]
    f = net.every(X, y)
    assert (f - net.every(X, -y)).abs().max() > 1e-3
    torch.testing.assert_close(net.every(X, y.expand(3, -1, -1)), f)


def test_silu_makes_the_gradient_continuous() -> None:
    def jump(activation: str) -> float:
        net = network(skip="none", activation=activation)
        line = torch.linspace(-2, 2, 20_001, dtype=torch.float64)
        f = net.every(torch.stack((line, line), -1))
        return (f.diff(dim=1).diff(dim=1) / 2e-4).abs().max().item()

    # A second difference over the step is a bend: step times curvature, or a jump of the slope.
    assert jump("silu") < 0.05 * jump("leaky_relu")


def test_reset_depends_on_its_generator_alone() -> None:
    one, two = StageNetwork(2, 3), StageNetwork(2, 3)
    one.reset(stream(0, "a"))
    two.reset(stream(0, "a"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    two.reset(stream(0, "b"))
    assert not torch.equal(one.input.weight, two.input.weight)


def test_singular_moments_stay_finite() -> None:
    net = StageNetwork(2, 1)
    flat = torch.diag(torch.tensor([1.0, 0.0])).expand(2, 2, 2)
    net.set_moments(Moments(torch.zeros(2, 2), flat))
    assert torch.isfinite(net.every(X.float())).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width, depth and embedding must be at least 1"),
        ({"reach": 0.0}, "reach must be positive or None, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        StageSettings(**settings)


@pytest.mark.parametrize("name", ["heads", "activation", "skip"])
def test_unknown_names_are_refused(name, wrong_types) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
        StageSettings(**{name: "other"})


def test_lengths_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="dim must be positive and condition not negative"):
        StageNetwork(0, 3)
    with pytest.raises(ValueError, match="stages must be at least 1"):
        StageNetwork(2, 0)


def test_moments_of_another_number_of_waymarks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"waymarks must have shapes \(5, 2\) and \(5, 2, 2\)"):
        StageNetwork(2, 4).set_moments(path(3))
