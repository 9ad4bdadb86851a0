import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lv_core import Cosine, Langevin, Mala, posterior, stream
from lv_priors import Prior
from lv_priors.ratio import RatioPrior, StageSettings
from lv_priors.ratio.waymarks import linear_schedule

SMALL = StageSettings(width=32)
MEAN, COVARIANCE = torch.tensor([0.8, -0.5]), torch.tensor([[0.3, 0.15], [0.15, 0.4]])
NORMAL = MultivariateNormal(MEAN, COVARIANCE)
CENTERS, SD, SHARE = torch.tensor([[1.2, 0.0], [-1.0, 1.0]]), 0.4, torch.tensor([0.7, 0.3])


def normals(n: int, generator: torch.Generator) -> Tensor:
    """Returns draws of the correlated normal."""
    root = torch.linalg.cholesky(COVARIANCE)
    return MEAN + torch.randn(n, 2, generator=generator) @ root.T


def mixture(n: int, generator: torch.Generator) -> Tensor:
    """Returns draws of two unequal clusters."""
    which = (torch.rand(n, generator=generator) > SHARE[0]).long()
    return CENTERS[which] + SD * torch.randn(n, 2, generator=generator)


def log_mixture(u: Tensor) -> Tensor:
    """Returns the log density of the two clusters."""
    squares = (u[..., None, :] - CENTERS).square().sum(-1) / (2 * SD**2)
    return (SHARE.log() - squares).logsumexp(-1) - math.log(2 * math.pi * SD**2)


def base(u: Tensor) -> Tensor:
    """Returns log N(u; 0, I)."""
    return -0.5 * u.square().sum(-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)


