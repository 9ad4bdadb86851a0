"""Generation: known transition probabilities, the cache against whole passes, ends, limits."""

import importlib

import pytest
import torch

from lv_core import DivergenceError, Rows, stream
from lv_core.random import Draws
from lv_text import ThoughtConfig, ThoughtModel, gaussian_prior
from lv_text.generation import Sampling, generate, posterior_samples, prior_samples, sample
from lv_text.inference import Inference, infer

GREEDY = Sampling(temperature=0.0)
TRUNCATED = Sampling(temperature=1.3, top_k=15, top_p=0.9)
PENALIZED = Sampling(temperature=0.8, repetition_penalty=1.3)


def small(window=6, *, seed=0, length=40, vocabulary=24, **kwargs):
    """A model whose tokens depend strongly on context and latents."""
    config = ThoughtConfig(
        vocabulary=vocabulary,
        width=32,
        layers=2,
        heads=4,
        length=length,
        window=window,
        slots=3,
        **kwargs,
    )
    model = ThoughtModel(config, generator=stream(seed, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model


def prompts(batch, time, vocabulary=24):
    return torch.randint(vocabulary, (batch, time), generator=stream(0, "prompt", batch, time))


def chain(seed=0, slots=1):
    """A model without attention to tokens: p(next | last, z) in closed form.

    With one slot, cross-attention adds out(value(z)) whatever the token is, so that the state is
    norm(embedding + A z).
    """
    config = ThoughtConfig(
        vocabulary=6, width=8, layers=1, heads=2, length=64, window=None, slots=slots
    )
    model = ThoughtModel(config, generator=stream(seed, "chain"))
    block = model.decoder.blocks[0]
    with torch.no_grad():
        block.attention.out.weight.zero_()
        block.mlp.down.weight.zero_()
        model.decoder.tokens.weight.normal_(generator=stream(seed, "table"))
        block.cross.key_value.weight.normal_(generator=stream(seed, "values"))
        block.cross.out.weight.copy_(0.2 * torch.eye(8))
    return model


def transitions(model, z):
    """Returns p(next | last, z) of `chain`, from its weights."""
    table = model.decoder.tokens.weight.detach().double()
    values = model.decoder.blocks[0].cross.key_value.weight[8:].detach().double()
    state = table if z is None else table + 0.2 * (values @ z.double().flatten())
    state = state / (state.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return (state @ table.T).softmax(1)


def shares_within_bounds(counts, p):
    """Says whether counts of pairs agree with transition probabilities by five errors each."""
    total = counts.sum(1, keepdim=True)
    bound = 5 * (p * (1 - p) / total).sqrt()
    return bool(((counts / total - p).abs() <= bound).all())


def count_pairs(drawn, bos):
    before = torch.cat((torch.full((len(drawn), 1), bos), drawn[:, :-1]), 1)
    return (before * 6 + drawn).flatten().bincount(minlength=36).view(6, 6).double()


@pytest.mark.parametrize("with_z", [True, False])
def test_drawn_tokens_follow_known_transition_probabilities(with_z):
    model = chain()
    one = prior_samples(model, 1, generator=stream(0, "z"))
    z = one.expand(1500, -1, -1, -1) if with_z else None
    drawn = generate(model, z=z, count=1500, bos=2, new_tokens=30, generator=stream(0, "draws"))
    p, other = transitions(model, one), transitions(model, None)
    p, other = (p, other) if with_z else (other, p)
    counts = count_pairs(drawn.tokens, 2)
    assert shares_within_bounds(counts, p)
    # Wrong controls: the other latent, and the transposed chain.
    assert not shares_within_bounds(counts, other)
    assert not shares_within_bounds(counts.T, p)
    before = torch.cat((torch.full((1500, 1), 2), drawn.tokens[:, :-1]), 1)
    torch.testing.assert_close(
        drawn.log_prob, p[before, drawn.tokens].log().float(), rtol=1e-4, atol=1e-4
    )


def test_unconditional_draws_mix_over_the_prior():
    """The first token has probability E_z p(x | z)."""
    model, count = chain(), 20_000
    z = prior_samples(model, count, generator=stream(0, "many"))
    first = generate(model, z=z, bos=2, new_tokens=1, generator=stream(0, "g")).tokens[:, 0]
    fresh = prior_samples(model, 4000, generator=stream(1, "others"))
    p = torch.stack([transitions(model, one)[2] for one in fresh])
    share = first.bincount(minlength=6) / count
    # Five errors of both estimates together.
    bound = 5 * (p.mean(0) * (1 - p.mean(0)) / count + p.var(0) / 4000).sqrt()
    assert ((share - p.mean(0)).abs() <= bound).all()
    at_zero = transitions(model, None)[2]  # wrong control
    assert ((share - at_zero).abs() > bound).any()


@pytest.mark.parametrize("sampling", [Sampling(), GREEDY, TRUNCATED, PENALIZED], ids=str)
@pytest.mark.parametrize("window", [6, None])
@pytest.mark.parametrize(("time", "with_z"), [(1, True), (4, True), (15, True), (15, False)])
def test_the_cache_changes_nothing_also_beyond_the_window(sampling, window, time, with_z):
    model = small(window)
    z = prior_samples(model, 3, generator=stream(0, "z")) if with_z else None

    def run(use_cache, model=model, z=z):
        return generate(
            model,
            prompt=prompts(3, time),
            z=z,
            new_tokens=25,
            sampling=sampling,
            use_cache=use_cache,
            generator=stream(0, "same"),
        )

    cached, naive = run(True), run(False)
    assert torch.equal(cached.tokens, naive.tokens)
    torch.testing.assert_close(cached.log_prob, naive.log_prob, rtol=1e-3, atol=1e-3)
    # Wrong controls: another window, and other latents, give another text.
    assert not torch.equal(cached.tokens, run(True, model=small(3)).tokens)
    if with_z:
        assert not torch.equal(cached.tokens, run(True, z=-z).tokens)


@pytest.mark.parametrize("options", [{"z_layers": 1}, {"z_rope": "none"}, {"slot_width": 8}])
def test_the_cache_changes_nothing_for_other_latents(options):
    model = small(**options)
    z = prior_samples(model, 2, generator=stream(0, "z"))
    runs = [
        generate(model, z=z, bos=1, new_tokens=20, sampling=GREEDY, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(runs[0].tokens, runs[1].tokens)


def test_log_probabilities_are_those_of_the_forward_pass():
    model = small()
    z, prompt = prior_samples(model, 3, generator=stream(0, "z")), prompts(3, 5)
    drawn = generate(
        model, prompt=prompt, z=z, new_tokens=20, sampling=TRUNCATED, generator=stream(0, "g")
    )
    whole = torch.cat((prompt, drawn.tokens), 1)
    with torch.no_grad():
        nll = model(whole[:, :-1], whole[:, 1:], z)[:, 4:]
    torch.testing.assert_close(drawn.log_prob, -nll, rtol=1e-3, atol=1e-3)
    assert (drawn.log_draw >= -5).all()
    assert not torch.allclose(drawn.log_draw, drawn.log_prob)


def test_penalized_steps_are_those_of_sample_with_all_ids_so_far():
    model, prompt = small(), prompts(2, 3)
    noise = torch.rand(2, 12, generator=stream(0, "noise"), dtype=torch.float64)
    found = generate(
        model,
        prompt=prompt,
        new_tokens=12,
        sampling=PENALIZED,
        generator=Draws(uniforms=[noise]),
    )
    text = prompt
    for step in range(12):
        seen = torch.zeros(2, 24, dtype=torch.bool).scatter(1, text, True)
        with torch.no_grad():
            logits = model.decoder.logits(model.decoder(text)[:, -1])
        drawn = sample(logits, PENALIZED, seen=seen, generator=Draws(uniforms=[noise[:, step]]))
        text = torch.cat((text, drawn.ids[:, None]), 1)
    assert torch.equal(text[:, 3:], found.tokens)


@pytest.mark.parametrize("sampling", [Sampling(), PENALIZED], ids=["plain", "penalized"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("with_z", [True, False])
def test_finished_sequences_may_leave_the_batch(sampling, use_cache, with_z):
    model, count = small(), 12
    z = prior_samples(model, count, generator=stream(0, "z")) if with_z else None
    runs = [
        generate(
            model,
            prompt=prompts(count, 2),
            z=z,
            eos=3,
            new_tokens=30,
            sampling=sampling,
            drop_finished=drop,
            use_cache=use_cache,
            generator=stream(0, "g"),
        )
        for drop in (True, False)
    ]
    for name in ("tokens", "lengths", "finished"):
        assert torch.equal(getattr(runs[0], name), getattr(runs[1], name))
    torch.testing.assert_close(runs[0].log_prob, runs[1].log_prob, rtol=1e-3, atol=1e-3)
    # The case is not trivial: ends at several places, most of them before the last.
    assert runs[0].lengths.unique().numel() > 4
    # Until its end, a sequence is what it is without an end.
    free = generate(
        model,
        prompt=prompts(count, 2),
        z=z,
        new_tokens=30,
        sampling=sampling,
        generator=stream(0, "g"),
    )
    for n, end in enumerate(runs[0].lengths.tolist()):
        assert torch.equal(runs[0].tokens[n, :end], free.tokens[n, :end])
        ended = 3 in free.tokens[n].tolist()
        assert bool(runs[0].finished[n]) == ended
        assert end == (free.tokens[n].tolist().index(3) + 1 if ended else 30)
        assert (runs[0].tokens[n, end:] == 3).all()
        assert (runs[0].log_prob[n, end:] == 0).all()
        assert (runs[0].log_draw[n, end:] == 0).all()


def test_rare_looks_at_who_has_finished_change_nothing(monkeypatch):
    """As on a GPU, which is not waited for at each step."""
    model = small()
    settings = importlib.import_module("lv_text.generation.generate")

    def run():
        return generate(
            model, count=12, bos=1, eos=3, new_tokens=30, generator=stream(0, "rare looks")
        )

    often = run()
    monkeypatch.setitem(settings.STRIDE, "cpu", 7)
    rare = run()
    assert torch.equal(often.tokens, rare.tokens)
    assert torch.equal(often.lengths, rare.lengths)
    torch.testing.assert_close(often.log_prob, rare.log_prob, rtol=1e-3, atol=1e-3)


def test_generation_stops_when_all_have_finished():
    model = chain()
    p = transitions(model, None)
    drawn = generate(
        model, count=64, bos=2, eos=int(p[2].argmax()), new_tokens=60, generator=stream(0, "g")
    )
    assert drawn.finished.all()
    assert drawn.tokens.shape == (64, 60)
    assert (drawn.lengths < 60).all()


def test_no_end_means_full_lengths():
    drawn = generate(small(), count=2, bos=1, new_tokens=5, generator=stream(0, "g"))
    assert drawn.lengths.tolist() == [5, 5]
    assert not drawn.finished.any()


def test_a_sequence_with_its_own_generator_does_not_depend_on_its_batch():
    model = small()
    z = prior_samples(model, 5, generator=Rows.of(0, range(5), "z"))
    draw = {"bos": 1, "eos": 3, "new_tokens": 25}
    together = generate(model, z=z, generator=Rows.of(0, range(5), "tokens"), **draw)
    for n in range(5):
        z_n = prior_samples(model, 1, generator=Rows.of(0, [n], "z"))
        torch.testing.assert_close(z_n[0], z[n])
        alone = generate(model, z=z_n, generator=Rows.of(0, [n], "tokens"), **draw)
        assert torch.equal(alone.tokens[0], together.tokens[n])
    # Wrong control: another item's noise.
    other = generate(model, z=z[:1], generator=Rows.of(0, [1], "tokens"), **draw)
    assert not torch.equal(other.tokens[0], together.tokens[0])


def test_all_of_the_models_length_can_be_drawn_and_no_more():
    model = small(length=16)
    drawn = generate(model, count=1, bos=1, new_tokens=16, generator=stream(0, "g"))
    assert drawn.tokens.shape == (1, 16)
    with pytest.raises(ValueError, match="new_tokens must be at most 16 for a prompt of 1"):
        generate(model, count=1, bos=1, new_tokens=17)
    with pytest.raises(ValueError, match="new_tokens must be at most 0 for a prompt of 20"):
        generate(model, prompt=prompts(1, 20), new_tokens=1)


def test_prompts_of_short_integers_are_read():
    draw = {"new_tokens": 5, "sampling": PENALIZED}
    found = [
        generate(small(), prompt=prompts(2, 3).to(dtype), generator=stream(0, "g"), **draw)
        for dtype in (torch.int64, torch.int32)
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert found[1].tokens.dtype == torch.int64


def test_dropout_is_off_and_modes_and_gradients_are_left_alone():
    model = small(dropout=0.5)
    quiet = generate(model.eval(), count=2, bos=1, new_tokens=10, sampling=GREEDY)
    model.train()
    model.decoder.norm.eval()
    loud = generate(model, count=2, bos=1, new_tokens=10, sampling=GREEDY)
    assert torch.equal(quiet.tokens, loud.tokens)
    assert model.training
    assert not model.decoder.norm.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not loud.log_prob.requires_grad


def test_half_precision_weights_give_wide_log_probabilities():
    drawn = generate(small().bfloat16(), count=2, bos=1, new_tokens=6, generator=stream(0, "g"))
    assert drawn.log_prob.dtype == torch.float32


def test_double_precision_stays_double():
    model = small().double()
    z = prior_samples(model, 2, generator=stream(0, "z"))
    assert z.dtype == torch.float64
    drawn = generate(model, z=z, bos=1, new_tokens=6, generator=stream(0, "g"))
    assert drawn.log_prob.dtype == torch.float64


def test_scores_that_are_no_numbers_are_an_error_and_no_text():
    model = small()
    with torch.no_grad():
        model.decoder.norm.weight.fill_(torch.nan)
    for sampling in (Sampling(), TRUNCATED, GREEDY):
        with pytest.raises(DivergenceError, match="not finite"):
            generate(model, count=2, bos=1, new_tokens=4, sampling=sampling)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bos": None}, "bos must be given"),
        ({"count": None}, "at least one sequence"),
        ({"count": 0}, "at least one sequence"),
        ({"prompt": prompts(3, 2)}, "speak of as many sequences"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.int64)}, "at least one token"),
        ({"prompt": torch.tensor([[0], [24]])}, "got 24"),
        ({"prompt": torch.tensor([[0], [-100]])}, "got -100"),
        ({"bos": 24}, "got 24"),
        ({"eos": 24}, "eos must be an id"),
        ({"new_tokens": 0}, "new_tokens must be at least 1"),
        ({"z": torch.zeros(2, 1, 3, 32)}, "z must be"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"count": 2, "bos": 1, "new_tokens": 3} | change
    with pytest.raises(ValueError, match=message):
        generate(small(), **arguments)


def test_prior_samples_are_normal_with_the_factor_as_deviation():
    model = small()
    z = prior_samples(model, 500, scale=0.6, generator=stream(0, "z"))
    assert z.shape == (500, 2, 3, 32)
    n = z.numel()
    # Five standard errors of mean and variance.
    assert abs(z.mean()) < 5 * 0.6 / n**0.5
    assert abs(z.var() - 0.36) < 5 * 0.36 * (2 / n) ** 0.5
    assert abs(z.var() - 0.6) > 5 * 0.6 * (2 / n) ** 0.5  # wrong control
    whole = prior_samples(model, 500, generator=stream(0, "z"))
    torch.testing.assert_close(z, 0.6 * whole)
    assert not prior_samples(model, 1, scale=0.0).any()


def test_a_fitted_prior_can_be_drawn_from_row_by_row():
    model = small()
    tokens = prompts(6, 12)
    q = infer(model, tokens[:, :-1], tokens[:, 1:], Inference(steps=3), generator=stream(0, "i")).q
    prior = gaussian_prior(q)
    z = prior_samples(model, 3, prior=prior, generator=Rows.of(0, range(3)))
    eps = prior_samples(model, 3, generator=Rows.of(0, range(3)))
    torch.testing.assert_close(z, prior.mean + prior.scale * eps)


class Fixed:
    """A prior with a sampler of its own."""

    def __init__(self, event):
        self.event = event

    def sample(self, n, *, generator=None):
        return torch.ones(n, *self.event, dtype=torch.float64)


def test_any_prior_with_a_sampler_serves():
    z = prior_samples(small(), 2, scale=0.5, prior=Fixed((2, 3, 32)))
    assert torch.equal(z, torch.full((2, 2, 3, 32), 0.5))


def test_bad_priors_are_named():
    model = small()
    with pytest.raises(ValueError, match="count must be"):
        prior_samples(model, 0)
    with pytest.raises(ValueError, match="scale must not be negative"):
        prior_samples(model, 1, scale=-1.0)
    with pytest.raises(TypeError, match="prior must have a method sample"):
        prior_samples(model, 1, prior=3)
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 31\)"):
        prior_samples(model, 1, prior=Fixed((2, 3, 31)))


class Stretched:
    """A prior on u whose latent is 2 u."""

    def log_density(self, u):
        return -0.5 * u.square().flatten(1).sum(1)

    def push(self, u):
        return 2 * u


def test_posterior_samples_are_pushed_and_have_the_posteriors_moments():
    model, tokens = small(), prompts(2, 10)
    settings = Inference(steps=3)
    found = infer(
        model, tokens[:, :-1], tokens[:, 1:], settings, prior=Stretched(), generator=stream(0, "i")
    )
    z = posterior_samples(found, 400, prior=Stretched(), generator=stream(0, "s"))
    assert z.shape == (400, 2, 2, 3, 32)
    white = (z / 2 - found.q.mean) / found.q.scale
    # Five standard errors over all numbers.
    assert abs(white.mean()) < 5 / white.numel() ** 0.5
    assert abs(white.var() - 1) < 5 * (2 / white.numel()) ** 0.5
    plain = posterior_samples(found, 400, generator=stream(0, "s"))
    torch.testing.assert_close(z, 2 * plain)


def test_points_have_no_posterior_to_draw_from():
    model, tokens = small(), prompts(2, 10)
    settings = Inference(method="map", steps=2)
    found = infer(model, tokens[:, :-1], tokens[:, 1:], settings, generator=stream(0, "i"))
    with pytest.raises(ValueError, match="found must hold a posterior"):
        posterior_samples(found, 2)
    with pytest.raises(ValueError, match="count must be at least 1"):
        posterior_samples(found, 0)
