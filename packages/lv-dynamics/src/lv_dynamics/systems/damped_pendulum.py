"""Damped pendulums of different lengths."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences
from lv_dynamics.systems.drawing import between, check_interval, time_grid
from lv_dynamics.systems.integration import integrate

__all__ = ["pendulum"]

GRAVITY = 9.81


def pendulum(
    n: int,
    rows: int = 50,
    *,
    step: float = 0.1,
    times: Float[Tensor, "..."] | None = None,
    length: tuple[float, float] = (1.0, 4.0),
    damping: tuple[float, float] = (0.0, 0.2),
    angle: tuple[float, float] = (-2.0, 2.0),
    velocity: tuple[float, float] = (-1.0, 1.0),
    observe: Literal["angle", "state", "position"] = "angle",
    noise: float = 0.05,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns noisy swings of pendulums, angle'' = -(g / length) sin(angle) - damping angle'.

    The length is static and sets the period; with `observe="angle"` the velocity has to be
    inferred, so that a model needs order 2 or hidden states. The noise is Gaussian, on all points.

    Arguments:
        n: Number of sequences.
        rows: Points in each.
        step: Seconds from one point to the next.
        times: Times instead of rows and step, shape `(T,)` or `(n, T)`, rising, from 0 on.
        length: Interval of the length in meters, above 0.
        damping: Interval of the damping in 1/s.
        angle: Interval of the angle at t = 0 in radians, 0 hangs down.
        velocity: Interval of the angular velocity at t = 0 in rad/s.
        observe: "angle"; "state", angle and velocity; or "position" of the bob, x to the right
            and y upwards, in meters.
        noise: Standard deviation of the noise, not negative.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values `(n, T, 1)` or `(n, T, 2)` and the factors length, damping, angle,
        velocity.
    """
    check_interval("length", length, 1e-6)
    check_interval("damping", damping)
    check_interval("angle", angle, -float("inf"))
    check_interval("velocity", velocity, -float("inf"))
    check_interval("noise", (0.0, noise))
    if observe not in ("angle", "state", "position"):
        raise ValueError(f"unknown observe {observe!r}; there are: angle, position, state")
    grid = time_grid(n, rows, step, times)
    size, drag = between((n,), length, generator), between((n,), damping, generator)
    first = torch.stack([between((n,), angle, generator), between((n,), velocity, generator)], -1)

    def derivative(state: Tensor) -> Tensor:
        theta, omega = state.unbind(-1)
        return torch.stack([omega, -GRAVITY / size * theta.sin() - drag * omega], -1)

    state = integrate(derivative, first, grid, step=1 / 200)
    theta = state[..., :1]
    if observe == "position":
        x = size[:, None, None] * torch.cat([theta.sin(), -theta.cos()], -1)
    else:
        x = theta if observe == "angle" else state
    device = "cpu" if generator is None else generator.device
    lot = torch.randn(x.shape, dtype=torch.float64, generator=generator, device=device).cpu()
    factors = {"length": size, "damping": drag, "angle": first[:, 0], "velocity": first[:, 1]}
    return Sequences(grid, x + noise * lot, factors=factors).to(dtype)
