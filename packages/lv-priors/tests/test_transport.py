"""The transport prior, against a linear network, whose latents and posterior are known."""

import pytest
import torch
from torch import Tensor, nn

from lv_core import Mala, frozen, posterior, stream
from lv_core.nn import mlp
from lv_core.nn.unet1d import UNet1d
from lv_core.targets import Gaussian, LinearGaussian
from lv_priors.transport import TransportPrior

A = torch.tensor([[1.0, 0.5, 0.0], [-0.3, 0.8, 0.2], [0.4, 0.0, 1.5]], dtype=torch.float64)
B = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
W = torch.tensor([[1.0, 0.0, 0.7], [0.2, -1.0, 0.4]], dtype=torch.float64)


def linear() -> TransportPrior:
    """Returns z = A u + b: z ~ N(b, A A')."""
    network = nn.Linear(3, 3).double()
    with torch.no_grad():
        network.weight.copy_(A)
        network.bias.copy_(B)
    return TransportPrior(network, 3).double()


def off(draws: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Returns the largest error of mean or covariance in standard errors."""
    n, variance = len(draws), covariance.diagonal()
    of_mean = (draws.mean(0) - mean).abs() / (variance / n).sqrt()
    errors = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    return max(of_mean.max().item(), ((draws.T.cov() - covariance).abs() / errors).max().item())


def test_density_is_that_of_the_noise() -> None:
    prior = TransportPrior(mlp((3, 3)), (2, 3))
    u = torch.randn(5, 2, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum((-1, -2))
    torch.testing.assert_close(prior.log_density(u), expected)


def test_samples_of_a_linear_network_have_the_known_moments() -> None:
    draws = linear().sample(20_000, generator=stream(0, "linear"))
    assert off(draws, B, A @ A.T) < 5
    assert off(draws, B, A.T @ A) > 5  # wrong control: the transposed network
    assert off(draws, B, torch.eye(3)) > 5  # wrong control: noise taken for latents


def test_chains_find_the_posterior_of_the_noise() -> None:
    prior, x = linear(), torch.tensor([2.0, -1.5], dtype=torch.float64)
    model = LinearGaussian(W, noise=0.8)
    exact = LinearGaussian(W @ A, noise=0.8).posterior(x - W @ B)
    kernel = Mala(steps=200, step_size=0.4)

    def run(target) -> Tensor:
        starts = prior.init(3000, generator=stream(0, "starts"))
        return kernel(target, starts, generator=stream(0, "chains"))

    with frozen(prior):
        draws = run(posterior(prior, lambda z: model.log_likelihood(x, z)))
        # wrong control: the noise itself goes to the decoder
        forgot = run(lambda u: prior.log_density(u) + model.log_likelihood(x, u))
    assert off(draws, exact.mean, exact.covariance) < 5
    assert off(forgot, exact.mean, exact.covariance) > 5
    # In latents: b + A u.
    assert off(prior.push(draws).detach(), A @ exact.mean + B, A @ exact.covariance @ A.T) < 5
    assert all(p.grad is None for p in prior.parameters())


def test_density_of_the_latent_says_what_to_do_instead() -> None:
    prior = linear()
    with pytest.raises(NotImplementedError, match=r"Infer u instead of z: .*prior\.push\(u\)"):
        prior.latent_log_density(torch.zeros(5, 3).double())
    assert prior.log_normalizer() == 0.0


def test_likelihood_is_what_teaches_the_network() -> None:
    prior, u = linear(), torch.randn(5, 3).double()
    loss, logs = prior.loss(u)
    assert loss.item() == 0.0
    assert logs == {}
    # d/dA of -|z|^2/2 with u fixed is -z u'.
    (-0.5 * prior.push(u).square().sum()).backward()
    z = u @ A.T + B
    torch.testing.assert_close(prior.network.weight.grad, -z.T @ u)


def test_learning_through_the_likelihood_recovers_the_moments_of_the_data() -> None:
    # x = z + N(0, 0.3^2 I) with z ~ N(m, s^2): the exact posterior of u is known at each step, so
    # this is Monte Carlo EM; its fixed point is m and s of the data.
    noise, n = 0.3, 2000
    x = torch.tensor([1.0, -2.0]) + 0.7 * torch.randn(n, 2, generator=stream(0, "data"))
    x = x + noise * torch.randn(n, 2, generator=stream(0, "noise"))
    prior = TransportPrior(nn.Linear(2, 2), 2)
    nn.init.eye_(prior.network.weight)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    generator = stream(0, "posterior")
    for _ in range(300):
        with torch.no_grad():
            weight, bias = prior.network.weight, prior.network.bias
            exact = LinearGaussian(weight.clone(), noise=noise).posterior(x[0] - bias)
            mean = (x - bias) @ weight @ exact.covariance / noise**2
            u = mean + torch.randn(n, 2, generator=generator) @ exact._root.T
        loss = (x - prior.push(u)).square().sum(-1).mean() / (2 * noise**2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = prior.network.weight.detach() @ prior.network.weight.detach().T
    # The maximum of the likelihood itself, so only the noise of the last updates remains: EM
    # moves of relative size sqrt(2 / n) = 3 %, averaged by the optimiser.
    wanted = x.T.cov() - noise**2 * torch.eye(2)
    assert (learned - wanted).abs().max() < 0.03
    assert (prior.network.bias.detach() - x.mean(0)).abs().max() < 0.03
    assert (torch.eye(2) - wanted).abs().max() > 0.1  # control: where it started


def test_one_network_maps_every_token_by_itself() -> None:
    network = UNet1d(8, (1, 2), groups=4, attention="none")
    prior, u = TransportPrior(network, (3, 16)), torch.randn(5, 3, 16)
    tokens = torch.stack([network(u[:, k]) for k in range(3)], dim=1)
    torch.testing.assert_close(prior.push(u), tokens)
    whole = TransportPrior(network, (3, 16), layout="flat")
    torch.testing.assert_close(whole.push(u), network(u.reshape(5, 48)).reshape(5, 3, 16))
    assert (whole.push(u) - tokens).abs().max() > 1e-2  # the layouts differ


def test_gradients_reach_noise_and_network() -> None:
    prior = TransportPrior(UNet1d(8, (1, 2), groups=4, heads=2, head_width=4), (2, 8))
    u = torch.randn(3, 2, 8, requires_grad=True)
    prior.push(u).square().sum().backward()
    assert bool((u.grad != 0).all())
    assert all(p.grad is not None for p in prior.parameters())


@pytest.mark.parametrize("layout", ["token", "flat"])
def test_a_network_that_changes_the_shape_is_refused(layout) -> None:
    prior = TransportPrior(mlp((4, 3)), 4, layout=layout)
    with pytest.raises(ValueError, match=r"must keep the shape it sees .*got \(5, 3\)"):
        prior.push(torch.zeros(5, 4))


def test_linear_target_is_normal_itself() -> None:
    # The density that the prior cannot give in general, here by change of variables.
    prior, u = linear(), torch.randn(7, 3).double()
    exact = Gaussian(B, A @ A.T)(prior.push(u))
    torch.testing.assert_close(prior.log_density(u) - A.det().abs().log(), exact)
    assert (prior.log_density(u) - exact).abs().min() > 0.1  # control: no Jacobian
