"""Bounds on the log evidence, against models whose evidence is known."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lv_core import Draws, Shard, posterior, stream
from lv_core.evidence import (
    Joint,
    LogEstimate,
    effective_sample_size,
    elbo,
    iwae,
    log_mean_exp,
    log_weights,
    psis_khat,
    renyi,
)
from lv_core.evidence.estimate import fresh_noise
from lv_core.targets import LinearGaussian
from lv_core.variational import DiagonalGaussian, elbo_terms

DOUBLE = torch.float64


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=DOUBLE)


# The common part makes the posterior correlated, so that no diagonal proposal is exact.
MODEL = LinearGaussian(draw("weight", 5, 3) + 2 * draw("common", 5, 1), noise=1.0)
DATA = draw("data", 4, 5)
EVIDENCE = MODEL.log_evidence(DATA)
POSTERIORS = [MODEL.posterior(x) for x in DATA]
MEAN = torch.stack([p.mean for p in POSTERIORS])


def likelihood(z: Tensor) -> Tensor:
    return MODEL.log_likelihood(DATA, z)


JOINT = Joint(likelihood)
# The best diagonal proposal by closed form: variances 1 / Lambda_ii.
PRECISION = torch.linalg.inv(POSTERIORS[0].covariance).diagonal()
MEAN_FIELD = DiagonalGaussian(MEAN, (-0.5 * PRECISION.log()).expand(4, 3).contiguous())
GAP = 0.5 * (PRECISION.log().sum() + torch.logdet(POSTERIORS[0].covariance))
# Wider than the posterior in every direction, so that its weights have a finite variance.
MARGINAL = POSTERIORS[0].covariance.diagonal()
WIDE = DiagonalGaussian(MEAN, (0.5 * (1.5 * MARGINAL).log()).expand(4, 3).contiguous())


class ExactPosterior:
    """The correlated posterior as a proposal: any object with sample and log_prob will do."""

    def sample(self, n: int, /, *, generator=None) -> Tensor:
        return torch.stack([p.sample(n, generator=generator) for p in POSTERIORS], dim=1)

    def log_prob(self, z: Tensor, /) -> Tensor:
        return torch.stack([p(z[:, i]) for i, p in enumerate(POSTERIORS)], dim=1)


# --- values -----------------------------------------------------------------------------------


def test_elbo_of_the_mean_field_optimum_misses_the_evidence_by_the_closed_form() -> None:
    bound = elbo(JOINT, MEAN_FIELD, samples=4000, generator=stream(0, "elbo"))
    assert GAP > 0.1
    assert ((bound.mean - (EVIDENCE - GAP)).abs() < 5 * bound.standard_error).all()
    # Wrong control: the gap is many standard errors wide.
    assert ((bound.mean - EVIDENCE).abs() > 5 * bound.standard_error).all()
    assert bound.bound == "lower"
    assert bound.mean.shape == bound.standard_error.shape == bound.ess.shape == (4,)


def test_standard_errors_are_those_of_repetition() -> None:
    makes = {
        "elbo": lambda g: elbo(JOINT, WIDE, samples=200, generator=g),
        "iwae": lambda g: iwae(JOINT, WIDE, samples=200, generator=g),
        "repeats": lambda g: iwae(JOINT, WIDE, samples=5, repeats=40, generator=g),
        "renyi": lambda g: renyi(JOINT, WIDE, alpha=0.5, samples=200, generator=g),
    }
    for name, make in makes.items():
        runs = [make(stream(0, "repeat", name, k)) for k in range(200)]
        spread = torch.stack([run.mean for run in runs]).std(0)
        claimed = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
        # A standard deviation of 200 values is known to 5 %; the delta method is first order.
        assert ((claimed / spread - 1).abs() < 5 * 0.05 + 0.05).all(), name


def test_bounds_rise_with_the_number_of_samples_to_the_evidence() -> None:
    def bound(k: int) -> LogEstimate:
        repeats = 20_000 // k
        generator = stream(0, "iwae", k)
        return iwae(JOINT, WIDE, samples=k, repeats=repeats, generator=generator)

    one = elbo(JOINT, WIDE, samples=20_000, generator=stream(0, "one"))
    steps = [one, bound(5), bound(50)]
    for low, high in pairwise(steps):
        error = torch.hypot(low.standard_error, high.standard_error)
        assert (high.mean > low.mean + 5 * error).all()
    assert (steps[-1].mean < EVIDENCE + 5 * steps[-1].standard_error).all()
    # And it gets there: to first order the bias is the weights' relative variance over 2 K.
    bias = (50 / steps[-1].ess - 1) / (2 * 50)
    assert ((EVIDENCE - steps[-1].mean) < 5 * steps[-1].standard_error + 2 * bias).all()
    assert (bias < 0.05).all()
    assert_close(bound(1).mean, one.mean, atol=5 * one.standard_error.max().item() * 1.5, rtol=0)


def test_khat_tells_a_proposal_that_is_too_narrow() -> None:
    # Weights of a normal target with precision L under a diagonal normal with precision d have
    # the tail shape 1 - min eig(d^-1/2 L d^-1/2) where that is positive: mean field is too
    # narrow along the direction in which L is least.
    ratio = torch.linalg.inv(POSTERIORS[0].covariance) / (PRECISION[:, None] * PRECISION).sqrt()
    shape = 1 - torch.linalg.eigvalsh(ratio).min()
    assert shape > 0.7
    narrow, wide = (
        psis_khat(log_weights(JOINT, q, samples=20_000, generator=stream(0, "khat")))
        for q in (MEAN_FIELD, WIDE)
    )
    # Far less than all of the tail is seen, hence the width.
    assert ((narrow - shape).abs() < 0.3).all()
    assert (wide < 0.5).all()


def test_the_exact_posterior_gives_the_evidence_from_every_sample() -> None:
    exact = ExactPosterior()
    for estimate in (
        iwae(JOINT, exact, samples=7, generator=stream(0, "exact")),
        elbo(JOINT, exact, samples=7, generator=stream(0, "exact")),
        renyi(JOINT, exact, alpha=0.3, samples=7, generator=stream(0, "exact")),
    ):
        assert_close(estimate.mean, EVIDENCE)
        assert estimate.standard_error.max() < 1e-7
        assert_close(estimate.ess, torch.full((4,), 7.0).double())
    # Wrong control: a proposal that is off has spread and fewer effective samples.
    off = iwae(JOINT, MEAN_FIELD, samples=7, generator=stream(0, "exact"))
    assert (off.standard_error > 1e-2).all()
    assert (off.ess < 6.9).all()


def test_renyi_contains_the_other_two() -> None:
    settings = {"samples": 60, "repeats": 3}

    def at(alpha: float) -> LogEstimate:
        return renyi(JOINT, MEAN_FIELD, alpha=alpha, generator=stream(0, "renyi"), **settings)

    zero = iwae(JOINT, MEAN_FIELD, generator=stream(0, "renyi"), **settings)
    one = elbo(JOINT, MEAN_FIELD, samples=180, generator=stream(0, "renyi"))
    assert torch.equal(at(0.0).mean, zero.mean)
    assert torch.equal(at(1.0).mean, one.mean)
    # Close by, the mean of log weights, which has no closed-form divergence in it.
    weights = log_weights(JOINT, MEAN_FIELD, samples=180, generator=stream(0, "renyi"))
    assert_close(at(1 - 1e-6).mean, weights.mean(0), atol=1e-4, rtol=0)
    # Falls with alpha for the same draws.
    values = torch.stack([at(alpha).mean for alpha in (0.0, 0.3, 0.7, 1 - 1e-6, 2.0)])
    assert (values.diff(dim=0) < 0).all()
    assert [at(alpha).bound for alpha in (-0.5, 0.0, 0.5, 1.0, 2.0)] == [
        "none",
        "lower",
        "lower",
        "lower",
        "none",
    ]


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("alpha", [0.99, 0.9999, 0.999999, 1 - 1e-8])
def test_renyi_keeps_its_digits_near_one_in_single_precision(alpha, repeats) -> None:
    def target(z: Tensor) -> Tensor:
        return likelihood(z.double()).to(z.dtype) - 40.0

    q = DiagonalGaussian(WIDE.mean.float(), WIDE.log_scale.float())
    settings = {"generator": stream(0, "near one")}
    found = renyi(target, q, alpha=alpha, samples=32, repeats=repeats, **settings)
    settings = {"generator": stream(0, "near one")}
    weights = log_weights(target, q, samples=32 * repeats, **settings).double()
    grouped = weights.reshape(repeats, 32, 4).transpose(0, 1)
    # The definition in double precision, about the mean, which loses 1e-16 / 1e-8 at worst.
    power, center = 1 - alpha, grouped.mean(0)
    ratio = (power * (grouped - center)).exp()
    each = center + ratio.mean(0).log() / power
    assert found.mean.dtype == torch.float32
    assert_close(found.mean.double(), each.mean(0), atol=1e-4, rtol=1e-6)
    if repeats == 1:
        error = (ratio.std(0) / ratio.mean(0) / 32**0.5 / power)[0]
    else:
        error = each.std(0) / repeats**0.5
    assert_close(found.standard_error.double(), error, atol=1e-4, rtol=1e-3)
    # Wrong control: the formula as it stands, in single precision, is off, the nearer the worse.
    naive = log_mean_exp(power * grouped.float(), bound="none").mean / power
    if alpha > 0.999:
        assert ((naive - each).abs() > 1e-3).any()


def test_renyi_near_one_has_an_error_only_with_two_samples() -> None:
    single = renyi(JOINT, WIDE, alpha=1 - 1e-6, samples=1, generator=stream(0, "single"))
    weights = log_weights(JOINT, WIDE, samples=1, generator=stream(0, "single"))
    assert_close(single.mean, weights[0])
    assert single.standard_error.isnan().all()


def test_renyi_of_two_normals_is_the_closed_form() -> None:
    # q = N(0, 1), p = N(0, s^2) normalised: log E_q[(p/q)^(1-a)] has the closed form below.
    s, alpha = 0.7, 0.5
    target = DiagonalGaussian(torch.zeros(1).double(), torch.full((1,), math.log(s)).double())
    q = DiagonalGaussian.standard(target.mean)
    precision = alpha + (1 - alpha) / s**2
    expected = (-(1 - alpha) * math.log(s) - 0.5 * math.log(precision)) / (1 - alpha)
    found = renyi(target.log_prob, q, alpha=alpha, samples=100_000, generator=stream(0, "closed"))
    assert abs(found.mean.item() - expected) < 5 * found.standard_error.item()
    # Wrong control: without the factor 1 / (1 - alpha).
    assert abs(found.mean.item() - expected * (1 - alpha)) > 5 * found.standard_error.item()


# --- the two forms of a joint -----------------------------------------------------------------


class Gaussian:
    """A prior with a density and a push, as lv-core's `posterior` takes it."""

    def log_density(self, u: Tensor) -> Tensor:
        return DiagonalGaussian.standard(u).log_prob(u)

    def push(self, u: Tensor) -> Tensor:
        return u


