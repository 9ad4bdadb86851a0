"""The n-gram judge against a dictionary implementation of the formulas."""

import itertools
import json
import lzma
import math
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_core import stream
from lv_text.metrics import NgramJudge
from lv_text.metrics.kneser_ney import count_ngrams

START = -1
FALLBACK = (0.5, 1.0, 1.5)


class Brute:
    """Modified Kneser-Ney with dictionaries, term by term as in Chen and Goodman (1998)."""

    def __init__(self, sequences, order, vocabulary, *, raw_counts=False):
        self.order, self.vocabulary = order, vocabulary
        occurrences = [Counter() for _ in range(order + 1)]
        before = [defaultdict(set) for _ in range(order + 1)]
        for sequence in sequences:
            padded = (START, *sequence)
            for n in range(1, order + 1):
                for i in range(len(padded) - n + 1):
                    gram = padded[i : i + n]
                    occurrences[n][gram] += 1
                    if i:
                        before[n][gram].add(padded[i - 1])
        self.counts = {}
        for n in range(1, order + 1):
            for gram, count in occurrences[n].items():
                if gram == (START,):
                    continue
                full = n == order or gram[0] == START or raw_counts
                self.counts[gram] = count if full else len(before[n][gram])
        self.discounts = {}
        for n in range(1, order + 1):
            n1, n2, n3, n4 = (
                sum(len(g) == n and c == i for g, c in self.counts.items()) for i in (1, 2, 3, 4)
            )
            self.discounts[n] = FALLBACK
            if n1 and n2 and n3:
                y = n1 / (n1 + 2 * n2)
                d = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
                if all(0 <= value <= i for i, value in enumerate(d, start=1)):
                    self.discounts[n] = d

    def removed(self, gram):
        count = self.counts[gram]
        return self.discounts[len(gram)][min(count, 3) - 1]

    def probability(self, word, context):
        context = tuple(context)[-(self.order - 1) :] if self.order > 1 else ()
        lower = self.probability(word, context[1:]) if context else 1 / self.vocabulary
        following = [(*context, w) for w in range(self.vocabulary) if (*context, w) in self.counts]
        total = sum(self.counts[gram] for gram in following)
        if not total:
            return lower
        gram = (*context, word)
        kept = self.counts[gram] - self.removed(gram) if gram in self.counts else 0
        return (kept + sum(map(self.removed, following)) * lower) / total


def markov(n, length, vocabulary, name):
    """Draws sequences in which some continuations are far more likely than others."""
    generator = stream(0, name)
    table = torch.rand(vocabulary, vocabulary, generator=generator) ** 6 + 1e-3
    rows = []
    for _ in range(n):
        row = [int(torch.randint(vocabulary, (1,), generator=generator))]
        for _ in range(length - 1):
            row.append(int(torch.multinomial(table[row[-1]], 1, generator=generator)))
        rows.append(row)
    return rows


CORPUS = markov(12, 40, 9, "ngram")
# token 9 never occurs
VOCABULARY = 10


@pytest.fixture(scope="module", params=[1, 2, 3, 5])
def pair(request):
    order = request.param
    return (
        NgramJudge.fit(CORPUS, vocabulary=VOCABULARY, order=order),
        Brute(CORPUS, order, VOCABULARY),
    )


def test_estimates_the_same_discounts_and_sizes(pair):
    judge, brute = pair
    for n, discounts in enumerate(judge.discounts, start=1):
        assert discounts == pytest.approx(brute.discounts[n])
        assert judge.sizes[n - 1] == sum(len(gram) == n for gram in brute.counts)


def test_agrees_with_the_formulas_on_seen_and_unseen_text(pair):
    judge, brute = pair
    new = markov(3, 30, 10, "new text")
    for row in [CORPUS[0], CORPUS[5], *new, [9, 9, 9], [4]]:
        expected = [-math.log(brute.probability(w, (START, *row[:i]))) for i, w in enumerate(row)]
        torch.testing.assert_close(
            judge.nll(torch.tensor(row)), torch.tensor(expected, dtype=torch.float64)
        )


def test_counts_without_predecessors_are_told_apart():
    # control: plain counts at the lower orders (no Kneser-Ney) give other probabilities
    judge = NgramJudge.fit(CORPUS, vocabulary=VOCABULARY, order=3)
    wrong = Brute(CORPUS, 3, VOCABULARY, raw_counts=True)
    row = CORPUS[0]
    expected = [-math.log(wrong.probability(w, (START, *row[:i]))) for i, w in enumerate(row)]
    got = judge.nll(torch.tensor(row))
    assert not torch.allclose(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-3)


