"""Compiled layers for training alone: held-out text has other shapes, each a build of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from lv_text import ThoughtModel

__all__ = ["compiled_upper"]


@contextmanager
def compiled_upper(model: ThoughtModel, compiled: Callable[..., Tensor] | None) -> Iterator[None]:
    """Lets the decoder use `compiled` for its layers inside the block; None changes nothing."""
    if compiled is None:
        yield
        return
    model.decoder.upper = compiled  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.decoder.upper  # the class's own again
