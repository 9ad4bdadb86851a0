"""Predictions of a recurrent network at any times.

B sequences, K observed rows, Q times asked for, p entries of an observation, flat.
"""

import torch
from torch import Tensor

from lv_core import Source, normal
from lv_dynamics.baselines.gru_network import GruNetwork, Memory, Prediction
from lv_dynamics.sequences import Sequences

__all__ = ["ahead", "end_of", "within"]


def within(
    network: GruNetwork, memories: list[Memory], seen: Sequences, asked: Tensor
) -> Prediction:
    """Returns predictions at times `(B, Q)` from the last row at or before each, one jump each.

    Arguments:
        network: The network.
        memories: After each row.
        seen: Compact sequences, the rows that were read.
        asked: Times asked for.
    """
    row = torch.searchsorted(seen.times.contiguous(), asked.contiguous(), right=True)
    # Padding repeats the last time and is no row.
    row = torch.minimum(row, seen.lengths[:, None])
    start = network.start(len(seen))
    times = torch.cat((torch.zeros_like(seen.times[:, :1]), seen.times), dim=1)
    return network.predict(_picked([start, *memories], row), asked - times.gather(1, row))


def end_of(memories: list[Memory], seen: Sequences) -> tuple[Memory, Tensor]:
    """Returns the memory after the last row of each sequence, and the time of that row."""
    row = (seen.lengths - 1)[:, None]
    memory = _picked(memories, row)
    return Memory(memory.state[:, 0], memory.value[:, 0]), seen.times.gather(1, row)[:, 0]


def ahead(
    network: GruNetwork, memory: Memory, last: Tensor, asked: Tensor, source: Source
) -> Prediction:
    """Returns predictions at the times after `last`, each from the one before.

    Arguments:
        network: The network.
        memory: After the last row.
        last: Its time, shape `(B,)`.
        asked: Rising times `(B, Q)`; what is returned for those up to `last` means nothing.
        source: Draws from the predictions are fed ahead; None feeds means.
    """
    means, log_scales = [], []
    unseen = torch.zeros_like(memory.value, dtype=torch.bool)
    for time in asked.unbind(1):
        beyond = time > last
        gap = torch.where(beyond, time - last, 0.0)
        guess = network.predict(memory, gap)
        value = guess.mean
        if source is not None:
            value = value + guess.log_scale.exp() * normal(value, source)
        moved = network.take(memory, gap, value, unseen)
        memory = Memory(
            *(
                torch.where(beyond[:, None], new, old)
                for new, old in zip(moved, memory, strict=True)
            )
        )
        last = torch.where(beyond, time, last)
        means.append(guess.mean)
        log_scales.append(guess.log_scale)
    return Prediction(torch.stack(means, 1), torch.stack(log_scales, 1))


def _picked(memories: list[Memory], row: Tensor) -> Memory:
    """Returns the memories of rows `(B, Q)`, counted from the first in the list."""
    item = torch.arange(len(row), device=row.device)[:, None]
    state = torch.stack([memory.state for memory in memories], 1)[item, row]
    return Memory(state, torch.stack([memory.value for memory in memories], 1)[item, row])
