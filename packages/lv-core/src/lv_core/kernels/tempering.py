"""Parallel tempering: chains at several temperatures that exchange their positions."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity
from lv_core.kernels.annealed import Scaled
from lv_core.kernels.base import PART, Kernel, StepSize, check_positive, retuned
from lv_core.kernels.cache import evaluate_state, evaluation_of, with_evaluation
from lv_core.kernels.replicas import REPLICA, ChainsFirst, packed, stopped, swapped, unpacked
from lv_core.random import Source
from lv_core.schedule import at

__all__ = ["ParallelTempering", "TunedBetas", "geometric_betas", "tune_betas"]


def geometric_betas(replicas: int, smallest: float) -> tuple[float, ...]:
    """Returns `replicas` inverse temperatures from 1 down to `smallest` in equal ratios.

    At `smallest`, in (0, 1), the density should have one mode left.

    Raises:
        ValueError: If there are fewer than 2, or `smallest` is out of range.
    """
    if replicas < 2 or not 0 < smallest < 1:
        raise ValueError(
            f"replicas must be at least 2 and smallest lie in (0, 1), got {replicas=}, {smallest=}"
        )
    return tuple(smallest ** (r / (replicas - 1)) for r in range(replicas))


@dataclass(frozen=True, kw_only=True)
class ParallelTempering(Kernel):
    """Samples p^(beta) for several beta at once and swaps positions between them.

    Replica r moves by the inner kernel on `beta_r log p`. After a move neighbours i, i + 1 swap
    with probability `min(1, exp((beta_i - beta_{i+1}) (l_{i+1} - l_i)))`, l the log density of
    each: pairs with even i and pairs with odd i in turn, which carries positions through the
    temperatures faster than pairs chosen at random. The joint law of independent replicas is left
    invariant whenever the inner kernel leaves each `p^(beta_r)` so; modes that one chain never
    leaves are reached by way of the hot replicas.

    All replicas are evaluated in one batch, with the axis of replicas in front of the chains,
    `(replicas, *batch, *event)`, so that data tied to the chains broadcast. Values and gradients
    move with the positions: a step costs what the inner kernel's step costs, once for each
    replica, and `Langevin` costs one evaluation more in the whole run.

    The state is that of the cold chain, beta = 1, and its caches are those of log p. The others
    lie in `state.extra["replica/..."]`, the replicas after the batch axes. A temperature T of the
    inner kernel makes all targets `p^(beta / T)`.

    `info` reports the cold chain. `info.stats` holds, for each chain:

    - `swap/i`: probability of a swap of replicas i and i + 1 after this step, whether tried or
      not; `swap`: their mean
    - `accept/r`: acceptance of replica r's own move, where the kernel has one
    - `round_trips`: how often so far a position arrived in the cold chain that had been in the
      hottest replica since it was cold last
    - `replica_bad`: share of replicas that are bad, in the sense of `info.bad`

    A replica frozen at a non-finite value (unadjusted kernels) swaps no more. Draws
    have the replicas after the batch axes too.

    Raises:
        ValueError: If a setting is out of range.
        TypeError: If the kernel has no step size.

    Source:
        Geyer, "Markov chain Monte Carlo maximum likelihood", 1991; Syed, Bouchard-Cote,
        Deligiannidis and Doucet, "Non-reversible parallel tempering", 2021.

    Example:
        >>> kernel = ParallelTempering(
        ...     kernel=Mala(steps=1, step_size=0.5), betas=geometric_betas(6, 0.02), steps=500
        ... )
        >>> z = kernel(Mixture.ring(), torch.randn(256, 2))
    """

    kernel: Kernel
    """what moves the replicas; its `steps` is not used"""
    betas: tuple[float, ...]
    """inverse temperatures, decreasing from 1"""
    steps: int
    """number of steps, each a move of all replicas and, if it is the turn, swaps"""
    swap_every: int = 1
    """moves between swaps"""
    step_sizes: tuple[float, ...] | None = None
    """step size of each replica; None = the kernel's own divided by sqrt(beta)"""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.swap_every < 1:
            raise ValueError(
                f"steps and swap_every must be at least 1, got {self.steps} and {self.swap_every}"
            )
        falling = all(a > b > 0 for a, b in zip(self.betas, self.betas[1:], strict=False))
        if len(self.betas) < 2 or self.betas[0] != 1 or not falling:
            raise ValueError(
                f"betas must be two or more numbers decreasing from 1 to above 0, got {self.betas}"
            )
        if not hasattr(self.kernel, "step_size"):
            raise TypeError(
                "kernel must have a step_size, which differs between replicas, got "
                f"{type(self.kernel).__name__}"
            )
        check_positive("temperature of the kernel", getattr(self.kernel, "temperature", 1.0))
        if self.step_sizes is not None and (
            len(self.step_sizes) != len(self.betas) or not all(s > 0 for s in self.step_sizes)
        ):
            raise ValueError(
                f"step_sizes must be {len(self.betas)} positive numbers, one for each beta, got "
                f"{self.step_sizes}"
            )

    def init(self, log_density: LogDensity, u: Tensor) -> ChainState:
        """Returns the state with all replicas at `u`.

        Raises:
            ValueError: If the inner kernel refuses the start.
        """
        start = u.detach().expand(len(self.betas), *u.shape).clone()
        known = evaluate_state(log_density, start)
        assert known.log_density is not None
        target = Scaled(log_density, self._factor(known.log_density), known)
        inner = self.kernel.init(target, known.u)
        extra = {n: x for n, x in inner.extra.items() if not n.startswith(PART)}
        hot = torch.zeros_like(known.log_density, dtype=torch.bool)
        known = replace(known, bad=torch.zeros_like(hot), extra={**known.extra, **extra})
        return packed(known, hot, {"round_trips": torch.zeros_like(hot[0], dtype=torch.int64)})

    def refresh(self, log_density: LogDensity, state: ChainState) -> ChainState:
        """Returns `state` with the values and gradients of all replicas renewed."""
        if REPLICA + "u" not in state.extra:
            return super().refresh(log_density, state)
        if state.log_density is None:  # a sequence hands on no caches
            value = torch.zeros_like(state.extra["round_trips"], dtype=state.u.dtype)
            state = replace(state, log_density=value, grad=torch.zeros_like(state.u))
        # Parts of another target must not outlive it.
        names = (PART, REPLICA + PART)
        kept = {n: t for n, t in state.extra.items() if not n.startswith(names)}
        whole, hot, rest = unpacked(replace(state, extra=kept))
        fresh = with_evaluation(whole, evaluation_of(evaluate_state(log_density, whole.u)))
        return replace(packed(fresh, hot, rest), previous=state.previous)

    def check(self, state: ChainState) -> None:
        """Raises a DivergenceError if more cold chains are bad than the kernel tolerates."""
        self.kernel.check(state)

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one move of all replicas and the swaps that are due.

        Raises:
            ValueError: If the state does not come from `init` or `refresh`.
        """
        whole, hot, rest = unpacked(state)
        before = evaluation_of(whole)
        factor = self._factor(before.value)
        target = Scaled(log_density, factor, whole)
        kernel = retuned(self.kernel, step_size=self._step_size(state.step, whole.u))
        source = ChainsFirst(whole.u, before.value.ndim - 1, generator)
        inner = with_evaluation(whole, target.scale(before))
        after, info = kernel.step(target, inner, generator=source)
        if after.log_density is None:  # the swaps need values where the kernel left none
            after = with_evaluation(after, evaluation_of(evaluate_state(log_density, after.u)))
            after = stopped(after, whole)
            info = info._replace(bad=after.bad)
        else:
            after = target.unscaled(after, whole)
        odds, turn = self._odds(after, state.step), state.step // self.swap_every
        if (state.step + 1) % self.swap_every == 0:
            after, hot = swapped(after, hot, odds, turn % 2, source)
        hot[-1] = True
        trips = rest["round_trips"] + hot[0]
        hot[0] = False
        assert info.bad is not None
        rows = {"swap": odds} if info.accept is None else {"swap": odds, "accept": info.accept}
        stats = {
            **{n: x[0] for n, x in info.stats.items()},
            **{f"{n}/{i}": x for n, each in rows.items() for i, x in enumerate(each)},
            "swap": odds.mean(0),
            "round_trips": trips,
            "replica_bad": info.bad.to(odds).mean(0),
        }
        report = StepInfo(
            before.value[0],
            info.grad_norm[0],
            accept=None if info.accept is None else info.accept[0],
            bad=info.bad[0],
            clipped=None if info.clipped is None else info.clipped[0],
            parts={n: x[0] for n, x in before.parts.items()},
            stats=stats,
        )
        after = packed(after, hot, {**rest, "round_trips": trips})
        return replace(after, previous=state.previous), report

    def _factor(self, value: Tensor) -> Tensor:
        betas = torch.tensor(self.betas, dtype=value.dtype, device=value.device)
        return betas.reshape(-1, *[1] * (value.ndim - 1))

    def _step_size(self, step: int, u: Tensor) -> Tensor:
        size: StepSize = 1.0
        shares = self.step_sizes
        if shares is None:
            size, shares = self.kernel.step_size, tuple(b**-0.5 for b in self.betas)  # type: ignore[attr-defined]
        each = torch.tensor(shares, dtype=u.dtype, device=u.device)
        scaled = each.reshape(-1, *[1] * (u.ndim - 1)) * at(size, step)
        return scaled.to(u)  # a float64 step size must not make positions float64

    def _odds(self, state: ChainState, step: int) -> Tensor:
        """Returns the probability of a swap of each pair of neighbours, `(pairs, *batch)`."""
        value, bad = state.log_density, state.bad
        assert value is not None
        assert bad is not None
        factor = self._factor(value) / at(getattr(self.kernel, "temperature", 1.0), step)
        log_ratio = (factor[:-1] - factor[1:]) * (value[1:] - value[:-1])
        possible = torch.isfinite(log_ratio) & ~bad[1:] & ~bad[:-1]
        return torch.where(possible, log_ratio.clamp(max=0.0).exp(), 0.0)


class TunedBetas(NamedTuple):
    """What `tune_betas` found."""

    kernel: ParallelTempering
    """the kernel with new inverse temperatures"""
    state: ChainState
    """where its last run ended, to go on from"""
    rejection: Tensor
    """share of swaps rejected by each pair in that run, `(replicas - 1,)`"""
    barrier: float
    """sum of the rejections, which tells how hard the target is to temper: about twice as many
    replicas are best, which reject half of the swaps"""


def tune_betas(
    kernel: ParallelTempering,
    log_density: LogDensity,
    u: Tensor,
    *,
    steps: int = 200,
    rounds: int = 3,
    generator: Source = None,
) -> TunedBetas:
    """Returns the kernel with inverse temperatures at which all pairs swap equally often.

    Runs the kernel `rounds + 1` times, each run going on from the last. After all but the last
    the rejections of the second half of the run are added up along the temperatures, which
    estimates a function of beta that does not depend on where the replicas lie (the communication
    barrier), and the replicas are put where that function, linear in log beta in between, rises
    in equal shares. The first and last beta stay.

    Arguments:
        kernel: The kernel to tune, with `step_sizes=None`, since they belong to the old betas.
        log_density: The target.
        u: Start positions, shape `(*batch, *event)`; rates are averaged over all chains.
        steps: Steps of each run, at least 2.
        rounds: How often the betas are moved.
        generator: Source of randomness.

    Raises:
        ValueError: If the kernel has step sizes of its own for each replica, or `steps` or
            `rounds` is too small.

    Source:
        Syed, Bouchard-Cote, Deligiannidis and Doucet, "Non-reversible parallel tempering", 2021.
    """
    if kernel.step_sizes is not None:
        raise ValueError(
            "kernel must have step_sizes=None: sizes given for old betas do not fit new ones"
        )
    if steps < 2 or rounds < 1:
        raise ValueError(f"steps must be at least 2 and rounds 1, got {steps=}, {rounds=}")
    at_end: Tensor | ChainState = u
    for left in range(rounds, -1, -1):
        trace = kernel.run(log_density, at_end, steps=steps, generator=generator)
        at_end = trace.state
        rejection = torch.stack(
            [
                1 - trace.stats[f"swap/{i}"][steps // 2 :].mean()
                for i in range(len(kernel.betas) - 1)
            ]
        )
        if left:
            kernel = replace(kernel, betas=_equalised(kernel.betas, rejection.tolist()))
    return TunedBetas(kernel, trace.state, rejection, float(rejection.sum()))


def _equalised(betas: tuple[float, ...], rejection: list[float]) -> tuple[float, ...]:
    # A pair that never rejects would make the function flat, and its inverse ambiguous.
    rises = [max(r, 1e-3) for r in rejection]
    share, moved, pair, below = sum(rises) / len(rises), [betas[0]], 0, 0.0
    for k in range(1, len(rises)):
        while below + rises[pair] < k * share:
            below += rises[pair]
            pair += 1
        part = (k * share - below) / rises[pair]
        moved.append(betas[pair] * math.exp(part * math.log(betas[pair + 1] / betas[pair])))
    return (*moved, betas[-1])
