"""Settings of the ltm app; the defaults are the paper's."""

from dataclasses import dataclass
from typing import Literal

from apps._runner import RunSettings
from lv_text import Inference, ThoughtConfig

__all__ = ["Corpus", "Evaluate", "Generate", "Settings", "Study", "Train", "Variant"]

Variant = Literal["ar", "fixed", "fresh", "amortised", "semi_amortised", "path_sum", "wide"]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The text."""

    source: Literal["sample", "books", "folder"] = "books"
    """text that lv-text makes itself, the classic books, or files of yours"""
    folder: str = ""
    """with "folder": .txt, .jsonl or .jsonl.xz files (a "text" in each line); names that begin
    with valid or test are held out"""
    shards: int = 12
    """how many of the books' 12 training shards"""
    documents: int = 2000
    """documents of the made text"""
    vocabulary: int = 0
    """tokens of an own BPE trained on the text; 0 = GPT-2's vocabulary [paper]"""
    blocks: Literal["stream", "document"] = "stream"
    """stream: blocks cross documents [code]; document: each begins with its document"""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Slow learning of the decoder."""

    iterations: int = 60_000
    """updates [code]"""
    batch_size: int = 512
    """sequences per update over all processes [code: 64 x 8]"""
    micro_batch: int = 64
    """sequences at a time; the rest is accumulated [code]"""
    lr: float = 4e-4
    """AdamW's largest step size [code]"""
    lr_end: float = 0.1
    """share of it at the end of the cosine [code]"""
    warm_up: int = 1000
    """updates over which it rises [code]"""
    weight_decay: float = 0.1
    """on matrices only [code]"""
    clip: float = 1.0
    """largest norm of the gradient [code]"""
    slow_grad: Literal["final", "path_sum"] = "final"
    """final: gradient at the inferred latents; path_sum: plus those of all fast steps, which the
    released code lets leak into the update; for parity studies"""
    known: float = 1.0
    """share of each sequence from whose tokens latents are inferred in training; the paper's 1
    scores what inference has seen, 0.5 trains for the predictive protocol"""
    late: float = 0.0
    """share of the updates in which the decoder learns without latents first; the paper's is 0"""
    warm_start: bool = False
    """begin inference where the block's last visit ended; a cold start is the paper's"""
    kl_warm_up: float = 0.0
    """share of the iterations over which the divergence's weight rises from 0 to 1; none in the
    paper"""
    compile: bool = False
    """whether the decoder's layers are compiled for training: saves about a seventh of an update
    at small sizes, after a build of a minute or two"""
    save_every: int = 200
    """updates between checkpoints"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured on held-out text."""

    blocks: int = 200
    """held-out blocks"""
    batch_size: int = 16
    """blocks at a time"""
    steps: tuple[int, ...] = (16, 32, 64)
    """inference steps, at fixed weights"""
    samples: int = 16
    """fresh draws of the valid bounds"""
    every: int = 0
    """updates between quick evaluations during training, for the curves; 0 = ten in all"""
    quick_blocks: int = 32
    """blocks of those"""
    priors: tuple[Literal["gaussian", "flow"], ...] = ()
    """further priors, fitted after training on the posteriors of training blocks: the Gaussian
    of their mean and variance, a masked autoregressive flow (needs zuko)"""
    prior_blocks: int = 512
    """training blocks that those are fitted on"""
    test_blocks: int = 0
    """blocks of the test split, scored once with the inference of training; choices that were
    made by the other held-out split are confirmed there"""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Samples for the report."""

    samples: int = 4
    """prior samples"""
    tokens: int = 0
    """length; 0 = the model's"""
    temperature: float = 1.0
    """0 = greedy"""
    top_p: float = 1.0
    """smallest set of tokens with this mass"""
    scale: float = 1.0
    """factor on prior draws; the released script tries 0.5 to 1"""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Pieces of apps/ltm/study.py in place of the variants, each at the baseline's operations."""

    pieces: tuple[str, ...] = ()
    """names, or "all"; empty = no study"""
    finalists: tuple[str, ...] = ()
    """those that get all seeds; the others get the first one"""


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Language models with latent thoughts, and bounds that can be believed."""

    seeds: int = 1
    """seeds seed, seed + 1, ..."""
    processes: int = 1
    """models at a time, each on one thread"""
    publish: bool = False
    """also write results/ltm/<preset>-<device>.json"""
    fsdp: bool = False
    """shard parameters over the processes of torchrun (FSDP2) instead of copying them (DDP)"""
    variants: tuple[Variant, ...] = ("ar", "fixed", "fresh")
    """ar: no latents, same blocks; fixed: noise shared over the fast steps [code]; fresh: new
    noise in each [paper, algorithm 1]; amortised: variational autoencoder with the same decoder;
    semi_amortised: fast steps from its encoder; path_sum: fixed with slow_grad path_sum
    [code]; wide: fixed with twice as many latents"""
    parity_seeds: int = 0
    """seeds of path_sum and wide; 0 = as many as the others"""
    corpus: Corpus = Corpus()
    """text"""
    model: ThoughtConfig = ThoughtConfig()
    """sizes; its vocabulary follows from the text"""
    inference: Inference = Inference()
    """fast learning; its noise and method follow from the variant"""
    train: Train = Train()
    """slow learning"""
    evaluate: Evaluate = Evaluate()
    """measures"""
    generate: Generate = Generate()
    """samples"""
    study: Study = Study()
    """a study in place of the variants"""
