"""LocalFit: AdamW on the posteriors of a batch, item by item."""

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lv_core import Cosine, DivergenceError, Draws, Shard, stream
from lv_core.evidence import Joint, elbo
from lv_core.targets import Gaussian, LinearGaussian
from lv_core.variational import DiagonalGaussian, FitState, LocalFit, elbo_terms
from lv_core.variational.slope import loss_slope

DOUBLE = torch.float64


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=DOUBLE)


MODEL = LinearGaussian(draw("weight", 5, 3), noise=0.7)
DATA = draw("data", 6, 5)


def likelihood(z: Tensor) -> Tensor:
    return MODEL.log_likelihood(DATA, z)


def banana(z: Tensor) -> Tensor:
    """A likelihood that is no quadratic."""
    return -(z[..., 0].square() - z[..., 1]).square() - z.sin().sum(-1)


class Pushed:
    """A prior whose latent is a function of the sampling variable."""

    def log_density(self, u: Tensor) -> Tensor:
        return -0.5 * u.square().sum(-1) - 0.1 * u.pow(4).sum(-1)

    def push(self, u: Tensor) -> Tensor:
        return u.tanh() + u


PRIORS = {
    "standard": None,
    "gaussian": DiagonalGaussian(draw("m", 3), 0.3 * draw("s", 3)),
    "density": lambda u: -0.25 * u.pow(4).sum(-1),
    "pushed": Pushed(),
}


# --- the gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("nats", [0.0, 2.0])
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_the_gradient_is_that_of_the_objective(prior, nats, chunk) -> None:
    joint, eps = Joint(banana, PRIORS[prior]), draw("eps", 4, 6, 3)
    mean, log_scale = draw("mean", 6, 3).requires_grad_(), draw("scale", 6, 3).requires_grad_()
    q = DiagonalGaussian(mean, log_scale)
    settings = {"kl_weight": 0.7, "nats": nats}
    terms = elbo_terms(joint, q, noise=eps, **settings)
    expected = torch.autograd.grad(-terms.objective.sum(), (mean, log_scale))
    found, slope = loss_slope(joint, q.detach(), eps, chunk=chunk, **settings)
    assert_close(slope.mean, expected[0])
    assert_close(slope.log_scale, expected[1])
    assert_close(tuple(found), tuple(term.detach() for term in terms))
    # Wrong control: the path derivative without the factor scale.
    wrong = expected[1] * (1 + 0.1 * q.scale)
    assert not torch.allclose(slope.log_scale, wrong)


def reference_adamw(
    fit: LocalFit, start: DiagonalGaussian, noise: list[Tensor], *, eps_factor: float = 1.0
) -> DiagonalGaussian:
    """Runs `torch.optim.AdamW` on the autograd objective with the given noise of each step."""
    unit = 2.0 if fit.parameter == "log_var" else 1.0
    mean = start.mean.clone().requires_grad_()
    spread = (unit * start.log_scale).clone().requires_grad_()
    optimizer = torch.optim.AdamW(
        [mean, spread],
        lr=1.0,
        betas=fit.betas,
        eps=eps_factor * fit.eps,
        weight_decay=fit.weight_decay,
    )
    for step, eps in enumerate(noise):
        optimizer.param_groups[0]["lr"] = fit.learning_rate(step)
        optimizer.zero_grad()
        q = DiagonalGaussian(mean, spread / unit)
        (-elbo_terms(Joint(likelihood), q, noise=eps).objective.sum()).backward()
        optimizer.step()
    return DiagonalGaussian(mean.detach(), spread.detach() / unit)


