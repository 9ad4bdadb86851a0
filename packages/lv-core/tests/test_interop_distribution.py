"""Log densities, and draws of chains, as distributions of torch."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, constraints

from lv_core import DiagonalGaussian, Hmc, LogEstimate, Mala, ais, stream
from lv_core.diagnostics import mcse_mean, to_arviz
from lv_core.interop import (
    DensityDistribution,
    SampledPosterior,
    to_torch_distribution,
)
from lv_core.pack import Pack
from lv_core.targets import Gaussian

MEAN = torch.tensor([1.0, -2.0])
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]])
EXACT = Gaussian(MEAN, COVARIANCE)
LOG_Z = 0.5 * math.log((2 * math.pi) ** 2 * (2.0 - 0.36))


def unnormalised(u: Tensor) -> Tensor:
    return EXACT(u) + LOG_Z


def wrapped(**options) -> DensityDistribution:
    kernel = Hmc(steps=30, step_size=0.5, leapfrog=4)
    return to_torch_distribution(unnormalised, kernel, event_shape=(2,), **options)


# --- a density and a kernel


def test_has_the_shapes_of_a_distribution_of_torch() -> None:
    p = wrapped()
    assert (p.event_shape, p.batch_shape) == ((2,), ())
    assert p.sample().shape == (2,)
    assert p.sample((3, 4)).shape == (3, 4, 2)
    assert not p.has_rsample
    assert repr(p) == "DensityDistribution(event_shape=(2,), batch_shape=())"
    with pytest.raises(NotImplementedError):
        p.rsample()


def test_log_prob_needs_the_normaliser_and_is_exact_with_it() -> None:
    u, torchs = torch.randn(5, 4, 2), MultivariateNormal(MEAN, COVARIANCE)
    with pytest.raises(NotImplementedError, match=r"log_normalizer=.*ais\(base, log_density\)"):
        wrapped().log_prob(u)
    p = wrapped(log_normalizer=LOG_Z)
    torch.testing.assert_close(p.log_prob(u), torchs.log_prob(u))
    torch.testing.assert_close(p.log_prob(u[0, 0]), torchs.log_prob(u[0, 0]))
    raw = wrapped().unnormalized_log_prob(u)  # wrong control: off by the constant
    assert ((raw - torchs.log_prob(u)) - LOG_Z).abs().max() < 1e-5


def test_normaliser_may_be_an_estimate() -> None:
    base = Gaussian(torch.zeros(2), 4 * torch.eye(2))
    log_z = ais(base, unnormalised, betas=50, chains=4000, generator=stream(0, "ais")).log_z
    assert isinstance(log_z, LogEstimate)
    p, u = wrapped(log_normalizer=log_z), torch.randn(6, 2)
    gap = p.log_prob(u) - EXACT(u)
    torch.testing.assert_close(gap, gap[:1].expand(6), atol=1e-5, rtol=0)
    assert abs(gap[0].item()) < 5 * log_z.standard_error.item()
    assert 5 * log_z.standard_error.item() < 0.1 < LOG_Z


def test_samples_have_the_moments_of_the_target() -> None:
    u = wrapped().sample((4000,), generator=stream(0, "samples"))
    # Independent draws: five standard errors.
    error = 5 * (COVARIANCE.diag() / 4000).sqrt()
    assert ((u.mean(0) - MEAN).abs() < error).all()
    assert ((u.T.cov() - COVARIANCE).abs() < 5 * 2 * (2 / 4000) ** 0.5).all()
    one = Hmc(steps=1, step_size=0.5, leapfrog=1)  # wrong control: too short a chain
    short = to_torch_distribution(unnormalised, one, event_shape=(2,))
    v = short.sample((4000,), generator=stream(0, "samples"))
    assert ((v.mean(0) - MEAN).abs() > error).all()


def test_samples_are_a_function_of_the_generator() -> None:
    p, before = wrapped(), torch.get_rng_state()
    u = p.sample((5,), generator=stream(0, "a"))
    assert torch.equal(u, p.sample((5,), generator=stream(0, "a")))
    assert not torch.equal(u, p.sample((5,), generator=stream(0, "b")))
    assert torch.equal(torch.get_rng_state(), before)
    p.sample((5,))
    assert not torch.equal(torch.get_rng_state(), before)


def test_chains_start_where_they_are_told_to() -> None:
    starts = []

    def init(n, *, generator=None):
        starts.append(n)
        return torch.full((n, 2), 7.0, dtype=torch.float64)

    still = Mala(steps=1, step_size=1e-8)
    p = to_torch_distribution(lambda u: -u.square().sum(-1), still, event_shape=(2,), init=init)
    u = p.sample((3, 2))
    assert starts == [6]
    assert u.dtype == torch.float64
    torch.testing.assert_close(u, torch.full((3, 2, 2), 7.0, dtype=torch.float64))


def items(u: Tensor) -> Tensor:
    """Normals around 0, 10 and 20, one for each item; not defined for less than all items."""
    assert u.shape[-2:] == (3, 2)
    return -0.5 * (u - 10 * torch.arange(3.0)[:, None]).square().sum(-1)


def test_items_of_a_batch_have_their_own_targets() -> None:
    log_z = torch.full((3,), math.log(2 * math.pi))
    p = to_torch_distribution(
        items,
        Hmc(steps=40, step_size=0.8, leapfrog=3),
        event_shape=(2,),
        batch_shape=(3,),
        log_normalizer=log_z,
    )
    u = p.sample((500,), generator=stream(0, "items"))
    assert u.shape == (500, 3, 2)
    centers = 10 * torch.arange(3.0)[:, None].expand(3, 2)
    assert ((u.mean(0) - centers).abs() < 5 / 500**0.5).all()
    expected = Independent(Normal(centers, 1.0), 1)
    torch.testing.assert_close(p.log_prob(u), expected.log_prob(u), atol=1e-4, rtol=1e-5)
    # One event broadcasts over the items, as in torch.
    z = torch.zeros(2)
    torch.testing.assert_close(p.log_prob(z), expected.log_prob(z), atol=1e-4, rtol=1e-5)
    with pytest.raises(ValueError, match=r"batch shape \(3,\), got \(2,\)"):
        to_torch_distribution(
            items,
            Mala(steps=1, step_size=1.0),
            event_shape=(2,),
            batch_shape=(3,),
            log_normalizer=torch.zeros(2),
        )


def test_serves_as_the_base_of_independent() -> None:
    p = wrapped(log_normalizer=LOG_Z).expand((4,))
    assert p.batch_shape == (4,)
    joint, u = Independent(p, 1), torch.randn(5, 4, 2)
    assert joint.event_shape == (4, 2)
    assert joint.sample((5,)).shape == (5, 4, 2)
    torch.testing.assert_close(joint.log_prob(u), EXACT(u).sum(-1))
    twice = joint.expand((3,))
    assert twice.sample((5,)).shape == (5, 3, 4, 2)
    assert twice.log_prob(u[0]).shape == (3,)
    apart = p.sample((), generator=stream(0, "apart"))
    assert len(apart.unique(dim=0)) == 4  # expanded entries are draws of their own
    with pytest.raises(ValueError, match=r"must end in the batch shape \(3,\) .* got \(2,\)"):
        to_torch_distribution(
            items, Mala(steps=1, step_size=1.0), event_shape=(2,), batch_shape=(3,)
        ).expand((2,))


def test_checks_values_as_torch_does() -> None:
    # Said outright: other libraries change the default of torch when they are imported.
    p = wrapped(log_normalizer=LOG_Z, validate_args=True)
    with pytest.raises(ValueError, match="must match event_shape"):
        p.log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.tensor([0.0, math.nan]))
    positive = constraints.independent(constraints.positive, 1)
    half = wrapped(log_normalizer=LOG_Z, support=positive, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        half.log_prob(torch.tensor([0.0, -1.0]))
    unchecked = wrapped(log_normalizer=LOG_Z, validate_args=False)
    assert unchecked.log_prob(torch.tensor([0.0, math.nan])).isnan()


def test_densities_and_draws_of_another_shape_are_refused() -> None:
    kernel = Mala(steps=1, step_size=1.0)
    mean = to_torch_distribution(lambda u: u.sum(), kernel, event_shape=(2,), log_normalizer=0.0)
    with pytest.raises(ValueError, match="do not average over the batch"):
        mean.log_prob(torch.zeros(5, 2))
    many = to_torch_distribution(
        lambda u: u.square(), kernel, event_shape=(2,), log_normalizer=0.0, validate_args=False
    )
    with pytest.raises(ValueError, match=r"one value per event, shape \(5,\), got \(5, 2\)"):
        many.log_prob(torch.zeros(5, 2))
    short = DensityDistribution(
        unnormalised, lambda n, *, generator=None: torch.zeros(n, 3), event_shape=(2,)
    )
    with pytest.raises(ValueError, match=r"draw must return shape \(6, 2\), got \(6, 3\)"):
        short.sample((6,))


def test_log_prob_is_differentiable_and_sampling_leaves_gradients_alone() -> None:
    net = nn.Linear(2, 1)

    def density(u):
        return net(u).squeeze(-1) - 0.5 * u.square().sum(-1)

    p = to_torch_distribution(
        density, Mala(steps=3, step_size=0.5), event_shape=(2,), log_normalizer=0.0
    )
    u = p.sample((5,))
    assert not u.requires_grad
    assert net.weight.grad is None
    p.log_prob(u).sum().backward()
    torch.testing.assert_close(net.weight.grad, u.sum(0, keepdim=True))


# --- draws


def ar(draws: int, chains: int, *, rho: float = 0.8) -> Tensor:
    """Stationary autoregressions of unit variance, shape `(draws, chains, 3)`, float64."""
    noise = torch.empty(draws, chains, 3, dtype=torch.float64)
    noise.normal_(generator=stream(0, "ar"))
    rows = [noise[0]]
    for eps in noise[1:]:
        rows.append(rho * rows[-1] + (1 - rho**2) ** 0.5 * eps)
    return torch.stack(rows)


def test_moments_and_quantiles_are_those_of_the_draws() -> None:
    u = ar(200, 4)
    p, rows = SampledPosterior(u), u.reshape(800, 3)
    assert (p.event_shape, p.batch_shape) == ((3,), ())
    torch.testing.assert_close(p.mean, rows.mean(0))
    torch.testing.assert_close(p.variance, rows.var(0))
    torch.testing.assert_close(p.stddev, rows.std(0))
    q = torch.tensor([[0.0, 0.05], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        p.quantile(q), torch.quantile(rows, q.flatten(), 0).reshape(2, 2, 3)
    )
    torch.testing.assert_close(p.quantile(0.3), torch.quantile(rows, 0.3, 0))
    single = SampledPosterior(u[:1, :1])
    torch.testing.assert_close(single.quantile(0.7), u[0, 0])
    assert repr(p) == "SampledPosterior(draws=200, chains=4, event_shape=(3,), batch_shape=())"
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got 1.5"):
        p.quantile(1.5)


def test_samples_are_draws_in_equal_proportion() -> None:
    u = torch.arange(6.0).reshape(3, 2, 1).expand(3, 2, 2)
    p = SampledPosterior(u)
    x = p.sample((30_000,), generator=stream(0, "resample"))
    assert torch.equal(x[:, 0], x[:, 1])  # whole draws
    counts = torch.bincount(x[:, 0].long(), minlength=6)
    assert len(counts) == 6
    # Binomial: five standard deviations of n = 30,000 at 1/6.
    assert ((counts - 5000).abs() < 5 * (30_000 * 5 / 36) ** 0.5).all()
    assert p.sample().shape == (2,)
    assert p.sample((4, 5)).shape == (4, 5, 2)
    assert torch.equal(
        p.sample((9,), generator=stream(0, "a")), p.sample((9,), generator=stream(0, "a"))
    )


def test_expectation_comes_with_an_error_that_knows_of_autocorrelation() -> None:
    u = ar(2000, 8)
    p = SampledPosterior(u)
    value, error = p.expectation(lambda u: u.square().sum(-1))
    torch.testing.assert_close(value, u.square().sum(-1).mean())
    torch.testing.assert_close(error, mcse_mean(u.square().sum(-1)))
    assert abs(value.item() - 3) < 5 * error.item()
    plain = p.expectation()
    # The autocorrelation time is (1 + rho) / (1 - rho) = 9: three times the naive error, which
    # is the wrong control. The estimate of the time itself is good to a fifth.
    naive = u.reshape(-1, 3).std(0) / (8 * 2000) ** 0.5
    ratio = plain.error / naive
    assert ((ratio > 2.4) & (ratio < 3.6)).all()
    share = p.expectation(lambda u: u[..., 0] > 0)
    assert abs(share.value.item() - 0.5) < 5 * share.error.item()
    with pytest.raises(ValueError, match=r"first two axes \(2000, 8\)"):
        p.expectation(lambda u: u.mean(0))


def test_has_no_density_and_says_what_to_do() -> None:
    p = SampledPosterior(ar(500, 4))
    with pytest.raises(NotImplementedError, match=r"DiagonalGaussian\(posterior\.mean"):
        p.log_prob(p.mean)
    fitted = DiagonalGaussian(p.mean, p.stddev.log()).to_torch()  # as the message says
    assert fitted.log_prob(p.mean).isfinite()


def test_takes_traces_with_names_and_latents() -> None:
    layout = Pack({"a": (), "b": (2,)})
    trace = Mala(steps=40, step_size=0.5).run(
        lambda u: -0.5 * u.square().sum(-1), torch.randn(6, 3), thin=2
    )
    p = SampledPosterior.from_trace(trace, split=layout.unpack)
    assert torch.equal(p.draws, trace.u)
    assert p.named["b"].shape == (20, 6, 2)
    assert torch.equal(p.named["a"], trace.u[..., 0])
    pushed = SampledPosterior.from_trace(trace, push=lambda u: u[..., :2].exp())
    assert pushed.event_shape == (2,)
    assert list(pushed.named) == ["u"]
    torch.testing.assert_close(pushed.mean, trace.u[..., :2].exp().mean((0, 1)))
    half = constraints.independent(constraints.positive, 1)
    bounded = SampledPosterior.from_trace(trace, push=torch.exp, support=half)
    assert bounded.support.check(bounded.sample((50,))).all()
    assert not p.support.check(torch.tensor([0.0, 1.0, math.nan]))


def test_items_keep_their_own_posteriors() -> None:
    trace = Hmc(steps=300, step_size=0.8, leapfrog=3).run(
        items, torch.randn(4, 3, 2, generator=stream(0, "u")), generator=stream(0, "r"), thin=1
    )
    p = SampledPosterior.from_trace(trace)
    assert (p.batch_shape, p.event_shape) == ((3,), (2,))
    late = SampledPosterior(p.draws[100:], batch_ndim=1)
    assert ((late.mean - 10 * torch.arange(3.0)[:, None]).abs() < 0.3).all()
    assert late.sample((7,)).shape == (7, 3, 2)
    assert Independent(late, 1).event_shape == (3, 2)
    assert Independent(late, 1).sample((7,)).shape == (7, 3, 2)
    apart = SampledPosterior.from_trace(trace, chain_axis=None)
    assert apart.draws.shape == (300, 1, 4, 3, 2)
    assert apart.batch_shape == (4, 3)


def test_one_chain_without_batch_axes_is_a_posterior_too() -> None:
    trace = Mala(steps=30, step_size=0.5).run(lambda u: -0.5 * u.square(), torch.zeros(()), thin=1)
    for chain_axis in (0, None):
        p = SampledPosterior.from_trace(trace, chain_axis=chain_axis)
        assert p.draws.shape == (30, 1)
        assert (p.batch_shape, p.event_shape) == ((), ())


def test_agrees_with_arviz_on_the_same_names() -> None:
    pytest.importorskip("arviz")
    layout = Pack({"a": (), "b": (2,)})
    trace = Mala(steps=60, step_size=1.0).run(
        lambda u: -0.5 * u.square().sum(-1), torch.randn(4, 3), thin=1
    )
    tree = to_arviz(trace, split=layout.unpack, dims={"b": ["which"]})
    for name, block in SampledPosterior.from_trace(trace, split=layout.unpack).named.items():
        assert (tree["posterior"][name].values == block.transpose(0, 1).numpy()).all()


@pytest.mark.usefixtures("wrong_types")
def test_draws_that_are_none_are_refused() -> None:
    for shape in ((5,), (0, 3, 2), (5, 0, 2)):
        with pytest.raises(ValueError, match="draws must have shape"):
            SampledPosterior(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"batch_ndim must be in 0\.\.1 .*, got 2"):
        SampledPosterior(torch.zeros(5, 2, 3), batch_ndim=2)
