"""Linear transformations: the exact one-parameter group, and its second-order series."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from lv_core.random import stream
from lv_neuro.transforms.base import Stepper, Transformation

__all__ = ["LinearGroup", "LinearPoly", "Spectrum"]

# Shape legend: S stacked seeds, B codes, d neurons.


class Spectrum(NamedTuple):
    """The generator B in its own basis: B = U diag(i frequencies) U^H."""

    frequencies: Float[Tensor, "seeds neurons"]
    """Turns of the mode per turn of the head; integers for a representation of U(1)."""
    modes: Complex[Tensor, "seeds neurons neurons"]
    """U, one mode a column."""


class LinearGroup(Transformation):
    """F(v, dx) = expm(B dx) v with B = P - P^T: an exact representation of the rotation group.

    Norms and the composition of turns hold by construction; what is learned is that a whole
    turn is the identity, i.e. that the eigenvalues of B are integer multiples of i where the
    codes have energy.

    Source:
        Zhao et al., 2024 (group representation; this parameterization is our reconstruction).
    """

    rectified = False

    def __init__(
        self,
        *,
        neurons: int = 50,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = False,
    ) -> None:
        """Draws P from N(0, 0.1^2); see `Transformation` for the arguments."""
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        self.upper = nn.Parameter(draw_normal(seeds, "upper", 0.1, neurons, neurons))

    @property
    def generator(self) -> Float[Tensor, "seeds neurons neurons"]:
        """The skew-symmetric generator B, per radian."""
        return self.upper - self.upper.mT

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns expm(k h B) v."""
        angle = (k.to(v.dtype) * self.grid_step)[:, None, None]
        return v @ torch.matrix_exp(angle * self.generator).mT

    def all_turns(
        self, v: Float[Tensor, "seeds codes neurons"]
    ) -> Float[Tensor, "seeds turns codes neurons"]:
        """Returns F(v, k h) for k = -K, ..., K: one matrix exponential serves all."""
        one = torch.matrix_exp(self.grid_step * self.generator)
        still = self.finish(v)
        left, right = [still], [still]
        for _ in range(self.max_step):
            right.append(self.finish(right[-1] @ one.mT))
            left.append(self.finish(left[-1] @ one))  # the inverse of a rotation: its transpose
        return torch.stack([*left[:0:-1], *right], dim=1)

    def spectrum(self) -> Spectrum:
        """Returns frequencies and modes of B."""
        # -iB is Hermitian, so its eigenvectors are orthogonal even where frequencies coincide.
        frequencies, modes = torch.linalg.eigh(-1j * self.generator)
        return Spectrum(frequencies, modes)

    def stepper(self) -> Stepper:
        """Returns F for any turns, exactly."""
        frequencies, modes = self.spectrum()

        def step(v: Tensor, dx: Tensor) -> Tensor:
            phase = dx.to(v.dtype)[..., None] * frequencies[:, None]
            inside = (v.to(modes.dtype) @ modes.conj()) * torch.polar(
                torch.ones_like(phase), phase
            )
            return self.finish((inside @ modes.mT).real)

        return step


class LinearPoly(Transformation):
    """F(v, dx) = (I + B dx + B^2 dx^2 / 2) v: the series of `expm` up to second order, B free.

    The series turns a harmonic of frequency w by a matrix of norm sqrt(1 + (w dx)^4 / 4), so many
    turns magnify high harmonics, and long paths are lost. `LinearGroup` has no such limit.

    Source:
        Zhao et al., 2024 (an option; the form of Gao et al., "On Path Integration of Grid
        Cells", 2021).
    """

    rectified = False

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = False,
    ) -> None:
        """Draws B from N(0, 0.1^2); see `Transformation` for the arguments."""
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        self.generator = nn.Parameter(draw_normal(seeds, "generator", 0.1, neurons, neurons))

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns the series at dx = k h."""
        return self._series(v, (k.to(v.dtype) * self.grid_step)[:, None, None])

    def stepper(self) -> Stepper:
        """Returns F for turns of any angle up to the largest."""

        def step(v: Tensor, dx: Tensor) -> Tensor:
            return self.finish(self._series(v, dx.to(v.dtype)[..., None]))

        return step

    def _series(self, v: Tensor, dx: Tensor) -> Tensor:
        first = v @ self.generator.mT
        return v + dx * first + 0.5 * dx.square() * (first @ self.generator.mT)


def draw_normal(
    seeds: Sequence[int], name: str, scale: float, *shape: int
) -> Float[Tensor, "..."]:
    """Returns normal numbers for each seed, shape (S, *shape)."""
    drawn = [torch.randn(shape, generator=stream(seed, "transformation", name)) for seed in seeds]
    return scale * torch.stack(drawn)
