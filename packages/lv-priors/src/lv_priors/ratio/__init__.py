"""Density ratios by telescoping, noise-intensified contrast, and the prior built on them."""

from lv_priors.ratio.estimator import RatioEstimator
from lv_priors.ratio.learning import FitRecord
from lv_priors.ratio.loss import RatioMass, chance_loss, n2ce_loss
from lv_priors.ratio.network import StageNetwork, StageSettings
from lv_priors.ratio.prior import RatioPrior
from lv_priors.ratio.waymarks import (
    Moments,
    balanced_schedule,
    ldebm_schedule,
    linear_schedule,
    moments,
    power_schedule,
    waymark_moments,
    waymarks,
)

__all__ = [
    "FitRecord",
    "Moments",
    "RatioEstimator",
    "RatioMass",
    "RatioPrior",
    "StageNetwork",
    "StageSettings",
    "balanced_schedule",
    "chance_loss",
    "ldebm_schedule",
    "linear_schedule",
    "moments",
    "n2ce_loss",
    "power_schedule",
    "waymark_moments",
    "waymarks",
]
