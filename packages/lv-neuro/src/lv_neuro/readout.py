"""A read-out that is learned: heat maps over headings instead of the code book."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_neuro.code import RingCode, heading_of
from lv_neuro.losses import kernel_target

__all__ = ["LearnedReadout"]


class LearnedReadout(nn.Module):
    """Vectors u(x') whose products with codes are a narrow bump: <v(x), u(x')> = G(x - x').

    G is a Gaussian of width 0.07 turns; the loss has weight 1.05 and an L2 penalty on u that
    falls linearly to zero during training.

    Source:
        The grid-cell model of Xu et al., "Conformal Isometry of Lie Group Representation in
        Recurrent Network of Grid Cells", 2022; an option here.
    """

    def __init__(
        self,
        code: RingCode,
        *,
        sigma: float = 0.07 * 2 * math.pi,
        weight: float = 1.05,
        penalty: float = 0.01,
    ) -> None:
        """Starts with the codes themselves.

        Arguments:
            code: The code book that is read.
            sigma: Width of the bump in radians.
            weight: Weight of the squared error.
            penalty: Weight of mean ||u||^2 at the beginning of training.
        """
        super().__init__()
        self.vectors = nn.Parameter(code.table.detach().clone())
        self.weight, self.penalty = weight, penalty
        self.target: Tensor
        self.register_buffer("target", kernel_target("kernel", code.bins, sigma), persistent=False)

    def loss(
        self, table: Float[Tensor, "seeds bins neurons"], *, done: float
    ) -> Float[Tensor, " seeds"]:
        """Returns the weighted error of all heat maps plus the penalty.

        Arguments:
            table: The codes.
            done: Share of the training that is over, in [0, 1].
        """
        error = (table @ self.vectors.mT - self.target).square().mean((1, 2))
        size = self.vectors.square().sum(-1).mean(1)
        return self.weight * error + self.penalty * (1 - done) * size

    def decode(
        self, v: Float[Tensor, "seeds *batch neurons"], *, sharpness: float = 50.0
    ) -> Float[Tensor, "seeds ..."]:
        """Returns the heading where the heat map of v has its peak, finer than the grid."""
        with torch.no_grad():
            scores = v[:, None].flatten(1, -2) @ self.vectors.mT
            return heading_of(scores, sharpness).view(v.shape[:-1])
