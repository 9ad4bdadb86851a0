"""Conditional energies with the tilt z'Mc, for which p(z | c) = N(Mc, I)."""

import pytest
import torch
from torch import Tensor, nn

from lv_core import Langevin, Mala, stream
from lv_core.targets import Gaussian
from lv_priors.energy import EnergyPrior, match_condition

M = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-1.2, 0.4]], dtype=torch.float64)


class Bilinear(nn.Module):
    """The tilt z'Mc."""

    def __init__(self, m: Tensor) -> None:
        super().__init__()
        self.m, self.calls = nn.Parameter(m.clone()), 0

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        self.calls += 1
        return (z @ self.m * condition).sum(-1)


def bilinear(m: Tensor = M, **settings: object) -> EnergyPrior:
    return EnergyPrior(Bilinear(m), 3, conditional=True, **settings).double()


def test_given_a_condition_the_density_is_the_known_normal() -> None:
    c, z = torch.randn(5, 2).double(), torch.randn(4, 5, 3).double()
    prior = bilinear(scale=0.7)
    mean = 0.49 * c @ M.T
    value = prior.given(c).log_density(z)
    exact = torch.stack(
        [Gaussian(m, 0.49 * torch.eye(3).double())(z[:, k]) for k, m in enumerate(mean)]
    )
    constant = value - exact.T
    torch.testing.assert_close(constant, constant[:1].expand(4, 5))  # depends on c alone
    swapped = prior.given(c.flip(0)).log_density(z) - exact.T
    assert (swapped - swapped[:1]).abs().max() > 0.5  # wrong control: another's condition


def test_samples_follow_their_conditions() -> None:
    n, c = 3000, torch.tensor([[1.0, 0.0], [0.5, -1.0]]).double()
    prior = bilinear(sampler=Mala(steps=120, step_size=0.8))
    bound = prior.given(c.repeat_interleave(n, 0))
    draws = bound.sample(2 * n, generator=stream(0, "given")).reshape(2, n, 3)
    error = n**-0.5
    assert (draws.mean(1) - c @ M.T).abs().max() < 5 * error
    assert (draws.var(1) - 1).abs().max() < 5 * 2**0.5 * error
    assert (draws.mean(1).flip(0) - c @ M.T).abs().max() > 5 * error  # wrong control
    assert all(p.grad is None and p.requires_grad for p in prior.parameters())


def test_one_condition_serves_any_number_of_latents() -> None:
    prior, c, z = bilinear(), torch.randn(1, 2).double(), torch.randn(4, 5, 3).double()
    one, many = prior.given(c), prior.given(c.expand(5, 2))
    torch.testing.assert_close(one.log_density(z), many.log_density(z))
    torch.testing.assert_close(one.log_density(z[0, 0]), many.log_density(z)[0, 0])
    assert one.sample(7).shape == (7, 3)


def test_contrastive_gradient_pairs_each_condition_with_both_samples() -> None:
    c, z, negative = (torch.randn(6, k).double() for k in (2, 3, 3))
    prior = bilinear()
    loss, logs = prior.given(c).loss(z, negative)
    loss.backward()
    expected = (z - negative).T @ c / 6
    torch.testing.assert_close(-prior.network.m.grad, expected)
    assert (expected - (z - negative).T @ c.flip(0) / 6).abs().max() > 0.1  # wrong control
    torch.testing.assert_close(logs["gap"], (expected * M).sum())
    assert prior.network.calls == 1  # both sets in one pass


def test_without_prior_samples_the_loss_draws_one_for_each_condition() -> None:
    c, z = torch.randn(6, 2).double(), torch.randn(6, 3).double()
    bound = bilinear(sampler=Langevin(steps=3, step_size=0.3), energy_l2=0.1).given(c)
    drawn = bound.sample(6, generator=stream(0))
    assert torch.equal(bound.loss(z, generator=stream(0)).loss, bound.loss(z, drawn).loss)
    held = 0.1 * bound.tilt(torch.stack((z, drawn))).square().mean()
    plain = bilinear().given(c).loss(z, drawn).loss
    torch.testing.assert_close(bound.loss(z, drawn).loss, plain + held)


def learn(*, shuffle: bool) -> Tensor:
    """Returns the matrix learned from pairs; shuffled conditions are the wrong control."""
    generator = stream(0, "learn")
    prior = bilinear(torch.zeros(3, 2), sampler=Langevin(steps=40, step_size=0.5))
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.3)
    for _ in range(30):
        c = torch.randn(500, 2, generator=generator).double()
        z = c @ M.T + torch.randn(500, 3, generator=generator).double()
        bound = prior.given(c.flip(0) if shuffle else c)
        loss, _ = bound.loss(z, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior.network.m.detach()


def test_learning_recovers_the_matrix_that_made_the_pairs() -> None:
    # The chain ends within 0.5 % of Mc. Noise of an update sqrt(2 |c|^2 / 500), averaged over
    # about 1 / 0.3 of them: below 0.03.
    assert (learn(shuffle=False) - M).abs().max() < 5 * 0.03
    assert (learn(shuffle=True) - M).abs().max() > 0.5


def test_a_bound_prior_is_a_view() -> None:
    prior = bilinear(scale=0.5, start_scale=0.3, energy_l2=0.2)
    bound = prior.given(torch.ones(1, 2).double())
    assert (bound.scale, bound.start_scale, bound.energy_l2) == (0.5, 0.3, 0.2)
    assert bound.sampler is prior.sampler
    assert {p.data_ptr() for p in bound.parameters()} == {p.data_ptr() for p in prior.parameters()}
    assert not any("condition" in name for name in bound.state_dict())
    assert bound.init(3).dtype == torch.float64
    z = torch.randn(3, 3).double()
    before = bound.log_density(z)
    with torch.no_grad():
        prior.network.m.mul_(2.0)
    assert (bound.log_density(z) - before).abs().max() > 0.1


def test_priors_are_bound_exactly_where_they_need_to_be() -> None:
    with pytest.raises(ValueError, match=r"needs a condition: bind it first, prior\.given"):
        bilinear().log_density(torch.zeros(5, 3).double())
    with pytest.raises(ValueError, match="make it with conditional=True"):
        EnergyPrior(nn.Linear(3, 1), 3).given(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="make it with conditional=True"):
        bilinear().given(torch.zeros(5, 2)).given(torch.zeros(5, 2))


@pytest.mark.parametrize("batch", [(), (4,), (5, 4)])
def test_conditions_that_do_not_match_are_refused(batch) -> None:
    message = r"condition holds 5 rows for latents of batch shape .*repeat_interleave"
    with pytest.raises(ValueError, match=message):
        bilinear().given(torch.zeros(5, 2).double()).log_density(torch.zeros(*batch, 3).double())


def test_conditions_of_any_shape_are_expanded_over_the_batch() -> None:
    c = torch.randn(5, 2, 3)
    assert torch.equal(match_condition(c, (4, 5)), c.expand(4, 5, 2, 3))
    assert match_condition(c[:1], (4, 5)).shape == (4, 5, 2, 3)
    assert match_condition(c[:1], ()).shape == (2, 3)
    assert match_condition(torch.arange(5), (5,)).shape == (5,)
