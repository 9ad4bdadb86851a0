"""Angles on the circle: wrapping, grids, means, and the check for degrees given by mistake."""

import inspect
import math
import warnings
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["angular_distance", "check_radians", "circular_mean", "grid", "heading", "wrap"]

TURN = 2 * math.pi
PACKAGE = __name__.partition(".")[0]


def wrap(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Returns angles moved into [-pi, pi) by whole turns (radians)."""
    return heading(x + math.pi) - math.pi


def heading(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Returns angles moved into [0, 2 pi) by whole turns (radians)."""
    inside = torch.remainder(x, TURN)
    # a tiny negative angle is rounded up to a whole turn
    return torch.where(inside >= TURN, torch.zeros_like(inside), inside)


def grid(bins: int, *, like: Tensor | None = None) -> Float[Tensor, " bins"]:
    """Returns the headings 2 pi n / bins, n = 0, ..., bins - 1 (radians).

    Arguments:
        bins: Number of headings.
        like: Tensor whose dtype and device the result takes; None means float32 on the CPU.
    """
    dtype, device = (torch.float32, None) if like is None else (like.dtype, like.device)
    return torch.arange(bins, dtype=dtype, device=device) * (TURN / bins)


def angular_distance(
    a: Float[Tensor, "..."], b: Float[Tensor, "..."] | float
) -> Float[Tensor, "..."]:
    """Returns the shorter way between angles, in [0, pi] (radians); shapes broadcast."""
    return wrap(a - b).abs()


def circular_mean(
    x: Float[Tensor, "..."], weights: Float[Tensor, "..."] | None = None, *, dim: int = -1
) -> Float[Tensor, "..."]:
    """Returns the argument of sum w e^{ix} along `dim`, in [0, 2 pi) (radians).

    Arguments:
        x: Angles in radians.
        weights: Non-negative weights that broadcast against `x`; None means equal ones.
        dim: The axis that is averaged away.
    """
    w = torch.ones_like(x) if weights is None else weights
    return heading(torch.atan2((w * x.sin()).sum(dim), (w * x.cos()).sum(dim)))


def check_radians(name: str, x: Tensor, *, kind: Literal["heading", "turn"] = "heading") -> None:
    """Refuses angles that are no numbers and warns when they look like degrees.

    Arguments:
        name: Name of the argument, for the message.
        x: The angles.
        kind: "heading" for directions, "turn" for differences of directions.

    Raises:
        TypeError: If `x` is no tensor or holds integers.
        ValueError: If a value is NaN or infinite.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{name} must be a tensor of radians, got {type(x).__name__}: use torch.tensor({name})"
        )
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point radians, got {x.dtype}: use .float()")
    if x.numel() == 0:
        return
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite values of {x.numel()}: "
            "remove or interpolate them"
        )
    largest = float(x.abs().max())
    if largest > TURN + 1e-4:
        usual = "[0, 2 pi)" if kind == "heading" else "[-pi, pi)"
        warnings.warn(
            f"{name} reaches {largest:.4g}: radians are expected, usually in {usual}; values "
            "above 2 pi look like degrees. Convert with deg2rad if they are.",
            UserWarning,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """Returns the stacklevel, for its caller, of the first frame outside of this package.

    Functions that check call each other, so that the line to blame is at no fixed distance.
    """
    level, frame = 0, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    return level