@pytest.mark.parametrize("parameter", ["log_scale", "log_var"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_equals_torch_adamw_step_by_step(parameter, weight_decay, schedule) -> None:
    fit = LocalFit(
        steps=16,
        lr=0.3,
        schedule=schedule,
        parameter=parameter,
        weight_decay=weight_decay,
        betas=(0.8, 0.95),
        eps=1e-3,
        samples=2,
    )
    start = DiagonalGaussian(draw("start", 6, 3), 0.1 * draw("spread", 6, 3))
    noise = list(draw("noise", 16, 2, 6, 3))
    state, joint = fit.init(start), Joint(likelihood)
    for step in range(16):
        state, _ = fit.step(joint, state, generator=Draws(normals=list(noise[step])))
        expected = reference_adamw(fit, start, noise[: step + 1])
        found = fit.posterior(state)
        assert_close(found.mean, expected.mean, rtol=1e-9, atol=1e-9)
        assert_close(found.log_scale, expected.log_scale, rtol=1e-9, atol=1e-9)
    # Wrong control: another eps is far outside the tolerance.
    wrong = reference_adamw(fit, start, noise, eps_factor=10.0)
    assert (wrong.mean - found.mean).abs().max() > 1e-6


# --- independence of items --------------------------------------------------------------------

FRESH = LocalFit(steps=12, lr=0.1, samples=2)


def noise_for(fit: LocalFit, rows: Tensor | slice, shape: tuple[int, ...]) -> Draws:
    """The same numbers for an item, whichever batch it is in: one draw more for the result."""
    return Draws(normals=list(draw("rows", (fit.steps + 1) * fit.samples, *shape)[:, rows]))


def test_an_item_alone_is_fitted_as_in_a_batch() -> None:
    start = DiagonalGaussian(draw("start", 6, 3), torch.zeros(6, 3, dtype=DOUBLE))
    every = slice(None)
    whole = FRESH.fit(likelihood, None, start, generator=noise_for(FRESH, every, (6, 3)))
    for item in range(6):
        row = slice(item, item + 1)

        def alone(z: Tensor, row: slice = row) -> Tensor:
            return MODEL.log_likelihood(DATA[row], z)

        one = FRESH.fit(alone, None, start[row], generator=noise_for(FRESH, row, (6, 3)))
        # To rounding: matrix products of other sizes add in another order.
        assert_close(one.q.mean, whole.q.mean[row], rtol=1e-10, atol=1e-10)
        assert_close(one.q.log_scale, whole.q.log_scale[row], rtol=1e-10, atol=1e-10)
        assert_close(one.objective, whole.objective[row], rtol=1e-10, atol=1e-10)
    # Wrong control: with other rows of noise the item ends elsewhere.
    other = FRESH.fit(alone, None, start[row], generator=noise_for(FRESH, slice(0, 1), (6, 3)))
    assert (other.q.mean - whole.q.mean[row]).abs().max() > 1e-3


@pytest.mark.parametrize("when", ["start", "later"])
def test_an_item_without_a_number_is_frozen_and_touches_no_other(when) -> None:
    start = DiagonalGaussian(torch.zeros(6, 3, dtype=DOUBLE), torch.full((6, 3), -3.0).double())
    third = (torch.arange(6) == 2).double()

    def broken(z: Tensor) -> Tensor:
        value = likelihood(z)
        if when == "start":
            return value + torch.where(third > 0, torch.nan, 0.0)
        # Leaves the support as soon as the third item has moved far enough.
        outside = (third > 0) & (z.norm(dim=-1) > 0.4)
        return torch.where(outside, torch.nan, value)

    fit = LocalFit(steps=30, lr=0.05, max_bad=0.5)
    clean = fit.fit(likelihood, None, start, generator=stream(0, "nan"))
    result = fit.fit(broken, None, start, generator=stream(0, "nan"))
    assert result.bad.tolist() == [False, False, True, False, False, False]
    others = third == 0
    assert torch.equal(result.q.mean[others], clean.q.mean[others])
    assert torch.equal(result.q.log_scale[others], clean.q.log_scale[others])
    assert torch.isfinite(result.q.mean).all()
    if when == "start":
        assert torch.equal(result.q.mean[2], start.mean[2])
    else:
        # It went some way, and stopped inside.
        assert 0 < result.q.mean[2].norm() < 0.6
    assert result.logs()["bad"].item() == pytest.approx(1 / 6)
    assert math.isfinite(result.logs()["objective"].item())
    with pytest.raises(DivergenceError, match=r"16\.7% of the items"):
        replace(fit, max_bad=0.1).fit(broken, None, start, generator=stream(0, "nan"))


def test_a_last_step_that_leaves_the_support_is_taken_back() -> None:
    def edge(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0.5, torch.nan, 10 * z.sum(-1))

    start = DiagonalGaussian(torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1), -9.0).double())
    result = LocalFit(steps=1, lr=0.9, max_bad=1.0).fit(edge, None, start)
    assert result.bad.all()
    assert torch.equal(result.q.mean, start.mean)
    assert torch.equal(result.q.log_scale, start.log_scale)


