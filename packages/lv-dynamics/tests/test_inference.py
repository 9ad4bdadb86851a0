import math

import pytest
import torch
from torch import Tensor, nn

from lv_core import stream, value_and_grad
from lv_core.nn import mlp
from lv_dynamics.config import OdeConfig
from lv_dynamics.inference import InferenceSettings, infer
from lv_dynamics.model import EnergyOde
from lv_dynamics.polish import climb
from lv_dynamics.posterior import Posterior
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import SolveError, Solver
from lv_priors import EnergyPrior, GaussianPrior

QUICK = InferenceSettings(restarts=3, steps=12, polish=4, anneal=((0.5, 2.0),), start="normal")


def small_model(seed=0, **settings):
    torch.manual_seed(seed)
    config = OdeConfig(
        observed=(2,),
        state=2,
        static=1,
        field_hidden=(8,),
        emission_hidden=(8,),
        energy_hidden=(8,),
        prior_steps=5,
        sigma=0.3,
        **settings,
    )
    return EnergyOde(config).double()


def some_sequences(batch=4, rows=6, seed=0):
    g = stream(seed, "data")
    times = torch.rand(batch, rows, dtype=torch.float64, generator=g).cumsum(1) * 0.4
    values = torch.randn(batch, rows, 2, dtype=torch.float64, generator=g)
    mask = torch.rand(batch, rows, 2, generator=g) < 0.7
    mask[:, 0] = True
    return Sequences(times, values.masked_fill(~mask, math.nan), mask)


# The linear-Gaussian model, whose posterior has a closed form


class LinearField(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, y: Tensor) -> Tensor:
        return y @ self.matrix.T


class QuadraticTilt(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z: Tensor) -> Tensor:
        return -0.5 * ((z @ self.matrix) * z).sum(-1)


FLOW = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=torch.float64)
TILT = torch.tensor([[0.8, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 1.5]], dtype=torch.float64)


def linear_model(*, tilt: Tensor | None, sigma: float) -> EnergyOde:
    torch.manual_seed(0)
    prior = None if tilt is None else EnergyPrior(QuadraticTilt(tilt), 3)
    config = OdeConfig(
        observed=(2,),
        state=2,
        static=1,
        static_in_dynamics=False,
        static_in_emission=True,
        emission="linear",
        prior="gaussian",
        sigma=sigma,
        solver=Solver(step_size=0.1),
    )
    return EnergyOde(config, field=LinearField(FLOW), prior=prior).double()


def closed_form(model: EnergyOde, data: Sequences, tilt: Tensor | None, sigma: float):
    """Posterior mean and covariance of each sequence: S^-1 = I + B + sum M^T M / sigma^2."""
    weight, bias = (p.detach() for p in model.emission.network[0].parameters())
    means, covariances = [], []
    for b in range(len(data)):
        precision = torch.eye(3, dtype=torch.float64) + (0 if tilt is None else tilt)
        pull = torch.zeros(3, dtype=torch.float64)
        for j in range(data.times.shape[1]):
            carried = torch.block_diag(
                torch.linalg.matrix_exp(FLOW * data.times[b, j]),
                torch.eye(1, dtype=torch.float64),
            )
            seen = data.mask[b, j].expand(2)
            rows = (weight @ carried)[seen]
            precision = precision + rows.T @ rows / sigma**2
            pull = pull + rows.T @ (data.values[b, j] - bias)[seen] / sigma**2
        covariances.append(torch.linalg.inv(precision))
        means.append(covariances[-1] @ pull)
    return torch.stack(means), torch.stack(covariances)


def whitened(posterior: Posterior, mean: Tensor, covariance: Tensor) -> Tensor:
    """Returns draws that are standard normal if the closed form is theirs, (S R, B, D)."""
    root = torch.linalg.cholesky(covariance)
    centered = (posterior.samples() - mean)[..., None]
    return torch.linalg.solve_triangular(root, centered, upper=False)[..., 0]


