"""Sequences of different lengths in one batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Padded", "lengthened", "padded"]


class Padded(NamedTuple):
    """Sequences filled up to the longest."""

    times: Tensor
    """Times of the rows, shape `(B, T)`, 0 in the padding."""
    values: Tensor
    """Values, shape `(B, T, *obs)`, 0 in the padding."""
    mask: Tensor
    """True where observed, shape of the values, False in the padding."""
    lengths: Tensor
    """Number of real rows, shape `(B,)`, int64."""


def padded(
    items: Sequence[tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]], *, shift: bool
) -> Padded:
    """Returns sequences of different lengths as one batch.

    Arguments:
        items: For each sequence its times `(T_i,)`, values `(T_i, *obs)` and perhaps a mask
            `(T_i, *obs)` or `(T_i,)`.
        shift: Whether the first time of each sequence becomes 0.

    Raises:
        ValueError: If there is none, one is empty or shapes differ; names the sequence.
    """
    if not items:
        raise ValueError("items must hold at least one sequence, got none")
    shape, longest = items[0][1].shape[1:], max(len(item[1]) for item in items)
    columns: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for index, (times, values, *masks) in enumerate(items):
        if times.ndim != 1 or values.shape != (len(times), *shape) or not len(times):
            raise ValueError(
                f"sequence {index}: times (T,) with at least one row and values of shape "
                f"{('T', *shape)} are expected, got {tuple(times.shape)} and "
                f"{tuple(values.shape)}"
            )
        given = masks[0] if masks else None
        mask = torch.ones_like(times, dtype=torch.bool) if given is None else given
        if mask.shape not in (times.shape, values.shape):
            raise ValueError(
                f"sequence {index}: the mask must have the shape of the values "
                f"{tuple(values.shape)} or of the times, got {tuple(mask.shape)}"
            )
        mask = mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim)).expand_as(values)
        parts = (times - times[0] if shift else times, values, mask)
        for column, part in zip(columns, parts, strict=True):
            column.append(lengthened(part[None], longest)[0])
    times, values, mask = (torch.stack(column) for column in columns)
    lengths = torch.tensor([len(item[0]) for item in items], device=values.device)
    return Padded(times, values, mask, lengths)


def lengthened(content: Tensor, rows: int, *, repeat: bool = False) -> Tensor:
    """Returns `content`, shape `(B, T, ...)`, with zeros or repeats of its last row up to `rows`.

    Arguments:
        content: What is filled up.
        rows: Number of rows of the result, at least T.
        repeat: Whether the last row is repeated rather than zeros appended.
    """
    shape = (len(content), rows - content.shape[1], *content.shape[2:])
    filler = content[:, -1:].expand(shape) if repeat else content.new_zeros(shape)
    return torch.cat([content, filler], 1)
