"""An autoregressive forecaster."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import stream
from lv_dynamics.baselines.gru_network import GruNetwork, Memory
from lv_dynamics.baselines.gru_paths import ahead, end_of, within
from lv_dynamics.baselines.interpolation import expanded_times
from lv_dynamics.baselines.record import mixture
from lv_dynamics.forecast import Forecast
from lv_dynamics.learning.weights import seeded_weights
from lv_dynamics.sequences import Sequences

__all__ = ["GruForecaster", "GruSettings"]


@dataclass(frozen=True, kw_only=True)
class GruSettings:
    """How a recurrent forecaster is made and learned.

    Raises:
        ValueError: If a setting is out of range; names it.
    """

    hidden: int = 100
    """width of the state"""
    iterations: int = 2000
    """updates"""
    batch_size: int = 100
    """sequences of one update, about"""
    lr: float = 3e-3
    """Adam's step size at the start"""
    lr_end: float = 0.03
    """share of it left at the end, along a cosine"""
    clip: float = 1.0
    """largest norm of the gradient"""
    free_running: float = 0.5
    """share of the sequences of an update that are shown a random prefix only and go on with the
    network's own predictions, as forecasts do; 0 = teacher forcing alone"""

    def __post_init__(self) -> None:
        for name in ("hidden", "iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr_end", "free_running"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}")


class GruForecaster:
    """A recurrent network that predicts row after row, in the interface of the other baselines.

    Learned by teacher forcing with gaps in time and masks. Times up to the last observation are
    predicted from the observed rows before them; later ones step by step through the times asked
    for, each from the prediction before, so those should lie about as densely as training times.

    Arguments:
        settings: Sizes and learning; None = the defaults.

    Example:
        >>> GruForecaster().fit(train, seed=0).predict(test.prefix(25), test.times, draws=20)
    """

    def __init__(self, settings: GruSettings | None = None) -> None:
        self.settings = GruSettings() if settings is None else settings
        self.network: GruNetwork | None = None

    def fit(
        self,
        train: Sequences,
        *,
        seed: int = 0,
        progress: Callable[[int, dict[str, float]], bool | None] | None = None,
    ) -> "GruForecaster":
        """Learns new weights by the likelihood of each row given those before; returns itself.

        Arguments:
            train: Training set.
            seed: Seed of weights, batches and prefixes.
            progress: Called as `progress(done, logs)` after each update; returning True stops.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        s, n = self.settings, len(train)
        with seeded_weights(seed, "gru"):
            network = GruNetwork(math.prod(train.obs_shape), hidden=s.hidden)
        network = network.to(train.values).calibrate(train)
        optimizer = torch.optim.Adam(network.parameters(), lr=s.lr)
        data, batches = train.compact(), -(-n // s.batch_size)
        for done in range(s.iterations):
            epoch, place = divmod(done, batches)
            order = torch.randperm(n, generator=stream(seed, "order", epoch))
            batch = data[order.tensor_split(batches)[place]]
            loss = self._loss(network, batch, stream(seed, "prefix", done))
            grads = torch.autograd.grad(loss, list(network.parameters()))
            for parameter, grad in zip(network.parameters(), grads, strict=True):
                parameter.grad = grad
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss of update {done} is {value}: lower lr")
            torch.nn.utils.clip_grad_norm_(network.parameters(), s.clip)
            wave = 0.5 * (1 + math.cos(math.pi * done / s.iterations))
            for group in optimizer.param_groups:
                group["lr"] = s.lr * (s.lr_end + (1 - s.lr_end) * wave)
            optimizer.step()
            if progress is not None and progress(done + 1, {"loss": value}):
                break
        self.network = network.requires_grad_(False)
        return self

    def _loss(self, network: GruNetwork, batch: Sequences, generator: torch.Generator) -> Tensor:
        """Returns the negative log-likelihood per observed entry, of scaled values."""
        lot = torch.rand(2, len(batch), generator=generator).to(batch.times)
        count = torch.where(
            lot[0] < self.settings.free_running, (lot[1] * batch.lengths).ceil(), batch.lengths
        )
        place = torch.arange(batch.times.shape[1], device=count.device)
        guess = network.read(batch, place < count.clamp(min=1)[:, None])[1]
        mask = batch.mask.expand(batch.values.shape).flatten(2)
        white = (network.scaled(batch.values) - guess.mean) * (-guess.log_scale).exp()
        each = 0.5 * white.square() + guess.log_scale + 0.5 * math.log(2 * math.pi)
        return torch.where(mask, each, 0.0).sum() / mask.sum()

    @torch.no_grad()
    def predict(
        self,
        observed: Sequences,
        times: Float[Tensor, "..."],
        *,
        draws: int = 20,
        seed: int = 0,
    ) -> Forecast:
        """Returns the forecast at the given times.

        Its point forecast feeds mean predictions ahead; the others feed draws of them.

        Arguments:
            observed: What is known of each sequence.
            times: Rising times, `(Q,)` for all sequences or `(B, Q)`.
            draws: Paths drawn for each sequence.
            seed: Seed of the draws.

        Raises:
            ValueError: If `fit` was not called, `draws` is not positive, or shapes do not fit.
        """
        if self.network is None:
            raise ValueError("call fit(train) first: there is no network yet")
        if draws < 1:
            raise ValueError(f"draws must be positive, got {draws}")
        network, seen = self.network, observed.compact()
        asked = expanded_times(times, observed)
        memories, _ = network.read(seen)
        inside = within(network, memories, seen, asked)
        memory, last = end_of(memories, seen)
        best = ahead(network, memory, last, asked, None)
        many = Memory(*(part.repeat(draws, 1) for part in memory))
        generator = stream(seed, "draws", device=asked.device)
        paths = ahead(network, many, last.repeat(draws), asked.repeat(draws, 1), generator)
        beyond = (asked > last[:, None]).unsqueeze(-1)
        point = torch.where(beyond, best.mean, inside.mean)
        mean, log_scale = (
            torch.where(beyond, path.reshape(draws, *point.shape), one)
            for path, one in zip(paths, inside, strict=True)
        )
        std = log_scale.exp() * network.spread
        return mixture(
            times,
            network.unscaled(mean).reshape(*mean.shape[:3], *observed.obs_shape),
            std.square().reshape(*std.shape[:3], *observed.obs_shape),
            network.unscaled(point).reshape(*point.shape[:2], *observed.obs_shape),
        )
