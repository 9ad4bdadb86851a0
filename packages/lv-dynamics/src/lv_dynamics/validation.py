"""What sequences must fulfil; messages name the first sequence that does not."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["check_shapes", "check_times", "check_values", "refuse_first"]


def refuse_first(bad: Tensor, problem: str) -> None:
    """Raises a ValueError that names the first sequence for which `bad`, shape (B,), is true."""
    if bool(bad.any()):
        index, total = int(bad.int().argmax()), int(bad.sum())
        more = f" (and {total - 1} more)" if total > 1 else ""
        raise ValueError(f"sequence {index}{more}: {problem}")


def check_shapes(
    times: Tensor,
    values: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    factors: Mapping[str, Tensor],
) -> None:
    """Refuses tensors of wrong type, shape or device."""
    for name, tensor in (("values", values), ("times", times)):
        if not tensor.is_floating_point() and (name == "values" or tensor.is_complex()):
            raise TypeError(
                f"{name} must hold floating-point numbers, got {tensor.dtype}: use .float()"
            )
    if values.ndim < 3 or 0 in values.shape:
        raise ValueError(
            "values must have shape (sequences, times, *obs) with at least one axis after time "
            f"and none empty, got {tuple(values.shape)}: a single channel is values[..., None]"
        )
    batch, rows = values.shape[:2]
    if tuple(times.shape) not in ((batch, rows), (rows,)):
        raise ValueError(
            f"times must have shape {(batch, rows)} or {(rows,)} to go with values of shape "
            f"{tuple(values.shape)}, got {tuple(times.shape)}"
        )
    if mask is not None:
        _check_mask(mask, values)
    if lengths is not None:
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths must hold integers, got {lengths.dtype}")
        if lengths.shape != (batch,):
            raise ValueError(
                f"lengths must hold one number per sequence, shape {(batch,)}, got "
                f"{tuple(lengths.shape)}"
            )
        refuse_first(
            (lengths < 1) | (lengths > rows), f"its length must be in 1..{rows}, the rows given"
        )
    for name, factor in factors.items():
        if factor.ndim < 1 or len(factor) != batch:
            raise ValueError(
                f"factors[{name!r}] must have {batch} rows, one per sequence, got shape "
                f"{tuple(factor.shape)}"
            )
    given: dict[str, Tensor | None] = {"times": times, "mask": mask, "lengths": lengths, **factors}
    for name, other in given.items():
        if other is not None and other.device != values.device:
            raise ValueError(
                f"{name} must be on the device of values, {values.device}, got {other.device}"
            )


def _check_mask(mask: Tensor, values: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean, True where observed, got {mask.dtype}: use mask.bool() for 0/1"
        )
    fits = mask.shape[:2] == values.shape[:2] and (
        mask.ndim == 2
        or (
            mask.ndim == values.ndim
            and all(m in (1, v) for m, v in zip(mask.shape[2:], values.shape[2:], strict=True))
        )
    )
    if not fits:
        raise ValueError(
            f"mask must have the shape of values {tuple(values.shape)}, only its first two axes, "
            f"or 1 in place of the others, got {tuple(mask.shape)}"
        )


def check_times(times: Tensor, real: Tensor) -> None:
    """Refuses times (B, T) that are not finite, negative or not rising where `real` (B, T)."""
    refuse_first((real & ~torch.isfinite(times)).any(1), "times must be finite, got NaN or inf")
    negative = (real & (times < 0)).any(1)
    refuse_first(
        negative,
        "times must not be negative, as t = 0 is where its state starts: shift them, or use "
        "from_list(..., shift=True)",
    )
    step, both = times.diff(dim=1), real[:, 1:]
    for bad, word in ((both & (step < 0), "unsorted"), (both & (step == 0), "duplicate")):
        if bool(bad.any()):
            index, row = bad.nonzero()[0].tolist()
            before, after = float(times[index, row]), float(times[index, row + 1])
            refuse_first(
                bad.any(1),
                f"times must rise strictly, got {word} ones: {before:.9g} in row {row} and "
                f"{after:.9g} in row {row + 1}; sort the rows and merge those of equal time",
            )


def check_values(values: Tensor, mask: Tensor) -> None:
    """Refuses observed values that are not finite, and sequences without an observed one."""
    bad = mask & ~torch.isfinite(values)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 1])
        refuse_first(
            bad.flatten(1).any(1),
            f"an observed value is NaN or inf, in row {row}: mask it, e.g. mask=values.isfinite()",
        )
    refuse_first(
        ~mask.flatten(1).any(1),
        "it has no observed entry (all are masked): leave the sequence out",
    )
