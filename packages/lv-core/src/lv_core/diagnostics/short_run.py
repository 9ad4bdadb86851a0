"""Diagnostics of short-run chains.

A chain of twenty steps from noise is a finite-step generator. R-hat and effective sample size ask
whether chains have forgotten their start, which such chains are not meant to do. What can be
asked is how far they are from what a longer run would give, how far they moved, and how their
moments change step by step; the functions here answer that.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.chains import Trace
from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import Kernel
from lv_core.random import Source

__all__ = ["Moments", "ShortRunReport", "esjd", "moments_by_step", "short_run_report"]


class Moments(NamedTuple):
    """Mean, standard deviation and largest absolute entry over chains and event, per step."""

    mean: Float[Tensor, " kept"]
    std: Float[Tensor, " kept"]
    absmax: Float[Tensor, " kept"]


class ShortRunReport(NamedTuple):
    """How a short run compares with a longer one from the same start.

    `gap` is the mean log density at the end of the long run minus that at the end of the short
    one (near 0: longer chains gain nothing), in nats; `gap_error` its standard error;
    `displacement` the mean distance from the start; `clipped` the share of clipped gradients.
    """

    gap: float
    gap_error: float
    displacement: float
    clipped: float


def esjd(u: Float[Tensor, " kept *shape"], *, event_ndim: int = 1) -> Float[Tensor, "..."]:
    """Returns the expected squared jump distance of kept positions, one value per chain.

    Arguments:
        u: Kept positions of `Kernel.run(thin=1)`, shape `(kept, *batch, *event)`.
        event_ndim: Number of event axes at the end.

    Raises:
        ValueError: If fewer than two positions were kept.
    """
    if len(u) < 2:
        raise ValueError(f"need at least two kept positions, got {len(u)}: run with thin=1")
    jumps = (u[1:] - u[:-1]).square()
    axes = tuple(range(-event_ndim, 0))
    return (jumps.sum(dim=axes) if axes else jumps).mean(0)


def moments_by_step(u: Float[Tensor, " kept *shape"]) -> Moments:
    """Returns moments over all chains and coordinates at each kept step."""
    flat = u.flatten(1)
    return Moments(flat.mean(1), flat.std(1), flat.abs().amax(1))


def short_run_report(
    kernel: Kernel,
    log_density: LogDensity,
    u: Tensor,
    *,
    factor: int = 10,
    generator: Source = None,
) -> ShortRunReport:
    """Runs the kernel, then goes on to `factor` times its length, and compares the two ends.

    Arguments:
        kernel: The short-run kernel.
        log_density: Its target.
        u: Starts, shape `(*batch, *event)`.
        factor: How much longer the long run is.
        generator: Source of randomness.

    Raises:
        ValueError: If `factor` is below 2.
    """
    if factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")
    short: Trace = kernel.run(log_density, u, generator=generator)
    steps = (factor - 1) * kernel.steps
    # The state and not its position: schedules, momenta and marks of frozen chains go on.
    long = kernel.run(log_density, short.state, generator=generator, steps=steps)
    ends = [value_and_grad(log_density, t.state.u).value for t in (short, long)]
    gap = (ends[1] - ends[0]).flatten()
    error = gap.std() / gap.numel() ** 0.5 if gap.numel() > 1 else torch.tensor(float("nan"))
    clipped = 0.0 if short.clipped is None else short.clipped.float().mean().item()
    moved = short.displacement.mean().item()
    return ShortRunReport(gap.mean().item(), float(error), moved, clipped)
