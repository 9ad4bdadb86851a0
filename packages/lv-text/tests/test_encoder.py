"""The encoder of the posterior: what it reads, where it starts, that it learns."""

import math

import pytest
import torch

from lv_core import stream
from lv_core.evidence.joint import Joint
from lv_core.variational import elbo_terms
from lv_text import Inference, ThoughtConfig, ThoughtEncoder, ThoughtModel, infer

CONFIG = ThoughtConfig(
    vocabulary=7, width=8, layers=2, heads=2, length=6, window=4, slots=2, slot_width=3
)


def make(config=CONFIG, **settings):
    """An encoder that says something: its last layer starts at zero."""
    encoder = ThoughtEncoder(config, generator=stream(0, "encoder"), **settings).double()
    with torch.no_grad():
        encoder.out.weight.normal_(generator=stream(0, "encoder head"))
        for parameter in encoder.reader.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
        encoder.key_value.weight.mul_(10)
    return encoder


def sequences(batch=3, time=6):
    ids = torch.randint(7, (batch, time + 1), generator=stream(0, "encoder ids"))
    return ids[:, :-1], ids[:, 1:].clone()


def apart(p, q):
    """Returns by how much each sequence's posterior differs."""
    return (p.mean - q.mean).abs().flatten(1).amax(1).detach()


@pytest.mark.parametrize("z_layers", [None, 1])
def test_has_the_event_of_the_model(z_layers):
    config = ThoughtConfig(
        vocabulary=7, width=8, layers=2, heads=2, length=6, slots=2, z_layers=z_layers
    )
    q = make(config)(*sequences())
    assert q.mean.shape == q.log_scale.shape == (3, *config.event)
    assert q.event_ndim == 3


def test_starts_at_the_prior():
    encoder = ThoughtEncoder(CONFIG, generator=stream(0, "start"))
    q = encoder(*sequences())
    assert torch.equal(q.kl(), torch.zeros(3))
    assert make()(*sequences()).kl().min() > 0.1  # the control: with a last layer that speaks


def test_latents_have_queries_of_their_own():
    mean = make()(*sequences(1)).mean.detach()[0]
    assert torch.pdist(mean.flatten(0, 1)).min() > 1e-3


def test_padding_at_the_end_leaves_no_trace():
    encoder, (x, y) = make(), sequences()
    short = encoder(x[:, :3], y[:, :3])
    y[:, 3:] = -100
    long = encoder(x, y)
    torch.testing.assert_close(long.mean, short.mean)
    other = x.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 7
    torch.testing.assert_close(encoder(other, y).mean, long.mean)


def test_each_sequence_has_padding_of_its_own():
    encoder, (x, y) = make(), sequences()
    y[1, 2:] = -100
    mixed = encoder(x, y)
    torch.testing.assert_close(mixed.mean[1:2], encoder(x[1:2, :2], y[1:2, :2]).mean)
    torch.testing.assert_close(mixed.mean[::2], encoder(x[::2], y[::2]).mean)


@pytest.mark.parametrize("place", [0, 3, 4])
def test_reads_every_scored_token(place):
    encoder, (x, y) = make(), sequences(time=5)
    before = encoder(x, y)
    y[:, place] = (y[:, place] + 1) % 7
    assert apart(encoder(x, y), before).min() > 1e-3


@pytest.mark.parametrize("time", [1, 5, 6])
def test_reads_the_first_token_at_any_length(time):
    encoder, (x, y) = make(), sequences(time=time)
    other = x.clone()
    other[:, 0] = (other[:, 0] + 1) % 7
    assert apart(encoder(x, y), encoder(other, y)).min() > 1e-3


def test_refuses_sequences_that_are_too_long_for_the_decoder():
    with pytest.raises(ValueError, match="max_length=7"):
        make()(*sequences(time=7))


