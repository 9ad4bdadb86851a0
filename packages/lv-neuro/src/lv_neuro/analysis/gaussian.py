"""Gaussian bumps fitted to tuning curves by least squares, all neurons at once."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.analysis.tuning import check_codes, untuned
from lv_neuro.angles import heading

__all__ = ["GaussianFit", "gaussian_fit"]

REACH = 3
"""Bins between the highest bin and the farthest center that is tried."""
PER_BIN = 4
"""Centers tried per bin."""
WIDTHS = (0.08, 1.6)
"""Narrowest and widest bump, radians."""
WIDTH_STEPS = 40
HALVINGS = 12
"""Halvings of both grids around the best point: widths are then exact to 1e-5."""
CHUNK = 4_000_000
"""Numbers held at once; bounds the memory to a few times 32 MB in float64."""


class GaussianFit(NamedTuple):
    """Least-squares bumps a exp(-Delta^2 / (2 s^2)) + c, Delta = distance to the center."""

    r2: Float[Tensor, "*batch neurons"]
    """Share of the curve's variance that the bump explains, in [0, 1]; NaN for flat curves."""
    sigma: Float[Tensor, "*batch neurons"]
    """Width s in radians; NaN where no bump is fitted."""
    center: Float[Tensor, "*batch neurons"]
    """Center mu in [0, 2 pi); NaN where no bump is fitted."""
    amplitude: Float[Tensor, "*batch neurons"]
    """Height a >= 0 above the offset, in the unit of the curve."""
    offset: Float[Tensor, "*batch neurons"]
    """Offset c, in the unit of the curve."""


