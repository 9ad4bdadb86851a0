"""Affine scalings of observations, with their inverse."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Scaling"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """The map x -> (x - offset) / scale and its inverse.

    Keep the one that was computed from the training set and use it for every other set.

    Raises:
        ValueError: If a number is not finite, or a scale is zero.

    Example:
        >>> scaling = train.scaling()
        >>> train, test = train.scaled(scaling), test.scaled(scaling)
        >>> scaling.invert(forecast.mean)  # in the units of the data
    """

    offset: Float[Tensor, "..."]
    """what is subtracted; broadcasts against an observation, shape `obs` or ()"""
    scale: Float[Tensor, "..."]
    """what is divided by afterwards, not zero; shape `obs` or ()"""

    def __post_init__(self) -> None:
        for name, number in (("offset", self.offset), ("scale", self.scale)):
            if not bool(torch.isfinite(number).all()):
                raise ValueError(f"{name} must be finite, got {number.flatten()[:8].tolist()}")
        if bool((self.scale == 0).any()):
            raise ValueError(
                "scale must not be zero, got zeros: a channel is constant or its maximum is zero; "
                "give it the scale 1 or leave it out"
            )

    @classmethod
    def standard(
        cls, values: Float[Tensor, "batch time *obs"], mask: Bool[Tensor, "batch time ..."]
    ) -> "Scaling":
        """Returns the scaling to mean 0 and standard deviation 1 of each channel.

        Arguments:
            values: Observations.
            mask: True where observed, broadcastable to the values; all else is left out.

        Raises:
            ValueError: If a channel is never observed or constant; the message names it.
        """
        # float64, as the mean of a large channel would be off by its rounding otherwise
        seen, x = mask.expand_as(values), values.double()
        count = seen.sum((0, 1))
        if bool((count == 0).any()):
            channel = tuple((count == 0).nonzero()[0].tolist())
            raise ValueError(f"channel {channel} is never observed: leave it out of the values")
        mean = torch.where(seen, x, 0.0).sum((0, 1)) / count
        deviation = torch.where(seen, x - mean, 0.0).square().sum((0, 1)).div(count).sqrt()
        # a constant channel comes out as rounding error, not as exactly zero
        constant = deviation <= 1e-12 * mean.abs()
        if bool(constant.any()):
            channel = tuple(constant.nonzero()[0].tolist())
            raise ValueError(
                f"channel {channel} is constant and cannot be standardized: leave it out, or make "
                "a Scaling with scale 1 there"
            )
        return cls(offset=mean.to(values.dtype), scale=deviation.to(values.dtype))

    @classmethod
    def by_maximum(cls, minimum: Float[Tensor, "..."], maximum: Float[Tensor, "..."]) -> "Scaling":
        """Returns x -> (x - minimum) / maximum, in which published Hopper numbers are given.

        Not a map to [0, 1]: the divisor is the maximum, not the range. Errors in this convention
        are not comparable with those after (x - minimum) / (maximum - minimum).

        Arguments:
            minimum: Smallest value of each channel.
            maximum: Largest value of each channel.

        Source:
            Rubanova et al., "Latent ODEs for irregularly-sampled time series", 2019, code.
        """
        return cls(offset=minimum, scale=maximum)

    @classmethod
    def by_range(cls, minimum: Float[Tensor, "..."], maximum: Float[Tensor, "..."]) -> "Scaling":
        """Returns x -> (x - minimum) / (maximum - minimum), a map to [0, 1].

        Arguments:
            minimum: Smallest value of each channel.
            maximum: Largest value of each channel.
        """
        return cls(offset=minimum, scale=maximum - minimum)

    def apply(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns (values - offset) / scale, in the dtype of the values.

        Arguments:
            values: Any leading axes, the axes of an observation last.
        """
        return (values - self.offset.to(values)) / self.scale.to(values)

    def invert(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns values * scale + offset, in the dtype of the values.

        Arguments:
            values: Scaled values; any leading axes, the axes of an observation last.
        """
        return values * self.scale.to(values) + self.offset.to(values)

    def invert_deviation(self, deviation: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns standard deviations in the units of the data, deviation * |scale|.

        Arguments:
            deviation: Standard deviations of scaled values.
        """
        return deviation * self.scale.abs().to(deviation)
