"""Random walks of the heading, and what a path integrator returns."""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.angles import heading

__all__ = ["Integration", "PathIntegrator", "Walks", "random_walks"]


class Walks(NamedTuple):
    """Walks on the circle."""

    start: Float[Tensor, " walks"]
    """Headings before the first turn, in [0, 2 pi)."""
    turns: Float[Tensor, "walks time"]
    """Turns in radians, counter-clockwise positive."""
    heading: Float[Tensor, "walks time"]
    """True headings after each turn, in [0, 2 pi)."""


class Integration(NamedTuple):
    """What path integration found."""

    heading: Float[Tensor, "seeds walks time"]
    """Headings decoded after each turn, in [0, 2 pi)."""
    state: Float[Tensor, "seeds walks neurons"]
    """The population's activity after the last turn."""


@runtime_checkable
class PathIntegrator(Protocol):
    """Anything that follows a heading from its turns alone."""

    def integrate(
        self,
        start: Tensor,
        turns: Tensor,
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Integration:
        """Returns the headings decoded after each turn.

        Arguments:
            start: Headings before the first turn, shape `(walks,)`, radians.
            turns: Turns, shape `(walks, time)`, radians.
            noise: Expected norm of the vector added to the state after each turn, relative to
                the norm 1 of a code: `v_t = F(v_{t-1}, dx_t) + noise * randn / sqrt(d)`. A state
                without such a norm takes its own at that moment.
            generator: Source of the noise; None means torch's global one.
        """
        ...


def random_walks(
    walks: int,
    steps: int,
    *,
    bins: int = 100,
    max_step: int = 5,
    generator: torch.Generator | None = None,
) -> Walks:
    """Draws walks with uniform starts on the grid and turns uniform in {-K..K} grid steps.

    Arguments:
        walks: How many.
        steps: Turns in each.
        bins: Grid angles N; a grid step is 2 pi / N.
        max_step: Largest turn K in grid steps.
        generator: Source of randomness; None means torch's global one.

    Raises:
        ValueError: If a number is not positive, or a turn of `max_step` passes half the circle.

    Source:
        The protocol of Zhao et al., "A Minimalistic Representation Model for Head Direction
        System", 2024, could not be read; this one is ours.
    """
    for name, value in (
        ("walks", walks),
        ("steps", steps),
        ("bins", bins),
        ("max_step", max_step),
    ):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    if 2 * max_step >= bins:
        raise ValueError(
            f"max_step must be below half of bins, got {max_step} with bins={bins}: a turn past "
            "half the circle is a turn the other way"
        )
    first = torch.randint(bins, (walks,), generator=generator)
    k = torch.randint(-max_step, max_step + 1, (walks, steps), generator=generator)
    step = 2 * math.pi / bins
    # Sums of integers, so that the truth of long walks is not worn by rounding.
    after = torch.remainder(first[:, None] + k.cumsum(1), bins)
    return Walks(first * step, k * step, heading(after * step))
