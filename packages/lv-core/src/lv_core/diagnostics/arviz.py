"""Traces in the form that ArviZ summarises and plots."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lv_core.chains import Trace
from lv_core.diagnostics.layout import chains_first, draws_of

__all__ = ["to_arviz"]

_NAMES = {"depth": "tree_depth", "leapfrogs": "n_steps", "divergent": "diverging"}
"""Names of ArviZ for what kernels report under names of their own."""


def to_arviz(
    trace: Trace,
    *,
    split: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    chain_axis: int | None = 0,
) -> Any:  # noqa: ANN401 - the class depends on the release of ArviZ
    """Returns the trace as ArviZ's container, with groups `posterior` and `sample_stats`.

    ArviZ 1 calls it an xarray `DataTree`, earlier releases `InferenceData`. Sample statistics
    bear ArviZ's names: `lp` (log density at the draw, NaN for the last one if the kernel does not
    know it), `acceptance_rate`, `diverging` (any trouble since the draw before), `tree_depth`,
    `n_steps`, `energy`, and whatever else the kernel reported.

    Arguments:
        trace: The record of `Kernel.run(thin=...)`.
        split: Maps positions `(chains, draws, *event)` to named variables with the same first two
            axes; None = one variable `u`. Apply `prior.push` or a constraint here.
        dims: Names of the axes of each variable behind chain and draw.
        coords: Labels along named axes.
        chain_axis: Batch axis whose chains share one target; other batch axes become axes of the
            variables. None = no two chains share one.

    Raises:
        ImportError: If ArviZ is not installed.
        ValueError: If nothing was kept or a variable has other first axes.

    Example:
        >>> tree = to_arviz(trace, split=lambda u: {"mu": u[..., 0], "tau": u[..., 1].exp()})
        >>> arviz.summary(tree)
    """
    arviz = _load()
    draws = draws_of(trace, chain_axis).detach().transpose(0, 1)
    variables = {"u": draws} if split is None else dict(split(draws))
    for name, variable in variables.items():
        if variable.shape[:2] != draws.shape[:2]:
            raise ValueError(
                f"split must keep the first two axes {tuple(draws.shape[:2])} (chains, draws), "
                f"got shape {tuple(variable.shape)} for {name!r}"
            )
    batch_ndim = trace.log_density.ndim - 1
    stats = {
        name: chains_first(value, batch_ndim, chain_axis).transpose(0, 1)
        for name, value in _statistics(trace, trace.thin or 1).items()
    }
    groups = {"posterior": _arrays(variables), "sample_stats": _arrays(stats)}
    options: dict[str, Any] = {
        "dims": None if dims is None else {name: list(axes) for name, axes in dims.items()},
        "coords": None if coords is None else dict(coords),
    }
    # The one dictionary of groups came with release 1; before, every group is an argument.
    nested = int(arviz.__version__.split(".")[0]) >= 1
    return arviz.from_dict(groups, **options) if nested else arviz.from_dict(**groups, **options)


def _load() -> Any:  # noqa: ANN401 - a module that may be absent
    try:
        import arviz
    except ImportError as error:
        raise ImportError(
            "to_arviz needs ArviZ, which lv-core does not require: pip install 'lv-core[arviz]'"
        ) from error
    return arviz


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _statistics(trace: Trace, thin: int) -> dict[str, Tensor]:
    """Returns statistics of the kept draws, each `(kept, *batch)`."""
    kept = len(trace.u)
    # Values are recorded at the start of a step, so a draw's own lies one step further.
    after = torch.full_like(trace.log_density[:1], torch.nan)
    if trace.state.log_density is not None:
        after = trace.state.log_density[None]
    records = {"lp": torch.cat((trace.log_density[1:], after))}
    if trace.accept is not None:
        records["acceptance_rate"] = trace.accept
    records |= {_NAMES.get(name, name): value for name, value in trace.stats.items()}
    chosen = {name: value[thin - 1 :: thin][:kept] for name, value in records.items()}
    trouble = trace.stats.get("divergent", trace.bad)
    if trouble is not None:
        windows = trouble[: kept * thin].reshape(kept, thin, *trouble.shape[1:])
        chosen["diverging"] = windows.bool().any(1)
    return chosen
