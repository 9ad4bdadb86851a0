"""Predator and prey."""

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences
from lv_dynamics.systems.drawing import between, check_interval, first_point_free, time_grid
from lv_dynamics.systems.integration import integrate

__all__ = ["lotka_volterra"]


def lotka_volterra(
    n: int,
    rows: int = 100,
    *,
    step: float = 0.1,
    times: Float[Tensor, "..."] | None = None,
    growth: tuple[float, float] = (1.0, 3.5),
    predation: tuple[float, float] = (0.5, 0.6),
    death: tuple[float, float] = (1.0, 3.5),
    conversion: tuple[float, float] = (0.2, 0.3),
    start: tuple[float, float] = (1.0, 5.0),
    noise: float = 0.3,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns noisy predator-prey cycles, x' = alpha x - beta x y, y' = delta x y - gamma y.

    All four rates and both starts are uniform in their intervals. The cycles have high, narrow
    peaks; they are solved for the logarithms in float64, to a relative error of about 1e-7. The
    noise is uniform, noise U(0, 1), on all points but the first. The same generator state with
    `noise=0.0` gives the same sequences without noise.

    Arguments:
        n: Number of sequences.
        rows: Points in each.
        step: Time from one point to the next.
        times: Times instead of rows and step, shape `(T,)` or `(n, T)`, rising, from 0 on.
        growth: Interval of alpha, the growth rate of the prey.
        predation: Interval of beta.
        death: Interval of gamma, the death rate of the predators.
        conversion: Interval of delta.
        start: Interval of both populations at t = 0, above 0.
        noise: Width of the noise, not negative.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values (prey, predators) `(n, T, 2)` and the factors alpha, beta, gamma,
        delta, and start `(n, 2)`.

    Source:
        Auzina et al., "Modulated neural ODEs", 2023, code.
    """
    rates = {"growth": growth, "predation": predation, "death": death, "conversion": conversion}
    for name, interval in rates.items():
        check_interval(name, interval)
    check_interval("start", start, 1e-6)
    check_interval("noise", (0.0, noise))
    grid = time_grid(n, rows, step, times)
    alpha, beta, gamma, delta = (between((n,), rates[name], generator) for name in rates)
    first = between((n, 2), start, generator)

    def derivative(logs: Tensor) -> Tensor:
        prey, predators = logs.exp().unbind(-1)
        return torch.stack([alpha - beta * predators, delta * prey - gamma], -1)

    x = integrate(derivative, first.log(), grid, step=1 / 320).exp()
    x = x + noise * first_point_free(between(tuple(x.shape), (0.0, 1.0), generator))
    factors = {"alpha": alpha, "beta": beta, "gamma": gamma, "delta": delta, "start": first}
    return Sequences(grid, x, factors=factors).to(dtype)
