"""Reconstruction of documents and scores of candidates, against one pass per question."""

import math

import pytest
import torch

from lv_core import Rows, stream
from lv_text import Inference, ThoughtConfig, ThoughtModel, infer
from lv_text.generation import posterior_samples, reconstruct, score_candidates

QUICK = Inference(steps=3)


def small(window=6, *, strength=12.0, **kwargs):
    config = ThoughtConfig(
        vocabulary=20, width=32, layers=2, heads=4, length=32, window=window, slots=3, **kwargs
    )
    model = ThoughtModel(config, generator=stream(0, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(strength)
    return model


def ids(*shape):
    return torch.randint(20, shape, generator=stream(0, "ids", *shape))


def by_hand(model, tokens, z):
    """Decodes greedily by whole passes, and predicts each token from the true ones."""
    text = tokens[:, :1]
    with torch.no_grad():
        while text.shape[1] < tokens.shape[1]:
            best = model.decoder.logits(model.decoder(text, z)[:, -1]).argmax(1, keepdim=True)
            text = torch.cat((text, best), 1)
        forced = model.decoder.logits(model.decoder(tokens[:, :-1], z)).argmax(-1)
    return text, forced


@pytest.mark.parametrize("latent", ["fitted", "mean", "none"])
def test_reconstruction_is_greedy_decoding_from_the_first_token(latent):
    model, tokens = small(), ids(4, 24)
    found = reconstruct(model, tokens, QUICK, latent=latent, generator=Rows.of(0, range(4)))
    z = None
    if latent != "none":
        fitted = infer(model, tokens[:, :-1], tokens[:, 1:], QUICK, generator=Rows.of(0, range(4)))
        z = fitted.z if latent == "fitted" else fitted.q.mean
        torch.testing.assert_close(found.found.nll, fitted.nll)
    else:
        assert found.found is None
    text, forced = by_hand(model, tokens, z)
    assert torch.equal(found.tokens, text)
    expected = (text == tokens)[:, 1:].double().mean(1).float()
    torch.testing.assert_close(found.share, expected)
    torch.testing.assert_close(found.forced, (forced == tokens[:, 1:]).double().mean(1).float())


def test_latents_reconstruct_what_the_model_alone_cannot_know():
    """Which letter a document repeats is in its latents; the first token does not tell."""
    model = small()
    with torch.no_grad():
        # Tokens do not mix; latents add a direction to the state, whatever the token.
        model.decoder.tokens.weight.normal_(generator=stream(0, "table"))
        for block in model.decoder.blocks:
            for part in (block.attention.out, block.mlp.down):
                part.weight.zero_()
            block.cross.out.weight.copy_(torch.eye(32))
    tokens = torch.arange(1, 7)[:, None].expand(-1, 16).clone()
    tokens[:, 0] = 0
    settings = Inference(method="map", steps=60, lr=0.3)
    found = reconstruct(model, tokens, settings, generator=stream(0, "g"))
    assert found.share.mean() > 0.9
    assert found.forced.mean() > 0.9
    # Wrong controls: no latents.
    blind = reconstruct(model, tokens, latent="none")
    assert blind.share.mean() < 0.5


def test_documents_of_several_lengths_do_not_see_each_other():
    model, lengths = small(), torch.tensor([12, 24, 2])
    tokens = ids(3, 26)
    tokens[0, 12:] = -5  # padding may be any number
    found = reconstruct(model, tokens, QUICK, lengths=lengths, generator=Rows.of(0, range(3)))
    assert found.tokens.shape == (3, 24)
    for n, end in enumerate(lengths.tolist()):
        alone = reconstruct(model, tokens[n : n + 1, :end], QUICK, generator=Rows.of(0, [n]))
        assert torch.equal(alone.tokens[0], found.tokens[n, :end])
        assert (found.tokens[n, end:] == -100).all()
        torch.testing.assert_close(alone.share[0], found.share[n])
        torch.testing.assert_close(alone.forced[0], found.forced[n])


def test_a_document_may_fill_the_model():
    found = reconstruct(small(), ids(1, 33), QUICK, generator=stream(0, "g"))
    assert found.tokens.shape == (1, 33)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        (ids(2, 34), None, "lengths must be 2 to 33"),
        (ids(2, 1), None, "lengths must be 2 to 1"),
        (ids(2, 8), torch.tensor([8, 1]), "lengths must be 2 to 8"),
        (ids(2, 8), torch.tensor([8, 9]), "lengths must be 2 to 8"),
        (torch.full((1, 4), 20), None, "got 20"),
        (torch.full((1, 4), -100), None, "got -100"),
    ],
)
def test_bad_documents_are_named(tokens, lengths, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(small(), tokens, QUICK, lengths=lengths)


CANDIDATES = [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 4], [19, 0, 19]]


