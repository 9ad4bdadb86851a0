"""The state of chains."""

import io

import pytest
import torch

from lv_core import ChainState, Mala, Sum, Trace


def state_of(n: int, *, step: int = 3) -> ChainState:
    return ChainState(
        u=torch.randn(n, 2, 4),
        log_density=torch.randn(n),
        bad=torch.arange(n) % 2 == 0,
        step=step,
        extra={"momentum": torch.randn(n, 2, 4)},
    )


def equal(one: ChainState, two: ChainState) -> bool:
    names = ("u", "log_density", "grad", "previous", "bad")
    same = [
        (a is None and b is None) or torch.equal(a, b)
        for a, b in ((getattr(one, n), getattr(two, n)) for n in names)
    ]
    extra = all(torch.equal(one.extra[n], two.extra[n]) for n in one.extra | two.extra)
    return all(same) and extra and one.step == two.step


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


def test_joining_refuses_extra_tensors_that_some_states_lack() -> None:
    bare = ChainState(**{**state_of(2).state_dict(), "extra": {}})
    for states in ([state_of(2), bare], [bare, state_of(2)]):
        with pytest.raises(ValueError, match=r"extra \['momentum'\] is set in some states"):
            ChainState.cat(states)


def test_joining_refuses_states_of_different_steps() -> None:
    with pytest.raises(ValueError, match=r"equally many steps, got \[3, 4\]"):
        ChainState.cat([state_of(2), state_of(2, step=4)])


def test_a_loaded_state_shares_no_dictionary_with_the_record() -> None:
    record = state_of(5).state_dict()
    ChainState.from_state_dict(record).extra["new"] = torch.zeros(5)
    assert set(record["extra"]) == {"momentum"}


def test_a_trace_survives_saving_with_weights_only() -> None:
    trace = Mala(steps=6, step_size=0.5).run(
        Sum({"prior": lambda u: -0.5 * u.square().sum(1)}), torch.randn(5, 2), thin=2
    )
    file = io.BytesIO()
    torch.save(trace.state_dict(), file)
    file.seek(0)
    loaded = Trace.from_state_dict(torch.load(file, weights_only=True))
    for name in ("u", "log_density", "accept", "displacement"):
        assert torch.equal(getattr(loaded, name), getattr(trace, name))
    assert loaded.clipped is trace.clipped is None
    assert torch.equal(loaded.parts["prior"], trace.parts["prior"])
    assert equal(loaded.state, trace.state)


def test_joins_states_of_which_only_some_saw_a_bad_chain() -> None:
    fine = ChainState(u=torch.zeros(2, 3))
    broken = ChainState(u=torch.ones(3, 3), bad=torch.tensor([False, True, False]))
    for order in ([fine, broken], [broken, fine]):
        joined = ChainState.cat(order)
        assert joined.bad.tolist() == [
            x for s in order for x in ([False] * 2 if s.bad is None else s.bad.tolist())
        ]
