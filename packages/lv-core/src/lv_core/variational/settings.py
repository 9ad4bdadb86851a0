"""The settings of a local fit, and what follows from them alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lv_core.kernels.base import check_positive
from lv_core.random import Source, normal
from lv_core.schedule import Cosine, Schedule
from lv_core.variational.adamw import AdamW
from lv_core.variational.gaussian import DiagonalGaussian

__all__ = ["FitSettings"]


@dataclass(frozen=True, kw_only=True)
class FitSettings(AdamW):
    """How long, how fast and with which noise a local posterior is fitted; see `LocalFit`.

    Raises:
        ValueError: If a setting is out of range.
    """

    steps: int
    """number of steps"""
    lr: float
    """learning rate; a parameter moves by at most about this much per step"""
    schedule: Literal["constant", "cosine"] | Schedule = "constant"
    """factor on `lr` by step; "cosine" falls from 1 to 0.1 as cos(pi k / steps)"""
    noise: Literal["fresh", "shared", "antithetic"] = "fresh"
    """new draws at each step, one draw for all, or new draws in pairs of opposite sign"""
    samples: int = 1
    """draws per item and step"""
    chunk: int | None = None
    """samples evaluated at a time; None = all; 1 = the likelihood sees no samples axis"""
    parameter: Literal["log_scale", "log_var"] = "log_scale"
    """what the steps move beside the mean; a log variance moves half as far in log scale"""
    kl_weight: float = 1.0
    """factor on the divergence"""
    nats: float = 0.0
    """divergence of an item that costs nothing"""
    init_scale: float = 1.0
    """standard deviation of q where `start` begins"""
    init_mean_noise: float = 0.0
    """standard deviation of the means that `start` draws"""
    init_log_scale_noise: float = 0.0
    """standard deviation of the log scales that `start` draws, about log init_scale"""
    max_bad: float = 0.1
    """tolerated share of items with a non-finite objective or gradient"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 or None for all, got {self.chunk}")
        check_positive("lr", self.lr)
        check_positive("init_scale", self.init_scale)
        for name in ("kl_weight", "nats", "init_mean_noise", "init_log_scale_noise"):
            check_positive(name, getattr(self, name), allow_zero=True)
        if self.noise == "antithetic" and self.samples % 2:
            raise ValueError(f"samples must be even for antithetic noise, got {self.samples}")
        choices = {
            "noise": ("fresh", "shared", "antithetic"),
            "parameter": ("log_scale", "log_var"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are: {known}")
        if not (callable(self.schedule) or self.schedule in ("constant", "cosine")):
            raise ValueError(
                f"unknown schedule {self.schedule!r}; give 'constant', 'cosine' or a function of "
                "the step"
            )

    @property
    def bound(self) -> Literal["lower", "none"]:
        """Whether the objective is a lower bound on the log evidence in expectation.

        Given a normalised prior; the result of a fit knows its prior, and says "none" without.
        """
        return "lower" if self.noise != "shared" and self.kl_weight >= 1 else "none"

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * Cosine(start=1.0, end=0.1, steps=self.steps + 1)(step)
        return self.lr * self.schedule(step)

    def start(
        self, like: Tensor, *, event_ndim: int = 1, generator: Source = None
    ) -> DiagonalGaussian:
        """Returns where a cold fit begins: about mean 0 and `init_scale`.

        Arguments:
            like: Any tensor of shape `(*batch, *event)`.
            event_ndim: How many of the last axes belong to one item.
            generator: Source of the jitter, where there is any.
        """
        mean = torch.zeros_like(like, requires_grad=False)
        log_scale = mean + math.log(self.init_scale)
        if self.init_mean_noise > 0:
            mean = self.init_mean_noise * normal(like, generator)
        if self.init_log_scale_noise > 0:
            log_scale = log_scale + self.init_log_scale_noise * normal(like, generator)
        return DiagonalGaussian(mean, log_scale, event_ndim=event_ndim)
