"""The decoder with latents: sizes, likelihood, gradients."""

import copy
from itertools import product

import pytest
import torch

from lv_core import frozen, stream
from lv_text import ThoughtConfig, ThoughtModel
from lv_text.model import evaluating


def make(**changes):
    sizes = {
        "vocabulary": 11,
        "width": 16,
        "layers": 3,
        "heads": 2,
        "length": 8,
        "window": 3,
        "slots": 2,
        "slot_width": 5,
    }
    model = ThoughtModel(
        ThoughtConfig(**(sizes | changes)), generator=stream(0, "model weights")
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # initial weights are so small that the latent would not show
                parameter.mul_(10)
    return model


def sequences(batch=3, time=6, vocabulary=11):
    ids = torch.randint(vocabulary, (batch, time + 1), generator=stream(0, "model ids"))
    return ids[:, :-1], ids[:, 1:]


def latents(model, *batch):
    shape = (*batch, *model.config.event)
    return torch.randn(shape, dtype=torch.float64, generator=stream(0, "model latents"))


def formula(config):
    """Counts parameters as the published sizes do; f is the width of SwiGLU."""
    v, d, layers = config.vocabulary, config.width, config.layers
    f = -(-8 * d // 3 // 32) * 32
    return v * d + layers * (8 * d * d + 3 * d * f + 3 * d) + d


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (ThoughtConfig.small(), 38.37),
        (ThoughtConfig.medium(), 51.01),
        (ThoughtConfig.large(), 76.28),
        (ThoughtConfig(width=768, layers=12, heads=12), 151.9),
    ],
    ids=["small", "medium", "large", "released"],
)
def test_has_exactly_the_published_number_of_parameters(config, published):
    with torch.device("meta"):
        model = ThoughtModel(config)
    assert model.parameters_count == formula(config)
    digits = 1 if published > 100 else 2
    assert round(model.parameters_count / 1e6, digits) == published


def test_counts_the_tied_table_once_and_latents_not_at_all():
    config = ThoughtConfig(vocabulary=11, width=16, heads=2, slots=2)
    more = ThoughtConfig(vocabulary=11, width=16, heads=2, slots=7)
    assert ThoughtModel(config).parameters_count == ThoughtModel(more).parameters_count
    untied = formula(config) + 11 * 16
    assert ThoughtModel(config).parameters_count != untied


def test_forward_gives_cross_entropy_of_the_logits():
    model, (x, y) = make(), sequences()
    z = latents(model, 3)
    logits = model.decoder.logits(model.decoder(x, z))
    want = torch.nn.functional.cross_entropy(logits.mT, y, reduction="none")
    torch.testing.assert_close(model(x, y, z), want)


def test_log_likelihood_sums_over_targets():
    model, (x, y) = make(), sequences()
    z = latents(model, 3)
    torch.testing.assert_close(model.log_likelihood(x, y, z), -model(x, y, z).sum(1))


def test_ignored_targets_cost_nothing():
    model, (x, y) = make(), sequences()
    z = latents(model, 3)
    masked = y.clone()
    masked[:, 2:4] = -100
    cost = model(x, masked, z)
    assert (cost[:, 2:4] == 0).all()
    torch.testing.assert_close(cost[:, 4:], model(x, y, z)[:, 4:])


def test_probabilities_of_all_sequences_sum_to_one():
    model = make(vocabulary=3, length=4)
    tails = torch.tensor(list(product(range(3), repeat=4)))
    whole = torch.cat((torch.zeros(81, 1, dtype=torch.int64), tails), 1)
    z = latents(model, 1).expand(81, -1, -1, -1)
    log_p = model.log_likelihood(whole[:, :-1], whole[:, 1:], z)
    torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64))
    # A latent of each sequence's own is not one distribution: the control must not sum to one.
    own = model.log_likelihood(whole[:, :-1], whole[:, 1:], latents(model, 81))
    assert abs(own.exp().sum() - 1) > 0.01


@pytest.mark.parametrize("z_layers", [None, 1, 2])
def test_cached_likelihood_equals_the_direct_one(z_layers):
    model, (x, y) = make(z_layers=z_layers), sequences()
    z = latents(model, 3)
    assert z.shape[1] == (z_layers or 3)
    want = model.log_likelihood(x, y, z)
    torch.testing.assert_close(model.likelihood(x, y)(z), want, rtol=1e-12, atol=1e-12)
    # The latent matters, or the equality would say nothing.
    assert (model.log_likelihood(x, y, 0 * z) - want).abs().max() > 0.1


@pytest.mark.parametrize("samples", [(1,), (4,), (2, 3)])
def test_likelihood_takes_leading_sample_axes(samples):
    model, (x, y) = make(z_layers=2), sequences()
    z = latents(model, *samples, 3)
    got = model.likelihood(x, y)(z)
    assert got.shape == (*samples, 3)
    for place in product(*(range(n) for n in samples)):
        torch.testing.assert_close(got[place], model.log_likelihood(x, y, z[place]))
    assert got.unique().numel() == got.numel()  # else a mix-up of samples would not show


