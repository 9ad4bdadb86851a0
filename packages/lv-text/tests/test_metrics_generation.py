"""Generation metrics against hand counts and brute force."""

import math
from collections import Counter

import pytest
import torch

from lv_core import stream
from lv_text.metrics import (
    NgramJudge,
    distinct,
    entropy,
    generative_perplexity,
    repetition,
    self_bleu,
    until_eos,
)


def drawn(batch, time, vocabulary, name):
    return torch.randint(vocabulary, (batch, time), generator=stream(0, name))


def test_entropy_of_known_shares():
    tokens = torch.tensor([[7, 7, 7, 7], [0, 1, 2, 3], [5, 5, 9, 1]])
    expected = [0.0, math.log(4), 1.5 * math.log(2)]
    assert entropy(tokens).tolist() == pytest.approx(expected)
    # control: entropy of all samples together is another number
    assert float(entropy(tokens.reshape(1, -1))) != pytest.approx(sum(expected) / 3)


def test_entropy_counts_what_the_mask_lets_through():
    tokens = torch.tensor([[1, 2, 0, 0, 0, 0]])
    assert float(entropy(tokens, mask=until_eos(tokens, 0))) == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match=r"none counted in samples \[0\]"):
        entropy(tokens, mask=tokens > 5)


def test_mask_ends_with_the_first_end():
    tokens = torch.tensor([[1, 0, 2, 0], [1, 2, 3, 4], [0, 1, 0, 1]])
    assert until_eos(tokens, 0).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert until_eos(tokens, 0, skip=1).int().tolist()[2] == [1, 1, 1, 0]


def test_distinct_counts_over_all_samples():
    tokens = torch.tensor([[1, 2, 1, 2], [1, 2, 3, 1]])
    assert distinct(tokens, n=1) == pytest.approx(3 / 8)
    # 12, 21, 12, 12, 23, 31: no 2-gram crosses from one sample to the next
    assert distinct(tokens, n=2) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("n", "message"), [(0, "n must be at least 1"), (5, "at most the length")]
)
def test_distinct_refuses_impossible_lengths(n, message):
    with pytest.raises(ValueError, match=message):
        distinct(torch.ones(2, 4, dtype=torch.int64), n=n)


def test_repetition_of_a_loop_and_of_new_tokens():
    loop, new = [1, 2] * 8, list(range(16))
    got = repetition(torch.tensor([loop, new]))
    assert got.tolist() == pytest.approx([1 - 2 / 13, 0.0])
    assert repetition(torch.ones(1, 3, dtype=torch.int64), n=4).tolist() == [0.0]


def brute_bleu(rows, index, order, epsilon=0.1):
    """BLEU of one sample, reference counts taken from every other sample."""
    ours, others = rows[index], rows[:index] + rows[index + 1 :]
    total = 0.0
    for n in range(1, order + 1):
        grams = Counter(tuple(ours[i : i + n]) for i in range(len(ours) - n + 1))
        matches = 0
        for gram, count in grams.items():
            clip = max(
                sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1)) for o in others
            )
            matches += min(count, clip)
        total += math.log((matches or epsilon) / sum(grams.values())) / order
    lengths = sorted(map(len, others))
    nearest = min(lengths, key=lambda r: abs(r - len(ours)))
    penalty = 1.0 if len(ours) > nearest else math.exp(1 - nearest / len(ours))
    return penalty * math.exp(total)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_self_bleu_agrees_with_brute_force(order):
    tokens = drawn(7, 20, 4, "bleu")
    lengths = torch.tensor([20, 20, 12, 9, 17, 5, 14])
    mask = torch.arange(20) < lengths[:, None]
    rows = [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]
    got = self_bleu(tokens, order=order, mask=mask)
    assert got.tolist() == pytest.approx([brute_bleu(rows, i, order) for i in range(7)])
    # control: a sample must not be its own reference, which would give 1
    if order > 1:
        assert float(got.max()) < 1


def test_self_bleu_of_copies_is_one_and_of_strangers_small():
    copies = torch.arange(10).repeat(3, 1)
    assert self_bleu(copies).tolist() == pytest.approx([1.0] * 3)
    strangers = torch.arange(30).reshape(3, 10)
    expected = math.exp(sum(math.log(0.1 / n) for n in (10, 9, 8, 7)) / 4)
    assert self_bleu(strangers).tolist() == pytest.approx([expected] * 3)


