"""Estimates and bounds of the log evidence of latent-variable models."""

from lv_core.evidence.ais import AisResult, ais, ais_reverse
from lv_core.evidence.bounds import elbo, iwae, log_weights, renyi
from lv_core.evidence.estimate import LogEstimate, effective_sample_size, log_mean_exp
from lv_core.evidence.joint import Joint, Proposal
from lv_core.evidence.path import Base, temperatures
from lv_core.evidence.psis import SmoothedWeights, psis, psis_khat
from lv_core.evidence.sandwich import Sandwich, bdmc, bidirectional
from lv_core.evidence.tune import StepTable, tune_path

__all__ = [
    "AisResult",
    "Base",
    "Joint",
    "LogEstimate",
    "Proposal",
    "Sandwich",
    "SmoothedWeights",
    "StepTable",
    "ais",
    "ais_reverse",
    "bdmc",
    "bidirectional",
    "effective_sample_size",
    "elbo",
    "iwae",
    "log_mean_exp",
    "log_weights",
    "psis",
    "psis_khat",
    "renyi",
    "temperatures",
    "tune_path",
]