def contexts():
    yield []
    yield from ([a] for a in range(VOCABULARY))
    yield from itertools.islice(itertools.product(range(VOCABULARY), repeat=3), 0, 1000, 7)
    yield from (row[:cut] for row in CORPUS for cut in (1, 2, 4, 20, 40))


def test_every_context_has_a_proper_distribution(pair):
    judge, _ = pair
    for context in contexts():
        p = judge.distribution(torch.tensor(context, dtype=torch.int64))
        assert p.shape == (VOCABULARY,)
        assert bool((p > 0).all())
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)


def test_distribution_and_likelihood_are_one_model(pair):
    judge, _ = pair
    for context in itertools.islice(contexts(), 0, None, 9):
        rows = torch.tensor([[*context, word] for word in range(VOCABULARY)])
        by_token = (-judge.nll(rows)[:, -1]).exp()
        p = judge.distribution(torch.tensor(context, dtype=torch.int64))
        torch.testing.assert_close(p, by_token)


def test_rows_are_sequences_of_their_own():
    judge = NgramJudge.fit(CORPUS, vocabulary=VOCABULARY)
    batch = torch.tensor(CORPUS).reshape(3, 4, 40)
    got = judge(batch)
    assert got.shape == batch.shape
    assert got.dtype == torch.float64
    torch.testing.assert_close(got[1, 2], judge.nll(batch[1, 2]), rtol=0, atol=0)
    assert judge.perplexity(batch) == pytest.approx(float(got.mean().exp()))


def test_one_sequence_and_many_differ_at_the_seams():
    joined = NgramJudge.fit([list(itertools.chain(*CORPUS))], vocabulary=VOCABULARY, order=2)
    apart = NgramJudge.fit(CORPUS, vocabulary=VOCABULARY, order=2)
    first = torch.tensor([CORPUS[-1][0]])
    assert apart.perplexity(first) < joined.perplexity(first)


def test_longer_contexts_help_on_text_that_has_them():
    train, new = CORPUS[:-3], torch.tensor(CORPUS[-3:])
    unigram, bigram = (
        NgramJudge.fit(train, vocabulary=VOCABULARY, order=n).perplexity(new) for n in (1, 2)
    )
    assert bigram < 0.8 * unigram


def test_reads_arrays_and_tensors_alike():
    lists = NgramJudge.fit(CORPUS, vocabulary=VOCABULARY, order=3)
    arrays = NgramJudge.fit(
        (np.array(row, dtype=np.uint16) for row in CORPUS), vocabulary=VOCABULARY, order=3
    )
    tensors = NgramJudge.fit([torch.tensor(row) for row in CORPUS], vocabulary=VOCABULARY, order=3)
    row = torch.tensor(CORPUS[0])
    assert torch.equal(lists.nll(row), arrays.nll(row))
    assert torch.equal(lists.nll(row), tensors.nll(row))


def test_large_vocabularies_do_not_collide():
    # three ids that agree modulo 2**16: keys of 16 bits per token would mix them up
    ids = [5, 5 + 2**16, 5 + 2**17]
    judge = NgramJudge.fit([[ids[0], ids[1]] * 20, [ids[2]] * 3], vocabulary=2**18)
    follow = judge.distribution(torch.tensor([ids[0]]))
    assert int(follow.argmax()) == ids[1]
    assert float(follow.sum()) == pytest.approx(1)


def test_says_which_discounts_are_estimates():
    judge = NgramJudge.fit([[0, 1] * 50], vocabulary=2, order=2)
    assert judge.order == 2
    assert judge.estimated == (False, False)
    assert judge.discounts == (FALLBACK, FALLBACK)
    with pytest.raises(ValueError, match="discounts cannot be estimated"):
        NgramJudge.fit([[0, 1] * 50], vocabulary=2, order=2, fallback=None)


def test_saves_and_loads(tmp_path):
    judge = NgramJudge.fit(CORPUS, vocabulary=VOCABULARY, fallback=(0.4, 0.9, 1.2))
    judge.save(tmp_path / "judge.model")
    again = NgramJudge.load(tmp_path / "judge.model")
    row = torch.tensor(CORPUS[3])
    assert torch.equal(judge.nll(row), again.nll(row))
    assert (again.order, again.fallback, again.estimated) == (5, (0.4, 0.9, 1.2), judge.estimated)


