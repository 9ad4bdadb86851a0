"""Settings of the recurrent network and of its training."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["RnnSettings"]


@dataclass(frozen=True, kw_only=True)
class RnnSettings:
    """The network and how it is trained.

    Of the initial values and step sizes we tried, the defaults follow long walks best.
    """

    units: int = 100
    """hidden units d"""
    activation: Literal["relu", "tanh"] = "relu"
    """nonlinearity of the hidden units"""
    initial: Literal["uniform", "orthogonal", "identity"] = "uniform"
    """recurrent weights before training: uniform in +-1/sqrt(d), a random rotation (better for
    tanh), or the identity"""
    bins: int = 100
    """headings N on the grid of the training walks and of the tuning curves"""
    max_step: int = 5
    """largest turn of the training walks, in grid steps"""
    horizon: int = 50
    """turns of a training walk"""
    batch_size: int = 200
    """walks in an update"""
    iterations: int = 3000
    """updates"""
    lr: float = 1e-3
    """Adam's step size"""
    decay_to: float = 0.01
    """share of `lr` that is left at the end, reached linearly over the second half; 1 keeps it,
    and the last updates then shake the network (after 1000 turns 12 to 108 degrees, not 6)"""
    clip: float = 1.0
    """largest norm of a seed's gradient; infinity does not clip"""

    def __post_init__(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            ValueError: Names the field and its range.
        """
        for name in ("units", "horizon", "batch_size", "iterations", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.decay_to <= 1:
            raise ValueError(f"decay_to must lie in [0, 1], got {self.decay_to}")
        if not 1 <= self.max_step < self.bins / 2:
            raise ValueError(
                f"max_step must lie between 1 and half of bins={self.bins}, got {self.max_step}"
            )
        for name, known in (
            ("activation", ("relu", "tanh")),
            ("initial", ("uniform", "orthogonal", "identity")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; there are: {', '.join(known)}"
                )

    def lr_at(self, step: int) -> float:
        """Returns the step size of the update `step`, counted from 0."""
        late = max(0.0, 2 * (step + 1) / self.iterations - 1)
        return self.lr * (1 - (1 - self.decay_to) * late)
