"""Forecasts with uncertainty, at any times.

K samples of the latents of B sequences, T times asked for.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import frozen
from lv_dynamics.model import EnergyOde
from lv_dynamics.posterior import Posterior

__all__ = ["Forecast", "Swapped", "forecast", "swap_static"]

_BISECTIONS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """The predictive distribution of observations at the times asked for.

    A mixture over samples of the latent: each gives a mean, with noise around it.
    """

    times: Float[Tensor, "..."]
    """times asked for, `(T,)` or `(B, T)`"""
    mean: Float[Tensor, "batch time ..."]
    """predictive mean"""
    std: Float[Tensor, "batch time ..."]
    """standard deviation of an observation: of the noise and of what is not known, together"""
    epistemic: Float[Tensor, "batch time ..."]
    """standard deviation of the mean between samples: what more observations would reduce"""
    best: Float[Tensor, "batch time ..."]
    """the mean of the best restart, without averaging: the point forecast"""
    paths: Float[Tensor, "samples batch time ..."]
    """the mean of each sample"""
    variance: Float[Tensor, "samples batch time ..."]
    """the variance of the noise around each"""
    weights: Float[Tensor, "samples batch"]
    """weights of the samples, which sum to one for each sequence"""

    def quantile(self, q: float) -> Float[Tensor, "batch time ..."]:
        """Returns the q-quantile of observations, a bound of a credible band.

        That of the mixture of normals with the means and variances of the samples, by bisection;
        exact for Gaussian noise, a rough idea for binary observations.

        Arguments:
            q: Probability below the bound, in (0, 1).

        Raises:
            ValueError: If `q` is out of range.

        Example:
            >>> low, high = (f.quantile(q) for q in (0.05, 0.95))  # a 90 % band
        """
        if not 0 < q < 1:
            raise ValueError(f"q must lie in (0, 1), got {q}")
        scale = self.variance.sqrt()
        # At these the mixture's distribution function is certainly below and above q.
        normal = torch.special.ndtri(torch.tensor(q, dtype=torch.float64)).item()
        ends = self.paths + normal * scale
        low, high = ends.amin(0), ends.amax(0)
        weights = _wide(self.weights, self.paths)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            # A scale of zero gives a step; at the step itself 0 / 0 counts as not below.
            place = torch.nan_to_num((middle - self.paths) / scale, nan=0.0)
            below = (weights * torch.special.ndtr(place)).sum(0) < q
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found: Tensor = 0.5 * (low + high)
        return found


class Swapped(NamedTuple):
    """Two batches of latents that have exchanged their static variables."""

    first: Tensor
    """initial states of the first, static variables of the second"""
    second: Tensor
    """initial states of the second, static variables of the first"""


@torch.no_grad()
def forecast(
    model: EnergyOde,
    posterior: Posterior,
    times: Float[Tensor, "..."],
    *,
    most: int | None = 25,
) -> Forecast:
    """Returns the predictive distribution at the given times, before, between or after the data.

    Arguments:
        model: The model that the posterior was inferred with.
        posterior: What `infer` returned.
        times: On the sequences' clocks, not negative and increasing: `(T,)` for all, or `(B, T)`.
        most: Largest number of kept states of each chain that are carried on; None = all.

    Raises:
        ValueError: If times are negative (t = 0 is where a sequence's state starts), do not
            increase, or have another number of rows.
        SolveError: If a solve diverges; names chain and sequence.

    Example:
        >>> predicted = forecast(model, infer(model, seen), torch.arange(150) * 0.1)
        >>> predicted.mean, predicted.quantile(0.05), predicted.quantile(0.95)
    """
    z, weights = posterior.samples(most), posterior.sample_weights(most)
    times = times.to(device=z.device, dtype=z.dtype)
    with frozen(model):
        output = model.emit(model.trajectory(z, times), model.split(z)[1])
        paths, variance = model.noise.mean(output), model.noise.variance(output)
        best = model.mean(posterior.best(), times)
    wide = _wide(weights, paths)
    mean = (wide * paths).sum(0)
    spread = (wide * (paths - mean).square()).sum(0)
    noise = (wide * variance).sum(0)
    return Forecast(
        times=times,
        mean=mean,
        std=(spread + noise).sqrt(),
        epistemic=spread.sqrt(),
        best=best,
        paths=paths,
        variance=variance,
        weights=weights,
    )


def swap_static(
    model: EnergyOde, first: Float[Tensor, "..."], second: Float[Tensor, "..."]
) -> Swapped:
    """Returns the latents with their static variables exchanged, to be decoded by `model.mean`.

    Where static variables mean what stays the same along a sequence (a digit's shape, a
    frequency), each result moves like one and looks like the other.

    Arguments:
        model: Says which numbers of a latent are static.
        first: Latents, shape `(*batch, D)`.
        second: Latents, of the same shape.

    Raises:
        ValueError: If shapes differ, or the model has no static variables.

    Example:
        >>> swapped = swap_static(model, posterior.best()[:8], posterior.best()[8:16])
        >>> frames = model.mean(swapped.first, times)
    """
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    (z0_first, static_first), (z0_second, static_second) = model.split(first), model.split(second)
    if static_first is None or static_second is None:
        raise ValueError("the model has no static variables to swap: its config has static=0")
    return Swapped(
        torch.cat((z0_first, static_second), dim=-1), torch.cat((z0_second, static_first), dim=-1)
    )


def _wide(weights: Tensor, paths: Tensor) -> Tensor:
    return weights.reshape(weights.shape + (1,) * (paths.ndim - weights.ndim))
