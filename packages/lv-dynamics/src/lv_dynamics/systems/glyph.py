"""Digits drawn by strokes: pictures of ten classes that need no download."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Glyphs", "glyph_digits"]


class Glyphs(NamedTuple):
    """Pictures of digits."""

    images: Float[Tensor, "digits height width"]
    """Gray values in [0, 1], ink is 1."""
    labels: Int[Tensor, " digits"]
    """Which digit, 0..9, int64."""


class Arc(NamedTuple):
    """Part of an ellipse; angles in turns, 0 is right, 0.25 is down."""

    x: float
    y: float
    wide: float
    high: float
    first: float
    last: float

    def points(self) -> "Line":
        """Returns points along the arc, to be joined by straight lines."""
        turns = (self.first + (self.last - self.first) * k / ARC for k in range(ARC + 1))
        return tuple(
            (
                self.x + self.wide * math.cos(2 * math.pi * turn),
                self.y + self.high * math.sin(2 * math.pi * turn),
            )
            for turn in turns
        )


Line = tuple[tuple[float, float], ...]
ARC = 24  # pieces of an arc

# Points (x, y) joined by lines, and arcs, in the box [-1, 1] x [-1, 1]; y points down.
STROKES: tuple[tuple[Line | Arc, ...], ...] = (
    (Arc(0.0, 0.0, 0.6, 0.95, 0.0, 1.0),),
    (((-0.35, -0.55), (0.1, -0.95), (0.1, 0.95)),),
    (Arc(0.0, -0.45, 0.55, 0.5, 0.5, 1.08), ((0.5, -0.25), (-0.6, 0.95), (0.6, 0.95))),
    (Arc(-0.05, -0.47, 0.5, 0.48, 0.58, 1.25), Arc(-0.05, 0.47, 0.6, 0.48, 0.75, 1.42)),
    (((0.3, 0.95), (0.3, -0.95), (-0.6, 0.4), (0.65, 0.4)),),
    (((0.5, -0.95), (-0.45, -0.95), (-0.5, -0.1)), Arc(-0.05, 0.35, 0.6, 0.6, 0.62, 1.42)),
    (Arc(0.0, 0.4, 0.55, 0.55, 0.0, 1.0), ((0.35, -0.95), (-0.2, -0.5), (-0.55, 0.35))),
    (((-0.6, -0.95), (0.6, -0.95), (-0.15, 0.95)),),
    (Arc(0.0, -0.47, 0.45, 0.48, 0.0, 1.0), Arc(0.0, 0.47, 0.57, 0.48, 0.0, 1.0)),
    (Arc(0.0, -0.4, 0.55, 0.55, 0.0, 1.0), ((0.55, -0.35), (0.45, 0.4), (0.1, 0.95))),
)


def glyph_digits(
    n: int,
    *,
    size: int = 28,
    labels: Int[Tensor, " digits"] | None = None,
    generator: torch.Generator | None = None,
) -> Glyphs:
    """Returns gray pictures of digits, drawn by strokes in a hand of their own.

    Each picture has a random slant, width, height, turn of up to 8 degrees, shift of up to one
    pixel, thickness, and a tremble of its strokes; intensity falls off softly at their edge. They
    are easier than handwriting: use them to try things out, not to report numbers.

    Arguments:
        n: Number of pictures.
        size: Pixels in a row and in a column.
        labels: Which digits, 0..9, shape `(n,)`; None means drawn at random.
        generator: Source of randomness; None means torch's global one.

    Raises:
        ValueError: If n is not positive, size below 8, or labels are not n digits.

    Example:
        >>> digits = glyph_digits(500, generator=stream(0, "digits"))
        >>> turning = rotating_digits(digits.images, digits.labels, 100)
    """
    if n < 1 or size < 8:
        raise ValueError(f"n must be positive and size at least 8, got {n=}, {size=}")
    device = torch.device("cpu") if generator is None else generator.device
    if labels is None:
        digits = torch.randint(10, (n,), generator=generator, device=device)
    elif labels.shape == (n,) and bool(((labels >= 0) & (labels <= 9)).all()):
        digits = labels.long().to(device)
    else:
        raise ValueError(f"labels must hold {n} digits 0..9, got shape {tuple(labels.shape)}")
    segments, used = _segments()
    ends = segments.to(device)[digits]  # (n, pieces, 2 ends, 2)
    lot = torch.rand(n, 7, generator=generator, device=device) * 2 - 1
    bend = torch.randn(n, 4, generator=generator, device=device)
    slant, wide, high, turn, right, down, thick = lot.T[..., None, None]
    x, y = ends.unbind(-1)
    # a smooth wave, so that pieces stay joined
    b = 0.05 * bend[..., None, None]
    x, y = x + b[:, 0] * (2 * y + b[:, 2] * 40).sin(), y + b[:, 1] * (2 * x + b[:, 3] * 40).cos()
    x, y = x * (1 + 0.15 * wide) + 0.25 * slant * y, y * (1 + 0.1 * high)
    a = math.radians(8) * turn
    x, y = x * a.cos() - y * a.sin(), x * a.sin() + y * a.cos()
    # 0.34 of the picture on either side of the center, as handwritten sets leave a margin
    scale = 0.34 * size
    points = torch.stack([x * scale + right, y * scale + down], -1) + (size - 1) / 2
    distance = _distance(points, size).masked_fill(~used.to(device)[digits][..., None], math.inf)
    width = (1.25 + 0.45 * thick) * size / 28
    images = torch.sigmoid((width[:, :, 0] - distance.amin(1)) * 3 * 28 / size)
    return Glyphs(images.reshape(n, size, size), digits)


def _segments() -> tuple[Tensor, Tensor]:
    """Returns the lines of each digit, (10, pieces, 2, 2), and which are used, (10, pieces)."""
    digits = [[line for stroke in strokes for line in _lines(stroke)] for strokes in STROKES]
    longest = max(map(len, digits))
    lines = torch.zeros(10, longest, 2, 2)
    used = torch.zeros(10, longest, dtype=torch.bool)
    for digit, found in enumerate(digits):
        lines[digit, : len(found)] = torch.tensor(found)
        used[digit, : len(found)] = True
    return lines, used


def _lines(stroke: Line | Arc) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    points = stroke.points() if isinstance(stroke, Arc) else stroke
    return list(pairwise(points))


def _distance(points: Tensor, size: int) -> Tensor:
    """Returns the distance of each pixel from each line, (n, pieces, size * size)."""
    at = torch.arange(size, device=points.device, dtype=points.dtype)
    pixels = torch.stack([at.repeat(size), at.repeat_interleave(size)], -1)  # (x, y)
    first, last = points[..., :1, :], points[..., 1:, :]
    along = last - first
    square = along.square().sum(-1).clamp(min=1e-12)
    share = (((pixels - first) * along).sum(-1) / square).clamp(0, 1)
    away = pixels - first - share[..., None] * along
    return away.square().sum(-1).sqrt()
