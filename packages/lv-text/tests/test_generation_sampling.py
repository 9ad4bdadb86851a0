"""From scores to tokens: each truncation against its definition, frequencies, sources."""

import math

import pytest
import torch

from lv_core import Rows, stream
from lv_core.random import Draws
from lv_text.generation import Sampling, probabilities, sample


def scores(batch=6, ids=40, name="scores", dtype=torch.float64):
    return 2 * torch.randn(batch, ids, generator=stream(0, name), dtype=dtype)


def softmax(row):
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def reference(row, sampling, seen=()):
    """Follows the five steps id by id, in plain Python."""
    row = list(row)
    r = sampling.repetition_penalty or 1
    for v in seen:
        row[v] = row[v] / r if row[v] > 0 else row[v] * r
    p = softmax([x / sampling.temperature for x in row])
    ranked = sorted(range(len(p)), key=lambda v: -p[v])
    kept = ranked[: sampling.top_k] if sampling.top_k else ranked
    if sampling.top_p:
        total, mass, few = sum(p[v] for v in kept), 0.0, []
        for v in kept:
            few.append(v)
            mass += p[v] / total
            if mass >= sampling.top_p:
                break
        kept = few
    if sampling.min_p:
        kept = [v for v in kept if p[v] >= sampling.min_p * p[ranked[0]]]
    total = sum(p[v] for v in kept)
    return [p[v] / total if v in kept else 0.0 for v in range(len(p))]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0),
        Sampling(top_k=1),
        Sampling(top_k=7),
        Sampling(top_k=40),
        Sampling(top_k=4000),
        Sampling(top_p=0.3),
        Sampling(top_p=0.9),
        Sampling(top_p=1.0),
        Sampling(min_p=0.2),
        Sampling(min_p=1.0),
        Sampling(repetition_penalty=1.7),
        Sampling(temperature=0.8, top_k=20, top_p=0.8, min_p=0.1, repetition_penalty=1.2),
    ],
    ids=str,
)
def test_the_distribution_is_that_of_the_definition(sampling):
    logits = scores()
    seen = torch.rand(logits.shape, generator=stream(0, "seen")) < 0.3
    found = probabilities(logits, sampling, seen=seen)
    expected = torch.tensor(
        [
            reference(row.tolist(), sampling, mask.nonzero()[:, 0].tolist())
            for row, mask in zip(logits, seen, strict=True)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 39])
def test_top_k_keeps_exactly_k_ids_even_if_all_are_equal(k):
    for logits in (scores(), torch.zeros(2, 40)):
        kept = (probabilities(logits, Sampling(top_k=k)) > 0).sum(1)
        assert kept.tolist() == [k] * len(logits)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.77, 0.99])
def test_top_p_keeps_the_smallest_set_of_at_least_that_mass(p):
    full = probabilities(scores())
    kept = probabilities(scores(), Sampling(top_p=p)) > 0
    mass = (full * kept).sum(1)
    least = full.where(kept, 1.0).amin(1)
    assert (mass >= p).all()
    assert (mass - least < p).all()  # one id less would not do
    assert (full.where(~kept, 0.0).amax(1) <= least).all()  # and none left out is larger


@pytest.mark.parametrize("spread", [0.1, 5.0])  # flat: the head does not do; peaked: it does
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_top_p_of_a_large_vocabulary_is_that_of_the_definition(spread, temperature):
    logits = spread * scores(3, 5000, "large")
    for p in (0.5, 0.9, 0.99999):
        sampling = Sampling(top_p=p, temperature=temperature)
        found = probabilities(logits, sampling)
        expected = torch.tensor(
            [reference(row.tolist(), sampling) for row in logits], dtype=torch.float64
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
        kept = (found > 0).sum(1)
        assert (kept > 1024).all() if spread == 0.1 else (kept < 1024).all()
        alone = probabilities(logits[1:2], sampling)
        torch.testing.assert_close(alone[0], found[1], rtol=1e-9, atol=1e-15)


def test_truncation_follows_the_temperature_and_not_the_other_way():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    after = probabilities(logits, Sampling(temperature=4.0, top_p=0.6)) > 0
    before = probabilities(logits, Sampling(top_p=0.6)) > 0
    # Wrong control: the set of the model itself is another one.
    assert after.sum() == 2
    assert before.sum() == 1


@pytest.mark.parametrize("penalty", [0.5, 1.5])
def test_the_repetition_penalty_moves_scores_of_either_sign_the_same_way(penalty):
    logits = torch.tensor([[2.0, -2.0, 1.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, False]])
    plain = probabilities(logits)[0]
    found = probabilities(logits, Sampling(repetition_penalty=penalty), seen=seen)[0]
    moved = [2 / penalty, -2 * penalty, 1.0]
    torch.testing.assert_close(found, torch.tensor(softmax(moved), dtype=torch.float64))
    lower = (found / found[2] < plain / plain[2])[:2]
    assert lower.tolist() == [penalty > 1] * 2


def test_a_penalty_of_one_and_none_change_nothing_and_need_no_record():
    logits = scores()
    assert torch.equal(
        probabilities(logits, Sampling(repetition_penalty=1.0)), probabilities(logits)
    )


def test_greedy_takes_the_largest_score_and_touches_no_generator():
    logits = scores()
    source = stream(0, "untouched")
    state = source.get_state()
    drawn = sample(logits, Sampling(temperature=0.0), generator=source)
    assert torch.equal(drawn.ids, logits.argmax(1))
    assert torch.equal(source.get_state(), state)
    assert torch.equal(drawn.log_draw, torch.zeros(6, dtype=torch.float64))
    one_hot = probabilities(logits, Sampling(temperature=0.0))
    assert torch.equal(one_hot.argmax(1), drawn.ids)
    assert torch.equal(one_hot.sum(1), torch.ones(6, dtype=torch.float64))


def test_greedy_heeds_the_repetition_penalty():
    logits = torch.tensor([[1.0, 0.9]])
    seen = torch.tensor([[True, False]])
    drawn = sample(logits, Sampling(temperature=0.0, repetition_penalty=2.0), seen=seen)
    assert drawn.ids.tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-40, 1e-3])
