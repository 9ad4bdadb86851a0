"""Annealed importance sampling against targets whose normaliser is known."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lv_core import ChainState, Langevin, Mala, Sum, stream
from lv_core.evidence import (
    StepTable,
    ais,
    ais_reverse,
    bdmc,
    bidirectional,
    log_mean_exp,
    temperatures,
    tune_path,
)
from lv_core.evidence.path import Path, base_density
from lv_core.kernels import Kernel
from lv_core.targets import Gaussian, LinearGaussian
from lv_core.variational import DiagonalGaussian

DOUBLE = torch.float64
BASE = Gaussian(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
TILT = torch.tensor([1.0, -0.5, 2.0], dtype=DOUBLE)
FORM = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 2.0]], dtype=DOUBLE)
WIDTH = torch.linalg.inv(torch.eye(3, dtype=DOUBLE) + FORM)
KERNEL = Mala(steps=1, step_size=0.8)


def linear(u: Tensor) -> Tensor:
    """N(0, I) tilted by a.u: N(a, I) with log Z = a.a / 2 = 2.625."""
    return BASE(u) + u @ TILT


def quadratic(u: Tensor) -> Tensor:
    """N(0, I) tilted by a.u - u'Bu/2: covariance (I + B)^-1."""
    return BASE(u) + u @ TILT - 0.5 * ((u @ FORM) * u).sum(-1)


TARGETS = {
    "linear": (linear, 2.625, Gaussian(TILT, torch.eye(3, dtype=DOUBLE))),
    "quadratic": (
        quadratic,
        (0.5 * TILT @ WIDTH @ TILT + 0.5 * torch.logdet(WIDTH)).item(),
        Gaussian(WIDTH @ TILT, WIDTH),
    ),
}


def off(log_weights: Tensor, log_z: float) -> float:
    """Returns the distance of the mean weight from Z in standard errors of that mean."""
    ratio = (log_weights - log_z).exp()
    return ((ratio.mean() - 1) / (ratio.std() / len(ratio) ** 0.5)).item()


# --- the normaliser ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("betas", [5, 40])
def test_the_mean_weight_is_the_normaliser(name, betas) -> None:
    target, log_z, _ = TARGETS[name]
    generator = stream(0, "ais", name, betas)
    result = ais(BASE, target, kernel=KERNEL, betas=betas, chains=4000, generator=generator)
    # Unbiased whatever the number of temperatures.
    assert abs(off(result.log_weights, log_z)) < 4
    assert abs(result.log_z.mean - log_z) < 4 * result.log_z.standard_error
    assert result.log_z.bound == "lower"
    # The mean log weight lies below, by Jensen's inequality; here it does visibly.
    error = result.log_weights.std() / 4000**0.5
    assert result.log_weights.mean() < log_z - 5 * error
    # Wrong control: the base's normaliser, as if nothing had been tilted.
    assert abs(off(result.log_weights, 0.0)) > 4


@pytest.mark.parametrize("name", TARGETS)
def test_the_reverse_mean_inverse_weight_is_the_inverse_normaliser(name) -> None:
    target, log_z, exact = TARGETS[name]
    u = exact.sample(4000, generator=stream(0, "exact", name))
    settings = {"kernel": KERNEL, "betas": 20, "generator": stream(0, "reverse", name)}
    result = ais_reverse(BASE, target, u, **settings)
    assert abs(off(-result.log_weights, -log_z)) < 4
    assert abs(result.log_z.mean - log_z) < 4 * result.log_z.standard_error
    assert result.log_z.bound == "upper"
    error = result.log_weights.std() / 4000**0.5
    assert result.log_weights.mean() > log_z + 5 * error
    # Wrong control: starts that are no draws of the target.
    wrong = BASE.sample(4000, generator=stream(0, "exact", name))
    assert abs(off(-ais_reverse(BASE, target, wrong, **settings).log_weights, -log_z)) > 4


def test_without_the_metropolis_rule_the_mean_weight_is_wrong() -> None:
    target, log_z, _ = TARGETS["quadratic"]
    settings = {"betas": 20, "chains": 4000}
    exact = ais(BASE, target, kernel=KERNEL, generator=stream(0, "rule"), **settings)
    plain = ais(
        BASE,
        target,
        kernel=Langevin(steps=1, step_size=0.8),
        generator=stream(0, "rule"),
        **settings,
    )
    assert abs(off(exact.log_weights, log_z)) < 4
    assert abs(off(plain.log_weights, log_z)) > 8
    assert plain.accept is None
    # No bound either way, and it says so.
    assert exact.log_z.bound == "lower"
    assert plain.log_z.bound == "none"


