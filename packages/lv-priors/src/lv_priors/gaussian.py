"""The normal prior."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import Source
from lv_priors.base import Prior

__all__ = ["GaussianPrior"]


class GaussianPrior(Prior):
    """z ~ N(center, scale^2 I), normalised, with nothing to learn.

    Arguments:
        event: Shape of one latent, or its length.
        scale: Standard deviation.
        center: Mean, shape `event`; None = 0.

    Raises:
        ValueError: If `scale` is not positive or `center` has another shape.
    """

    center: Tensor

    def __init__(
        self,
        event: int | tuple[int, ...],
        *,
        scale: float = 1.0,
        center: Tensor | None = None,
    ) -> None:
        super().__init__(event, start_scale=scale)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale
        self.register_buffer("center", torch.zeros(self.event_shape) if center is None else center)
        if tuple(self.center.shape) != self.event_shape:
            raise ValueError(
                f"center must have the event shape {self.event_shape}, got "
                f"{tuple(self.center.shape)}"
            )

    def log_density(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `log N(u; center, scale^2 I)`."""
        self.check_event(u)
        axes = tuple(range(-len(self.event_shape), 0))
        constant = 0.5 * self.center.numel() * math.log(2 * math.pi * self.scale**2)
        return -0.5 * ((u - self.center) / self.scale).square().sum(dim=axes) - constant

    def init(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` exact draws, shape `(n, *event)`."""
        return self.center + super().init(n, generator=generator)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` exact draws, shape `(n, *event)`."""
        return self.init(n, generator=generator)

    def log_normalizer(self) -> float:
        """Returns 0: the density is normalised."""
        return 0.0