def is_standard(white: Tensor) -> bool:
    # 128 chains of 20 draws, 4 steps apart, are some 1,300 independent ones: standard errors
    # 0.028 of a mean and 0.039 of a variance, about five of which are allowed.
    mean = white.mean(0)
    second = torch.einsum("sbi,sbj->bij", white, white) / len(white)
    off = (second - torch.eye(white.shape[-1], dtype=white.dtype)).abs().max()
    return bool(mean.abs().max() < 0.14 and off < 0.2)


@pytest.mark.parametrize("tilt", [None, TILT])
def test_draws_have_the_moments_of_the_closed_form(tilt):
    sigma = 0.8
    model, data = linear_model(tilt=tilt, sigma=sigma), some_sequences(batch=3, rows=3)
    settings = InferenceSettings(
        restarts=128, steps=60, draws=20, thin=4, start="normal", weighting="equal"
    )
    posterior = infer(model, data, settings=settings)
    mean, covariance = closed_form(model, data, tilt, sigma)
    assert posterior.exact
    assert is_standard(whitened(posterior, mean, covariance))
    # Polished end points are the mode, which is the mean; it took no samples to know.
    torch.testing.assert_close(posterior.best(), mean, rtol=1e-4, atol=1e-4)
    assert posterior.report() == []
    # Wrong controls: another noise, another prior, the prior alone.
    assert not is_standard(whitened(posterior, *closed_form(model, data, tilt, 1.3 * sigma)))
    other = TILT if tilt is None else None
    assert not is_standard(whitened(posterior, *closed_form(model, data, other, sigma)))


def test_a_quadratic_tilt_is_a_normal_prior():
    # Data of no weight leave the prior N(0, (I + B)^-1).
    model = linear_model(tilt=TILT, sigma=1e4)
    settings = InferenceSettings(
        restarts=128, steps=40, draws=20, thin=4, anneal=(), start="normal", step_size=0.8
    )
    posterior = infer(model, some_sequences(batch=2, rows=2), settings=settings)
    covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + TILT)
    zero = torch.zeros(3, dtype=torch.float64)
    assert is_standard(whitened(posterior, zero, covariance))
    assert not is_standard(whitened(posterior, zero, torch.eye(3, dtype=torch.float64)))


# Chains and their batch


def chains_of(posterior: Posterior) -> list[Tensor]:
    return [posterior.z, posterior.draws.flatten(0, 1), posterior.log_density, posterior.accept]


def same(first: Posterior, second: Posterior) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-7, atol=1e-8)
        for a, b in zip(chains_of(first), chains_of(second), strict=True)
    )


@pytest.mark.parametrize("start", ["normal", "prior"])
def test_the_chains_of_a_sequence_do_not_depend_on_its_batch(start):
    settings = InferenceSettings(restarts=3, steps=12, polish=4, start=start, draws=2, thin=2)
    model, data = small_model(), some_sequences()
    whole = infer(model, data, settings=settings, items=[7, 3, 9, 4])
    order = torch.tensor([2, 0])
    some = infer(model, data[order], settings=settings, items=[9, 7])
    assert same(some, whole[order])
    # Another number is another noise: the wrong control.
    assert not same(infer(model, data[order], settings=settings, items=[9, 8]), whole[order])


def test_batches_for_memory_change_nothing():
    model, data = small_model(), some_sequences()
    whole = infer(model, data, settings=QUICK, seed=3)
    parts = infer(
        model, data, settings=InferenceSettings(**{**vars(QUICK), "batch_size": 3}), seed=3
    )
    assert same(whole, parts)
    assert not same(whole, infer(model, data, settings=QUICK, seed=4))


def test_nothing_after_the_prefix_is_looked_at():
    model, data = small_model(), some_sequences()
    seen = data.prefix(3)
    spoiled = Sequences(
        data.times, torch.where(seen.mask, data.values, 1e3), data.mask, data.lengths
    ).prefix(3)
    assert same(infer(model, seen, settings=QUICK), infer(model, spoiled, settings=QUICK))
    assert not same(infer(model, seen, settings=QUICK), infer(model, data, settings=QUICK))