def test_all_ways_to_say_the_joint_agree() -> None:
    standard = DiagonalGaussian(torch.zeros(3).double(), torch.zeros(3).double())
    targets = {
        "none": JOINT,
        "gaussian": Joint(likelihood, standard),
        "density": Joint(likelihood, standard.log_prob),
        "prior": Joint(likelihood, Gaussian()),
        "sum": posterior(Gaussian(), likelihood),
    }
    z = draw("z", 7, 4, 3)
    expected = likelihood(z) + standard.log_prob(z)
    weights = log_weights(JOINT, MEAN_FIELD, samples=9, generator=stream(0, "w"))
    plain = elbo(targets["density"], MEAN_FIELD, samples=9, generator=stream(0, "w"))
    for name, target in targets.items():
        assert_close(target(z), expected)
        found = log_weights(target, MEAN_FIELD, samples=9, generator=stream(0, "w"))
        assert_close(found, weights)
        bound = elbo(target, MEAN_FIELD, samples=9, generator=stream(0, "w"))
        closed = name in ("none", "gaussian")
        assert torch.allclose(bound.mean, plain.mean) is not closed
    assert_close(plain.mean, weights.mean(0))


def test_the_closed_form_of_the_divergence_is_used() -> None:
    z = MEAN_FIELD.sample(9, generator=fresh_noise(stream(0, "kl"), torch.device("cpu")))
    expected = likelihood(z).mean(0) - MEAN_FIELD.kl()
    found = elbo(JOINT, MEAN_FIELD, samples=9, generator=stream(0, "kl"))
    assert_close(found.mean, expected)


