import itertools
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lv_text.vocabulary import (
    BOS,
    EOS,
    BpeVocabulary,
    ByteVocabulary,
    check_vocabulary,
    load_vocabulary,
)

TEXTS = [
    "The old miller's daughter didn't know; they'll say she'd gone, and we've no proof. ",
    "for i in range(10):\n\tif x[i] != y_i:\n        return {'a': 1.5e-3, \"b\": None}  # done\n",
    "Ünïcödé straße, 東京タワー, Ελληνικά, русский, हिन्दी, עברית, ﷽, e\u0301 against é.",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ✨✨ and x²+y³≠½ №5 ⅷ",
    "  odd \t\t white\u00a0space \r\n\r\n \u3000 ends \x0b\x0c\x1c\x1d\x85 with many      \n\n\n ",
    "HE'S SHE'LL 'tis 'S I'm 12,345.67 -- _under_score_ a1b2 <|endoftext|> <|endoftext|",
    "",
    " ",
]


def books(n=40_000):
    path = Path(os.environ["LV_DATA"]) / "classic-books" / "valid.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"][:n] for line, _ in zip(lines, range(3), strict=False)]


class PlainBpe:
    """GPT-2's encoder written down once more, in plain Python and with its own regular expression.

    `ranked=False` is the wrong control: the last learned pair is merged first.
    """

    def __init__(self, folder, ranked=True):
        regex = pytest.importorskip("regex")
        self.ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        lines = (folder / "vocab.bpe").read_text(encoding="utf-8").strip("\n").split("\n")[1:]
        self.ranks = {tuple(line.split()): i if ranked else -i for i, line in enumerate(lines)}
        self.words = regex.compile(
            r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        )
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [b for b in range(256) if b not in shown]
        self.letter = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        self.known = {}

    def encode(self, text):
        return [i for word in self.words.findall(text) for i in self.word(word)]

    def word(self, word):
        if word not in self.known:
            parts = [self.letter[b] for b in word.encode()]
            while len(parts) > 1:
                pairs = list(itertools.pairwise(parts))
                best = min(pairs, key=lambda pair: self.ranks.get(pair, float("inf")))
                if best not in self.ranks:
                    break
                merged, i = [], 0
                while i < len(parts):
                    both = tuple(parts[i : i + 2]) == best
                    merged.append("".join(best) if both else parts[i])
                    i += 2 if both else 1
                parts = merged
            self.known[word] = [self.ids[part] for part in parts]
        return self.known[word]


def gpt2_folder():
    return Path(os.environ["LV_DATA"]) / "gpt2-bpe"


@pytest.fixture(scope="module")
def gpt2():
    return BpeVocabulary.load(gpt2_folder())


@pytest.fixture(scope="module")
def small():
    return BpeVocabulary.train(TEXTS * 2, size=400)


@pytest.fixture(params=["byte", "bpe"])
def vocabulary(request, small):
    return ByteVocabulary() if request.param == "byte" else small


@pytest.mark.data
def test_gives_the_ids_of_a_plain_encoder(gpt2):
    plain = PlainBpe(gpt2_folder())
    data = np.random.default_rng(0).bytes(3_000)
    garbage = [data.decode("latin-1"), data.decode("utf-8", "replace")]
    letters = "".join(map(chr, [*range(0x3000), *range(0x1F300, 0x1FA00)]))
    for text in [*books(), *TEXTS, *garbage, letters]:
        assert gpt2.encode(text) == plain.encode(text)
        assert gpt2.decode(gpt2.encode(text)) == text
    wrong = PlainBpe(gpt2_folder(), ranked=False)
    assert gpt2.encode(TEXTS[0]) != wrong.encode(TEXTS[0])


@pytest.mark.data
def test_gives_the_ids_of_transformers(gpt2):
    transformers = pytest.importorskip("transformers")
    files = [str(gpt2_folder() / name) for name in ("encoder.json", "vocab.bpe")]
    try:
        theirs = transformers.GPT2Tokenizer(*files)
        if theirs.vocab_size != 50257:
            raise TypeError("files are read into a vocabulary")
    except TypeError:  # version 5 takes the contents in place of the names
        merges = Path(files[1]).read_text(encoding="utf-8").split("\n")[1:-1]
        theirs = transformers.GPT2Tokenizer(
            vocab=json.loads(Path(files[0]).read_text(encoding="utf-8")),
            merges=[tuple(line.split()) for line in merges],
        )
    for text in [*books(20_000), *TEXTS]:
        if EOS not in text:  # theirs makes an end of it
            assert gpt2.encode(text) == theirs(text)["input_ids"]
    assert gpt2.encode(TEXTS[5], special=True) == theirs(TEXTS[5])["input_ids"]


