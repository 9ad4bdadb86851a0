"""A latent ODE whose static variables are averages over windows of what was observed.

B sequences, K observed rows, W rows of a window.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lv_core import DiagonalGaussian
from lv_core.nn import mlp
from lv_dynamics.baselines.latent_ode import LatentOde
from lv_dynamics.config import OdeConfig
from lv_dynamics.learning import LearningSettings
from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.sequences import Sequences

__all__ = ["MonodeLike", "WindowAverage"]


class MonodeLike(LatentOde):
    """A latent ODE with a deterministic static variable: the mean of codes of short windows.

    The dynamic state is variational, the static variable is the mean over all windows of W
    consecutive observed rows of a perceptron's code, and has no prior. Windows are taken from the
    observed rows alone. The published evaluation takes them from the whole test sequence, the
    part to be forecast included, so its figures are not comparable with these.

    Arguments:
        config: Settings of the generator, with static variables; its prior is replaced by N(0, I).
        settings: How it is learned; the method is replaced by "encoder".
        hidden: Width of both networks.
        cell: Cell of the recognition network, "gru" or "ode_rnn".
        window: Rows W of a window.

    Raises:
        ValueError: If the config has no static variables, or `window` is not positive.

    Source:
        Auzina et al., "Modulated Neural ODEs", 2023, without its leak and with our recognition
        network.
    """

    def __init__(
        self,
        config: OdeConfig,
        settings: LearningSettings | None = None,
        *,
        hidden: int = 100,
        cell: Literal["gru", "ode_rnn"] = "gru",
        window: int = 10,
    ) -> None:
        super().__init__(config, settings, hidden=hidden, cell=cell)
        if config.static < 1:
            raise ValueError(
                f"config.static must be positive for a static variable, got {config.static}"
            )
        if window < 1:
            raise ValueError(f"window must be positive, got {window}")
        self.window = window

    def _network(self, train: Sequences) -> nn.Module:
        config = self.config
        state = RecognitionNetwork(
            config.observed, config.state, hidden=self.hidden, cell=self.cell
        )
        state = state.to(train.values).calibrate(train)
        static = WindowAverage(state, config.static, window=self.window, hidden=self.hidden)
        return _StateAndStatic(state, static)


class WindowAverage(nn.Module):
    """Maps sequences to the mean code of their windows of observed rows.

    A sequence of fewer rows than a window has one window, the rest of which is unobserved.

    Arguments:
        scales: Network whose input scales are used.
        static: Numbers of a code.
        window: Rows of a window.
        hidden: Width of the hidden layers.
    """

    def __init__(
        self, scales: RecognitionNetwork, static: int, *, window: int, hidden: int
    ) -> None:
        super().__init__()
        self.window = window
        # In a list, as the scales are the other network's to save.
        self._scales = [scales]
        width = 2 * int(torch.Size(scales.observed).numel()) + 1
        self.network = mlp((window * width, hidden, hidden, static), activation="tanh")

    def forward(self, sequences: Sequences) -> Tensor:
        """Returns the codes, shape `(B, static)`."""
        (scales,) = self._scales
        seen, w = sequences.compact(), self.window
        mask = seen.mask.expand(seen.values.shape)
        x = torch.where(mask, (seen.values - scales.center) / scales.spread, 0.0).flatten(2)
        gaps = torch.diff(seen.times, dim=1, prepend=seen.times[:, :1]) / scales.time_scale
        rows = torch.cat((x, mask.flatten(2).to(x), gaps.unsqueeze(-1)), dim=-1)
        rows = nn.functional.pad(rows, (0, 0, 0, max(w - rows.shape[1], 0)))
        windows = rows.unfold(1, w, 1).transpose(2, 3)
        # The first gap of a window leads out of it.
        windows = windows.clone()
        windows[:, :, 0, -1] = 0.0
        codes = self.network(windows.flatten(2))
        place = torch.arange(codes.shape[1], device=codes.device)
        use = (place <= (seen.lengths - w).clamp(min=0)[:, None]).to(codes).unsqueeze(-1)
        mean: Tensor = (codes * use).sum(1) / use.sum(1)
        return mean


@dataclass(frozen=True)
class _Encoded:
    """Normal states with a static variable that is certain."""

    state: DiagonalGaussian
    static: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.cat((self.state.mean, self.static), dim=-1)

    def rsample(self, eps: Tensor) -> Tensor:
        z0 = self.state.rsample(eps[..., : self.state.mean.shape[-1]])
        return torch.cat((z0, self.static.expand(*z0.shape[:-1], -1)), dim=-1)

    def kl(self) -> Tensor:
        return self.state.kl()


class _StateAndStatic(nn.Module):
    """The distribution of the state, and the static variable."""

    def __init__(self, state: RecognitionNetwork, static: WindowAverage) -> None:
        super().__init__()
        self.state, self.static = state, static

    def forward(self, sequences: Sequences) -> _Encoded:
        return _Encoded(self.state(sequences), self.static(sequences))
