"""Priors over latent variables, and how they are learned."""

from importlib.metadata import version

from lv_priors.base import Prior, PriorLoss
from lv_priors.distribution import prior_distribution
from lv_priors.energy import BoundEnergyPrior, EnergyPrior, contrastive_loss
from lv_priors.flow import FlowPrior
from lv_priors.gaussian import GaussianPrior
from lv_priors.heads import PropertyHead, TargetTransform
from lv_priors.health import EnergyHealth, Health, LayeredHealth, SymbolHealth, TransportHealth
from lv_priors.layered import LayeredPrior, Level
from lv_priors.ratio import RatioEstimator, RatioPrior, StageSettings, n2ce_loss, waymarks
from lv_priors.symbol import SymbolEnergyPrior
from lv_priors.transport import TransportPrior

__version__ = version("lv-priors")

__all__ = [
    "BoundEnergyPrior",
    "EnergyHealth",
    "EnergyPrior",
    "FlowPrior",
    "GaussianPrior",
    "Health",
    "LayeredHealth",
    "LayeredPrior",
    "Level",
    "Prior",
    "PriorLoss",
    "PropertyHead",
    "RatioEstimator",
    "RatioPrior",
    "StageSettings",
    "SymbolEnergyPrior",
    "SymbolHealth",
    "TargetTransform",
    "TransportHealth",
    "TransportPrior",
    "contrastive_loss",
    "n2ce_loss",
    "prior_distribution",
    "waymarks",
]
