"""How latents are inferred."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["InferenceSettings"]

_CHOICES = {"start": Literal["prior", "normal"], "weighting": Literal["score", "equal"]}


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How latents are inferred.

    Raises:
        ValueError: If a setting is out of range; names it.

    Source:
        Cheng, Kong et al., "Latent Space Energy-based Neural ODEs", 2025 (posterior by Langevin
        sampling through the solver); restarts, adaptation, stages and polish are ours.
    """

    restarts: int = 8
    """chains of a sequence; posteriors given a short piece have several modes"""
    steps: int = 150
    """steps of adaptive MALA, divided equally among the stages"""
    polish: int = 30
    """noise-free steps after them; 0 = none"""
    step_size: float = 0.1
    """first step size s of every chain, convention u + s^2/2 grad + s eps"""
    target_accept: float = 0.574
    """acceptance that step sizes aim at"""
    anneal: tuple[tuple[float, float], ...] = ((0.3, 3.0), (0.6, 1.7))
    """stages before the last one: share of a sequence's observed rows, in time order, and factor
    on sigma (for other noise: the likelihood to the power 1 / factor^2); () = none. On sinusoids
    of unknown frequency these took the share of chains in the right mode from 0.40 to 0.88"""
    start: Literal["prior", "normal"] = "prior"
    """where chains start: samples of the learned prior, or N(0, I)"""
    draws: int = 0
    """states kept of each chain after adaptation, with fixed step sizes: then the chains leave
    the posterior exactly invariant. 0 = the last adapting state stands in, which is cheaper"""
    thin: int = 5
    """steps from one kept state to the next"""
    weighting: Literal["score", "equal"] = "score"
    """weights of a sequence's restarts: softmax of their scores, which silences local optima but
    knows no volumes (a heuristic), or equal"""
    batch_size: int | None = None
    """sequences inferred at a time, for memory; no influence on results. None = all"""

    def __post_init__(self) -> None:
        for name in ("restarts", "steps", "thin"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("polish", "draws"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie in (0, 1), got {self.target_accept}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be positive or None, got {self.batch_size}")
        for stage in self.anneal:
            if len(stage) != 2 or not (0 < stage[0] <= 1 and stage[1] > 0):
                raise ValueError(
                    "each stage of anneal must be a share of rows in (0, 1] and a positive factor "
                    f"on sigma, got {stage}"
                )
        if self.steps < len(self.anneal) + 1:
            raise ValueError(
                f"steps must be at least {len(self.anneal) + 1}, one for each stage, got "
                f"{self.steps}"
            )
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are: {known}")