def test_saves_models_that_need_no_fallback(tmp_path):
    # frequencies that fall like those of words, so that there are n-grams of every small count
    ranks = torch.rand(3000, generator=stream(0, "words"), dtype=torch.float64)
    words = (1000.0**ranks - 1).long()
    judge = NgramJudge.fit([words], vocabulary=1000, order=2, fallback=None)
    assert judge.estimated == (True, True)
    judge.save(tmp_path / "judge.npz")
    assert NgramJudge.load(tmp_path / "judge.npz").fallback is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_refuses_files_that_hold_no_model(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match="no complete n-gram model"):
        NgramJudge.load(tmp_path / "bad.npz")


def test_refuses_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "judge.npz"
    NgramJudge.fit(CORPUS, vocabulary=VOCABULARY).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="no complete n-gram model"):
        NgramJudge.load(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ValueError, match="no n-gram model of format 1: it holds"):
        NgramJudge.load(path)


@pytest.mark.parametrize(
    ("sequences", "change", "message"),
    [
        ([[0, 1]], {"order": 0}, "order must be in 1..16, got 0"),
        ([[0, 1]], {"vocabulary": 0}, "vocabulary must be in"),
        ([[0, 1]], {"fallback": (0.5, 1.0, 4.0)}, "fallback discounts must be in"),
        ([], {}, "one sequence or more"),
        ([[0], []], {}, "sequence 1 must be one row of token ids that is not empty"),
        ([np.zeros((2, 2), dtype=int)], {}, r"got shape \(2, 2\)"),
        ([[0, 3]], {}, "got 0..3 in sequence 0"),
        ([[0, -1]], {}, "got -1..0 in sequence 0"),
    ],
)
def test_refuses_bad_corpora_and_settings(sequences, change, message):
    with pytest.raises(ValueError, match=message):
        NgramJudge.fit(sequences, **{"vocabulary": 3, **change})


def test_refuses_more_tokens_than_its_counts_can_hold():
    stream = np.broadcast_to(np.int32(0), (2**31,))  # takes no memory
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 tokens, got 2147483648"):
        count_ngrams(stream, order=2, symbols=2)


def test_refuses_real_numbers_as_tokens(wrong_types):
    with pytest.raises(TypeError, match="sequence 0 must hold integers, got float64"):
        NgramJudge.fit([np.array([0.0, 1.0])], vocabulary=3)


def test_refuses_to_score_what_it_does_not_know():
    judge = NgramJudge.fit([[0, 1, 2]], vocabulary=3)
    with pytest.raises(ValueError, match=r"tokens must be in 0..2, got 1..3"):
        judge.nll(torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"context must be in 0..2"):
        judge.distribution(torch.tensor([3]))
    with pytest.raises(ValueError, match="must not be empty"):
        judge.perplexity(torch.zeros(0, dtype=torch.int64))
    assert judge.nll(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)


@pytest.mark.data
def test_predicts_the_bytes_of_books():
    folder = Path(os.environ["LV_DATA"]) / "classic-books"

    def documents(name, size):
        with lzma.open(folder / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
            for line in lines:
                yield np.frombuffer(json.loads(line)["text"].encode()[:size], dtype=np.uint8)

    train = list(documents("train-00", 250_000))
    valid = [torch.from_numpy(text.copy()).long() for text in documents("valid", 20_000)]
    bits = {}
    for order in (1, 3, 5):
        judge = NgramJudge.fit(train, vocabulary=256, order=order)
        nats = torch.cat([judge.nll(text) for text in valid])
        bits[order] = float(nats.mean()) / math.log(2)
    # Shannon's estimates for English: 4.1 bits for letters alone, 3.3 with two letters before;
    # bytes with capitals and punctuation lie a little higher.
    assert 4.0 < bits[1] < 5.0
    assert bits[3] < 3.4
    assert bits[5] < 2.6
    # a random order of the same bytes has lost all but their frequencies
    shuffled = valid[0][torch.randperm(len(valid[0]), generator=stream(0, "shuffle"))]
    assert float(judge.nll(shuffled).mean()) / math.log(2) > bits[1]