def test_parameters_are_left_alone():
    model = small_model()
    model.prior.requires_grad_(False)
    before = {n: (p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    infer(model, some_sequences(), settings=InferenceSettings(restarts=2, steps=6, draws=2))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]


# Stages


class Oscillator(nn.Module):
    """Circles whose frequency is the static variable; its likelihood has many modes."""

    def forward(self, y: Tensor, static: Tensor) -> Tensor:
        return (4.7 + 1.2 * static) * torch.stack((y[..., 1], -y[..., 0]), dim=-1)


class First(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return 1.5 * y[..., :1]


def test_stages_find_the_frequency_that_a_direct_start_misses():
    config = OdeConfig(
        observed=(1,),
        state=2,
        static=1,
        prior="gaussian",
        sigma=0.1,
        solver=Solver(step_size=0.125),
    )
    model = EnergyOde(config, field=Oscillator(), emission=First())
    drawn = model.sample(12, torch.arange(32) * 0.125, generator=stream(1, "oscillators"))
    # Log densities within 6 of that of the true latent have found its mode.
    goal = model.posterior(drawn.sequences)(drawn.z) - 6

    def found(anneal: tuple[tuple[float, float], ...]) -> float:
        settings = InferenceSettings(restarts=4, steps=90, anneal=anneal)
        posterior = infer(model, drawn.sequences, settings=settings)
        return float((posterior.log_density > goal).float().mean())

    staged, direct = found(InferenceSettings().anneal), found(())
    # Measured: 0.88 and 0.40 with 40 rows, 150 steps, 24 sequences.
    assert staged > 0.6
    assert staged > direct + 0.2


# What comes out


def test_the_record_holds_what_it_says():
    model, data = small_model(), some_sequences()
    posterior = infer(model, data, settings=QUICK)
    value, _, parts = value_and_grad(model.posterior(data), posterior.z)
    torch.testing.assert_close(posterior.log_density, value)
    torch.testing.assert_close(posterior.log_likelihood, parts["x"])
    torch.testing.assert_close(posterior.misfit, model.likelihood(data).misfit(posterior.z))
    assert (len(posterior), posterior.restarts, posterior.exact) == (4, 3, False)
    assert posterior.draws.shape == (1, 3, 4, 3)
    assert torch.equal(posterior.observed, data.observed.double())
    torch.testing.assert_close(posterior.weights, value.softmax(0))
    best = posterior.best()
    torch.testing.assert_close(model.posterior(data)(best), value.amax(0))
    assert posterior.z_s.shape == (4, 1)
    torch.testing.assert_close(
        posterior.mean(), (posterior.weights[..., None] * posterior.draws[0]).sum(0)
    )
    # The polish climbs, and a posterior given more is higher than its chains' last states.
    assert (value >= model.posterior(data)(posterior.draws[0])).all()


def test_samples_are_spaced_over_the_draws():
    model, data = small_model(), some_sequences()
    settings = InferenceSettings(restarts=2, steps=6, draws=7, thin=1, anneal=())
    posterior = infer(model, data, settings=settings)
    assert posterior.samples().shape == (14, 4, 3)
    kept = posterior.samples(3)
    assert torch.equal(kept[:2], posterior.draws[6])
    assert torch.equal(kept[2:], posterior.draws[[4, 2]].flatten(0, 1))
    torch.testing.assert_close(
        posterior.sample_weights(3).sum(0), torch.ones(4, dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="most must be positive, got 0"):
        posterior.samples(0)
    halves = [posterior[:1], posterior[torch.tensor([1, 2, 3])]]
    joined = Posterior.cat(halves)
    assert torch.equal(joined.samples(), posterior.samples())
    assert torch.equal(joined.observed, posterior.observed)
    with pytest.raises(ValueError, match="parts must hold at least one"):
        Posterior.cat([])


def test_float32_stays_float32():
    model, data = small_model().float(), some_sequences().to(torch.float32)
    posterior = infer(model, data, settings=QUICK)
    assert {t.dtype for t in chains_of(posterior)} == {torch.float32}


def test_progress_counts_to_the_end():
    seen = []
    settings = InferenceSettings(restarts=2, steps=5, draws=2, thin=2, batch_size=3)
    infer(small_model(), some_sequences(), settings=settings, progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 19))
    assert {p.total for p in seen} == {18}
    assert all(0 <= float(p.accept) <= 1 for p in seen)


# Words of doubt


def record(**changes) -> Posterior:
    restarts, batch, dim = 4, 10, 2
    g = stream(0, "record")
    fields = {
        "z": torch.zeros(restarts, batch, dim),
        "log_density": torch.zeros(restarts, batch),
        "log_likelihood": torch.zeros(restarts, batch),
        "misfit": torch.zeros(restarts, batch),
        "weights": torch.full((restarts, batch), 0.25),
        "draws": torch.randn(100, restarts, batch, dim, generator=g),
        "accept": torch.full((restarts, batch), 0.57),
        "step_size": torch.ones(restarts, batch),
        "rise": torch.zeros(restarts, batch),
        "moved": torch.zeros(restarts, batch, dtype=torch.bool),
        "observed": torch.ones(batch),
    }
    return Posterior(**{**fields, **changes}, exact=True, state=1)


def test_healthy_chains_raise_no_doubt():
    assert record().report() == []


def test_each_illness_is_named():
    low = torch.full((4, 10), 0.57)
    low[:2] = 0.05
    rise, score, moved = torch.zeros(4, 10), torch.zeros(4, 10), torch.zeros(4, 10)
    rise[0] = 30.0
    score[0] = 50.0
    moved[0, 0] = 1
    apart = record().draws.clone()
    apart[:, 0, :7] += 20
    cases = {
        "20 of 40 chains accept less than 20 %": {"accept": low},
        "10 of 40 chains still climb": {"rise": rise},
        "in 10 of 10 sequences only one restart of 4": {"log_density": score},
        "1 of 40 chains met a diverging solve": {"moved": moved.bool()},
        "the restarts of 7 of 10 sequences disagree": {"draws": apart},
    }
    for words, changes in cases.items():
        (found,) = record(**changes).report()
        assert words in found
    assert "sequences 0, 1, 2, 3, 4 ..)" in record(draws=apart).report()[0]


# Dynamics that diverge


class Explosive(nn.Module):
    """Solutions from |y| > 1 reach infinity within the first half unit of time."""

    def forward(self, y: Tensor) -> Tensor:
        return y**3


def explosive_model() -> EnergyOde:
    config = OdeConfig(observed=(1,), state=1, static=0, prior="gaussian", sigma=0.3)
    prior = GaussianPrior(1, scale=3.0)
    return EnergyOde(config, field=Explosive(), emission=nn.Identity(), prior=prior).double()


def test_starts_that_diverge_are_pulled_in_and_reported():
    data = Sequences(torch.arange(1, 11).double() * 0.2, torch.full((2, 10, 1), 0.1).double())
    settings = InferenceSettings(restarts=8, steps=40, anneal=())
    posterior = infer(explosive_model(), data, settings=settings)
    assert posterior.moved.any()
    assert not posterior.moved.all()
    assert posterior.log_density.isfinite().all()
    assert any("met a diverging solve" in words for words in posterior.report())
    assert (posterior.best().abs() < 0.3).all()


def test_dynamics_that_always_diverge_name_the_sequence():
    class Hopeless(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return torch.exp(y.square() * 0 + 20) * (1 + y.square())

    model = explosive_model()
    model.field = Hopeless()
    times = torch.tensor([[0.0], [3.0]]).double()
    data = Sequences(times, torch.zeros(2, 1, 1).double())
    settings = InferenceSettings(restarts=2, steps=1, anneal=(), batch_size=1)
    with pytest.raises(SolveError, match="sequence 0: its log density is not finite") as caught:
        infer(model, data[torch.tensor([1, 0])], settings=settings)
    assert caught.value.sequence == (0,)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"thin": 0}, "thin must be at least 1, got 0"),
        ({"polish": -1}, "polish must not be negative, got -1"),
        ({"draws": -1}, "draws must not be negative, got -1"),
        ({"step_size": 0.0}, r"step_size must be positive, got 0\.0"),
        ({"target_accept": 1.0}, r"target_accept must lie in \(0, 1\), got 1\.0"),
        ({"batch_size": 0}, "batch_size must be positive or None, got 0"),
        ({"anneal": ((0.0, 1.0),)}, r"each stage of anneal must be .*\(0\.0, 1\.0\)"),
        ({"anneal": ((0.5, 0.0),)}, r"each stage of anneal"),
        ({"steps": 2}, "steps must be at least 3, one for each stage, got 2"),
    ],
)
def test_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**settings)


