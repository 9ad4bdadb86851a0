"""Priors over latent variables, and how they are learned."""

from importlib.metadata import version

from lv_priors.base import Prior, PriorLoss
from lv_priors.energy import EnergyPrior, contrastive_loss
from lv_priors.gaussian import GaussianPrior
from lv_priors.heads import PropertyHead, TargetTransform
from lv_priors.health import EnergyHealth

__version__ = version("lv-priors")

__all__ = [
    "EnergyHealth",
    "EnergyPrior",
    "GaussianPrior",
    "Prior",
    "PriorLoss",
    "PropertyHead",
    "TargetTransform",
    "contrastive_loss",
]
