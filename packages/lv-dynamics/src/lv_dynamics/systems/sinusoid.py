"""Sinusoids of random frequency, phase and amplitude."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences
from lv_dynamics.systems.drawing import between, check_interval, first_point_free, time_grid

__all__ = ["irregular_times", "periodic", "sinusoids"]


def sinusoids(
    n: int,
    rows: int = 50,
    *,
    step: float = 0.1,
    times: Float[Tensor, "..."] | None = None,
    frequency: tuple[float, float] = (0.5, 1.0),
    amplitude: tuple[float, float] = (1.0, 4.0),
    noise: float = 0.2,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns noisy sinusoids x(t) = A sin(2 pi (f t + phi)) + noise U(0, 1).

    The noise is uniform and has the mean noise / 2, which no model can tell from a bias; it is
    absent at the first point. Once the bias is learned, the squared error that remains is
    noise^2 / 12 (0.0033). Phases are uniform. The same generator state with `noise=0.0` gives the
    same sequences without noise.

    Arguments:
        n: Number of sequences.
        rows: Points in each.
        step: Time from one point to the next.
        times: Times instead of rows and step, shape `(T,)` or `(n, T)`, rising, from 0 on.
        frequency: Interval of f in cycles per unit of time; (1.0, 1.25) lies outside the usual.
        amplitude: Interval of A.
        noise: Width of the noise, not negative.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values `(n, T, 1)` and the factors frequency, amplitude, phase (in cycles).

    Source:
        Auzina et al., "Modulated neural ODEs", 2023. Their text and one version of their code
        differ in the range of A; here A is U(1, 4).
    """
    check_interval("frequency", frequency)
    check_interval("amplitude", amplitude)
    check_interval("noise", (0.0, noise))
    grid = time_grid(n, rows, step, times)
    phase = between((n,), (0.0, 1.0), generator)
    f, a = between((n,), frequency, generator), between((n,), amplitude, generator)
    x = a[:, None] * torch.sin(2 * math.pi * (f[:, None] * grid + phase[:, None]))
    x = x + noise * first_point_free(between(tuple(grid.shape), (0.0, 1.0), generator))
    factors = {"frequency": f, "amplitude": a, "phase": phase}
    return Sequences(grid, x[..., None], factors=factors).to(dtype)


def periodic(
    n: int,
    rows: int = 100,
    *,
    times: Float[Tensor, "..."] | None = None,
    horizon: float = 5.0,
    frequency: tuple[float, float] = (0.4, 0.8),
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns sinusoids on one irregular grid, x(t) = sin(2 pi f t) + c + noise U(0, 1).

    The offset is c = 1 + 0.1 N(0, 1); the phase is 0 for all. Without `times` the first time is 0
    and the others are uniform in (0, horizon), the same for all sequences: give the training
    set's times to the test set. Thin them for what a model may see, `.thin(count=50)`. The noise
    is as that of `sinusoids`.

    Arguments:
        n: Number of sequences.
        rows: Points in each.
        times: Times instead of drawn ones, shape `(T,)` or `(n, T)`, rising, from 0 on.
        horizon: End of the interval of times.
        frequency: Interval of f in cycles per unit of time.
        noise: Width of the uniform noise, not negative.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values `(n, T, 1)` and the factors frequency and offset.

    Source:
        Rubanova et al., "Latent ODEs for irregularly-sampled time series", 2019, code.
    """
    check_interval("frequency", frequency)
    check_interval("noise", (0.0, noise))
    if times is None:
        time_grid(n, rows, 1.0, None)
        times = irregular_times(rows, horizon, generator=generator)
    grid = time_grid(n, rows, 1.0, times)
    f = between((n,), frequency, generator)
    device = "cpu" if generator is None else generator.device
    lot = torch.randn(n, dtype=torch.float64, generator=generator, device=device).cpu()
    offset = 1.0 + 0.1 * lot
    x = torch.sin(2 * math.pi * f[:, None] * grid) + offset[:, None]
    x = x + noise * first_point_free(between(tuple(grid.shape), (0.0, 1.0), generator))
    return Sequences(grid, x[..., None], factors={"frequency": f, "offset": offset}).to(dtype)


def irregular_times(
    rows: int, horizon: float = 5.0, *, generator: torch.Generator | None = None
) -> Float[Tensor, " time"]:
    """Returns 0 and rows - 1 sorted times uniform in (0, horizon), float64.

    Times that would be equal in float32 are drawn anew.

    Arguments:
        rows: Number of times.
        horizon: End of the interval.
        generator: Source of randomness; None means torch's global one.
    """
    if rows < 1 or not 0 < horizon < math.inf:
        raise ValueError(f"rows and horizon must be positive, got {rows=}, {horizon=}")
    while True:
        drawn = between((rows - 1,), (0.0, horizon), generator)
        times = torch.cat([drawn.new_zeros(1), drawn]).sort().values
        if bool((times.float().diff() > 0).all()):
            return times
