"""An inference network for irregular, partly observed sequences.

B sequences, T rows of time, K rows in use, D latent numbers.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lv_core import DiagonalGaussian
from lv_dynamics.sequences import Sequences

__all__ = ["InputScales", "RecognitionNetwork"]


class RecognitionNetwork(nn.Module):
    """Reads the observed rows backwards in time and returns a normal distribution of the latent.

    The latent describes time 0, so the row nearest to it is read last. Only rows with an observed
    entry are read; each is embedded along with its mask and its distance in time from the row
    read before, and the distance from the last one to time 0 goes to the read-out. Rows that are
    masked or padding change nothing, however many there are.

    Arguments:
        observed: Shape of one observation: `(p,)`, or an image `(height, width)` or
            `(channels, height, width)`.
        latent: Number D of latent numbers.
        hidden: Width of the recurrent state.
        embedding: Width of the embedding of one row.
        cell: `"gru"`, or `"ode_rnn"`: between two rows the state also follows a differential
            equation of its own, by Euler steps.
        ode_steps: Euler steps between two rows.
        min_log_scale: Smooth lower limit of the log standard deviations.

    Raises:
        ValueError: If a size is out of range or the name of the cell is unknown.

    Source:
        Chen et al., "Neural ordinary differential equations", 2018 (a recurrent network run
        backwards in time); Rubanova et al., "Latent ODEs for irregularly-sampled time series",
        2019 (masks, gaps, ODE-RNN).

    Example:
        >>> network = RecognitionNetwork((1,), 8).calibrate(train)
        >>> z = network(train).sample(16, generator=generator)
    """

    center: Tensor
    spread: Tensor
    time_scale: Tensor

    def __init__(
        self,
        observed: tuple[int, ...],
        latent: int,
        *,
        hidden: int = 100,
        embedding: int = 64,
        cell: Literal["gru", "ode_rnn"] = "gru",
        ode_steps: int = 2,
        min_log_scale: float = -7.0,
    ) -> None:
        super().__init__()
        sizes = {
            "latent": latent,
            "hidden": hidden,
            "embedding": embedding,
            "ode_steps": ode_steps,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if len(observed) not in (1, 2, 3) or min(observed) < 1:
            raise ValueError(
                "observed must be (p,), (height, width) or (channels, height, width), got "
                f"{tuple(observed)}"
            )
        if cell not in ("gru", "ode_rnn"):
            raise ValueError(f"cell must be 'gru' or 'ode_rnn', got {cell!r}")
        self.observed, self.latent, self.hidden = tuple(observed), latent, hidden
        self.ode_steps, self.min_log_scale = ode_steps, min_log_scale
        self.embed = (
            _vectors(observed[0], embedding)
            if len(observed) == 1
            else _images(observed, embedding)
        )
        self.gru = nn.GRU(embedding + 1, hidden, batch_first=True) if cell == "gru" else None
        self.cell = nn.GRUCell(embedding + 1, hidden) if cell == "ode_rnn" else None
        self.drift = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, hidden))
            if cell == "ode_rnn"
            else None
        )
        self.head = nn.Sequential(
            nn.Linear(hidden + 1, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent)
        )
        shape = self.observed if len(observed) == 1 else ()
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("time_scale", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, sequences: Sequences) -> "RecognitionNetwork":
        """Sets the scales of the input from data, and returns the network.

        Means and standard deviations of the observed entries (for images over all pixels), and
        the mean distance in time between neighboring observed rows.
        """
        scales = InputScales.of(sequences)
        self.center.copy_(scales.center)
        self.spread.copy_(scales.spread)
        self.time_scale.copy_(scales.gap)
        return self

    def forward(self, sequences: Sequences) -> DiagonalGaussian:
        """Returns the distribution of the latent of each sequence, event `(D,)`, batch `(B,)`.

        Raises:
            ValueError: If observations have another shape.
        """
        if sequences.obs_shape != self.observed:
            raise ValueError(
                f"sequences must hold observations of shape {self.observed}, got "
                f"{sequences.obs_shape}"
            )
        rows = _Backwards.of(sequences)
        mask = rows.mask.to(self.center.dtype)
        values = rows.values.to(self.center.dtype)
        x = torch.where(rows.mask, (values - self.center) / self.spread, 0.0)
        if len(self.observed) == 2:
            x, mask = x.unsqueeze(2), mask.unsqueeze(2)
        gaps = (rows.gaps() / self.time_scale).to(x.dtype)
        first = (rows.times[:, -1] / self.time_scale).to(x.dtype)
        seen = torch.cat((self.embed(x, mask), gaps.unsqueeze(-1)), dim=-1)
        state = self._read(seen, gaps, rows.lengths, first)
        # A distance of many rows must not swamp the read-out.
        last = torch.cat((state, torch.log1p(first).unsqueeze(-1)), dim=-1)
        return DiagonalGaussian.split(self.head(last), min_log_scale=self.min_log_scale)

    def _read(self, seen: Tensor, gaps: Tensor, count: Tensor, first: Tensor) -> Tensor:
        if self.gru is not None:
            outputs, _ = self.gru(seen)
            last = (count - 1).reshape(-1, 1, 1).expand(-1, 1, self.hidden)
            end: Tensor = outputs.gather(1, last).squeeze(1)
            return end
        assert self.cell is not None
        state = seen.new_zeros(len(seen), self.hidden)
        for k in range(seen.shape[1]):
            moved = self.cell(seen[:, k], self._drifted(state, gaps[:, k]))
            state = torch.where((k < count).unsqueeze(-1), moved, state)
        return self._drifted(state, first)

    def _drifted(self, state: Tensor, gap: Tensor) -> Tensor:
        assert self.drift is not None
        h = (gap / self.ode_steps).unsqueeze(-1)
        for _ in range(self.ode_steps):
            # Bounded, as gaps of many rows would otherwise throw the state out of its range.
            state = (state + h * self.drift(state)).clamp(-1.0, 1.0)
        return state


class InputScales(NamedTuple):
    """Scales of the input of networks that read sequences."""

    center: Tensor
    """mean of the observed entries, for images over all pixels"""
    spread: Tensor
    """their standard deviation, 1 where it is 0"""
    gap: Tensor
    """mean distance in time between neighboring observed rows, 1 without any"""

    @classmethod
    def of(cls, sequences: Sequences) -> "InputScales":
        """Returns the scales of a data set."""
        mask = sequences.mask.expand(sequences.values.shape)
        axes = (0, 1) if len(sequences.obs_shape) == 1 else tuple(range(mask.ndim))
        count = mask.sum(axes).clamp(min=1)
        center = sequences.values.sum(axes) / count
        square = torch.where(mask, sequences.values - center, 0.0).square().sum(axes) / count
        gaps = _Backwards.of(sequences).gaps()
        gaps = gaps[gaps > 0]
        return cls(
            center,
            torch.where(square > 0, square.sqrt(), 1.0),
            gaps.mean() if len(gaps) else torch.ones_like(gaps.sum()),
        )


class _Embedding(nn.Module):
    """Maps values and masks `(B, K, channels, ...)` to `(B, K, embedding)`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        both = torch.cat((x.flatten(0, 1), mask.flatten(0, 1)), dim=1)
        embedded: Tensor = self.network(both)
        return embedded.reshape(*x.shape[:2], -1)


