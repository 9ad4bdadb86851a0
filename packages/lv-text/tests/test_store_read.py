import json
import mmap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_text.store import Batch, ReadOrder, TokenStore, write_texts
from lv_text.vocabulary import BpeVocabulary, ByteVocabulary

BYTES = ByteVocabulary()


def texts(n=30):
    return [f"<{i}>" + "abcdefghij" * (i % 5) for i in range(n)]


@pytest.fixture
def corpus(tmp_path):
    write_texts(texts(), tmp_path, BYTES, shard_tokens=150)
    return tmp_path


def shards(folder):
    return [np.fromfile(path, "<u2").astype(np.int64) for path in sorted(folder.glob("*.bin"))]


def everything(store):
    return store.read(torch.arange(len(store)))


def test_stream_blocks_are_fixed_multiples_with_targets_shifted_by_one(corpus):
    store, length = TokenStore(corpus, BYTES, length=16), 16
    batch, row = everything(store), 0
    assert len(shards(corpus)) > 3
    for flat in shards(corpus):
        for start in range(0, len(flat) - length, length):
            assert batch.x[row].tolist() == flat[start : start + length].tolist()
            assert batch.y[row].tolist() == flat[start + 1 : start + length + 1].tolist()
            row += 1
    assert row == len(store) == len(batch.x)
    assert batch.index.tolist() == list(range(len(store)))
    assert {part.dtype for part in vars(batch).values()} == {torch.int64}
    assert store.dropped_documents == 0
    targets = sum(len(flat) - 1 for flat in shards(corpus))
    assert store.dropped_tokens == targets - batch.y.numel()


def test_a_block_that_just_fits_counts(tmp_path):
    write_texts(["abcdef"], tmp_path, BYTES)  # 8 tokens
    assert len(TokenStore(tmp_path, BYTES, length=7)) == 1
    with pytest.raises(ValueError, match="gives no block: no shard has more than 8 tokens"):
        TokenStore(tmp_path, BYTES, length=8)


def test_stream_blocks_know_the_document_they_begin_in(corpus):
    batch = everything(TokenStore(corpus, BYTES, length=16))
    for row, document in zip(batch.x.tolist(), batch.document.tolist(), strict=True):
        for number, token in enumerate(row):
            if token == BYTES.bos:  # the next document, or this one if the block begins with it
                named = document + (number > 0)
                rest = BYTES.decode(row[number + 1 :], special=False)
                head = f"<{named}>"[: len(rest)]
                assert rest.startswith(head)
                break


@pytest.mark.parametrize("minimum", [1, 5, 16])
def test_document_blocks_hold_one_document_and_give_it_back(corpus, minimum):
    store = TokenStore(corpus, BYTES, length=16, blocks="document", minimum=minimum)
    batch, given = everything(store), texts()
    found, dropped = {}, 0
    for x, y, document in zip(batch.x, batch.y, batch.document.tolist(), strict=True):
        kept = y != -100
        assert int(kept.sum()) >= minimum
        assert kept.tolist() == sorted(kept.tolist(), reverse=True)
        assert (x[~kept] == BYTES.eos).all()
        found.setdefault(document, [BYTES.bos]).extend(y[kept].tolist())
    whole = {i: [BYTES.bos, *BYTES.encode(t), BYTES.eos] for i, t in enumerate(given)}
    for document, tokens in whole.items():
        targets = len(tokens) - 1
        rest = targets % 16
        lost = rest if rest < minimum else 0
        dropped += lost
        assert found.pop(document, tokens[:1]) == tokens[: targets - lost + 1]
    assert not found
    assert store.dropped_tokens == dropped
    assert store.dropped_documents == sum(len(t) - 1 < minimum for t in whole.values())
    assert store.documents == len(given)
    assert store.text_bytes == sum(len(text) for text in given)


