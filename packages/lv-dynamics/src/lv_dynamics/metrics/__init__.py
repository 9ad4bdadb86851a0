"""Scores of predictions, of their uncertainty, and of what the latents mean."""

from lv_dynamics.metrics.error import block_mse, error_curve, median_mse, mse, sequence_mse
from lv_dynamics.metrics.factor import FactorR2, r2_of_factors
from lv_dynamics.metrics.probabilistic import (
    coverage,
    crps,
    gaussian_crps,
    interval_width,
    log_score,
)
from lv_dynamics.metrics.separation import auroc
from lv_dynamics.metrics.swing import Amplitude, amplitude

__all__ = [
    "Amplitude",
    "FactorR2",
    "amplitude",
    "auroc",
    "block_mse",
    "coverage",
    "crps",
    "error_curve",
    "gaussian_crps",
    "interval_width",
    "log_score",
    "median_mse",
    "mse",
    "r2_of_factors",
    "sequence_mse",
]
