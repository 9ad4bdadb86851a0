"""The prior that carries noise to latents through a network."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core import Source
from lv_priors.base import Prior

__all__ = ["TransportPrior"]


class TransportPrior(Prior):
    """u ~ N(0, I), z = network(u): chains run on the noise u, the decoder sees z.

    The density of u is exact and has no parameters. The network is learned through the
    likelihood: infer u with the network frozen, then take the gradient of
    `log p(x | push(u))` with u fixed, which reaches decoder and network alike. So `loss` is 0.

    The network must map every entry of the batch on its own (no batch norm).

    Arguments:
        network: Map from noise to latent that keeps the shape, such as `lv_core.nn.UNet1d`.
        event: Shape of one latent, or its length.
        layout: What the network sees. `token` = u as it is, so a network that acts on the last
            axis maps every token by itself; `flat` = all axes of the event as one.

    Source:
        Kong et al., "Molecule Design by Latent Prompt Transformer", 2024 (layout `token`);
        "Latent Plan Transformer for Trajectory Abstraction", 2024 (layout `flat`).

    Example:
        >>> prior = TransportPrior(UNet1d(init="kaiming"), (4, 256))
        >>> u = kernel(posterior(prior, log_likelihood), prior.init(64))
        >>> loss = -log_likelihood(prior.push(u)).mean()
    """

    def __init__(
        self,
        network: nn.Module,
        event: int | tuple[int, ...],
        *,
        layout: Literal["token", "flat"] = "token",
    ) -> None:
        super().__init__(event)
        self.network = network
        self.layout = layout

    def log_density(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `log N(u; 0, I)`, the density of the noise and not of the latent."""
        self.check_event(u)
        axes = tuple(range(-len(self.event_shape), 0))
        constant = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)
        return -0.5 * u.square().sum(dim=axes) - constant

    def push(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the latents, `(*batch, *event) -> (*batch, *event)`.

        Raises:
            ValueError: If `u` has another event shape or the network changes the shape.
        """
        self.check_event(u)
        seen = u.flatten(-len(self.event_shape)) if self.layout == "flat" else u
        out: Tensor = self.network(seen)
        if out.shape != seen.shape:
            raise ValueError(
                f"the network must keep the shape it sees (layout {self.layout!r}), got "
                f"{tuple(out.shape)} for {tuple(seen.shape)}"
            )
        return out.reshape(u.shape)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` exact draws of the latent, shape `(n, *event)`."""
        with torch.no_grad():
            return self.push(self.init(n, generator=generator))

    def latent_log_density(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Raises, since no density of the latent itself is available.

        Raises:
            NotImplementedError: Always, with what to do instead.
        """
        raise NotImplementedError(
            "log p(z) of a transported normal needs the inverse of the network and the "
            "determinant of its Jacobian, which a general network does not give. Infer u instead "
            "of z: lv_core.posterior(prior, log_likelihood) is the exact target on u, and "
            "prior.push(u) the latent. Use FlowPrior where log p(z) itself is needed"
        )

    def log_normalizer(self) -> float:
        """Returns 0: the density of u is normalised."""
        return 0.0

    def extra_repr(self) -> str:
        """Shows the event and the layout."""
        return f"event={self.event_shape}, layout={self.layout!r}"