def learn(prior: RatioPrior, data: Tensor, steps: int, lr: float = 5e-3, y: Tensor | None = None):
    """Learns the prior on batches of 256 of the data; returns it."""
    optimizer = torch.optim.Adam(prior.parameters(), lr=lr)
    schedule = Cosine(start=lr, end=0.0, steps=steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step)
        generator = stream(0, "learn", step)
        rows = torch.randint(len(data), (256,), generator=generator)
        view = prior if y is None else prior.given(y[rows])
        loss, _ = view.loss(data[rows], generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior


@pytest.fixture(scope="module")
def clusters() -> RatioPrior:
    """A prior learned on the two clusters."""
    data = mixture(20_000, stream(0, "data"))
    torch.manual_seed(0)
    prior = RatioPrior(2, stages=3, schedule="balanced", network=StageSettings(width=64))
    prior.calibrate(data)
    return learn(prior, data, 500)


def rmse(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


def test_learned_density_is_that_of_the_clusters(clusters) -> None:
    u = mixture(2000, stream(0, "test"))
    with torch.no_grad():
        assert rmse(clusters.log_density(u), log_mixture(u)) < 0.3
    # Wrong controls: the base alone, and the normal with the same moments.
    assert rmse(base(u), log_mixture(u)) > 1
    untrained = RatioPrior(2, stages=3)
    untrained.calibrate(mixture(20_000, stream(0, "data")))
    with torch.no_grad():
        assert rmse(untrained.log_density(u), log_mixture(u)) > 0.5


def test_samples_have_the_shares_and_moments_of_the_clusters(clusters) -> None:
    n = 2000
    u = clusters.sample(n, generator=stream(0, "sample"))
    right = u[:, 0] > 0.1
    # Share 0.7 with standard error 0.01; learning adds about as much as the density's error.
    assert abs(right.float().mean().item() - 0.7) < 0.08
    for cluster, center in ((u[right], CENTERS[0]), (u[~right], CENTERS[1])):
        assert (cluster.mean(0) - center).abs().max() < 0.1
        assert (cluster.std(0) - SD).abs().max() < 0.08  # some mass lies between the clusters
    start = clusters.init(n, generator=stream(0, "sample"))
    assert abs((start[:, 0] > 0.1).float().mean().item() - 0.7) > 0.08


def test_learned_density_has_mass_one(clusters) -> None:
    mass = clusters.mass(20_000, generator=stream(0, "mass"))
    assert abs(mass.mean.item() - 1) < 0.1
    assert clusters.log_normalizer() == 0.0
    # A constant error of the log ratio is seen at once.
    with torch.no_grad():
        clusters.network.constant[0] += 0.3
        wrong = clusters.mass(20_000, generator=stream(0, "mass"))
        clusters.network.constant[0] -= 0.3
    assert abs(wrong.mean.item() - 1) > 0.2


def test_learning_without_calibration_reaches_a_normal() -> None:
    torch.manual_seed(0)
    data = normals(20_000, stream(0, "normal"))
    prior = RatioPrior(2, network=StageSettings(width=16, skip="quadratic"))
    learn(prior, data, 400, lr=1e-2)
    u = normals(2000, stream(0, "test"))
    with torch.no_grad():
        assert rmse(prior.log_density(u), NORMAL.log_prob(u)) < 0.2
    assert rmse(base(u), NORMAL.log_prob(u)) > 0.8
    sample = prior.sample(1000, generator=stream(0, "sample"))
    # 1000 samples: standard errors 0.02; the density's error moves moments by about as much.
    assert (sample.mean(0) - MEAN).abs().max() < 0.15
    assert (torch.cov(sample.T) - COVARIANCE).abs().max() < 0.15


def test_calibration_alone_is_exact_for_normal_posteriors() -> None:
    data = normals(100_000, stream(0, "normal"))
    prior = RatioPrior(2)
    prior.calibrate(data)
    u = normals(1000, stream(0, "test"))
    with torch.no_grad():
        # 100,000 samples: standard error 0.007.
        assert (prior.log_density(u) - NORMAL.log_prob(u)).abs().max() < 0.05
        for mark in range(6):
            c = prior.coefficients[mark].float()
            cov = c**2 * COVARIANCE + (1 - c**2) * torch.eye(2)
            truth = MultivariateNormal(c * MEAN, cov).log_prob(u)
            assert (prior.waymark_density(u, mark) - truth).abs().max() < 0.05


def test_sampler_is_exact_on_a_calibrated_normal_and_a_plain_chain_is_not() -> None:
    data = 0.05 * normals(50_000, stream(0, "normal")) + 2.0
    prior = RatioPrior(2, network=SMALL, sampler=Mala(steps=5, step_size=0.6))
    prior.calibrate(data)
    n = 4000
    u = prior.sample(n, generator=stream(0, "sample"))
    deviation = data.std(0)
    # Mean within five standard errors 1 / sqrt(n), spread within 5 / sqrt(2 n), both 0.08.
    assert ((u.mean(0) - data.mean(0)) / deviation).abs().max() < 0.08
    assert (u.std(0) / deviation - 1).abs().max() < 0.08
    plain = Mala(steps=30, step_size=0.6)  # as many steps from N(0, I), in units of N(0, I)
    start = prior.init(n, generator=stream(0, "start"))
    wrong = plain(prior.log_density, start, generator=stream(0, "plain"))
    assert (wrong.std(0) / deviation - 1).abs().max() > 1


def test_steps_of_the_sampler_follow_the_waymark() -> None:
    prior = RatioPrior(2, sampler=Langevin(steps=3, step_size=0.5))
    prior.calibrate(0.1 * torch.randn(5000, 2, generator=stream(0, "narrow")))
    assert prior._kernel(0).step_size.tolist() == pytest.approx([0.05, 0.05], rel=0.05)
    assert prior._kernel(5).step_size.tolist() == pytest.approx([0.48, 0.48], rel=0.05)
    whole = RatioPrior(2, sampler=Langevin(steps=3, step_size=1))
    whole.load_state_dict(prior.state_dict())
    assert whole._kernel(0).step_size.tolist() == pytest.approx([0.1, 0.1], rel=0.05)
    scheduled = Langevin(steps=3, step_size=Cosine(start=0.5, end=0.1, steps=3))
    other = RatioPrior(2, sampler=scheduled)
    assert other._kernel(0) is scheduled
    assert other.sample(4).shape == (4, 2)


def test_conditional_prior_follows_its_condition() -> None:
    # u | y ~ N(y, 0.5^2) with y ~ N(0, 1): what is learned jointly is known for each y.
    torch.manual_seed(0)
    generator = stream(0, "pairs")
    y = torch.randn(20_000, 1, generator=generator)
    data = y + 0.5 * torch.randn(20_000, 1, generator=generator)
    prior = RatioPrior(1, stages=3, condition=1, network=SMALL)
    prior.calibrate(data)
    learn(prior, data, 400, y=y)
    for value in (-1.0, 1.0):
        view = prior.given(torch.tensor([[value]]))
        u = value + 0.5 * torch.randn(500, 1, generator=generator)
        truth = torch.distributions.Normal(value, 0.5).log_prob(u)[:, 0]
        with torch.no_grad():
            assert rmse(view.log_density(u), truth) < 0.25
            other = prior.given(torch.tensor([[-value]]))
            assert rmse(other.log_density(u), truth) > 1
        sample = view.sample(500, generator=stream(0, "given"))
        # 500 samples: standard error 0.02; the rest is the error of the density.
        assert abs(sample.mean().item() - value) < 0.2
        assert abs(sample.std().item() - 0.5) < 0.12
    each = prior.given(torch.tensor([[-1.0], [1.0]]).repeat(100, 1))
    rows = each.sample(200, generator=stream(0, "each"))
    assert (rows[1::2].mean() - rows[::2].mean()).item() == pytest.approx(2.0, abs=0.4)
    assert each.mass(200, generator=stream(0, "m")).mean.item() == pytest.approx(1.0, abs=0.4)
    assert each.words(each.sample(200), generator=stream(0, "w"))


def test_given_is_a_prior_that_shares_parameters() -> None:
    prior = RatioPrior((2, 3), condition=2, network=SMALL)
    view = prior.given(torch.zeros(5, 2))
    assert isinstance(view, Prior)
    assert all(a is b for a, b in zip(prior.parameters(), view.parameters(), strict=True))
    assert prior.bound is None
    u = torch.randn(4, 5, 2, 3)
    assert view.log_density(u).shape == (4, 5)
    assert view.push(u) is u
    view.loss(u[0]).loss.backward()
    assert prior.network.head.grad is not None
    target = posterior(view, lambda z: -z.square().sum((-2, -1)))
    assert Langevin(steps=2, step_size=0.1)(target, u).shape == u.shape


def test_conditional_prior_asks_for_its_condition() -> None:
    prior = RatioPrior(2, condition=1, network=SMALL)
    calls = (
        lambda: prior.log_density(torch.zeros(3, 2)),
        lambda: prior.loss(torch.zeros(3, 2)),
        lambda: prior.sample(3),
        lambda: prior.mass(3),
    )
    for call in calls:
        with pytest.raises(ValueError, match="needs a condition: bind it first"):
            call()
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3, 1)):
        if wrong.ndim == 2:
            with pytest.raises(ValueError, match=r"condition must have shape \(n, 1\)"):
                prior.given(wrong)
    with pytest.raises(ValueError, match=r"condition must have shape \(n, None\)"):
        RatioPrior(2).given(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="condition holds 2 rows"):
        prior.given(torch.zeros(2, 1)).log_density(torch.zeros(3, 2))


