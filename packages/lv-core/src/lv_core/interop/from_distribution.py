"""Targets from distributions of torch."""

from copy import copy

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, biject_to
from torch.distributions.constraints import Constraint

from lv_core.interop.starts import finite_starts
from lv_core.random import Source

__all__ = ["DistributionTarget", "from_distribution"]


class DistributionTarget:
    """The log density of a distribution in unconstrained space; made by `from_distribution`."""

    def __init__(self, distribution: Distribution) -> None:
        try:
            self._transform = biject_to(_support(distribution))
        except NotImplementedError as error:
            raise ValueError(
                "distribution must have a continuous support that torch.distributions can map "
                f"from the real line, got {distribution}"
            ) from error
        # Chains may leave the support in floating point: that is a rejection, not an error.
        self.distribution = _unvalidated(distribution)
        batch, event = distribution.batch_shape, distribution.event_shape
        self.event_shape = tuple(self._transform.inverse_shape(batch + event)[len(batch) :])

    def __call__(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `log p(x) + log |dx/du|` with `x = constrain(u)`, one value per event."""
        x = self._transform(u)
        value: Tensor = self.distribution.log_prob(x)
        slope: Tensor = self._transform.log_abs_det_jacobian(u, x)
        return value + slope

    def constrain(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the points in the support."""
        x: Tensor = self._transform(u)
        return x

    def unconstrain(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the unconstrained points of points in the support."""
        u: Tensor = self._transform.inv(x)
        return u

    def init(
        self, n: int, *, radius: float = 2.0, generator: Source = None
    ) -> Float[Tensor, "n ..."]:
        """Returns starts of `n` chains per item, uniform on `(-radius, radius)`.

        Raises:
            ValueError: If `n` or `radius` is not positive, or no such starts are found.
        """
        shape = (*self.distribution.batch_shape, *self.event_shape)
        like = _parameter(self.distribution)
        return finite_starts(
            self,
            n,
            shape,
            radius=radius,
            like=torch.empty(0) if like is None else like,
            generator=generator,
        )


def from_distribution(distribution: Distribution) -> DistributionTarget:
    """Returns the log density of a distribution of torch over unconstrained points.

    A bounded support is mapped from the real line by `torch.distributions.biject_to`, and the
    logarithm of the Jacobian's determinant added; `constrain` maps samples back. Axes of the
    distribution's batch are items of their own, chains in front: `(chains, *batch, *event)`. Wrap
    it in `Independent` to have them sampled as one event.

    Arguments:
        distribution: A continuous distribution.

    Raises:
        ValueError: If the support is discrete or has no such map.

    Example:
        >>> target = from_distribution(torch.distributions.Dirichlet(torch.ones(3)))
        >>> trace = kernel.run(target, target.init(64), thin=1)
        >>> target.constrain(trace.u).sum(-1)  # ones
    """
    return DistributionTarget(distribution)


def _support(distribution: Distribution) -> Constraint | None:
    """Returns the support; of a mixture that of its components, if it is one for all."""
    if isinstance(distribution, MixtureSameFamily):
        inner: object = distribution.component_distribution.support
        while hasattr(inner, "base_constraint"):
            inner = inner.base_constraint
        bounds = (value for value in vars(inner).values() if isinstance(value, Tensor))
        # Bounds of each component, as of a mixture of uniforms, leave no one map.
        if all(bound.numel() == 1 for bound in bounds):
            return distribution.component_distribution.support
    return distribution.support


def _unvalidated(distribution: Distribution) -> Distribution:
    """Returns a copy that does not check its arguments, nor those inside it."""
    other = copy(distribution)
    other._validate_args = False
    for name, value in vars(other).items():
        if isinstance(value, Distribution):
            setattr(other, name, _unvalidated(value))
    return other


def _parameter(distribution: Distribution) -> Tensor | None:
    """Returns a parameter of a distribution, which has the dtype and device of its samples."""
    for value in vars(distribution).values():
        found = _parameter(value) if isinstance(value, Distribution) else value
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
    return None