def test_joint_reports_its_parts() -> None:
    z = draw("z", 4, 3)
    parts = JOINT.terms(z)
    assert_close(parts.log_likelihood, likelihood(z))
    assert_close(parts.log_likelihood + parts.log_prior, JOINT(z))
    assert JOINT.divergence(ExactPosterior()) is None


class Scaled:
    """N(0, I) times `exp(shift)`, which may or may not know its normaliser."""

    def __init__(self, shift: float, *, known: bool) -> None:
        self.shift, self.known = shift, known

    def log_density(self, u: Tensor) -> Tensor:
        return DiagonalGaussian.standard(u).log_prob(u) + self.shift

    def push(self, u: Tensor) -> Tensor:
        return u

    def log_normalizer(self) -> float:
        if not self.known:
            raise NotImplementedError
        return self.shift


@pytest.mark.parametrize("form", ["object", "method"])
def test_an_unnormalised_prior_gives_no_bound_and_says_so(form) -> None:
    prior = Scaled(20.0, known=False)
    joint = Joint(likelihood, prior if form == "object" else prior.log_density)
    assert not joint.normalized
    assert joint.log_normalizer == 0.0
    settings = {"samples": 200, "generator": stream(0, "unnormalised")}
    makes = (elbo, iwae, partial(renyi, alpha=0.5), partial(renyi, alpha=1.0))
    for make in makes:
        found = make(joint, MEAN_FIELD, **settings)
        # It is none: far above the evidence.
        assert (found.mean > EVIDENCE + 10).all()
        assert found.bound == "none"
        assert make(JOINT, MEAN_FIELD, **settings).bound == "lower"
    insisted = Joint(likelihood, prior, assume_normalized=True)
    assert insisted.normalized
    assert elbo(insisted, MEAN_FIELD, **settings).bound == "lower"


