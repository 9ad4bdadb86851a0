"""Priors over a hierarchy of latents, packed in one vector."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core import Kernel, Langevin, Source, frozen
from lv_core.pack import Pack
from lv_priors.base import Prior, PriorLoss
from lv_priors.energy import contrastive_loss

__all__ = ["LayeredPrior", "Level"]


class Level(nn.Module):
    """One level of a hierarchy: z ~ N(mean(above), scale^2 I), or the scale a function as well.

    Arguments:
        shape: Shape of this level's latent, or its length.
        network: Map from the levels above, flattened and joined, `(*batch, above)`, to the mean,
            `(*batch, size)`, or to mean and log scale, `(*batch, 2 * size)`, where `scale` is
            None. None = mean 0, as for the first level.
        scale: Standard deviation; None = given by the network.

    Raises:
        ValueError: If a length or `scale` is not positive, or neither gives the scale.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        network: nn.Module | None = None,
        *,
        scale: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must be one or more positive lengths, got {shape}")
        if scale is None and network is None:
            raise ValueError("scale=None needs a network that gives the log scale")
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.size = math.prod(self.shape)
        self.network, self.scale = network, scale

    def forward(self, above: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log scale given the levels above, each `(*batch, size)`.

        Raises:
            ValueError: If the network returns another shape.
        """
        batch = above.shape[:-1]
        if self.network is None:
            mean = above.new_zeros((*batch, self.size))
        else:
            mean = self.network(above)
            width = self.size * (2 if self.scale is None else 1)
            if mean.shape != (*batch, width):
                raise ValueError(
                    f"the network of a level of {self.size} entries with scale={self.scale} must "
                    f"return shape {(*batch, width)}, got {tuple(mean.shape)}"
                )
        if self.scale is None:
            mean, log_scale = mean.chunk(2, dim=-1)
            return mean, log_scale
        return mean, torch.full_like(mean, math.log(self.scale))


class LayeredPrior(Prior):
    """A hierarchy of normal levels, `z_l = mean_l(z_above) + scale_l(z_above) * u_l`.

    All levels lie in one vector (`layout` has their names). In the space `noise`, chains run on
    the noises u ~ N(0, I) and the decoder sees `z = push(u)`: levels that depend on each other a
    posteriori only through their means are easy to sample there. In the space `latent`, chains
    run on z itself.

    A tilt over all levels gives `p(z) = exp(tilt(z)) prod_l p(z_l | z_above) / Z`, in both spaces
    the same distribution of z.

    Learning: without a tilt, levels learn through the likelihood (`noise`, with u fixed), or by
    the loss `-sum_l log p(z_l | z_above)` at posterior samples (`latent`). With a tilt, the loss
    is contrastive, and its gradient, which reaches the levels, is that of the log evidence.

    Arguments:
        levels: Name to level, from the top.
        tilt: Network from packed latents `(*batch, total)` to `(*batch,)` or `(*batch, 1)`.
        space: What chains run on.
        sampler: Kernel of `sample` where there is a tilt.
        energy_l2: Weight of mean tilt^2 added to the loss.

    Raises:
        ValueError: If there is no level, the first has a network, or `energy_l2` is negative.

    Source:
        Cui, Wu and Han, "Learning Joint Latent Space EBM Prior Model for Multi-layer Generator",
        2023 (the tilt over all levels).

    Example:
        >>> prior = LayeredPrior({"plan": Level(8), "detail": Level((4, 16), mlp((8, 64, 64)))})
        >>> latents = prior.layout.unpack(prior.sample(32))  # latents["detail"]: (32, 4, 16)
    """

    sharded_methods = ("log_density", "push", "pull", "tilt", "latent_log_density")

    def __init__(
        self,
        levels: Mapping[str, Level],
        *,
        tilt: nn.Module | None = None,
        space: Literal["noise", "latent"] = "noise",
        sampler: Kernel | None = None,
        energy_l2: float = 0.0,
    ) -> None:
        first = next(iter(levels.values()), None)
        if first is None or first.network is not None:
            raise ValueError(
                "levels must hold at least one level, and the first must have no network, as "
                f"there is nothing above it; got {list(levels)}"
            )
        if energy_l2 < 0:
            raise ValueError(f"energy_l2 must not be negative, got {energy_l2}")
        layout = Pack({name: level.shape for name, level in levels.items()})
        super().__init__(layout.total)
        self.layout, self.space, self.energy_l2 = layout, space, energy_l2
        self.levels = nn.ModuleDict(levels)
        self.network = tilt
        self.sampler = Langevin(steps=60, step_size=0.4) if sampler is None else sampler

    def tilt(self, z: Float[Tensor, "*batch total"]) -> Float[Tensor, "*batch"]:
        """Returns the tilt at packed latents; 0 where there is none.

        Raises:
            ValueError: If the network returns anything but one value per latent.
        """
        self.check_event(z, "z")
        if self.network is None:
            return z.new_zeros(z.shape[:-1])
        value: Tensor = self.network(z)
        if value.shape == (*z.shape[:-1], 1):
            value = value.squeeze(-1)
        if value.shape != z.shape[:-1]:
            raise ValueError(
                f"the tilt must return one value per latent, shape {tuple(z.shape[:-1])}, got "
                f"{tuple(value.shape)}"
            )
        return value

    def log_density(self, u: Float[Tensor, "*batch total"]) -> Float[Tensor, "*batch"]:
        """Returns the log density of the sampling variable, unnormalised where tilted."""
        self.check_event(u)
        if self.space == "latent":
            return self.latent_log_density(u)
        value = _log_normal(u)
        return value if self.network is None else value + self.tilt(self.push(u))

    def latent_log_density(self, z: Float[Tensor, "*batch total"]) -> Float[Tensor, "*batch"]:
        """Returns `sum_l log p(z_l | z_above) + tilt(z)`, unnormalised where tilted."""
        value = self._log_levels(z)
        return value if self.network is None else value + self.tilt(z)

    def push(self, u: Float[Tensor, "*batch total"]) -> Float[Tensor, "*batch total"]:
        """Returns the packed latents of the sampling variable."""
        self.check_event(u)
        return u if self.space == "latent" else self._ancestral(u)

    def pull(self, z: Float[Tensor, "*batch total"]) -> Float[Tensor, "*batch total"]:
        """Returns the sampling variable of packed latents, the inverse of `push`."""
        self.check_event(z, "z")
        return z if self.space == "latent" else self._standardised(z)[0]

    def moments(self, z: Float[Tensor, "*batch total"]) -> tuple[Tensor, Tensor]:
        """Returns mean and log scale of every level given the levels above it in `z`, packed."""
        self.check_event(z, "z")
        found, start = [], 0
        for level in self.levels.values():
            assert isinstance(level, Level)
            found.append(level(z[..., :start]))
            start += level.size
        means, log_scales = zip(*found, strict=True)
        return torch.cat(means, dim=-1), torch.cat(log_scales, dim=-1)

    def init(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` starts of the sampling variable: draws from the levels without the tilt."""
        u = super().init(n, generator=generator)
        if self.space == "noise":
            return u
        with torch.no_grad():
            return self._ancestral(u)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` packed latents: exact without a tilt, else by the sampler."""
        with torch.no_grad():
            return self.push(self.sample_u(n, generator=generator))

    def sample_u(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` draws of the sampling variable, shape `(n, total)`, as `loss` takes."""
        u = self.init(n, generator=generator)
        if self.network is None:
            return u
        with frozen(self):
            return self.sampler(self.log_density, u, generator=generator)

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns what learning minimises, by space and tilt as the class says.

        Arguments:
            u_posterior: Posterior samples of the sampling variable, detached, `(n, total)`.
            u_prior: Prior samples of it, `(m, total)`; None = drawn by `sample_u` where needed.
            generator: Source of randomness of that draw.
        """
        if self.network is None:
            if self.space == "noise":
                return super().loss(u_posterior, u_prior, generator=generator)
            surprise = -self._log_levels(u_posterior).mean()
            return PriorLoss(surprise, {"surprise": surprise.detach()})
        if u_prior is None:
            u_prior = self.sample_u(len(u_posterior), generator=generator)
        contrast, logs = contrastive_loss(
            lambda u: self.tilt(self.push(u)), u_posterior, u_prior, energy_l2=self.energy_l2
        )
        if self.space == "noise":
            return PriorLoss(contrast, logs)
        # The constant Z depends on the levels too, so their density needs negative samples.
        both = self._log_levels(torch.cat((u_posterior, u_prior)))
        gap = both[: len(u_posterior)].mean() - both[len(u_posterior) :].mean()
        return PriorLoss(contrast - gap, {**logs, "gap_levels": gap.detach()})

    def log_normalizer(self) -> float:
        """Returns 0 without a tilt.

        Raises:
            NotImplementedError: With a tilt.
        """
        return 0.0 if self.network is None else super().log_normalizer()

    def extra_repr(self) -> str:
        """Shows the blocks, the space and the sampler."""
        sampler = "" if self.network is None else f", sampler={self.sampler}"
        return f"{dict(self.layout.shapes)}, space={self.space!r}{sampler}"

    def _ancestral(self, u: Tensor) -> Tensor:
        z = u[..., :0]
        for level in self.levels.values():
            assert isinstance(level, Level)
            start = z.shape[-1]
            mean, log_scale = level(z)
            z = torch.cat((z, mean + log_scale.exp() * u[..., start : start + level.size]), dim=-1)
        return z

    def _standardised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.moments(z)
        return (z - mean) * (-log_scale).exp(), log_scale

    def _log_levels(self, z: Tensor) -> Tensor:
        u, log_scale = self._standardised(z)
        return _log_normal(u) - log_scale.sum(dim=-1)


def _log_normal(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(dim=-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)
