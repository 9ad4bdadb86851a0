"""Made-up recordings: head turns, cells with chosen tuning, and spikes drawn from rates."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.signal import lfilter
from torch import Tensor

from lv_neuro import angles
from lv_neuro.angles import check_radians
from lv_neuro.recorded.recording import Recording, whole_bins

__all__ = [
    "HeadDirectionCells",
    "draw_cells",
    "head_turns",
    "poisson_spikes",
    "synthetic_recording",
]


def poisson_spikes(
    rates: Float[Tensor, "*batch"], seconds: float, *, generator: torch.Generator | None = None
) -> Int[Tensor, "*batch"]:
    """Draws numbers of spikes, Poisson with mean rates * seconds.

    Arguments:
        rates: Firing rates in Hz of any model, any shape.
        seconds: Length of the time bin that each rate holds for.
        generator: Source of randomness on the device of `rates`; None means torch's global one.

    Raises:
        ValueError: If a rate is negative or not finite, or `seconds` is not positive.

    Example:
        >>> import torch
        >>> poisson_spikes(torch.zeros(3, 2), 0.01)
        tensor([[0, 0],
                [0, 0],
                [0, 0]])
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be positive and finite, got {seconds}")
    bad = ~((rates >= 0) & torch.isfinite(rates))
    if bool(bad.any()):
        raise ValueError(
            f"rates must be finite and not negative (Hz), got {int(bad.sum())} of {rates.numel()} "
            f"that are not, the first {float(rates[bad][0]):.4g}"
        )
    return torch.poisson(rates * seconds, generator=generator).long()


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadDirectionCells:
    """Cells with bump-shaped tuning.

    rate_i(x) = baseline_i + (peak_i - baseline_i) exp(-d(x, preferred_i)^2 / (2 width_i^2))

    where d is the angle between two headings.
    """

    preferred: Float[Tensor, " cells"]
    """Preferred headings, radians."""
    width: Float[Tensor, " cells"]
    """Standard deviations of the bumps, radians, positive."""
    peak: Float[Tensor, " cells"]
    """Rates at the preferred heading, Hz."""
    baseline: Float[Tensor, " cells"]
    """Rates far from it, Hz, not negative and not above the peak."""

    def __post_init__(self) -> None:
        check_radians("preferred", self.preferred)
        check_radians("width", self.width)
        if not bool((self.width > 0).all()):
            raise ValueError(
                f"width must be positive (radians), got {float(self.width.min()):.4g}"
            )
        if not bool(((self.baseline >= 0) & (self.baseline <= self.peak)).all()):
            raise ValueError(
                "baseline must be between 0 and peak (Hz) for every cell, got baselines from "
                f"{float(self.baseline.min()):.4g} and peaks from {float(self.peak.min()):.4g}"
            )

    def rates(self, heading: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch cells"]:
        """Returns the firing rates in Hz at headings in radians."""
        away = angles.angular_distance(heading[..., None], self.preferred)
        bump = torch.exp(-0.5 * (away / self.width) ** 2)
        return self.baseline + (self.peak - self.baseline) * bump


def draw_cells(
    cells: int = 20,
    *,
    width: tuple[float, float] = (math.radians(17), math.radians(33)),
    peak: tuple[float, float] = (2.0, 70.0),
    baseline: tuple[float, float] = (0.0, 0.5),
    generator: torch.Generator | None = None,
) -> HeadDirectionCells:
    """Draws cells as unequal as recorded ones.

    Preferred headings are uniform and independent, hence spread unevenly; widths and baselines are
    uniform in their ranges, peaks uniform in their logarithm. The ranges are those of 19 cells of
    a mouse (data set head_direction).

    Arguments:
        cells: How many.
        width: Range of the bumps' standard deviations, radians.
        peak: Range of the peak rates, Hz.
        baseline: Range of the baseline rates, Hz.
        generator: Source of randomness; None means torch's global one.

    Raises:
        ValueError: If a number is out of range.
    """
    if cells < 1:
        raise ValueError(f"cells must be positive, got {cells}")
    for name, (low, high) in {"width": width, "peak": peak, "baseline": baseline}.items():
        lowest = 0.0 if name == "baseline" else 1e-9
        if not lowest <= low <= high:
            raise ValueError(f"{name} must be a positive range from low to high, got {low, high}")
    unit = torch.rand(4, cells, generator=generator)
    return HeadDirectionCells(
        preferred=angles.heading(angles.TURN * unit[0]),
        width=width[0] + (width[1] - width[0]) * unit[1],
        peak=peak[0] * (peak[1] / peak[0]) ** unit[2],
        baseline=baseline[0] + (baseline[1] - baseline[0]) * unit[3],
    )


def head_turns(
    seconds: float,
    *,
    bin_seconds: float = 0.01,
    speed: float = math.radians(120),
    correlation: float = 0.12,
    bursts: float = 0.6,
    bursts_correlation: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " bins"]:
    """Draws a heading whose angular velocity is an Ornstein-Uhlenbeck process of uneven strength.

    velocity = speed * exp(bursts * s - bursts^2) * v

    where v and s are independent Ornstein-Uhlenbeck processes of variance one. The mean square of
    the velocity is speed^2 whatever `bursts` is; s makes it vary between rest and vivid turning,
    so that small and large velocities are both more frequent than in a Gaussian. With the default
    values, velocities in 200 ms steps have about the standard deviation (85 deg/s), median size
    (38) and 95th percentile (182) of a recorded mouse (data set head_direction).

    Arguments:
        seconds: Length, a multiple of `bin_seconds`.
        bin_seconds: Length of a time bin.
        speed: Standard deviation of the velocity, radians per second.
        correlation: Time constant of v, seconds.
        bursts: Standard deviation of the logarithm of the strength; 0 gives a plain
            Ornstein-Uhlenbeck velocity.
        bursts_correlation: Time constant of s, seconds.
        generator: Source of randomness; None means torch's global one.

    Returns:
        Headings in radians in [0, 2 pi), float32; the first is uniform.

    Raises:
        ValueError: If a number is out of range.
    """
    bins = whole_bins("seconds", seconds, bin_seconds)
    for name, value, lowest in (
        ("speed", speed, 0.0),
        ("bursts", bursts, 0.0),
        ("correlation", correlation, 1e-9),
        ("bursts_correlation", bursts_correlation, 1e-9),
    ):
        if not lowest <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    start = angles.TURN * torch.rand((), dtype=torch.float64, generator=generator)
    noise = torch.randn(2, bins, dtype=torch.float64, generator=generator)
    strength = torch.exp(bursts * _unit_process(noise[0], bin_seconds / bursts_correlation))
    fast = _unit_process(noise[1], bin_seconds / correlation)
    velocity = speed * math.exp(-(bursts**2)) * strength * fast
    path = start + bin_seconds * (velocity.cumsum(0) - velocity[0])
    return angles.heading(angles.heading(path).float())


def synthetic_recording(
    seconds: float = 600.0,
    *,
    cells: int | HeadDirectionCells = 20,
    bin_seconds: float = 0.01,
    heading: Float[Tensor, " bins"] | None = None,
    generator: torch.Generator | None = None,
) -> Recording:
    """Draws a recording of head-direction cells: movement, cells where not given, and spikes.

    Arguments:
        seconds: Length, a multiple of `bin_seconds`; is that of `heading` where one is given.
        cells: The cells, or how many to draw with `draw_cells`.
        bin_seconds: Length of a time bin.
        heading: Headings in radians, such as an own trajectory; None draws them by `head_turns`.
        generator: Source of randomness; None means torch's global one.

    Example:
        >>> import torch
        >>> recording = synthetic_recording(10, generator=torch.Generator().manual_seed(0))
        >>> recording.counts.shape
        torch.Size([1000, 20])
    """
    if isinstance(cells, int):
        cells = draw_cells(cells, generator=generator)
    if heading is None:
        heading = head_turns(seconds, bin_seconds=bin_seconds, generator=generator)
    counts = poisson_spikes(cells.rates(heading), bin_seconds, generator=generator)
    return Recording(counts=counts, heading=heading, bin_seconds=bin_seconds)


def _unit_process(noise: Float[Tensor, " bins"], step: float) -> Float[Tensor, " bins"]:
    """Returns an Ornstein-Uhlenbeck process of variance one; `step` is in time constants."""
    keep = math.exp(-step)
    fresh = math.sqrt(-math.expm1(-2 * step))
    driven = fresh * noise
    driven[0] = noise[0]  # starts in its stationary distribution
    return torch.from_numpy(lfilter([1.0], [1.0, -keep], driven.numpy()))
