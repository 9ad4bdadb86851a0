"""How a solve is done, and what it cost."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lv_dynamics.solve.tableau import TABLEAUS

__all__ = ["Method", "Solver", "SolverStatistics"]

Method = Literal[
    "euler",
    "midpoint",
    "rk4",
    "rk4_38",
    "rk5",
    "dopri5",
    "dopri8",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
]
"""The first five have a fixed step; the others choose their steps, by torchdiffeq."""


@dataclass(frozen=True, kw_only=True)
class Solver:
    """Settings of `solve`.

    Raises:
        ValueError: If a number is not positive, or an option does not suit the method.
    """

    method: Method = "rk4"
    """`euler` (order 1), `midpoint` (2), `rk4` (4, the classic scheme), `rk4_38` (4, the 3/8
    rule, which torchdiffeq calls rk4), `rk5` (5, of Dormand and Prince); or one of torchdiffeq's
    adaptive schemes: `dopri5`, `dopri8`, `bosh3`, `fehlberg2`, `adaptive_heun`."""
    step_size: float = 0.1
    """Largest step of a fixed-step method, in the unit of the times; each sequence is cut into
    equal steps of at most this length."""
    steps: int | None = None
    """Number of steps of each sequence, whatever its length; None = from `step_size`."""
    rtol: float = 1e-5
    """Relative tolerance of an adaptive method, held by every sequence."""
    atol: float = 1e-6
    """Absolute tolerance of an adaptive method, in the unit of the state."""
    max_steps: int = 10_000
    """An adaptive method gives up after so many steps between two output times."""
    adjoint: bool = False
    """Whether an adaptive method computes gradients by solving the adjoint equation backwards:
    constant memory, slower, and not the gradient of the numbers that were returned."""
    fused: bool = True
    """Whether fixed-step solves of a `VectorField` with frozen parameters run without a graph
    and with the backward pass written out: the same numbers up to rounding, faster."""
    check: bool = True
    """Whether to check times and states, and raise for a sequence that diverges; False leaves
    NaN or infinity in that sequence alone, for samplers that reject it."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise ValueError(f"unknown method {self.method!r}; there are: {known}")
        for name in ("step_size", "rtol", "atol"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("steps", "max_steps"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if self.adjoint and self.fixed:
            raise ValueError(
                f"adjoint needs an adaptive method such as 'dopri5', got {self.method!r}, whose "
                "gradients are those of its own steps"
            )

    @property
    def fixed(self) -> bool:
        """Whether the method has a fixed step."""
        return self.method in TABLEAUS


@dataclass(kw_only=True)
class SolverStatistics:
    """What solves cost; `solve` adds to it.

    Example:
        >>> cost = SolverStatistics()
        >>> states = solve(field, start, times, statistics=cost)
        >>> cost.evaluations
    """

    solves: int = 0
    """Number of solves."""
    evaluations: int = 0
    """Number of times the field was evaluated forwards, each on the whole batch."""
    steps: int = 0
    """Number of steps of fixed-step methods."""
