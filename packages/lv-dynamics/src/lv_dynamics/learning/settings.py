"""How a model is learned."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["LearningSettings", "Method", "Shown"]

Method = Literal["persistent", "short_run", "encoder"]
"""Where posterior samples come from: chains that live on, fresh short chains, or a network."""

Shown = Literal["all", "prefixes", "subsets"]
"""What of a sequence a recognition network is given in learning."""


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """How a model is learned; the defaults suit a few hundred sequences of a few dozen rows.

    Shares are of the number of iterations. The persistent method begins with a warm-up that is no
    part of the published algorithm: latents are a table with a row for each sequence, improved by
    Adam along with the weights. It finds the dynamics many times sooner than chains do;
    `warm_up=0` leaves it out. After it every sequence has a chain of its own that lives on.

    Raises:
        ValueError: If a setting is out of range; names it.

    Source:
        Cheng et al., "Latent Space Energy-based Neural ODEs", 2025 (the model, its gradients);
        Pang et al., "Learning Latent Space Energy-Based Prior Model", 2020 (short-run chains).

    Example:
        >>> LearningSettings(method="short_run", curriculum=0.0, anneal=0.0, lr=1e-3)
    """

    method: Method = "persistent"
    """"persistent": warm-up, then an adaptive MALA chain for each sequence; "short_run": fresh
    Langevin chains from N(0, I) in every update; "encoder": a recognition network and the ELBO"""
    iterations: int = 2000
    """updates"""
    batch_size: int = 100
    """sequences of one update, about: the set is divided into equal batches"""

    lr: float = 3e-3
    """Adam's step size for field, emission and recognition network at the start"""
    lr_end: float = 0.03
    """share of `lr` left at the end, along a cosine; 1 = constant"""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates, likewise"""
    clip: float = 10.0
    """largest norm of the gradient of the mean loss per observed entry"""

    warm_up: float = 0.9
    """share spent on the table of latents (persistent method only); 0 = none. An update with
    chains takes several times as long, so 0.9 of the updates are about 0.6 of the time"""
    table_start: float = 0.1
    """standard deviation of the table's start; chains without a warm-up start from N(0, I)"""
    table_lr: float = 0.03
    """Adam's step size for the table"""
    table_noise: float = 0.1
    """standard deviation of the noise on latents of the table; without it they shrink"""

    horizons: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """shares of the observed rows that the stages of the curriculum see; the last must be 1"""
    curriculum: float = 0.5
    """share at which the last stage begins; 0 = the whole horizon from the start"""
    sigma_start: float = 0.5
    """noise level of the likelihood at the start, in standard deviations of the data"""
    sigma_end: float = 0.1
    """where annealing ends if sigma is learned, in the same unit; else at the model's sigma"""
    anneal: float = 0.8
    """share at which sigma has fallen to its end, geometrically; 0 = no annealing. A learned
    sigma follows the residuals from then on"""
    sigma_rate: float = 0.02
    """weight of one batch in the running mean of a learned sigma^2"""

    steps: int = 4
    """steps of a persistent chain at each visit"""
    step_size: float = 0.05
    """MALA's step size at the start; each chain's own follows its acceptance"""
    target_accept: float = 0.574
    """acceptance that step sizes follow"""
    adaptation: float = 0.3
    """change of a chain's log step size per unit of acceptance"""
    langevin_steps: int = 20
    """steps of a short-run chain"""
    langevin_step_size: float = 0.1
    """its step size s (drift s^2/2, noise s); unstable on long horizons unless small"""

    energy_lr: float = 1e-4
    """Adam's step size for the energy prior"""
    energy_betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates, likewise"""
    energy_clip: float = 10.0
    """largest norm of its gradient"""
    energy_from: float | None = None
    """share from which the energy prior is learned; None = when the curriculum ends. Before the
    warm-up ends it learns from rows of the table with their noise"""
    prior_steps: int | None = None
    """steps of the prior's chains while learning; None = the prior's own"""

    kl_warm_up: float = 0.2
    """share over which the weight of the KL divergence grows to its end (encoder method)"""
    kl_weight: float = 1.0
    """its end; 1 = the ELBO"""
    shown: Shown = "prefixes"
    """what the recognition network sees, in half of the sequences, of the rows it has to explain:
    random prefixes, as forecasts ask of it, random subsets, as interpolation does, or all"""
    encoder_hidden: int = 100
    """width of the recognition network made for the encoder method"""

    validate_every: int = 0
    """updates between two validations, from the end of the curriculum on; the last update is
    always validated; 0 = only that one"""
    validation_seen: float = 1.0
    """share of the rows that validation infers from; its error is over all rows"""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise ValueError(f"unknown method {self.method!r}; there are: {known}")
        if self.shown not in get_args(Shown):
            known = ", ".join(get_args(Shown))
            raise ValueError(f"unknown shown {self.shown!r}; there are: {known}")
        for name in ("iterations", "batch_size", "steps", "langevin_steps", "encoder_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a number that is not negative, got {value}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, got {value}")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {value}")
        for name in ("target_accept", "validation_seen", "sigma_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        self._check_lists()

    def _check_lists(self) -> None:
        for name in ("betas", "energy_betas"):
            value = getattr(self, name)
            if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
                raise ValueError(f"{name} must be two numbers in [0, 1), got {value}")
        rising = all(a < b for a, b in zip(self.horizons, self.horizons[1:], strict=False))
        if not self.horizons or not rising or self.horizons[0] <= 0 or self.horizons[-1] != 1:
            raise ValueError(
                f"horizons must be rising shares of which the last is 1, got {self.horizons}"
            )
        if self.prior_steps is not None and self.prior_steps < 1:
            raise ValueError(f"prior_steps must be at least 1 or None, got {self.prior_steps}")

    def progress(self, done: int) -> float:
        """Returns the share of the iterations that is done; 1 for all that come after the last."""
        return min(done / self.iterations, 1.0)

    def in_warm_up(self, done: int) -> bool:
        """Returns whether the update after `done` ones works on the table of latents."""
        return self.method == "persistent" and self.progress(done) < self.warm_up

    def learns_energy(self, done: int) -> bool:
        """Returns whether the update after `done` ones learns the energy prior."""
        start = self.curriculum if self.energy_from is None else self.energy_from
        return self.progress(done) >= start

    def decay(self, done: int) -> float:
        """Returns the share of the step sizes that the update after `done` ones takes."""
        wave = 0.5 * (1 + math.cos(math.pi * self.progress(done)))
        return self.lr_end + (1 - self.lr_end) * wave

    def horizon_at(self, done: int) -> float:
        """Returns the share of the observed rows that the update after `done` ones sees."""
        if self.progress(done) >= self.curriculum:
            return self.horizons[-1]
        before = self.horizons[:-1] or self.horizons
        return before[int(self.progress(done) / self.curriculum * len(before))]

    def sigma_share_at(self, done: int) -> float:
        """Returns how much of the annealing is left, 1 at the start, 0 from its end on."""
        if self.anneal == 0:
            return 0.0
        return max(1 - self.progress(done) / self.anneal, 0.0)

    def kl_weight_at(self, done: int) -> float:
        """Returns the weight of the KL divergence in the update after `done` ones."""
        if self.kl_warm_up == 0:
            return self.kl_weight
        return self.kl_weight * min(self.progress(done) / self.kl_warm_up, 1.0)


_NOT_NEGATIVE = ("table_noise", "lr", "table_lr", "energy_lr", "validate_every", "kl_weight")
_POSITIVE = (
    "clip",
    "energy_clip",
    "sigma_start",
    "sigma_end",
    "table_start",
    "step_size",
    "adaptation",
    "langevin_step_size",
)
_SHARES = ("lr_end", "warm_up", "curriculum", "anneal", "energy_from", "kl_warm_up")