def test_a_function_is_believed_unless_told_otherwise() -> None:
    def flat(u: Tensor) -> Tensor:
        return 0.0 * u.sum(-1)

    assert Joint(likelihood, flat).normalized
    told = Joint(likelihood, flat, assume_normalized=False)
    assert elbo(told, MEAN_FIELD, samples=2).bound == "none"
    assert JOINT.normalized
    assert Joint(likelihood, Gaussian()).normalized


@pytest.mark.parametrize("form", ["object", "method"])
def test_a_known_normaliser_is_subtracted(form) -> None:
    prior = Scaled(20.0, known=True)
    joint = Joint(likelihood, prior if form == "object" else prior.log_density)
    z = draw("z", 7, 4, 3)
    assert joint.normalized
    assert_close(joint(z), JOINT(z))
    settings = {"samples": 50, "noise": None, "generator": stream(0, "known")}
    found = elbo_terms(joint, MEAN_FIELD, **settings)
    plain = elbo_terms(
        Joint(likelihood, Gaussian()),
        MEAN_FIELD,
        **{**settings, "generator": stream(0, "known")},
    )
    assert_close(found.kl, plain.kl)
    assert_close(found.objective, plain.objective)
    # Wrong control: without the subtraction it is off by the normaliser.
    wrong = Joint(likelihood, Scaled(20.0, known=False))
    assert_close(wrong(z), JOINT(z) + 20.0)


