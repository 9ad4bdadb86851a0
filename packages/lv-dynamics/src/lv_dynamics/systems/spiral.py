"""Pieces of spirals that turn one way or the other."""

import math

import torch

from lv_dynamics.sequences import Sequences

__all__ = ["spirals"]

POINTS = 500  # of a whole spiral, on t in [0, 6 pi]
PIECE = 100  # points of a sequence
GROWTH = 0.3  # of the radius per radian


def spirals(
    n: int,
    *,
    noise: float = 0.3,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns noisy pieces of 100 points of two spirals, a fair coin says of which.

    With T = 6 pi and 500 points t of [0, T]: the clockwise one has the angle w = T + 1 - t, the
    radius 50 b / w and its center at (-5, 0); the other one the angle t, the radius b t and its
    center at (5, 0); b = 0.3. A piece begins at a random one of the points 100..399, but all
    pieces have the times of the first 100 points. The noise is Gaussian.

    Arguments:
        n: Number of sequences.
        noise: Standard deviation of the noise, not negative.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values `(n, 100, 2)` and the factors clockwise (0 or 1, int64) and begin
        (number of the first point, int64).

    Source:
        Chen et al., "Neural ordinary differential equations", 2018; example of torchdiffeq.
    """
    if n < 1 or not 0 <= noise < math.inf:
        raise ValueError(f"n must be positive and noise not negative, got {n=}, {noise=}")
    device = "cpu" if generator is None else generator.device
    stop = 6 * math.pi
    t = torch.linspace(0, stop, POINTS, dtype=torch.float64)
    back = stop + 1 - t
    whole = torch.stack(
        [
            torch.stack([GROWTH * t * t.cos() + 5, GROWTH * t * t.sin()], -1),
            torch.stack(
                [GROWTH * 50 / back * back.cos() - 5, GROWTH * 50 / back * back.sin()], -1
            ),
        ]
    )
    clockwise = torch.randint(2, (n,), generator=generator, device=device).cpu()
    begin = torch.randint(PIECE, POINTS - PIECE, (n,), generator=generator, device=device).cpu()
    x = whole[clockwise[:, None], begin[:, None] + torch.arange(PIECE)]
    lot = torch.randn(x.shape, dtype=torch.float64, generator=generator, device=device).cpu()
    factors = {"clockwise": clockwise, "begin": begin}
    return Sequences(t[:PIECE], x + noise * lot, factors=factors).to(dtype)