def test_lower_states_then_upper_equal_forward():
    model, (x, y) = make(z_layers=1), sequences()
    z = latents(model, 3)
    torch.testing.assert_close(model.upper_nll(model.lower(x), y, z), model(x, y, z))


def test_likelihood_computes_the_lower_layers_once():
    model, (x, y) = make(z_layers=1), sequences()
    seen = []
    model.decoder.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    score = model.likelihood(x, y)
    for _ in range(3):
        score(latents(model, 3))
    assert len(seen) == 1


@pytest.mark.parametrize("batch", [(2,), (6,), (3, 2)])
def test_likelihood_refuses_latents_of_another_batch(batch):
    model, (x, y) = make(), sequences()
    with pytest.raises(ValueError, match=r"z must be \(\*samples, batch = 3, layers"):
        model.likelihood(x, y)(latents(model, *batch))


@pytest.mark.parametrize("shape", [(3, 5), (2, 2, 5)])
def test_likelihood_refuses_latents_without_batch(shape):
    model, (x, y) = make(), sequences()
    with pytest.raises(ValueError, match="give each sequence its latents"):
        model.likelihood(x, y)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("z_layers", [None, 1])
def test_gradient_of_the_latent_equals_finite_differences(freeze, z_layers):
    model, (x, y) = make(z_layers=z_layers), sequences(2, 5)
    score, z = model.likelihood(x, y), latents(model, 2).requires_grad_()
    with frozen(*([model] if freeze else [])):
        (grad,) = torch.autograd.grad(score(z).sum(), z)
    flat, step = z.detach().flatten(), 1e-5
    numeric = torch.stack(
        [
            (
                score((flat + step * unit).view_as(z)).sum()
                - score((flat - step * unit).view_as(z)).sum()
            ).detach()
            / (2 * step)
            for unit in torch.eye(len(flat), dtype=torch.float64)
        ]
    ).view_as(z)
    # Central differences in float64 at 1e-5: error about 1e-10 of the third derivative.
    torch.testing.assert_close(grad, numeric, rtol=1e-6, atol=1e-7)
    wrong = torch.autograd.grad(score(z).mean(), z)[0]  # averaged over the batch
    assert (wrong - numeric).abs().max() > 1e-3


def test_gradients_reach_every_parameter():
    model, (x, y) = make(z_layers=2), sequences()
    model(x, y, latents(model, 3)).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_without_latents_is_the_plain_decoder():
    model, (x, y) = make(), sequences()
    plain = ThoughtModel(model.config).double()
    own = {n: w for n, w in model.state_dict().items() if ".cross" not in n}
    missing = plain.load_state_dict(own, strict=False).missing_keys
    assert missing  # its cross-attention keeps other weights, which must not matter
    torch.testing.assert_close(plain(x, y), model(x, y))
    assert not torch.allclose(plain(x, y, latents(model, 3)), model(x, y, latents(model, 3)))


def test_later_tokens_do_not_change_earlier_costs():
    model, (x, y) = make(), sequences()
    z = latents(model, 3)
    other = x.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    a, b = model(x, y, z), model(other, y, z)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert (a[:, 4:] - b[:, 4:]).abs().min() > 1e-6


def test_generator_decides_the_weights():
    config = ThoughtConfig(vocabulary=5, width=8, heads=2, slots=1)
    a, b, c = (
        ThoughtModel(config, generator=stream(0, "weights", name)).state_dict()
        for name in ("a", "a", "c")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["decoder.tokens.weight"], c["decoder.tokens.weight"])


def test_refuses_ids_outside_the_vocabulary():
    model, (x, y) = make(), sequences()
    with pytest.raises(ValueError, match=r"inputs must be ids in \[0, 11\), got 11"):
        model(torch.full_like(x, 11), y)
    with pytest.raises(ValueError, match=r"targets must be ids in \[0, 11\) or -100"):
        model(x, torch.full_like(y, -1))


def test_refuses_sequences_that_are_too_long():
    model, (x, y) = make(length=5), sequences()
    with pytest.raises(ValueError, match="max_length=5"):
        model(x, y)


def test_evaluating_restores_each_module_even_after_an_error():
    model = make(dropout=0.5)
    model.train()
    model.decoder.blocks[1].eval()
    before = [part.training for part in model.modules()]

    def interrupted():
        with evaluating(model):
            assert not any(part.training for part in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        interrupted()
    assert [part.training for part in model.modules()] == before
    # Setting the mode of the whole would lose that of the part.
    whole = copy.deepcopy(model).train()
    assert [part.training for part in whole.modules()] != before