@pytest.mark.parametrize("window", [6, None])
@pytest.mark.parametrize("time", [3, 12])
def test_scores_are_those_of_one_whole_pass_per_candidate_and_draw(window, time):
    model, prompt = small(window, strength=6.0), ids(time)
    found = score_candidates(model, prompt, CANDIDATES, QUICK, draws=4, generator=stream(0, "g"))
    source, row = stream(0, "g"), prompt[None]
    fitted = infer(model, row[:, :-1], row[:, 1:], QUICK, generator=source)
    z = posterior_samples(fitted, 4, generator=source)[:, 0]
    expected = torch.zeros(4, len(CANDIDATES))
    for c, candidate in enumerate(CANDIDATES):
        whole = torch.cat((prompt, torch.tensor(candidate)))[None].expand(4, -1)
        with torch.no_grad():
            nll = model(whole[:, :-1], whole[:, 1:], z)
        expected[:, c] = -nll[:, time - 1 :].sum(1)
    torch.testing.assert_close(found.by_draw, expected, rtol=1e-4, atol=1e-3)
    log_prob = expected.double().exp().mean(0).log().float()
    torch.testing.assert_close(found.log_prob, log_prob, rtol=1e-4, atol=1e-3)
    assert found.lengths.tolist() == [1, 9, 2, 3]
    assert found.best == int(log_prob.argmax())
    # Wrong control: the mean of logarithms is another number.
    assert not torch.allclose(found.log_prob, expected.mean(0), atol=1e-2)


def test_the_probabilities_of_all_next_tokens_sum_to_one():
    every = [[v] for v in range(20)]
    found = score_candidates(small(), ids(5), every, QUICK, draws=3, generator=stream(0, "g"))
    assert found.log_prob.logsumexp(0).item() == pytest.approx(0.0, abs=1e-5)


def test_ranking_per_token_divides_by_the_length():
    source = {"generator": stream(0, "g"), "draws": 2}
    total = score_candidates(small(), ids(5), CANDIDATES, QUICK, **source)
    source["generator"] = stream(0, "g")
    mean = score_candidates(small(), ids(5), CANDIDATES, QUICK, per_token=True, **source)
    torch.testing.assert_close(mean.score, total.score / torch.tensor([1, 9, 2, 3]))
    torch.testing.assert_close(total.score, total.log_prob)
    torch.testing.assert_close(mean.log_prob, total.log_prob)


def test_candidates_do_not_see_each_other():
    model, prompt = small(), ids(7)
    together = score_candidates(model, prompt, CANDIDATES, QUICK, generator=stream(0, "g"))
    for c, candidate in enumerate(CANDIDATES):
        alone = score_candidates(model, prompt, [candidate], QUICK, generator=stream(0, "g"))
        torch.testing.assert_close(alone.score[0], together.score[c], rtol=1e-4, atol=1e-3)


def test_without_latents_scores_are_autoregressive():
    model, prompt = small(), ids(1)
    found = score_candidates(model, prompt, CANDIDATES, latent="none")
    assert found.found is None
    assert found.by_draw.shape == (1, 4)
    with torch.no_grad():
        nll = model(prompt[None], torch.tensor([[3]]))
    assert found.score[0].item() == pytest.approx(-nll.item(), rel=1e-4)


def test_methods_with_points_only_score_with_the_point():
    settings = Inference(method="langevin", steps=3)
    found = score_candidates(
        small(), ids(6), CANDIDATES, settings, latent="fitted", generator=stream(0, "g")
    )
    assert found.found.q is None
    assert found.score.isfinite().all()
    with pytest.raises(ValueError, match="needs a posterior, which method 'langevin'"):
        score_candidates(small(), ids(6), CANDIDATES, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ids(1)}, "at least 2 tokens"),
        ({"prompt": ids(0), "latent": "none"}, "at least 1 tokens"),
        ({"prompt": torch.tensor([1, 20])}, "got 20"),
        ({"candidates": []}, "one or more non-empty"),
        ({"candidates": [[1], []]}, r"empty ones at places \[1\]"),
        ({"candidates": [[1], [20]]}, "got 20 at place 1"),
        ({"candidates": [[-100]]}, "got -100 at place 0"),
        ({"candidates": [[1] * 29]}, "at most 33 tokens together, got 5"),
        ({"draws": 0}, "draws must be 1 for latent='fresh'|draws must be"),
        ({"draws": 2, "latent": "fitted"}, "draws must be 1 for latent='fitted'"),
    ],
)
def test_bad_candidates_are_named(change, message):
    arguments = {"prompt": ids(5), "candidates": CANDIDATES} | change
    with pytest.raises(ValueError, match=message):
        score_candidates(small(), settings=QUICK, **arguments)


def test_the_longest_candidate_that_fits_is_scored():
    found = score_candidates(small(), ids(5), [[1] * 28], QUICK, generator=stream(0, "g"))
    assert math.isfinite(found.score.item())