def _vectors(width: int, embedding: int) -> _Embedding:
    network = nn.Sequential(
        nn.Linear(2 * width, embedding), nn.Tanh(), nn.Linear(embedding, embedding), nn.Tanh()
    )
    return _Embedding(network)


def _images(observed: tuple[int, ...], embedding: int) -> _Embedding:
    channels, height, width = (1, *observed)[-3:]
    # Two convolutions of stride 2 without batch norm, which would couple the sequences.
    size = 32 * -(-height // 4) * -(-width // 4)
    network = nn.Sequential(
        nn.Conv2d(2 * channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(size, embedding),
        nn.Tanh(),
    )
    return _Embedding(network)


class _Backwards(NamedTuple):
    """The observed rows of each sequence, the last one first; beyond `lengths` the first again."""

    values: Tensor
    mask: Tensor
    times: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sequences: Sequences) -> "_Backwards":
        seen = sequences.compact()
        place = torch.arange(seen.times.shape[1], device=seen.times.device)
        back = (seen.lengths[:, None] - 1 - place).clamp(min=0)
        item = torch.arange(len(seen), device=back.device)[:, None]
        mask = seen.mask.expand(seen.values.shape)
        return cls(seen.values[item, back], mask[item, back], seen.times[item, back], seen.lengths)

    def gaps(self) -> Tensor:
        """Returns the distance of each row from the one read before, 0 for the first one read."""
        return -torch.diff(self.times, dim=1, prepend=self.times[:, :1])
