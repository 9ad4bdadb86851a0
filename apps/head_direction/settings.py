"""Settings of the head-direction app.

No code was published and the paper's numbers could not be read: every default is ours, chosen by
trial so that the claims of the paper come out.
"""

from dataclasses import dataclass
from typing import Literal

from apps._runner import RunSettings
from lv_neuro import Training
from lv_neuro.baselines import RnnSettings
from lv_neuro.losses import AntiCollapse
from lv_neuro.model import DEFAULTS, Variant

__all__ = ["Baselines", "Evaluate", "Recorded", "Ring", "Settings", "Sweep"]


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The code book and what keeps it from collapsing."""

    bins: int = 100
    """headings N on the grid"""
    max_step: int = 5
    """largest turn K, in bins"""
    neurons: int = 100
    """size d of the rectified networks"""
    linear_neurons: int = 50
    """size d of the linear ones"""
    sigma: float = 0.65
    """width of the target kernel in radians; tuning comes out sigma / sqrt(2) wide"""
    anti_collapse: AntiCollapse = "kernel"
    """target of the inner products; "none" is an ablation: codes collapse"""
    non_negative: bool = True
    """rates cannot be negative; False is an ablation: no bumps"""
    renormalize: Literal["default", "yes", "no"] = "default"
    """divide F by its norm; default = yes for rectified networks, no for linear ones"""
    kernel_width: int = 21
    """neurons that a kernel of the convolutional network covers"""
    channels: int = 1
    """rings of the convolutional network"""
    readout: Literal["codebook", "learned"] = "codebook"
    """how headings are decoded"""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Grid of models beside the main ones; empty lists mean none."""

    sigmas: tuple[float, ...] = ()
    """kernel widths in radians"""
    neurons: tuple[int, ...] = ()
    """population sizes"""
    variants: tuple[Variant, ...] = ("fc_table", "conv", "linear_group")
    """transformations"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured."""

    walks: int = 200
    """random walks of path integration"""
    lengths: tuple[int, ...] = (100, 1000)
    """turns after which its error is given"""
    noise: tuple[float, ...] = (0.0, 0.05, 0.1)
    """expected norm of the noise after each turn, relative to a code's norm 1"""
    segments: int = 60
    """segments of recorded head turns"""
    seconds: int = 30
    """length of each"""


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What the models are held against."""

    rnn: bool = True
    """train the recurrent networks that report sine and cosine"""
    rnn_training: RnnSettings = RnnSettings()
    """their size and training; both ReLU and tanh are trained"""
    matched_units: int = 0
    """units of one more ReLU network with about as many parameters as fc_table; 0 = none"""
    matched_batch_size: int = 200
    """walks in one of its updates"""
    analytic: bool = True
    """the closed-form ring and the hand-built ring attractor"""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Recorded cells to compare with."""

    source: Literal["head_direction", "file", "synthetic"] = "head_direction"
    """the recorded mouse cells, a file of yours, or cells that lv-neuro makes itself"""
    path: str = ""
    """with "file": an .npz with arrays counts, heading and bin_seconds, or an .nwb file"""
    heading: str = "heading"
    """name of the headings in the file, in radians"""
    missing: Literal["error", "drop", "interpolate"] = "error"
    """what happens where the heading is not known"""
    folds: float = 30.0
    """seconds of the alternate blocks that decoding is trained and tested on"""
    window: float = 0.2
    """seconds of spikes for one decoded heading"""


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Head-direction cells as a representation of the rotation group."""

    seeds: int = 3
    """seeds seed, seed + 1, ..., trained stacked in one run"""
    processes: int = 2
    """models at a time, each on one thread"""
    publish: bool = False
    """also write results/head_direction/<preset>-<device>.json"""
    variants: tuple[Variant, ...] = ("fc_table", "conv", "linear_group")
    """main models"""
    ablations: bool = True
    """also train without non-negativity, without anti-collapse loss and without normalization"""
    ring: Ring = Ring()
    """codes"""
    rectified: Training = Training()
    """training of fc_table and fc_taylor"""
    conv: Training = DEFAULTS["conv"]
    """training of conv"""
    linear: Training = DEFAULTS["linear_group"]
    """training of linear_group; linear_poly and additive are trained with lv-neuro's defaults"""
    sweep: Sweep = Sweep()
    """grid of further models"""
    evaluate: Evaluate = Evaluate()
    """measures"""
    baselines: Baselines = Baselines()
    """baselines"""
    recorded: Recorded = Recorded()
    """recorded cells"""
    save_every: int = 500
    """updates between checkpoints of a model"""
