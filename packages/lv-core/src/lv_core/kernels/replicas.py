"""How replicas of all chains lie in one state, and how they swap."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.kernels.base import PART, event_axes, over_event
from lv_core.kernels.cache import evaluation_of
from lv_core.random import Draws, Source, normal, uniform

__all__ = ["REPLICA", "ChainsFirst", "packed", "stopped", "swapped", "unpacked"]

REPLICA = "replica/"
"""Prefix in `ChainState.extra` of what belongs to the replicas; their axis follows the batch."""


class ChainsFirst(Draws):
    """Draws with the batch axes first, as shards need it, and puts the replicas in front of them.

    Arguments:
        like: Positions of the replicas, for dtype and device.
        batch_ndim: Number of batch axes.
        source: Where the numbers come from.
    """

    def __init__(self, like: Tensor, batch_ndim: int, source: Source) -> None:
        self._like, self._ndim, self._source = like, batch_ndim, source

    def take(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Returns the next numbers of a kind for `shape`, the replicas being its first axis."""
        n = self._ndim
        turned = (*shape[1 : n + 1], shape[0], *shape[n + 1 :])
        if kind == "normal":
            return normal(self._like.new_empty(turned), self._source).movedim(n, 0)
        return uniform(turned, self._like, self._source).movedim(n, 0)


def unpacked(state: ChainState) -> tuple[ChainState, Tensor, dict[str, Tensor]]:
    """Returns a state whose first axis is that of replicas, their `hot`, and other tensors.

    Raises:
        ValueError: If the state holds no replicas.
    """
    value, grad = state.log_density, state.grad
    if value is None or grad is None or REPLICA + "u" not in state.extra:
        raise ValueError(
            "the state holds no replicas: make it by ParallelTempering.init or .refresh"
        )
    mine = {
        n.removeprefix(REPLICA): x.movedim(value.ndim, 0)
        for n, x in state.extra.items()
        if n.startswith(REPLICA)
    }

    def joined(cold: Tensor, name: str) -> Tensor:
        return torch.cat((cold.unsqueeze(0), mine.pop(name)))

    cold_bad = torch.zeros_like(value, dtype=torch.bool) if state.bad is None else state.bad
    parts = {n: joined(state.extra[n], n) for n in list(mine) if n.startswith(PART)}
    whole = ChainState(
        u=joined(state.u, "u"),
        log_density=joined(value, "log_density"),
        grad=joined(grad, "grad"),
        bad=joined(cold_bad, "bad"),
        step=state.step,
        extra=parts,
    )
    hot = mine.pop("hot").clone()
    rest = {n: x for n, x in state.extra.items() if n not in parts and not n.startswith(REPLICA)}
    return replace(whole, extra={**mine, **parts}), hot, rest


def packed(whole: ChainState, hot: Tensor, rest: dict[str, Tensor]) -> ChainState:
    """Returns the state of the cold chain, with everything else of `whole` in `extra`."""
    value, grad, parts = evaluation_of(whole)
    bad = torch.zeros_like(hot) if whole.bad is None else whole.bad
    split = {"u": whole.u, "log_density": value, "grad": grad, "bad": bad}
    split |= {PART + n: x for n, x in parts.items()}
    shared = {n: x for n, x in whole.extra.items() if not n.startswith(PART)} | {"hot": hot}
    extra = {n: x[1:] for n, x in split.items()} | shared
    return ChainState(
        u=whole.u[0],
        log_density=value[0],
        grad=grad[0],
        bad=bad[0],
        step=whole.step,
        extra={
            **rest,
            **{PART + n: x[0] for n, x in parts.items()},
            **{REPLICA + n: x.movedim(0, hot.ndim - 1).contiguous() for n, x in extra.items()},
        },
    )


def stopped(after: ChainState, before: ChainState) -> ChainState:
    """Returns `after` with non-finite replicas back where they were, marked bad."""
    value, grad, parts = evaluation_of(after)
    old = evaluation_of(before)
    axes = event_axes(grad, value)
    broken = ~torch.isfinite(value + (grad.sum(dim=axes) if axes else grad))
    mask = over_event(broken, grad)
    kept = {PART + n: torch.where(broken, old.parts[n], x) for n, x in parts.items()}
    return replace(
        after,
        u=torch.where(mask, before.u, after.u),
        log_density=torch.where(broken, old.value, value),
        grad=torch.where(mask, old.grad, grad),
        bad=broken if after.bad is None else after.bad | broken,
        extra={**after.extra, **kept},
    )


def swapped(
    state: ChainState, hot: Tensor, odds: Tensor, first: int, source: ChainsFirst
) -> tuple[ChainState, Tensor]:
    """Returns state and `hot` after the swaps of the pairs `first`, `first + 2`, ..."""
    taken = source.take("uniform", odds.shape) < odds
    turn = torch.arange(len(odds), device=odds.device) % 2 == first
    taken = taken & turn.reshape(-1, *[1] * (odds.ndim - 1))
    none = torch.zeros_like(taken[:1])
    up, down = torch.cat((taken, none)), torch.cat((none, taken))

    def exchanged(x: Tensor) -> Tensor:
        from_above = torch.where(over_event(up, x), x.roll(-1, 0), x)
        return torch.where(over_event(down, x), x.roll(1, 0), from_above)

    value, grad, parts = evaluation_of(state)
    # What else the inner kernel keeps, such as momenta, has one law at all temperatures.
    state = replace(
        state,
        u=exchanged(state.u),
        log_density=exchanged(value),
        grad=exchanged(grad),
        extra={**state.extra, **{PART + n: exchanged(x) for n, x in parts.items()}},
    )
    return state, exchanged(hot)