def test_masked_context_is_seen_through_later_states_alone():
    encoder, (x, y) = make(), sequences(time=5)
    y[:, :2] = -100
    before = encoder(x, y)
    other = x.clone()
    other[:, 1] = (other[:, 1] + 1) % 7
    assert apart(encoder(other, y), before).min() > 1e-4
    y[:] = -100
    nothing = encoder(x, y)
    assert nothing.mean.isfinite().all()  # nothing to read gives one answer for all
    torch.testing.assert_close(nothing.mean, encoder(other, y).mean)


def test_result_does_not_depend_on_the_batch():
    encoder, (x, y) = make(), sequences()
    whole = encoder(x, y)
    torch.testing.assert_close(encoder(x[1:2], y[1:2]).mean, whole.mean[1:2])


@pytest.mark.parametrize(
    ("weights", "latent"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_posterior_is_float32_at_least(weights, latent):
    q = make().to(weights)(*sequences())
    assert q.mean.dtype == q.log_scale.dtype == latent


def test_scale_is_limited():
    encoder = make()
    with torch.no_grad():
        encoder.out.bias.fill_(50.0)
    q = encoder(*sequences())
    assert (q.log_scale == 1).all()
    assert (q.mean > 30).all()


def test_depth_is_the_decoder_s_unless_said():
    assert len(ThoughtEncoder(CONFIG).reader.blocks) == 2
    assert len(ThoughtEncoder(CONFIG, layers=1).reader.blocks) == 1


def test_generator_decides_the_weights():
    a, b, c = (
        ThoughtEncoder(CONFIG, generator=stream(0, "weights", name)).state_dict()
        for name in ("a", "a", "c")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("queries", "key_value.weight", "reader.tokens.weight"):
        assert not torch.equal(a[name], c[name])


def test_gradient_reaches_every_parameter():
    encoder = make()
    q = encoder(*sequences())
    (q.mean.square().sum() + q.log_scale.square().sum()).backward()
    dead = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def corpus(n):
    """Six equal targets behind inputs that say nothing: the latent alone can name them."""
    token = torch.randint(1, 7, (n, 1), generator=stream(0, "corpus"))
    return torch.zeros(n, 6, dtype=torch.int64), token.expand(n, 6)


def test_bound_falls_when_both_are_trained():
    config = ThoughtConfig(
        vocabulary=7, width=16, layers=1, heads=2, length=8, window=None, slots=1, slot_width=2
    )
    model = ThoughtModel(config, generator=stream(0, "vae decoder"))
    encoder = ThoughtEncoder(config, generator=stream(0, "vae encoder"))
    x, y = corpus(64)
    rule = torch.optim.Adam([*model.parameters(), *encoder.parameters()], lr=3e-3)
    noise, course, kl = stream(0, "vae noise"), [], []
    for _ in range(320):
        joint = Joint(lambda z: model.log_likelihood(x, y, z))
        terms = elbo_terms(joint, encoder(x, y), chunk=1, generator=noise)
        course.append(-terms.objective.mean().item())
        kl.append(terms.kl.mean().item())
        rule.zero_grad()
        (-terms.objective.mean()).backward()
        rule.step()
    assert kl[0] == 0
    end = sum(course[-20:]) / 20
    # Six equal tokens cost a model without latents six times what one costs, here 1.7 nats.
    share = y[:, 0].bincount() / 64
    once = torch.special.entr(share).sum().item()
    assert 1.5 < once <= math.log(6)
    assert once < end < 3 * once
    assert course[0] > 10
    assert sum(kl[-20:]) / 20 > 1
    found = infer(
        model, x, y, Inference(method="amortised"), encoder=encoder, generator=stream(0, "use")
    )
    assert (found.nll + found.kl).mean().item() == pytest.approx(end, abs=0.5)
    # Posteriors are the sequences' own: those of another token reconstruct worse.
    swapped = (y[:, 0] != y.roll(1, 0)[:, 0]).nonzero()[:, 0]
    with torch.no_grad():
        other = -model.log_likelihood(x, y, found.z.roll(1, 0))
    assert (other - found.nll)[swapped].mean() > 3