@pytest.mark.parametrize(("batch", "time"), [(1, 9), (3, 3)])
def test_self_bleu_refuses_too_little(batch, time):
    with pytest.raises(ValueError, match="two samples or more of 4 tokens or more"):
        self_bleu(torch.ones(batch, time, dtype=torch.int64))


def constant(value):
    return lambda tokens: torch.full(tokens.shape, math.log(value), dtype=torch.float64)


def test_generative_perplexity_of_a_uniform_judge_is_its_vocabulary():
    got = generative_perplexity(drawn(4, 9, 5, "uniform"), constant(5))
    assert got.corpus == pytest.approx(5)
    assert got.sequence_mean == pytest.approx(5)
    assert got.tokens == 36


def by_position(tokens):
    """Gives the first three tokens 1 nat, all later ones 100."""
    late = torch.arange(tokens.shape[1]) >= 3
    return torch.where(late, 100.0, 1.0).expand(tokens.shape).clone()


def test_padding_behind_the_end_is_not_scored():
    tokens = torch.tensor([[4, 4, 0, 0, 0], [4, 0, 4, 0, 0]])
    got = generative_perplexity(tokens, by_position, eos=0)
    assert (got.tokens, got.nats_per_token) == (5, 1.0)
    # control: without the mask the padding decides
    assert generative_perplexity(tokens, by_position).nats_per_token == pytest.approx(40.6)
    # the released rule: text behind the first end counts, further ends do not
    kept = generative_perplexity(tokens, by_position, eos=0, after_eos="keep_text")
    assert kept.tokens == 6


def test_released_rule_is_that_of_its_boolean_masks():
    tokens = drawn(20, 15, 3, "mdlm")
    ends = tokens == 0
    expected = ((ends.cumsum(-1) == 1) | ~ends)[:, 1:]
    got = generative_perplexity(tokens, constant(2), eos=0, skip=0, after_eos="keep_text")
    # they count from the second token on and look for the end from the first on
    assert got.tokens - 20 == int(expected.sum())


def test_start_tokens_are_skipped_and_are_no_end():
    tokens = torch.tensor([[0, 4, 4, 0, 4]])

    def judge(ids):
        return torch.tensor([[math.nan, 1.0, 1.0, 1.0, 100.0]]).expand(ids.shape)

    got = generative_perplexity(tokens, judge, eos=0, skip=1)
    assert (got.tokens, got.nats_per_token) == (3, 1.0)
    with pytest.raises(ValueError, match="judge must return finite nats, got 1"):
        generative_perplexity(tokens, judge, eos=0)


def test_samples_that_end_at_once_do_not_enter_the_mean_of_samples():
    tokens = torch.tensor([[0, 0, 0], [4, 4, 4]])
    got = generative_perplexity(tokens, constant(3), eos=0, skip=0)
    assert got.tokens == 4
    alone = generative_perplexity(tokens[:, :1], constant(3), eos=None)
    assert alone.sequence_mean == pytest.approx(3)


def test_an_ngram_judge_prefers_text_of_its_kind():
    corpus = [[0, 1, 2, 3] * 20, [1, 2, 3, 0] * 20]
    judge = NgramJudge.fit(corpus, vocabulary=4, order=3)
    good = torch.tensor([corpus[0][:30]])
    bad = drawn(1, 30, 4, "noise")
    ours = generative_perplexity(good, judge)
    assert ours.corpus == pytest.approx(judge.perplexity(good))
    assert ours.corpus < 1.3 < generative_perplexity(bad, judge).corpus


def test_refuses_judges_of_another_shape_and_empty_samples(wrong_types):
    tokens = drawn(2, 4, 3, "shape")
    with pytest.raises(ValueError, match=r"shape \(2, 4\), got \(2, 3\)"):
        generative_perplexity(tokens, lambda ids: torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must hold a token to score"):
        generative_perplexity(tokens, constant(3), skip=4)
    with pytest.raises(ValueError, match="unknown after_eos 'none'"):
        generative_perplexity(tokens, constant(3), after_eos="none")
