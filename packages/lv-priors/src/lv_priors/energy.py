"""The latent-space energy-based prior."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lv_core import Kernel, Langevin, PerceptronTarget, Source, frozen
from lv_priors.base import Prior, PriorLoss

__all__ = ["BoundEnergyPrior", "EnergyPrior", "contrastive_loss", "match_condition"]


class EnergyPrior(Prior):
    """Exponential tilting of a normal: `log p(z) = tilt(z) + log N(z; 0, scale^2 I) - log Z`.

    The network adds: a larger tilt is more probable. Papers that write an energy `f` with
    `p ~ exp(-f) N` have `tilt = -f`. Learned by the contrastive loss, whose gradient is the
    maximum-likelihood gradient when the negative samples come from the model.

    With `conditional`, the tilt is f(z, c) and `given(c)` returns the prior p(z | c), which has
    the interface of any other prior.

    Arguments:
        tilt: Network from `(*batch, *event)` to `(*batch,)` or `(*batch, 1)`; if conditional, of
            two arguments, latents and conditions `(*batch, *condition)`.
        event: Shape of one latent, or its length.
        scale: Standard deviation s0 of the reference normal.
        start_scale: Standard deviation of the starts of chains; papers use 1 whatever s0 is.
        sampler: Kernel that `sample` runs from those starts.
        energy_l2: Weight of mean tilt^2 added to the loss; holds the tilt near 0, whose additive
            constant the data do not identify.
        conditional: Whether the tilt takes a condition.
        closed_form: Whether `sample` takes the gradient in closed form, see
            `lv_core.PerceptronTarget`; the tilt must be a perceptron of the latent vector.

    Raises:
        TypeError: If `closed_form` and the tilt has a layer without closed form.
        ValueError: If `scale` is not positive, `energy_l2` is negative, or `closed_form` and the
            prior is conditional or its event no vector.

    Source:
        Pang et al., "Learning Latent Space Energy-Based Prior Model", 2020.

    Example:
        >>> prior = EnergyPrior(mlp((32, 64, 64, 1)), 32, scale=0.5)
        >>> z = prior.sample(256)
        >>> joint = EnergyPrior(tilt_of_latent_and_label, 32, conditional=True)
        >>> loss = joint.given(labels).loss(z_posterior).loss
    """

    sharded_methods: ClassVar[tuple[str, ...]] = (
        "log_density",
        "tilt",
        "conditional_tilt",
        "push",
    )

    def __init__(
        self,
        tilt: nn.Module,
        event: int | tuple[int, ...],
        *,
        scale: float = 1.0,
        start_scale: float = 1.0,
        sampler: Kernel | None = None,
        energy_l2: float = 0.0,
        conditional: bool = False,
        closed_form: bool = False,
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
        self.conditional = conditional
        if closed_form and (conditional or len(self.event_shape) != 1):
            raise ValueError(
                "closed_form needs an unconditional tilt of one vector, got event "
                f"{self.event_shape} and conditional={conditional}"
            )
        self._closed_form = PerceptronTarget(tilt, scale=scale) if closed_form else None

    def tilt(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the tilt, one value per latent: `(*batch, *event) -> (*batch,)`.

        Raises:
            ValueError: If `z` has another event shape, the network returns something else, or
                the prior is conditional.
        """
        if self.conditional:
            raise ValueError(
                "the tilt of this prior needs a condition: bind it first, prior.given(condition)"
            )
        self.check_event(z, "z")
        return self._one_value_each(self.network(z), z)

    def conditional_tilt(
        self, z: Float[Tensor, "..."], condition: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Returns f(z, c), `(*batch, *event)` and `(*batch, *condition)` to `(*batch,)`."""
        self.check_event(z, "z")
        return self._one_value_each(self.network(z, condition), z)

    def given(self, condition: Shaped[Tensor, " n ..."]) -> "BoundEnergyPrior":
        """Returns p(z | condition) as a prior that shares the parameters of this one.

        Arguments:
            condition: One condition for each latent, shape `(n, *condition)`, or a single one
                for all, shape `(1, *condition)`.

        Raises:
            ValueError: If this prior is not conditional.
        """
        if not self.conditional:
            raise ValueError(
                "this prior has a tilt of the latent alone: make it with conditional=True and a "
                "tilt of latent and condition"
            )
        return BoundEnergyPrior(self, condition)

    def _one_value_each(self, value: Tensor, z: Tensor) -> Tensor:
        batch = z.shape[: z.ndim - len(self.event_shape)]
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
        target = self.log_density if self._closed_form is None else self._closed_form
        with frozen(self):
            return self.sampler(target, self.init(n, generator=generator), generator=generator)

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

    def extra_repr(self) -> str:
        """Shows the event, the reference normal and the sampler."""
        return f"event={self.event_shape}, scale={self.scale}, sampler={self.sampler}"


class BoundEnergyPrior(EnergyPrior):
    """p(z | c) for given conditions c: a view of a conditional prior, made by `given`.

    It shares the parameters of that prior, so learning one learns the other; checkpoints hold
    the latter. The last batch axis of latents runs over the conditions, unless there is one.

    Arguments:
        prior: The prior whose tilt takes a condition.
        condition: Shape `(n, *condition)` or `(1, *condition)`.
    """

    condition: Tensor

    def __init__(self, prior: EnergyPrior, condition: Shaped[Tensor, " n ..."]) -> None:
        super().__init__(
            _View(prior),
            prior.event_shape,
            scale=prior.scale,
            start_scale=prior.start_scale,
            sampler=prior.sampler,
            energy_l2=prior.energy_l2,
        )
        self.register_buffer("condition", condition, persistent=False)
        self._anchor = prior._anchor  # draws where the prior draws, without moving it

    def tilt(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `f(z, c)`, `(*batch, *event) -> (*batch,)`.

        Raises:
            ValueError: If the batch does not match the conditions.
        """
        self.check_event(z, "z")
        batch = tuple(z.shape[: z.ndim - len(self.event_shape)])
        value: Tensor = self.network(z, match_condition(self.condition, batch))
        return value

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns the contrastive loss under the same conditions on both sides.

        Its gradient is that of the mean of log p(z | c), the arguments those of `EnergyPrior`.
        """
        if u_prior is None:
            u_prior = self.sample(len(u_posterior), generator=generator)
        both = torch.cat(
            [match_condition(self.condition, (len(u),)) for u in (u_posterior, u_prior)]
        )
        return contrastive_loss(
            lambda z: self.network(z, both), u_posterior, u_prior, energy_l2=self.energy_l2
        )


class _View(nn.Module):
    """The conditional tilt of a prior as a network."""

    def __init__(self, prior: EnergyPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.prior.conditional_tilt(z, condition)


def match_condition(condition: Shaped[Tensor, " n ..."], batch: tuple[int, ...]) -> Tensor:
    """Returns the conditions expanded over the batch, shape `(*batch, *condition)`.

    Arguments:
        condition: Shape `(n, *condition)`; n is 1 or the length of the last batch axis.
        batch: Batch axes of the latents.

    Raises:
        ValueError: If there are neither one condition nor as many as latents.
    """
    n = len(condition)
    if n != 1 and batch[-1:] != (n,):
        raise ValueError(
            f"condition holds {n} rows for latents of batch shape {batch}; give one row, or as "
            "many as the last batch axis is long (condition.repeat_interleave(k, 0) for k each)"
        )
    return condition.expand(*batch, *condition.shape[1:]) if batch else condition[0]


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
