"""Exchange with Hugging Face's libraries, with the real libraries."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lv_core import stream
from lv_text import (
    BpeVocabulary,
    ByteVocabulary,
    ThoughtConfig,
    ThoughtEncoder,
    ThoughtModel,
    Vocabulary,
    infer,
    load_vocabulary,
    sample_documents,
)
from lv_text.hub import (
    load_pretrained,
    save_pretrained,
    texts_from_datasets,
    tokenizer_json,
    vocabulary_from_transformers,
)

TEXTS = [
    "The old miller's daughter didn't know; they'll say she'd gone, and we've no proof. ",
    "for i in range(10):\n\tif x[i] != y_i:\n        return {'a': 1.5e-3}  # done\r\n",
    "Ünïcödé straße, 東京タワー, Ελληνικά, हिन्दी, עברית, ﷽, e\u0301 against é.",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and x²+y³≠½ \u00a0\u3000 \x00\x7f",
    "",
    "   ",
]


@pytest.fixture(scope="module")
def bpe():
    texts = sample_documents(60, generator=stream(0, "hub texts")) + TEXTS
    return BpeVocabulary.train(texts, size=320, min_frequency=1)


def make(vocabulary, dtype=torch.float32, **changes):
    sizes = {"width": 16, "layers": 3, "heads": 2, "length": 12, "window": 4, "slots": 2}
    config = ThoughtConfig(vocabulary=vocabulary.size, **(sizes | changes))
    return ThoughtModel(config, generator=stream(0, "hub")).to(dtype)


def logits(model, batch=3):
    ids = torch.randint(model.config.vocabulary, (batch, 7), generator=stream(0, "hub ids"))
    z = torch.randn(batch, *model.config.event, generator=stream(0, "hub z"))
    return model.decoder.logits(model.decoder(ids, z.to(next(model.parameters()).dtype)))


# --------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_model_gives_the_same_logits_bit_by_bit(tmp_path, bpe, dtype):
    pytest.importorskip("safetensors")
    model = make(bpe, dtype, z_layers=2, slot_width=6)
    save_pretrained(model, tmp_path / "new" / "folder", vocabulary=bpe)
    state = torch.get_rng_state()
    found = load_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), state)  # loading draws nothing from the caller's
    assert found.model.config == model.config
    assert next(found.model.parameters()).dtype == dtype
    assert torch.equal(logits(found.model), logits(model))
    # Wrong control: a model of the same sizes with other weights.
    other = ThoughtModel(model.config, generator=stream(1, "hub")).to(dtype)
    assert not torch.equal(logits(other), logits(model))
    assert found.encoder is None
    assert found.vocabulary.fingerprint == bpe.fingerprint
    assert not found.model.training
    assert all(p.requires_grad for p in found.model.parameters())


def test_the_encoder_comes_along(tmp_path):
    pytest.importorskip("safetensors")
    vocabulary = ByteVocabulary()
    model = make(vocabulary)
    encoder = ThoughtEncoder(model.config, layers=2, generator=stream(0, "hub encoder"))
    torch.nn.init.normal_(encoder.out.weight, generator=stream(0, "hub out"))
    save_pretrained(model, tmp_path, vocabulary=vocabulary, encoder=encoder)
    found = load_pretrained(tmp_path, vocabulary=vocabulary)
    x = torch.randint(258, (2, 7), generator=stream(0, "hub ids"))
    want, got = (e(x[:, :-1], x[:, 1:]) for e in (encoder, found.encoder))
    assert torch.equal(got.mean, want.mean)
    assert torch.equal(got.log_scale, want.log_scale)
    assert want.mean.abs().max() > 0.1
    assert found.encoder.reader.config.layers == 2
    # Saved again without it, the folder holds none.
    save_pretrained(model, tmp_path, vocabulary=vocabulary)
    assert load_pretrained(tmp_path).encoder is None


def test_the_folder_has_the_usual_files_and_the_table_once(tmp_path, bpe):
    safetensors = pytest.importorskip("safetensors")
    from safetensors.torch import load_file

    model = make(bpe)
    save_pretrained(model, tmp_path, vocabulary=bpe)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocabulary.json",
        "encoder.json",
        "vocab.bpe",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "latent-thought"
    assert config["thought_config"] == asdict(model.config)
    assert config["vocabulary_fingerprint"] == bpe.fingerprint
    assert (config["bos_token_id"], config["eos_token_id"]) == (bpe.bos, bpe.eos)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    numbers = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert numbers == model.parameters_count
    # 4 bytes a number and a header: a table stored twice would be 20 kB more.
    assert (tmp_path / "model.safetensors").stat().st_size < 4 * numbers + 8_000
    assert load_vocabulary(tmp_path).fingerprint == bpe.fingerprint


def test_a_loaded_model_can_be_trained_and_infers(tmp_path, bpe):
    pytest.importorskip("safetensors")
    save_pretrained(make(bpe), tmp_path, vocabulary=bpe)
    model = load_pretrained(tmp_path).model
    x = torch.randint(bpe.size, (2, 7), generator=stream(0, "hub ids"))
    found = infer(model, x[:, :-1], x[:, 1:], generator=stream(0, "hub infer"))
    model(x[:, :-1], x[:, 1:], found.z).mean().backward()
    assert model.decoder.tokens.weight.grad.abs().max() > 0


def test_saving_refuses_what_does_not_fit(tmp_path, bpe):
    pytest.importorskip("safetensors")
    model = make(bpe)
    with pytest.raises(ValueError, match="vocabulary must have the 320 ids"):
        save_pretrained(model, tmp_path, vocabulary=ByteVocabulary())
    encoder = ThoughtEncoder(replace(model.config, slots=3))
    with pytest.raises(ValueError, match="encoder must be made for the sizes"):
        save_pretrained(model, tmp_path, vocabulary=bpe, encoder=encoder)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.usefixtures("wrong_types")
def test_saving_refuses_a_wrapped_model(tmp_path, bpe):
    with pytest.raises(TypeError, match="must be a ThoughtModel, got Sequential"):
        save_pretrained(torch.nn.Sequential(make(bpe)), tmp_path, vocabulary=bpe)


def test_loading_refuses_another_vocabulary(tmp_path, bpe):
    pytest.importorskip("safetensors")
    save_pretrained(make(bpe), tmp_path, vocabulary=bpe)
    other = BpeVocabulary.train(TEXTS[::-1] * 3 + ["zebra zoo"] * 9, size=320, min_frequency=1)
    assert other.size == bpe.size
    with pytest.raises(ValueError, match="their ids mean different text"):
        load_pretrained(tmp_path, vocabulary=other)
    other.save(tmp_path)  # someone mixed two folders
    with pytest.raises(ValueError, match="their ids mean different text"):
        load_pretrained(tmp_path)


def test_loading_refuses_weights_of_other_sizes(tmp_path, bpe):
    pytest.importorskip("safetensors")
    save_pretrained(make(bpe), tmp_path / "a", vocabulary=bpe)
    save_pretrained(make(bpe, layers=2), tmp_path / "b", vocabulary=bpe)
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit: decoder\.\S+: missing, expected \("):
        load_pretrained(tmp_path / "a")
    model = make(bpe)
    encoder = ThoughtEncoder(model.config)
    save_pretrained(model, tmp_path / "c", vocabulary=bpe, encoder=encoder)
    edit(tmp_path / "c", encoder_config=None)
    with pytest.raises(ValueError, match="expected no such weight"):
        load_pretrained(tmp_path / "c")


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "drop"}))


def test_loading_refuses_damaged_foreign_and_newer_folders(tmp_path, bpe):
    pytest.importorskip("safetensors")
    model = make(bpe)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_pretrained(tmp_path)

    def fresh():
        save_pretrained(model, tmp_path, vocabulary=bpe)

    for changes, message in [
        ({"model_type": "llama"}, "must be of model_type 'latent-thought', got 'llama'"),
        ({"format": 2}, "must be of format 1, got 2"),
        ({"vocabulary_fingerprint": "drop"}, "lacks vocabulary_fingerprint"),
        ({"thought_config": asdict(model.config) | {"depth": 3}}, "unknown are: depth"),
        ({"thought_config": {"width": 3}}, "missing or unknown are: dropout"),
    ]:
        fresh()
        edit(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path)
    fresh()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_pretrained(tmp_path)
    fresh()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_pretrained(tmp_path)
    fresh()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        load_pretrained(tmp_path)


def test_an_interrupted_save_is_no_model(tmp_path, bpe, monkeypatch):
    pytest.importorskip("safetensors")
    save_pretrained(make(bpe), tmp_path, vocabulary=bpe)

    def stop(vocabulary):
        raise KeyboardInterrupt

    monkeypatch.setattr("lv_text.hub.pretrained.tokenizer_json", stop)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(make(bpe), tmp_path, vocabulary=bpe)
    # New weights beside the old sizes would pass for a model.
    with pytest.raises(FileNotFoundError, match="saving was interrupted"):
        load_pretrained(tmp_path)


def test_without_safetensors_the_extra_is_named(tmp_path, bpe, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"install lv-text\[hf\]"):
        save_pretrained(make(bpe), tmp_path, vocabulary=bpe)


# --------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@pytest.mark.parametrize("auto", [False, True])
def test_transformers_reads_the_folder_and_gives_the_same_ids(tmp_path, bpe, kind, auto):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    vocabulary = bpe if kind == "bpe" else ByteVocabulary()
    save_pretrained(make(vocabulary), tmp_path, vocabulary=vocabulary)
    loader = transformers.AutoTokenizer if auto else transformers.PreTrainedTokenizerFast
    tokenizer = loader.from_pretrained(str(tmp_path))
    assert len(tokenizer) == vocabulary.size
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (vocabulary.bos, vocabulary.eos)
    assert tokenizer.model_max_length == 12
    for text in TEXTS + sample_documents(20, generator=stream(1, "hub texts")):
        ids = tokenizer(text).input_ids
        assert ids == vocabulary.encode(text)
        assert tokenizer.decode(ids) == text
    text = "one<|endoftext|><|beginoftext|>two"
    assert tokenizer(text).input_ids == vocabulary.encode(text, special=True)
    plain = tokenizer(text, split_special_tokens=True).input_ids
    assert plain == vocabulary.encode(text)
    assert plain != vocabulary.encode(text, special=True)  # control


@pytest.mark.data
def test_gpt2_ids_survive_transformers_and_come_back():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    gpt2 = BpeVocabulary.load(Path(os.environ["LV_DATA"]) / "gpt2-bpe")
    backend = Tokenizer.from_str(tokenizer_json(gpt2))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    assert len(tokenizer) == 50_258
    for text in TEXTS:
        assert tokenizer(text).input_ids == gpt2.encode(text)
    assert tokenizer("Hello world<|endoftext|>").input_ids == [15496, 995, 50256]
    assert vocabulary_from_transformers(tokenizer).fingerprint == gpt2.fingerprint


def test_gpt2_tokenizer_of_transformers_becomes_a_vocabulary(tmp_path, bpe):
    transformers = pytest.importorskip("transformers")
    # Files as transformers writes them, which have no <|beginoftext|>.
    ids = {**bpe._ids, "<|endoftext|>": bpe.eos}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in bpe._merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    fast = getattr(transformers, "GPT2TokenizerFast", transformers.GPT2Tokenizer)
    tokenizer = fast.from_pretrained(str(tmp_path))
    vocabulary = vocabulary_from_transformers(tokenizer)
    assert vocabulary.size == bpe.size
    assert vocabulary.fingerprint == bpe.fingerprint
    for text in TEXTS:
        assert tokenizer(text).input_ids == vocabulary.encode(text)


def altered(vocabulary, change):
    """A tokenizer of transformers whose description was changed."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    described = json.loads(tokenizer_json(vocabulary))
    change(described)
    backend = Tokenizer.from_str(json.dumps(described))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def set_in(part, **changes):
    return lambda described: described[part].update(changes)


