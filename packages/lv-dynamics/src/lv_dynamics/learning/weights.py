"""Initial weights from a stream of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lv_core import stream

__all__ = ["seeded_weights"]


@contextmanager
def seeded_weights(seed: int, *names: str | int) -> Iterator[None]:
    """Makes modules that are built inside the block a function of seed and names alone.

    torch draws initial weights from its global generator; it is put back afterwards.

    Arguments:
        seed: The seed of the run.
        *names: What is built.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(stream(seed, *names).get_state())
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
