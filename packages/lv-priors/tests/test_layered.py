"""The layered prior: linear levels are jointly normal with a known covariance."""

import io
import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import Mala, stream, value_and_grad
from lv_core.nn import mlp
from lv_core.pack import Pack
from lv_core.targets import Gaussian
from lv_priors.layered import LayeredPrior, Level

G = torch.tensor([[0.8], [-0.5]], dtype=torch.float64)  # two entries below one
SCALES = (2.0, 0.5)
TILT = torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)


class Tilt(nn.Module):
    """The tilt a.z."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a.clone())

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a


def linear(space: str = "noise", *, tilted: bool = False, **settings: object) -> LayeredPrior:
    """Returns z1 ~ N(0, 2^2), z2 ~ N(G z1, 0.5^2 I), tilted by a.z if asked for."""
    down = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        down.weight.copy_(G)
    levels = {"top": Level(1, scale=SCALES[0]), "low": Level(2, down, scale=SCALES[1])}
    tilt = Tilt(TILT) if tilted else None
    return LayeredPrior(levels, tilt=tilt, space=space, **settings).double()


def joint() -> Gaussian:
    cross = SCALES[0] ** 2 * G
    low = cross @ G.T + SCALES[1] ** 2 * torch.eye(2).double()
    top = torch.full((1, 1), SCALES[0] ** 2, dtype=torch.float64)
    covariance = torch.cat((torch.cat((top, cross.T), 1), torch.cat((cross, low), 1)))
    return Gaussian(torch.zeros(3).double(), covariance)


def off(draws: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Returns the largest error of mean or covariance in standard errors."""
    n, variance = len(draws), covariance.diagonal()
    of_mean = (draws.mean(0) - mean).abs() / (variance / n).sqrt()
    errors = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    return max(of_mean.max().item(), ((draws.T.cov() - covariance).abs() / errors).max().item())


both_spaces = pytest.mark.parametrize("space", ["noise", "latent"])


@both_spaces
def test_linear_levels_have_the_known_covariance(space) -> None:
    draws = linear(space).sample(20_000, generator=stream(0, "layered"))
    exact = joint()
    assert off(draws, exact.mean, exact.covariance) < 5
    apart = torch.block_diag(exact.covariance[:1, :1], exact.covariance[1:, 1:])
    assert off(draws, exact.mean, apart) > 5  # wrong control: levels that do not speak
    assert off(draws, exact.mean, exact.covariance.diagonal().diag()) > 5


def test_density_of_latents_is_that_of_the_joint_normal() -> None:
    z, exact = torch.randn(7, 3).double(), joint()
    torch.testing.assert_close(linear().latent_log_density(z), exact(z))
    torch.testing.assert_close(linear("latent").log_density(z), exact(z))
    # Change of variables: log p(u) = log p(z) + log |dz/du|.
    prior, u = linear(), torch.randn(7, 3).double()
    log_det = math.log(SCALES[0] * SCALES[1] ** 2)
    torch.testing.assert_close(prior.log_density(u), exact(prior.push(u)) + log_det)
    assert (prior.log_density(u) - exact(prior.push(u))).abs().min() > 0.5  # no Jacobian


def test_scales_that_depend_on_the_levels_above_enter_the_density() -> None:
    levels = {"a": Level(1), "b": Level(1, mlp((1, 4, 2)), scale=None)}
    prior = LayeredPrior(levels, space="latent").double()
    z = torch.randn(9, 2).double()
    mean, log_scale = prior.levels["b"].network(z[:, :1]).unbind(-1)
    normal = torch.distributions.Normal(mean, log_scale.exp())
    top = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
    torch.testing.assert_close(prior.log_density(z), top + normal.log_prob(z[:, 1]))


def test_pull_undoes_push() -> None:
    for prior in (linear(), linear("latent"), deep()):
        u = torch.randn(4, 5, prior.layout.total).double()
        torch.testing.assert_close(prior.pull(prior.push(u)), u)
    assert (linear().push(u[..., :3]) - u[..., :3]).abs().max() > 0.1


def deep(**settings: object) -> LayeredPrior:
    levels = {
        "a": Level(2),
        "b": Level((2, 2), mlp((2, 8, 8)), scale=None),
        "c": Level(3, mlp((6, 8, 3)), scale=0.3),
    }
    return LayeredPrior(levels, **settings).double()


