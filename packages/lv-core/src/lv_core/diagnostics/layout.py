"""How the axes of a trace are read: which axis holds chains of one target."""

from torch import Tensor

from lv_core.chains import Trace

__all__ = ["chains_first", "check_kept", "draws_of"]


def check_kept(trace: Trace) -> None:
    """Raises if the trace kept no positions.

    Raises:
        ValueError: Names the remedy.
    """
    if not len(trace.u):
        raise ValueError("the trace kept no positions: call kernel.run with thin=1")


def chains_first(x: Tensor, batch_ndim: int, chain_axis: int | None) -> Tensor:
    """Returns `(draws, *batch, ...)` as `(draws, chains, ...)`.

    Arguments:
        x: A tensor with draws or steps first and the batch behind them.
        batch_ndim: Number of batch axes.
        chain_axis: Batch axis whose chains share a target; the other batch axes follow it. None,
            or no batch at all: every chain has a target of its own, an axis of one is inserted.

    Raises:
        ValueError: If there is no such batch axis.
    """
    if chain_axis is None or batch_ndim == 0:
        return x.unsqueeze(1)
    if not 0 <= chain_axis < batch_ndim:
        raise ValueError(
            f"chain_axis must be None or in 0..{batch_ndim - 1} for {batch_ndim} batch axes, got "
            f"{chain_axis}"
        )
    return x.movedim(1 + chain_axis, 1)


def draws_of(trace: Trace, chain_axis: int | None) -> Tensor:
    """Returns the kept positions of a trace as `(draws, chains, *rest)`.

    Raises:
        ValueError: If nothing was kept, or there is no such batch axis.
    """
    check_kept(trace)
    return chains_first(trace.u, trace.log_density.ndim - 1, chain_axis)
