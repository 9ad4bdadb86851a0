import io

import pytest
import torch

from lv_molecule import Candidate, Pool, canonical


def member(smiles, score, *, length=3, dim=2, latent=0.0, **values):
    return Candidate(
        torch.full((length,), len(smiles)),
        smiles,
        {"score": score} | values,
        torch.full((dim,), latent),
    )


@pytest.fixture
def pool():
    return Pool([member("A", 1.0), member("B", 3.0), member("C", 3.0), member("D", 2.0)])


def test_one_molecule_in_two_spellings_enters_once():
    pool = Pool()
    assert pool.add([member(canonical("OCC"), 1.0), member(canonical("CCO"), 2.0)]) == 1
    assert pool.values("score").tolist() == [1.0]


def test_trimmed_molecule_stays_known(pool):
    pool.keep_top(2, "score")
    assert pool.smiles() == ["B", "C"]
    assert pool.seen("A")
    assert not pool.seen("Z")
    assert pool.add([member("A", 9.0), member("E", 0.0)]) == 1
    assert pool.smiles() == ["B", "C", "E"]


def test_ties_keep_the_order_of_adding(pool):
    assert [c.smiles for c in pool.top(3, "score")] == ["B", "C", "D"]
    assert [c.smiles for c in pool.top(9, "score", maximise=False)] == ["A", "D", "B", "C"]
    assert [m.smiles for m in pool.best(3, "score")] == ["B", "C", "D"]


def test_best_of_the_run_outlives_trimming(pool):
    pool.keep_top(1, "score", maximise=False)
    assert [(m.smiles, m.values) for m in pool.best(1, "score")] == [("B", {"score": 3.0})]
    assert pool.scored == 4


def test_records_stay_aligned_when_sorted_and_trimmed():
    rows = torch.arange(10)
    pool = Pool(
        Candidate.rows(
            rows[:, None].repeat(1, 4),
            [f"m{i}" for i in rows.tolist()],
            {"score": torch.sin(rows.double()).tolist()},
            rows[:, None].float(),
        )
    )
    pool.keep_top(6, "score")
    order = pool.latents()[:, 0].long()
    assert order.tolist() != sorted(order.tolist())  # the order did change
    assert torch.equal(pool.tokens()[:, 0], order)
    assert pool.smiles() == [f"m{i}" for i in order.tolist()]
    assert torch.equal(pool.values("score"), torch.sin(order.double()))


def test_rows_without_molecule_or_value_are_left_out():
    found = Candidate.rows(
        torch.zeros(3, 2).long(),
        ["A", None, "C"],
        {"s": [1.0, 2.0, float("nan")]},
        torch.zeros(3, 1),
    )
    assert [c.smiles for c in found] == ["A"]


def test_rows_of_different_number_are_refused():
    with pytest.raises(ValueError, match=r"same number of rows.*'smiles': 1"):
        Candidate.rows(torch.zeros(2, 2).long(), ["A"], {"s": [1.0, 2.0]}, torch.zeros(2, 1))


def test_pool_does_not_change_with_the_callers_tensors():
    latents = torch.zeros(1, 2)
    pool = Pool(Candidate.rows(torch.zeros(1, 2).long(), ["A"], {"s": [1.0]}, latents))
    latents += 5
    assert pool.latents().abs().max() == 0
    pool.set_latents(latents)
    latents += 5
    assert pool.latents().tolist() == [[5.0, 5.0]]


def test_latents_are_set_for_all_or_at_positions(pool):
    pool.set_latents(torch.arange(8.0).reshape(4, 2))
    pool.set_latents(torch.full((2, 2), -1.0), index=torch.tensor([3, 0]))
    assert pool.latents().tolist() == [[-1.0, -1.0], [2.0, 3.0], [4.0, 5.0], [-1.0, -1.0]]


def test_refused_latents_leave_the_pool_alone(pool):
    with pytest.raises(ValueError, match=r"shape \(4, 2\), got \(3, 2\)"):
        pool.set_latents(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="diverge"):
        pool.set_latents(torch.full((4, 2), torch.inf))
    assert pool.latents().abs().max() == 0


def test_keep_takes_masks_and_positions(pool):
    pool.keep(pool.values("score") > 1.5)
    assert pool.smiles() == ["B", "C", "D"]
    pool.keep([2, 0])
    assert pool.smiles() == ["D", "B"]
    with pytest.raises(ValueError, match="distinct"):
        pool.keep([0, 0])


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (member("X", float("nan")), "finite, got nan"),
        (member("X", 1.0, extra=2.0), r"names \['score'\], got \['extra', 'score'\]"),
        (member("X", 1.0, length=4), "common shapes"),
        (member("X", 1.0, dim=5), "common shapes"),
        (member("X", 1.0, latent=float("nan")), "latents must be finite"),
    ],
)
def test_unfit_record_is_refused_and_nothing_is_added(pool, candidate, message):
    with pytest.raises(ValueError, match=message):
        pool.add([member("Y", 1.0), candidate])
    assert len(pool) == pool.scored == 4
    assert not pool.seen("Y")


def test_unknown_property_and_empty_pool_say_so(pool):
    with pytest.raises(ValueError, match="unknown property 'qed'; there are: score"):
        pool.values("qed")
    with pytest.raises(ValueError, match="empty"):
        Pool().values("score")
    with pytest.raises(ValueError, match="no active members"):
        Pool().tokens()


@pytest.mark.parametrize("kept", [4, 2, 0])
def test_state_returns_the_same_pool_through_a_safe_file(pool, kept):
    pool.keep_top(kept, "score")
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    again = Pool.from_state_dict(torch.load(file, weights_only=True))
    assert again.smiles() == pool.smiles()
    assert again.best(4, "score") == pool.best(4, "score")
    assert again.add([member("A", 1.0), member("N", 5.0)]) == 1
    if kept:
        assert torch.equal(again.latents()[:kept], pool.latents())
        assert torch.equal(again.tokens()[:kept], pool.tokens())


def test_state_of_an_empty_pool_is_a_pool():
    assert Pool.from_state_dict(Pool().state_dict()).add([member("A", 1.0)]) == 1
