"""Settings of the ode_lebm app; the defaults are those of the sinusoid."""

from dataclasses import dataclass, field
from typing import Literal

from apps._runner import RunSettings
from lv_dynamics import InferenceSettings
from lv_dynamics.learning import LearningSettings

__all__ = ["Baseline", "Data", "Evaluate", "Model", "Settings", "System", "Variant"]

System = Literal[
    "sinusoid",
    "predator_prey",
    "bouncing_ball",
    "rotating_digits",
    "hopper",
    "hopper_windows",
    "periodic",
    "mocap",
]
Variant = Literal[
    "energy-static-mcmc",
    "gaussian-static-mcmc",
    "energy-plain-mcmc",
    "gaussian-plain-mcmc",
    "energy-static-encoder",
    "gaussian-static-encoder",
    "energy-plain-encoder",
    "gaussian-plain-encoder",
    "energy-static-short",
]
Baseline = Literal["monode", "gru"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The sequences."""

    source: Literal["made", "files"] = "made"
    """made: by formula, with self-made digits and simulated hoppers; files: MNIST, the hopper
    set and the recorded walks, which are looked for or downloaded"""
    train: int = 0
    """training sequences; 0 = the paper's number"""
    valid: int = 0
    """sequences that choose among weights; 0 = the paper's number"""
    test: int = 0
    """test sequences; 0 = the paper's number"""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes in place of the data set's own; 0 or empty = those of apps/ode_lebm/systems.py."""

    state: int = 0
    """numbers d of the dynamic state, with static variables"""
    static: int = 0
    """numbers q of the static variables; variants without them get d + q dynamic ones"""
    field_hidden: tuple[int, ...] = ()
    """hidden layers of the vector field"""
    emission_hidden: tuple[int, ...] = ()
    """hidden layers of the emission"""
    conv: bool = False
    """pictures by transposed convolutions, as published, in place of a perceptron"""
    step_size: float = 0.0
    """step of the solver, in the time unit of the data"""
    energy_hidden: tuple[int, ...] = (100, 100)
    """hidden layers of the prior's tilt; the code that the paper builds on has 200, 200"""
    energy_l2: float = 0.01
    """weight of the squared tilt"""
    prior_steps: int = 20
    """Langevin steps of a sample of the prior; 60 in that code"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured."""

    inference: InferenceSettings = field(
        default_factory=lambda: InferenceSettings(steps=200, draws=20, weighting="score")
    )
    """how latents of test sequences are inferred"""
    samples: int = 200
    """sequences drawn from the prior"""
    encoder_draws: int = 64
    """draws of the posterior of an encoder"""
    shown: int = 6
    """sequences kept for the figures"""


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Latent energy-based neural ODEs."""

    systems: tuple[System, ...] = ("sinusoid",)
    """data sets"""
    variants: tuple[Variant, ...] = ("energy-static-mcmc", "gaussian-static-mcmc")
    """prior (energy-based or Gaussian), static variables (or plain), inference (persistent chains,
    an encoder, or the paper's short cold chains)"""
    baselines: tuple[Baseline, ...] = ()
    """monode: variational, static variables as means over encoded windows; gru: a recurrent
    forecaster. Forecasts without learning are always shown; the latent ODE of other papers is
    gaussian-plain-encoder"""
    seeds: int = 1
    """seeds seed, seed + 1, ... of models and of their training; the data are those of `seed`"""
    fresh_data: bool = False
    """whether each seed also has data of its own"""
    processes: int = 1
    """models at a time, each on one thread"""
    publish: bool = False
    """also write results/ode_lebm/<preset>-<device>.json"""
    save_every: int = 200
    """updates between checkpoints"""
    encoder_factor: float = 1.0
    """updates of encoder variants and learned baselines for each update with chains, which costs
    about as much with the warm-up; the seconds of all are in the report"""
    short_factor: float = 1.0
    """the same for the paper's short cold chains, which cost several times as much"""
    data_sets: Data = Data()
    """sequences"""
    model: Model = Model()
    """sizes"""
    learning: LearningSettings = field(default_factory=LearningSettings)
    """how models are learned; method and number of updates follow from the variant"""
    evaluate: Evaluate = Evaluate()
    """measures"""
