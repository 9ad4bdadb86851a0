"""The ring that needs no learning: von Mises bumps, turned by circulant matrices."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_neuro.angles import check_radians, grid
from lv_neuro.baselines.ring import shift, unit_bump
from lv_neuro.code import heading_of
from lv_neuro.integration import integrate
from lv_neuro.walks import Integration

__all__ = ["AnalyticRing"]

# Shape legend: N bins (headings on the grid), d neurons, B walks, T time; the leading axis of
# stacked seeds, which learned models have, is 1.

ALIASING = 1e-3


class AnalyticRing(nn.Module):
    """Bump-shaped codes in closed form, and turns that are exact rotations of them.

    v_i(x) = exp(kappa (cos(x - mu_i) - 1)) / norm,  mu_i = 2 pi i / d,  ||v(x)|| = 1
    v(x + dx) = C(dx) v(x),  C(dx) circulant

    C is a representation of the rotation group: C(a) C(b) = C(a + b), C(0) = I. This is what a
    learned ring can at best be without error correction; noise adds up undamped.

    Example:
        >>> ring = AnalyticRing.from_sigma(0.46)
        >>> v = ring.step(ring.encode(torch.tensor([1.0])), torch.tensor([0.25]))
        >>> ring.decode(v)
        tensor([[1.2500]])

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024, for
        the problem; the closed form is ours.
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        kappa: float = 2 / 0.65**2,
        sharpness: float = 200.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Tabulates the bump.

        Arguments:
            neurons: Size d of the population.
            bins: Headings N of the code book that decodes.
            kappa: Concentration of the tuning curves; for a large one they are Gaussian with
                sigma = 1 / sqrt(kappa) radians. The default has <v(x), v(y)> near a Gaussian of
                width 0.65, the learned model's.
            sharpness: Inverse temperature of the decoder's softmax.
            dtype: Of the tables and of what is computed with them.

        Raises:
            ValueError: If a number is not positive, or the neurons are too few for tuning as
                sharp as that, so that shifts between neurons would not be exact.
        """
        super().__init__()
        for name, value in (("kappa", kappa), ("sharpness", sharpness)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name, count in (("neurons", neurons), ("bins", bins)):
            if count < 3:
                raise ValueError(f"{name} must be at least 3 for a ring, got {count}")
        bump = unit_bump(neurons, kappa)
        harmonics = torch.fft.rfft(bump).abs()
        beyond = float(harmonics[-1] / harmonics[0])
        if beyond > ALIASING:
            raise ValueError(
                f"neurons={neurons} cannot carry tuning as sharp as kappa={kappa:.4g}: the last "
                f"harmonic still has {beyond:.2g} of the mean; use more neurons or a smaller kappa"
            )
        self.neurons, self.bins, self.kappa = neurons, bins, kappa
        self.sharpness = sharpness
        book = shift(bump, grid(bins, like=bump))
        self.bump: Tensor
        self.book: Tensor
        self.register_buffer("bump", bump.to(dtype), persistent=False)
        self.register_buffer("book", book.to(dtype), persistent=False)

    @classmethod
    def from_sigma(
        cls,
        sigma: float,
        *,
        neurons: int = 100,
        bins: int = 100,
        sharpness: float = 200.0,
        dtype: torch.dtype = torch.float32,
    ) -> "AnalyticRing":
        """Makes a ring with tuning curves about as wide as Gaussians of width `sigma` (radians).

        kappa = 1 / sigma^2; recorded head-direction cells have sigma near 0.44 (25 degrees).

        Raises:
            ValueError: If `sigma` is not positive, or too small for the number of neurons.
        """
        if not sigma > 0:
            raise ValueError(f"sigma must be positive (radians), got {sigma}")
        return cls(neurons=neurons, bins=bins, kappa=sigma**-2, sharpness=sharpness, dtype=dtype)

    @property
    def parameters_count(self) -> int:
        """Numbers that were fitted or learned: none."""
        return 0

    @property
    def codes(self) -> Float[Tensor, "seeds bins neurons"]:
        """The codes on the grid: row n belongs to heading 2 pi n / bins."""
        return self.book[None]

    def encode(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "seeds *batch neurons"]:
        """Returns the codes of headings x (radians)."""
        check_radians("x", x)
        return shift(self.bump, x)[None]

    def decode(self, v: Float[Tensor, "seeds *batch neurons"]) -> Float[Tensor, "seeds ..."]:
        """Returns the heading whose code is nearest in direction, finer than the grid.

        x = arg sum_n softmax_n(sharpness <v, V_n> / ||v||) exp(2 pi i n / N), in [0, 2 pi)
        """
        direction = v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        return heading_of(direction @ self.book.mT, self.sharpness)

    def step(
        self, v: Float[Tensor, "seeds batch neurons"], dx: Float[Tensor, "..."]
    ) -> Float[Tensor, "seeds batch neurons"]:
        """Returns C(dx) v, exact for turns of any size and norm preserving.

        Arguments:
            v: Codes.
            dx: Turns in radians, counter-clockwise positive, shape `(batch,)` or
                `(seeds, batch)`.
        """
        check_radians("dx", dx, kind="turn")
        return shift(v, dx)

    def integrate(
        self,
        start: Float[Tensor, " walks"],
        turns: Float[Tensor, "walks time"],
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Integration:
        """Follows headings from their turns alone.

        Arguments:
            start: Headings before the first turn, radians.
            turns: Turns in radians, counter-clockwise positive.
            noise: Norm (root mean square) of the Gaussian vector added after each turn. A code
                has norm 1; what is added does not grow with the norm of the momentary state.
                Nothing damps it: after T turns the sum has norm noise * sqrt(T).
            generator: Source of the noise; None means torch's global one.

        Raises:
            ValueError: If the noise is negative, or the walks are none.
        """
        return integrate(
            shift,
            self.encode,
            self.decode,
            start,
            turns,
            largest=math.inf,
            noise=noise,
            generator=generator,
        )
