"""Head-direction cells as a learned representation of the rotation group."""

from importlib.metadata import version

from lv_neuro.analysis import path_integration, principal_circle, topography, tuning_summary
from lv_neuro.baselines import AnalyticRing, RingAttractor, RnnSettings, SinCosRnn
from lv_neuro.code import RingCode
from lv_neuro.losses import kernel_loss, rollout_loss
from lv_neuro.model import HeadDirectionModel
from lv_neuro.recorded import (
    BayesianDecoder,
    Recording,
    cross_decode,
    load_csv,
    load_npz,
    load_nwb,
    load_recorded,
    poisson_spikes,
    synthetic_recording,
)
from lv_neuro.report import report
from lv_neuro.training import Trainer, Training
from lv_neuro.transforms import (
    AdditiveRecurrence,
    ConvRecurrence,
    LinearGroup,
    LinearPoly,
    TableRecurrence,
    TaylorRecurrence,
    Transformation,
)
from lv_neuro.walks import Integration, PathIntegrator, Walks, random_walks

__version__ = version("lv-neuro")

__all__ = [
    "AdditiveRecurrence",
    "AnalyticRing",
    "BayesianDecoder",
    "ConvRecurrence",
    "HeadDirectionModel",
    "Integration",
    "LinearGroup",
    "LinearPoly",
    "PathIntegrator",
    "Recording",
    "RingAttractor",
    "RingCode",
    "RnnSettings",
    "SinCosRnn",
    "TableRecurrence",
    "TaylorRecurrence",
    "Trainer",
    "Training",
    "Transformation",
    "Walks",
    "cross_decode",
    "kernel_loss",
    "load_csv",
    "load_npz",
    "load_nwb",
    "load_recorded",
    "path_integration",
    "poisson_spikes",
    "principal_circle",
    "random_walks",
    "report",
    "rollout_loss",
    "synthetic_recording",
    "topography",
    "tuning_summary",
]