def test_without_the_metropolis_rule_there_is_no_bound_in_either_direction() -> None:
    target, _, exact = TARGETS["quadratic"]
    u = exact.sample(10, generator=stream(0, "no rule"))
    settings = {"betas": 5, "generator": stream(0, "no rule")}
    both = bidirectional(BASE, target, u, kernel=Langevin(steps=2, step_size=0.8), **settings)
    assert (both.forward.log_z.bound, both.reverse.log_z.bound) == ("none", "none")
    ruled = bidirectional(BASE, target, u, kernel=KERNEL, **settings)
    assert (ruled.forward.log_z.bound, ruled.reverse.log_z.bound) == ("lower", "upper")


def annealed(target, *, betas: int, chains: int, late: bool) -> Tensor:
    """Neal's algorithm written out; `late` weighs each position by the increment before it."""
    generator, beta = stream(0, "written out"), temperatures(betas)
    state, weights = ChainState(u=BASE.sample(chains, generator=generator)), torch.zeros(())
    for k in range(1, betas + 1):
        if not late:
            weights = weights + (beta[k] - beta[k - 1]) * (target(state.u) - BASE(state.u))
        if k < betas or late:
            density = Sum({"base": (BASE, 1 - beta[k]), "target": (target, beta[k])})
            state = KERNEL.refresh(density, state)
            state, _ = KERNEL.step(density, state, generator=generator)
        if late:
            weights = weights + (beta[k] - beta[k - 1]) * (target(state.u) - BASE(state.u))
    return weights


def test_weights_misplaced_by_one_temperature_are_wrong() -> None:
    target, log_z, _ = TARGETS["linear"]
    right = annealed(target, betas=20, chains=4000, late=False)
    assert abs(off(right, log_z)) < 4
    assert abs(off(annealed(target, betas=20, chains=4000, late=True), log_z)) > 4
    found = ais(
        BASE, target, kernel=KERNEL, betas=20, chains=4000, generator=stream(0, "written out")
    )
    assert_close(found.log_weights, right)


def test_weighted_positions_are_draws_of_the_target() -> None:
    target, _, exact = TARGETS["linear"]
    result = ais(
        BASE, target, kernel=KERNEL, betas=40, chains=8000, generator=stream(0, "positions")
    )
    weights = result.log_weights.softmax(0)
    mean = weights @ result.u
    # Standard error of a weighted mean: sd / sqrt(ess).
    assert ((mean - exact.mean).abs() < 5 / result.log_z.ess.sqrt()).all()


def test_one_temperature_is_plain_importance_sampling() -> None:
    result = ais(BASE, linear, kernel=KERNEL, betas=1, chains=50, generator=stream(0, "one"))
    u = BASE.sample(50, generator=stream(0, "one"))
    assert_close(result.log_weights, u @ TILT)
    assert_close(result.log_z.mean, log_mean_exp(u @ TILT, bound="lower").mean)
    assert result.accept is None
    # No kernel was needed, so any will do for the bound.
    plain = ais(BASE, linear, kernel=Langevin(steps=1, step_size=0.8), betas=1, chains=50)
    assert result.log_z.bound == plain.log_z.bound == "lower"


def test_more_temperatures_give_steadier_weights() -> None:
    spread = [
        ais(
            BASE, linear, kernel=KERNEL, betas=betas, chains=500, generator=stream(0, "steady")
        ).log_weights.std()
        for betas in (2, 20, 200)
    ]
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]


# --- both directions --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_the_sandwich_holds_the_normaliser(name) -> None:
    target, log_z, exact = TARGETS[name]
    u = exact.sample(1000, generator=stream(0, "sandwich draws", name))
    both = bidirectional(BASE, target, u, betas=30, generator=stream(0, "sandwich", name))
    low, high = both.forward.log_z, both.reverse.log_z
    assert low.mean - 4 * low.standard_error < log_z < high.mean + 4 * high.standard_error
    assert abs(both.gap) < 5 * both.gap_error
    assert_close(both.gap, high.mean - low.mean)
    # The mean log weights bracket it without any help from the average of exponentials.
    assert both.forward.log_weights.mean() < log_z < both.reverse.log_weights.mean()
    # Both directions keep to the acceptance that the pilot aimed at, in their own order.
    for direction in (both.forward, both.reverse):
        assert direction.accept.shape == (29,)
        assert (direction.accept - 0.574).abs().max() < 0.1


