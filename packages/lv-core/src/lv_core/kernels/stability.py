"""The largest step size at which discretised dynamics is stable."""

import warnings

import torch
from torch import Tensor

from lv_core.density import LogDensity, check_batch_shape
from lv_core.kernels.base import event_axes, over_event
from lv_core.kernels.leapfrog import dot
from lv_core.random import Source, normal

__all__ = ["max_stable_step", "warn_if_unstable"]


def max_stable_step(
    log_density: LogDensity, u: Tensor, *, iterations: int = 20, generator: Source = None
) -> Tensor:
    """Returns `2 / sqrt(lambda)`, lambda the largest curvature of `-log p` at each point.

    Langevin and leapfrog steps above it diverge along that direction, on a normal distribution
    from any start. Power iterations with Hessian-vector products; the estimate of lambda comes
    from below, so the step is an upper bound that more iterations lower (the error falls as
    `(lambda_2 / lambda)^(2 iterations)`). Where no direction is curved the step is infinite.

    Arguments:
        log_density: The target, twice differentiable through its call.
        u: Points, shape `(*batch, *event)`; the curvature of one point says nothing about others.
        iterations: Hessian-vector products of each of two rounds: the first finds the curvature
            that is largest in magnitude, the second shifts by it, should it be negative.
        generator: Source of the start directions.

    Returns:
        The bound for each point, shape `(*batch,)`, in the units of `step_size`.

    Raises:
        ValueError: If `iterations` is not positive, or the target does not return one value per
            point or does not depend on u.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    with torch.enable_grad():
        point = u.detach().requires_grad_(True)
        value = log_density(point)
        check_batch_shape(value, u)
        (force,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        axes = event_axes(u, value)

        def curved(v: Tensor) -> Tensor:
            """Returns the Hessian of -log p times v."""
            if not force.requires_grad:  # the log density is linear
                return torch.zeros_like(v)
            (product,) = torch.autograd.grad(
                force, point, -v, retain_graph=True, materialize_grads=True
            )
            return product

        quotient = torch.zeros_like(value).detach()
        shift = torch.zeros_like(quotient)
        for _ in range(2):
            # A new direction: the other components of the first one's end have underflowed.
            v = _unit(normal(u, generator), axes)
            for _ in range(iterations):
                product = curved(v)
                quotient = dot(v, product, axes)
                v = _unit(product + over_event(shift, u) * v, axes)
            # With the most negative curvature added, the largest one is largest in magnitude.
            shift = (-quotient).clamp(min=0.0)
    limit = torch.where(quotient > 0, 2.0 / quotient.clamp(min=0.0).sqrt(), torch.inf)
    return torch.where(quotient.isnan(), torch.nan, limit)


def warn_if_unstable(
    step_size: float,
    log_density: LogDensity,
    u: Tensor,
    *,
    iterations: int = 20,
    generator: Source = None,
) -> Tensor:
    """Warns where a step size is not below `max_stable_step`; returns the mask of such points.

    Unadjusted kernels diverge there or, held back by higher-order terms, sample something else;
    adjusted kernels stop moving.

    Arguments:
        step_size: s of the kernel.
        log_density: The target.
        u: Points, shape `(*batch, *event)`, best from the bulk of the target.
        iterations: As in `max_stable_step`.
        generator: Source of the start directions.
    """
    limit = max_stable_step(log_density, u, iterations=iterations, generator=generator)
    unstable = ~(step_size < limit)  # an unknown limit counts as unstable
    if bool(unstable.any()):
        warnings.warn(
            f"step_size {step_size:g} is unstable at {unstable.double().mean().item():.1%} of the "
            f"points: the largest curvature allows less than {limit.min().item():.3g}; lower "
            "step_size, or give a tensor with smaller steps for the stiff components",
            stacklevel=2,
        )
    return unstable


def _unit(v: Tensor, axes: tuple[int, ...]) -> Tensor:
    # Directions without any curvature give zero, which must not become NaN.
    length = dot(v, v, axes).sqrt()
    return v / over_event(length.clamp(min=torch.finfo(v.dtype).tiny), v)