SPLIT = {
    "type": "Split",
    "pattern": {"Regex": "\\d{1,3}"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("pre_tokenizer", add_prefix_space=True), "add_prefix_space=True"),
        (set_in("pre_tokenizer", use_regex=False), "use_regex=False"),
        (lambda d: d.update(pre_tokenizer=SPLIT), "the pre-tokenizer Split"),
        (lambda d: d.update(pre_tokenizer=None), "the pre-tokenizer None"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "the normalizer NFC"),
        (set_in("model", byte_fallback=True), "byte_fallback=True"),
        (set_in("model", ignore_merges=True), "ignore_merges=True"),
        (set_in("model", end_of_word_suffix="</w>"), "end_of_word_suffix='</w>'"),
    ],
    ids=["space", "regex", "split", "uncut", "nfc", "fallback", "merges", "suffix"],
)
def test_other_kinds_of_tokenizers_are_refused_by_name(bpe, change, message):
    assert vocabulary_from_transformers(altered(bpe, lambda d: None)).size == 320  # control
    with pytest.raises(ValueError, match=message):
        vocabulary_from_transformers(altered(bpe, change))


def test_other_models_tokens_and_settings_are_refused(bpe):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    with pytest.raises(ValueError, match="the model WordLevel"):
        vocabulary_from_transformers(transformers.PreTrainedTokenizerFast(tokenizer_object=words))
    tokenizer = altered(bpe, lambda d: None)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(ValueError, match=r"no special tokens but .* got '<pad>'"):
        vocabulary_from_transformers(tokenizer)
    with pytest.raises(TypeError, match="must be a fast tokenizer of transformers, got object"):
        vocabulary_from_transformers(object())


