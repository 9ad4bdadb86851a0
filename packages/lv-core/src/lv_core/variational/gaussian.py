"""A normal distribution with independent components, as a record of two tensors."""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from lv_core.random import Source, normal

__all__ = ["DiagonalGaussian", "free_nats"]

LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Normal distributions with independent components, one for each item of a batch.

    The last `event_ndim` axes are the event: densities, entropies and divergences sum over them
    and return one value per item. All methods are differentiable; `detach` cuts the graph.

    Arguments:
        mean: Shape `(*batch, *event)`.
        log_scale: Logarithm of the standard deviations, same shape.
        event_ndim: How many of the last axes belong to one item, at least 1.

    Raises:
        ValueError: If the shapes differ, or there are fewer than `event_ndim` axes.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> q.kl().shape
        torch.Size([8])
    """

    mean: Tensor
    log_scale: Tensor
    event_ndim: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.mean.shape != self.log_scale.shape:
            raise ValueError(
                f"mean and log_scale must have one shape, got {tuple(self.mean.shape)} and "
                f"{tuple(self.log_scale.shape)}; expand the smaller one"
            )
        if not 1 <= self.event_ndim <= self.mean.ndim:
            raise ValueError(
                f"event_ndim must be in 1..{self.mean.ndim} for a mean of shape "
                f"{tuple(self.mean.shape)}, got {self.event_ndim}"
            )

    @classmethod
    def standard(cls, like: Tensor, *, event_ndim: int = 1) -> "DiagonalGaussian":
        """Returns N(0, I) with the shape, dtype and device of `like`."""
        zero = torch.zeros_like(like, requires_grad=False)
        return cls(zero, zero, event_ndim=event_ndim)

    @classmethod
    def split(
        cls, parameters: Float[Tensor, "*batch twice"], *, min_log_scale: float | None = None
    ) -> "DiagonalGaussian":
        """Returns the distribution whose mean and log scale are the halves of the last axis.

        The usual last layer of an encoder, of twice the latent's width.

        Arguments:
            parameters: What the encoder returns, shape `(*batch, 2 dim)`.
            min_log_scale: Smooth lower limit of the log scale, `limit + softplus(raw - limit)`;
                None leaves it alone.

        Raises:
            ValueError: If the last axis is odd.
        """
        if parameters.shape[-1] % 2:
            raise ValueError(
                "parameters must have an even last axis, mean then log scale, got shape "
                f"{tuple(parameters.shape)}"
            )
        mean, log_scale = parameters.chunk(2, dim=-1)
        if min_log_scale is not None:
            log_scale = min_log_scale + torch.nn.functional.softplus(log_scale - min_log_scale)
        return cls(mean, log_scale)

    @property
    def batch_shape(self) -> torch.Size:
        """The axes before the event."""
        return self.mean.shape[: self.mean.ndim - self.event_ndim]

    @property
    def scale(self) -> Tensor:
        """The standard deviations."""
        return self.log_scale.exp()

    def __getitem__(self, index: Tensor | slice | int) -> "DiagonalGaussian":
        """Returns the items selected along the batch axes.

        Raises:
            IndexError: If there is no batch axis.
        """
        if not self.batch_shape:
            raise IndexError("there is no batch axis to select along")
        return replace(self, mean=self.mean[index], log_scale=self.log_scale[index])

    def detach(self) -> "DiagonalGaussian":
        """Returns the same distribution outside of any graph."""
        return replace(self, mean=self.mean.detach(), log_scale=self.log_scale.detach())

    def rsample(self, eps: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `mean + scale eps`, the reparametrised draw made of given noise.

        Arguments:
            eps: Standard normal numbers, shape `(*samples, *batch, *event)`.
        """
        return self.mean + self.scale * eps

    def sample(self, n: int, *, generator: Source = None) -> Float[Tensor, "n ..."]:
        """Returns `n` draws for each item, shape `(n, *batch, *event)`; differentiable.

        The noise is drawn one sample after the other, so that ten draws are the same numbers as
        four and then six, and so that a shard splits the batch and not the samples.

        Raises:
            ValueError: If `n` is not positive.
        """
        return self.rsample(sample_noise(self.mean, n, generator))

    def log_prob(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log density at `z`, shape `(*samples, *batch, *event)`, per item."""
        white = (z - self.mean) * (-self.log_scale).exp()
        return self._total(-0.5 * white.square() - self.log_scale - 0.5 * LOG_2_PI)

    def __call__(self, z: Tensor) -> Tensor:
        """Returns `log_prob(z)`, so that the distribution is a log density."""
        return self.log_prob(z)

    def entropy(self) -> Float[Tensor, "..."]:
        """Returns the differential entropy `sum log scale + (1 + log 2 pi) / 2` in nats."""
        return self._total(self.log_scale + 0.5 * (1 + LOG_2_PI))

    def kl(self, other: "DiagonalGaussian | None" = None) -> Float[Tensor, "..."]:
        """Returns KL(self, other) in nats, in closed form; None = the standard normal.

        Arguments:
            other: Its axes broadcast against ours, so that one prior may serve all items.
        """
        if other is None:
            return self._total(_kl(self.mean, self.log_scale))
        return self.kl_to(other.mean, other.log_scale)

    def kl_to(self, center: Tensor | float, log_scale: Tensor | float) -> Float[Tensor, "..."]:
        """Returns KL(self, N(center, exp(log_scale)^2)) in nats; arguments broadcast.

        `sum [log s - log scale + (scale^2 + (mean - center)^2) / (2 s^2) - 1/2]` with s the
        exponential of the argument `log_scale`.
        """
        shrink = (-log_scale).exp() if isinstance(log_scale, Tensor) else math.exp(-log_scale)
        return self._total(_kl((self.mean - center) * shrink, self.log_scale - log_scale))

    def to_torch(self) -> Independent[Normal]:
        """Returns the same distribution as one of `torch.distributions`."""
        base = Normal(self.mean, self.scale, validate_args=False)
        return Independent(base, self.event_ndim, validate_args=False)

    def _total(self, x: Tensor) -> Tensor:
        return x.sum(dim=tuple(range(-self.event_ndim, 0)))


def _kl(mean: Tensor, log_scale: Tensor) -> Tensor:
    # expm1(t) - t loses no digits where the two distributions nearly agree.
    return 0.5 * (torch.expm1(2 * log_scale) - 2 * log_scale + mean.square())


def sample_noise(like: Tensor, n: int, generator: Source) -> Tensor:
    """Returns standard normal numbers of shape `(n, *like.shape)`, drawn sample by sample."""
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    return torch.stack([normal(like, generator) for _ in range(n)])


def free_nats(kl: Float[Tensor, "*batch"], nats: float) -> Float[Tensor, "*batch"]:
    """Returns `max(kl, nats)`: divergences below the allowance cost, and push, nothing.

    The objective with it stays a lower bound, since the penalty only grows.

    Arguments:
        kl: Divergences in nats, one for each unit that gets an allowance.
        nats: The allowance, not negative.

    Raises:
        ValueError: If `nats` is negative.

    Source:
        Kingma et al., "Improved variational inference with inverse autoregressive flow", 2016.
    """
    if not nats >= 0:
        raise ValueError(f"nats must not be negative, got {nats}")
    return kl.clamp(min=nats)
