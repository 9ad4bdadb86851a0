"""How far sequences swing, to compare samples of a model with data."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.sequences import Sequences

__all__ = ["Amplitude", "amplitude"]


class Amplitude(NamedTuple):
    """Amplitudes of a set of sequences, as standard deviations in time."""

    each: Float[Tensor, " batch *obs"]
    """That of each channel of each sequence."""
    mean: Float[Tensor, ""]
    """Mean over sequences and channels."""
    spread: Float[Tensor, ""]
    """Standard deviation over sequences and channels."""


def amplitude(sequences: Sequences) -> Amplitude:
    """Returns the standard deviation in time of each sequence, and its mean and spread.

    A sinusoid of amplitude A has A / sqrt(2) over whole periods.

    Arguments:
        sequences: Data, or `Sequences(times, samples)` of a model.

    Raises:
        ValueError: If a channel of a sequence is observed less than twice.
    """
    mask = sequences.mask.expand_as(sequences.values)
    values, count = sequences.values.double(), mask.sum(1)
    if bool((count < 2).any()):
        index = tuple((count < 2).nonzero()[0].tolist())
        raise ValueError(
            f"sequence {index[0]}: channel {index[1:]} is observed less than twice, so that it "
            "has no amplitude"
        )
    mean = values.sum(1) / count
    away = torch.where(mask, values - mean[:, None], 0.0)
    each = (away.square().sum(1) / count).sqrt()
    spread = each.std(correction=0)
    dtype = sequences.values.dtype
    return Amplitude(each.to(dtype), each.mean().to(dtype), spread.to(dtype))
