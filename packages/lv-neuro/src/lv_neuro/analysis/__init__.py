"""Measures of tuning, of the ring and of its dynamics, for models and recorded cells alike."""

from lv_neuro.analysis.alignment import Alignment, align, align_directions, rotate
from lv_neuro.analysis.dynamics import (
    ErrorCorrection,
    GeneratorFrequencies,
    PathErrors,
    RingModel,
    error_correction,
    generator_frequencies,
    group_law,
    identity_error,
    path_integration,
)
from lv_neuro.analysis.gaussian import GaussianFit, gaussian_fit
from lv_neuro.analysis.rayleigh import RayleighTest, rayleigh_test
from lv_neuro.analysis.ring import PrincipalCircle, kernel_error, principal_circle, topography
from lv_neuro.analysis.summary import TuningSummary, tuning_summary
from lv_neuro.analysis.topology import Persistence, persistence
from lv_neuro.analysis.tuning import (
    MeanVector,
    active,
    bumps,
    half_width,
    largest_gap,
    mean_vector,
    preferred_directions,
    untuned,
)

__all__ = [
    "Alignment",
    "ErrorCorrection",
    "GaussianFit",
    "GeneratorFrequencies",
    "MeanVector",
    "PathErrors",
    "Persistence",
    "PrincipalCircle",
    "RayleighTest",
    "RingModel",
    "TuningSummary",
    "active",
    "align",
    "align_directions",
    "bumps",
    "error_correction",
    "gaussian_fit",
    "generator_frequencies",
    "group_law",
    "half_width",
    "identity_error",
    "kernel_error",
    "largest_gap",
    "mean_vector",
    "path_integration",
    "persistence",
    "preferred_directions",
    "principal_circle",
    "rayleigh_test",
    "rotate",
    "topography",
    "tuning_summary",
    "untuned",
]