def test_loss_starts_at_chance_and_logs_every_stage() -> None:
    prior = RatioPrior(2, magnitude=1.0)
    loss, logs = prior.loss(torch.randn(64, 2))
    assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-5)
    names = {
        f"{n}_{k}"
        for n in ("loss", "accuracy", "positive", "negative", "mass")
        for k in range(1, 7)
    }
    assert set(logs) == names
    assert all(value.ndim == 0 and not value.requires_grad for value in logs.values())


def test_loss_is_the_mean_over_the_stages_drawn() -> None:
    u = torch.randn(64, 2)
    prior = RatioPrior(2, drawn=2, network=SMALL)
    prior.calibrate(u)
    loss, logs = prior.loss(u, generator=stream(0, "drawn"))
    seen = torch.stack([logs[f"loss_{k}"] for k in range(1, 7)])
    assert int(seen.isnan().sum()) == 4
    torch.testing.assert_close(seen.nanmean(), loss.detach())
    others = prior.loss(u, generator=stream(1, "drawn")).logs
    assert {k for k, v in logs.items() if v.isnan()} != {k for k, v in others.items() if v.isnan()}


def test_loss_costs_one_pass_and_is_a_function_of_its_generator() -> None:
    prior, calls = RatioPrior(2, network=SMALL), []
    prior.network.input.register_forward_hook(lambda *_: calls.append(1))
    u = torch.randn(16, 2)
    one, two = (prior.loss(u, generator=stream(0, "a")).loss for _ in range(2))
    assert len(calls) == 2
    assert torch.equal(one, two)


