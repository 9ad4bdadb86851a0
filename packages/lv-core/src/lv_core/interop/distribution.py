"""A log density and the means to sample it as a distribution of torch."""

import math
from collections.abc import Sequence
from copy import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from lv_core.density import LogDensity, check_batch_shape
from lv_core.evidence.estimate import LogEstimate
from lv_core.kernels.base import Kernel
from lv_core.random import Source, normal

__all__ = ["DensityDistribution", "Draw", "real_support", "to_torch_distribution"]


def real_support(event_ndim: int) -> Constraint:
    """Returns the constraint that every entry of an event is a real number."""
    real: Constraint = constraints.independent(constraints.real, event_ndim)  # type: ignore[no-untyped-call]
    return real


@runtime_checkable
class Draw(Protocol):
    """Draws points: what a distribution samples by, or where its chains start."""

    def __call__(self, n: int, /, *, generator: Source = None) -> Tensor:
        """Returns `n` points, shape `(n, *batch, *event)`."""
        ...


class DensityDistribution(Distribution):
    """A distribution of torch made of a log density and a way to draw from it.

    Behaves as those of `torch.distributions`: shapes, `Independent`, `expand`, checks of the
    support. Draws are not reparametrised (`has_rsample` is False) and leave gradients alone;
    `log_prob` is differentiable. Closed forms (`kl_divergence`, `entropy`) are not available, as a
    log density does not give them.

    Arguments:
        log_density: Maps `(*samples, *batch, *event)` to `(*samples, *batch)`.
        draw: Draws `n` points at a time.
        event_shape: Shape of one event.
        batch_shape: Shape of the items that the density tells apart.
        log_normalizer: log of the integral of exp(log_density), shape `()` or `(*batch,)`, or an
            estimate of it; None = unknown.
        support: None = all real numbers.
        validate_args: As in torch.

    Raises:
        ValueError: If `log_normalizer` does not have the shape of the batch.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch's interface
    has_rsample = False

    def __init__(
        self,
        log_density: LogDensity,
        draw: Draw,
        *,
        event_shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        log_normalizer: float | Tensor | LogEstimate | None = None,
        support: Constraint | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._log_density, self._draw = log_density, draw
        self._items = torch.Size(batch_shape)
        if isinstance(log_normalizer, LogEstimate):
            log_normalizer = log_normalizer.mean
        if isinstance(log_normalizer, Tensor) and log_normalizer.shape not in ((), self._items):
            raise ValueError(
                f"log_normalizer must be one number or have the batch shape {tuple(self._items)}, "
                f"got {tuple(log_normalizer.shape)}"
            )
        self._log_normalizer = log_normalizer
        self._support = real_support(len(event_shape)) if support is None else support
        super().__init__(self._items, torch.Size(event_shape), validate_args)

    @property
    def support(self) -> Constraint:
        """Where the density is positive."""
        return self._support

    def unnormalized_log_prob(self, value: Tensor) -> Tensor:
        """Returns the log density at `value`, `(*samples, *batch)`, up to a constant.

        Raises:
            ValueError: If `value` has another event shape, lies outside of the support, or the log
                density returns anything but one value per event.
        """
        if self._validate_args:
            self._validate_sample(value)
        item = self._items + self._event_shape
        shape = torch.broadcast_shapes(value.shape, self._extended_shape())  # type: ignore[no-untyped-call]
        samples = shape[: len(shape) - len(item)]
        # One axis of samples, as networks may insist on it.
        rows = value.expand(shape).reshape((math.prod(samples), *item))
        found = self._log_density(rows)
        check_batch_shape(found, rows)
        expected = (math.prod(samples), *self._items)
        if tuple(found.shape) != expected:
            raise ValueError(
                f"the log density must return one value per event, shape {expected}, got "
                f"{tuple(found.shape)}"
            )
        return found.reshape(samples + self._items)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the normalised log density at `value`, `(*samples, *batch)`.

        Raises:
            NotImplementedError: If the normaliser is unknown; the message says what to do.
            ValueError: As for `unnormalized_log_prob`.
        """
        if self._log_normalizer is None:
            raise NotImplementedError(
                "the log density is not normalised: give log_normalizer=, in closed form or as "
                "estimated by lv_core.ais(base, log_density).log_z, or call "
                "unnormalized_log_prob where a constant does not matter"
            )
        return self.unnormalized_log_prob(value) - self._log_normalizer

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = torch.Size(), *, generator: Source = None
    ) -> Tensor:
        """Returns draws of shape `(*sample_shape, *batch, *event)`, detached.

        Arguments:
            sample_shape: Shape of the draws.
            generator: Source of randomness; None = torch's global generator.

        Raises:
            ValueError: If the function that draws returns another shape.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        item = self._items + self._event_shape
        free = shape[: len(shape) - len(item)]
        drawn = self._draw(math.prod(free), generator=generator)
        if drawn.shape != (math.prod(free), *item):
            raise ValueError(
                f"draw must return shape {(math.prod(free), *item)}, got {tuple(drawn.shape)}"
            )
        return drawn.detach().reshape(shape)

    def expand(
        self,
        batch_shape: Sequence[int],
        _instance: "DensityDistribution | None" = None,
    ) -> "DensityDistribution":
        """Returns the distribution with further batch axes in front, independent draws each.

        Raises:
            ValueError: If the shape does not end in the batch shape of the density.
        """
        wanted = torch.Size(batch_shape)
        if wanted[len(wanted) - len(self._items) :] != self._items:
            raise ValueError(
                f"batch_shape must end in the batch shape {tuple(self._items)} of the density, "
                f"got {tuple(wanted)}"
            )
        other = copy(self) if _instance is None else _instance
        other.__dict__.update(self.__dict__)
        other._batch_shape = wanted
        return other

    def __repr__(self) -> str:
        """Shows the shapes."""
        return (
            f"{type(self).__name__}(event_shape={tuple(self.event_shape)}, "
            f"batch_shape={tuple(self.batch_shape)})"
        )


def to_torch_distribution(
    log_density: LogDensity,
    kernel: Kernel,
    *,
    event_shape: Sequence[int],
    batch_shape: Sequence[int] = (),
    init: Draw | None = None,
    log_normalizer: float | Tensor | LogEstimate | None = None,
    support: Constraint | None = None,
    validate_args: bool | None = None,
) -> DensityDistribution:
    """Returns a target and the kernel that samples it as a distribution of torch.

    Every draw is the end of a chain of its own, `kernel.steps` steps from a fresh start: draws are
    independent, and as good as the chain is long. To reuse a run that has been judged, take
    `SampledPosterior`.

    Arguments:
        log_density: Maps `(*samples, *batch, *event)` to `(*samples, *batch)`.
        kernel: Moves the chains.
        event_shape: Shape of one event.
        batch_shape: Shape of the items, each with a target of its own.
        init: Draws starts, `(n, *batch, *event)`, as `prior.init` does; None = standard normal in
            torch's default dtype, on its default device.
        log_normalizer: log of the integral of exp(log_density), or an estimate of it, such as
            `ais(base, log_density).log_z`; None = unknown, `log_prob` then refuses.
        support: None = all real numbers.
        validate_args: As in torch.

    Raises:
        ValueError: If `log_normalizer` does not have the shape of the batch.

    Example:
        >>> log_z = ais(base, log_density).log_z
        >>> p = to_torch_distribution(
        ...     log_density, Mala(steps=500, step_size=0.8), event_shape=(8,), log_normalizer=log_z
        ... )
        >>> torch.distributions.Independent(p.expand((3,)), 1).log_prob(torch.zeros(3, 8))
    """
    item = (*batch_shape, *event_shape)
    begin = _Normal(item) if init is None else init

    def draw(n: int, /, *, generator: Source = None) -> Tensor:
        return kernel(log_density, begin(n, generator=generator), generator=generator)

    return DensityDistribution(
        log_density,
        draw,
        event_shape=event_shape,
        batch_shape=batch_shape,
        log_normalizer=log_normalizer,
        support=support,
        validate_args=validate_args,
    )


class _Normal:
    """Draws standard normal starts."""

    def __init__(self, item: tuple[int, ...]) -> None:
        self.item = item

    def __call__(self, n: int, /, *, generator: Source = None) -> Tensor:
        return normal(torch.empty((n, *self.item)), generator)
