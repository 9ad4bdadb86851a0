"""What all transformations share: F(v, dx) moves a code by a turn."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Stepper", "Transformation"]

# Shape legend: S stacked seeds, B codes, d neurons, K largest turn in bins.

Stepper = Callable[[Tensor, Tensor], Tensor]
"""(v (S, B, d), dx (S, B) radians, |dx| <= K h) -> F(v, dx) (S, B, d)."""

TINY = 1e-12


class Transformation(nn.Module, ABC):
    """F(v, dx): what a turn by dx does to the population, learned for turns of k grid steps.

    Training turns every code of the book by one number of grid steps per seed (`forward`).
    Afterwards `stepper` turns any codes by any angles up to the largest.

    Attributes:
        neurons: Size d of the population.
        bins: Headings N on the grid; a grid step is h = 2 pi / N radians.
        max_step: Largest turn K, in grid steps.
        renormalize: Whether F is divided by its norm.
    """

    rectified = True
    """Whether F ends in a ReLU, so that its values are rates."""

    def __init__(
        self, *, neurons: int, bins: int, max_step: int, seeds: Sequence[int], renormalize: bool
    ) -> None:
        """Keeps the sizes; a subclass makes its parameters.

        Raises:
            ValueError: If `max_step` is not in 1 .. (bins - 1) / 2.
        """
        super().__init__()
        if not 1 <= max_step < bins / 2:
            raise ValueError(
                f"max_step must lie between 1 and {(bins - 1) // 2} (below half of bins={bins}), "
                f"got {max_step}"
            )
        self.neurons, self.bins, self.max_step = neurons, bins, max_step
        self.seeds, self.renormalize = tuple(seeds), renormalize

    @property
    def grid_step(self) -> float:
        """The angle h between neighbouring headings of the grid, in radians."""
        return 2 * math.pi / self.bins

    @property
    def largest_turn(self) -> float:
        """The largest turn K h that one application takes, in radians."""
        return self.max_step * self.grid_step

    def forward(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns F(v, k h), every code of a seed turned by the seed's k grid steps."""
        return self._forward(v, k)

    @abstractmethod
    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns F before its norm is set."""

    def unroll(self, turns: Int[Tensor, "seeds rollout"]) -> list[Callable[[Tensor], Tensor]]:
        """Returns v -> F(v, k_t h) for each turn k_t of a roll-out.

        What the turns share is computed once for all of them; this is the inner loop of training.
        """
        return [partial(self._forward, k=turns[:, t]) for t in range(turns.shape[1])]

    def _forward(self, v: Tensor, k: Tensor) -> Tensor:
        return self.finish(self.turn(v, k))

    @abstractmethod
    def stepper(self) -> Stepper:
        """Returns a function that turns codes by angles of their own, with everything prepared.

        The function belongs to the parameters as they are now.
        """

    def finish(self, v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Divides by the norm if this transformation does so (divisive normalization)."""
        return normalize(v) if self.renormalize else v

    def all_turns(
        self, v: Float[Tensor, "seeds codes neurons"]
    ) -> Float[Tensor, "seeds turns codes neurons"]:
        """Returns F(v, k h) for k = -K, ..., K along the second axis."""
        steps = range(-self.max_step, self.max_step + 1)
        full = [torch.full((len(v),), k, device=v.device) for k in steps]
        return torch.stack([self(v, k) for k in full], dim=1)


def normalize(v: Float[Tensor, "*batch neurons"]) -> Float[Tensor, "*batch neurons"]:
    """Returns v / ||v||."""
    # Neither norm() nor square(): their backward takes more and slower operations.
    return v * (v * v).sum(-1, keepdim=True).clamp_min(TINY).rsqrt()