@pytest.mark.parametrize("noise", ["fresh", "shared"])
def test_the_reported_values_are_those_of_the_reported_posterior(noise) -> None:
    def edge(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0.5, torch.nan, 10 * z.sum(-1))

    # The first item steps over the edge, the second is far from it.
    mean = torch.tensor([[0.0], [-5.0]], dtype=DOUBLE)
    start = DiagonalGaussian(mean, torch.full((2, 1), -9.0).double())
    fit = LocalFit(steps=1, lr=0.9, max_bad=1.0, noise=noise)
    result = fit.fit(edge, None, start, generator=stream(0, "edge"))
    assert result.bad.tolist() == [True, False]
    expected = elbo_terms(Joint(edge), result.q, noise=(result.z - result.q.mean) / result.q.scale)
    assert_close(result.objective, expected.objective)
    assert_close(result.nll, expected.nll)
    assert_close(result.kl, result.q.kl())
    assert torch.isfinite(result.objective).all()


def test_a_log_of_nothing_but_bad_items_is_finite() -> None:
    start = DiagonalGaussian(torch.zeros(2, 1, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE))
    fit = LocalFit(steps=1, lr=0.1, max_bad=1.0)
    logs = fit.fit(lambda z: torch.nan * z.sum(-1), None, start).logs()
    assert logs["bad"] == 1.0
    assert all(math.isfinite(value.item()) for value in logs.values())


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["fresh", "antithetic"])
def test_finds_the_exact_posterior_where_it_is_diagonal(noise) -> None:
    # Columns orthogonal: the posterior precision 1 + |w_i|^2 / noise^2 is diagonal.
    weight = torch.linalg.qr(draw("orthogonal", 5, 3)).Q * torch.tensor([1.0, 2.0, 0.5]).double()
    model = LinearGaussian(weight, noise=0.7)
    decay = Cosine(start=1.0, end=0.01, steps=600)
    fit = LocalFit(steps=600, lr=0.1, schedule=decay, noise=noise, samples=64)
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    result = fit.fit(
        lambda z: model.log_likelihood(DATA, z), None, start, generator=stream(0, noise)
    )
    exact = [model.posterior(x) for x in DATA]
    mean = torch.stack([p.mean for p in exact])
    scale = torch.stack([p.covariance.diagonal().sqrt() for p in exact])
    # The gradient's noise leaves a spread of up to 0.015 over entries, measured with three other
    # streams; five of those.
    assert ((result.q.mean - mean) / scale).abs().max() < 0.08
    assert (result.q.scale / scale - 1).abs().max() < 0.08
    assert result.is_bound
    # Wrong control: the prior's scale is not the posterior's.
    assert (1 / scale - 1).abs().max() > 0.3


def test_mean_field_is_too_narrow_by_the_closed_form() -> None:
    # Optimum of KL(q, p) for correlation .9: variances 1 / Lambda_ii = 0.19, not the marginal 1;
    # the divergence that stays is -log(1 - .81) / 2 = 0.830366.
    target = Gaussian(
        torch.zeros(2, dtype=DOUBLE), torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=DOUBLE)
    )

    def nothing(z: Tensor) -> Tensor:
        return 0.0 * z.sum(-1)

    fit = LocalFit(steps=400, lr=0.1, schedule="cosine", noise="antithetic", samples=64)
    start = fit.start(torch.zeros(1, 2, dtype=DOUBLE))
    result = fit.fit(nothing, target, start, generator=stream(0, "mean field"))
    variance = result.q.scale.square()
    assert (variance / 0.19 - 1).abs().max() < 0.05
    assert result.kl_floor is None
    assert set(result.logs()) == {"objective", "nll", "kl", "bad"}

    def gap(q: DiagonalGaussian) -> tuple[float, float]:
        bound = elbo(target, q, samples=20_000, generator=stream(0, "gap"))
        return -bound.mean.item(), bound.standard_error.item()

    found, error = gap(result.q)
    # Near the optimum the gap grows with the square of the misfit: 0.05^2 at most.
    assert abs(found - 0.830366) < 5 * error + 0.0025
    # Wrong control: marginal variances, which moment matching would give.
    wrong, error = gap(DiagonalGaussian(torch.zeros(1, 2).double(), torch.zeros(1, 2).double()))
    assert wrong - 0.830366 > 5 * error + 1.0


