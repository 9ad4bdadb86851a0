"""Applying a rectified network that has one matrix for each grid turn, and turns in between."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.transforms.base import Stepper, Transformation

__all__ = ["all_by_matrices", "between_turns", "matrix_stepper", "unroll_matrices"]

# Shape legend: S stacked seeds, B codes, d neurons, T = 2K + 1 turns of the table.

ON_GRID = 1e-4
"""Turns closer to a grid step than this share of it are taken as the grid step."""


def unroll_matrices(
    transformation: Transformation,
    matrices: Float[Tensor, "rollout seeds neurons neurons"],
    bias: Float[Tensor, "seeds 1 neurons"],
) -> list[Callable[[Tensor], Tensor]]:
    """Returns v -> F(v) of a rectified network for each turn of a roll-out."""

    def turned(v: Tensor, transposed: Tensor) -> Tensor:
        return transformation.finish(torch.baddbmm(bias, v, transposed).relu())

    return [partial(turned, transposed=weight.mT) for weight in matrices.unbind(0)]


def all_by_matrices(
    transformation: Transformation,
    matrices: Float[Tensor, "seeds turns neurons neurons"],
    bias: Float[Tensor, "seeds 1 neurons"],
    v: Float[Tensor, "seeds codes neurons"],
) -> Float[Tensor, "seeds turns codes neurons"]:
    """Applies a rectified network with one matrix for each grid turn, all turns in one product."""
    outputs = torch.baddbmm(bias.repeat(1, 1, matrices.shape[1]), v, matrices.flatten(1, 2).mT)
    by_turn = outputs.relu().view(*v.shape[:2], *matrices.shape[1:3]).transpose(1, 2)
    return transformation.finish(by_turn)


def matrix_stepper(
    transformation: Transformation,
    matrices: Float[Tensor, "seeds turns neurons neurons"],
    bias: Float[Tensor, "seeds 1 neurons"],
) -> Stepper:
    """Makes the stepper of a rectified network that has one matrix for each grid turn."""
    stacked = matrices.flatten(1, 2)  # (S, T d, d): all turns of all codes in one product
    size = matrices.shape[1:3]

    def grouped(v: Tensor, k: Tensor) -> Tensor:
        """Codes that take the same turn go through its matrix together."""
        order = k.argsort()
        counts = k.bincount(minlength=size[0]).tolist()
        parts = torch.split(v.index_select(1, order), counts, 1)
        found = [
            torch.baddbmm(bias, part, weight.mT)
            for part, weight in zip(parts, matrices.unbind(1), strict=True)
            if part.shape[1]
        ]
        return torch.cat(found, 1).index_select(1, order.argsort())

    def turned(v: Tensor, k: Tensor) -> Tensor:
        if len(k) == 1 and not v.is_cuda:
            return transformation.finish(grouped(v, k[0]).relu())
        # Seeds turn differently, or the device likes one large product better than many small.
        outputs = (v @ stacked.mT).view(*v.shape[:2], *size)
        index = k.expand(v.shape[:2])[..., None, None].expand(-1, -1, 1, size[1])
        return transformation.finish((outputs.gather(2, index).squeeze(2) + bias).relu())

    return between_turns(turned, transformation)


def between_turns(
    turned: Callable[[Tensor, Tensor], Tensor], transformation: Transformation
) -> Stepper:
    """Makes a stepper of a function for grid steps: outputs are interpolated and normalized.

    Arguments:
        turned: v (S, B, d) and the row k (1 or S, B) of the table that each code takes, to the
            finished outputs (S, B, d).
        transformation: Where the sizes come from.
    """
    largest, scale = transformation.max_step, 1 / transformation.grid_step

    def step(v: Tensor, dx: Tensor) -> Tensor:
        if dx.stride(0) == 0:  # expanded: the same turns for all seeds
            dx = dx[:1]
        place = (dx * scale + largest).clamp(0, 2 * largest)
        nearest = place.round()
        place = torch.where((place - nearest).abs() < ON_GRID, nearest, place)
        low = place.floor().clamp(max=2 * largest - 1)
        share = (place - low)[..., None].to(v.dtype)
        if bool((share == share.round()).all()):
            return turned(v, place.long())
        a, b = turned(v, low.long()), turned(v, low.long() + 1)
        return transformation.finish((1 - share) * a + share * b)

    return step
