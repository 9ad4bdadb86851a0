"""Explicit Runge-Kutta schemes of fixed step."""

from typing import NamedTuple

__all__ = ["TABLEAUS", "Tableau"]


class Tableau(NamedTuple):
    """Coefficients of an explicit scheme for autonomous fields.

    Stage i starts at `y + h sum_j stages[i-1][j] k_j` (stage 0 at y), and the step ends at
    `y + h sum_j weights[j] k_j`. `nodes` is the number of neighbouring steps whose values and
    slopes the output between the steps interpolates: `2 nodes` conditions give an error of order
    `2 nodes` in h, which is at least that of the scheme.
    """

    order: int
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    nodes: int = 2


TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau(1, (), (1.0,)),
    "midpoint": Tableau(2, ((0.5,),), (0.0, 1.0)),
    "rk4": Tableau(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "rk4_38": Tableau(
        4, ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
    # The weights of order five of Dormand and Prince, 1980; six stages.
    "rk5": Tableau(
        5,
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        nodes=3,
    ),
}
"""Name of a method to its scheme."""