def test_shared_noise_is_no_bound_and_says_so() -> None:
    shared = LocalFit(steps=300, lr=0.05, noise="shared")
    model = LinearGaussian(draw("wide", 12, 12), noise=1.0)
    data = draw("wide data", 32, 12) * 3

    def ll(z: Tensor) -> Tensor:
        return model.log_likelihood(data, z)

    start = shared.start(torch.zeros(32, 12, dtype=DOUBLE))
    result = shared.fit(ll, None, start, generator=stream(0, "shared"))
    evidence = model.log_evidence(data)
    assert result.bound == "none"
    assert "objective_not_a_bound" in result.logs()
    # The optimiser has hidden information in the noise: above the evidence for every item.
    assert (result.objective > evidence).all()
    assert_close(result.z[0], result.q.rsample(result.state.noise[0]))
    honest = elbo(Joint(ll), result.q, samples=400, generator=stream(0, "report"))
    assert (honest.mean < evidence + 5 * honest.standard_error).all()
    assert (honest.mean < result.objective - 1).all()
    # The same with fresh noise is a bound: below the evidence on average over the items.
    fresh = replace(shared, noise="fresh").fit(ll, None, start, generator=stream(0, "fresh"))
    assert fresh.bound == "lower"
    assert fresh.objective.mean() < evidence.mean()


def test_reporting_does_not_reuse_the_noise_of_the_fit() -> None:
    # Both are given generators in the same state, and one sample.
    fit = LocalFit(steps=20, lr=0.1, noise="shared")
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    result = fit.fit(likelihood, None, start, generator=stream(0, "one seed"))
    joint = Joint(likelihood)
    report = elbo(joint, result.q, samples=1, generator=stream(0, "one seed"))
    assert (report.mean - result.objective).abs().min() > 1e-3
    # Wrong control: drawing straight from such a generator repeats the fit's noise.
    z = result.q.sample(1, generator=stream(0, "one seed"))
    assert torch.equal(z, result.z)
    again = elbo(joint, result.q, samples=1, generator=Draws(normals=list(result.state.noise)))
    assert_close(again.mean, result.objective)


# --- the divergence that few steps cannot pay off ---------------------------------------------

OFFICIAL = {
    "steps": 16,
    "parameter": "log_var",
    "weight_decay": 0.01,
    "noise": "shared",
    "init_scale": math.exp(-2.5),
}


@pytest.mark.parametrize(
    ("lr", "schedule", "log_var"), [(0.30, "constant", -0.178), (0.34, "cosine", -1.759)]
)
def test_the_floor_is_what_steps_without_data_leave(lr, schedule, log_var) -> None:
    fit = LocalFit(lr=lr, schedule=schedule, **OFFICIAL)
    start = fit.start(torch.zeros(2, 4, dtype=DOUBLE))
    expected = 4 * 0.5 * (math.exp(log_var) - 1 - log_var)
    # The log variances are given to three decimals; the slope there is at most 0.42 each.
    assert_close(fit.kl_floor(start), torch.full((2,), expected).double(), atol=2e-3, rtol=0)
    idle = fit.fit(lambda z: 0.0 * z.sum(-1), None, start)
    assert_close(idle.kl_floor, idle.kl)
    assert_close(idle.logs()["kl_above_floor"], torch.tensor(0.0).double(), atol=1e-12, rtol=0)
    assert_close(idle.q.log_scale, torch.full((2, 4), log_var / 2).double(), atol=1e-3, rtol=0)
    # Wrong control: moving the log scale by the same learning rate goes twice as far.
    wrong = replace(fit, parameter="log_scale").fit(lambda z: 0.0 * z.sum(-1), None, start)
    assert ((wrong.q.log_scale - log_var / 2).abs() > 1e-2).all()


