"""Calibration tests on a linear Gaussian model: exact samplers pass, wrong ones fail."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lv_core import GradientStep, Kernel, Langevin, Mala, Source, normal, stream
from lv_core.density import LogDensity
from lv_core.diagnostics.calibration import sbc, sbc_ranks, sbc_test
from lv_core.diagnostics.joint_test import geweke_joint_test
from lv_core.targets import LinearGaussian

MODEL = LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [-0.5, 0.3]]), noise=0.7)
Sampler = Callable[..., Tensor]


def prior(n: int, *, generator: Source) -> Tensor:
    return normal(torch.empty(n, 2), generator)


def simulate(z: Tensor, *, generator: Source) -> Tensor:
    mean = z @ MODEL.weight.T
    return mean + MODEL.noise * normal(mean, generator)


def target(x: Tensor) -> LogDensity:
    return lambda z: -0.5 * z.square().sum(-1) + MODEL.log_likelihood(x, z)


def exact(scale: float = 1.0) -> Sampler:
    """Returns independent draws of the posterior, its spread multiplied by `scale`."""

    def sampler(x: Tensor, *, generator: Source) -> Tensor:
        one = MODEL.posterior(torch.zeros(3))
        mean = x @ MODEL.weight @ one.covariance.T / MODEL.noise**2
        eps = normal(torch.empty(19, *mean.shape), generator)
        return mean + scale * eps @ torch.linalg.cholesky(one.covariance).T

    return sampler


def chains(kernel: Kernel) -> Sampler:
    def sampler(x: Tensor, *, generator: Source) -> Tensor:
        start = prior(len(x), generator=generator)
        # 19 kept positions, the first 20 steps and all between forgotten.
        return kernel.run(target(x), start, generator=generator, steps=380, thin=20).u

    return sampler


def p_values(sampler: Sampler, *, simulations: int = 400) -> Tensor:
    generator = stream(0, "sbc")
    ranks = sbc(prior, simulate, sampler, simulations=simulations, generator=generator)
    assert ranks.shape == (simulations, 2)
    return sbc_test(ranks, draws=19).p_value


def test_exact_posterior_draws_are_calibrated() -> None:
    assert p_values(exact()).min() > 1e-3


@pytest.mark.parametrize("scale", [0.6, 1.6])
def test_draws_of_wrong_spread_are_found(scale: float) -> None:
    assert p_values(exact(scale)).max() < 1e-6


def test_metropolis_adjusted_chains_are_calibrated() -> None:
    assert p_values(chains(Mala(steps=1, step_size=0.7)), simulations=250).min() > 1e-3


def test_chains_of_wrong_temperature_are_found() -> None:
    cold = Mala(steps=1, step_size=0.6, temperature=0.5)
    assert p_values(chains(cold), simulations=250).max() < 1e-3
    noiseless = GradientStep(steps=1, step_size=0.4)
    assert p_values(chains(noiseless), simulations=250).max() < 1e-6


def test_ranks_count_the_draws_below() -> None:
    draws = torch.tensor([[[0.0], [5.0]], [[1.0], [6.0]], [[2.0], [7.0]]])
    assert sbc_ranks(draws, torch.tensor([[1.5], [9.0]])).tolist() == [[2], [3]]


def test_draws_and_truths_without_rank_are_refused() -> None:
    draws, truth = torch.randn(5, 12, 2), torch.randn(12, 2)
    draws[4, 3, 1], truth[7, 0] = math.nan, math.nan
    with pytest.raises(ValueError, match=r"2 of 12 simulations \(numbers 3, 7\): mend"):
        sbc_ranks(draws, truth)
    with pytest.raises(ValueError, match=r"12 of 12 .*numbers 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\)"):
        sbc_ranks(draws, truth * math.nan)
    with pytest.raises(ValueError, match=r"1 of 3 simulations \(numbers 2\)"):
        sbc_ranks(torch.zeros(4, 3), torch.tensor([0.0, 1.0, math.nan]))
    draws[4, 3, 1], truth[7, 0] = math.inf, -math.inf  # these have a rank
    assert sbc_ranks(draws, truth)[7, 0].item() == 0


def test_equal_values_are_ordered_at_random() -> None:
    ranks = sbc_ranks(torch.zeros(3, 8000), torch.zeros(8000), generator=stream(0, "ties"))
    # Four ranks, 2000 each, standard error sqrt(8000 3/16) = 38.7.
    counts = ranks.bincount(minlength=4).double()
    assert (counts - 2000).abs().max() < 5 * 38.7


def test_p_value_and_band_are_the_closed_forms() -> None:
    # Three ranks in two bins of sizes two and one: expected 4 and 2; two degrees less one.
    ranks = torch.tensor([0, 0, 1, 2, 2, 2])
    result = sbc_test(ranks, draws=2, bins=2)
    statistic = 1 / 4 + 1 / 2
    assert result.p_value.item() == pytest.approx(math.erfc(math.sqrt(statistic / 2)))
    # Distribution function 1/3, 1/2, 1 against 1/3, 2/3, 1.
    assert result.distance.item() == pytest.approx(1 / 6)
    assert result.band == pytest.approx(math.sqrt(math.log(40) / 12))
    assert result.inside.item() is True
    assert sbc_test(torch.zeros(50, dtype=torch.int64), draws=9).inside.item() is False


def test_p_values_of_uniform_ranks_are_uniform() -> None:
    ranks = torch.randint(0, 20, (300, 500), generator=stream(0, "uniform"))
    result = sbc_test(ranks, draws=19)
    # 500 p-values: mean 1/2 with standard error 0.289/sqrt(500) = 0.0129.
    assert abs(result.p_value.mean().item() - 0.5) < 5 * 0.0129
    assert result.inside.double().mean() > 0.93  # 0.95 at least, standard error 0.01
    slanted = sbc_test((ranks.double() ** 1.15).long().clamp(max=19), draws=19)
    assert slanted.inside.double().mean() < 0.5  # wrong control


def test_calibration_refuses_what_it_cannot_judge(wrong_types: None) -> None:
    with pytest.raises(ValueError, match="simulations must be at least 2, got 1"):
        sbc(prior, simulate, exact(), simulations=1)
    with pytest.raises(ValueError, match=r"draws must have shape \(draws, \*\(4, 2\)\)"):
        sbc_ranks(torch.zeros(9, 3, 2), torch.zeros(4, 2))
    ranks = torch.zeros(9, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="level must lie in"):
        sbc_test(ranks, draws=4, level=1.0)
    with pytest.raises(ValueError, match=r"bins must lie in 2..draws \+ 1 = 5, got 6"):
        sbc_test(ranks, draws=4, bins=6)
    with pytest.raises(ValueError, match=r"at least two numbers in 0..4"):
        sbc_test(ranks + 5, draws=4)
    with pytest.raises(ValueError, match=r"at least two numbers in 0..4"):
        sbc_test(ranks[:1], draws=4)


def transition(kernel: Kernel) -> Sampler:
    def move(z: Tensor, x: Tensor, *, generator: Source) -> Tensor:
        return kernel(target(x), z, generator=generator)

    return move


def largest(move: Sampler) -> float:
    result = geweke_joint_test(prior, simulate, move, chains=200, generator=stream(0, "joint"))
    assert result.z.shape == result.marginal.shape == result.successive.shape == (4,)
    return result.z.abs().max().item()


def test_joint_test_passes_exact_transitions() -> None:
    # Four z-scores.
    assert largest(transition(Mala(steps=1, step_size=0.8))) < 4.5
    single = exact()
    assert largest(lambda z, x, *, generator: single(x, generator=generator)[0]) < 4.5


def test_joint_test_finds_wrong_transitions() -> None:
    assert largest(transition(Mala(steps=1, step_size=0.7, temperature=0.5))) > 10
    # The Metropolis term missing: bias of the order of the squared step size.
    assert largest(transition(Langevin(steps=1, step_size=0.8))) > 5
    wide = exact(1.2)
    assert largest(lambda z, x, *, generator: wide(x, generator=generator)[0]) > 10


def test_joint_test_reports_both_estimates_of_chosen_statistics() -> None:
    result = geweke_joint_test(
        prior,
        simulate,
        transition(Mala(steps=1, step_size=0.8)),
        statistics=lambda z, x: z[:, :1] * x[:, :1],
        generator=stream(0, "joint"),
    )
    # E z_0 x_0 = W_00 = 1.
    assert result.marginal.item() == pytest.approx(1.0, abs=0.1)
    assert result.successive.item() == pytest.approx(1.0, abs=0.1)
    assert abs(result.z.item()) < 5


def test_joint_test_refuses_short_or_shapeless_runs(wrong_types: None) -> None:
    move = transition(Mala(steps=1, step_size=0.8))
    with pytest.raises(ValueError, match="need chains >= 2 and draws >= 8, got chains=1, draws=9"):
        geweke_joint_test(prior, simulate, move, chains=1, draws=9)
    with pytest.raises(ValueError, match=r"statistics must return shape .* got \(40,\)"):
        geweke_joint_test(
            prior, simulate, move, chains=4, draws=10, statistics=lambda z, x: z[:, 0]
        )