def test_a_sandwich_is_made_of_the_two_directions() -> None:
    u = TARGETS["linear"][2].sample(20, generator=stream(0, "draws"))
    settings = {"kernel": KERNEL, "betas": 5}
    generator = stream(0, "both")
    low = ais(BASE, linear, chains=20, generator=generator, **settings)
    high = ais_reverse(BASE, linear, u, generator=generator, **settings)
    both = bidirectional(BASE, linear, u, generator=stream(0, "both"), **settings)
    assert torch.equal(both.forward.log_weights, low.log_weights)
    assert torch.equal(both.reverse.log_weights, high.log_weights)


def test_data_simulated_from_the_model_are_bracketed_item_by_item() -> None:
    weight = torch.randn(5, 3, generator=stream(0, "weight"), dtype=DOUBLE)
    model, seen = LinearGaussian(weight, noise=0.6), []

    def simulate(z: Tensor, *, generator=None) -> Tensor:
        noise = torch.empty(len(z), 5, dtype=DOUBLE).normal_(generator=generator)
        seen.append(z @ weight.T + 0.6 * noise)
        return seen[-1]

    both = bdmc(
        BASE,
        simulate,
        model.log_likelihood,
        items=8,
        chains=200,
        betas=60,
        generator=stream(0, "bdmc"),
    )
    evidence = model.log_evidence(seen[0])
    low, high = both.forward.log_z, both.reverse.log_z
    assert low.mean.shape == high.mean.shape == (8,)
    assert ((low.mean - evidence).abs() < 5 * low.standard_error).all()
    # The reverse chains of an item share their start, so only the mean over items is judged: the
    # bound lies above, and near.
    assert -0.05 < (high.mean - evidence).mean() < 0.5
    assert ((low.mean - evidence.flip(0)).abs() > 5 * low.standard_error).any()


def test_one_normaliser_for_each_item() -> None:
    weight = torch.randn(5, 3, generator=stream(0, "weight"), dtype=DOUBLE)
    model = LinearGaussian(weight, noise=0.6)
    x = torch.randn(2, 4, 5, generator=stream(0, "x"), dtype=DOUBLE)

    def joint(z: Tensor) -> Tensor:
        return BASE(z) + model.log_likelihood(x, z)

    kernel = Mala(steps=2, step_size=0.3)
    settings = {"kernel": kernel, "betas": 60, "chains": 200}
    result = ais(BASE, joint, batch=(2, 4), generator=stream(0, "items"), **settings)
    assert result.log_weights.shape == (200, 2, 4)
    assert result.u.shape == (200, 2, 4, 3)
    found = result.log_z
    assert found.mean.shape == found.standard_error.shape == found.ess.shape == (2, 4)
    assert ((found.mean - model.log_evidence(x)).abs() < 5 * found.standard_error).all()
    # A base with batch axes of its own needs no batch; the draws are others, the answer is not.
    own = DiagonalGaussian(torch.zeros(2, 4, 3).double(), torch.zeros(2, 4, 3).double())
    again = ais(own, joint, generator=stream(0, "items"), **settings).log_z
    error = torch.hypot(again.standard_error, found.standard_error)
    assert ((again.mean - found.mean).abs() < 5 * error).all()


def test_a_better_proposal_as_base_leaves_less_to_anneal() -> None:
    target, log_z, exact = TARGETS["quadratic"]
    near = DiagonalGaussian(exact.mean, 0.5 * exact.covariance.diagonal().log())
    settings = {"kernel": KERNEL, "betas": 10, "chains": 500}
    far = ais(BASE, target, generator=stream(0, "far"), **settings)
    close = ais(near, target, generator=stream(0, "far"), **settings)
    assert abs(close.log_z.mean - log_z) < 5 * close.log_z.standard_error
    assert close.log_z.standard_error < far.log_z.standard_error


# --- tuning -----------------------------------------------------------------------------------


def test_tuned_steps_shrink_with_the_width_of_the_path() -> None:
    # From N(0, I) to N(0, 0.01 I): MALA's best step is proportional to the standard deviation.
    def narrow(u: Tensor) -> Tensor:
        return -50.0 * u.square().sum(-1)

    kernel = tune_path(BASE, narrow, betas=20, chains=200, generator=stream(0, "tune"))
    assert isinstance(kernel.step_size, StepTable)
    table = kernel.step_size.values
    assert len(table) == 21
    beta = temperatures(20)
    sd = [1 / math.sqrt((1 - b) + 100 * b) for b in beta]
    ratios = torch.tensor(table[5:]) / torch.tensor(sd[5:])
    # The correction lags behind the path a little.
    assert ratios.max() / ratios.min() < 1.6
    assert table[1] / table[-1] > 5
    log_z = 1.5 * math.log(2 * math.pi * 0.01)
    result = ais(BASE, narrow, kernel=kernel, betas=20, chains=2000, generator=stream(0, "tuned"))
    assert abs(result.log_z.mean - log_z) < 4 * result.log_z.standard_error
    assert 0.4 < result.accept.min() < result.accept.max() < 0.75
    # Wrong control: one step size for the whole path is refused nearly everywhere at the end.
    fixed = ais(
        BASE,
        narrow,
        kernel=Mala(steps=1, step_size=table[1]),
        betas=20,
        chains=2000,
        generator=stream(0, "tuned"),
    )
    assert fixed.accept.min() < 0.05
    assert fixed.log_z.ess < 0.5 * result.log_z.ess