def test_a_setting_that_is_not_known_is_found_by_the_ids(bpe, monkeypatch):
    monkeypatch.setattr("lv_text.hub.tokenizer._problem", lambda described: None)
    tokenizer = altered(bpe, set_in("pre_tokenizer", add_prefix_space=True))
    with pytest.raises(ValueError, match="has settings that BpeVocabulary does not know"):
        vocabulary_from_transformers(tokenizer)


def test_merges_in_one_string_are_read_too(bpe):
    def older(described):
        described["model"]["merges"] = [" ".join(m) for m in described["model"]["merges"]]

    class Old:
        backend_tokenizer = altered(bpe, older).backend_tokenizer

    assert vocabulary_from_transformers(Old()).fingerprint == bpe.fingerprint


def test_unknown_vocabularies_have_no_tokenizer_file(bpe):
    class Odd(ByteVocabulary.__mro__[1]):
        kind = "odd"
        pieces, bos, eos = (), 0, 1

        def _described(self):
            return []

        def _encode_plain(self, texts):
            return [[] for _ in texts]

        def _encode_byte(self, byte):
            return byte

        def _save(self, folder):
            pass

    assert issubclass(Odd, Vocabulary)
    with pytest.raises(TypeError, match="got Odd: transformers has no format"):
        tokenizer_json(Odd())


