"""Log densities, samplers, local inference, evidence and diagnostics of latent variables."""

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
from lv_core.evidence import (
    AisResult,
    Joint,
    LogEstimate,
    ais,
    ais_reverse,
    bdmc,
    bidirectional,
    elbo,
    iwae,
    psis,
    psis_khat,
    renyi,
)
from lv_core.fast import FastCpu, set_fast_cpu
from lv_core.freeze import frozen
from lv_core.kernels import (
    Adaptation,
    AdaptationState,
    Adapted,
    Annealed,
    Compiled,
    GradientStep,
    Hmc,
    Kernel,
    Langevin,
    Mala,
    Nuts,
    OnlineStepSize,
    ParallelTempering,
    Psgld,
    Sequence,
    Svgd,
    Underdamped,
    adapt,
    geometric_betas,
    max_stable_step,
    tune_betas,
)
from lv_core.pack import Pack
from lv_core.perceptron import PerceptronTarget
from lv_core.random import Draws, Shard, Source, normal, stream, uniform
from lv_core.replay import Drawn, ReplayBuffer
from lv_core.schedule import Cosine, Geometric, Linear, Polynomial, Schedule
from lv_core.variational import DiagonalGaussian, FitResult, LocalFit, Refinement, refine

__version__ = version("lv-core")

__all__ = [
    "Adaptation",
    "AdaptationState",
    "Adapted",
    "AisResult",
    "Annealed",
    "ChainBank",
    "ChainState",
    "Compiled",
    "Cosine",
    "DiagonalGaussian",
    "DivergenceError",
    "Drawn",
    "Draws",
    "Evaluates",
    "Evaluation",
    "FastCpu",
    "FitResult",
    "Geometric",
    "GradientStep",
    "Hmc",
    "Joint",
    "Kernel",
    "Langevin",
    "Linear",
    "LocalFit",
    "LogDensity",
    "LogEstimate",
    "Mala",
    "Nuts",
    "OnlineStepSize",
    "Pack",
    "ParallelTempering",
    "PerceptronTarget",
    "Polynomial",
    "Psgld",
    "Refinement",
    "ReplayBuffer",
    "Schedule",
    "Sequence",
    "Shard",
    "Source",
    "StepInfo",
    "Sum",
    "Svgd",
    "Trace",
    "Underdamped",
    "adapt",
    "ais",
    "ais_reverse",
    "bdmc",
    "bidirectional",
    "elbo",
    "frozen",
    "geometric_betas",
    "iwae",
    "max_stable_step",
    "normal",
    "posterior",
    "psis",
    "psis_khat",
    "refine",
    "renyi",
    "set_fast_cpu",
    "stream",
    "tempered",
    "tune_betas",
    "uniform",
    "value_and_grad",
]
