"""Solving initial value problems with one time grid for each sequence."""

from lv_dynamics.solve.call import solve
from lv_dynamics.solve.errors import SolveError
from lv_dynamics.solve.grid import TimeGrid
from lv_dynamics.solve.settings import Method, Solver, SolverStatistics

__all__ = ["Method", "SolveError", "Solver", "SolverStatistics", "TimeGrid", "solve"]
