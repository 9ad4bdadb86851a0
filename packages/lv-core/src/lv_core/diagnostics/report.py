"""Collecting what is known about the chains of a run."""

import math

import torch
from torch import Tensor

from lv_core.chains import Trace
from lv_core.diagnostics.convergence import ess_bulk, ess_tail, mcse_mean, mcse_sd, rhat
from lv_core.diagnostics.layout import draws_of
from lv_core.diagnostics.short_run import esjd
from lv_core.diagnostics.verdict import ChainReport

__all__ = ["ChainReport", "chain_report"]

_FEWEST = 50
"""Kept draws per chain below which convergence is not judged."""


def chain_report(
    trace: Trace | Tensor,
    *,
    chain_axis: int | None = 0,
    evaluations: int | None = None,
) -> ChainReport:
    """Returns the diagnostics of a run and what they mean.

    R-hat and effective sample size ask whether chains have forgotten their start. Short-run
    chains are not meant to, so with fewer than 50 kept draws per chain these are NaN and the
    words point to `short_run_report`. Drop the burn-in before: diagnose the trace of a second
    run from the first one's state.

    Arguments:
        trace: The record of `Kernel.run(thin=...)`, or kept draws `(draws, chains, *event)`.
        chain_axis: Batch axis of the trace whose chains share one target; other batch axes are
            data items, each judged alone. None = no two chains share a target (one chain per
            data item), which leaves R-hat unknown. Not used for draws.
        evaluations: Gradient evaluations of all chains together; None = the leapfrog steps that
            the kernel reported, else one per step and chain, else (draws) unknown.

    Raises:
        ValueError: If nothing was kept, or the draws or the axis do not fit.

    Example:
        >>> trace = Mala(steps=2000, step_size=0.5).run(target, u, thin=2)
        >>> print(chain_report(trace))
    """
    record = None if isinstance(trace, Tensor) else trace
    u = trace if isinstance(trace, Tensor) else draws_of(trace, chain_axis)
    if u.ndim < 2 or not len(u) or not u.shape[1]:
        raise ValueError(f"draws must have shape (draws, chains, *event), got {tuple(u.shape)}")
    short = len(u) < _FEWEST
    flat = u.detach().double().flatten(0, 1)
    known = {f.__name__: f(u) for f in (rhat, ess_bulk, ess_tail, mcse_mean, mcse_sd)}
    if short:
        known = {name: torch.full_like(value, math.nan) for name, value in known.items()}
    event_ndim = u.ndim - 2 if record is None else record.u.ndim - record.log_density.ndim
    jumps = esjd(u.detach(), event_ndim=event_ndim).mean().item() if len(u) > 1 else math.nan
    stats = {} if record is None else record.stats
    return ChainReport(
        draws=len(u),
        chains=u.shape[1],
        short=short,
        mean=flat.mean(0),
        # One draw of one chain has no spread; torch would warn, as it does for no coordinates.
        sd=flat.std(0) if len(flat) > 1 and flat.numel() else torch.full_like(flat[0], math.nan),
        **known,
        esjd=jumps,
        accept=None if record is None else _mean(record.accept),
        bad=None if record is None else _mean(record.bad),
        divergent=_mean(stats.get("divergent")),
        depth=_mean(stats.get("depth")),
        evaluations=_evaluations(record) if evaluations is None else evaluations,
    )


def _mean(x: Tensor | None) -> float | None:
    return None if x is None else x.double().mean().item()


def _evaluations(record: Trace | None) -> int | None:
    if record is None:
        return None
    leapfrogs = record.stats.get("leapfrogs")
    return record.log_density.numel() if leapfrogs is None else int(leapfrogs.sum())