def test_documents_are_found_without_an_index(corpus):
    with_index = TokenStore(corpus, BYTES, length=16, blocks="document", minimum=3)
    expected = everything(with_index)
    for path in corpus.glob("*.idx"):
        path.unlink()
    store = TokenStore(corpus, BYTES, length=16, blocks="document", minimum=3)
    for name, part in vars(everything(store)).items():
        assert torch.equal(part, getattr(expected, name))
    stream = TokenStore(corpus, BYTES, length=16)
    assert everything(stream).document.tolist() == [-1] * len(stream)
    assert stream.documents is None


def test_reads_shards_of_other_programs(tmp_path):
    flat = np.arange(100, dtype="<u2")
    flat.tofile(tmp_path / "train.bin")
    store = TokenStore(tmp_path, BYTES, length=10)
    assert len(store) == 9
    assert store.read(torch.tensor([3, 0])).x[:, 0].tolist() == [30, 0]
    assert store.text_bytes is None
    with pytest.raises(ValueError, match=r"no \.idx beside it and does not begin with BOS"):
        TokenStore(tmp_path, BYTES, length=10, blocks="document")
    np.array([0, 40, 100], "<i8").tofile(tmp_path / "train.idx")
    by_document = TokenStore(tmp_path, BYTES, length=30, blocks="document")
    assert everything(by_document).x[:, 0].tolist() == [0, 30, 40, 70]
    assert by_document.documents == 2


def test_a_batch_moves_to_a_device(corpus, device):
    batch = everything(TokenStore(corpus, BYTES, length=16)).to(device, non_blocking=True)
    assert isinstance(batch, Batch)
    assert {part.device.type for part in vars(batch).values()} == {device.type}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_ranks_partition_an_epoch(world, batch_size):
    blocks = 103
    orders = [
        ReadOrder(blocks=blocks, batch_size=batch_size, seed=5, rank=rank, world=world)
        for rank in range(world)
    ]
    steps = blocks // (batch_size * world)
    for epoch in range(3):
        parts = [order.epoch(epoch) for order in orders]
        assert all(part.shape == (steps, batch_size) for part in parts)
        seen = torch.cat([part.flatten() for part in parts])
        assert len(seen.unique()) == len(seen) == steps * batch_size * world
        assert 0 <= int(seen.min()) <= int(seen.max()) < blocks


def test_two_ranks_read_in_each_step_what_one_process_would():
    one = ReadOrder(blocks=50, batch_size=8, seed=1)
    two = [ReadOrder(blocks=50, batch_size=4, seed=1, rank=r, world=2) for r in range(2)]
    for step in range(20):
        assert torch.equal(one.step(step), torch.cat([order.step(step) for order in two]))
    wrong = [ReadOrder(blocks=50, batch_size=4, seed=1 + r, rank=r, world=2) for r in range(2)]
    assert not torch.equal(one.step(0), torch.cat([order.step(0) for order in wrong]))


def test_resuming_at_a_step_equals_not_stopping(corpus):
    store = TokenStore(corpus, BYTES, length=16)
    order = store.order(batch_size=3, seed=9)
    whole = [store.read(order.step(step)) for step in range(3 * order.steps + 2)]
    again = TokenStore(corpus, BYTES, length=16)
    torch.rand(3)  # the state of the global generator does not matter
    for step in range(order.steps - 1, 3 * order.steps + 2):
        batch = again.read(again.order(batch_size=3, seed=9).step(step))
        assert torch.equal(batch.x, whole[step].x)
        assert torch.equal(batch.index, whole[step].index)


def test_epochs_and_seeds_differ_and_results_may_be_overwritten():
    order = ReadOrder(blocks=64, batch_size=8, seed=0)
    first = order.epoch(0).clone()
    assert not torch.equal(first, order.epoch(1))
    assert not torch.equal(first, ReadOrder(blocks=64, batch_size=8, seed=1).epoch(0))
    assert torch.equal(order.step(order.steps + 2), order.epoch(1)[2])
    order.epoch(0).zero_()
    order.step(0).zero_()
    assert torch.equal(order.epoch(0), first)


