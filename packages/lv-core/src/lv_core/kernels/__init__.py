"""Markov kernels: frozen records of their settings that are called to run."""

from lv_core.kernels.base import Kernel, StepSize, Temperature
from lv_core.kernels.compose import Sequence
from lv_core.kernels.langevin import GradientStep, Langevin
from lv_core.kernels.mala import Mala

__all__ = ["GradientStep", "Kernel", "Langevin", "Mala", "Sequence", "StepSize", "Temperature"]