# --- noise, memory, gradients -----------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_do_not_change_the_numbers(chunk) -> None:
    for make in (elbo, iwae, log_weights):
        whole = make(JOINT, MEAN_FIELD, samples=9, generator=stream(0, "chunk"))
        parts = make(JOINT, MEAN_FIELD, samples=9, generator=stream(0, "chunk"), chunk=chunk)
        if isinstance(whole, Tensor):
            assert_close(parts, whole)
        else:
            assert_close(parts.mean, whole.mean)
            assert_close(parts.standard_error, whole.standard_error)


def test_chunks_of_one_reach_the_target_without_a_samples_axis() -> None:
    shapes = []

    def ll(z: Tensor) -> Tensor:
        shapes.append(tuple(z.shape))
        return likelihood(z)

    elbo(Joint(ll), MEAN_FIELD, samples=3, chunk=1)
    assert shapes == [(4, 3)] * 3
    elbo(Joint(ll), MEAN_FIELD, samples=3)
    assert shapes[3:] == [(3, 4, 3)]


def test_a_report_draws_other_noise_than_its_generator_would_give() -> None:
    straight = MEAN_FIELD.sample(1, generator=stream(0, "same"))
    seen = []

    def ll(z: Tensor) -> Tensor:
        seen.append(z)
        return likelihood(z)

    elbo(Joint(ll), MEAN_FIELD, samples=1, generator=stream(0, "same"))
    assert not torch.isclose(seen[-1], straight[0]).any()
    # Two reports in a row differ, and a rebuilt generator repeats them.
    generator = stream(0, "same")
    for _ in range(2):
        elbo(Joint(ll), MEAN_FIELD, samples=1, generator=generator)
    assert torch.equal(seen[-2], seen[-3])
    assert not torch.isclose(seen[-1], seen[-2]).any()


def test_the_global_generator_is_not_repeated_either() -> None:
    q = DiagonalGaussian(torch.zeros(4, 3), torch.zeros(4, 3))
    torch.manual_seed(1)
    straight = q.sample(8)
    torch.manual_seed(1)
    seen = []

    def ll(z: Tensor) -> Tensor:
        seen.append(z)
        return -z.square().sum(-1)

    elbo(Joint(ll), q, samples=8)
    assert not torch.isin(seen[0], straight).any()


def test_processes_that_share_the_batch_report_what_one_would() -> None:
    whole = iwae(JOINT, MEAN_FIELD, samples=6, generator=stream(0, "shards"))
    for rank, rows in enumerate((slice(0, 2), slice(2, 4))):
        source = Shard(generator=stream(0, "shards"), rank=rank, world=2)

        def ll(z: Tensor, rows: slice = rows) -> Tensor:
            return MODEL.log_likelihood(DATA[rows], z)

        part = iwae(Joint(ll), MEAN_FIELD[rows], samples=6, generator=source)
        assert_close(part.mean, whole.mean[rows])


def test_given_draws_are_used_as_they_are() -> None:
    eps = draw("given", 2, 4, 3)
    weights = log_weights(JOINT, MEAN_FIELD, samples=2, generator=Draws(normals=list(eps)))
    z = MEAN_FIELD.rsample(eps)
    assert_close(weights, JOINT(z) - MEAN_FIELD.log_prob(z))


