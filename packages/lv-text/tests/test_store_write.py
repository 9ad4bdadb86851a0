import json
import signal
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_text.store import ShardWriter, TokenStore, write_texts
from lv_text.vocabulary import BpeVocabulary, ByteVocabulary

BYTES = ByteVocabulary()


def texts(n=40):
    return [f" document {i}: " + "word " * (i % 7) + "\n" for i in range(n)]


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_writes_documents_between_bos_and_eos_as_little_endian(tmp_path):
    summary = write_texts(["  ab \n", "é"], tmp_path, BYTES)
    flat = np.frombuffer((tmp_path / "train-00000.bin").read_bytes(), "<u2")
    assert flat.tolist() == [257, 97, 98, 256, 257, 0xC3, 0xA9, 256]
    offsets = np.frombuffer((tmp_path / "train-00000.idx").read_bytes(), "<i8")
    assert offsets.tolist() == [0, 4, 8]
    assert (summary.documents, summary.tokens, summary.text_bytes) == (2, 8, 4)
    assert sorted(files(tmp_path)) == ["shards.json", "train-00000.bin", "train-00000.idx"]
    record = json.loads((tmp_path / "shards.json").read_text())
    assert record["dtype"] == "uint16"
    assert record["fingerprint"] == BYTES.fingerprint
    assert record["splits"]["train"]["shards"][0]["tokens"] == 8


def test_uses_four_bytes_for_large_vocabularies(tmp_path):
    letters = list(BpeVocabulary.train(["ab"], size=258)._ids)
    tokens = [*letters, *(a + b for a in letters for b in letters), "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(tokens)}
    # The pair that is merged gets an id above 65,535.
    ids["~~"], ids[tokens[-2]] = ids[tokens[-2]], ids["~~"]
    large = BpeVocabulary(ids, [("~", "~")])
    write_texts(["~~~~ ab"], tmp_path, large)
    flat = np.frombuffer((tmp_path / "train-00000.bin").read_bytes(), "<u4").tolist()
    assert flat == [large.bos, ids["~~"], ids["~~"], *large.encode(" ab"), large.eos]
    assert min(ids["~~"], large.eos) > 65_535
    batch = TokenStore(tmp_path, large, length=6).read(torch.tensor([0]))
    assert batch.x[0].tolist() + batch.y[0, -1:].tolist() == flat


def test_documents_never_cross_shards(tmp_path):
    given = texts()
    summary = write_texts(given, tmp_path, BYTES, shard_tokens=100, batch=7)
    assert len(summary.shards) > 5
    found = []
    for shard in summary.shards:
        flat = np.fromfile(tmp_path / shard.name, "<u2")
        assert len(flat) == shard.tokens <= 100
        offsets = np.fromfile((tmp_path / shard.name).with_suffix(".idx"), "<i8")
        found += [BYTES.decode(flat[a + 1 : b - 1]) for a, b in pairwise(offsets)]
    assert found == [text.strip() for text in given]
    assert summary.documents == len(given)
    assert summary.text_bytes == sum(len(text.strip().encode()) for text in given)


def test_a_long_document_gets_a_shard_to_itself(tmp_path):
    summary = write_texts(["ab", "x" * 50, "cd"], tmp_path, BYTES, shard_tokens=10)
    assert [shard.tokens for shard in summary.shards] == [4, 52, 4]


def test_several_splits_share_a_folder(tmp_path):
    write_texts(["abcdef"], tmp_path, BYTES, split="val")
    write_texts(["abcdefgh"], tmp_path, BYTES, split="validation")
    write_texts(["abc"], tmp_path, BYTES)
    for split, tokens in (("train", 5), ("val", 8), ("validation", 10)):
        assert TokenStore(tmp_path, BYTES, length=2, split=split).tokens == tokens


def test_reports_progress(tmp_path):
    calls = []
    write_texts(
        (text for text in texts(10)),
        tmp_path,
        BYTES,
        batch=4,
        progress=lambda *done: calls.append(done),
    )
    assert [documents for documents, _ in calls] == [4, 8, 10]
    assert calls[-1][1] == TokenStore(tmp_path, BYTES, length=2).tokens


def test_skips_and_counts_empty_documents_when_asked(tmp_path):
    given = ["", "a", " \n", "\t", "b", "  "]
    summary = write_texts(given, tmp_path, BYTES, empty="skip", shard_tokens=3)
    assert (summary.documents, summary.skipped, len(summary.shards)) == (2, 4, 2)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_refuses_empty_documents_by_number(tmp_path, batch):
    given = [*texts(5), " \n ", "a"]
    with pytest.raises(ValueError, match=r"document 5 is empty .* pass empty='skip'"):
        write_texts(given, tmp_path, BYTES, batch=batch)
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="is unfinished"):
        TokenStore(tmp_path, BYTES, length=2)


class Stop(Exception):
    pass


def interrupted(given, after):
    for i, text in enumerate(given):
        if i == after:
            raise Stop
        yield text


@pytest.mark.parametrize("after", [0, 1, 9, 23, 52])
@pytest.mark.parametrize("batch", [1, 8])
def test_resumed_writing_equals_writing_in_one_go(tmp_path, after, batch):
    given = [text for pair in zip(texts(), [""] * 40, strict=True) for text in pair]
    options = {"shard_tokens": 90, "empty": "skip", "batch": batch}
    write_texts(given, tmp_path / "whole", BYTES, **options)
    with pytest.raises(Stop):
        write_texts(interrupted(given, after), tmp_path / "parts", BYTES, **options)
    assert files(tmp_path / "parts") != files(tmp_path / "whole")
    seen = []
    options |= {"resume": True, "progress": lambda *done: seen.append(done)}
    write_texts(given, tmp_path / "parts", BYTES, **options)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert seen[-1] == (40, TokenStore(tmp_path / "parts", BYTES, length=2).tokens)


