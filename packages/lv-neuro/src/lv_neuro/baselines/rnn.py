"""A plain recurrent network that learns to report sine and cosine of the heading."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core.random import stream
from lv_neuro.angles import TURN, check_radians, heading
from lv_neuro.baselines.rnn_settings import RnnSettings
from lv_neuro.integration import check_walks
from lv_neuro.walks import Integration, Walks, random_walks

__all__ = ["SinCosRnn"]

# Shape legend: S stacked seeds, N bins (headings on the grid), d units, B walks, T time.


class SinCosRnn(nn.Module):
    """An Elman network that gets turns and reports (sin x, cos x), with nothing built in.

    h_0 = M (sin x_0, cos x_0),  h_t = phi(A h_{t-1} + w dx_t + b),  (sin, cos) = C h_t + c

    Several seeds are trained at once, stacked in the first axis of every parameter; a stacked
    seed differs from one trained alone by rounding only.

    Example:
        >>> rnn = SinCosRnn(RnnSettings(iterations=20), seeds=2)
        >>> loss = rnn.fit()                       # (20, 2)
        >>> walks = random_walks(3, 10)
        >>> rnn.integrate(walks.start, walks.turns).heading.shape
        torch.Size([2, 3, 10])

    Source:
        Cueva et al., "Emergence of Functional and Structural Properties of the Head Direction
        System by Optimization of Recurrent Neural Networks", 2020, for the task; the settings
        are ours.
    """

    def __init__(
        self, settings: RnnSettings | None = None, *, seeds: int | Iterable[int] = 1
    ) -> None:
        """Draws the initial parameters.

        Arguments:
            settings: Network and training; None means the defaults.
            seeds: How many seeds 0, 1, ... are stacked, or the seeds themselves.

        Raises:
            ValueError: If no seed is named.
        """
        super().__init__()
        self.settings = RnnSettings() if settings is None else settings
        self.seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, got none")
        drawn = [_initial(seed, self.settings) for seed in self.seeds]
        units = self.settings.units
        self.start = nn.Parameter(torch.stack([d[0] for d in drawn]))
        self.recurrent = nn.Parameter(torch.stack([d[1] for d in drawn]))
        self.turn = nn.Parameter(torch.stack([d[2] for d in drawn]))
        self.readout = nn.Parameter(torch.stack([d[3] for d in drawn]))
        self.bias = nn.Parameter(torch.zeros(len(drawn), units))
        self.offset = nn.Parameter(torch.zeros(len(drawn), 2))
        self._act = torch.relu if self.settings.activation == "relu" else torch.tanh

    @property
    def parameters_count(self) -> int:
        """Learned numbers of one seed."""
        return sum(p.numel() for p in self.parameters()) // len(self.seeds)

    # Learning

    def forward(
        self,
        start: Float[Tensor, "seeds walks"],
        turns: Float[Tensor, "seeds walks time"],
        x: Float[Tensor, "seeds walks time"],
    ) -> Float[Tensor, " seeds"]:
        """Returns the mean squared error of (sin, cos) along walks.

        Arguments:
            start: Headings before the first turn, radians.
            turns: Turns in radians.
            x: True headings after each turn.
        """
        h = self.hidden(start, turns).flatten(1, 2)
        out = torch.baddbmm(self.offset[:, None], h, self.readout.mT)
        target = torch.stack([x.sin(), x.cos()], -1).flatten(1, 2)
        return (out - target).square().mean((1, 2))

    def hidden(
        self, start: Float[Tensor, "seeds walks"], turns: Float[Tensor, "seeds walks time"]
    ) -> Float[Tensor, "seeds walks time units"]:
        """Returns the hidden activity after each turn, differentiable."""
        h = self._start(start)
        weights = self.recurrent.mT.contiguous()
        states = []
        for t in range(turns.shape[2]):
            h = self._cell(h, turns[..., t], weights)
            states.append(h)
        return torch.stack(states, 2)

    def fit(
        self, *, callback: Callable[[int, Tensor], None] | None = None
    ) -> Float[Tensor, "iterations seeds"]:
        """Trains all seeds; who wants to save and resume drives an `RnnTrainer` instead.

        Arguments:
            callback: Called with the number of updates done and the losses `(seeds,)`, e.g. for
                progress; every update, so it should do little.

        Returns:
            The losses before each update.

        Raises:
            FloatingPointError: If training diverges.
        """
        # the trainer's module needs this one
        from lv_neuro.baselines.rnn_training import RnnTrainer

        trainer = RnnTrainer(self)
        losses = []
        while trainer.done < self.settings.iterations:
            losses.append(trainer.step())
            if callback is not None:
                callback(trainer.done, losses[-1])
        return torch.stack(losses)

    # Use

    @property
    def codes(self) -> Float[Tensor, "seeds bins units"]:
        """Tuning curves over 200 fixed walks as long as those of training; see `tuning`."""
        s = self.settings
        walks = random_walks(
            max(200, 10 * s.bins // s.horizon),
            s.horizon,
            bins=s.bins,
            max_step=s.max_step,
            generator=stream(0, "tuning walks"),
        )
        return self.tuning(walks)

    @torch.no_grad()
    def tuning(
        self, walks: Walks, *, bins: int | None = None
    ) -> Float[Tensor, "seeds bins units"]:
        """Returns the mean hidden activity for each true heading along walks.

        Arguments:
            walks: Starts, turns and true headings.
            bins: Headings on the grid, each standing for what is nearest to it; None means those
                of the settings.

        Raises:
            ValueError: If the walks miss a heading.
        """
        check_walks(walks.start, walks.turns)
        bins = self.settings.bins if bins is None else bins
        x = walks.heading.to(self.readout)
        n = (x * (bins / TURN)).round().long() % bins
        visits = torch.bincount(n.flatten(), minlength=bins)
        if bool((visits == 0).any()):
            raise ValueError(
                f"walks must visit all {bins} headings, got {int((visits == 0).sum())} without a "
                "visit: give more or longer walks, or fewer bins"
            )
        total = self.readout.new_zeros(len(self.seeds), bins, self.settings.units)
        h = self.encode(walks.start)
        weights = self.recurrent.mT.contiguous()
        turns = walks.turns.to(h)
        for t in range(turns.shape[1]):
            h = self._cell(h, turns[:, t], weights)
            total.index_add_(1, n[:, t], h)
        return total / visits[:, None]

    def encode(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "seeds *batch units"]:
        """Returns the initial hidden states for headings x (radians)."""
        check_radians("x", x)
        flat = x.to(self.readout).flatten()
        h = self._start(flat.expand(len(self.seeds), -1))
        return h.view(len(self.seeds), *x.shape, -1)

    def decode(self, v: Float[Tensor, "seeds *batch units"]) -> Float[Tensor, "seeds ..."]:
        """Returns the headings that the outputs (sin, cos) point to, in [0, 2 pi)."""
        flat = v.flatten(1, -2)
        out = torch.baddbmm(self.offset[:, None], flat, self.readout.mT)
        return heading(torch.atan2(out[..., 0], out[..., 1])).view(v.shape[:-1])

    def step(
        self, v: Float[Tensor, "seeds batch units"], dx: Float[Tensor, "..."]
    ) -> Float[Tensor, "seeds batch units"]:
        """Returns the hidden state after a turn.

        Arguments:
            v: Hidden states.
            dx: Turns in radians, counter-clockwise positive, shape `(batch,)` or
                `(seeds, batch)`; it learned turns up to `max_step` grid steps.
        """
        check_radians("dx", dx, kind="turn")
        return self._cell(v, dx.to(v), self.recurrent.mT)

    @torch.no_grad()
    def integrate(
        self,
        start: Float[Tensor, " walks"],
        turns: Float[Tensor, "walks time"],
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Integration:
        """Follows headings from their turns alone.

        Arguments:
            start: Headings before the first turn, radians.
            turns: Turns in radians, counter-clockwise positive.
            noise: Norm (root mean square) of the Gaussian vector added after each turn, relative
                to the norm of the hidden state that it is added to; hidden states have no fixed
                norm.
            generator: Source of the noise; None means torch's global one.

        Raises:
            ValueError: If the noise is negative, or the walks are none.
        """
        check_walks(start, turns)
        if not noise >= 0:
            raise ValueError(f"noise must not be negative, got {noise}")
        h = self.encode(start)
        turns = turns.to(h)
        weights = self.recurrent.mT.contiguous()
        x = torch.empty(len(h), *turns.shape, dtype=h.dtype, device=h.device)
        for t in range(turns.shape[1]):
            h = self._cell(h, turns[:, t], weights)
            if noise:
                drawn = torch.randn(
                    h.shape[1:], generator=generator, dtype=h.dtype, device=h.device
                )
                scale = noise / math.sqrt(self.settings.units) * h.norm(dim=-1, keepdim=True)
                h = torch.addcmul(h, scale, drawn)
            x[..., t] = self.decode(h)
        return Integration(x, h)

    def _start(self, x: Tensor) -> Tensor:
        return torch.stack([x.sin(), x.cos()], -1) @ self.start.mT

    def _cell(self, h: Tensor, dx: Tensor, weights: Tensor) -> Tensor:
        drive = torch.addcmul(self.bias[:, None], dx[..., None], self.turn[:, None])
        act: Tensor = self._act(torch.baddbmm(drive, h, weights))
        return act


def _initial(seed: int, settings: RnnSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the weights (start, recurrent, turn, readout) of one seed."""
    generator = stream(seed, "sin-cos network")
    d = settings.units
    bound = d**-0.5
    start = torch.empty(d, 2).uniform_(-(2**-0.5), 2**-0.5, generator=generator)
    turn = torch.empty(d).uniform_(-bound, bound, generator=generator)
    readout = torch.empty(2, d).uniform_(-bound, bound, generator=generator)
    if settings.initial == "identity":
        return start, torch.eye(d), turn, readout
    if settings.initial == "orthogonal":
        q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
        # signs of the diagonal make the rotation uniform
        return start, q * r.diagonal().sign(), turn, readout
    recurrent = torch.empty(d, d).uniform_(-bound, bound, generator=generator)
    return start, recurrent, turn, readout