def test_leaves_no_graph_and_no_parameter_gradients() -> None:
    decoder, x = nn.Linear(3, 5), torch.randn(4, 5)

    def ll(z: Tensor) -> Tensor:
        return -(x - decoder(z)).square().sum(-1)

    mean = torch.zeros(4, 3, requires_grad=True)
    q = DiagonalGaussian(mean, torch.zeros(4, 3))
    for estimate in (elbo(Joint(ll), q), iwae(Joint(ll), q)):
        assert not estimate.mean.requires_grad
        assert estimate.mean.dtype == torch.float32
    assert mean.grad is None
    assert all(p.grad is None for p in decoder.parameters())


def test_several_event_axes_and_batch_axes() -> None:
    q = DiagonalGaussian(draw("m", 2, 3, 4, 5), draw("s", 2, 3, 4, 5), event_ndim=2)

    def ll(z: Tensor) -> Tensor:
        return -z.square().sum(dim=(-1, -2))

    assert elbo(Joint(ll), q, samples=3).mean.shape == (2, 3)
    assert iwae(Joint(ll), q, samples=3, repeats=2).ess.shape == (2, 3)


# --- estimates --------------------------------------------------------------------------------


def test_the_logarithm_of_a_mean_weight() -> None:
    weights = draw("weights", 50, 3)
    found = log_mean_exp(weights, bound="lower")
    w = weights.exp()
    assert_close(found.mean, w.mean(0).log())
    assert_close(found.standard_error, w.std(0) / w.mean(0) / 50**0.5)
    assert_close(found.ess, w.sum(0).square() / w.square().sum(0))
    assert_close(effective_sample_size(torch.zeros(8, 2)), torch.full((2,), 8.0))
    # Far from zero nothing overflows.
    assert_close(log_mean_exp(weights + 1e4, bound="lower").mean, found.mean + 1e4)
    assert log_mean_exp(weights[:1], bound="lower").standard_error.isnan().all()


def test_the_total_adds_items() -> None:
    bound = iwae(JOINT, MEAN_FIELD, samples=50, generator=stream(0, "total"))
    total = bound.total()
    assert_close(total.mean, bound.mean.sum())
    assert_close(total.standard_error, bound.standard_error.square().sum().sqrt())
    assert total.ess == bound.ess.min()
    assert (total.samples, total.bound) == (50, "lower")


def test_one_sample_has_no_standard_error() -> None:
    assert elbo(JOINT, MEAN_FIELD, samples=1).standard_error.isnan().all()


# --- refusals ---------------------------------------------------------------------------------


def test_refuses_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="samples and chunk must be at least 1, got samples=0"):
        elbo(JOINT, MEAN_FIELD, samples=0)
    with pytest.raises(ValueError, match="chunk=0"):
        iwae(JOINT, MEAN_FIELD, chunk=0)
    with pytest.raises(ValueError, match="samples=64, repeats=0"):
        renyi(JOINT, MEAN_FIELD, alpha=0.5, repeats=0)


def test_training_objectives_refuse_them_too() -> None:
    with pytest.raises(
        ValueError, match="chunk must be at least 1 or None for all samples, got 0"
    ):
        elbo_terms(JOINT, MEAN_FIELD, chunk=0)


def test_refuses_shapes_that_would_broadcast() -> None:
    wide = DiagonalGaussian(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3))
    for target in (
        Joint(lambda z: -z.square().sum((-1, -2))),
        lambda z: -z.square().sum((-1, -2)),
    ):
        with pytest.raises(ValueError, match=r"check event_ndim of the proposal"):
            elbo(target, wide, samples=2)
    with pytest.raises(ValueError, match="scalar"):
        Joint(lambda z: z.sum()).terms(torch.zeros(2, 3))


@pytest.mark.usefixtures("wrong_types")
def test_refuses_what_is_no_density() -> None:
    with pytest.raises(TypeError, match="log_likelihood must be callable, got int"):
        Joint(3)
    with pytest.raises(TypeError, match=r"standard normal; got float"):
        Joint(likelihood, 3.0)
