"""Where a fit evaluates the decoder, for parity with the released code."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from lv_text import ThoughtModel

__all__ = ["visited"]


@contextmanager
def visited(model: ThoughtModel, *, active: bool) -> Iterator[list[Tensor]]:
    """Yields a list that collects the latents of all fast steps; stays empty if not `active`."""
    seen: list[Tensor] = []
    if not active:
        yield seen
        return
    original = model.upper_nll

    def recorded(lower: Tensor, targets: Tensor, z: Tensor) -> Tensor:
        if z.requires_grad:  # not the closing evaluation, which has no gradient
            seen.append(z.detach().clone())
        return original(lower, targets, z)

    model.upper_nll = recorded  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del model.upper_nll  # the class's own again
