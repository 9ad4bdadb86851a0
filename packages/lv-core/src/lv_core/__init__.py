"""Log densities, samplers, chains and diagnostics for latent-variable models."""

from importlib.metadata import version

from lv_core.bank import ChainBank
from lv_core.chains import ChainState, StepInfo, Trace
from lv_core.density import (
    Evaluates,
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
from lv_core.random import Draws, Shard, Source, normal, stream, uniform
from lv_core.schedule import Cosine, Geometric, Linear, Polynomial, Schedule

__version__ = version("lv-core")

__all__ = [
    "ChainBank",
    "ChainState",
    "Cosine",
    "DivergenceError",
    "Draws",
    "Evaluates",
    "Evaluation",
    "Geometric",
    "GradientStep",
    "Kernel",
    "Langevin",
    "Linear",
    "LogDensity",
    "Mala",
    "Polynomial",
    "Schedule",
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
