"""Functions of one chain as functions of many."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Batching", "check_batching", "over_chains"]

Batching = Literal["vmap", "loop", "native"]
"""How a function meets many chains: `vmap` = written for one, vectorised; `loop` = written for
one, called for each; `native` = written for batch axes, called once."""


def check_batching(batching: str) -> None:
    """Raises unless `batching` is one of the three ways.

    Raises:
        ValueError: Lists them.
    """
    if batching not in ("vmap", "loop", "native"):
        raise ValueError(f"batching must be 'vmap', 'loop' or 'native', got {batching!r}")


def over_chains(
    function: Callable[[Tensor], Tensor], batching: Batching
) -> Callable[[Tensor], Tensor]:
    """Returns the function of points `(n, *event)` with values `(n,)`.

    Arguments:
        function: Maps one point `(*event,)` to a scalar; with `native` n points to n values.
        batching: How to call it.

    Raises:
        ValueError: If `batching` is unknown; on a call, if the function returns another shape.
        RuntimeError: On a call with `vmap`, if the function works on one point but cannot be
            vectorised.
    """
    check_batching(batching)
    if batching == "native":
        return lambda u: _checked(function(u), u.shape[:1])

    def one(point: Tensor) -> Tensor:
        return _checked(function(point), torch.Size())

    if batching == "loop":
        return lambda u: torch.stack([one(point) for point in u])

    def vectorised(u: Tensor) -> Tensor:
        try:
            value: Tensor = torch.vmap(one)(u)
        except RuntimeError as error:
            if not _works_alone(one, u):
                raise
            raise RuntimeError(
                "the function works on one chain, but torch.vmap cannot vectorise it: replace "
                ".item(), .data, if on tensors, writes into captured tensors and random draws by "
                "tensor operations (torch.where); or write it for batch axes and give "
                "batching='native'; or have it called for each chain, slowly, by batching='loop'. "
                f"torch.vmap said: {str(error).splitlines()[0]}"
            ) from error
        return value

    return vectorised


def _checked(value: Tensor, shape: torch.Size) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        one = "for one chain: sum over all axes" if not shape else "over the batch axes"
        raise ValueError(
            f"the function must return a tensor of shape {tuple(shape)} {one}, got {got}"
        )
    return value


def _works_alone(one: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    try:
        with torch.no_grad():
            one(u[0].detach())
    except Exception:  # whatever it is, vmap is not to blame
        return False
    return True
