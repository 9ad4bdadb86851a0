"""Normalising flows as priors, by the library zuko."""

import math
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from lv_core import Source, normal
from lv_priors.base import Prior, PriorLoss
from lv_priors.energy import match_condition

__all__ = ["FlowPrior"]


class FlowPrior(Prior):
    """A normalising flow over the latent: exact density, exact samples, maximum likelihood.

    The strong baseline for every claim made with an energy-based prior. Conditional flows
    (`context` > 0) are bound by `given(c)`, as conditional energies are.

    Arguments:
        flow: Module that returns a distribution over flat latents, `flow(None)` or
            `flow(context)`, such as the flows of zuko.
        event: Shape of one latent, or its length.
        context: Length of the condition; 0 = none.

    Raises:
        ValueError: If `context` is negative.

    Source:
        Durkan et al., "Neural Spline Flows", 2019; Papamakarios et al., "Masked Autoregressive
        Flow for Density Estimation", 2017.

    Example:
        >>> prior = FlowPrior.nsf(32, transforms=3)
        >>> loss = prior.loss(z_posterior).loss
    """

    condition: Tensor | None

    def __init__(self, flow: nn.Module, event: int | tuple[int, ...], *, context: int = 0) -> None:
        super().__init__(event)
        if context < 0:
            raise ValueError(f"context must not be negative, got {context}")
        self.flow, self.context = flow, context
        self.register_buffer("condition", None, persistent=False)

    @classmethod
    def nsf(
        cls,
        event: int | tuple[int, ...],
        *,
        context: int = 0,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> "FlowPrior":
        """Returns an autoregressive flow of monotonic splines on [-5, 5], the identity outside.

        Sampling takes one pass of the network per entry of the latent and transform.

        Raises:
            ImportError: If zuko is missing.
        """
        return cls._made("NSF", event, context, transforms, hidden, bins=bins)

    @classmethod
    def maf(
        cls,
        event: int | tuple[int, ...],
        *,
        context: int = 0,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> "FlowPrior":
        """Returns an autoregressive flow of affine maps.

        Sampling takes one pass of the network per entry of the latent and transform.

        Raises:
            ImportError: If zuko is missing.
        """
        return cls._made("MAF", event, context, transforms, hidden)

    @classmethod
    def _made(
        cls,
        kind: str,
        event: int | tuple[int, ...],
        context: int,
        transforms: int,
        hidden: Sequence[int],
        **settings: int,
    ) -> "FlowPrior":
        features = event if isinstance(event, int) else math.prod(event)
        flow: nn.Module = getattr(_zuko().flows, kind)(
            features, context, transforms=transforms, hidden_features=tuple(hidden), **settings
        )
        return cls(flow, event, context=context)

    def given(self, condition: Float[Tensor, " n context"]) -> "FlowPrior":
        """Returns p(z | condition) as a prior that shares the parameters of this one.

        Arguments:
            condition: One condition for each latent, `(n, context)`, or one for all,
                `(1, context)`.

        Raises:
            ValueError: If the flow takes no condition, or one of another length.
        """
        if not self.context or condition.shape[-1] != self.context:
            raise ValueError(
                f"condition must be (n, {self.context}) for context={self.context} (0 = the flow "
                f"takes none), got {tuple(condition.shape)}"
            )
        bound = FlowPrior(self.flow, self.event_shape, context=self.context)
        bound.condition = condition
        bound._anchor = self._anchor  # draws where the flow draws, without moving it
        return bound

    def log_density(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log density of the latent, normalised.

        Raises:
            ValueError: If `u` has another event shape, or a conditional flow has no condition.
        """
        self.check_event(u)
        batch = tuple(u.shape[: u.ndim - len(self.event_shape)])
        value: Tensor = self._distribution(batch).log_prob(u.flatten(-len(self.event_shape)))
        return value

    def init(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` exact draws, shape `(n, *event)`."""
        return self.sample(n, generator=generator)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` exact draws, shape `(n, *event)`; leaves gradients alone.

        Raises:
            NotImplementedError: If the base of the flow is not normal.
        """
        with torch.no_grad():
            flow: Any = self._distribution((n,))
            base = getattr(flow, "base", None)
            if not isinstance(base, Independent) or not isinstance(base.base_dist, Normal):
                raise NotImplementedError(
                    "sampling from a generator needs a flow with a normal base, got base "
                    f"{type(base).__name__}; take another flow, or draw from prior.flow itself"
                )
            # Not flow.sample, which draws from torch's global generator.
            like = self._anchor.expand(n, math.prod(self.event_shape))
            eps = normal(like.contiguous(), generator)
            z: Tensor = flow.transform.inv(base.mean + base.stddev * eps)
            return z.reshape(n, *self.event_shape)

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns the mean negative log-likelihood of posterior samples, `(n, *event)`."""
        surprise = -self.log_density(u_posterior).mean()
        return PriorLoss(surprise, {"surprise": surprise.detach()})

    def log_normalizer(self) -> float:
        """Returns 0: the density is normalised."""
        return 0.0

    def extra_repr(self) -> str:
        """Shows the event and the length of the condition."""
        return f"event={self.event_shape}, context={self.context}"

    def _distribution(self, batch: tuple[int, ...]) -> Distribution:
        if self.context and self.condition is None:
            raise ValueError("this flow needs a condition: bind it first, prior.given(condition)")
        condition = None if self.condition is None else match_condition(self.condition, batch)
        found: Distribution = self.flow(condition)
        return found


def _zuko() -> ModuleType:
    try:
        return import_module("zuko")
    except ImportError as error:
        raise ImportError(
            "FlowPrior.nsf and FlowPrior.maf need zuko: pip install 'lv-priors[flows]'"
        ) from error
