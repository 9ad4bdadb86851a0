"""Paths from one thought to another."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["interpolate"]

STRAIGHT = 1e-4
"""Angle in radians below which the formula of the arc divides zero by zero."""


def interpolate(
    start: Float[Tensor, "*batch layers slots width"],
    end: Float[Tensor, "*batch layers slots width"],
    *,
    points: int = 9,
    kind: Literal["linear", "spherical"] = "spherical",
) -> Float[Tensor, "points *batch layers slots width"]:
    """Returns latents on the way from one to another, both included.

    linear:     z_t = (1 - t) a + t b
    spherical:  z_t = |z_t| (sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin(w),  w the angle of a
                and b, |z_t| = |a|^(1 - t) |b|^t

    The whole latent of a sequence is one vector. In many dimensions draws of N(0, I) all have
    nearly the same length, and the middle of the straight line between two of them is shorter by
    a factor of 0.7 than anything that the decoder has seen; the arc keeps the length.

    Arguments:
        start: Latents a.
        end: Latents b, same shape.
        points: Latents on each path, 2 or more.
        kind: linear or spherical.

    Raises:
        ValueError: If shapes differ, there are too few points, the kind is unknown, or on an arc
            a latent is zero or both point in opposite directions.

    Source:
        Shoemake, "Animating rotation with quaternion curves", 1985, for the arc.

    Example:
        >>> path = interpolate(z[0], z[1], points=5)
        >>> generate(model, z=path, bos=257, new_tokens=100)
    """
    if start.shape != end.shape or start.ndim < 3:
        raise ValueError(
            "start and end must have one shape (*batch, layers, slots, width), got "
            f"{tuple(start.shape)} and {tuple(end.shape)}"
        )
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends, got {points}")
    if kind not in ("linear", "spherical"):
        raise ValueError(f"unknown kind {kind!r}; there are: linear, spherical")
    t = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)
    t = t.view(-1, *[1] * start.ndim)
    if kind == "linear":
        return torch.lerp(start, end, t)
    axes = (-3, -2, -1)
    a, b = (x.square().sum(axes, keepdim=True).sqrt() for x in (start, end))
    if not bool((torch.minimum(a, b) > 0).all()):
        raise ValueError("start and end must not be zero on an arc, got a zero: use kind='linear'")
    one, other = start / a, end / b
    # Accurate for all angles, unlike the arc cosine, which loses half the digits near 0 and pi.
    apart = (one - other).square().sum(axes, keepdim=True).sqrt()
    along = (one + other).square().sum(axes, keepdim=True).sqrt()
    if bool((along < STRAIGHT).any()):
        raise ValueError(
            "start and end must not point in opposite directions on an arc, got a pair that does, "
            "and no arc is shorter than the others: use kind='linear'"
        )
    angle = 2 * torch.atan2(apart, along)
    sine = angle.sin()
    near = angle < STRAIGHT
    sine = sine.where(~near, torch.ones_like(sine))
    first = (((1 - t) * angle).sin() / sine).where(~near, 1 - t)
    second = ((t * angle).sin() / sine).where(~near, t)
    length = a ** (1 - t) * b**t
    path = length * (first * one + second * other)
    path[0], path[-1] = start, end  # not up to rounding
    return path
