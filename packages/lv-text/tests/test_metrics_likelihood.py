"""Aggregates of likelihoods against closed forms."""

import math

import pytest
import torch

from lv_core import stream
from lv_text.metrics import bits_per_byte, bootstrap, paired_bootstrap, perplexity


def test_uniform_model_has_the_vocabulary_as_perplexity():
    tokens = torch.tensor([3, 10, 1])
    result = perplexity(tokens * math.log(50.0), tokens)
    assert result.corpus == pytest.approx(50.0, rel=1e-6)
    assert result.sequence_mean == pytest.approx(50.0, rel=1e-6)
    assert (result.tokens, result.sequences) == (14, 3)


def test_tells_both_perplexities_apart():
    nll = torch.tensor([math.log(2.0) * 4, math.log(8.0) * 4], dtype=torch.float64)
    result = perplexity(nll, torch.tensor([4, 4]))
    assert result.corpus == pytest.approx(4.0)  # geometric mean
    assert result.sequence_mean == pytest.approx(5.0)  # arithmetic mean
    assert result.nats_per_token == pytest.approx(math.log(4.0))


def test_weights_sequences_by_their_tokens_in_the_corpus_value_alone():
    nll = torch.tensor([math.log(2.0) * 30, math.log(8.0) * 10], dtype=torch.float64)
    result = perplexity(nll, torch.tensor([30, 10]))
    assert result.corpus == pytest.approx(2 ** (6 / 4))
    assert result.sequence_mean == pytest.approx(5.0)


def test_overflow_gives_infinity_instead_of_an_error():
    assert perplexity(torch.tensor([1e6]), torch.tensor([1])).corpus == math.inf


def test_bits_per_byte_of_random_bytes_is_eight():
    size = torch.tensor([5, 100])
    assert bits_per_byte(size * math.log(256.0), size) == pytest.approx(8.0, rel=1e-6)


def lognormal(n, name):
    generator = stream(0, name)
    return 5 + torch.randn(n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("statistic", ["nats", "bits", "perplexity", "sequence_perplexity"])
def test_bootstrap_gives_the_standard_error_of_theory(statistic):
    n, length = 400, 10
    per_token = lognormal(n, "likelihood") / 5
    got = bootstrap(
        per_token * length,
        torch.full((n,), length),
        statistic=statistic,
        replicates=4000,
        generator=stream(0, "bootstrap"),
    )
    mean = per_token.mean()
    error = per_token.std(correction=0) / n**0.5
    expected = {
        "nats": (mean, error),
        "bits": (mean / math.log(2), error / math.log(2)),
        "perplexity": (mean.exp(), mean.exp() * error),  # delta method
        "sequence_perplexity": (
            per_token.exp().mean(),
            per_token.exp().std(correction=0) / n**0.5,
        ),
    }[statistic]
    assert got.value == pytest.approx(float(expected[0]))
    # 4000 replicates: relative error of a standard deviation 1 / sqrt(8000) = 1.1 %
    assert got.standard_error == pytest.approx(float(expected[1]), rel=0.056)
    # 95 % of a normal distribution; quantiles are noisier than the standard deviation
    half = (got.high - got.low) / 2
    assert half == pytest.approx(1.96 * got.standard_error, rel=0.1)
    # control: treating tokens as independent would give an error 3.2 times too small
    assert got.standard_error > 2 * float(expected[1]) / length**0.5


def test_bootstrap_is_exact_for_two_sequences():
    # resamples of (0, 2): 0 with 1/4, 1 with 1/2, 2 with 1/4: standard deviation sqrt(1/2)
    got = bootstrap(
        torch.tensor([0.0, 2.0]),
        torch.tensor([1, 1]),
        statistic="nats",
        replicates=20000,
        generator=stream(0, "two"),
    )
    # error of a standard deviation with kurtosis 2 below 0.5 / sqrt(20000) = 0.0035
    assert got.standard_error == pytest.approx(0.5**0.5, abs=0.018)
    assert (got.low, got.high, got.replicates) == (0.0, 2.0, 20000)


def test_bootstrap_repeats_with_its_generator():
    nll, tokens = lognormal(30, "repeat"), torch.full((30,), 4)
    first = bootstrap(nll, tokens, generator=stream(0, "a"))
    assert first == bootstrap(nll, tokens, generator=stream(0, "a"))
    assert first != bootstrap(nll, tokens, generator=stream(0, "b"))


def test_pairing_removes_what_models_share():
    n = 300
    hard = 20 * lognormal(n, "hard")
    tokens = torch.full((n,), 10)
    better = hard - 1 + 0.1 * torch.randn(n, dtype=torch.float64, generator=stream(0, "small"))
    paired = paired_bootstrap(better, hard, tokens, generator=stream(0, "paired"))
    assert paired.value == pytest.approx(float((better - hard).mean() / 10))
    expected = float((better - hard).std(correction=0) / 10 / n**0.5)
    # 2000 replicates: relative error 1.6 %
    assert paired.standard_error == pytest.approx(expected, rel=0.08)
    assert paired.high < 0
    # control: two separate bootstraps would not see the difference
    alone = bootstrap(better, tokens, statistic="nats", generator=stream(0, "alone"))
    assert alone.standard_error > 50 * paired.standard_error


def test_a_model_does_not_differ_from_itself():
    nll, tokens = lognormal(20, "same"), torch.full((20,), 7)
    got = paired_bootstrap(nll, nll, tokens, statistic="perplexity", generator=stream(0, "same"))
    assert got.value == got.standard_error == 0


@pytest.mark.parametrize(
    ("nll", "counts", "message"),
    [
        ([], [], "one sequence or more"),
        ([1.0, 2.0], [1], "shapes"),
        ([1.0, math.nan], [1, 1], "nll must be finite, got 1 of 2"),
        ([1.0, 2.0], [1, 0], "drop empty sequences"),
    ],
)
def test_refuses_values_that_are_no_likelihoods(nll, counts, message, wrong_types):
    with pytest.raises(ValueError, match=message):
        perplexity(torch.tensor(nll), torch.tensor(counts, dtype=torch.int64))


def test_bootstrap_refuses_one_sequence_and_one_replicate():
    one, two = torch.ones(1), torch.ones(2)
    with pytest.raises(ValueError, match="two sequences or more, got 1"):
        bootstrap(one, one.long())
    with pytest.raises(ValueError, match="replicates must be at least 2, got 1"):
        bootstrap(two, two.long(), replicates=1)


def test_refuses_unknown_statistics(wrong_types):
    with pytest.raises(ValueError, match="unknown statistic 'loss'"):
        bootstrap(torch.ones(2), torch.ones(2).long(), statistic="loss")
