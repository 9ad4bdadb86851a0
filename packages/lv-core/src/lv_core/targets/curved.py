"""Densities that are hard in one known way, with exact moments and exact draws."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core.kernels.base import check_positive
from lv_core.random import Source, normal, uniform

__all__ = ["Banana", "DoubleWell", "Funnel"]


class Banana(nn.Module):
    """Curved density in the plane: x ~ N(0, scale^2), y given x ~ N(bend (x^2 - scale^2), 1).

    Mean zero, variances `scale^2` and `1 + 2 bend^2 scale^4`, no correlation; normalised.

    Raises:
        ValueError: If `scale` is not positive.
    """

    mean: Tensor

    def __init__(self, *, scale: float = 2.0, bend: float = 0.5) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.scale, self.bend = scale, bend
        self.register_buffer("mean", torch.zeros(2))

    @property
    def covariance(self) -> Float[Tensor, "2 2"]:
        """The exact covariance."""
        return _diagonal([self.scale**2, 1 + 2 * self.bend**2 * self.scale**4], self.mean)

    def forward(self, u: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        x, y = u.unbind(-1)
        residual = y - self.bend * (x.square() - self.scale**2)
        constant = math.log(2 * math.pi * self.scale)
        return -0.5 * (x / self.scale).square() - 0.5 * residual.square() - constant

    def sample(self, n: int, *, generator: Source = None) -> Float[Tensor, "n 2"]:
        """Returns `n` exact draws."""
        x, residual = normal(self.mean.expand(n, 2), generator).unbind(-1)
        x = self.scale * x
        return torch.stack((x, residual + self.bend * (x.square() - self.scale**2)), dim=-1)


class DoubleWell(nn.Module):
    """Independent coordinates with two equal modes each, at -1 and 1; normalised.

    log p(u) = -barrier sum_i (u_i^2 - 1)^2 - log_normalizer

    A sampler that moves by small steps crosses from one mode to the other at a rate of about
    exp(-barrier), so it tells whether an algorithm mixes over modes.

    Arguments:
        dim: Number of coordinates; the density has `2^dim` modes.
        barrier: How far the log density falls between the modes, in nats; positive.

    Raises:
        ValueError: If `dim` is below 1 or `barrier` not positive.
    """

    mean: Tensor

    def __init__(self, dim: int = 1, *, barrier: float = 4.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        check_positive("barrier", barrier)
        self.barrier = barrier
        self.log_normalizer = dim * self._log_integral(0)
        """Logarithm of the integral of `exp(-barrier sum_i (u_i^2 - 1)^2)`."""
        self.register_buffer("mean", torch.zeros(dim))

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The exact covariance, a multiple of the identity."""
        variance = math.exp(self._log_integral(2) - self._log_integral(0))
        return _diagonal([variance] * len(self.mean), self.mean)

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        return -self.barrier * (u.square() - 1).square().sum(-1) - self.log_normalizer

    def sample(self, n: int, *, generator: Source = None) -> Float[Tensor, "n dim"]:
        """Returns `n` exact draws, by rejection; waits for the device in every round."""
        # On the positive half line (x^2 - 1)^2 = (x - 1)^2 (x + 1)^2 exceeds (x - 1)^2, so that
        # a normal about 1 lies above the density there.
        wanted = n * len(self.mean)
        kept: list[Tensor] = []
        while sum(map(len, kept)) < wanted:
            offset = normal(self.mean.new_empty(wanted), generator) / math.sqrt(2 * self.barrier)
            x = 1 + offset
            ratio = (-self.barrier * offset.square() * ((x + 1).square() - 1)).exp()
            kept.append(x[(x > 0) & (uniform((wanted,), x, generator) < ratio)])
        size = torch.cat(kept)[:wanted]
        sign = torch.where(uniform((wanted,), size, generator) < 0.5, -1.0, 1.0)
        return (sign * size).reshape(n, -1)

    def _log_integral(self, power: int) -> float:
        # exp(2 b x^2) as a power series; each term is a Gamma integral and all are positive:
        # int x^power exp(-b (x^2 - 1)^2) dx = sum_k e^-b (2b)^k / k! Gamma(q) / (2 b^q),
        # q = (2k + power + 1) / 4.
        b, logs = self.barrier, []
        for k in range(100 + int(8 * b)):
            q = (2 * k + power + 1) / 4
            logs.append(
                k * math.log(2 * b)
                - math.lgamma(k + 1)
                + math.lgamma(q)
                - q * math.log(b)
                - math.log(2)
            )
        top = max(logs)
        return top - b + math.log(math.fsum(math.exp(value - top) for value in logs))


class Funnel(nn.Module):
    """Neal's funnel: v = u_0 ~ N(0, scale^2), and u_i given v ~ N(0, exp(v)); normalised.

    Mean zero, variances `scale^2` and `exp(scale^2 / 2)`, no correlation. No one step size fits
    both its neck and its mouth: the other coordinates' standard deviation is exp(v / 2).

    Arguments:
        dim: Number of coordinates, v included; at least 2.
        scale: Standard deviation of v.

    Raises:
        ValueError: If `dim` is below 2 or `scale` not positive.

    Source:
        Neal, "Slice Sampling", Annals of Statistics, 2003, section 8.
    """

    mean: Tensor

    def __init__(self, dim: int = 10, *, scale: float = 3.0) -> None:
        super().__init__()
        check_positive("scale", scale)
        if dim < 2:
            raise ValueError(f"dim must be at least 2 (v and one more coordinate), got {dim}")
        self.scale = scale
        self.register_buffer("mean", torch.zeros(dim))

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The exact covariance."""
        others = [math.exp(0.5 * self.scale**2)] * (len(self.mean) - 1)
        return _diagonal([self.scale**2, *others], self.mean)

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        v, others = u[..., 0], u[..., 1:]
        n = others.shape[-1]
        constant = 0.5 * (n + 1) * math.log(2 * math.pi) + math.log(self.scale)
        squares = (-v).exp() * others.square().sum(-1)
        return -0.5 * (v / self.scale).square() - 0.5 * (n * v + squares) - constant

    def sample(self, n: int, *, generator: Source = None) -> Float[Tensor, "n dim"]:
        """Returns `n` exact draws."""
        eps = normal(self.mean.expand(n, -1), generator)
        v = self.scale * eps[:, :1]
        return torch.cat((v, (0.5 * v).exp() * eps[:, 1:]), dim=-1)


def _diagonal(variances: list[float], like: Tensor) -> Tensor:
    return torch.diag(torch.tensor(variances, dtype=like.dtype, device=like.device))
