import io
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lv_core import stream
from lv_priors.ratio import RatioEstimator, StageSettings
from lv_priors.ratio.learning import best_gain
from lv_priors.ratio.waymarks import linear_schedule, moments, waymark_moments, waymarks

SMALL = StageSettings(width=32)
POLYNOMIAL = StageSettings(width=1, skip="quadratic")


def narrow(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Returns samples of N(2, 0.5^2 I)."""
    return 2 + 0.5 * torch.randn(n, dim, generator=generator)


def truth(x: Tensor) -> Tensor:
    """Returns log N(x; 0, I) / N(x; 2, 0.5^2 I)."""
    dim = x.shape[-1]
    far = ((x - 2) / 0.5).square().sum(-1) / 2
    return far - x.square().sum(-1) / 2 + dim * math.log(0.5)


def errors(estimator: RatioEstimator, dim: int, generator: torch.Generator) -> list[float]:
    """Returns the root mean squared error (nats) on fresh samples of numerator, denominator."""
    sets = torch.randn(4000, dim, generator=generator), narrow(4000, dim, generator)
    return [(estimator.log_ratio(x) - truth(x)).square().mean().sqrt().item() for x in sets]


def test_distant_normals_in_two_dimensions_are_told_apart_to_a_fraction_of_a_nat() -> None:
    generator = stream(0, "two")
    p, q = torch.randn(100_000, 2, generator=generator), narrow(100_000, 2, generator)
    estimator = RatioEstimator(network=SMALL)
    estimator.fit(p, q, steps=100, batch_size=128, generator=generator)
    assert max(errors(estimator, 2, generator)) < 0.3
    one = RatioEstimator(stages=1, magnitude=1.0, network=StageSettings(width=32, skip="none"))
    one.fit(p, q, steps=100, batch_size=128, generator=generator)
    assert max(errors(one, 2, generator)) > 3  # a single classifier without the skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_defaults_tell_distant_normals_in_eight_dimensions(seed) -> None:
    # Samples of the denominator lie up to rho = 13 of its deviations from those of the numerator:
    # n of them tell the ratio there to about rho^2 / sqrt(2 n) = 0.13 nats at n = 800,000.
    generator = stream(seed, "eight")
    p, q = torch.randn(800_000, 8, generator=generator), narrow(800_000, 8, generator)
    estimator = RatioEstimator().fit(p, q, steps=400, generator=generator)
    assert max(errors(estimator, 8, generator)) < 0.3


def test_telescoping_with_a_large_magnitude_beats_one_plain_classifier() -> None:
    # Both learn their quadratic from nothing with the same steps.
    generator = stream(0, "compare")
    p, q = torch.randn(50_000, 4, generator=generator), narrow(50_000, 4, generator)
    many = RatioEstimator(stages=6, magnitude=100.0, network=POLYNOMIAL)
    one = RatioEstimator(stages=1, magnitude=1.0, network=POLYNOMIAL)
    for estimator in (many, one):
        estimator.fit(p, q, steps=200, lr=5e-3, generator=stream(0, "fit"))
    best, plain = errors(many, 4, generator), errors(one, 4, generator)
    assert all(3 * b < a for a, b in zip(plain, best, strict=True))


def test_every_stage_approaches_its_own_optimum() -> None:
    generator = stream(0, "stages")
    p = torch.randn(50_000, 2, generator=generator)
    q = narrow(50_000, 2, generator)
    estimator = RatioEstimator(stages=4, network=POLYNOMIAL)
    estimator.fit(p, q, steps=400, batch_size=512, lr=5e-3, average=0.98, generator=generator)
    # In the estimator's own coordinates, where the waymarks are mixed.
    now = estimator._fitted()
    p, q = now.standardized(p), now.standardized(q)
    path = waymark_moments(moments(p), moments(q), now.coefficients)
    normals = [
        MultivariateNormal(m.float(), c.float())
        for m, c in zip(path.mean, path.covariance, strict=True)
    ]
    marks = waymarks(p[:5000], q[:5000], now.coefficients)
    for k in range(4):
        x = torch.cat((marks[k], marks[k + 1]))
        f = estimator.network.every(x)[k]
        optimum = normals[k].log_prob(x) - normals[k + 1].log_prob(x)
        assert (f - optimum).square().mean().sqrt() < 0.1
        other = normals[(k + 1) % 4].log_prob(x) - normals[(k + 1) % 4 + 1].log_prob(x)
        assert (f - other).square().mean().sqrt() > 1  # another stage's optimum


def test_perceptron_learns_what_is_not_normal() -> None:
    centers, sd = torch.tensor([[1.5, 0.0], [-1.0, 1.2]]), 0.5

    def draw(n: int, generator: torch.Generator) -> Tensor:
        which = (torch.rand(n, generator=generator) < 0.5).long()
        return centers[which] + sd * torch.randn(n, 2, generator=generator)

    def log_ratio(x: Tensor) -> Tensor:
        squares = (x[:, None] - centers).square().sum(-1) / (2 * sd**2)
        mixture = (-squares).logsumexp(-1) - math.log(4 * math.pi * sd**2)
        return mixture + x.square().sum(-1) / 2 + math.log(2 * math.pi)

    generator = stream(0, "mixture")
    p, x = draw(20_000, generator), draw(2000, generator)
    errors = []
    # The skip connection alone, and with the perceptron.
    for lr, steps in ((1e-9, 1), (1e-2, 400)):
        estimator = RatioEstimator(stages=3, network=StageSettings(width=64))
        estimator.fit(p, steps=steps, batch_size=128, lr=lr, generator=stream(0, "fit"))
        errors.append((estimator.log_ratio(x) - log_ratio(x)).square().mean().sqrt().item())
    assert errors[1] < 0.25 < 0.4 < errors[0]


def test_gain_is_the_factor_of_least_loss() -> None:
    # N(1, 1) against N(0, 1), whose log ratio is z - 1/2, at three wrong multiples of it.
    z = torch.randn(40_000, generator=stream(0, "gain"), dtype=torch.float64)
    z[:20_000] += 1
    perceptron = torch.tensor([[3.0], [-1.0], [0.5]]).double() * (z - 0.5)
    gain = best_gain(torch.zeros_like(perceptron), perceptron, 100.0)
    # 20,000 samples: standard error of the best multiple about 0.01.
    assert gain.tolist() == pytest.approx([1 / 3, 0.0, 1.0], abs=0.02)
    # What is fixed counts: with it the first needs no more, the last no less than the half.
    fixed = (z - 0.5) * torch.tensor([[1.0], [1.0], [0.75]]).double()
    gain = best_gain(fixed, perceptron, 100.0)
    assert gain.tolist() == pytest.approx([0.0, 0.0, 0.5], abs=0.06)


def test_gain_takes_noise_off_normal_samples() -> None:
    p, q = samples(20_000)
    estimator = RatioEstimator(network=SMALL).fit(p, q, steps=1, generator=stream(0, "fit"))
    now = estimator._fitted()
    now.network.head.normal_(std=0.2, generator=stream(0, "noise"))
    now.network.gain.fill_(1.0)
    noisy = errors(estimator, 2, stream(0, "x"))
    held = now.split(p, 0.5, "p")[1], now.split(q, 0.5, "q")[1]
    gain = now.record(*held, 100.0).gain
    assert max(gain) < 0.3
    calm = errors(estimator, 2, stream(0, "x"))
    assert all(2 * a < b for a, b in zip(calm, noisy, strict=True))


def test_against_a_normal_no_denominator_samples_are_needed() -> None:
    generator = stream(0, "base")
    p = narrow(100_000, 2, generator)
    estimator = RatioEstimator(network=SMALL).fit(p, steps=100, generator=generator)
    x = torch.cat((p[:2000], torch.randn(2000, 2, generator=generator)))
    # 90,000 samples at up to 9 deviations: 81 / sqrt(180,000) = 0.19 nats at worst.
    assert (estimator.log_ratio(x) + truth(x)).square().mean().sqrt() < 0.2
    assert (estimator.log_ratio(x) - truth(x)).square().mean().sqrt() > 1


def test_log_ratio_does_not_depend_on_units_and_origin() -> None:
    generator = stream(0, "units")
    p = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    q = p.roll(1, 0) * 0.5 + 1.0
    scale, shift = torch.tensor([1000.0, 1e-3]).double(), torch.tensor([5000.0, 1.0]).double()
    results = []
    for a, b in ((1.0, 0.0), (scale, shift)):
        estimator = RatioEstimator(network=SMALL)
        estimator.fit(a * p + b, a * q + b, steps=30, generator=stream(0, "fit"))
        results.append(estimator.log_ratio(a * p + b))
    assert results[0].dtype == torch.float64
    # The ridge against singular covariances and rounding leave about 1e-6.
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    raw = estimator.log_ratio(p)  # points in the wrong units
    assert (raw - results[0]).abs().max() > 1


def samples(n: int = 400) -> tuple[Tensor, Tensor]:
    """Returns two small sets."""
    generator = stream(0, "small")
    return torch.randn(n, 2, generator=generator), narrow(n, 2, generator)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("skip", ["gaussian", "quadratic"])
def test_resumes_bit_for_bit(coupled, skip) -> None:
    p, q = samples()

    def make() -> RatioEstimator:
        return RatioEstimator(coupled=coupled, network=StageSettings(width=8, skip=skip))

    plan = {"steps": 20, "batch_size": 16, "monitor_every": 5}
    whole = make().fit(p, q, **plan, generator=stream(0, "fit"))
    part = make()
    part.fit(p, q, **plan, generator=stream(0, "fit"), callback=lambda record: record.step >= 10)
    assert part.step == 10
    assert not torch.equal(part.log_ratio(p), whole.log_ratio(p))
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.fit(p, q, **plan)
    assert resumed.step == 20
    assert torch.equal(resumed.log_ratio(p), whole.log_ratio(p))
    assert resumed.records == whole.records


def test_a_fit_that_is_over_says_so() -> None:
    p, q = samples()
    estimator = RatioEstimator(network=SMALL).fit(p, q, steps=3)
    with pytest.raises(ValueError, match=r"has made 3 of 3 steps: raise steps to go on, or make"):
        estimator.fit(p, q, steps=3)
    with pytest.raises(ValueError, match=r"has made 3 of 2 steps"):
        estimator.fit(p + 1, q, steps=2)
    assert estimator.fit(p, q, steps=4).step == 4


@pytest.mark.parametrize("change", ["p", "q", "no q"])
def test_other_samples_are_refused_on_resume(change) -> None:
    p, q = samples()
    state = RatioEstimator(network=SMALL).fit(p, q, steps=2).state_dict()
    estimator = RatioEstimator(network=SMALL)
    estimator.load_state_dict(state)
    before = estimator.log_ratio(p)
    x, y = {"p": (p.roll(1, 1), q), "q": (p, q + 1e-3), "no q": (p, None)}[change]
    name = change[-1]
    with pytest.raises(ValueError, match=f"{name} must be the samples that the first 2 steps"):
        estimator.fit(x, y, steps=4)
    assert estimator.step == 2
    assert torch.equal(estimator.log_ratio(p), before)


def test_other_dtypes_are_converted() -> None:
    p, q = samples()
    estimator = RatioEstimator(network=SMALL).fit(p, q.double(), steps=3, generator=stream(0, ""))
    same = RatioEstimator(network=SMALL).fit(p, q, steps=3, generator=stream(0, ""))
    assert torch.equal(estimator.log_ratio(p), same.log_ratio(p))
    wide = estimator.stage_log_ratios(p.double())
    assert wide.dtype == estimator.log_ratio(p.double()).dtype == torch.float64
    assert torch.equal(wide, estimator.stage_log_ratios(p).double())
    assert estimator.fit(p.double(), q, steps=4).step == 4


@pytest.mark.parametrize(("n", "held"), [(4, 2), (10, 2), (15, 2), (40, 4)])
def test_few_samples_hold_out_two(n, held) -> None:
    p, q = samples(n)
    estimator = RatioEstimator(stages=2, network=SMALL).fit(p, q, steps=2)
    assert len(estimator._fitted().split(p, 0.1, "p")[1]) == held
    assert 0 < estimator.records[-1].ess <= 1


def test_saved_state_does_not_change_as_learning_goes_on() -> None:
    p, q = samples()
    estimator = RatioEstimator(network=SMALL).fit(p, q, steps=5)
    state = estimator.state_dict()
    before = state["learning"]["learner"]["input.weight"].clone()
    estimator.fit(p, q, steps=8)
    assert torch.equal(state["learning"]["learner"]["input.weight"], before)


def test_state_of_other_settings_is_refused() -> None:
    p, q = samples()
    state = RatioEstimator(network=SMALL).fit(p, q, steps=2).state_dict()
    with pytest.raises(ValueError, match="make one with the same settings"):
        RatioEstimator(magnitude=1.0, network=SMALL).load_state_dict(state)


def test_fit_depends_on_its_generator_and_leaves_the_global_one_alone() -> None:
    p, q = samples()
    before = torch.get_rng_state()
    one, two, three = (
        RatioEstimator(network=SMALL).fit(p, q, steps=5, generator=stream(0, name)).log_ratio(p)
        for name in ("a", "a", "b")
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), before)


def test_records_come_from_samples_that_are_not_learned_from() -> None:
    p, q = samples(100)
    seen = []
    estimator = RatioEstimator(stages=2, network=SMALL)
    estimator.fit(p, q, steps=7, monitor_every=3, holdout=0.2, callback=seen.append)
    assert [record.step for record in seen] == [3, 6, 7]
    assert seen == estimator.records
    assert all(len(seen[0].loss) == 2 for record in seen)
    learn, held = estimator._fitted().split(p, 0.2, "p")
    assert (len(learn), len(held)) == (80, 20)
    rows = torch.cat((learn, held))[:, 0].sort().values
    torch.testing.assert_close(rows, estimator._fitted().standardized(p)[:, 0].sort().values)


def test_stage_log_ratios_add_up_over_any_batch() -> None:
    p, q = samples()
    estimator = RatioEstimator(stages=3, schedule="ldebm", network=SMALL).fit(p, q, steps=2)
    x = p.reshape(10, 40, 2)
    stages = estimator.stage_log_ratios(x, chunk=7)
    assert stages.shape == (3, 10, 40)
    torch.testing.assert_close(stages.sum(0), estimator.log_ratio(x))
    torch.testing.assert_close(estimator.log_ratio(x[0, 0]), estimator.log_ratio(x)[0, 0])
    assert not stages.requires_grad


def test_coefficients_of_the_user_are_the_schedule() -> None:
    p, q = samples()
    c = torch.tensor([1.0, 0.9, 0.1, 0.0], dtype=torch.float64)
    estimator = RatioEstimator(stages=3, schedule=c, network=SMALL).fit(p, q, steps=1)
    assert torch.equal(estimator._fitted().coefficients, c)
    other = RatioEstimator(stages=3, network=SMALL).fit(p, q, steps=1)
    assert not torch.allclose(other._fitted().coefficients, c, atol=1e-2)


def test_words_before_and_after_a_fit() -> None:
    estimator = RatioEstimator(stages=1, schedule="linear", network=SMALL)
    assert estimator.words() == ["no record has been made yet"]
    p, q = samples()
    estimator.fit(p, q + 10, steps=2)
    assert estimator.words()[0].startswith("stage 1 tell their waymarks apart")
    assert estimator.words()[1].startswith("stage 1 have a mean ratio far from 1")
    near = RatioEstimator(network=SMALL).fit(p, p.flip(0), steps=2)
    assert near.words()[0].startswith("healthy")


def test_a_constant_column_is_no_obstacle() -> None:
    p, q = samples()
    p, q = (torch.cat((x, torch.ones(len(x), 1)), 1) for x in (p, q))
    estimator = RatioEstimator(network=SMALL).fit(p, q, steps=3)
    assert torch.isfinite(estimator.log_ratio(p)).all()


def test_penalty_pulls_the_ratio_towards_zero() -> None:
    p, q = samples()
    sizes = []
    for penalty in (0.0, 100.0):
        estimator = RatioEstimator(penalty=penalty, network=POLYNOMIAL)
        estimator.fit(p, q, steps=100, lr=5e-3, generator=stream(0, "fit"))
        sizes.append(estimator.stage_log_ratios(p).square().mean())
    assert sizes[1] < 0.1 * sizes[0]


def test_an_unfitted_estimator_says_so() -> None:
    with pytest.raises(ValueError, match="knows no ratio yet: call fit or load_state_dict"):
        RatioEstimator().log_ratio(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="knows no ratio yet"):
        RatioEstimator().network  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 0}, "stages must be at least 1"),
        ({"magnitude": 0.0}, "magnitude must be positive"),
        ({"penalty": -1.0}, "penalty must not be negative"),
        ({"schedule": linear_schedule(3)}, r"coefficients must be stages \+ 1 = 7 numbers"),
        ({"schedule": "ldebm", "stages": 11}, "stages must be at most 10"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        RatioEstimator(**settings)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"steps": 0}, "must be positive, got 0"),
        ({"lr": 0.0}, "must be positive"),
        ({"holdout": 1.0}, r"holdout must lie in \(0, 1\)"),
        ({"average": 1.0}, r"average in \[0, 1\)"),
    ],
)
def test_plans_out_of_range_are_refused(plan, message) -> None:
    with pytest.raises(ValueError, match=message):
        RatioEstimator().fit(*samples(), **plan)


def test_samples_of_another_dimension_are_refused(wrong_types) -> None:
    p, q = samples()
    with pytest.raises(ValueError, match=r"q must have shape \(n, dim\)"):
        RatioEstimator().fit(p, q[:, :1].contiguous())


def test_wrong_samples_are_refused() -> None:
    p, q = samples()
    with pytest.raises(ValueError, match="p must have shape"):
        RatioEstimator().fit(p[:1], q)
    with pytest.raises(ValueError, match="q must hold four or more samples, two to learn from"):
        RatioEstimator().fit(p, q[:3])
    with pytest.raises(ValueError, match="q must be finite"):
        RatioEstimator().fit(p, q / 0)
    estimator = RatioEstimator(network=SMALL).fit(p, q, steps=1)
    with pytest.raises(ValueError, match="x must end in dimension 2, got shape"):
        estimator.log_ratio(torch.zeros(5, 3))