def gaussian_fit(codes: Float[Tensor, "*batch bins neurons"]) -> GaussianFit:
    """Fits a Gaussian bump on a constant floor to each tuning curve.

    Minimizes sum_x (v(x) - a exp(-Delta^2 / (2 s^2)) - c)^2 with a >= 0, the center within 3 bins
    of the highest bin and s in [0.08, 1.6] rad. For given center and width, a and c have a closed
    form and R^2 is the squared correlation of curve and bump, so the grid search over centers
    (quarter bins) and widths is one matrix product; the best point is then refined by halving.

    Arguments:
        codes: Tuning curves; rows are headings 2 pi n / N.

    Returns:
        The fits. Flat curves have R^2 = 0/0: r2, sigma and center are NaN, amplitude is 0 and
        offset the curve's value. Curves that no upright bump improves on their mean have r2 = 0,
        amplitude 0, offset the mean, and NaN for sigma and center. With fewer than 40 bins the
        narrowest width is half a bin, as nothing narrower can be told from one bin.

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024,
        describe Gaussian-like tuning; the ranges of the search are ours.

    Example:
        >>> x = torch.arange(60) * (2 * math.pi / 60)
        >>> fit = gaussian_fit(5 * torch.exp(-((x[:, None] - 3) ** 2) / (2 * 0.4**2)) + 1)
        >>> round(float(fit.sigma), 3), round(float(fit.offset), 3)
        (0.4, 1.0)
    """
    check_codes(codes)
    bins, neurons = codes.shape[-2:]
    curves = codes.mT.reshape(-1, bins)
    peak = curves.argmax(dim=-1)
    bin_index = torch.arange(bins, device=codes.device)
    mean = curves.mean(dim=-1)
    # the highest bin comes first, so that all neurons share one grid of bumps
    centered = curves.gather(1, (bin_index + peak[:, None]) % bins) - mean[:, None]
    norm = centered.norm(dim=-1)
    unit = centered / norm.clamp_min(torch.finfo(codes.dtype).tiny)[:, None]

    center, log_width = _grid(bins, codes)
    found = [
        _search(part, center, log_width)
        for part in unit.split(max(1, CHUNK // max(len(center), 9 * bins)))
    ]
    mu, log_s, rho, spread = (torch.cat(parts) for parts in zip(*found, strict=True))
    x = bin_index * (2 * math.pi / bins)
    mean_bump = _bump(x.to(codes), mu[:, None], log_s[:, None]).mean(dim=-1)

    flat = untuned(codes).reshape(-1)
    upright = (rho > 0) & ~flat
    zero, missing = torch.zeros_like(rho), torch.full_like(rho, math.nan)
    amplitude = torch.where(upright, rho * norm / spread, zero)
    fit = (
        torch.where(flat, missing, rho.clamp(0, 1).square()),
        torch.where(upright, log_s.exp(), missing),
        torch.where(upright, heading(mu + x.to(codes)[peak]), missing),
        amplitude,
        mean - amplitude * mean_bump,
    )
    return GaussianFit(*(value.reshape(*codes.shape[:-2], neurons) for value in fit))


def _grid(bins: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns centers and log widths of the grid, flattened, each of shape `(points,)`."""
    step = 2 * math.pi / bins
    center = torch.linspace(-REACH * step, REACH * step, 2 * REACH * PER_BIN + 1).to(like)
    low, high = (math.log(width) for width in _widths(bins))
    log_width = torch.linspace(low, high, WIDTH_STEPS).to(like)
    pairs = torch.cartesian_prod(center, log_width)
    return pairs[:, 0], pairs[:, 1]


def _widths(bins: int) -> tuple[float, float]:
    """Returns the narrowest and the widest bump that is tried (radians)."""
    return max(WIDTHS[0], math.pi / bins), WIDTHS[1]


def _bump(x: Tensor, center: Tensor, log_width: Tensor) -> Tensor:
    """Returns exp(-Delta^2 / (2 s^2)); x in [0, 2 pi), center within half a turn of 0."""
    # distance on the circle, cheaper than a remainder
    delta = math.pi - (math.pi - (x - center).abs()).abs()
    return torch.exp(-0.5 * (delta * torch.exp(-log_width)).square())


def _search(unit: Tensor, center: Tensor, log_width: Tensor) -> tuple[Tensor, ...]:
    """Finds the bump that correlates best with each curve.

    Arguments:
        unit: Curves with mean 0 and norm 1, the highest bin first, shape `(curves, bins)`.
        center: Centers of the grid, shape `(points,)`.
        log_width: Log widths of the grid, shape `(points,)`.

    Returns:
        Center, log width, correlation, and norm of the centered bump, each `(curves,)`.
    """
    bins = unit.shape[1]
    x = torch.arange(bins, device=unit.device).to(unit) * (2 * math.pi / bins)
    bump = _bump(x, center[:, None], log_width[:, None])
    bump = bump - bump.mean(dim=-1, keepdim=True)
    best = (unit @ (bump / bump.norm(dim=-1, keepdim=True)).mT).argmax(dim=-1)
    mu, log_s = center[best], log_width[best]

    reach = REACH * 2 * math.pi / bins
    low, high = (math.log(width) for width in _widths(bins))
    steps = (2 * math.pi / bins / PER_BIN, (high - low) / (WIDTH_STEPS - 1))
    one = torch.tensor([0.0, -1.0, 1.0]).to(unit)  # the present point first, so that ties stay
    stencil = torch.cartesian_prod(one, one)
    rho = spread = torch.zeros_like(mu)
    for halving in range(1, HALVINGS + 1):
        mu_9 = (mu[:, None] + stencil[:, 0] * steps[0] / 2**halving).clamp(-reach, reach)
        log_s_9 = (log_s[:, None] + stencil[:, 1] * steps[1] / 2**halving).clamp(low, high)
        bump = _bump(x, mu_9[..., None], log_s_9[..., None])
        norm = (bump - bump.mean(dim=-1, keepdim=True)).norm(dim=-1)
        rho_9 = torch.einsum("cjn,cn->cj", bump, unit) / norm
        rho, best = rho_9.max(dim=-1)
        mu, log_s, spread = (
            value.gather(1, best[:, None]).squeeze(1) for value in (mu_9, log_s_9, norm)
        )
    return mu, log_s, rho, spread
