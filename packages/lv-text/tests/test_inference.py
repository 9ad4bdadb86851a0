"""Fast learning against closed forms, torch's own AdamW, grids and quadrature."""

import math

import pytest
import torch

from lv_core import DiagonalGaussian, DivergenceError, Rows, frozen, stream
from lv_text import Inference, ThoughtConfig, ThoughtEncoder, ThoughtModel, infer, infer_from

METHODS = ("vb", "langevin", "map", "amortised", "semi_amortised")
LOG_2_PI = math.log(2 * math.pi)


def make(scale=10.0, **changes):
    sizes = {
        "vocabulary": 7,
        "width": 8,
        "layers": 2,
        "heads": 2,
        "length": 8,
        "window": 4,
        "slots": 2,
        "slot_width": 3,
    }
    config = ThoughtConfig(**(sizes | changes))
    model = ThoughtModel(config, generator=stream(0, "inference weights")).double()
    encoder = ThoughtEncoder(config, generator=stream(0, "inference encoder")).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # initial weights are so small that the latent would not show
                parameter.mul_(scale)
        encoder.out.weight.normal_(0, 0.3, generator=stream(0, "inference head"))
    return model, encoder


def sequences(batch=4, time=6, vocabulary=7):
    ids = torch.randint(vocabulary, (batch, time + 1), generator=stream(0, "inference ids"))
    return ids[:, :-1], ids[:, 1:]


def flat(z):
    """The likelihood of no data: what inference does by itself."""
    return 0 * z.sum((-1, -2, -3))


def around(x, s):
    """Returns z -> log N(x; z, s^2 I), whose posterior under N(0, I) is known."""

    def log_likelihood(z):
        return (-0.5 * ((x - z) / s).square() - math.log(s) - 0.5 * LOG_2_PI).sum((-1, -2, -3))

    return log_likelihood


def exact_nll(x, s):
    variance = 1 + s * s
    return 0.5 * (x.square() / variance + math.log(variance) + LOG_2_PI).sum((-1, -2, -3))


def points(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=stream(0, "inference points"))


# What inference leaves behind


@pytest.mark.parametrize("method", METHODS)
def test_leaves_no_parameter_gradient_and_restores_flags(method):
    model, encoder = make()
    x, y = sequences()
    model.train()
    model.decoder.blocks[1].eval()
    encoder.eval()
    fixed = model.decoder.norm.weight.requires_grad_(False)
    found = infer(model, x, y, Inference(method=method, steps=3), encoder=encoder)
    for module in (model, encoder):
        assert all(parameter.grad is None for parameter in module.parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "decoder.norm.weight"
    ]
    assert fixed.grad is None
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert model.training
    assert model.decoder.blocks[0].training
    assert not model.decoder.blocks[1].training
    assert not encoder.training
    assert not found.z.requires_grad
    assert not found.nll.requires_grad
    assert found.q is None or not found.q.mean.requires_grad


def test_flags_come_back_after_an_error():
    model, _ = make()
    x, y = sequences()
    with pytest.raises(ValueError, match="needs an encoder"):
        infer(model, x, y, Inference(method="amortised"))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_plain_backward_would_have_left_gradients():
    # The control of the test above: what the released loop does.
    model, _ = make()
    x, y = sequences()
    z = torch.zeros(4, *model.config.event, dtype=torch.float64, requires_grad=True)
    model.log_likelihood(x, y, z).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_dropout_plays_no_part(method):
    model, encoder = make(dropout=0.5)
    x, y = sequences()
    settings = Inference(method=method, steps=3)
    results = []
    for training in (True, False):
        model.train(training)
        rows = Rows.of(0, range(4))
        results.append(infer(model, x, y, settings, encoder=encoder, generator=rows).z)
    torch.testing.assert_close(*results)
    dropped = model.train().log_likelihood(x, y, results[0])
    assert (dropped - model.eval().log_likelihood(x, y, results[0])).abs().max() > 1e-2


# A sequence and its batch


