"""Stein variational gradient descent: particles that climb the target and repel each other."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.chains import ChainState, StepInfo
from lv_core.density import LogDensity, value_and_grad
from lv_core.kernels.base import (
    Kernel,
    StepSize,
    Temperature,
    check_positive,
    event_axes,
    over_event,
    resolve_step_size,
)
from lv_core.kernels.langevin import check_settings
from lv_core.random import Source
from lv_core.schedule import at

__all__ = ["Stein", "Svgd", "stein_direction"]

FIRST, SECOND = "svgd/first", "svgd/second"
OPTIMIZERS = ("adagrad", "rms", "adam")


class Stein(NamedTuple):
    """The Stein direction of particles, and the bandwidth of the kernel it was computed with."""

    direction: Tensor
    """shape `(*groups, particles, *event)`"""
    bandwidth: Tensor
    """shape `(*groups, 1)`"""


def stein_direction(
    u: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    *,
    batch_ndim: int,
    bandwidth: Literal["median"] | float = "median",
    temperature: float = 1.0,
    used: Tensor | None = None,
) -> Stein:
    """Returns the direction in which particles approach the target fastest, in the unit ball.

    phi_i = mean_j [ k(u_j, u_i) grad_j + temperature grad_{u_j} k(u_j, u_i) ],
    k(u, v) = exp(-|u - v|^2 / bandwidth)

    The first term pulls towards high density, averaged over neighbours; the second pushes
    particles apart. The median rule is, for each group, the median squared distance between two
    particles divided by log(particles + 1); one if all particles lie on one point.

    Arguments:
        u: Particles, shape `(*groups, particles, *event)`.
        grad: Gradient of the log density at each.
        batch_ndim: Number of axes before the event, groups and particles; at least 1.
        bandwidth: `"median"` or a positive number.
        temperature: Factor of the repulsion; the fixed points belong to p^(1/temperature).
        used: False for particles to leave out of the sums and of the median, shape
            `(*groups, particles)`; their own direction means nothing. None = all are used.

    Raises:
        ValueError: If there is no particle axis.

    Source:
        Liu and Wang, "Stein variational gradient descent", 2016.
    """
    if batch_ndim < 1:
        raise ValueError(
            "u must have an axis of particles before the event axes, shape "
            f"(*groups, particles, *event); got shape {tuple(u.shape)} with {batch_ndim} such axes"
        )
    shape = u.shape
    u = u.reshape(*shape[:batch_ndim], math.prod(shape[batch_ndim:]))
    grad = grad.reshape(u.shape)
    keep = torch.ones_like(u[..., 0]) if used is None else used.to(u.dtype)
    count = keep.sum(-1, keepdim=True).clamp(min=1)
    if used is not None:
        u, grad = (torch.where(used.unsqueeze(-1), x, 0.0) for x in (u, grad))
    # Distances do not depend on the origin; near it the product form below loses fewest digits.
    u = (u - (keep.unsqueeze(-1) * u).sum(-2, keepdim=True) / count.unsqueeze(-1)).detach()
    norm = u.square().sum(-1)
    squared = norm.unsqueeze(-1) + norm.unsqueeze(-2) - 2 * u @ u.transpose(-1, -2)
    squared = squared.clamp(min=0)
    same = torch.eye(u.shape[-2], dtype=torch.bool, device=u.device)
    squared = squared.masked_fill(same, 0.0)
    pairs = keep.unsqueeze(-1) * keep.unsqueeze(-2)
    if bandwidth == "median":
        others = squared.masked_fill(same | (pairs == 0), torch.nan)
        width = others.flatten(-2).nanmedian(-1, keepdim=True).values / torch.log(count + 1)
        width = torch.where(width > 0, width, 1.0)  # also where it is nan, for want of a pair
    else:
        width = torch.full_like(count, bandwidth)
    kernel = (-squared / width.unsqueeze(-1)).exp() * pairs
    # grad_{u_j} k(u_j, u_i) = 2 (u_i - u_j) k / width, summed over j.
    repulsion = kernel.sum(-1, keepdim=True) * u - kernel @ u
    repulsion = 2 * temperature / width.unsqueeze(-1) * repulsion
    phi = (kernel @ grad + repulsion) / count.unsqueeze(-1)
    return Stein(phi.reshape(shape), width)


@dataclass(frozen=True, kw_only=True)
class Svgd(Kernel):
    """Stein variational gradient descent: a set of particles becomes a sample, without noise.

    u' = u + s^2/2 phi,  with phi of `stein_direction`

    The last batch axis holds the particles that see each other; the batch axes before it are
    groups that do not, such as conditions: `(*groups, particles, *event)`. One particle alone is
    `GradientStep` of the same step size. Positions depend on the start only; nothing is drawn.

    The direction averages over particles, so it shrinks with distance to the neighbours, and an
    optimizer sets its scale for each component:

    - `"adagrad"`: G' = G + phi^2, u' = u + s phi / (sqrt(G') + 1e-6)
    - `"rms"`: the same with the running average G' = 0.9 G + 0.1 phi^2, first G = phi^2
    - `"adam"`: running averages of phi (0.9) and phi^2 (0.999), without the pull of a start at 0

    A finite number of particles understates the variance, more so in many dimensions.

    One evaluation per step. Particles with a non-finite value or gradient go back to the last
    finite position, stay there, and take no part in the sums. `info.stats` holds the `bandwidth`
    and `stein`, the norm of phi of each particle, which falls to zero as they settle.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Liu and Wang, "Stein variational gradient descent: a general purpose Bayesian inference
        algorithm", 2016.

    Example:
        >>> kernel = Svgd(steps=300, step_size=0.1, optimizer="rms")
        >>> designs = kernel(log_density, torch.randn(10, 256, 16))  # 10 conditions, 256 each
    """

    steps: int
    """number of steps"""
    step_size: StepSize
    """s: phi is multiplied by s^2/2 as in `GradientStep`; with an optimizer by s, the length of
    the first move of each component"""
    bandwidth: Literal["median"] | float = "median"
    """h in k = exp(-|.|^2 / h), or the rule that finds it for each group and step"""
    optimizer: Literal["adagrad", "rms", "adam"] | None = None
    """what scales the direction; None = s^2/2"""
    temperature: Temperature = 1.0
    """factor of the repulsion, the target being p^(1/temperature); 0 leaves attraction alone"""
    max_bad: float = 0.1
    """tolerated share of non-finite particles"""

    def __post_init__(self) -> None:
        check_settings(self.steps, self.step_size, max_bad=self.max_bad)
        check_positive("temperature", self.temperature, allow_zero=True)
        if isinstance(self.bandwidth, str):
            if self.bandwidth != "median":
                raise ValueError(
                    f"bandwidth must be 'median' or a positive number, got {self.bandwidth!r}"
                )
        else:
            check_positive("bandwidth", self.bandwidth)
        if self.optimizer not in (None, *OPTIMIZERS):
            raise ValueError(
                f"optimizer must be None or one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )

    def step(
        self,
        log_density: LogDensity,
        state: ChainState,
        *,
        generator: Source = None,
    ) -> tuple[ChainState, StepInfo]:
        """Returns the state after one move of all particles; draws nothing."""
        s = resolve_step_size(self.step_size, state.step, state.u)
        temperature = at(self.temperature, state.step)
        value, grad, parts = value_and_grad(log_density, state.u)
        axes = event_axes(state.u, value)
        norm = torch.linalg.vector_norm(grad, dim=axes) if axes else grad.abs()
        bad = ~torch.isfinite(value + norm)
        bad = bad if state.bad is None else bad | state.bad
        mask, here = over_event(bad, grad), state.u
        here = here if state.previous is None else torch.where(mask, state.previous, here)
        phi, width = stein_direction(
            here,
            grad,
            batch_ndim=value.ndim,
            bandwidth=self.bandwidth,
            temperature=temperature,
            used=~bad,
        )
        phi = torch.where(mask, 0.0, phi)
        kept: dict[str, Tensor] = {}
        if self.optimizer is None:
            moved = here + 0.5 * s**2 * phi
        else:
            direction, kept = _scaled(self.optimizer, phi, state)
            moved = here + s * direction
        length = torch.linalg.vector_norm(phi, dim=axes) if axes else phi.abs()
        stats = {"bandwidth": width.expand_as(value), "stein": length}
        info = StepInfo(value, norm, bad=bad, parts=parts, stats=stats)
        return ChainState(
            u=torch.where(mask, here, moved),
            previous=here,
            bad=bad,
            step=state.step + 1,
            extra={**state.extra, **kept},
        ), info


def _scaled(optimizer: str, phi: Tensor, state: ChainState) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the direction scaled by its history, and the history to keep."""
    square, k = phi.square(), state.step + 1
    second = state.extra.get(SECOND)
    if optimizer == "adagrad":
        second = square if second is None else second + square
    elif optimizer == "rms":
        second = square if second is None else torch.lerp(second, square, 0.1)
    else:
        # Averages with the weights (1 - b) / (1 - b^k) are free of the bias of a start at zero.
        second = square if second is None else torch.lerp(second, square, 0.001 / (1 - 0.999**k))
        first = state.extra.get(FIRST)
        first = phi if first is None else torch.lerp(first, phi, 0.1 / (1 - 0.9**k))
        return first / (second.sqrt() + 1e-6), {FIRST: first, SECOND: second}
    return phi / (second.sqrt() + 1e-6), {SECOND: second}
