"""Copies found by hashing against a search through strings."""

import numpy as np
import pytest
import torch

from lv_core import stream
from lv_text.metrics import copied_share, longest_copy, memorization


def drawn(*shape, name, vocabulary=3):
    return torch.randint(vocabulary, shape, generator=stream(0, name))


def text(row):
    return "".join(chr(97 + token) for token in row.tolist())


def brute_longest(row, corpus):
    ours, whole = text(row), text(corpus)
    return max(
        (
            j - i
            for i in range(len(ours))
            for j in range(i + 1, len(ours) + 1)
            if ours[i:j] in whole
        ),
        default=0,
    )


def brute_share(row, corpus, n):
    ours, whole = text(row), text(corpus)
    grams = [ours[i : i + n] for i in range(len(ours) - n + 1)]
    return sum(gram in whole for gram in grams) / len(grams)


@pytest.mark.parametrize("piece", [7, 2**20])
def test_agrees_with_a_search_through_strings(piece, monkeypatch):
    monkeypatch.setattr(memorization, "PIECE", piece)
    samples, corpus = drawn(12, 25, name="samples"), drawn(300, name="corpus")
    samples[3] = corpus[100:125]
    samples[4, :9] = corpus[-9:]
    samples[5] = 7  # a token that the corpus lacks
    expected = [brute_longest(row, corpus) for row in samples]
    assert longest_copy(samples, corpus).tolist() == expected
    assert (expected[3], expected[5]) == (25, 0)
    for n in (1, 4, 6, 25):
        shares = [brute_share(row, corpus, n) for row in samples]
        assert copied_share(samples, corpus, n=n).tolist() == pytest.approx(shares)


def test_a_corpus_shorter_than_the_samples_is_no_obstacle():
    samples = torch.tensor([[1, 2, 3, 4], [9, 9, 9, 9]])
    corpus = torch.tensor([2, 3])
    assert longest_copy(samples, corpus).tolist() == [2, 0]
    assert copied_share(samples, corpus, n=3).tolist() == [0.0, 0.0]
    assert longest_copy(samples, corpus[:0]).tolist() == [0, 0]


def test_colliding_hashes_do_not_make_a_copy(monkeypatch):
    # with a hash that is the same for all windows only the comparison of tokens is left
    monkeypatch.setattr(
        memorization, "_hashes", lambda ids, n: np.zeros(max(len(ids) - n + 1, 0), dtype=np.uint64)
    )
    samples = torch.tensor([[1, 2, 3]])
    assert copied_share(samples, torch.tensor([4, 5, 6]), n=3).tolist() == [0.0]


@pytest.mark.parametrize("n", [0, 4])
def test_refuses_impossible_lengths(n):
    with pytest.raises(ValueError, match=r"n must be in 1..3"):
        copied_share(torch.ones(1, 3, dtype=torch.int64), torch.ones(9, dtype=torch.int64), n=n)