def test_shuffled_pairs_keep_latent_and_condition_together() -> None:
    # One stage without noise in its positives: f = y z is large only where z and y match.
    y = torch.linspace(-3, 3, 64)[:, None]
    prior = RatioPrior(1, stages=2, condition=1, coupled=False, schedule=linear_schedule(2))
    met = []
    prior.network.register_forward_pre_hook(lambda _, inputs: met.append(inputs))
    prior.given(y).loss(y, generator=stream(0, "shuffle"))
    pairs, _, both = met[0]
    assert torch.equal(pairs[0, :64], y)
    assert torch.equal(both[:64], y)
    assert not torch.equal(both[64:], y)
    # The second waymark has c = 0.87: the correlation with its own condition is about 0.96.
    assert torch.corrcoef(torch.cat((pairs[0, 64:], both[64:]), 1).T)[0, 1] > 0.9
    assert torch.corrcoef(torch.cat((pairs[0, 64:], y), 1).T)[0, 1].abs() < 0.6


def test_sampling_and_densities_leave_parameter_gradients_alone() -> None:
    prior = RatioPrior(2, network=SMALL)
    u = prior.sample(8, generator=stream(0, "a"))
    assert not u.requires_grad
    Langevin(steps=2, step_size=0.1)(prior.log_density, u)
    assert all(p.grad is None and p.requires_grad for p in prior.parameters())


def test_keeps_float64_and_the_weights_of_a_checkpoint() -> None:
    prior = RatioPrior((2, 2), schedule="balanced", network=SMALL).double()
    prior.calibrate(0.2 * torch.randn(100, 2, 2, dtype=torch.float64) + 1.0)
    u = torch.randn(5, 2, 2, dtype=torch.float64)
    assert prior.log_density(u).dtype == torch.float64
    assert prior.sample(3).dtype == torch.float64
    copy = RatioPrior((2, 2), schedule="balanced", network=SMALL).double()
    copy.load_state_dict(prior.state_dict())
    assert torch.equal(copy.log_density(u), prior.log_density(u))
    assert torch.equal(copy.coefficients, prior.coefficients)
    assert "stages=6" in repr(prior)


def test_words_tell_a_saturated_stage() -> None:
    prior = RatioPrior(2, stages=1)
    data = 0.1 * torch.randn(500, 2) + 3.0
    prior.calibrate(data)
    assert any("more than 95 % accuracy" in word for word in prior.words(data))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"magnitude": -1.0}, "magnitude must be positive"),
        ({"penalty": -1.0}, "penalty must not be negative"),
        ({"condition": 0}, "condition must be a positive length or None"),
        ({"drawn": 7}, r"drawn must lie in 1\.\.6"),
        ({"schedule": torch.tensor([1.0, 0.0])}, "coefficients must be"),
        ({"stages": 0}, "stages must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        RatioPrior(2, **settings)


def test_wrong_events_are_refused() -> None:
    prior = RatioPrior(2)
    for call in (prior.log_density, prior.loss, prior.calibrate):
        with pytest.raises(ValueError, match="must end in the event shape"):
            call(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="u_posterior must hold two or more samples"):
        prior.calibrate(torch.zeros(1, 2))


def test_posterior_samples_that_are_not_finite_are_refused() -> None:
    prior, u = RatioPrior((2, 2)), torch.randn(10, 2, 2)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    u[3, 0, 1] = math.nan
    with pytest.raises(ValueError, match="u_posterior must be finite: remove rows that hold NaN"):
        prior.calibrate(u)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