def test_a_fit_reports_its_floor_for_its_prior() -> None:
    fit = LocalFit(steps=5, lr=0.1)
    prior = PRIORS["gaussian"]
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    result = fit.fit(likelihood, prior, start)
    idle = fit.fit(lambda z: 0.0 * z.sum(-1), prior, start)
    assert_close(result.kl_floor, idle.kl)
    assert_close(result.logs()["kl_above_floor"], (result.kl - idle.kl).mean())


@pytest.mark.parametrize("prior", ["standard", "gaussian"])
def test_the_floor_survives_a_resume(prior) -> None:
    fit = LocalFit(steps=9, lr=0.05)
    start = fit.start(torch.full((6, 3), 2.0).double())
    start = replace(start, mean=start.mean + 2.0)
    expected = fit.kl_floor(start, PRIORS[prior])
    # Broken off and resumed, by single steps and by fits of fewer steps.
    state = fit.init(start)
    for _ in range(4):
        state, _ = fit.step(Joint(likelihood, PRIORS[prior]), state)
    state = FitState.from_state_dict(state.state_dict())
    assert_close(fit.fit(likelihood, PRIORS[prior], state).kl_floor, expected)
    short = replace(fit, steps=4).fit(likelihood, PRIORS[prior], start)
    assert_close(fit.fit(likelihood, PRIORS[prior], short.state).kl_floor, expected)
    # Wrong control: the floor of the fewer steps, as it was when the state was made.
    assert ((short.kl_floor - expected).abs() > 1e-2).all()


def test_the_floor_is_that_of_the_steps_whichever_settings_took_them() -> None:
    def idle(z: Tensor) -> Tensor:
        return 0.0 * z.sum(-1)

    fast, slow = LocalFit(steps=4, lr=0.1), LocalFit(steps=9, lr=0.01)
    start = DiagonalGaussian(torch.ones(2, 3).double(), torch.full((2, 3), -1.0).double())
    result = slow.fit(idle, None, fast.fit(idle, None, start).state)
    # Without data the whole divergence is floor.
    assert_close(result.kl_floor, result.kl)
    assert ((slow.kl_floor(start) - result.kl).abs() > 1e-2).all()


def test_below_the_free_nats_the_prior_does_not_pull() -> None:
    start = DiagonalGaussian(torch.full((1, 2), 0.3).double(), torch.zeros(1, 2).double())
    fit = LocalFit(steps=20, lr=0.05, nats=0.5)
    assert_close(fit.kl_floor(start), start.kl())
    assert LocalFit(steps=20, lr=0.05).kl_floor(start) < 0.5 * start.kl()


# --- starts, resuming, shapes -----------------------------------------------------------------


@pytest.mark.parametrize("noise", ["fresh", "shared", "antithetic"])
def test_resumes_bit_exactly(noise) -> None:
    fit = LocalFit(steps=9, lr=0.1, schedule="cosine", noise=noise, samples=2)
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    whole = fit.fit(likelihood, None, start, generator=stream(0, "resume"))
    generator = stream(0, "resume")
    state = fit.init(start, generator=generator)
    for _ in range(4):
        state, _ = fit.step(Joint(likelihood), state, generator=generator)
    buffer = io.BytesIO()
    torch.save({"fit": state.state_dict(), "generator": generator.get_state()}, buffer)
    buffer.seek(0)
    record = torch.load(buffer, weights_only=True)
    restored = torch.Generator()
    restored.set_state(record["generator"])
    result = fit.fit(likelihood, None, FitState.from_state_dict(record["fit"]), generator=restored)
    assert torch.equal(result.q.mean, whole.q.mean)
    assert torch.equal(result.q.log_scale, whole.q.log_scale)
    assert torch.equal(result.trace.objective, whole.trace.objective[4:])
    assert torch.equal(result.objective, whole.objective)
    # Wrong control: without the moments, as from the distribution alone, it goes elsewhere.
    cold = replace(fit, steps=5).fit(likelihood, None, fit.posterior(state))
    assert not torch.allclose(cold.q.mean, whole.q.mean)
    with pytest.raises(ValueError, match="has 9 steps of 9"):
        fit.fit(likelihood, None, result.state)


