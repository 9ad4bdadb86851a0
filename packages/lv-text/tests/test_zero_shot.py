"""The zero-shot protocols, the runner and the readers of benchmark sets."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from lv_core import DiagonalGaussian, stream
from lv_text import (
    BpeVocabulary,
    ByteVocabulary,
    Inference,
    ThoughtConfig,
    ThoughtEncoder,
    ThoughtModel,
    autoregressive_nll,
    sample_documents,
)
from lv_text.detokenize import DETOKENIZERS, wikitext
from lv_text.zero_shot import (
    read_ag_news,
    read_lambada,
    read_scitldr,
    read_tinyshakespeare,
    read_wikitext,
    zero_shot,
    zero_shot_blocks,
)

BYTES = ByteVocabulary()
EOS, BOS = 256, 257


def folder(name):
    return Path(os.environ["LV_DATA"]) / name


def spelled(row):
    return BYTES.decode(row, special=True)


# ------------------------------------------------------------------------------- blocks


def test_official_blocks_cross_texts_and_have_no_bos():
    blocks = zero_shot_blocks(["abc", "", "defgh"], BYTES, length=4)
    stream_ = [97, 98, 99, EOS, EOS, 100, 101, 102, 103, 104, EOS]
    assert blocks.tokens.tolist() == [stream_[0:3], stream_[4:7]]
    assert blocks.targets.tolist() == [stream_[1:4], stream_[5:8]]
    assert (blocks.texts, blocks.used, blocks.dropped) == (3, 8, 3)
    assert blocks.size.tolist() == [2, 3]  # b c, d e f: the first token is not scored
    assert blocks.protocol == "official"


def test_mdlm_blocks_score_all_tokens_between_bos_and_eos():
    blocks = zero_shot_blocks(["abc", "", "defgh"], BYTES, length=6, protocol="mdlm")
    stream_ = [97, 98, 99, EOS, EOS, 100, 101, 102, 103, 104, EOS]
    assert blocks.tokens.tolist() == [[BOS, *stream_[:4]], [BOS, *stream_[4:8]]]
    assert blocks.targets.tolist() == [[*stream_[:4], EOS], [*stream_[4:8], EOS]]
    assert (blocks.used, blocks.dropped) == (8, 3)
    assert blocks.size.tolist() == [3, 3]


def test_blocks_are_those_of_a_plain_transcription():
    texts = [" = A = \n", "It was 1 @,@ 000 men 's ( or more ) .\n", ""] * 40
    for protocol, inside in (("official", 16), ("mdlm", 14)):
        for group in (None, 7, 120, 1000):
            want, lost = [], 0
            for start in range(0, 120, group or 120):
                stream_ = []
                for text in texts[start : start + (group or 120)]:
                    stream_ += [*wikitext(text).encode(), EOS]
                while len(stream_) >= inside:
                    block, stream_ = stream_[:inside], stream_[inside:]
                    want.append(block if protocol == "official" else [BOS, *block, EOS])
                lost += len(stream_)
            found = zero_shot_blocks(
                iter(texts),
                BYTES,
                length=16,
                detokenizer=wikitext,
                protocol=protocol,
                group=group,
            )
            assert found.tokens.tolist() == [block[:-1] for block in want]
            assert found.targets.tolist() == [block[1:] for block in want]
            assert (found.texts, found.dropped, found.used) == (120, lost, len(want) * inside)
    # Control: without its rules the text has other tokens.
    raw = zero_shot_blocks(texts, BYTES, length=16)
    assert (
        raw.tokens.shape
        != zero_shot_blocks(texts, BYTES, length=16, detokenizer=wikitext).tokens.shape
    )


def test_blocks_know_the_bytes_of_the_original_text():
    texts = ["naïve @-@ men , 2 @,@ 000 é\n"] * 6
    original = sum(len(text.encode()) for text in texts)
    plain = sum(len(wikitext(text).encode()) for text in texts)
    assert plain < original
    inside = plain + 6  # all of it with the ends is one block
    found = zero_shot_blocks(
        texts, BYTES, length=inside + 2, detokenizer=wikitext, protocol="mdlm"
    )
    assert found.dropped == 0
    assert found.size.sum().item() == pytest.approx(original)
    # Cut into several blocks, they share the same bytes...
    parts = zero_shot_blocks(
        texts, BYTES, length=inside // 6 + 2, detokenizer=wikitext, protocol="mdlm"
    )
    assert len(parts.size) == 6
    assert parts.size.tolist() == pytest.approx([original / 6] * 6)
    # ...and what is dropped is not counted.
    less = zero_shot_blocks(
        texts, BYTES, length=inside - 40, detokenizer=wikitext, protocol="mdlm"
    )
    assert less.size.sum() < original - 20


def test_bytes_of_an_erased_text_fall_to_its_end():
    def erase(text):
        return "" if text == "gone" else text

    found = zero_shot_blocks(["gone", "kept"], BYTES, length=6, detokenizer=erase, protocol="mdlm")
    assert found.tokens[0].tolist() == [BOS, EOS, *b"kep"]
    assert found.size.tolist() == [4 + 3]


def test_text_cannot_smuggle_in_an_end():
    found = zero_shot_blocks(["<|endoftext|>"], BYTES, length=14)
    assert (found.targets == EOS).sum() == 1


def test_blocks_refuse_what_gives_none():
    with pytest.raises(ValueError, match="fill a block of 64 tokens, got 4 tokens in 1 texts"):
        zero_shot_blocks(["abc"], BYTES, length=64)
    with pytest.raises(ValueError, match="length must be at least 3 for 'mdlm', got 2"):
        zero_shot_blocks(["abc"], BYTES, length=2, protocol="mdlm")
    with pytest.raises(ValueError, match="group must be positive"):
        zero_shot_blocks(["abc"], BYTES, length=2, group=0)
    assert len(zero_shot_blocks(["abc"], BYTES, length=2).tokens) == 2


@pytest.mark.usefixtures("wrong_types")
def test_blocks_refuse_unknown_protocols():
    with pytest.raises(ValueError, match="unknown protocol 'gpt'; there are: mdlm, official"):
        zero_shot_blocks(["abc"], BYTES, length=4, protocol="gpt")


def test_blocks_refuse_a_single_string():
    with pytest.raises(TypeError, match="got one string"):
        zero_shot_blocks("abc", BYTES, length=4)


# ------------------------------------------------------------------------------- runner


def make(**changes):
    sizes = {
        "vocabulary": 258,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "length": 24,
        "window": 8,
        "slots": 2,
        "slot_width": 4,
    }
    config = ThoughtConfig(**(sizes | changes))
    return ThoughtModel(config, generator=stream(0, "zero shot")).double()


def blocks_of(count=5, length=25):
    texts = sample_documents(2, generator=stream(0, "zero-shot texts"))
    found = zero_shot_blocks(
        texts, BYTES, length=length, detokenizer=lambda text: text.replace(", ", ",")
    )
    assert len(found.tokens) > count
    return found


def test_scores_aggregate_block_costs_in_both_ways():
    model, blocks = make(), blocks_of()
    seen = []
    found = zero_shot(
        model,
        blocks,
        Inference(steps=3),
        samples=4,
        limit=5,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert set(found.scores) == {"nelbo_shared_noise", "nelbo", "iwae", "autoregressive"}
    size = blocks.size[:5].sum().item()
    for name, score in found.scores.items():
        nats = found.autoregressive if name == "autoregressive" else getattr(found.bounds, name)
        assert nats.shape == (5,)
        assert score.perplexity.corpus == pytest.approx(math.exp(nats.sum() / (5 * 24)))
        mean = (nats / 24).exp().mean().item()
        assert score.perplexity.sequence_mean == pytest.approx(mean)
        assert score.perplexity.sequence_mean != pytest.approx(score.perplexity.corpus, rel=1e-9)
        assert score.bits_per_byte == pytest.approx(nats.sum().item() / math.log(2) / size)
        # Control: per token they are others, as spaces of the original are gone.
        assert score.bits_per_byte != pytest.approx(nats.sum().item() / math.log(2) / 120)
        assert score.bound
    assert found.scores["iwae"].bits_per_byte < found.scores["nelbo"].bits_per_byte


def test_autoregressive_scores_are_exact_and_may_be_of_another_model():
    model, blocks = make(), blocks_of()
    x, y = blocks.tokens[:3], blocks.targets[:3]
    logits = model.decoder.logits(model.decoder(x)).log_softmax(-1)
    want = -logits.gather(2, y[..., None]).sum((1, 2)).detach()
    quick = {"samples": 1, "limit": 3}
    found = zero_shot(model, blocks, Inference(steps=1), **quick)
    torch.testing.assert_close(found.autoregressive, want)
    other = ThoughtModel(
        ThoughtConfig(vocabulary=258, width=8, layers=1, heads=1, length=30),
        generator=stream(1, "zero shot"),
    ).double()
    both = zero_shot(model, blocks, Inference(steps=1), baseline=other, **quick)
    torch.testing.assert_close(both.autoregressive, autoregressive_nll(other, x, y))
    assert (both.autoregressive - want).abs().min() > 1e-3
    torch.testing.assert_close(both.bounds.nelbo, found.bounds.nelbo)


def test_results_do_not_depend_on_the_batch_size_but_on_the_seed():
    model, blocks = make(), blocks_of()
    settings = Inference(steps=4)
    runs = [
        zero_shot(model, blocks, settings, samples=2, limit=5, batch_size=size, seed=seed)
        for size, seed in ((5, 0), (2, 0), (5, 1))
    ]
    for name in ("nelbo_shared_noise", "nelbo", "iwae", "kl"):
        first, again, other = (getattr(run.bounds, name) for run in runs)
        torch.testing.assert_close(first, again)
        assert (first - other).abs().max() > 1e-3


def test_shared_noise_is_marked_as_no_bound():
    model, blocks = make(), blocks_of()
    found = zero_shot(model, blocks, Inference(steps=2, noise="shared"), samples=2, limit=2)
    marks = {name: score.bound for name, score in found.scores.items()}
    assert marks == {
        "nelbo_shared_noise": False,
        "nelbo": True,
        "iwae": True,
        "autoregressive": True,
    }


def test_an_unnormalized_prior_marks_all_bounds():
    class Energy:
        def log_density(self, u):
            return -0.5 * u.square().sum((-3, -2, -1))

        def push(self, u):
            return u

        def log_normalizer(self):
            raise NotImplementedError

    model, blocks = make(), blocks_of()
    quick = {"samples": 2, "limit": 2}
    found = zero_shot(model, blocks, Inference(steps=2), prior=Energy(), **quick)
    assert {n for n, score in found.scores.items() if score.bound} == {"autoregressive"}
    event = torch.zeros(model.config.event, dtype=torch.float64)
    prior = DiagonalGaussian(event, event, event_ndim=3)
    normal = zero_shot(model, blocks, Inference(steps=2), prior=prior, **quick)
    assert all(score.bound for score in normal.scores.values())
    plain = zero_shot(model, blocks, Inference(steps=2), **quick)
    torch.testing.assert_close(normal.bounds.nelbo, plain.bounds.nelbo)


def test_amortized_inference_uses_the_encoder():
    model, blocks = make(), blocks_of()
    encoder = ThoughtEncoder(model.config, generator=stream(0, "zero-shot encoder")).double()
    torch.nn.init.constant_(encoder.out.bias, 0.3)
    settings = Inference(method="amortised")
    found = zero_shot(model, blocks, settings, encoder=encoder, samples=2, limit=2)
    # mean 0.3 and log scale 0.3 for each of 16 latent numbers
    kl = 16 * 0.5 * (0.09 + math.exp(0.6) - 1 - 0.6)
    assert found.bounds.kl.tolist() == pytest.approx([kl, kl])


def test_runner_leaves_no_parameter_gradient():
    model, blocks = make(), blocks_of()
    zero_shot(model, blocks, Inference(steps=2), samples=1, limit=2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_runner_refuses_what_does_not_fit():
    blocks = blocks_of()
    model = make()
    with pytest.raises(ValueError, match="ids below the 90 of model, got"):
        zero_shot(make(vocabulary=90), blocks)
    with pytest.raises(ValueError, match="at most 20 inputs for baseline, got 24"):
        zero_shot(model, blocks, baseline=make(length=20))
    with pytest.raises(ValueError, match="a method with a posterior, got 'map'"):
        zero_shot(model, blocks, Inference(method="map"))
    for wrong in ({"batch_size": 0}, {"limit": 0}):
        with pytest.raises(ValueError, match="batch_size and limit must be positive"):
            zero_shot(model, blocks, **wrong)


# -------------------------------------------------------------------------------- readers


@pytest.mark.data
def test_reads_wikitext_by_lines_as_examples_are_published():
    lines = list(read_wikitext(folder("wikitext2-eval")))
    assert len(lines) == 3760
    assert lines[:3] == ["", " = Homarus gammarus = \n", ""]
    test = list(read_wikitext(folder("wikitext2-eval"), split="test"))
    assert len(test) == 4358
    whole = (folder("wikitext2-eval") / "test.txt").read_text(encoding="utf-8")
    assert "".join(test).split() == whole.split()
    assert whole.count("<unk>") == sum(line.count("<unk>") for line in test)


@pytest.mark.data
@pytest.mark.parametrize(
    ("split", "first"), [("valid", "Homarus gammarus"), ("test", "Robert <unk>")]
)
def test_reads_wikitext_by_articles(split, first):
    articles = list(read_wikitext(folder("wikitext2-eval"), split=split, unit="article"))
    assert len(articles) == 60
    assert articles[0].startswith(f"= {first} = \n")
    whole = (folder("wikitext2-eval") / f"{split}.txt").read_text(encoding="utf-8")
    assert " ".join(articles).split() == whole.split()
    # Two lines of a formula in the test set begin and end with the sign, but are no titles.
    signs = [line for line in whole.split("\n") if line[:3] == " = " and line[3:4] != "="]
    assert sum(line.endswith(" = ") for line in signs) == (62 if split == "test" else 60)
    assert min(len(article) for article in articles) > 500


@pytest.mark.data
def test_reads_lambada_ag_news_scitldr_and_shakespeare():
    passages = list(read_lambada(folder("lambada")))
    assert len(passages) == 5153
    assert passages[0].startswith("In my palm is a clear stone")
    news = list(read_ag_news(folder("ag-news")))
    assert len(news) == 7600
    assert news[0].startswith("Fears for T N pension after talks Unions representing workers")
    bare = list(read_ag_news(folder("ag-news"), titles=False))
    assert all(long.endswith(short) for long, short in zip(news, bare, strict=True))
    assert bare[0].startswith("Unions representing workers")
    counts = {
        s: len(list(read_scitldr(folder("scitldr"), split=s))) for s in ("train", "dev", "test")
    }
    assert counts == {"train": 1992, "dev": 619, "test": 618}
    assert next(read_scitldr(folder("scitldr"))).startswith("Incremental class learning involves")
    (play,) = read_tinyshakespeare(folder("tinyshakespeare"))
    assert len(play.encode()) == 1_115_394


@pytest.mark.data
def test_real_sets_have_the_tokens_that_were_measured():
    gpt2 = BpeVocabulary.load(folder("gpt2-bpe"))
    for texts, tokens in [
        (read_lambada(folder("lambada")), 430_230),
        (read_scitldr(folder("scitldr")), 131_688),
    ]:
        assert sum(len(ids) for ids in gpt2.encode_batch(list(texts))) == pytest.approx(
            tokens, rel=0.01
        )


@pytest.mark.data
def test_a_model_is_scored_on_real_text_by_both_protocols():
    gpt2 = BpeVocabulary.load(folder("gpt2-bpe"))
    model = make(vocabulary=gpt2.size, length=32).float()
    for protocol in ("official", "mdlm"):
        blocks = zero_shot_blocks(
            read_wikitext(folder("wikitext2-eval")),
            gpt2,
            length=33,
            detokenizer=DETOKENIZERS["wikitext"],
            protocol=protocol,
            group=1000,
        )
        assert blocks.texts == 3760
        inside = 33 if protocol == "official" else 31
        assert blocks.used == len(blocks.tokens) * inside
        assert blocks.dropped < 4 * inside
        share = blocks.size.sum().item() / 1_121_681
        # A block's first token is not scored in the official one: 1/33 of 97 to 100 %. The bytes
        # of blank lines (3 each in the file, 0 as examples) are not counted.
        assert share == pytest.approx(0.97 if protocol == "official" else 1.0, abs=0.01)
        found = zero_shot(model, blocks, Inference(steps=2), samples=2, limit=4)
        # Nothing is learned: about log2(50258) = 15.6 bits for each token of 4 to 5 bytes.
        assert 2 < found.scores["autoregressive"].bits_per_byte < 6
        assert found.scores["autoregressive"].perplexity.corpus == pytest.approx(50_258, rel=0.1)


READERS = {
    "wikitext2": (read_wikitext, "valid.txt"),
    "lambada": (read_lambada, "lambada_test.jsonl"),
    "ag": (read_ag_news, "test.csv"),
    "scitldr": (read_scitldr, "test.jsonl"),
    "shakespeare": (read_tinyshakespeare, "input.txt"),
}


@pytest.mark.parametrize(("reader", "name"), READERS.values(), ids=READERS)
def test_missing_empty_and_broken_files_are_named(tmp_path, reader, name):
    with pytest.raises(FileNotFoundError, match=f"folder with {name}"):
        reader(tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a file or a folder"):
        reader(tmp_path / "nowhere")
    file = tmp_path / name
    file.write_bytes(b" \n")
    with pytest.raises(ValueError, match=f"{name} is empty"):
        reader(file)
    file.write_bytes(b"ab\xff\xfe")
    with pytest.raises(ValueError, match=f"{name} is damaged: no UTF-8 at byte 2"):
        reader(file)
    # In a folder the set must be the published one, to the last byte.
    with pytest.raises(ValueError, match="is damaged or another release: its checksum is"):
        reader(tmp_path)


@pytest.mark.data
def test_a_truncated_set_is_found_by_its_checksum(tmp_path):
    whole = (folder("tinyshakespeare") / "input.txt").read_bytes()
    (tmp_path / "input.txt").write_bytes(whole)
    assert len(next(read_tinyshakespeare(tmp_path))) > 1_000_000
    (tmp_path / "input.txt").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="damaged or another release"):
        read_tinyshakespeare(tmp_path)
    assert len(next(read_tinyshakespeare(tmp_path / "input.txt"))) > 1_000_000


def test_damaged_rows_are_named(tmp_path):
    file = tmp_path / "own.jsonl"

    def write(*rows):
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        return file

    assert list(read_lambada(write({"text": "a\u2028b"}, {"text": "c"}))) == ["a\u2028b", "c"]
    with pytest.raises(ValueError, match=r"line 2 must hold a string 'text', got int"):
        list(read_lambada(write({"text": "a"}, {"text": 3})))
    with pytest.raises(ValueError, match="line 1 must be a JSON object, got list"):
        read_lambada(write([1]))
    file.write_text('{"text": "a"}\n{"text": "b', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_lambada(file)
    assert list(read_scitldr(write({"source": ["One.", "Two."]}))) == ["One. Two."]
    with pytest.raises(ValueError, match="line 1 must hold a list of strings 'source'"):
        list(read_scitldr(write({"source": "One."})))


def test_damaged_tables_and_articles_are_named(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text('"3","A ""title""","Text, with\na line."\n"1","B","C"\n', encoding="utf-8")
    assert list(read_ag_news(file)) == ['A "title" Text, with\na line.', "B C"]
    file.write_text('"3","A","B"\n"1","C"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="3 columns in each row, got 2 in line 2"):
        read_ag_news(file)
    file.write_text('"3","A","B"\n"1","C","cut of', encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged in line 2"):
        read_ag_news(file)
    text = tmp_path / "own.txt"
    text.write_text(" \n = = Section = = \n no title = \n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no title"):
        read_wikitext(text, unit="article")
    assert len(list(read_wikitext(text))) == 3


@pytest.mark.usefixtures("wrong_types")
def test_readers_refuse_unknown_options(tmp_path):
    with pytest.raises(ValueError, match="unknown unit 'page'; there are: article, line"):
        read_wikitext(tmp_path, unit="page")
    with pytest.raises(ValueError, match="unknown split 'train'; there are: test, valid"):
        read_wikitext(tmp_path, split="train")
    with pytest.raises(ValueError, match="unknown split 'val'; there are: dev, test, train"):
        read_scitldr(tmp_path, split="val")