def test_the_default_kernel_is_tuned_by_other_chains() -> None:
    result = ais(BASE, linear, betas=20, chains=500, generator=stream(0, "default"))
    assert abs(result.log_z.mean - 2.625) < 4 * result.log_z.standard_error
    exact = TARGETS["linear"][2].sample(500, generator=stream(0, "default draws"))
    back = ais_reverse(BASE, linear, exact, betas=20, generator=stream(0, "default"))
    assert abs(back.log_z.mean - 2.625) < 4 * back.log_z.standard_error
    assert (result.accept - 0.574).abs().max() < 0.12


def test_a_kernel_takes_all_its_steps_at_each_temperature() -> None:
    calls = []

    def target(u: Tensor) -> Tensor:
        calls.append(len(u))
        return linear(u)

    for steps in (1, 3):
        calls.clear()
        kernel = replace(KERNEL, steps=steps)
        ais(BASE, target, kernel=kernel, betas=10, chains=2, generator=stream(0, "calls"))
        # Nine temperatures: one evaluation for the new density, one per step, one for the weight.
        assert len(calls) == 1 + 9 * (2 + steps)


@dataclass(frozen=True, kw_only=True)
class Recording(Mala):
    """Mala that keeps what it reported."""

    seen: list[Tensor]

    def step(self, log_density, state, *, generator=None):
        state, info = super().step(log_density, state, generator=generator)
        self.seen.append(info.accept)
        return state, info


def test_the_acceptance_is_the_mean_over_all_steps_of_a_temperature() -> None:
    kernel = Recording(steps=3, step_size=1.2, seen=[])
    result = ais(
        BASE, linear, kernel=kernel, betas=4, chains=20, generator=stream(0, "acceptance")
    )
    steps = torch.stack(kernel.seen).reshape(3, 3, 20)
    assert_close(result.accept, steps.mean(dim=(1, 2)))
    # Wrong control: the last of the three steps alone.
    assert (result.accept - steps[:, -1].mean(-1)).abs().max() > 1e-3


def test_a_schedule_follows_the_temperature_in_both_directions() -> None:
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.5

    kernel = Mala(steps=1, step_size=schedule)
    seen.clear()  # making the kernel checks its first step
    ais(BASE, linear, kernel=kernel, betas=5, chains=2)
    assert seen == [1, 2, 3, 4]
    seen.clear()
    ais_reverse(BASE, linear, torch.zeros(2, 3).double(), kernel=kernel, betas=5)
    assert seen == [4, 3, 2, 1]


def test_a_table_ends_with_its_last_value() -> None:
    table = StepTable((1.0, 0.5))
    assert [table(k) for k in range(4)] == [1.0, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="values must not be empty"):
        StepTable(())


# --- manners ----------------------------------------------------------------------------------


def test_equal_generators_give_equal_results_and_parameters_stay_without_gradients() -> None:
    energy = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1)).double()

    def target(u: Tensor) -> Tensor:
        return BASE(u) + energy(u).squeeze(-1)

    first, second = (
        ais(BASE, target, kernel=KERNEL, betas=5, chains=10, generator=stream(0, "equal"))
        for _ in range(2)
    )
    assert torch.equal(first.log_weights, second.log_weights)
    assert not first.log_weights.requires_grad
    assert all(p.grad is None for p in energy.parameters())


def test_keeps_single_precision() -> None:
    base = Gaussian(torch.zeros(2), torch.eye(2))
    result = ais(base, lambda u: base(u) + u.sum(-1), kernel=KERNEL, betas=5, chains=10)
    assert result.log_z.mean.dtype == result.u.dtype == torch.float32


def test_runs_where_its_base_lives(device) -> None:
    base = Gaussian(torch.zeros(2, device=device), torch.eye(2, device=device))
    generator = stream(0, "device", device=device)
    result = ais(base, lambda u: base(u) + u.sum(-1), betas=10, chains=400, generator=generator)
    assert result.log_z.mean.device.type == device.type
    assert abs(result.log_z.mean.item() - 1.0) < 5 * result.log_z.standard_error.item()