@pytest.mark.parametrize("noise", ["fresh", "shared", "antithetic"])
@pytest.mark.parametrize("sharded", [False, True])
def test_going_on_from_a_result_is_bit_exact(noise, sharded) -> None:
    def source() -> Shard | torch.Generator:
        generator = stream(0, "go on")
        return Shard(generator=generator, rank=1, world=2) if sharded else generator

    fit = LocalFit(steps=9, lr=0.1, noise=noise, samples=2)
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    whole = fit.fit(likelihood, None, start, generator=source())
    generator = source()
    half = replace(fit, steps=4).fit(likelihood, None, start, generator=generator)
    result = fit.fit(likelihood, None, half.state, generator=generator)
    assert torch.equal(result.q.mean, whole.q.mean)
    assert torch.equal(result.q.log_scale, whole.q.log_scale)
    assert torch.equal(result.trace.objective, whole.trace.objective[4:])
    assert torch.equal(result.z, whole.z)
    # The draws of the half are not the numbers that its next step then used.
    if noise != "shared":
        assert (half.objective - result.trace.objective[0]).abs().min() > 1e-6


def test_the_closing_draws_are_not_those_of_a_report_from_the_same_generator() -> None:
    generator = stream(0, "closing")
    start = DiagonalGaussian(torch.zeros(6, 3, dtype=DOUBLE), torch.zeros(6, 3, dtype=DOUBLE))
    result = LocalFit(steps=2, lr=0.1).fit(likelihood, None, start, generator=generator)
    report = elbo(Joint(likelihood), result.q, samples=1, generator=generator)
    assert (report.mean - result.objective).abs().min() > 1e-6


def test_a_warm_start_begins_at_the_earlier_result() -> None:
    fit = LocalFit(steps=200, lr=0.05, samples=4)
    cold = fit.fit(
        likelihood, None, fit.start(torch.zeros(6, 3).double()), generator=stream(0, "cold")
    )
    short = replace(fit, steps=2, lr=1e-3)
    warm = short.fit(likelihood, None, cold, generator=stream(0, "warm"))
    assert warm.state.step == 2
    assert (warm.q.mean - cold.q.mean).abs().max() < 3e-3


def test_starts_with_the_jitter_of_its_settings() -> None:
    fit = LocalFit(
        steps=1, lr=1.0, init_scale=0.1, init_mean_noise=0.01, init_log_scale_noise=0.05
    )
    q = fit.start(torch.zeros(100, 100), generator=stream(0, "start"))
    # 10,000 numbers: relative standard error of a standard deviation 0.7 %, of a mean 1 % of sd.
    assert abs(q.mean.std().item() / 0.01 - 1) < 0.035
    assert abs(q.log_scale.std().item() / 0.05 - 1) < 0.035
    assert abs(q.log_scale.mean().item() - math.log(0.1)) < 5 * 0.05 / 100
    plain = LocalFit(steps=1, lr=1.0).start(torch.ones(2, 3, 4), event_ndim=2)
    assert plain.batch_shape == (2,)
    assert torch.equal(plain.mean, torch.zeros(2, 3, 4))


