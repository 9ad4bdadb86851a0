"""Forecasts as mixtures of paths."""

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.forecast import Forecast

__all__ = ["mixture"]


def mixture(
    times: Float[Tensor, "..."],
    paths: Float[Tensor, "samples batch time ..."],
    variance: Float[Tensor, "..."],
    best: Float[Tensor, "batch time ..."],
) -> Forecast:
    """Returns the forecast whose paths are equally probable.

    Arguments:
        times: Times asked for.
        paths: Mean of each sample.
        variance: Variance of the noise around each, broadcastable to `paths`.
        best: Point forecast.
    """
    mean, noise = paths.mean(0), variance.expand_as(paths)
    spread = (paths - mean).square().mean(0)
    weights = torch.full_like(paths.flatten(2)[..., 0], 1 / len(paths))
    return Forecast(
        times=times,
        mean=mean,
        std=(spread + noise.mean(0)).sqrt(),
        epistemic=spread.sqrt(),
        best=best,
        paths=paths,
        variance=noise,
        weights=weights,
    )