# ------------------------------------------------------------------------------ data sets


def test_texts_come_from_a_dataset_and_from_a_stream():
    datasets = pytest.importorskip("datasets")
    rows = {"text": TEXTS, "label": list(range(len(TEXTS)))}
    dataset = datasets.Dataset.from_dict(rows)
    assert list(texts_from_datasets(dataset)) == TEXTS
    assert list(texts_from_datasets(dataset.to_iterable_dataset())) == TEXTS
    assert list(texts_from_datasets(dataset.rename_column("text", "body"), "body")) == TEXTS

    def generate():
        for text in TEXTS:
            yield {"text": text}

    stream_ = datasets.IterableDataset.from_generator(generate)
    assert list(texts_from_datasets(stream_)) == TEXTS


def test_a_stream_is_read_no_further_than_it_is_used():
    datasets = pytest.importorskip("datasets")
    read = []

    def generate():
        for number in range(1000):
            read.append(number)
            yield {"text": f"document {number}"}

    texts = texts_from_datasets(datasets.IterableDataset.from_generator(generate))
    assert [next(texts) for _ in range(3)] == ["document 0", "document 1", "document 2"]
    assert len(read) < 100


def test_datasets_without_texts_are_refused():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": ["a", None], "label": [0, 1]})
    with pytest.raises(ValueError, match="unknown column 'body'; there are: label, text"):
        texts_from_datasets(dataset, "body")
    with pytest.raises(TypeError, match="got NoneType in row 1"):
        list(texts_from_datasets(dataset))
    with pytest.raises(ValueError, match="unknown column 'body' in row 0; there are: text"):
        list(texts_from_datasets([{"text": "a"}], "body"))


@pytest.mark.usefixtures("wrong_types")
def test_a_dictionary_of_splits_is_refused():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(TypeError, match=r"dictionary of \['test', 'train'\]"):
        texts_from_datasets(datasets.DatasetDict(train=dataset, test=dataset))
