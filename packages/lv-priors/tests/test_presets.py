"""The presets against the update formulas of the paper's code, written out by hand."""

import pytest
import torch
from torch import Tensor

from lv_core import Draws, GradientStep, Langevin, Sequence, Sum, frozen, stream
from lv_core.nn import mlp
from lv_priors import EnergyPrior, PropertyHead
from lv_priors.presets import sgds_joint, sgds_posterior, sgds_prior, sgds_shift

DIM, CHAINS = 4, 16
STEP, NOISE_FACTOR, REFERENCE = 0.5, 0.5, 0.5  # s, nf and s0 of the official code


def test_values_are_those_of_the_official_code() -> None:
    langevin = Langevin(steps=1, step_size=STEP, temperature=NOISE_FACTOR**2)
    guided = GradientStep(steps=1, step_size=STEP)
    assert sgds_prior() == Langevin(steps=20, step_size=STEP, temperature=NOISE_FACTOR**2)
    assert sgds_posterior() == Sequence(
        stages=((langevin, ("prior", "x")), (guided, ("y",))), steps=20
    )
    assert sgds_shift() == Sequence(stages=((langevin, ("prior",)), (guided, ("y",))), steps=2)
    assert sgds_joint() == sgds_prior()


def test_steps_and_clip_can_be_chosen() -> None:
    assert sgds_prior(60).steps == 60
    for preset in (sgds_posterior, sgds_shift):
        kernel = preset(7, clip=3.0)
        assert kernel.steps == 7
        assert [stage.clip for stage, _ in kernel.stages] == [3.0, 3.0]
        assert [stage.clip for stage, _ in preset().stages] == [None, None]
    assert sgds_joint(7, clip=3.0).clip == 3.0


class Setting:
    """A tilt f, a likelihood of strings and a property head, all with random weights."""

    def __init__(self) -> None:
        self.prior = EnergyPrior(mlp((DIM, 8, 1)), DIM, scale=REFERENCE).double()
        self.decoder = mlp((DIM, 8, 1)).double()
        self.head = PropertyHead((DIM, 8, 1), precision=10.0).double()
        self.y = torch.randn(CHAINS, dtype=torch.float64)
        self.noise = torch.randn(20, CHAINS, DIM, dtype=torch.float64)
        self.start = torch.randn(CHAINS, DIM, dtype=torch.float64)

    def negative_log_likelihood(self, z: Tensor) -> Tensor:
        return self.decoder(z).squeeze(-1).square()

    @property
    def target(self) -> Sum:
        return Sum(
            {
                "prior": self.prior.log_density,
                "x": lambda z: -self.negative_log_likelihood(z),
                "y": lambda z: self.head.log_prob(self.y, z),
            }
        )

    def grad(self, function, z: Tensor) -> Tensor:
        point = z.detach().requires_grad_(True)
        return torch.autograd.grad(function(point).sum(), point)[0]

    def prior_force(self, z: Tensor) -> Tensor:
        """-grad f(z) + z / s0^2."""
        return -self.grad(lambda v: self.prior.network(v), z) + z / REFERENCE**2

    def by_hand(self, *, steps: int, likelihood: bool, guided: bool, sign: float = 1.0) -> Tensor:
        z, s = self.start, STEP
        for eps in self.noise[:steps]:
            force = self.prior_force(z)
            if likelihood:
                force = force + self.grad(self.negative_log_likelihood, z)
            z = z - 0.5 * s**2 * force + NOISE_FACTOR * s * eps
            if guided:
                squared = self.grad(lambda v: (self.y - self.head.mean(v)).square(), z)
                z = z - sign * 0.5 * s**2 * 10.0 * squared
        return z

    def by_kernel(self, kernel) -> Tensor:
        state = kernel.init(self.target, self.start)
        for eps in self.noise[: kernel.steps]:
            state, _ = kernel.step(self.target, state, generator=Draws(normals=[eps]))
        return state.u


def close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-9, atol=1e-10)


def test_prior_chain_is_the_formula_of_the_paper() -> None:
    setting = Setting()
    kernel = sgds_prior()
    state = kernel.init(setting.prior.log_density, setting.start)
    for eps in setting.noise:
        state, _ = kernel.step(setting.prior.log_density, state, generator=Draws(normals=[eps]))
    assert close(state.u, setting.by_hand(steps=20, likelihood=False, guided=False))
    # Wrong control: with the likelihood's force.
    assert not close(state.u, setting.by_hand(steps=20, likelihood=True, guided=False))


def test_posterior_chain_is_the_two_stage_formula_of_the_paper() -> None:
    setting = Setting()
    ends = setting.by_kernel(sgds_posterior())
    assert close(ends, setting.by_hand(steps=20, likelihood=True, guided=True))
    # Wrong controls: the property term pushed the other way, and left out.
    assert not close(ends, setting.by_hand(steps=20, likelihood=True, guided=True, sign=-1.0))
    assert not close(ends, setting.by_hand(steps=20, likelihood=True, guided=False))


@pytest.mark.parametrize("steps", [2, 20])
def test_shift_chain_is_the_same_without_the_likelihood(steps) -> None:
    setting = Setting()
    ends = setting.by_kernel(sgds_shift(steps))
    assert close(ends, setting.by_hand(steps=steps, likelihood=False, guided=True))
    assert not close(ends, setting.by_hand(steps=steps, likelihood=True, guided=True))


def test_joint_chain_differs_from_the_two_stages() -> None:
    setting = Setting()
    ends = setting.by_kernel(sgds_joint(5))
    assert not close(ends, setting.by_hand(steps=5, likelihood=True, guided=True))


def test_prior_chain_has_the_known_variance_on_its_reference() -> None:
    prior = EnergyPrior(torch.nn.Linear(1, 1), 1, scale=REFERENCE, sampler=sgds_prior())
    torch.nn.init.zeros_(prior.network.weight)
    draws, n = prior.sample(50_000, generator=stream(0, "sgds")), 50_000
    # c^2 s0^2 / (1 - s^2/(4 s0^2)) = 1/12; the variance of n draws has the relative standard
    # error sqrt(2 / n).
    assert abs(draws.var().item() * 12 - 1) < 5 * (2 / n) ** 0.5
    assert abs(draws.var().item() / 0.0625 - 1) > 5 * (2 / n) ** 0.5  # without discretisation


def test_presets_leave_parameters_alone() -> None:
    setting = Setting()
    modules = (setting.prior, setting.decoder, setting.head)
    with frozen(*modules):
        sgds_posterior()(setting.target, setting.start)
    sgds_posterior()(setting.target, setting.start)
    assert all(p.grad is None and p.requires_grad for m in modules for p in m.parameters())
