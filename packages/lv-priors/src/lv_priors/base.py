"""The contract of all priors over latent variables."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lv_core import Source, normal

__all__ = ["Prior", "PriorLoss"]


class PriorLoss(NamedTuple):
    """What learning a prior minimises (a scalar), and what it reports (detached scalars)."""

    loss: Tensor
    logs: Mapping[str, Tensor]


class Prior(nn.Module, ABC):
    """A prior over latents, defined through the variable u that is sampled.

    The decoder sees `z = push(u)`. For Gaussian and energy-based priors u is z itself; for priors
    that transform noise u is the noise. One posterior target, `log p(x | push(u)) +
    log_density(u)`, serves them all.

    Arguments:
        event: Shape of one u, or its length.
        start_scale: Standard deviation of the normal starts of chains.

    Raises:
        ValueError: If a length is not positive.
    """

    sharded_methods: ClassVar[tuple[str, ...]] = ("log_density", "push")

    def __init__(self, event: int | tuple[int, ...], *, start_scale: float = 1.0) -> None:
        super().__init__()
        self.event_shape = (event,) if isinstance(event, int) else tuple(event)
        if not self.event_shape or min(self.event_shape) < 1:
            raise ValueError(f"event must be one or more positive lengths, got {event}")
        self.start_scale = start_scale
        # Says where starts are drawn; moves with .to() and stays out of checkpoints.
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)

    _anchor: Tensor

    @abstractmethod
    def log_density(self, u: Tensor) -> Tensor:
        """Returns the log density of u, `(*batch, *event) -> (*batch,)`; may be unnormalised."""

    def push(self, u: Tensor) -> Tensor:
        """Returns the latent that the decoder sees; the identity unless a prior says otherwise."""
        return u

    def init(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` chain starts, `start_scale * N(0, I)`, shape `(n, *event)`."""
        like = self._anchor.expand(n, *self.event_shape)
        return self.start_scale * normal(like.contiguous(), generator)

    @abstractmethod
    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` latents z, exact where possible, else by the prior's own sampler."""

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns what learning the prior minimises given posterior samples; zero if fixed.

        Arguments:
            u_posterior: Posterior samples of u, detached, shape `(n, *event)`.
            u_prior: Prior samples of u where the caller already has them.
            generator: Source of randomness for priors that draw their own.
        """
        return PriorLoss(u_posterior.new_zeros(()), {})

    def log_normalizer(self) -> float:
        """Returns the logarithm of the integral of `exp(log_density)`.

        Raises:
            NotImplementedError: If it has no closed form for this prior.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no closed-form normalising constant; estimate it by "
            "annealed importance sampling"
        )

    def check_event(self, u: Tensor, name: str = "u") -> None:
        """Raises unless the last axes of `u` are the event of this prior.

        Raises:
            ValueError: Names the argument and both shapes.
        """
        if tuple(u.shape[-len(self.event_shape) :]) != self.event_shape:
            raise ValueError(
                f"{name} must end in the event shape {self.event_shape}, got {tuple(u.shape)}"
            )
