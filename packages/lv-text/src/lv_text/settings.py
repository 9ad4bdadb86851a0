"""Settings of fast learning: how the latent of a sequence is inferred."""

import math
from dataclasses import dataclass
from typing import Literal

from lv_core import LocalFit

__all__ = ["Inference"]

LONG = 24
"""Steps up to which a constant learning rate reaches the prior best."""

Method = Literal["vb", "langevin", "map", "amortised", "semi_amortised"]
AMORTISED = ("amortised", "semi_amortised")
"""Methods that begin at an encoder's posterior."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How latents are inferred; the defaults are the paper's with fresh noise.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, algorithm 1 and released settings.
    """

    method: Method = "vb"
    """vb: a Gaussian for each sequence by AdamW; langevin: a chain from the prior; map: the most
    probable latent by AdamW; amortised: an encoder alone; semi_amortised: vb from an encoder"""
    steps: int = 16
    """gradient steps, the paper's T_fast"""
    lr: float | None = None
    """learning rate of vb and map; None = what carries the log variance from its start to the
    prior's 0 in so many steps: |init_log_var| / steps, above 24 steps three times that, falling
    as a cosine"""
    schedule: Literal["constant", "cosine"] | None = None
    """course of the rate; None = constant up to 24 steps, cosine (to a tenth) above"""
    noise: Literal["fresh", "shared"] = "fresh"
    """fresh: new noise in each step, as in the paper; shared: one draw for all steps, as in the
    released code, whose objective is then no bound"""
    samples: int = 1
    """draws per step"""
    init_log_var: float = -5.0
    """log variance where vb begins; 0 = at the prior"""
    init_mean_noise: float = 0.01
    """standard deviation of the first means"""
    init_log_var_noise: float = 0.1
    """standard deviation of the first log variances about `init_log_var`"""
    weight_decay: float = 0.01
    """of AdamW; the released code's default"""
    kl_weight: float = 1.0
    """factor on the divergence; below 1 the objective is no bound"""
    free_nats: float = 0.0
    """divergence per sequence that costs nothing"""
    step_size: float = 0.1
    """of langevin: z' = z + s^2/2 grad + s eps"""

    def __post_init__(self) -> None:
        if self.method not in ("vb", "langevin", "map", "amortised", "semi_amortised"):
            raise ValueError(
                f"unknown method {self.method!r}; there are: amortised, langevin, map, "
                "semi_amortised, vb"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.schedule not in (None, "constant", "cosine"):
            raise ValueError(f"unknown schedule {self.schedule!r}; there are: constant, cosine")
        if not self.init_log_var <= 0:
            raise ValueError(
                f"init_log_var must not be positive (0 = the prior), got {self.init_log_var}"
            )
        if not self.init_log_var_noise >= 0:
            raise ValueError(
                f"init_log_var_noise must not be negative, got {self.init_log_var_noise}"
            )
        if self.lr is None and self.init_log_var == 0 and self.method in ("vb", "semi_amortised"):
            raise ValueError(
                "lr must be given when init_log_var is 0: there is no way to the prior to "
                "derive it from"
            )
        self.fit()  # checks the rest
        if not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")

    @property
    def course(self) -> Literal["constant", "cosine"]:
        """The schedule that is used."""
        if self.schedule is not None:
            return self.schedule
        return "constant" if self.steps <= LONG else "cosine"

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        if self.lr is not None:
            return self.lr
        way = abs(self.init_log_var) / self.steps or 0.1
        return 3 * way if self.course == "cosine" else way

    def fit(self) -> LocalFit:
        """Returns the settings of the local fit."""
        return LocalFit(
            steps=self.steps,
            lr=self.rate,
            schedule=self.course,
            noise=self.noise,
            samples=self.samples,
            chunk=1,
            parameter="log_var",
            kl_weight=self.kl_weight,
            nats=self.free_nats,
            init_scale=math.exp(self.init_log_var / 2),
            init_mean_noise=self.init_mean_noise,
            init_log_scale_noise=self.init_log_var_noise / 2,
            weight_decay=self.weight_decay,
        )
