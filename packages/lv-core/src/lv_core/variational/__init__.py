"""Approximate posteriors: one for each item, fitted by gradient steps or started by an encoder."""

from lv_core.variational.adamw import AdamW, Moments
from lv_core.variational.fit import LocalFit
from lv_core.variational.gaussian import DiagonalGaussian, free_nats
from lv_core.variational.objective import ElboTerms, elbo_terms
from lv_core.variational.refine import Refinement, refine
from lv_core.variational.state import FitResult, FitState, FitTrace

__all__ = [
    "AdamW",
    "DiagonalGaussian",
    "ElboTerms",
    "FitResult",
    "FitState",
    "FitTrace",
    "LocalFit",
    "Moments",
    "Refinement",
    "elbo_terms",
    "free_nats",
    "refine",
]
