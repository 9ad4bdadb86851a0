"""Forecasters to compare with, all with `fit(train)` and `predict(observed, times)`."""

from lv_dynamics.baselines.gru import GruForecaster, GruSettings
from lv_dynamics.baselines.interpolation import constant_velocity, hold_last, linear_interpolation
from lv_dynamics.baselines.latent_ode import LatentOde
from lv_dynamics.baselines.monode import MonodeLike
from lv_dynamics.baselines.trivial import Trivial, training_mean

__all__ = [
    "GruForecaster",
    "GruSettings",
    "LatentOde",
    "MonodeLike",
    "Trivial",
    "constant_velocity",
    "hold_last",
    "linear_interpolation",
    "training_mean",
]
