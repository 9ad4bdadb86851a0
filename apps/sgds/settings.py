"""Settings of the SGDS app; the defaults are the paper's."""

from dataclasses import dataclass
from typing import Literal

from apps._runner import RunSettings

__all__ = ["Data", "Evaluate", "Inference", "Model", "Objective", "Settings", "Shift", "Train"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which molecules are learned from."""

    source: Literal["zinc250k", "embedded"] = "zinc250k"
    """zinc250k with the official hold-out [code], or molecules that lv-molecule makes itself"""
    molecules: int | None = None
    """training molecules, a fixed random subset; None = all"""
    holdout: int = 10_000
    """held-out molecules: test set, and first pool of the design rounds [code]"""
    max_length: int = 72
    """longest string in SELFIES symbols [code]"""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of the networks."""

    latent: int = 100
    """length of z [code]"""
    embedding: int = 512
    """width of token embeddings [code]"""
    hidden: int = 1024
    """width of the LSTM [code]"""
    dropout: float = 0.2
    """on embeddings and LSTM outputs [code]"""
    prior_hidden: int = 200
    """width of the two hidden layers of the prior's tilt [code]"""
    head_hidden: int = 200
    """width of the two hidden layers of a property head [code]"""
    prior_scale: float = 0.5
    """standard deviation of the reference normal [code]"""
    precision: float = 10.0
    """weight of the squared property error, here of standardised values [code: of raw values]"""
    score_padding: bool = True
    """count every padded place in the likelihood [code]; False counts up to the end symbol"""
    inference_mode: Literal["train", "eval"] = "train"
    """dropout on inside the posterior chain [code], or off"""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Short-run chains."""

    posterior_steps: int = 20
    """steps given molecule and properties, from N(0, I) [code]"""
    prior_steps: int = 20
    """steps of the prior [code]"""
    step_size: float = 0.5
    """s: drift s^2/2, noise s [code]"""
    noise_factor: float = 0.5
    """factor c of the noise, i.e. temperature c^2 [code]"""
    clip: float | None = None
    """largest gradient norm of one chain; None = no limit [code]"""
    joint: bool = False
    """one gradient for all terms instead of the two stages of the code"""
    warm_steps: int | None = None
    """steps when a molecule is met again, from where its chain stopped; None = always start cold
    [code]"""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Maximum-likelihood learning."""

    epochs: int = 25
    """passes over the training molecules [code, p-logP and QED]"""
    batch_size: int = 1024
    """molecules per update over all processes [code]"""
    lr: float = 1e-3
    """Adam, decoder and heads [code]"""
    prior_lr: float = 1e-4
    """Adam, prior [code]"""
    clip: float = 5.0
    """gradient norm of decoder and heads [code]"""
    prior_clip: float = 1.0
    """gradient norm of the prior [code]"""
    save_every: int = 50
    """updates between checkpoints"""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What one design task does."""

    rounds: int = 50
    """rounds of sampling, selection and learning [code: up to 50 for p-logP, 30 for QED]"""
    delta: float = 1.0
    """step of the target in raw units [code: 1.0 for p-logP, 0.02 for QED]"""
    cold: bool = False
    """start chains anew each round [code: for QED] instead of from stored latents"""
    steps: int = 2
    """chain steps per round [code: 2 warm, 20 cold]"""
    min_length: int = 0
    """end symbol forbidden before this many symbols"""
    max_length: int = 72
    """longest string that is sampled"""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Gradual distribution shifting."""

    tasks: tuple[Literal["plogp", "qed", "plogp_unlimited"], ...] = (
        "plogp",
        "plogp_unlimited",
        "qed",
    )
    """design tasks; plogp_unlimited goes on from the end of plogp"""
    pool: int = 10_000
    """molecules kept [code]"""
    samples: int = 10_000
    """strings decoded per round; repeats cost no oracle call [code]"""
    batch_size: int = 1000
    """molecules per update while learning from the pool [code]"""
    learn_steps: int = 20
    """posterior steps per update [code: cold]"""
    learn_warm: bool = False
    """start those chains from the pool's latents, and store where they end; [code: cold]"""
    learn_clip: float | None = None
    """gradient norm of decoder and heads in the rounds; None = no clipping [code]"""
    passes: int = 1
    """passes over the pool per round [code]"""
    workers: int = 0
    """oracle processes; 0 evaluates in the run's own process"""
    timeout: float | None = None
    """seconds one oracle call may take; needs workers; None = no limit"""
    unguided: bool = True
    """also run the p-logP task without the property term: selection and learning alone"""
    plogp: Objective = Objective()
    """p-logP within the length limit"""
    plogp_unlimited: Objective = Objective(rounds=5, min_length=550, max_length=600)
    """p-logP with the end symbol forbidden at first [code: 550 symbols; 600 is ours]"""
    qed: Objective = Objective(rounds=30, delta=0.02, cold=True, steps=20)
    """QED"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured after training, before any shifting."""

    molecules: int = 1000
    """held-out molecules for reconstruction, and molecules drawn from the prior"""
    targets: int = 5
    """property targets, evenly spaced between the 5 and 95 % points of the training values"""
    per_target: int = 500
    """molecules generated for each"""


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Molecule design by a latent-space energy-based prior and gradual distribution shifting."""

    seed: int = 3435
    """all random numbers of the run are derived from it [code]"""
    seeds: int = 1
    """runs side by side with seeds seed, seed + 1, ...; more than one makes one report of all"""
    processes: int = 2
    """how many of them at a time, each on one thread"""
    publish: bool = False
    """also write results/sgds/<preset>-<device>.json"""
    data_set: Data = Data()
    """molecules"""
    model: Model = Model()
    """networks"""
    inference: Inference = Inference()
    """chains"""
    train: Train = Train()
    """learning"""
    shift: Shift = Shift()
    """design"""
    evaluate: Evaluate = Evaluate()
    """evaluation"""
