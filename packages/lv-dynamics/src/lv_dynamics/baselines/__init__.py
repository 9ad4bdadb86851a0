"""Forecasters to compare with."""

from lv_dynamics.baselines.interpolation import constant_velocity, hold_last, linear_interpolation

__all__ = ["constant_velocity", "hold_last", "linear_interpolation"]