def test_refuses_unknown_choices(wrong_types):
    with pytest.raises(ValueError, match="unknown start 'zero'; there are: prior, normal"):
        InferenceSettings(start="zero")


def test_refuses_another_number_of_names():
    with pytest.raises(ValueError, match="items must name 4 sequences, got 2 numbers"):
        infer(small_model(), some_sequences(), items=[0, 1])


# The polish


def stiff(u: Tensor) -> Tensor:
    """A quadratic whose curvatures span three decades."""
    return -0.5 * (torch.tensor([1.0, 30.0, 1000.0], dtype=u.dtype) * u.square()).sum(-1)


def test_the_climb_copes_with_curvatures_far_apart():
    u = torch.randn(5, 4, 3, dtype=torch.float64, generator=stream(0, "climb"))
    found = climb(stiff, u, steps=40, step_size=1e-3)
    assert (found.log_density > -1e-3).all()
    torch.testing.assert_close(found.log_density, stiff(found.u))
    # The wrong control: as many steps of the best constant size, 2 / (1 + 1000).
    plain = u.clone()
    for _ in range(40):
        plain = plain + 2 / 1001 * value_and_grad(stiff, plain).grad
    assert (stiff(plain) < -1e-2).float().mean() > 0.8


def test_the_climb_never_ends_below_its_start():
    torch.manual_seed(0)
    network = mlp((3, 16, 1), activation="tanh").double()

    def rugged(u: Tensor) -> Tensor:
        return network(8 * u)[..., 0] - u.square().sum(-1)

    u = torch.randn(50, 3, dtype=torch.float64, generator=stream(1, "climb"))
    found = climb(rugged, u, steps=6, step_size=5.0)  # a first step far too long
    assert (found.log_density >= rugged(u)).all()
    assert (found.log_density > rugged(u)).float().mean() > 0.9
    alone = climb(rugged, u[[7]], steps=6, step_size=5.0)
    torch.testing.assert_close(alone.u[0], found.u[7])
    still = climb(rugged, u, steps=0, step_size=5.0)
    assert torch.equal(still.u, u)


def test_the_climb_steps_back_from_what_is_not_finite():
    def walled(u: Tensor) -> Tensor:
        return torch.where(u[..., 0] < 1, u[..., 0] - 0.1 * u[..., 0] ** 2, torch.nan)

    found = climb(walled, torch.zeros(2, 1, dtype=torch.float64), steps=30, step_size=50.0)
    assert (found.u > 0.5).all()
    assert (found.u < 1).all()


def test_the_climb_refuses_settings_out_of_range():
    with pytest.raises(ValueError, match="steps must not be negative, got -1"):
        climb(stiff, torch.zeros(1, 3), steps=-1, step_size=0.1)
    with pytest.raises(ValueError, match=r"step_size must be positive, got 0\.0"):
        climb(stiff, torch.zeros(1, 3), steps=1, step_size=0.0)
