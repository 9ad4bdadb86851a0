"""Inference of latents: restarts, annealing, adaptive MALA, and a noise-free polish.

B sequences, R restarts of each, D latent numbers. Chains lie as `(B, R, D)` inside this module,
so that each sequence has one stream of noise for its restarts.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lv_core import ChainState, Kernel, Mala, OnlineStepSize, Rows, Sum, frozen, normal
from lv_dynamics.inference_settings import InferenceSettings
from lv_dynamics.model import EnergyOde
from lv_dynamics.polish import climb
from lv_dynamics.posterior import Posterior
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import SolveError

__all__ = ["InferenceSettings", "Progress", "infer"]

_DEFAULT = InferenceSettings()
_HALVINGS = 10


class Progress(NamedTuple):
    """How far an inference is; the tensors are scalars on the model's device."""

    step: int
    """steps done, of all batches"""
    total: int
    """steps in all, without the polish"""
    log_density: Tensor
    """mean log density of the present stage's target"""
    accept: Tensor
    """mean acceptance of the step"""


def infer(
    model: EnergyOde,
    sequences: Sequences,
    *,
    settings: InferenceSettings = _DEFAULT,
    seed: int = 0,
    items: Int[Tensor, " batch"] | Sequence[int] | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Posterior:
    """Returns samples of the latents given the observed entries; touches no parameter.

    R chains of each sequence start from samples of the prior. Stages condition on more and more
    of the observed rows at a falling sigma, and carry the chains along: the posterior given all
    rows is sharp and has many modes. A noise-free ascent ends at scores that can be compared.

    Arguments:
        model: The model; may be in training mode, which changes nothing for the modules here.
        sequences: What was observed. Give the observed part alone (`sequences.prefix(..)`) where
            the rest is to be forecast.
        settings: How.
        seed: Seed of all randomness.
        items: Numbers that name the sequences' noise streams, such as places in a data set; None
            = their order here. A sequence gets the same noise in any batch.
        progress: Called after each step.

    Raises:
        ValueError: If shapes or types disagree.
        SolveError: If the dynamics diverge for a sequence wherever its chains are; names it.

    Source:
        See `InferenceSettings`.

    Example:
        >>> posterior = infer(model, sequences.prefix(25))
        >>> forecast(model, posterior, sequences.times).mean
    """
    total = len(sequences)
    names = range(total) if items is None else [int(item) for item in items]
    if len(names) != total:
        raise ValueError(f"items must name {total} sequences, got {len(names)} numbers")
    size = total if settings.batch_size is None else settings.batch_size
    starts = range(0, total, size)
    steps = settings.steps + settings.draws * settings.thin
    count = _Count(progress, steps * len(starts))
    with frozen(model):
        return Posterior.cat(
            [
                _Run(model, sequences[i : i + size], settings, i).result(
                    seed, names[i : i + size], count
                )
                for i in starts
            ]
        )


class _Count:
    """Counts steps and tells the caller."""

    def __init__(self, progress: Callable[[Progress], object] | None, total: int) -> None:
        self.progress, self.total, self.step = progress, total, 0

    def __call__(self, value: Tensor, accept: Tensor) -> None:
        self.step += 1
        if self.progress is not None:
            self.progress(Progress(self.step, self.total, value.mean(), accept.mean()))


class _Run:
    """The inference of one batch of sequences; `first` is the number of the first one."""

    def __init__(
        self, model: EnergyOde, sequences: Sequences, settings: InferenceSettings, first: int
    ) -> None:
        self.model, self.sequences, self.settings, self.first = model, sequences, settings, first
        self.likelihood = model.likelihood(sequences)
        self.moved = torch.zeros(
            (len(sequences), settings.restarts), dtype=torch.bool, device=model.anchor.device
        )

    def result(self, seed: int, names: Iterable[int], count: _Count) -> Posterior:
        settings, names = self.settings, list(names)
        u = self._start(seed, names)
        noise = Rows.of(seed, names, "infer")
        adaptive = OnlineStepSize(
            kernel=Mala(steps=1, step_size=settings.step_size),
            target_accept=settings.target_accept,
        )
        stages = (*settings.anneal, (1.0, 1.0))
        each, more = divmod(settings.steps, len(stages))
        state, record = ChainState(u=u), _Record()
        for k, (share, factor) in enumerate(stages):
            target = self._target(share, factor)
            u = self._finite(target, state.u)
            state = adaptive.refresh(target, replace(state, u=u))
            record = _Record()
            # The last stage takes what the division leaves.
            n = each + (more if k == len(stages) - 1 else 0)
            state = record.advance(adaptive, target, state, n, noise, count)
        factor_of = state.extra["log_step_factor"].exp()
        draws = [state.u]
        if settings.draws:
            kernel, draws = adaptive.frozen(state), []
            for _ in range(settings.draws):
                state = record.advance(kernel, target, state, settings.thin, noise, count)
                draws.append(state.u)
        size = settings.step_size * factor_of
        climbed = climb(target, state.u, steps=settings.polish, step_size=0.5 * size.square())
        return self._posterior(climbed.u, climbed.log_density, torch.stack(draws), size, record)

    def _posterior(
        self, u: Tensor, value: Tensor, draws: Tensor, size: Tensor, record: "_Record"
    ) -> Posterior:
        settings, z = self.settings, u.transpose(0, 1)
        with torch.no_grad():
            log_likelihood, misfit = self.likelihood(z), self.likelihood.misfit(z)
        equal = torch.full_like(value, 1 / settings.restarts)
        weights = equal if settings.weighting == "equal" else value.softmax(1)
        kept = settings.draws * settings.thin or math.ceil(len(record.accept) / 2)
        return Posterior(
            z=z,
            log_density=value.T,
            log_likelihood=log_likelihood,
            misfit=misfit,
            weights=weights.T,
            draws=draws.transpose(1, 2),
            exact=settings.draws > 0,
            accept=torch.stack(record.accept[-kept:]).mean(0).T,
            step_size=size.T,
            rise=record.rise().T,
            moved=self.moved.T,
            observed=self.likelihood.observed,
            state=self.model.config.state,
        )

    def _start(self, seed: int, names: list[int]) -> Tensor:
        """Returns where chains start, `(B, R, D)`, the restarts of an item from its stream."""
        streams = Rows.of(seed, names, "start").generators
        restarts, dim = self.settings.restarts, self.model.dim
        shape = (len(names), restarts, dim)
        if self.settings.start == "normal":
            return normal(self.model.anchor.expand(shape).contiguous(), Rows(generators=streams))
        rows = Rows(generators=tuple(g for g in streams for _ in range(restarts)))
        return self.model.prior.sample(len(rows.generators), generator=rows).reshape(shape)

    def _target(self, share: float, factor: float) -> Sum:
        """Returns the log density of a stage, `(B, R, D)` to `(B, R)`."""
        likelihood = self.likelihood
        if share < 1:
            rows = (share * self.sequences.rows.sum(1)).ceil().long().clamp(min=1)
            likelihood = self.model.likelihood(self.sequences.prefix(rows, of="observed"))

        def of_chains(u: Tensor) -> Tensor:
            return likelihood(u.transpose(0, 1)).transpose(0, 1)

        return Sum({"prior": self.model.log_prior, "x": (of_chains, factor**-2)})

    @torch.no_grad()
    def _finite(self, target: Sum, u: Tensor) -> Tensor:
        """Returns the chains, those whose value is not finite halved until it is."""
        for _ in range(_HALVINGS):
            bad = ~torch.isfinite(target(u))
            if not bool(bad.any()):
                return u
            self.moved |= bad
            u = torch.where(bad[..., None], 0.5 * u, u)
        index = self.first + int(bad.any(1).nonzero()[0])
        raise SolveError(
            f"sequence {index}: its log density is not finite near z = 0 either: the solve "
            "diverges over its times; take a smaller solver.step_size, or learn longer on "
            "prefixes first",
            sequence=(index,),
        )


class _Record:
    """Values and acceptance of each step of a stage, `(B, R)` each."""

    def __init__(self) -> None:
        self.value: list[Tensor] = []
        self.accept: list[Tensor] = []

    def advance(
        self,
        kernel: Kernel,
        target: Sum,
        state: ChainState,
        steps: int,
        noise: Rows,
        count: _Count,
    ) -> ChainState:
        """Returns the state after some steps, and remembers what they report."""
        for _ in range(steps):
            state, info = kernel.step(target, state, generator=noise)
            assert info.accept is not None
            self.value.append(info.log_density)
            self.accept.append(info.accept)
            count(info.log_density, info.accept)
        return state

    def rise(self) -> Tensor:
        """Returns how much the mean value of the last quarter exceeds that of the one before."""
        quarter = max(len(self.value) // 4, 1)
        last = torch.stack(self.value[-quarter:]).mean(0)
        before = self.value[-2 * quarter : -quarter] or self.value[:1]
        return last - torch.stack(before).mean(0)