def test_each_level_depends_on_all_above_and_none_below() -> None:
    prior = deep()
    u = torch.randn(9, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(prior.push, u)
    assert bool((matrix.triu(1) == 0).all())
    assert bool((matrix[2:6, :2] != 0).all())
    assert bool((matrix[6:, :6] != 0).all())
    torch.testing.assert_close(matrix[6:, 6:], 0.3 * torch.eye(3).double())


@both_spaces
def test_a_linear_tilt_moves_the_mean_by_the_covariance(space) -> None:
    # exp(a.z) N(0, C) is N(C a, C) times exp(a'Ca / 2), whatever chains run on.
    # Variances of latents span 0.13 to 7.7, those of noises are 1: the former take more steps.
    kernel = Mala(steps=250 if space == "noise" else 600, step_size=0.6)
    prior, exact = linear(space, tilted=True, sampler=kernel), joint()
    draws = prior.sample(2000, generator=stream(0, "tilted", space))
    mean = exact.covariance @ TILT
    assert off(draws, mean, exact.covariance) < 5
    assert off(draws, 0 * mean, exact.covariance) > 5  # wrong control: the tilt forgotten
    assert all(p.grad is None and p.requires_grad for p in prior.parameters())


def test_both_spaces_are_one_distribution_of_latents() -> None:
    noise, latent = linear(tilted=True), linear("latent", tilted=True)
    u = torch.randn(6, 3).double()
    log_det = math.log(SCALES[0] * SCALES[1] ** 2)
    torch.testing.assert_close(noise.log_density(u), latent.log_density(noise.push(u)) + log_det)
    torch.testing.assert_close(noise.latent_log_density(u), latent.log_density(u))


def test_without_a_tilt_the_noise_teaches_nothing_and_latents_teach_the_levels() -> None:
    z = joint().covariance.new_tensor([[1.0, 0.5, -2.0], [-3.0, 1.0, 0.2]])
    loss, logs = linear().loss(z)
    assert loss.item() == 0.0
    assert logs == {}
    prior = linear("latent")
    loss, logs = prior.loss(z)
    torch.testing.assert_close(loss, -joint()(z).mean())
    torch.testing.assert_close(logs["surprise"], loss.detach())


def slope(space: str, a: Tensor, weight: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the exact gradient of the mean log density of data z for the tilted model."""
    a, weight = a.clone().requires_grad_(True), weight.clone().requires_grad_(True)
    cross = SCALES[0] ** 2 * weight
    low = cross @ weight.T + SCALES[1] ** 2 * torch.eye(2).double()
    top = torch.full((1, 1), SCALES[0] ** 2, dtype=torch.float64)
    covariance = torch.cat((torch.cat((top, cross.T), 1), torch.cat((cross, low), 1)))
    log_z = 0.5 * a @ covariance @ a
    levels = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance)
    return torch.autograd.grad((z @ a + levels.log_prob(z)).mean() - log_z, (a, weight))


def test_the_loss_in_latent_space_has_the_gradient_of_the_likelihood() -> None:
    n, exact = 40_000, joint()
    prior = linear("latent", tilted=True)
    data = 1.2 * exact.sample(50, generator=stream(0, "data")) + 0.3
    negative = exact.sample(n, generator=stream(0, "negative")) + exact.covariance @ TILT
    loss, logs = prior.loss(data, negative)
    loss.backward()
    by_tilt, by_level = slope("latent", TILT, G, data)
    # Standard errors: of the mean of z, 2 / sqrt(n); of (z2 - G z1) z1 / 0.25, about
    # sqrt(E residual^2 z1^2) / 0.25, with residuals of 0.5 and z1 of sd 2 and mean C a = 2.6.
    assert (prior.network.a.grad + by_tilt).abs().max() < 5 * 2 / n**0.5
    grad = prior.levels["low"].network.weight.grad
    assert (grad + by_level).abs().max() < 5 * 0.75 * 3.3 / 0.25 / n**0.5
    # wrong control: the levels learned from the data alone, as if they had no constant to pay
    alone = linear("latent")
    alone.loss(data)[0].backward()
    wrong = alone.levels["low"].network.weight.grad
    assert (wrong + by_level).abs().max() > 5 * 0.75 * 3.3 / 0.25 / n**0.5
    assert set(logs) == {"gap", "tilt_posterior", "tilt_prior", "gap_levels"}


def test_the_loss_in_noise_space_has_the_gradient_of_the_likelihood() -> None:
    # log p(x) = log E_u [exp tilt(push u) p(x | push u)] - log Z. With u fixed, tilt and levels
    # get the mean of the tilt's gradient over the posterior minus that over the prior.
    n, exact = 40_000, joint()
    prior = linear(tilted=True)
    mean = prior.pull(exact.covariance @ TILT).detach()  # the tilted prior in u is N(mean, I)
    negative = mean + torch.randn(n, 3, generator=stream(0, "negative")).double()
    prior.loss(torch.zeros(1, 3).double(), negative)[0].backward()
    # At u = 0 tilt and its gradient vanish, which leaves grad log Z, Z = exp(a'C(G)a / 2).
    a, weight = TILT.clone().requires_grad_(True), G.clone().requires_grad_(True)
    root = torch.cat((torch.ones(1, 1).double(), weight)) * SCALES[0]
    log_z = 0.5 * ((root.T @ a).square().sum() + SCALES[1] ** 2 * a[1:].square().sum())
    by_tilt, by_level = torch.autograd.grad(log_z, (a, weight))
    assert (prior.network.a.grad - by_tilt).abs().max() < 5 * 2 / n**0.5
    grad = prior.levels["low"].network.weight.grad
    # d tilt / dG = a_low z1: standard error 2 |a| / sqrt(n).
    assert (grad - by_level).abs().max() < 5 * 2 / n**0.5
    assert by_level.abs().min() > 5 * 2 / n**0.5  # control: no gradient for the levels


def test_loss_draws_where_it_is_given_nothing() -> None:
    prior = linear(tilted=True, sampler=Mala(steps=3, step_size=0.3))
    u = torch.randn(6, 3).double()
    drawn = prior.sample_u(6, generator=stream(0))
    assert torch.equal(prior.loss(u, generator=stream(0)).loss, prior.loss(u, drawn).loss)


def test_energy_l2_holds_the_tilt_and_not_the_levels() -> None:
    u, v = torch.randn(6, 3).double(), torch.randn(4, 3).double()
    for space in ("noise", "latent"):
        plain = linear(space, tilted=True)
        held = linear(space, tilted=True, energy_l2=0.1)
        squares = (plain.push(torch.cat((u, v))) @ TILT).square().mean()
        torch.testing.assert_close(held.loss(u, v).loss - plain.loss(u, v).loss, 0.1 * squares)


def test_starts_are_draws_from_the_levels() -> None:
    one = linear("latent", tilted=True).init(5, generator=stream(0))
    two = linear(tilted=True)
    torch.testing.assert_close(one, two.push(two.init(5, generator=stream(0))).detach())
    assert not one.requires_grad


def test_tilt_is_zero_without_a_network_and_gradients_reach_everything_with_one() -> None:
    z = torch.randn(2, 5, 3).double()
    assert torch.equal(linear().tilt(z), torch.zeros(2, 5).double())
    prior = linear(tilted=True)
    assert bool((value_and_grad(prior.log_density, z).grad != 0).all())
    column = LayeredPrior({"a": Level(3)}, tilt=nn.Linear(3, 1)).double()
    assert column.tilt(z).shape == (2, 5)


def test_state_of_levels_and_tilt_comes_back() -> None:
    prior, file = deep(tilt=mlp((9, 4, 1))), io.BytesIO()
    torch.save(prior.state_dict(), file)
    file.seek(0)
    other = deep(tilt=mlp((9, 4, 1)))
    other.load_state_dict(torch.load(file, weights_only=True))
    u = torch.randn(5, 9).double()
    assert torch.equal(other.log_density(u), prior.log_density(u))
    assert "levels.b.network.0.weight" in prior.state_dict()


def test_latents_come_apart_by_name() -> None:
    blocks = deep().layout.unpack(deep().sample(5))
    assert {name: tuple(b.shape) for name, b in blocks.items()} == {
        "a": (5, 2),
        "b": (5, 2, 2),
        "c": (5, 3),
    }


def test_packing_undoes_unpacking() -> None:
    layout, packed = Pack({"a": (2,), "b": (2, 3)}), torch.randn(4, 5, 8)
    blocks = layout.unpack(packed)
    assert blocks["b"].shape == (4, 5, 2, 3)
    assert torch.equal(blocks["b"].reshape(4, 5, 6), packed[..., 2:])
    assert torch.equal(layout.pack(blocks), packed)
    assert torch.equal(layout.pack({"b": blocks["b"], "a": blocks["a"]}), packed)


def test_blocks_that_do_not_fit_are_refused() -> None:
    layout = Pack({"a": (2,), "b": (2, 3)})
    with pytest.raises(ValueError, match=r"blocks must be \['a', 'b'\], got \['a'\]"):
        layout.pack({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"block 'b' must end in shape \(2, 3\), got \(3, 2\)"):
        layout.pack({"a": torch.zeros(2), "b": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"must be 8 long, got shape \(4, 7\)"):
        layout.unpack(torch.zeros(4, 7))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({}, r"at least one level.* got \[\]"),
        ({"a": Level(2, mlp((2, 2)))}, "the first must have no network"),
    ],
)
def test_hierarchies_without_a_first_level_are_refused(levels, message) -> None:
    with pytest.raises(ValueError, match=message):
        LayeredPrior(levels)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="energy_l2 must not be negative, got -1"):
        LayeredPrior({"a": Level(2)}, energy_l2=-1.0)
    with pytest.raises(ValueError, match="shape must be one or more positive lengths, got 0"):
        Level(0)
    with pytest.raises(ValueError, match=r"scale must be positive, got 0\.0"):
        Level(2, scale=0.0)
    with pytest.raises(ValueError, match="scale=None needs a network"):
        Level(2, scale=None)


@pytest.mark.parametrize(("scale", "width"), [(1.0, 3), (None, 2)])
def test_a_level_network_of_another_width_is_refused(scale, width) -> None:
    levels = {"a": Level(2), "b": Level(2, mlp((2, width)), scale=scale)}
    with pytest.raises(
        ValueError, match=rf"scale={scale} must return shape .* got \(5, {width}\)"
    ):
        LayeredPrior(levels).push(torch.zeros(5, 4))


def test_a_tilt_with_more_than_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one value per latent, shape \(5,\), got \(5, 2\)"):
        LayeredPrior({"a": Level(3)}, tilt=mlp((3, 2))).tilt(torch.zeros(5, 3))
