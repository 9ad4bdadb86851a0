"""Latent neural ODEs with energy-based priors: sequences on their own time grids, no encoder."""

from importlib.metadata import version

from lv_dynamics.config import OdeConfig
from lv_dynamics.emission import ConvEmission, LinearEmission, PerceptronEmission
from lv_dynamics.field import VectorField
from lv_dynamics.forecast import Forecast, Swapped, forecast, swap_static
from lv_dynamics.inference import infer
from lv_dynamics.inference_settings import InferenceSettings
from lv_dynamics.learning import Learner, LearningSettings, fit
from lv_dynamics.model import EnergyOde
from lv_dynamics.observation import Bernoulli, GaussianNoise
from lv_dynamics.ood import OodScores, ood_score
from lv_dynamics.posterior import Posterior
from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.records import GeneratedSequences
from lv_dynamics.scaling import Scaling
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import SolveError, Solver, SolverStatistics, TimeGrid, solve

__version__ = version("lv-dynamics")

__all__ = [
    "Bernoulli",
    "ConvEmission",
    "EnergyOde",
    "Forecast",
    "GaussianNoise",
    "GeneratedSequences",
    "InferenceSettings",
    "Learner",
    "LearningSettings",
    "LinearEmission",
    "OdeConfig",
    "OodScores",
    "PerceptronEmission",
    "Posterior",
    "RecognitionNetwork",
    "Scaling",
    "Sequences",
    "SolveError",
    "Solver",
    "SolverStatistics",
    "Swapped",
    "TimeGrid",
    "VectorField",
    "fit",
    "forecast",
    "infer",
    "ood_score",
    "solve",
    "swap_static",
]
