"""The latent-space energy-based prior."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core import Kernel, Langevin, Source, frozen
from lv_priors.base import Prior, PriorLoss

__all__ = ["EnergyPrior", "contrastive_loss"]


class EnergyPrior(Prior):
    """Exponential tilting of a normal: `log p(z) = tilt(z) + log N(z; 0, scale^2 I) - log Z`.

    The network adds: a larger tilt is more probable. Papers that write an energy `f` with
    `p ~ exp(-f) N` have `tilt = -f`. Learned by the contrastive loss, whose gradient is the
    maximum-likelihood gradient when the negative samples come from the model.

    Arguments:
        tilt: Network from `(*batch, *event)` to `(*batch,)` or `(*batch, 1)`.
        event: Shape of one latent, or its length.
        scale: Standard deviation s0 of the reference normal.
        start_scale: Standard deviation of the starts of chains; papers use 1 whatever s0 is.
        sampler: Kernel that `sample` runs from those starts.
        energy_l2: Weight of mean tilt^2 added to the loss; holds the tilt near 0, whose additive
            constant the data do not identify.

    Raises:
        ValueError: If `scale` is not positive or `energy_l2` is negative.

    Source:
        Pang et al., "Learning Latent Space Energy-Based Prior Model", 2020.

    Example:
        >>> prior = EnergyPrior(mlp((32, 64, 64, 1)), 32, scale=0.5)
        >>> z = prior.sample(256)
    """

    sharded_methods = ("log_density", "tilt", "push")

    def __init__(
        self,
        tilt: nn.Module,
        event: int | tuple[int, ...],
        *,
        scale: float = 1.0,
        start_scale: float = 1.0,
        sampler: Kernel | None = None,
        energy_l2: float = 0.0,
    ) -> None:
        super().__init__(event, start_scale=start_scale)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if energy_l2 < 0:
            raise ValueError(f"energy_l2 must not be negative, got {energy_l2}")
        self.network = tilt
        self.scale = scale
        self.sampler = Langevin(steps=60, step_size=0.4) if sampler is None else sampler
        self.energy_l2 = energy_l2

    def tilt(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the tilt, one value per latent: `(*batch, *event) -> (*batch,)`.

        Raises:
            ValueError: If `z` has another event shape or the network returns something else.
        """
        self.check_event(z, "z")
        batch = z.shape[: z.ndim - len(self.event_shape)]
        value: Tensor = self.network(z)
        if value.shape == (*batch, 1):
            value = value.squeeze(-1)
        if value.shape != batch:
            raise ValueError(
                f"the tilt must return one value per latent, shape {tuple(batch)} or "
                f"{(*batch, 1)}, got {tuple(value.shape)}"
            )
        return value

    def log_density(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `tilt(u) - |u|^2 / (2 scale^2)`, unnormalised."""
        axes = tuple(range(-len(self.event_shape), 0))
        return self.tilt(u) - u.square().sum(dim=axes) * (0.5 / self.scale**2)

    def energy(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `-log_density(u)`: lower is more probable."""
        return -self.log_density(u)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` latents by the prior's sampler from fresh starts; leaves gradients alone."""
        with frozen(self):
            return self.sampler(
                self.log_density, self.init(n, generator=generator), generator=generator
            )

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns the contrastive loss and its parts.

        Arguments:
            u_posterior: Posterior samples, detached, shape `(n, *event)`.
            u_prior: Prior samples, shape `(m, *event)`; None = drawn by `sample`.
            generator: Source of randomness of that draw.
        """
        if u_prior is None:
            u_prior = self.sample(len(u_posterior), generator=generator)
        return contrastive_loss(self.tilt, u_posterior, u_prior, energy_l2=self.energy_l2)


def contrastive_loss(
    tilt: Callable[[Tensor], Tensor],
    z_posterior: Float[Tensor, " n ..."],
    z_prior: Float[Tensor, " m ..."],
    *,
    energy_l2: float = 0.0,
) -> PriorLoss:
    """Returns the loss whose gradient is the maximum-likelihood gradient of a tilted prior.

    loss = mean tilt(z_prior) - mean tilt(z_posterior) + energy_l2 * mean tilt^2

    Both sets go through the network in one pass, as gradient hooks of distributed wrappers need.

    Arguments:
        tilt: The function that is learned; larger = more probable.
        z_posterior: Posterior samples, detached by the caller, shape `(n, *event)`.
        z_prior: Prior samples, likewise, shape `(m, *event)`.
        energy_l2: Weight of the squared tilt.

    Returns:
        The loss, and under `gap` the mean tilt of posterior minus prior samples. The loss is not
        a likelihood and may be negative; a gap that grows without bound means divergence.

    Raises:
        ValueError: If the event shapes differ.

    Source:
        Pang et al., "Learning Latent Space Energy-Based Prior Model", 2020, eq. 11.
    """
    if z_posterior.shape[1:] != z_prior.shape[1:]:
        raise ValueError(
            "z_posterior and z_prior must have one event shape, got "
            f"{tuple(z_posterior.shape)} and {tuple(z_prior.shape)}"
        )
    values = tilt(torch.cat((z_posterior, z_prior)))
    positive, negative = values[: len(z_posterior)], values[len(z_posterior) :]
    gap = positive.mean() - negative.mean()
    loss = -gap
    if energy_l2 > 0:
        loss = loss + energy_l2 * values.square().mean()
    logs = {
        "gap": gap.detach(),
        "tilt_posterior": positive.mean().detach(),
        "tilt_prior": negative.mean().detach(),
    }
    return PriorLoss(loss, logs)