class Prior:
    """A base in the manner of a learned prior: `log_density` instead of a call."""

    def sample(self, n: int, /, *, generator=None) -> Tensor:
        return BASE.sample(n, generator=generator)

    def log_density(self, u: Tensor) -> Tensor:
        return BASE(u)


def test_a_base_may_name_its_density_in_three_ways() -> None:
    settings = {"kernel": KERNEL, "betas": 5, "chains": 10}
    standard = DiagonalGaussian(torch.zeros(3).double(), torch.zeros(3).double())
    u = torch.ones(2, 3).double()
    expected = Path(BASE, linear).tilt(u)
    for base in (Prior(), standard):
        assert_close(Path(base, linear).tilt(u), expected)
    called, method = (
        ais(base, linear, generator=stream(0, "ways"), **settings) for base in (BASE, Prior())
    )
    assert_close(called.log_weights, method.log_weights)


def test_a_base_with_several_densities_is_asked_for_log_prob_first() -> None:
    class Base:
        def sample(self, n: int, /, *, generator=None) -> Tensor:
            return torch.zeros(n, 3)

        def __call__(self, u: Tensor) -> Tensor:
            return 1.0 + 0.0 * u.sum(-1)

    class WithLogDensity(Base):
        def log_density(self, u: Tensor) -> Tensor:
            return 2.0 + 0.0 * u.sum(-1)

    class WithLogProb(WithLogDensity):
        def log_prob(self, u: Tensor) -> Tensor:
            return 3.0 + 0.0 * u.sum(-1)

    class WithAnAttribute(Base):
        log_prob = None  # no method, hence passed over

    u = torch.ones(2, 3)
    found = [
        base_density(base)(u)[0].item()
        for base in (Base(), WithLogDensity(), WithLogProb(), WithAnAttribute())
    ]
    assert found == [1.0, 2.0, 3.0, 1.0]


def test_temperatures_rise_from_nought_to_one() -> None:
    beta = torch.tensor(temperatures(50))
    assert beta[0] == 0
    assert beta[-1] == 1
    assert len(beta) == 51
    assert (beta.diff() > 0).all()
    # Dense at both ends.
    assert beta.diff()[25] > 5 * beta.diff()[0]
    assert_close(beta, 1 - beta.flip(0))
    assert temperatures(torch.tensor([0.0, 0.25, 1.0])) == (0.0, 0.25, 1.0)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("betas", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0], [0.0, 0.0, 1.0]])
def test_refuses_temperatures_that_do_not_rise_from_nought_to_one(betas) -> None:
    with pytest.raises(ValueError, match="betas must increase from 0 to 1"):
        ais(BASE, linear, kernel=KERNEL, betas=torch.tensor(betas))


def test_refuses_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="betas must be at least 1 step, got 0"):
        temperatures(0)
    with pytest.raises(ValueError, match="chains=0"):
        ais(BASE, linear, kernel=KERNEL, chains=0)
    with pytest.raises(ValueError, match=r"batch=\(2, 0\)"):
        ais(BASE, linear, kernel=KERNEL, batch=(2, 0))
    with pytest.raises(ValueError, match="rounds=0"):
        tune_path(BASE, linear, rounds=0)
    with pytest.raises(ValueError, match=r"accept=1\.0"):
        tune_path(BASE, linear, accept=1.0)
    with pytest.raises(ValueError, match=r"step_size must be a number to start from"):
        tune_path(BASE, linear, kernel=Mala(steps=1, step_size=torch.tensor(0.1)))
    with pytest.raises(ValueError, match="Langevin reports none"):
        tune_path(BASE, linear, kernel=Langevin(steps=1, step_size=0.1))


def test_refuses_a_target_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(2, 3\)"):
        Path(BASE, lambda u: -u.square()).tilt(torch.zeros(2, 3).double())


def test_refuses_a_base_without_a_density() -> None:
    class Draws:
        def sample(self, n: int, /, *, generator=None) -> Tensor:
            return torch.zeros(n, 3)

    with pytest.raises(TypeError, match="base must have a method log_prob or log_density"):
        ais(Draws(), linear, kernel=KERNEL)
    with pytest.raises(TypeError, match="be callable, got Draws"):
        base_density(Draws())


def test_takes_any_kernel() -> None:
    assert isinstance(KERNEL, Kernel)
    twice = tune_path(
        BASE, linear, kernel=replace(KERNEL, steps=2), betas=5, chains=50, generator=stream(0, "k")
    )
    assert twice.steps == 2