@pytest.mark.data
def test_has_the_size_and_special_ids_of_the_paper(gpt2):
    assert (gpt2.size, gpt2.eos, gpt2.bos) == (50258, 50256, 50257)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(f"Hello{EOS}{BOS} world", special=True) == [15496, 50256, 50257, 995]


@pytest.mark.data
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_gpt2_brings_any_text_back(gpt2, text):
    assert gpt2.decode(gpt2.encode(text)) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60), data=st.binary())
def test_text_and_bytes_come_back(small, text, data):
    for vocabulary in (ByteVocabulary(), small):
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert vocabulary.decode_bytes(vocabulary.encode(text)) == text.encode()
        assert vocabulary.decode_bytes(vocabulary.encode_bytes(data)) == data
        assert max([*vocabulary.encode(text), 0]) < vocabulary.size


@given(pieces=st.lists(st.sampled_from([EOS, BOS, "a", " <|", "endoftext|>", "é"])))
def test_special_names_are_text_unless_asked_for(small, pieces):
    text = "".join(pieces)
    for vocabulary in (ByteVocabulary(), small):
        plain, special = vocabulary.encode(text), vocabulary.encode(text, special=True)
        named = {vocabulary.eos, vocabulary.bos}
        assert not named & set(plain)
        assert sum(i in named for i in special) == text.count(EOS) + text.count(BOS)
        assert vocabulary.decode(plain) == vocabulary.decode(special) == text
        without = text.replace(EOS, "").replace(BOS, "")
        assert vocabulary.decode(special, special=False) == without
        assert vocabulary.decode_bytes(special) == without.encode()


def test_a_batch_is_one_by_one(vocabulary):
    assert vocabulary.encode_batch(TEXTS) == [vocabulary.encode(text) for text in TEXTS]
    assert vocabulary.encode_batch([]) == []
    special = [vocabulary.encode(text, special=True) for text in TEXTS]
    assert vocabulary.encode_batch(TEXTS, special=True) == special


def test_well_formed_bytes_encode_as_their_text(vocabulary):
    for text in TEXTS:
        assert vocabulary.encode_bytes(text.encode()) == vocabulary.encode(text)


def test_decodes_tensors_and_arrays_and_marks_broken_characters(vocabulary):
    ids = vocabulary.encode("naïve")
    assert vocabulary.decode(torch.tensor(ids)) == "naïve"
    assert vocabulary.decode(np.array(ids, dtype=np.uint16)) == "naïve"
    assert vocabulary.decode(vocabulary.encode_bytes("ï".encode()[:1])) == "\ufffd"


def test_byte_lengths_count_the_bytes_of_text(vocabulary):
    lengths = vocabulary.byte_lengths()
    assert lengths.shape == (vocabulary.size,)
    for text in TEXTS:
        ids = [vocabulary.bos, *vocabulary.encode(text), vocabulary.eos]
        assert int(lengths[ids].sum()) == len(text.encode())


def test_saves_and_loads(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "deep" / "folder")
    for again in (
        type(vocabulary).load(tmp_path / "deep" / "folder"),
        load_vocabulary(tmp_path / "deep" / "folder"),
    ):
        assert type(again) is type(vocabulary)
        assert again.fingerprint == vocabulary.fingerprint
        assert (again.size, again.bos, again.eos) == (
            vocabulary.size,
            vocabulary.bos,
            vocabulary.eos,
        )
        assert again.encode_batch(TEXTS) == vocabulary.encode_batch(TEXTS)
    assert repr(again) == repr(vocabulary)


@pytest.mark.data
def test_saved_gpt2_is_the_published_one(gpt2, tmp_path):
    gpt2.save(tmp_path)
    assert BpeVocabulary.load(tmp_path).fingerprint == gpt2.fingerprint
    published = json.loads((gpt2_folder() / "encoder.json").read_text(encoding="utf-8"))
    saved = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert saved == {**published, BOS: 50257}
    assert load_vocabulary(gpt2_folder()).fingerprint == gpt2.fingerprint


def test_loads_the_names_of_hugging_face(small, tmp_path):
    small.save(tmp_path)
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    assert BpeVocabulary.load(tmp_path).fingerprint == small.fingerprint


def test_fingerprints_tell_vocabularies_apart(small):
    other = BpeVocabulary.train(TEXTS[::-1] * 3, size=401)
    prints = {small.fingerprint, other.fingerprint, ByteVocabulary().fingerprint}
    assert len(prints) == 3
    check_vocabulary("the checkpoint", small, small.fingerprint)
    with pytest.raises(
        ValueError, match=r"the checkpoint was made with the vocabulary .* got Byte"
    ):
        check_vocabulary("the checkpoint", ByteVocabulary(), small.fingerprint)