def test_tiny_temperatures_are_greedy_and_do_not_overflow(temperature):
    logits = scores(dtype=torch.float32)
    drawn = sample(logits, Sampling(temperature=temperature), generator=stream(0, "g"))
    assert torch.equal(drawn.ids, logits.argmax(1))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.6, top_k=5), Sampling(top_p=0.7), Sampling(min_p=0.2)],
    ids=str,
)
def test_frequencies_are_those_of_the_distribution(sampling):
    logits, count = scores(1, 12), 40_000
    drawn = sample(
        logits.expand(count, -1).contiguous(), sampling, generator=stream(0, "frequencies")
    )
    found = drawn.ids.bincount(minlength=12) / count
    p = probabilities(logits, sampling)[0]
    # Five standard errors of a binomial share.
    bound = 5 * (p * (1 - p) / count).sqrt()
    assert ((found - p).abs() <= bound).all()
    # Wrong control: another temperature is told apart by the same bound.
    wrong = probabilities(logits, Sampling(temperature=2.0, top_k=sampling.top_k))[0]
    assert ((found - wrong).abs() > bound).any()


def test_log_probabilities_are_the_models_and_those_of_the_draw():
    logits = scores()
    sampling = Sampling(temperature=0.7, top_k=9)
    drawn = sample(logits, sampling, generator=stream(0, "g"))
    at = drawn.ids[:, None]
    torch.testing.assert_close(drawn.log_prob, logits.log_softmax(1).gather(1, at)[:, 0])
    torch.testing.assert_close(
        drawn.log_draw, probabilities(logits, sampling).gather(1, at)[:, 0].log()
    )
    # Wrong control: after truncation they differ.
    assert ((drawn.log_draw - drawn.log_prob).abs() > 0.1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_probabilities_are_wide(dtype):
    drawn = sample(scores().to(dtype), generator=stream(0, "g"))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert drawn.log_prob.dtype == drawn.log_draw.dtype == wide
    assert drawn.ids.dtype == torch.int64


def test_the_ends_of_the_distribution_function_find_ids_of_positive_mass():
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]] * 2)
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert sample(logits, generator=Draws(uniforms=[ends])).ids.tolist() == [1, 2]
    ranked = sample(logits, Sampling(top_k=3), generator=Draws(uniforms=[ends]))
    assert ranked.ids.tolist() == [2, 1]


def test_rare_ids_of_a_large_vocabulary_are_reached():
    logits = torch.zeros(1, 100_001)
    logits[0, 0] = 30.0  # all others together: 1e5 e^-30, about 1e-8
    level = torch.tensor([1.0 - 1e-9], dtype=torch.float64)
    drawn = sample(logits, generator=Draws(uniforms=[level]))
    assert drawn.ids.item() > 80_000
    # Wrong control: in float32 the first id alone reaches the total.
    assert logits.softmax(1).cumsum(1)[0, 0] == 1.0


def test_rows_make_a_token_independent_of_its_batch():
    logits = scores()
    together = sample(logits, generator=Rows.of(0, range(6)))
    alone = sample(logits[4:5], generator=Rows.of(0, [4]))
    assert together.ids[4] == alone.ids[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be finite"),
        ({"temperature": math.nan}, "temperature must be finite"),
        ({"temperature": math.inf}, "temperature must be finite"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"min_p": -0.1}, "min_p must be in"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("function", [sample, probabilities])
def test_a_penalty_without_the_ids_seen_is_refused(function):
    with pytest.raises(ValueError, match="seen must be given"):
        function(scores(), Sampling(repetition_penalty=1.2))
