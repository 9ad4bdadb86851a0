"""Balls that bounce in a box with friction, as states and as frames."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences
from lv_dynamics.systems.drawing import between, check_interval

__all__ = ["BallStates", "ball_frames", "ball_states", "bouncing_balls"]

HALF = 5.0  # half the side of the box
RADIUS = 1.0
MOVES = 10  # from one frame to the next


class BallStates(NamedTuple):
    """Where balls are and how they move, at each frame."""

    position: Float[Tensor, "batch time balls 2"]
    """Positions (x, y) in the box [-5, 5]^2."""
    velocity: Float[Tensor, "batch time balls 2"]
    """Velocities per frame."""
    friction: Float[Tensor, " batch"]
    """By how much friction slows a ball from frame to frame."""


def bouncing_balls(
    n: int,
    rows: int = 20,
    *,
    balls: int = 1,
    step: float = 1.0,
    friction: tuple[float, float] = (0.0, 0.02),
    size: int = 28,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns frames of balls that bounce in a box and are slowed by friction.

    See `ball_states` for the motion and `ball_frames` for the pictures.

    Arguments:
        n: Number of sequences.
        rows: Frames in each.
        balls: Balls in each; more than four hardly fit at the start.
        step: Time from one frame to the next; changes the clock only, not the motion.
        friction: Interval of the friction, uniform, one for each sequence.
        size: Pixels in a row.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values in [0, 1] `(n, T, 1, size, size)` and the factors friction,
        position and velocity, the latter two at the first frame, `(n, balls, 2)`.

    Source:
        Auzina et al., "Modulated neural ODEs", 2023, code, after Sutskever, Hinton and Taylor,
        "The recurrent temporal restricted Boltzmann machine", 2008.
    """
    if size < 1 or not step > 0:
        raise ValueError(f"size and step must be positive, got {size=}, {step=}")
    states = ball_states(n, rows, balls=balls, friction=friction, generator=generator)
    frames = ball_frames(states.position.to(dtype), size=size)
    factors = {
        "friction": states.friction,
        "position": states.position[:, 0],
        "velocity": states.velocity[:, 0],
    }
    times = torch.arange(rows, dtype=dtype) * step
    cast = {name: factor.to(dtype) for name, factor in factors.items()}
    return Sequences(times, frames, factors=cast)


def ball_states(
    n: int,
    rows: int = 20,
    *,
    balls: int = 1,
    friction: tuple[float, float] = (0.0, 0.02),
    generator: torch.Generator | None = None,
) -> BallStates:
    """Returns the motion of balls of radius 1 in the box [-5, 5]^2.

    Positions start uniform in [-3, 3]^2 without overlap; velocities have a random direction and
    together the norm 1. At each frame friction takes its amount off every speed (a slower ball
    stops), the state is recorded, then follow 10 moves of a tenth of the velocity. After each
    move a ball that overlaps a wall gets its velocity turned inwards, and balls that overlap and
    approach each other exchange their velocities along the line of centers (equal masses).

    Arguments:
        n: Number of sequences.
        rows: Frames in each.
        balls: Balls in each.
        friction: Interval of the friction, uniform, one for each sequence.
        generator: Source of randomness; None means torch's global one.

    Returns:
        float64.

    Raises:
        ValueError: If a number is not positive, or balls do not fit in.
    """
    if n < 1 or rows < 1 or not 1 <= balls <= 4:
        raise ValueError(
            f"n and rows must be positive and balls in 1..4, got {n=}, {rows=}, {balls=}"
        )
    check_interval("friction", friction)
    slowing = between((n,), friction, generator)
    device = "cpu" if generator is None else generator.device
    v = torch.randn(n, balls, 2, dtype=torch.float64, generator=generator, device=device).cpu()
    v = v / v.flatten(1).norm(dim=1)[:, None, None]
    x = between((n, balls, 2), (-3.0, 3.0), generator)
    while bool((crowded := _overlaps(x).flatten(1).any(1)).any()):
        x[crowded] = between((int(crowded.sum()), balls, 2), (-3.0, 3.0), generator)
    positions, velocities = [], []
    for _ in range(rows):
        speed = v.norm(dim=-1, keepdim=True)
        left = (speed - slowing[:, None, None]).clamp(min=0)
        v = v * torch.where(speed > 0, left / speed, 0.0)
        positions.append(x)
        velocities.append(v)
        for _ in range(MOVES):
            x = x + v / MOVES
            v = torch.where(x - RADIUS < -HALF, v.abs(), v)
            v = torch.where(x + RADIUS > HALF, -v.abs(), v)
            v = _collided(x, v)
    return BallStates(torch.stack(positions, 1), torch.stack(velocities, 1), slowing)


def _overlaps(x: Tensor) -> Tensor:
    """Returns which pairs overlap, upper triangle, (n, balls, balls)."""
    square = (x[:, :, None] - x[:, None]).square().sum(-1)
    return (square < 4 * RADIUS**2).triu(1)


def _collided(x: Tensor, v: Tensor) -> Tensor:
    for i in range(x.shape[1]):
        for j in range(i):
            line = x[:, i] - x[:, j]
            distance = line.norm(dim=-1, keepdim=True)
            w = line / distance
            approach = (w * (v[:, i] - v[:, j])).sum(-1, keepdim=True)
            # The codes before us swap on every overlap; balls that part already then stick.
            hit = (distance < 2 * RADIUS) & (approach < 0)
            push = torch.where(hit, approach * w, 0.0)
            v = v.clone()
            v[:, i] -= push
            v[:, j] += push
    return v


def ball_frames(
    position: Float[Tensor, "*batch balls 2"], *, size: int = 28
) -> Float[Tensor, "*batch 1 size size"]:
    """Returns pictures of balls, min(1, sum_i exp(-(|pixel - x_i|^2 / r^2)^4)).

    Arguments:
        position: Positions (x, y) in [-5, 5]^2; x runs along a row of pixels, y down the rows.
        size: Pixels in a row; a pixel is the center of a cell of the box.
    """
    at = (torch.arange(size, dtype=position.dtype, device=position.device) + 0.5) / size
    at = at * 2 * HALF - HALF
    x, y = position[..., None, None].unbind(-3)
    square = (at - x).square() + (at[:, None] - y).square()
    return (-(square / RADIUS**2).pow(4)).exp().sum(-3).clamp(max=1)[..., None, :, :]