def test_training_is_the_same_in_another_process(small):
    code = (
        "from test_vocabulary import TEXTS\n"
        "from lv_text.vocabulary import BpeVocabulary\n"
        "print(BpeVocabulary.train(iter(TEXTS * 2), size=400).fingerprint)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == small.fingerprint


def test_training_reads_many_texts_once_and_shortens_them():
    texts = (f"number {i} of the numbers that number the number" for i in range(1000))
    vocabulary = BpeVocabulary.train(texts, size=300)
    assert vocabulary.size == 300
    assert (vocabulary.eos, vocabulary.bos) == (298, 299)
    text = "the number of the number"
    assert len(vocabulary.encode(text)) < len(text) / 2


def test_refuses_bad_training():
    with pytest.raises(ValueError, match=r"size must be at least 258 .* got 257"):
        BpeVocabulary.train(["a"], size=257)
    with pytest.raises(ValueError, match="texts give 258 tokens at most, asked for size 300"):
        BpeVocabulary.train([], size=300)
    with pytest.raises(TypeError, match="texts must be several strings, got one"):
        BpeVocabulary.train("text", size=300)


@pytest.mark.usefixtures("wrong_types")
def test_refuses_what_is_no_text(vocabulary):
    with pytest.raises(TypeError, match="texts must be strings, got bytes at place 0"):
        vocabulary.encode(b"abc")
    with pytest.raises(TypeError, match="texts must be strings, got int at place 1"):
        vocabulary.encode_batch(["a", 3])
    with pytest.raises(TypeError, match="texts must be strings, got int at place 0"):
        BpeVocabulary.train([3], size=300)


def test_refuses_one_string_as_batch_and_lone_surrogates(vocabulary):
    with pytest.raises(TypeError, match="got one string: put it in a list"):
        vocabulary.encode_batch("abc")
    with pytest.raises(ValueError, match="text 1 holds a lone surrogate at character 2"):
        vocabulary.encode_batch(["a", "ab\ud800"])


def test_refuses_ids_outside(vocabulary):
    size = vocabulary.size
    for ids, wrong in (([0, size], f"{size} at place 1"), ([-100], "-100 at place 0")):
        with pytest.raises(ValueError, match=rf"ids must lie in 0\.\.{size - 1}, got {wrong}"):
            vocabulary.decode(ids)
    with pytest.raises(ValueError, match=r"ids must have one axis, got \(1, 2\)"):
        vocabulary.decode(torch.zeros(1, 2, dtype=torch.int64))


def test_refuses_folders_without_or_with_another_vocabulary(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold encoder\.json and vocab\.bpe, or"):
        load_vocabulary(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no vocabulary\.json"):
        ByteVocabulary.load(tmp_path)
    small.save(tmp_path)
    with pytest.raises(ValueError, match="kind 'bpe', expected 'byte': use load_vocabulary"):
        ByteVocabulary.load(tmp_path)
    (tmp_path / "vocabulary.json").write_text('{"kind": "word"}')
    with pytest.raises(ValueError, match=r"unknown kind of vocabulary 'word' .* bpe, byte"):
        load_vocabulary(tmp_path)


def test_refuses_damaged_files(small, tmp_path):
    small.save(tmp_path)
    encoder, merges = tmp_path / "encoder.json", tmp_path / "vocab.bpe"
    ids, lines = encoder.read_text(), merges.read_text(encoding="utf-8")
    merges.write_text(lines[: lines.rindex("\n", 0, -1) + 1], encoding="utf-8")
    with pytest.raises(ValueError, match="was made with the vocabulary"):
        BpeVocabulary.load(tmp_path)
    merges.write_text(lines + "a b c\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.bpe, line 144: two tokens, got 'a b c'"):
        BpeVocabulary.load(tmp_path)
    merges.write_text(lines + "zz qq\n", encoding="utf-8")
    with pytest.raises(ValueError, match="merge 142 joins 'zz' and 'qq'"):
        BpeVocabulary.load(tmp_path)
    encoder.write_text(ids[:-9])
    with pytest.raises(ValueError, match=r"encoder\.json is damaged"):
        BpeVocabulary.load(tmp_path)


def test_refuses_ids_that_are_no_vocabulary(small):
    letters = {chr(b): b for b in range(256)}
    with pytest.raises(ValueError, match=r"must hold .* all 256 bytes, 69 are missing"):
        BpeVocabulary(letters, [])
    with pytest.raises(ValueError, match=r"ids must be 0\.\.1, each once, got 0\.\.7"):
        BpeVocabulary({"a": 0, "b": 7}, [])
    ids = {piece: i for i, piece in enumerate([*small._ids, EOS, "<東>"])}
    with pytest.raises(ValueError, match="token '<東>', whose letter '東' stands for no byte"):
        BpeVocabulary(ids, [])
