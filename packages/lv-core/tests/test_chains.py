"""The state of chains."""

import io

import pytest
import torch

from lv_core import ChainState


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
