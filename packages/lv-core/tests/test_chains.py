"""The state of chains, and the bank of chains tied to data."""

import io

import pytest
import torch

from lv_core import ChainBank, ChainState, stream


def state_of(n: int, *, step: int = 3) -> ChainState:
    return ChainState(
        u=torch.randn(n, 2, 4),
        log_density=torch.randn(n),
        bad=torch.arange(n) % 2 == 0,
        step=step,
        extra={"momentum": torch.randn(n, 2, 4)},
    )


def equal(one: ChainState, two: ChainState) -> bool:
    same = [
        (a is None and b is None) or torch.equal(a, b)
        for a, b in ((getattr(one, n), getattr(two, n)) for n in ("u", "log_density", "bad"))
    ]
    extra = all(torch.equal(one.extra[n], two.extra[n]) for n in one.extra | two.extra)
    return all(same) and extra and one.grad is two.grad is None and one.step == two.step


def test_a_state_survives_saving_with_weights_only() -> None:
    state, file = state_of(5), io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    loaded = ChainState.from_state_dict(torch.load(file, weights_only=True))
    assert equal(loaded, state)
    assert not equal(loaded, state_of(5))


def test_the_saved_record_shares_no_dictionary_with_the_state() -> None:
    state = state_of(5)
    state.state_dict()["extra"]["new"] = torch.zeros(5)
    assert set(state.extra) == {"momentum"}


def test_indexing_picks_chains_in_every_field() -> None:
    state = state_of(5)
    picked = state[torch.tensor([4, 1])]
    assert torch.equal(picked.u, state.u[[4, 1]])
    assert torch.equal(picked.log_density, state.log_density[[4, 1]])
    assert torch.equal(picked.extra["momentum"], state.extra["momentum"][[4, 1]])
    assert picked.bad.tolist() == [True, False]
    assert picked.grad is None
    assert picked.step == 3
    assert state[1:3].u.shape == (2, 2, 4)
    assert state[2].u.shape == (2, 4)


def test_joining_undoes_splitting() -> None:
    state = state_of(5)
    assert equal(ChainState.cat([state[:2], state[2:]]), state)
    assert not equal(ChainState.cat([state[2:], state[:2]]), state)


def test_joining_refuses_fields_that_some_states_lack() -> None:
    bare = ChainState(u=torch.zeros(2, 2, 4))
    with pytest.raises(ValueError, match="field 'log_density' is set in some states"):
        ChainState.cat([state_of(2), bare])


def test_joining_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="states must not be empty"):
        ChainState.cat([])


# The bank.


def test_starts_do_not_depend_on_the_order_of_visits() -> None:
    items = torch.tensor([3, 1500, 0, 2047, 1024, 7])
    banks = [ChainBank(3000, (2, 3), seed=1) for _ in range(3)]
    whole = banks[0].get(items)
    backwards = torch.cat([banks[1].get(items[k : k + 1]) for k in range(5, -1, -1)]).flip(0)
    assert torch.equal(whole, backwards)
    banks[2].get(torch.arange(3000))
    assert torch.equal(banks[2].get(items), whole)


def test_starts_depend_on_the_seed_but_not_on_the_size() -> None:
    items = torch.tensor([3, 1500])
    start = ChainBank(3000, (4,), seed=1).get(items)
    assert torch.equal(ChainBank(2000, (4,), seed=1).get(items), start)
    assert not torch.equal(ChainBank(3000, (4,), seed=2).get(items), start)


def test_starts_are_normal_with_the_given_scale_and_without_repeats() -> None:
    n = 5000
    start = ChainBank(n, (2,), seed=1, scale=0.5).get(torch.arange(n))
    # The variance of 2 n normal numbers has the relative standard error sqrt(1 / n).
    assert abs(start.var().item() / 0.25 - 1) < 5 * (1 / n) ** 0.5
    assert abs(start.mean().item()) < 5 * 0.5 / (2 * n) ** 0.5
    assert torch.unique(start, dim=0).shape == (n, 2)


def test_a_stored_position_is_what_is_served_next() -> None:
    bank = ChainBank(10, (3,), seed=1)
    items, u = torch.tensor([7, 2]), torch.randn(2, 3)
    other = bank.get(torch.tensor([3]))
    bank.put(items, u.requires_grad_())
    served = bank.get(items)
    assert torch.equal(served, u)
    assert not served.requires_grad
    assert torch.equal(bank.get(torch.tensor([3])), other)
    served.zero_()
    assert torch.equal(bank.get(items), u)


def test_an_item_may_be_served_twice_at_once() -> None:
    bank = ChainBank(10, (3,), seed=1)
    served = bank.get(torch.tensor([4, 4]))
    assert torch.equal(served[0], served[1])


def test_age_counts_how_often_an_item_was_stored() -> None:
    bank, items = ChainBank(10, (3,), seed=1), torch.tensor([7, 2])
    assert bank.age(items).tolist() == [0, 0]
    bank.put(items, bank.get(items))
    bank.put(items[:1], torch.zeros(1, 3))
    assert bank.age(items).tolist() == [2, 1]
    bank.get(torch.tensor([5]))
    assert bank.age(torch.tensor([5, 0])).tolist() == [0, 0]


def test_an_empty_index_is_fine() -> None:
    bank, none = ChainBank(10, (3,), seed=1), torch.zeros(0, dtype=torch.int64)
    bank.put(none, torch.zeros(0, 3))
    assert bank.get(none).shape == (0, 3)


def test_duplicates_are_refused_in_put() -> None:
    with pytest.raises(ValueError, match="must not contain an item twice"):
        ChainBank(10, (3,), seed=1).put(torch.tensor([4, 4]), torch.zeros(2, 3))


def test_positions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"u must have shape \(2, 3\), got \(2, 4\)"):
        ChainBank(10, (3,), seed=1).put(torch.tensor([4, 5]), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([10]), r"index must lie in 0\.\.9"),
        (torch.tensor([-1]), r"index must lie in 0\.\.9"),
        (torch.tensor([1.0]), "vector of int64"),
        (torch.tensor(1), "vector of int64"),
    ],
)
def test_indices_outside_the_bank_are_refused(index, message) -> None:
    bank = ChainBank(10, (3,), seed=1)
    for act in (bank.get, bank.age):
        with pytest.raises(ValueError, match=message):
            act(index)


def test_a_bank_needs_an_item() -> None:
    with pytest.raises(ValueError, match="n_items must be positive, got 0"):
        ChainBank(0, (3,), seed=1)


def test_a_bank_survives_saving_fresh_rows_included() -> None:
    bank, items = ChainBank(10, (3,), seed=1, scale=0.5), torch.tensor([7, 2])
    bank.put(items, torch.randn(2, 3))
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = ChainBank(10, (3,), seed=99)
    other.load_state_dict(torch.load(file, weights_only=True))
    everything = torch.arange(10)
    assert torch.equal(other.get(everything), bank.get(everything))
    assert torch.equal(other.age(everything), bank.age(everything))


def test_a_record_of_another_bank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the saved bank has shape \(9, 3\), this one \(10, 3\)"):
        ChainBank(10, (3,), seed=1).load_state_dict(ChainBank(9, (3,), seed=1).state_dict())


def test_starts_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    ChainBank(10, (3,), seed=1).get(torch.tensor([4]))
    stream(1)
    assert torch.equal(torch.get_rng_state(), before)