@pytest.mark.parametrize("empty", [0, 2])
def test_empty_documents_at_the_end_are_counted_after_a_resume(tmp_path, empty):
    options = {"shard_tokens": 5, "empty": "skip", "batch": 1}
    given = ["abc", "def", *[""] * empty]
    write_texts(given, tmp_path / "whole", BYTES, **options)
    writer = ShardWriter(tmp_path / "parts", BYTES, shard_tokens=5, empty="skip")
    writer.extend(given[:2])
    writer._close_shard()
    writer.abandon()
    summary = write_texts(given, tmp_path / "parts", BYTES, **options, resume=True)
    assert summary.skipped == empty
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_resumes_after_a_kill(tmp_path):
    code = (
        "import sys, time\n"
        "from test_store_write import BYTES, texts, write_texts\n"
        "def slow():\n"
        "    for i, text in enumerate(texts(400)):\n"
        "        if i == 300:\n"
        "            print('there', flush=True)\n"
        "            time.sleep(60)\n"
        "        yield text\n"
        "write_texts(slow(), sys.argv[1], BYTES, shard_tokens=500, batch=1)"
    )
    parts = tmp_path / "parts"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(parts)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == "there\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert list(parts.glob("*.partial"))  # it was in the middle of a shard
    # A kill between the shard and its record leaves a file that the record does not know.
    record = json.loads((parts / "shards.json").read_text())
    record["splits"]["train"]["shards"].pop()
    (parts / "shards.json").write_text(json.dumps(record))
    write_texts(texts(400), parts, BYTES, shard_tokens=500, resume=True)
    write_texts(texts(400), tmp_path / "whole", BYTES, shard_tokens=500)
    assert files(parts) == files(tmp_path / "whole")


def test_writer_counts_what_it_took(tmp_path):
    with ShardWriter(tmp_path, BYTES, empty="skip") as writer:
        writer.append("one")
        writer.extend(["", "two"])
        assert writer.consumed == 3
        assert writer.written.documents == 0
    assert writer.consumed == 3
    assert (writer.written.documents, writer.written.skipped) == (2, 1)


def test_refuses_to_resume_with_fewer_texts(tmp_path):
    with pytest.raises(Stop):
        write_texts(interrupted(texts(), 30), tmp_path, BYTES, shard_tokens=100, batch=1)
    with pytest.raises(ValueError, match=r"texts hold 3 documents, but 2\d were written before"):
        write_texts(texts(3), tmp_path, BYTES, shard_tokens=100, resume=True)


def test_refuses_another_vocabulary_and_existing_splits(tmp_path):
    write_texts(["abc"], tmp_path, BYTES)
    other = BpeVocabulary.train(["abc"], size=258)
    with pytest.raises(ValueError, match=r"was made with the vocabulary .* got BpeVocabulary"):
        write_texts(["abc"], tmp_path, other, split="val")
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds a split 'train' that is complete"):
            write_texts(["abc"], tmp_path, BYTES, resume=resume)
    with pytest.raises(Stop):
        write_texts(interrupted(["abc"], 0), tmp_path, BYTES, split="val")
    with pytest.raises(ValueError, match="'val' that is unfinished"):
        write_texts(["abc"], tmp_path, BYTES, split="val")
    (tmp_path / "test0.bin").write_bytes(b"ab")
    with pytest.raises(ValueError, match="'test' that is complete"):
        write_texts(["abc"], tmp_path, BYTES, split="test")


def test_refuses_corpora_without_documents(tmp_path):
    with pytest.raises(ValueError, match=r"'train' got no document \(2 empty ones skipped\)"):
        write_texts(["", " "], tmp_path, BYTES, empty="skip")


def test_refuses_bad_arguments(tmp_path, wrong_types):
    for change, message in (
        ({"split": "a/b"}, "split must be a plain name such as train, got 'a/b'"),
        ({"shard_tokens": 0}, "shard_tokens must be positive, got 0"),
        ({"empty": "drop"}, "unknown empty 'drop'; there are: raise, skip"),
        ({"batch": 0}, "batch must be positive, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            write_texts(["abc"], tmp_path / "new", BYTES, **change)
    with pytest.raises(TypeError, match="got one string: put it in a list"):
        write_texts("abc", tmp_path / "more", BYTES)
    with ShardWriter(tmp_path / "third", BYTES) as writer:
        with pytest.raises(TypeError, match="got one string: use append"):
            writer.extend("abc")
        with pytest.raises(TypeError, match="got int as document 1"):
            writer.extend(["a", 3])
        writer.append("abc")


def test_streams_without_holding_the_corpus(tmp_path):
    text = "a" * 2000
    tracemalloc.start()
    write_texts((text for _ in range(4000)), tmp_path, BYTES, shard_tokens=2**20, batch=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert TokenStore(tmp_path, BYTES, length=64).tokens == 4000 * 2002
    # 16 MB on disk; a batch of 16 holds 32,000 ids as Python integers
    assert peak < 3e6
