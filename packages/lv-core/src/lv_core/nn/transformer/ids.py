"""Checks of token ids."""

import torch
from torch import Tensor

__all__ = ["check_ids"]


def check_ids(ids: Tensor, count: int, name: str, *, ignore: int | None = None) -> None:
    """Raises an error that names an id outside the vocabulary.

    Only on a CPU: a GPU would have to be waited for, and its own lookup stops at such an id. Not
    in compiled graphs, which cannot branch on values.

    Arguments:
        ids: Token ids of any shape.
        count: Size of the vocabulary.
        name: Name of the argument, for the message.
        ignore: An id that is allowed besides.

    Raises:
        ValueError: If an id is neither in [0, count) nor `ignore`.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or ids.numel() == 0:
        return
    low, high = (int(x) for x in ids.aminmax())
    if low >= 0 and high < count:
        return
    bad = (ids < 0) | (ids >= count)
    if ignore is not None:
        bad &= ids != ignore
    if bool(bad.any()):
        besides = "" if ignore is None else f" or {ignore} (ignored)"
        raise ValueError(
            f"{name} must be ids in [0, {count}){besides}, got {int(ids[bad][0])}: encode with "
            "the vocabulary of this model"
        )
