"""What latent variables tell about the true factors of a sequence."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FactorR2", "r2_of_factors"]


class FactorR2(NamedTuple):
    """Share of the variance of each factor that a linear map of the latents explains."""

    held_out: Float[Tensor, " factors"]
    """Of sequences that the map was not fitted to; may be negative."""
    in_sample: Float[Tensor, " factors"]
    """Of the sequences that it was fitted to: too high, by about latents / sequences for pure
    noise. Give it only beside numbers that were computed in this way."""
    predicted: Float[Tensor, "batch factors"]
    """Each sequence's factors by the map that was fitted to the other folds: what `held_out` is
    about, to be drawn against the truth."""


def r2_of_factors(
    latents: Float[Tensor, "batch latents"],
    factors: Float[Tensor, "batch factors"],
    *,
    folds: int = 5,
    generator: torch.Generator | None = None,
) -> FactorR2:
    """Returns how well factors can be read off latents by linear regression with intercept.

    R2 = 1 - sum (y - y')^2 / sum (y - mean y)^2, with y' predicted by a regression on the other
    folds. Angles should be given as sine and cosine.

    Arguments:
        latents: Latents of each sequence, e.g. posterior means of the static part.
        factors: True factors of each sequence.
        folds: Number of parts, of which each is held out once.
        generator: Source of the random parts; None means torch's global one.

    Returns:
        float64.

    Raises:
        ValueError: If shapes differ, something is not finite, a factor is constant, or there are
            too few sequences for a regression: without a fold, more than latents + 1 are needed.
    """
    x, y = latents.double(), factors.double()
    n, width = x.shape
    if y.ndim != 2 or len(y) != n:
        raise ValueError(
            f"factors must have shape ({n}, factors) as latents have {n} rows, got "
            f"{tuple(y.shape)}: a single one is factor[:, None]"
        )
    if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise ValueError("latents and factors must be finite, got NaN or inf")
    if not 2 <= folds <= n or n - -(-n // folds) <= width + 1:
        raise ValueError(
            f"folds must be in 2..{n} and leave more than {width + 1} sequences for {width} "
            f"latents, got {folds=} with {n} sequences"
        )
    spread = (y - y.mean(0)).square().sum(0)
    if bool((spread <= 1e-24 * y.square().sum(0)).any()):
        raise ValueError(f"factor {int(spread.argmin())} is constant: leave it out")
    design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    device = x.device if generator is None else generator.device
    fold = torch.randperm(n, generator=generator, device=device).to(x.device) % folds
    held_out = torch.empty_like(y)
    for k in range(folds):
        out = fold == k
        held_out[out] = design[out] @ _weights(design[~out], y[~out])
    errors = [(y - fit).square().sum(0) for fit in (held_out, design @ _weights(design, y))]
    return FactorR2(1 - errors[0] / spread, 1 - errors[1] / spread, held_out)


def _weights(design: Tensor, y: Tensor) -> Tensor:
    # by the pseudo-inverse, as latents that the model does not use may be constant
    inverse: Tensor = torch.linalg.pinv(design)
    return inverse @ y
