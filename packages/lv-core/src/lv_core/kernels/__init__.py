"""Markov kernels: frozen records of their settings that are called to run."""

from lv_core.kernels.adaptation import Adaptation, AdaptationState, Adapted, adapt
from lv_core.kernels.annealed import Annealed
from lv_core.kernels.base import Kernel, StepSize, Temperature
from lv_core.kernels.compiled import Compiled
from lv_core.kernels.compose import Sequence
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.langevin import GradientStep, Langevin
from lv_core.kernels.mala import Mala
from lv_core.kernels.nuts import Nuts
from lv_core.kernels.online import OnlineStepSize
from lv_core.kernels.preconditioned import Psgld
from lv_core.kernels.stability import max_stable_step
from lv_core.kernels.svgd import Svgd
from lv_core.kernels.tempering import ParallelTempering, geometric_betas, tune_betas
from lv_core.kernels.underdamped import Underdamped

__all__ = [
    "Adaptation",
    "AdaptationState",
    "Adapted",
    "Annealed",
    "Compiled",
    "GradientStep",
    "Hmc",
    "Kernel",
    "Langevin",
    "Mala",
    "Nuts",
    "OnlineStepSize",
    "ParallelTempering",
    "Psgld",
    "Sequence",
    "StepSize",
    "Svgd",
    "Temperature",
    "Underdamped",
    "adapt",
    "geometric_betas",
    "max_stable_step",
    "tune_betas",
]