def test_the_order_is_shuffled_evenly():
    blocks, epochs = 20, 2000
    order = ReadOrder(blocks=blocks, batch_size=1, seed=3)
    place = torch.stack([order.epoch(epoch).flatten() for epoch in range(epochs)])
    count = torch.nn.functional.one_hot(place, blocks).sum(0).double()
    # binomial(2000, 1/20): mean 100, standard deviation 9.7; five of them
    assert (count - epochs / blocks).abs().max() < 5 * 9.75


def test_reading_in_turn_covers_every_block_once(corpus):
    store = TokenStore(corpus, BYTES, length=16)
    for world in (1, 2, 3):
        parts = [
            batch.index
            for rank in range(world)
            for batch in store.in_turn(batch_size=4, rank=rank, world=world)
        ]
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(store)))
        assert max(len(part) for part in parts) == 4


def resident():
    status = Path("/proc/self/statm")
    if not status.is_file():
        pytest.skip("resident memory is read from /proc")
    return int(status.read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("blocks", ["stream", "document"])
def test_large_shards_stay_on_disk(tmp_path, blocks):
    shard_tokens, count = 2**24, 8
    document = 2**12
    record = {
        "dtype": "uint16",
        "fingerprint": BYTES.fingerprint,
        "size": BYTES.size,
        "splits": {"train": {"complete": True, "shards": []}},
    }
    for i in range(count):
        flat = np.full(shard_tokens, 65, "<u2")
        flat[::document], flat[document - 1 :: document] = BYTES.bos, BYTES.eos
        flat.tofile(tmp_path / f"train-{i:05d}.bin")
        np.arange(0, shard_tokens + 1, document, dtype="<i8").tofile(
            tmp_path / f"train-{i:05d}.idx"
        )
        record["splits"]["train"]["shards"].append(
            {
                "name": f"train-{i:05d}.bin",
                "tokens": shard_tokens,
                "documents": shard_tokens // document,
                "skipped": 0,
                "text_bytes": shard_tokens,
            }
        )
    (tmp_path / "shards.json").write_text(json.dumps(record))
    del flat
    total = count * shard_tokens * 2  # 256 MiB
    before = resident()
    tracemalloc.start()
    store = TokenStore(tmp_path, BYTES, length=1023, blocks=blocks)
    order = store.order(batch_size=256, seed=0)
    for step in range(200):  # 51,200 blocks of 131,072: most pages are touched
        batch = store.read(order.step(step))
    store.verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.x.shape == (256, 1023)
    assert peak < total / 12  # a batch takes 2 MB in each of its forms, verify 8 MB a piece
    assert resident() - before < total / 4
    held = [np.memmap(path, "<u2", mode="r") for path in sorted(tmp_path.glob("*.bin"))]
    for mapped in held:  # the wrong control: one mapping kept for all work
        mapped.sum()
    assert resident() - before > total / 2


def test_refuses_folders_without_shards(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder: write a corpus there first"):
        TokenStore(tmp_path / "none", BYTES, length=4)
    with pytest.raises(FileNotFoundError, match=r"holds no train\*\.bin: write"):
        TokenStore(tmp_path, BYTES, length=4)
    write_texts(["abcdef"], tmp_path, BYTES, split="val")
    with pytest.raises(FileNotFoundError, match=r"holds no train\*\.bin; it has the splits val"):
        TokenStore(tmp_path, BYTES, length=4)


def test_refuses_another_vocabulary(corpus):
    other = BpeVocabulary.train(["abc"], size=258)
    with pytest.raises(ValueError, match=r"corpus .* was made with the vocabulary .* got Bpe"):
        TokenStore(corpus, other, length=4)


def test_refuses_truncated_missing_and_unlisted_files(corpus):
    path = corpus / "train-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(ValueError, match=rf"has {len(content) - 2} bytes, .* says {len(content)}"):
        TokenStore(corpus, BYTES, length=4)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001\.bin is missing, although"):
        TokenStore(corpus, BYTES, length=4)
    path.write_bytes(content)
    (corpus / "train-9.bin").write_bytes(b"ab")
    with pytest.raises(ValueError, match=r"holds train-9\.bin, which shards\.json does not list"):
        TokenStore(corpus, BYTES, length=4)


def test_refuses_shards_of_odd_length(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"abcde")
    with pytest.raises(ValueError, match="has 5 bytes, no multiple of 2 for a vocabulary of 258"):
        TokenStore(tmp_path, BYTES, length=1)


def test_refuses_damaged_offsets(corpus):
    path = corpus / "train-00000.idx"
    offsets = np.fromfile(path, "<i8")
    path.write_bytes(offsets[:-1].tobytes())
    with pytest.raises(ValueError, match=r"train-00000\.idx has .* bytes, expected"):
        TokenStore(corpus, BYTES, length=4)
    (offsets + 1).tofile(path)
    with pytest.raises(ValueError, match=r"must rise from 0 to .*, got 1\.\."):
        TokenStore(corpus, BYTES, length=4)
    (corpus / "shards.json").unlink()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-00000\.idx has 0 bytes"):
        TokenStore(corpus, BYTES, length=4)


@pytest.mark.parametrize("content", ["{", "[]", '{"dtype": "uint32", "size": 258}', "{}"])
def test_refuses_a_damaged_record(corpus, content):
    (corpus / "shards.json").write_text(content)
    with pytest.raises(ValueError, match="is no record of shards or is damaged"):
        TokenStore(corpus, BYTES, length=4)


def test_refuses_ids_outside_the_vocabulary(tmp_path):
    flat = np.full(100, 65, "<u2")
    flat[37] = 258
    flat.tofile(tmp_path / "train.bin")
    store = TokenStore(tmp_path, BYTES, length=10)
    store.read(torch.tensor([0, 1, 2, 4]))
    for call in (store.verify, lambda: store.read(torch.tensor([0, 3]))):
        with pytest.raises(ValueError, match="holds the id 258 at token 37, outside the vocab"):
            call()


def test_refuses_texts_shorter_than_a_block(tmp_path):
    write_texts(["abc", "defg"], tmp_path, BYTES)
    with pytest.raises(ValueError, match=r"no block: no shard has more than 64 .*\(11 in all\)"):
        TokenStore(tmp_path, BYTES, length=64)
    with pytest.raises(ValueError, match="no block: no document has more than 6 tokens"):
        TokenStore(tmp_path, BYTES, length=64, blocks="document", minimum=6)
    assert len(TokenStore(tmp_path, BYTES, length=64, blocks="document", minimum=5)) == 1
    (tmp_path / "val.bin").write_bytes(b"")
    (tmp_path / "shards.json").unlink()
    with pytest.raises(ValueError, match=r"gives no block: .*\(0 in all\)"):
        TokenStore(tmp_path, BYTES, length=4, split="val")


def test_refuses_bad_arguments(corpus, wrong_types):
    for change, message in (
        ({"length": 0}, "length must be positive, got 0"),
        ({"minimum": 5}, r"minimum must be in 1\.\.length = 4, got 5"),
        ({"blocks": "line"}, "unknown blocks 'line'; there are: document, stream"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenStore(corpus, BYTES, **{"length": 4, **change})


def test_refuses_bad_orders_and_blocks(corpus):
    store = TokenStore(corpus, BYTES, length=16)
    n = len(store)
    with pytest.raises(ValueError, match=rf"index must lie in 0\.\.{n - 1}, got 0\.\.{n}"):
        store.read(torch.tensor([0, n]))
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        store.order(batch_size=0, seed=0)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.world-1, got rank 2"):
        store.order(batch_size=1, seed=0, rank=2, world=2)
    with pytest.raises(ValueError, match=f"{n} blocks fill no step of batch_size {n} x 2 ranks"):
        store.order(batch_size=n, seed=0, world=2)
    order = store.order(batch_size=1, seed=0)
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        order.epoch(-1)
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        order.step(-1)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        next(store.in_turn(batch_size=0))
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.world-1, got rank=1, world=1"):
        next(store.in_turn(batch_size=1, rank=1))
