"""Losses on the code book: turns must move codes, and codes must not collapse."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from lv_neuro.angles import angular_distance, grid
from lv_neuro.transforms.base import Transformation

__all__ = [
    "AntiCollapse",
    "check_isometry",
    "isometry_loss",
    "kernel_loss",
    "kernel_target",
    "one_step_loss",
    "rollout_loss",
]

# Shape legend: S stacked seeds, N bins, d neurons, R turns of a roll-out.

AntiCollapse = Literal["kernel", "von_mises", "cosine", "isometry", "none"]


def one_step_loss(
    table: Float[Tensor, "seeds bins neurons"],
    transformation: Transformation,
    *,
    noise: Float[Tensor, "seeds bins neurons"] | None = None,
) -> Float[Tensor, " seeds"]:
    """Returns the mean over all n and k of ||F(V_n, k h) - V_{n+k}||^2 for each seed.

    Arguments:
        table: The codes V.
        transformation: F.
        noise: Added to the codes before F.

    Source:
        Zhao et al., 2024 (v(x + dx) = F(v(x), dx)).
    """
    largest = transformation.max_step
    moved = torch.stack([table.roll(-k, 1) for k in range(-largest, largest + 1)], dim=1)
    found = transformation.all_turns(table if noise is None else table + noise)
    error = mse_loss(found, moved, reduction="none")
    return error.sum(-1).mean((1, 2))


def rollout_loss(
    table: Float[Tensor, "seeds bins neurons"],
    transformation: Transformation,
    turns: Int[Tensor, "seeds rollout"],
    *,
    noise: Float[Tensor, "rollout seeds bins neurons"] | None = None,
) -> Float[Tensor, " seeds"]:
    """Returns the mean over turns t and n of ||v_t - V_{n+k_1+...+k_t}||^2, v_t = F(v_{t-1}, k_t).

    All codes start at once, v_0 = V, and take the same turns.

    Arguments:
        table: The codes V.
        transformation: F.
        turns: Turns k_t in grid steps, for each seed its own.
        noise: Added to the codes before each application of F.

    Source:
        Zhao et al., 2024 (multi-step path integration; the loss is our reconstruction).
    """
    seeds, bins, _ = table.shape
    v, found = table, []
    for t, turn in enumerate(transformation.unroll(turns)):
        v = turn(v if noise is None else v + noise[t])
        found.append(v)
    place = torch.arange(bins, device=table.device) + turns.cumsum(1).T[..., None]  # (R, S, N)
    first = bins * torch.arange(seeds, device=table.device)[:, None]
    rows = (place.remainder(bins) + first).flatten()
    wanted = table.flatten(0, 1).index_select(0, rows).view(len(found), *table.shape)
    error = mse_loss(torch.stack(found), wanted, reduction="none")
    return error.sum((0, 2, 3)) / (len(found) * bins)


def kernel_target(
    kind: Literal["kernel", "von_mises", "cosine"],
    bins: int,
    sigma: float,
    *,
    like: Tensor | None = None,
) -> Float[Tensor, "bins bins"]:
    """Returns the inner products that codes shall have, a function of their angular distance D.

    kernel:    exp(-D^2 / (2 sigma^2)); tuning of standard deviation sigma / sqrt(2) comes out
    von_mises: exp((cos D - 1) / sigma^2)
    cosine:    (1 + cos D) / 2, a single harmonic: broad tuning, sigma is not used

    Arguments:
        kind: Which of them.
        bins: Headings N on the grid.
        sigma: Width in radians.
        like: Tensor whose dtype and device the result takes; None means float32 on the CPU.
    """
    x = grid(bins, like=like)
    distance = angular_distance(x[:, None], x[None])
    if kind == "kernel":
        return torch.exp(-distance.square() / (2 * sigma**2))
    if kind == "von_mises":
        return torch.exp((distance.cos() - 1) / sigma**2)
    return (1 + distance.cos()) / 2


def kernel_loss(
    gram: Float[Tensor, "seeds bins bins"], target: Float[Tensor, "bins bins"]
) -> Float[Tensor, " seeds"]:
    """Returns the mean over all pairs of (<V_n, V_m> - target_nm)^2 for each seed.

    Without such a term a constant code solves the transformation loss exactly.

    Arguments:
        gram: Inner products of the codes.
        target: What they shall be, from `kernel_target`.
    """
    return mse_loss(gram, target.expand_as(gram), reduction="none").mean((1, 2))


def isometry_loss(
    gram: Float[Tensor, "seeds bins bins"], *, scale: float, reach: int
) -> Float[Tensor, " seeds"]:
    """Returns the mean over n and k = 1..reach of (||V_{n+k} - V_n|| - scale k h)^2.

    CAUTION: with a short reach the codes wind several times around the circle, so that one code
    stands for several headings; look at the winding number.

    Arguments:
        gram: Inner products of codes of norm one.
        scale: Wanted speed s of the code per radian.
        reach: Largest distance in bins over which it is demanded.

    Source:
        Xu et al., "On Conformal Isometry of Grid Cells", 2025; an option here.
    """
    bins = gram.shape[-1]
    k = torch.arange(1, reach + 1, device=gram.device)
    n = torch.arange(bins, device=gram.device)
    products = gram[:, n[:, None], (n[:, None] + k) % bins]
    # at distance 0 the square root has no gradient
    distance = (2 - 2 * products).clamp_min(1e-12).sqrt()
    return (distance - scale * k * (2 * torch.pi / bins)).square().mean((1, 2))


def check_isometry(scale: float, reach: int, bins: int, *, farthest: float) -> None:
    """Refuses distances that codes of norm one cannot have.

    Arguments:
        scale: Wanted speed s of the code per radian.
        reach: Largest distance in bins over which it is demanded.
        bins: Headings N on the grid.
        farthest: Largest distance of two codes: 2, or sqrt(2) if none is negative.

    Raises:
        ValueError: If `reach` is not in 1, ..., bins / 2, or `scale` is out of reach.
    """
    if not 1 <= reach <= bins // 2:
        raise ValueError(
            f"isometry_reach must lie between 1 and {bins // 2} (half of bins={bins}), got {reach}"
        )
    largest = farthest / (reach * 2 * torch.pi / bins)
    if not 0 < scale <= largest * (1 + 1e-6):
        raise ValueError(
            f"isometry_scale must be positive and at most {largest:.3g} for a reach of {reach} of "
            f"{bins} bins, got {scale:g}: codes are at most {farthest:.3g} apart; lower it, or "
            "lower isometry_reach"
        )
