"""What all generators share: time grids, uniform numbers, noise on all points but the first."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["between", "check_interval", "first_point_free", "time_grid"]

Interval = tuple[float, float]


def time_grid(n: int, rows: int, step: float, times: Tensor | None) -> Float[Tensor, "batch time"]:
    """Returns the times of n sequences in float64: those given, or 0, step, 2 step, ...

    Raises:
        ValueError: If n, rows or step is not positive, or `times` is not (T,) or (n, T).
    """
    if n < 1 or rows < 1 or not step > 0:
        raise ValueError(f"n, rows and step must be positive, got {n=}, {rows=}, {step=}")
    grid = torch.arange(rows, dtype=torch.float64) * step if times is None else times.double()
    if grid.ndim not in (1, 2) or (grid.ndim == 2 and len(grid) != n):
        raise ValueError(
            f"times must have shape (T,) or ({n}, T), one row for each sequence, got "
            f"{tuple(grid.shape)}"
        )
    return grid.cpu().expand(n, -1)


def check_interval(name: str, interval: Interval, lowest: float = 0.0) -> None:
    """Refuses an interval that is not rising or goes below `lowest`."""
    low, high = interval
    if not lowest <= low <= high < float("inf"):
        raise ValueError(
            f"{name} must be an interval (low, high) with {lowest:g} <= low <= high, got "
            f"{interval}"
        )


def between(
    shape: tuple[int, ...], interval: Interval, generator: torch.Generator | None
) -> Tensor:
    """Draws float64 numbers uniform in the interval, on the CPU."""
    low, high = interval
    device = "cpu" if generator is None else generator.device
    lot = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    return low + (high - low) * lot.cpu()


def first_point_free(noise: Float[Tensor, "batch time ..."]) -> Float[Tensor, "batch time ..."]:
    """Returns the noise with zeros at the first point of each sequence."""
    return torch.cat([torch.zeros_like(noise[:, :1]), noise[:, 1:]], 1)
