"""A recurrent network that predicts the next observation from those before.

B sequences, K observed rows, p entries of an observation, flat.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lv_dynamics.recognition import InputScales
from lv_dynamics.sequences import Sequences

__all__ = ["GruNetwork", "Memory", "Prediction"]


class Prediction(NamedTuple):
    """A normal distribution of scaled observations, entry by entry."""

    mean: Tensor
    log_scale: Tensor


class Memory(NamedTuple):
    """What is remembered at a row: state of the network, and the observation it last took in."""

    state: Tensor
    value: Tensor


class GruNetwork(nn.Module):
    """A GRU cell that takes in a row, and a perceptron that predicts a later one from its state.

    A row is an observation, a mask and the distance in time from the row before; entries that are
    not observed are replaced by their prediction. A prediction is the last row plus a bounded
    function of the distance times a learned change, so at distance 0 it is that row.

    Arguments:
        width: Entries p of an observation.
        hidden: Width of the state.
        min_log_scale: Lower limit of the predicted log standard deviations.
    """

    center: Tensor
    spread: Tensor
    time_scale: Tensor

    def __init__(self, width: int, *, hidden: int, min_log_scale: float = -5.0) -> None:
        super().__init__()
        self.width, self.hidden, self.min_log_scale = width, hidden, min_log_scale
        self.cell = nn.GRUCell(2 * width + 1, hidden)
        self.head = nn.Sequential(
            nn.Linear(hidden + 1, hidden), nn.Tanh(), nn.Linear(hidden, 2 * width)
        )
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("time_scale", torch.ones(()))

    def calibrate(self, train: Sequences) -> "GruNetwork":
        """Takes the scales of values and gaps from data, and returns the network."""
        scales = InputScales.of(train)
        self.center.copy_(scales.center.expand(train.obs_shape).reshape(-1))
        self.spread.copy_(scales.spread.expand(train.obs_shape).reshape(-1))
        self.time_scale.copy_(scales.gap)
        return self

    def start(self, batch: int) -> Memory:
        """Returns the memory before anything is seen: zeros, the mean of the data."""
        like = self.center
        return Memory(like.new_zeros(batch, self.hidden), like.new_zeros(batch, self.width))

    def predict(self, memory: Memory, gap: Tensor) -> Prediction:
        """Returns the distribution of the observation a time `gap` (...) after the memory."""
        distance = (gap / self.time_scale).unsqueeze(-1)
        change, raw = self.head(torch.cat((memory.state, torch.log1p(distance)), -1)).chunk(2, -1)
        mean = memory.value + torch.tanh(distance) * change
        floor = self.min_log_scale
        return Prediction(mean, floor + nn.functional.softplus(raw - floor))

    def take(self, memory: Memory, gap: Tensor, value: Tensor, mask: Tensor) -> Memory:
        """Returns the memory after a row, `value` complete, `mask` saying what was observed."""
        distance = torch.log1p(gap / self.time_scale).unsqueeze(-1)
        row = torch.cat((value, mask.to(value), distance), dim=-1)
        return Memory(self.cell(row, memory.state), value)

    def scaled(self, values: Tensor) -> Tensor:
        """Returns flat observations in units of the training set."""
        return (values.flatten(2) - self.center) / self.spread

    def unscaled(self, flat: Tensor) -> Tensor:
        """Returns flat observations in units of the data."""
        return flat * self.spread + self.center

    def read(
        self, seen: Sequences, shown: Tensor | None = None
    ) -> tuple[list[Memory], Prediction]:
        """Returns the memory after each row, and what was predicted for each row before it.

        Arguments:
            seen: Compact sequences.
            shown: Rows that are taken in as observed, `(B, K)`; from others on the network goes
                on with its own predictions. None = all.
        """
        mask = seen.mask.expand(seen.values.shape).flatten(2)
        values = self.scaled(seen.values)
        gaps = torch.diff(seen.times, dim=1, prepend=torch.zeros_like(seen.times[:, :1]))
        memory = self.start(len(seen))
        memories, means, log_scales = [], [], []
        for k in range(values.shape[1]):
            guess = self.predict(memory, gaps[:, k])
            known = mask[:, k] if shown is None else mask[:, k] & shown[:, k, None]
            complete = torch.where(known, values[:, k], guess.mean)
            memory = self.take(memory, gaps[:, k], complete, known)
            memories.append(memory)
            means.append(guess.mean)
            log_scales.append(guess.log_scale)
        return memories, Prediction(torch.stack(means, 1), torch.stack(log_scales, 1))
