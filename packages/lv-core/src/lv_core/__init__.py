"""Log densities, samplers, chains and diagnostics for latent-variable models."""

from importlib.metadata import version

from lv_core.chains import ChainBank, ChainState, StepInfo, Trace
from lv_core.density import (
    Evaluation,
    LogDensity,
    Sum,
    posterior,
    tempered,
    value_and_grad,
)
from lv_core.errors import DivergenceError
from lv_core.freeze import frozen
from lv_core.kernels import GradientStep, Kernel, Langevin, Mala, Sequence
from lv_core.random import Shard, Source, normal, stream, uniform

__version__ = version("lv-core")

__all__ = [
    "ChainBank",
    "ChainState",
    "DivergenceError",
    "Evaluation",
    "GradientStep",
    "Kernel",
    "Langevin",
    "LogDensity",
    "Mala",
    "Sequence",
    "Shard",
    "Source",
    "StepInfo",
    "Sum",
    "Trace",
    "frozen",
    "normal",
    "posterior",
    "stream",
    "tempered",
    "uniform",
    "value_and_grad",
]
