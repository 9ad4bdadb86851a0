"""Completion: the pipeline step by step, prompts of several lengths, new plans on the way."""

import math

import pytest
import torch

from lv_core import Rows, stream
from lv_text import ByteVocabulary, Inference, ThoughtConfig, ThoughtEncoder, ThoughtModel, infer
from lv_text.generation import Sampling, complete, generate

VOCABULARY = ByteVocabulary()
QUICK = Inference(steps=3)
TEXTS = ["The sky is", "Once", "A", "Two of them", "ever", "It was a dark and stormy"]


def small(length=48, **kwargs):
    """A model over bytes that depends strongly on its latents and ends texts now and then."""
    config = ThoughtConfig(
        vocabulary=258, width=16, layers=2, heads=2, length=length, window=8, slots=2, **kwargs
    )
    model = ThoughtModel(config, generator=stream(0, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
        model.decoder.tokens.weight[VOCABULARY.eos] *= 2.5
    return model


def own(prompts=TEXTS, start=0):
    return Rows.of(0, range(start, start + len(prompts)))


def ids(text):
    return torch.tensor([[VOCABULARY.bos, *VOCABULARY.encode(text)]])


def test_a_completion_is_inference_on_the_prompt_and_generation_after_it():
    model, sampling = small(), Sampling(temperature=0.9)
    (found,) = complete(
        model,
        VOCABULARY,
        TEXTS[:1],
        QUICK,
        new_tokens=20,
        sampling=sampling,
        generator=stream(0, "g"),
    )
    source, prompt = stream(0, "g"), ids(TEXTS[0])
    fitted = infer(model, prompt[:, :-1], prompt[:, 1:], QUICK, generator=source)
    drawn = generate(
        model,
        prompt=prompt,
        z=fitted.z,
        new_tokens=20,
        eos=VOCABULARY.eos,
        sampling=sampling,
        generator=source,
    )
    end = int(drawn.lengths[0])
    assert torch.equal(found.tokens, drawn.tokens[0, :end])
    torch.testing.assert_close(found.log_prob, drawn.log_prob[0, :end])
    assert found.prompt == TEXTS[0]
    assert found.text == VOCABULARY.decode(drawn.tokens[0, :end], special=False)
    assert found.finished == bool(drawn.finished[0])
    torch.testing.assert_close(found.z, fitted.z[0])
    (plan,) = found.plans
    assert (plan.start, plan.tokens) == (0, len(TEXTS[0]))
    assert plan.nll == pytest.approx(fitted.nll.item(), rel=1e-5)
    assert plan.kl == pytest.approx(fitted.kl.item(), rel=1e-5)
    assert plan.kl_floor == pytest.approx(fitted.kl_floor.item(), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("replan", [None, 5])
def test_a_completion_does_not_depend_on_the_other_prompts(batch, replan):
    model = small()
    options = {"new_tokens": 12, "replan": replan, "latent": "fresh"}
    together = complete(model, VOCABULARY, TEXTS, QUICK, batch=batch, generator=own(), **options)
    assert [found.prompt for found in together] == TEXTS
    for n, text in enumerate(TEXTS):
        source = Rows.of(0, [n])
        (alone,) = complete(model, VOCABULARY, [text], QUICK, generator=source, **options)
        assert torch.equal(alone.tokens, together[n].tokens)
        assert [p.start for p in alone.plans] == [p.start for p in together[n].plans]
        for one, other in zip(alone.plans, together[n].plans, strict=True):
            assert one.nll == pytest.approx(other.nll, rel=1e-3)
            assert one.kl == pytest.approx(other.kl, rel=1e-3)
    # Wrong control: other generators write other texts.
    others = complete(
        model, VOCABULARY, TEXTS, QUICK, batch=batch, generator=own(start=100), **options
    )
    assert [f.text for f in others] != [f.text for f in together]


def test_padding_in_front_or_behind_would_have_changed_the_text():
    """Why prompts of equal length are decoded together: the control of the test above."""
    model = small()
    prompt = ids("ever")
    z = torch.randn(1, *model.config.event, generator=stream(0, "z"))
    greedy = Sampling(temperature=0.0)
    right = generate(model, prompt=prompt, z=z, new_tokens=12, sampling=greedy).tokens
    space = torch.full((1, 3), 32)
    for padded in (torch.cat((space, prompt), 1), torch.cat((prompt, space), 1)):
        wrong = generate(model, prompt=padded, z=z, new_tokens=12, sampling=greedy).tokens
        assert not torch.equal(right, wrong)


def test_an_encoder_gives_the_same_with_and_without_other_prompts():
    model = small()
    encoder = ThoughtEncoder(model.config, generator=stream(0, "encoder"))
    with torch.no_grad():
        encoder.out.weight.normal_(generator=stream(0, "out"))
    settings = Inference(method="amortised")
    options = {"new_tokens": 8, "encoder": encoder, "latent": "mean"}
    together = complete(model, VOCABULARY, TEXTS, settings, generator=own(), **options)
    alone = complete(model, VOCABULARY, TEXTS[2:3], settings, generator=Rows.of(0, [2]), **options)
    assert torch.equal(alone[0].tokens, together[2].tokens)
    assert alone[0].plans[0].kl == pytest.approx(together[2].plans[0].kl, rel=1e-4)
    assert math.isnan(alone[0].plans[0].kl_floor)


def test_the_kinds_of_latents_are_what_they_say():
    model, prompt = small(), ids(TEXTS[0])
    runs = {
        latent: complete(
            model,
            VOCABULARY,
            TEXTS[:1],
            QUICK,
            new_tokens=3,
            latent=latent,
            generator=stream(0, "g"),
        )[0]
        for latent in ("fitted", "fresh", "mean", "none")
    }
    source = stream(0, "g")
    fitted = infer(model, prompt[:, :-1], prompt[:, 1:], QUICK, generator=source)
    torch.testing.assert_close(runs["fitted"].z, fitted.z[0])
    torch.testing.assert_close(runs["mean"].z, fitted.q.mean[0])
    eps = torch.empty_like(fitted.q.mean).normal_(generator=source)
    torch.testing.assert_close(runs["fresh"].z, fitted.q.rsample(eps)[0])
    assert not torch.allclose(runs["fresh"].z, runs["fitted"].z)
    assert runs["none"].z is None
    assert runs["none"].plans == ()


def test_without_latents_it_is_the_autoregressive_model():
    model = small()
    (found,) = complete(
        model, VOCABULARY, ["ab"], new_tokens=9, latent="none", eos=False, generator=stream(0, "g")
    )
    drawn = generate(model, prompt=ids("ab"), new_tokens=9, generator=stream(0, "g"))
    assert torch.equal(found.tokens, drawn.tokens[0])
    (bare,) = complete(
        model, VOCABULARY, ["a"], new_tokens=9, latent="none", bos=False, generator=stream(0, "g")
    )
    assert not torch.equal(bare.tokens, found.tokens)


@pytest.mark.parametrize("method", ["vb", "langevin", "map"])
def test_replanning_is_inference_on_the_last_tokens_from_the_last_posterior(method):
    model, sampling = small(length=24), Sampling(temperature=0.0)
    settings = Inference(method=method, steps=3)
    (found,) = complete(
        model,
        VOCABULARY,
        ["A text of many bytes"],
        settings,
        new_tokens=40,
        sampling=sampling,
        replan=7,
        context=10,
        eos=False,
        generator=stream(0, "g"),
    )
    source, q, plans = stream(0, "g"), None, []
    text = ids("A text of many bytes")[:, -10:]
    prompt, cold = text.shape[1], None
    while text.shape[1] - prompt < 40:
        view = text[:, -10:]
        fitted = infer(model, view[:, :-1], view[:, 1:], settings, start=q, generator=source)
        if q is not None:  # wrong control: the same from a cold start
            cold = infer(model, view[:, :-1], view[:, 1:], settings, generator=stream(1, "g"))
        q = fitted.q
        plans.append((text.shape[1] - prompt, 9, fitted.nll.item()))
        count = min(7, 40 - (text.shape[1] - prompt))
        drawn = generate(model, prompt=view, z=fitted.z, new_tokens=count, sampling=sampling)
        text = torch.cat((text, drawn.tokens), 1)
    assert torch.equal(found.tokens, text[0, prompt:])
    assert len(found.tokens) == 40 > model.config.length  # beyond what one pass could do
    assert [(p.start, p.tokens) for p in found.plans] == [plan[:2] for plan in plans]
    assert [p.nll for p in found.plans] == pytest.approx([plan[2] for plan in plans], rel=1e-3)
    torch.testing.assert_close(found.z, fitted.z[0], rtol=1e-3, atol=1e-3)
    if method == "vb":
        assert not torch.allclose(cold.q.log_scale, fitted.q.log_scale, atol=0.1)
    else:
        assert math.isnan(found.plans[0].kl)


def test_finished_texts_take_no_further_part_in_planning():
    model = small()
    found = complete(
        model,
        VOCABULARY,
        ["one", "two", "six", "ten", "eat"],
        QUICK,
        new_tokens=60,
        replan=4,
        generator=Rows.of(0, range(5)),
    )
    ended = [one for one in found if one.finished]
    assert ended
    for one in ended:
        assert one.tokens[-1] == VOCABULARY.eos
        assert VOCABULARY.eos not in one.tokens[:-1]
        assert len(one.plans) == -(-len(one.tokens) // 4)
    for one in found:
        assert one.finished or len(one.tokens) == 60
        assert len(one.log_prob) == len(one.tokens)
    assert len({len(one.tokens) for one in found}) > 1


def test_all_finished_stops_replanning():
    model = small()
    with torch.no_grad():
        # Any state scores EOS highest: all embeddings share a direction.
        model.decoder.tokens.weight[:] = 0.01 * model.decoder.tokens.weight + 1.0
        model.decoder.tokens.weight[VOCABULARY.eos] = 30.0
        for block in model.decoder.blocks:
            for part in (block.attention.out, block.cross.out, block.mlp.down):
                part.weight.zero_()
    (found,) = complete(model, VOCABULARY, ["a"], QUICK, new_tokens=30, replan=5)
    assert found.tokens.tolist() == [VOCABULARY.eos]
    assert found.text == ""
    assert len(found.plans) == 1


def test_no_prompts_give_no_completions():
    assert complete(small(), VOCABULARY, [], new_tokens=3) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ["a", ""]}, "must not be empty, got '' at place 1"),
        ({"prompts": ["x" * 50]}, "at most 46 tokens .* got 51 at place 0"),
        ({"prompts": ["a"], "bos": False}, "two tokens at least"),
        ({"new_tokens": 0}, "new_tokens must be at least 1"),
        ({"new_tokens": 60}, "at most 0 tokens"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"context": 5}, "belongs to replan"),
        ({"replan": 0}, "replan must be in 1..47"),
        ({"replan": 48}, "replan must be in 1..47"),
        ({"replan": 9, "context": 41}, "context must be in 2..40"),
        ({"replan": 9, "context": 1}, "context must be in 2..40"),
        ({"generator": Rows.of(0, [1, 2])}, "one of 1 prompts each, got 2"),
        ({"settings": Inference(method="map"), "latent": "mean"}, "does not give"),
        ({"settings": Inference(method="langevin"), "latent": "fresh"}, "does not give"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"prompts": ["a text"], "new_tokens": 3} | change
    with pytest.raises(ValueError, match=message):
        complete(small(), VOCABULARY, **arguments)


@pytest.mark.usefixtures("wrong_types")
def test_unknown_latents_are_named():
    with pytest.raises(ValueError, match="unknown latent 'best'"):
        complete(small(), VOCABULARY, ["a"], new_tokens=3, latent="best")


@pytest.mark.usefixtures("wrong_types")
def test_one_string_is_no_list_of_prompts():
    with pytest.raises(TypeError, match="texts must be a sequence"):
        complete(small(), VOCABULARY, "a text", new_tokens=3)


def test_another_vocabulary_is_refused():
    config = ThoughtConfig(vocabulary=300, width=16, layers=1, heads=2, length=16, slots=2)
    with pytest.raises(ValueError, match="must have the 300 ids of the model, got 258"):
        complete(ThoughtModel(config), VOCABULARY, ["a"], new_tokens=3)
