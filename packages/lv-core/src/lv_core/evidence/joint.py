"""The joint density of data and latent, in the two parts that bounds need."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import LogDensity, LogDensityPrior, check_batch_shape
from lv_core.random import Source

__all__ = ["Joint", "LatentPrior", "Proposal", "over_samples"]

LatentPrior = LogDensityPrior | LogDensity | None
"""A prior with `log_density` and `push`, a log density, or None for the standard normal."""


@runtime_checkable
class Proposal(Protocol):
    """What an estimate draws from: `DiagonalGaussian`, a flow, any q(z | x)."""

    def sample(self, n: int, /, *, generator: Source = None) -> Tensor:
        """Returns `n` draws for each item, shape `(n, *batch, *event)`."""
        ...

    def log_prob(self, z: Tensor, /) -> Tensor:
        """Returns the normalised log density, shape `(n, *batch)`."""
        ...


@runtime_checkable
class _HasDivergence(Protocol):
    def kl(self, other: object, /) -> Tensor: ...


class JointTerms(NamedTuple):
    """The two parts of a log joint density, each one value per item."""

    log_likelihood: Tensor
    log_prior: Tensor


@dataclass(frozen=True, eq=False)
class Joint:
    """The log joint density `log p(x | push(u)) + log p(u)`, with its parts at hand.

    A log density like any other. Bounds use the closed form of the divergence from the prior
    where there is one: proposal and prior both a `DiagonalGaussian`, or the prior None.

    Arguments:
        log_likelihood: Maps latents `(*samples, *batch, *event)` to `log p(x | z)`, one value per
            item; it must broadcast over leading sample axes unless samples are taken one by one.
        prior: Prior with `log_density(u)` and `push(u)`, log density, or None for N(0, I). Where
            it has a method `log_normalizer()`, its value is subtracted from the log density. An
            unnormalised prior, whose method raises NotImplementedError, shifts every estimate by
            its unknown log normaliser, which then is no bound.
        assume_normalized: Whether the prior is normalised, for functions that cannot say so
            themselves; None = ask the prior, and believe a function without `log_normalizer`.

    Raises:
        TypeError: If an argument is not callable.
    """

    log_likelihood: LogDensity
    prior: LatentPrior = field(default=None)
    assume_normalized: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.log_likelihood):
            raise TypeError(
                f"log_likelihood must be callable, got {type(self.log_likelihood).__name__}"
            )
        prior = self.prior
        if not (prior is None or callable(prior) or isinstance(prior, LogDensityPrior)):
            raise TypeError(
                "prior must be a log density, have methods log_density and push, or be None for "
                f"the standard normal; got {type(prior).__name__}"
            )

    @property
    def normalized(self) -> bool:
        """Whether the prior integrates to one, so that bounds on the evidence are bounds."""
        if self.assume_normalized is not None:
            return self.assume_normalized
        return self._normalizer() is not None

    @property
    def log_normalizer(self) -> float | Tensor:
        """What is subtracted from the prior's log density; 0 where the prior does not know."""
        value = self._normalizer()
        return 0.0 if value is None else value

    def likelihood_at(self, u: Tensor) -> Tensor:
        """Returns `log p(x | push(u))`, shape `(*batch,)`."""
        z = self.prior.push(u) if isinstance(self.prior, LogDensityPrior) else u
        return self.log_likelihood(z)

    def terms(self, u: Tensor) -> JointTerms:
        """Returns both parts at `u`, shape `(*batch,)` each.

        Raises:
            ValueError: If the likelihood is not one value per item.
        """
        likelihood = self.likelihood_at(u)
        check_batch_shape(likelihood, u)
        return JointTerms(likelihood, self.prior_at(u, event_ndim=u.ndim - likelihood.ndim))

    def prior_at(self, u: Tensor, *, event_ndim: int) -> Tensor:
        """Returns `log p(u)`; the last `event_ndim` axes of `u` are one item's.

        Less the prior's log normaliser, where it has one.
        """
        if self.prior is None:
            flat = u.reshape(*u.shape[: u.ndim - event_ndim], -1)
            constant = 0.5 * flat.shape[-1] * math.log(2 * math.pi)
            return -0.5 * flat.square().sum(-1) - constant
        if isinstance(self.prior, LogDensityPrior):
            return self.prior.log_density(u) - self.log_normalizer
        return self.prior(u) - self.log_normalizer

    def divergence(self, q: object) -> Tensor | None:
        """Returns KL(q, prior) per item where it has a closed form, else None."""
        if not isinstance(q, _HasDivergence):
            return None
        # Two of one family have a closed form; the standard normal goes by the name None.
        known = self.prior is None or isinstance(self.prior, type(q))
        return q.kl(self.prior) if known else None

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the log joint density, shape `(*batch,)`."""
        likelihood, prior = self.terms(u)
        return likelihood + prior

    def _normalizer(self) -> float | Tensor | None:
        # `Joint(f, prior.log_density)` says no more and no less than `Joint(f, prior)`.
        bound = getattr(self.prior, "__name__", "") == "log_density"
        owner = getattr(self.prior, "__self__", self.prior) if bound else self.prior
        method = getattr(owner, "log_normalizer", None)
        if not callable(method):
            return 0.0
        try:
            value: float | Tensor = method()
        except NotImplementedError:
            return None
        return value


def over_samples(
    function: LogDensity, z: Tensor, *, chunk: int | None = None
) -> Float[Tensor, "n ..."]:
    """Returns `function` at samples along the first axis of `z`, `chunk` of them at a time.

    A sample that is alone goes in without that axis, so that a decoder that knows one batch axis
    only can be used with `chunk=1`.

    Raises:
        ValueError: If `chunk` is not positive.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 or None for all samples, got {chunk}")
    parts = torch.split(z, len(z) if chunk is None else chunk)
    return torch.cat(
        [function(part[0])[None] if len(part) == 1 else function(part) for part in parts]
    )
