"""Settings that change from step to step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

from torch import Tensor

__all__ = ["Cosine", "Geometric", "Linear", "Polynomial", "Schedule", "at"]

Schedule = Callable[[int], float]
"""Maps the number of steps done, counted from 0, to the value that the next step uses."""


@overload
def at(value: float | Schedule, step: int) -> float: ...
@overload
def at(value: float | Tensor | Schedule, step: int) -> float | Tensor: ...
def at(value: float | Tensor | Schedule, step: int) -> float | Tensor:
    """Returns a setting at a step: what a schedule says, or the constant itself."""
    return value(step) if callable(value) else value


@dataclass(frozen=True, kw_only=True)
class _Ramp:
    start: float
    """value of the first step"""
    end: float
    """value of step `steps - 1` and of all later ones"""
    steps: int
    """how many steps the change takes"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"start and end must be finite, got {self.start} and {self.end}")

    def _share(self, step: int) -> float:
        return min(max(step / max(self.steps - 1, 1), 0.0), 1.0)


class Linear(_Ramp):
    """From `start` to `end` in equal differences, then constant."""

    def __call__(self, step: int) -> float:
        """Returns the value at `step`."""
        return self.start + (self.end - self.start) * self._share(step)


class Cosine(_Ramp):
    """From `start` to `end` along half a period of a cosine, then constant."""

    def __call__(self, step: int) -> float:
        """Returns the value at `step`."""
        return self.end + (self.start - self.end) * 0.5 * (
            1 + math.cos(math.pi * self._share(step))
        )


class Geometric(_Ramp):
    """From `start` to `end` in equal ratios, then constant; both must be positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start > 0 and self.end > 0):
            raise ValueError(f"start and end must be positive, got {self.start} and {self.end}")

    def __call__(self, step: int) -> float:
        """Returns the value at `step`."""
        return float(self.start * (self.end / self.start) ** self._share(step))


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """`scale (shift + step)^(-power)`: the decay under which stochastic gradients converge.

    Raises:
        ValueError: If a setting is not positive.

    Source:
        Welling and Teh, "Bayesian learning via stochastic gradient Langevin dynamics", 2011.
    """

    scale: float
    """factor"""
    shift: float = 1.0
    """added to the step, so that the first value is `scale shift^(-power)`"""
    power: float = 1 / 3
    """exponent; for Langevin step sizes s (drift s^2/2) theory has powers in (1/4, 1/2]"""

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def __call__(self, step: int) -> float:
        """Returns the value at `step`."""
        return float(self.scale * (self.shift + step) ** -self.power)