@pytest.mark.parametrize(("shape", "event_ndim"), [((3,), 1), ((2, 3), 1), ((2, 3, 4, 3), 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_takes_any_batch_axes_and_keeps_the_dtype(shape, event_ndim, dtype) -> None:
    def ll(z: Tensor) -> Tensor:
        return -0.5 * (z - 1).square().sum(dim=tuple(range(-event_ndim, 0)))

    fit = LocalFit(steps=3, lr=0.1, samples=2)
    start = fit.start(torch.zeros(shape, dtype=dtype), event_ndim=event_ndim)
    result = fit.fit(ll, None, start)
    batch = shape[: len(shape) - event_ndim]
    assert result.q.mean.shape == shape
    assert result.z.shape == (2, *shape)
    assert result.objective.shape == result.nll.shape == result.kl.shape == batch
    assert result.bad.shape == result.kl_floor.shape == batch
    assert result.trace.objective.shape == (3, *batch)
    assert result.objective.dtype == result.q.mean.dtype == dtype


@pytest.mark.parametrize("seeded", [True, False])
def test_fits_and_reports_where_its_start_lives(device, seeded) -> None:
    generator = stream(0, "device", device=device) if seeded else None
    x = torch.randn(5, 3, generator=stream(0, "x")).to(device)

    def ll(z: Tensor) -> Tensor:
        return -0.5 * (z - x).square().sum(-1)

    fit = LocalFit(steps=5, lr=0.1, samples=2, noise="shared", init_mean_noise=0.1)
    start = fit.start(torch.zeros(5, 3, device=device), generator=generator)
    result = fit.fit(ll, None, start, generator=generator)
    report = elbo(Joint(ll), result.q, generator=generator)
    assert report.mean.device.type == result.q.mean.device.type == device.type
    assert torch.isfinite(report.mean).all()


def test_one_sample_reaches_the_likelihood_without_a_samples_axis() -> None:
    seen = []

    def ll(z: Tensor) -> Tensor:
        seen.append(tuple(z.shape))
        return -z.square().sum(-1)

    start = DiagonalGaussian(torch.zeros(6, 3), torch.zeros(6, 3))
    LocalFit(steps=1, lr=0.1).fit(ll, None, start)
    LocalFit(steps=1, lr=0.1, samples=2, chunk=1).fit(ll, None, start)
    assert set(seen) == {(6, 3)}
    LocalFit(steps=1, lr=0.1, samples=2).fit(ll, None, start)
    assert seen[-1] == (2, 6, 3)


def test_uses_a_likelihoods_own_gradient() -> None:
    class Quadratic:
        """Returns its value and gradient in buffers that the next call overwrites."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, z: Tensor) -> Tensor:
            return -0.5 * z.square().sum(-1)

        def evaluate(self, z: Tensor):
            from lv_core import Evaluation

            self.calls += 1
            return Evaluation(self(z), -z, {})

    own = Quadratic()
    fit = LocalFit(steps=5, lr=0.1, samples=2, chunk=1)
    start = fit.start(torch.ones(4, 3, dtype=DOUBLE))
    found = fit.fit(own, None, start, generator=stream(0, "own"))
    plain = fit.fit(own.__call__, None, start, generator=stream(0, "own"))
    assert own.calls == 10
    assert_close(found.q.mean, plain.q.mean)


def test_leaves_parameters_without_gradients() -> None:
    decoder = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 5))
    x = torch.randn(4, 5)

    def ll(z: Tensor) -> Tensor:
        return -(x - decoder(z)).square().sum(-1)

    encoder = nn.Linear(5, 6)
    fit = LocalFit(steps=3, lr=0.1, samples=2)
    result = fit.fit(ll, None, DiagonalGaussian.split(encoder(x)))
    assert all(p.grad is None for p in (*decoder.parameters(), *encoder.parameters()))
    assert not any(t.requires_grad for t in (result.q.mean, result.z, result.objective, result.kl))
    with torch.no_grad():
        fit.fit(ll, None, DiagonalGaussian.split(encoder(x)))


def test_an_encoder_learns_through_the_objective() -> None:
    encoder = nn.Linear(5, 6).double()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
    generator, values = stream(0, "encoder"), []
    for _ in range(300):
        q = DiagonalGaussian.split(encoder(DATA))
        objective = elbo_terms(Joint(likelihood), q, samples=4, generator=generator).objective
        optimizer.zero_grad()
        (-objective.mean()).backward()
        optimizer.step()
        values.append(objective.mean().item())
    assert values[-1] > values[0] + 1
    # A bound: the mean over the last steps lies below the evidence.
    assert sum(values[-50:]) / 50 < MODEL.log_evidence(DATA).mean().item()


def test_a_schedule_of_factors_is_followed() -> None:
    fit = LocalFit(steps=4, lr=0.2, schedule=lambda step: 1 / (1 + step))
    assert [fit.learning_rate(k) for k in range(3)] == pytest.approx([0.2, 0.1, 0.2 / 3])
    cosine = LocalFit(steps=4, lr=0.2, schedule="cosine")
    assert cosine.learning_rate(0) == pytest.approx(0.2)
    assert cosine.learning_rate(2) == pytest.approx(0.2 * 0.55)
    assert cosine.learning_rate(4) == pytest.approx(0.02)


def test_labels_an_objective_with_a_light_divergence_as_no_bound() -> None:
    assert LocalFit(steps=1, lr=0.1, kl_weight=0.5).bound == "none"
    assert LocalFit(steps=1, lr=0.1, kl_weight=2.0, nats=1.0).bound == "lower"


class Unnormalized(Pushed):
    """A prior that knows that it does not know its normaliser."""

    def log_normalizer(self) -> float:
        raise NotImplementedError


class Normalized(Pushed):
    """A prior that knows its normaliser, as a tensor of a parameter."""

    def __init__(self) -> None:
        self.shift = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)

    def log_density(self, u: Tensor) -> Tensor:
        return DiagonalGaussian.standard(u).log_prob(u) + self.shift

    def log_normalizer(self) -> Tensor:
        return self.shift


def test_labels_an_objective_with_an_unnormalised_prior_as_no_bound() -> None:
    fit = LocalFit(steps=1, lr=0.1)
    start = fit.start(torch.zeros(6, 3, dtype=DOUBLE))
    result = fit.fit(banana, Unnormalized(), start)
    assert result.bound == "none"
    assert "objective_not_a_bound" in result.logs()
    assert fit.fit(banana, Normalized(), start).bound == "lower"
    assert fit.fit(banana, None, start).bound == "lower"


def test_a_known_normaliser_is_subtracted_in_steps_and_result() -> None:
    fit = LocalFit(steps=3, lr=0.1, samples=64)
    prior = Normalized()
    start = DiagonalGaussian(torch.zeros(6, 3, dtype=DOUBLE), torch.zeros(6, 3, dtype=DOUBLE))
    result = fit.fit(banana, prior, start, generator=stream(0, "known"))
    assert prior.shift.grad is None
    assert not result.kl.requires_grad
    assert not result.trace.kl.requires_grad
    # At the start q is the prior, and the sampled divergence is noise of standard error
    # sqrt(3 / 2) / 8 = 0.15; without the subtraction it would be about -3.
    assert (result.trace.kl[0].abs() < 0.77).all()
    assert (result.kl > -0.77).all()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"chunk": 0}, "chunk must be at least 1 or None"),
        ({"lr": 0.0}, r"lr must be positive, got 0\.0"),
        ({"init_scale": 0.0}, "init_scale must be positive"),
        ({"kl_weight": -1.0}, "kl_weight must not be negative"),
        ({"nats": -1.0}, "nats must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\)"),
        ({"eps": -1.0}, r"eps must be positive, got -1\.0"),
        ({"eps": 0.0}, r"eps must be positive, got 0\.0"),
        ({"weight_decay": -1.0}, r"weight_decay must not be negative, got -1\.0"),
        ({"noise": "antithetic", "samples": 3}, "samples must be even"),
    ],
)
def test_refuses_settings_out_of_range(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        LocalFit(**{"steps": 1, "lr": 0.1, **settings})


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize("name", ["noise", "parameter", "schedule"])
def test_refuses_an_unknown_choice(name) -> None:
    with pytest.raises(ValueError, match=f"unknown {name} 'other'"):
        LocalFit(steps=1, lr=0.1, **{name: "other"})


def test_refuses_a_likelihood_of_the_wrong_shape() -> None:
    fit, start = LocalFit(steps=1, lr=0.1), DiagonalGaussian(torch.zeros(6, 3), torch.zeros(6, 3))
    with pytest.raises(ValueError, match="scalar"):
        fit.fit(lambda z: -z.square().mean(), None, start)
    with pytest.raises(ValueError, match=r"one value per item, shape \(\*batch,\) = \(6,\)"):
        fit.fit(lambda z: -z.square(), None, start)
    with pytest.raises(ValueError, match="does not depend on u"):
        fit.fit(lambda z: -z.detach().square().sum(-1), None, start)


def test_names_the_prior_where_the_prior_has_the_wrong_shape() -> None:
    fit, start = LocalFit(steps=1, lr=0.1), DiagonalGaussian(torch.zeros(6, 3), torch.zeros(6, 3))

    def right(z: Tensor) -> Tensor:
        return -z.square().sum(-1)

    def wrong(z: Tensor) -> Tensor:
        return -z.square()

    message = r"^prior must return one value per item, shape \(\*batch,\) = \(6,\), got \(6, 3\)"
    with pytest.raises(ValueError, match=message):
        fit.fit(right, wrong, start)
    with pytest.raises(ValueError, match=message):
        elbo_terms(Joint(right, wrong), start)
    with pytest.raises(ValueError, match=r"^log_likelihood must return one value per item"):
        elbo_terms(Joint(wrong, right), start)