@pytest.mark.parametrize("method", METHODS)
def test_result_does_not_depend_on_the_batch(method):
    model, encoder = make(z_layers=1)
    x, y = sequences(5)
    settings = Inference(method=method, steps=6, samples=2)

    def run(index):
        rows = Rows.of(3, index, "posterior")
        return infer(model, x[index], y[index], settings, encoder=encoder, generator=rows)

    whole = run([0, 1, 2, 3, 4])
    for cut in ([[0], [1], [2], [3], [4]], [[4, 2, 0, 3, 1]], [[3, 1], [0, 4, 2]]):
        for index in cut:
            part = run(index)
            # The steps are the same; matrix products of other shapes round differently.
            torch.testing.assert_close(part.z, whole.z[index], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(part.nll, whole.nll[index], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                part.kl, whole.kl[index], rtol=1e-9, atol=1e-9, equal_nan=True
            )


def test_one_generator_for_all_ties_results_to_the_batch():
    # The wrong control: the same check must notice a source that is not one per row.
    model, _ = make()
    x, y = sequences(5)
    whole = infer(model, x, y, Inference(steps=6), generator=stream(3, "posterior"))
    alone = infer(model, x[2:3], y[2:3], Inference(steps=6), generator=stream(3, "posterior"))
    assert (alone.z - whole.z[2:3]).abs().max() > 1e-3


def test_same_source_gives_the_same_result_and_global_state_is_left_alone():
    model, _ = make()
    x, y = sequences()
    before = torch.get_rng_state()
    a, b = (infer(model, x, y, generator=stream(0, "again")) for _ in range(2))
    torch.testing.assert_close(a.z, b.z)
    assert torch.equal(torch.get_rng_state(), before)
    other = infer(model, x, y, generator=stream(0, "other"))
    assert (a.z - other.z).abs().max() > 1e-2


# The floor of the divergence


@pytest.mark.parametrize(
    ("steps", "schedule", "lr", "log_var", "floor"),
    [
        (16, "constant", 0.30, -0.18, 0.014),
        (16, "constant", 0.34, 0.33, 0.039),
        (16, "cosine", 0.34, -1.76, 0.467),
        (32, "constant", 0.30, -0.21, 0.011),
        (32, "cosine", 0.34, 0.33, 0.032),
        (64, "constant", 0.30, -0.08, 0.0017),
        (64, "cosine", 0.34, 0.00, 1e-5),
    ],
)
def test_floor_is_that_of_the_paper_s_settings(steps, schedule, lr, log_var, floor):
    settings = Inference(steps=steps, schedule=schedule, lr=lr)
    like = torch.zeros(1, 1, 1, 4096, dtype=torch.float64)
    found = infer_from(flat, like, settings, generator=stream(0, "floor"))
    # Two digits are known, of a simulation with other noise in the starting points.
    assert found.kl_floor.item() / 4096 == pytest.approx(floor, rel=0.06, abs=5e-6)
    assert 2 * found.q.log_scale.mean().item() == pytest.approx(log_var, abs=0.01)
    # Without data nothing but the floor is left.
    torch.testing.assert_close(found.kl, found.kl_floor)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_floor_equals_the_released_loop_with_torch_s_optimizer(schedule):
    steps, lr = 16, 0.34
    settings = Inference(steps=steps, schedule=schedule, lr=lr)
    like = torch.zeros(1, 2, 2, 8, dtype=torch.float64)
    start = settings.fit().start(like, event_ndim=3, generator=stream(0, "start"))
    mean = start.mean.clone().requires_grad_()
    log_var = (2 * start.log_scale).requires_grad_()
    rule = torch.optim.AdamW([mean, log_var], lr=lr)  # its defaults are the released ones
    for step in range(steps):
        if schedule == "cosine":
            falling = 0.5 * (1 + math.cos(math.pi * step / steps))
            rule.param_groups[0]["lr"] = 0.1 * lr + 0.9 * lr * falling
        rule.zero_grad()
        (-0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()).backward()
        rule.step()
    want = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
    found = infer_from(flat, like, settings, start=start)
    torch.testing.assert_close(found.kl_floor, want.detach()[None])
    torch.testing.assert_close(2 * found.q.log_scale, log_var.detach())
    no_decay = Inference(steps=steps, schedule=schedule, lr=lr, weight_decay=0.0)
    other = infer_from(flat, like, no_decay, start=start)
    assert abs(other.kl_floor - want) > 1e-4 * want


@pytest.mark.parametrize("steps", [8, 16, 24, 32, 64, 128])
def test_automatic_rate_pays_the_way_to_the_prior(steps):
    settings = Inference(steps=steps)
    assert settings.course == ("constant" if steps <= 24 else "cosine")
    assert settings.rate == pytest.approx((5 if steps <= 24 else 15) / steps)
    like = torch.zeros(1, 1, 1, 4096, dtype=torch.float64)
    found = infer_from(flat, like, settings, generator=stream(0, "automatic"))
    # Measured: 0.027, 0.007, 0.002, 0.0009, 0.0006, 0.00001 nats per number.
    assert found.kl_floor.item() / 4096 < 0.5 / steps**1.35
    slow = Inference(
        steps=steps, lr=settings.rate / 2, schedule="constant" if steps < 25 else None
    )
    if steps <= 32:
        other = infer_from(flat, like, slow, generator=stream(0, "automatic"))
        assert other.kl_floor > 10 * found.kl_floor


def test_automatic_rate_follows_the_start():
    assert Inference(steps=8, init_log_var=-2.4).rate == pytest.approx(0.3)
    assert Inference(lr=0.2).rate == 0.2
    assert Inference(method="map", init_log_var=0.0).rate == 0.1


def test_floor_is_below_the_divergence_when_there_is_data():
    x = 2 + points(16, 1, 1, 20)
    found = infer_from(around(x, 0.3), x, Inference(), generator=stream(0, "data"))
    assert (found.kl > 5 * found.kl_floor).all()
    assert (found.kl_floor < 0.05 * 20).all()


# Noise that the optimizer knows


def nearest(z, e):
    """Returns min over sigma of KL(N(z - e sigma, sigma^2), N(0, 1)), summed."""
    root = ((z * e).square() + 4 * (1 + e * e)).sqrt()
    sigma = (z * e + root) / (2 * (1 + e * e))
    mean = z - e * sigma
    return (-sigma.log() + 0.5 * (sigma.square() + mean.square() - 1)).sum((-1, -2, -3))


def test_closed_form_of_the_divergence_that_hits_a_point():
    z, e = points(2, 50, 1, 1, 1)
    sigma = torch.logspace(-3, 2, 20001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    kl = -sigma.log() + 0.5 * (sigma.square() + (z - e * sigma).square() - 1)
    # Neighboring points of the grid are 0.06 % apart: the error is of second order in that.
    torch.testing.assert_close(nearest(z, e), kl.amin(0)[:, 0, 0, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(nearest(e, e), torch.zeros(50, dtype=torch.float64))
    zero = 0.5 * torch.log1p(e.square())
    torch.testing.assert_close(nearest(0 * e, e), zero[:, 0, 0, 0])


def test_shared_noise_hits_any_point_at_the_price_of_the_closed_form():
    x, s = points(64, 1, 1, 4), 0.15
    settings = Inference(noise="shared", steps=2000, lr=0.05, schedule="cosine", weight_decay=0.0)
    found = infer_from(around(x, s), x, settings, generator=stream(0, "shared"))
    e = (found.z - found.q.mean) / found.q.scale
    torch.testing.assert_close(found.kl, nearest(found.z, e), rtol=1e-5, atol=1e-6)
    assert (found.z - x).abs().max() < s
    # Among draws of the prior few would lie so near: that costs about log(1 / s) a number more.
    assert (found.nll + found.kl < exact_nll(x, s) - 4).all()
    assert found.bound == "none"


def test_fresh_noise_stays_above_the_exact_cost_and_reaches_it():
    x, s = points(400, 1, 1, 4), 0.5
    settings = Inference(steps=600, lr=0.05, schedule="cosine", weight_decay=0.0, samples=8)
    found = infer_from(around(x, s), x, settings, generator=stream(0, "fresh"))
    assert found.bound == "lower"
    gap = found.nll + found.kl - exact_nll(x, s)
    error = gap.std() / 20
    assert gap.mean() > -5 * error
    assert gap.mean() < 0.1  # the family holds the posterior, so that the bound is tight
    variance = s * s / (1 + s * s)
    assert (found.q.mean - x / (1 + s * s)).abs().max() < 0.2
    assert found.q.scale.square().mean() == pytest.approx(variance, rel=0.1)
    shared = Inference(**(vars(settings) | {"noise": "shared", "samples": 1}))
    cheat = infer_from(around(x, s), x, shared, generator=stream(0, "fresh"))
    under = cheat.nll + cheat.kl - exact_nll(x, s)
    assert under.mean() < -5 * under.std() / 20  # the same check notices what is no bound


def test_shared_noise_returns_the_latent_it_optimised():
    model, _ = make()
    x, y = sequences()
    found = infer(model, x, y, Inference(noise="shared"), generator=stream(0, "returned"))
    want = -model.log_likelihood(x, y, found.z)
    torch.testing.assert_close(found.nll, want.detach())


# Weights and allowances


def test_weight_on_the_divergence_gives_the_tempered_posterior():
    x, s, w = points(32, 1, 1, 2), 0.8, 0.25
    settings = Inference(
        steps=800, lr=0.03, schedule="cosine", weight_decay=0.0, samples=12, kl_weight=w
    )
    found = infer_from(around(x, s), x, settings, generator=stream(0, "weight"))
    precision = 1 / (s * s) + w  # of the mean; the variance is w / precision
    # Noise of the last steps, rate 0.003: a few hundredths.
    assert (found.q.mean - x / (s * s * precision)).abs().max() < 0.08
    assert found.q.scale.square().mean() == pytest.approx(w / precision, rel=0.05)
    assert found.q.scale.square().mean() < 0.7 * s * s / (1 + s * s)  # not the posterior's own
    assert found.bound == "none"


def test_free_nats_are_used_up():
    x, s, free = points(32, 1, 1, 2), 3.0, 1.0
    settings = Inference(
        steps=600, lr=0.05, schedule="cosine", weight_decay=0.0, samples=4, free_nats=free
    )
    found = infer_from(around(x, s), x, settings, generator=stream(0, "free"))
    torch.testing.assert_close(found.kl, torch.full_like(found.kl, free), rtol=0.05, atol=0)
    plain = Inference(**(vars(settings) | {"free_nats": 0.0}))
    other = infer_from(around(x, s), x, plain, generator=stream(0, "free"))
    assert (other.kl < 0.5 * free).all()
    assert found.bound == "lower"  # the penalty only grows


# Points


def quadrature(score, batch, reach=12.0, count=4001):
    """Returns -log p(x), posterior mean and standard deviation by the trapezoidal rule."""
    z = torch.linspace(-reach, reach, count, dtype=torch.float64)
    log_joint = score(z.view(-1, 1, 1, 1, 1).expand(-1, batch, 1, 1, 1)).detach()
    log_joint = log_joint - 0.5 * z.square()[:, None] - 0.5 * LOG_2_PI
    log_evidence = log_joint.logsumexp(0) + math.log(2 * reach / (count - 1))
    share = log_joint.softmax(0)
    mean = share.T @ z
    return -log_evidence, mean, (share.T @ z.square() - mean.square()).sqrt(), log_joint


def integrable():
    model, _ = make(scale=20, layers=1, slots=1, slot_width=1, window=None)
    return model


def test_langevin_targets_the_posterior():
    model, chains = integrable(), 1000
    ids = torch.tensor([[0, 2, 1, 2, 0, 3, 1]]).expand(chains, -1)
    x, y = ids[:, :-1], ids[:, 1:]
    # The step of 0.15 inflates the deviation of 0.44 by about 1.5 %, within the errors.
    settings = Inference(method="langevin", steps=200, step_size=0.15)
    z = infer(model, x, y, settings, generator=stream(0, "chains")).z.flatten()
    _, mean, scale, _ = quadrature(model.likelihood(x[:1], y[:1]), 1)
    se_mean, se_std = scale / math.sqrt(chains), scale / math.sqrt(2 * chains)
    assert abs(z.mean() - mean) < 5 * se_mean
    assert abs(z.std() - scale) < 5 * se_std
    # Chains of the prior, which is where they began, would not pass.
    prior = torch.randn(chains, dtype=torch.float64, generator=stream(0, "prior"))
    assert abs(prior.mean() - mean) > 10 * se_mean
    assert abs(prior.std() - scale) > 10 * se_std


def test_langevin_has_points_only():
    model, _ = make()
    x, y = sequences()
    found = infer(model, x, y, Inference(method="langevin", steps=2), generator=stream(0, "l"))
    assert found.q is None
    assert found.bound == "none"
    assert found.kl_floor is None
    assert found.kl.isnan().all()
    torch.testing.assert_close(found.nll, -model.log_likelihood(x, y, found.z).detach())


def test_map_reaches_the_optimum_of_a_grid():
    model = integrable()
    x, y = sequences(6)
    settings = Inference(
        method="map", steps=400, lr=0.05, schedule="cosine", weight_decay=0.0, init_mean_noise=0.0
    )
    z = infer(model, x, y, settings).z.flatten()
    *_, log_joint = quadrature(model.likelihood(x, y), 6)
    best = torch.linspace(-12, 12, 4001, dtype=torch.float64)[log_joint.argmax(0)]
    # Steps of the grid are 0.006 wide, the last steps of the optimizer below 0.005.
    torch.testing.assert_close(z, best, rtol=0, atol=0.02)
    assert best.abs().min() > 0.05  # neither the prior's mode nor the starting point


def test_map_by_the_default_settings_is_close():
    x, s = points(8, 1, 1, 3), 0.5
    found = infer_from(
        around(x, s), x, Inference(method="map", steps=64), generator=stream(0, "m")
    )
    torch.testing.assert_close(found.z, x / (1 + s * s), rtol=0.05, atol=0.05)
    assert (found.q, found.bound) == (None, "none")


# Encoders and starts


def test_amortised_is_the_encoder_s_posterior():
    model, encoder = make()
    x, y = sequences()
    found = infer(
        model, x, y, Inference(method="amortised"), encoder=encoder, generator=stream(0, "a")
    )
    q = encoder(x, y).detach()
    torch.testing.assert_close(found.q.mean, q.mean)
    torch.testing.assert_close(found.q.log_scale, q.log_scale)
    torch.testing.assert_close(found.kl, q.kl())
    torch.testing.assert_close(found.nll, -model.log_likelihood(x, y, found.z).detach())
    white = (found.z - q.mean) / q.scale
    assert white.abs().max() < 5
    assert white.std() > 0.5
    assert (found.bound, found.kl_floor) == ("lower", None)


def test_semi_amortised_improves_on_the_encoder():
    model, encoder = make()
    x, y = sequences(32)
    refined = Inference(method="semi_amortised", steps=60, lr=0.02, samples=4, weight_decay=0.0)
    costs = []
    for settings in (Inference(method="amortised"), refined):
        draws = [
            infer(model, x, y, settings, encoder=encoder, generator=stream(0, "semi", n))
            for n in range(8 if settings.method == "amortised" else 1)
        ]
        costs.append(torch.stack([found.nll + found.kl for found in draws]).mean(0))
    gain = costs[0] - costs[1]
    assert gain.mean() > 5 * gain.std() / math.sqrt(32)


def test_vb_begins_where_it_is_told():
    model, _ = make()
    x, y = sequences()
    mean = points(4, *model.config.event)
    start = DiagonalGaussian(mean, mean * 0 - 1, event_ndim=3)
    settings = Inference(steps=1, lr=1e-3, weight_decay=0.0)
    found = infer(model, x, y, settings, start=start, generator=stream(0, "start"))
    # The first step of Adam moves every number by the rate.
    torch.testing.assert_close(
        (found.q.mean - mean).abs(), torch.full_like(mean, 1e-3), rtol=1e-3, atol=0
    )


# Priors


@pytest.mark.parametrize("form", ["diagonal", "module", "function"])
def test_posterior_under_another_prior(form):
    priors = pytest.importorskip("lv_priors") if form == "module" else None
    x, s, center, scale = points(64, 1, 1, 2), 0.5, 1.5, 0.5
    middle = torch.full((1, 1, 2), center, dtype=torch.float64)
    normal = DiagonalGaussian(middle, torch.full_like(middle, math.log(scale)), event_ndim=3)
    if form == "module":
        prior = priors.GaussianPrior((1, 1, 2), scale=scale, center=middle)
    else:
        prior = normal if form == "diagonal" else lambda z: normal.log_prob(z)
    settings = Inference(steps=600, lr=0.03, schedule="cosine", weight_decay=0.0, samples=6)
    found = infer_from(around(x, s), x, settings, prior=prior, generator=stream(0, "prior"))
    precision = 1 / (s * s) + 1 / (scale * scale)
    want = (x / (s * s) + center / (scale * scale)) / precision
    assert (found.q.mean - want).abs().max() < 0.1
    assert (found.q.scale.square().mean() - 1 / precision).abs() < 0.1 / precision
    exact = -DiagonalGaussian(
        middle.expand_as(x),
        torch.full_like(x, 0.5 * math.log(s * s + scale * scale)),
        event_ndim=3,
    ).log_prob(x)
    gap = found.nll + found.kl - exact
    assert abs(gap.mean()) < 5 * gap.std() / 8 + 0.05  # tight up to the fit
    assert abs((found.nll + found.kl - exact_nll(x, s)).mean()) > 0.5
    assert (found.kl_floor is None) == (form != "diagonal")
    assert found.bound == "lower"


class Stretched:
    """A prior of noise: the latent is 2 u + 1."""

    def log_density(self, u):
        return -0.5 * (u.square() + LOG_2_PI).sum((-1, -2, -3))

    def push(self, u):
        return 2 * u + 1


@pytest.mark.parametrize("method", ["vb", "map", "langevin", "amortised"])
def test_returned_latents_are_what_the_decoder_reads(method):
    x, prior, s = points(16, 1, 1, 2), Stretched(), 0.05
    settings = Inference(method=method, steps=200, lr=0.05, schedule="cosine", step_size=0.02)
    u = DiagonalGaussian((x - 1) / 2, torch.full_like(x, -4.0), event_ndim=3)
    start = u if method in ("vb", "amortised") else None
    found = infer_from(
        around(x, s), x, settings, prior=prior, start=start, generator=stream(0, "pushed")
    )
    torch.testing.assert_close(found.nll, -around(x, s)(found.z))
    if method != "langevin":  # whose short chain is still under way
        assert (found.z - x).abs().max() < 0.5
        assert ((found.z - 1) / 2 - x).abs().max() > 0.5  # u itself would be off


class Unnormalised(Stretched):
    def log_normalizer(self):
        raise NotImplementedError


@pytest.mark.parametrize("method", ["vb", "amortised"])
def test_says_that_an_unnormalised_prior_gives_no_bound(method):
    x = points(4, 1, 1, 2)
    start = DiagonalGaussian(0 * x, 0 * x, event_ndim=3)
    for prior, bound in ((Unnormalised(), "none"), (Stretched(), "lower"), (None, "lower")):
        found = infer_from(
            around(x, 1.0), x, Inference(method=method, steps=2), prior=prior, start=start
        )
        assert found.bound == bound
        assert found.kl.isfinite().all()


def test_amortised_estimates_a_divergence_without_closed_form():
    x = points(500, 1, 1, 2)
    start = DiagonalGaussian(x, torch.full_like(x, -0.7), event_ndim=3)
    found = infer_from(
        around(x, 1.0), x, Inference(method="amortised"), prior=Stretched(), start=start,
        generator=stream(0, "estimate"),
    )  # fmt: skip
    error = found.kl - start.kl()
    assert error.std() > 0.1  # one draw each
    assert abs(error.mean()) < 5 * error.std() / math.sqrt(500)


# Types, messages


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("weights", "latent"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_latents_are_float32_at_least(method, weights, latent):
    model, encoder = (module.to(weights) for module in make())
    x, y = sequences()
    found = infer(model, x, y, Inference(method=method, steps=2), encoder=encoder)
    assert found.z.dtype == found.nll.dtype == found.kl.dtype == latent
    assert found.z.shape == (4, *model.config.event)
    assert found.nll.shape == found.kl.shape == (4,)


@pytest.mark.parametrize("method", ["vb", "semi_amortised"])
def test_several_draws_per_step_return_one_latent(method):
    model, encoder = make()
    x, y = sequences()
    settings = Inference(method=method, steps=2, samples=3)
    found = infer(model, x, y, settings, encoder=encoder)
    assert found.z.shape == (4, *model.config.event)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_log_var": 1.0}, r"init_log_var must not be positive \(0 = the prior\), got 1.0"),
        ({"init_log_var": math.nan}, "init_log_var must not be positive"),
        ({"init_log_var_noise": -1.0}, "init_log_var_noise must not be negative, got -1.0"),
        ({"init_log_var": 0.0}, "lr must be given when init_log_var is 0"),
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
        ({"steps": 0, "lr": 0.1}, "steps must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"kl_weight": -1.0}, "kl_weight must"),
    ],
)
def test_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Inference(**settings)


@pytest.mark.usefixtures("wrong_types")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "svi"}, "unknown method 'svi'; there are: amortised, langevin, map, semi"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; there are: constant, cosine"),
        ({"noise": "frozen"}, "unknown noise 'frozen'"),
    ],
)
def test_refuses_unknown_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        Inference(**settings)


@pytest.mark.parametrize("method", ["amortised", "semi_amortised"])
def test_amortised_methods_need_an_encoder_or_a_start(method):
    model, _ = make()
    x, y = sequences()
    with pytest.raises(ValueError, match=f"method '{method}' needs an encoder, got None"):
        infer(model, x, y, Inference(method=method))
    with pytest.raises(ValueError, match=f"method '{method}' needs start"):
        infer_from(flat, torch.zeros(2, 1, 1, 1), Inference(method=method))


@pytest.mark.parametrize("method", ["vb", "langevin", "map"])
def test_raises_when_sequences_diverge(method):
    def broken(z):
        return torch.where(torch.arange(len(z)) < 3, math.nan, 1.0) * z.sum((1, 2, 3))

    # Of 8 sequences 3 are lost, of 100 too, which is tolerated.
    with pytest.raises(DivergenceError, match=r"37\.5%"):
        infer_from(broken, torch.zeros(8, 1, 1, 1), Inference(method=method, steps=2))
    found = infer_from(broken, torch.zeros(100, 1, 1, 1), Inference(method=method, steps=2))
    assert found.z[3:].isfinite().all()


def test_default_settings_are_those_of_the_class():
    model, _ = make()
    x, y = sequences()
    rows = Rows.of(0, range(4))
    bare = infer(model, x, y, generator=rows)
    again = infer(model, x, y, Inference(), generator=Rows.of(0, range(4)))
    torch.testing.assert_close(bare.z, again.z)
    with frozen(model):
        torch.testing.assert_close(bare.q.kl(), bare.kl)


def test_inference_lowers_the_cost():
    model, _ = make()
    x, y = sequences(32)
    settings = Inference(steps=32, samples=4)
    found = infer(model, x, y, settings, generator=stream(0, "lowers"))
    draws = found.q.sample(16, generator=stream(0, "fresh draws"))
    after = -model.likelihood(x, y)(draws).detach().mean(0) + found.kl
    start = settings.fit().start(draws[0], event_ndim=3, generator=stream(0, "begin"))
    draws = start.sample(16, generator=stream(0, "fresh draws"))
    before = -model.likelihood(x, y)(draws).detach().mean(0) + start.kl()
    assert (after < before).all()
