"""Recurrent networks with ReLU: a matrix for each turn, a Taylor series, an additive drive."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_core.random import stream
from lv_neuro.transforms.base import Stepper, Transformation
from lv_neuro.transforms.matrices import (
    all_by_matrices,
    between_turns,
    matrix_stepper,
    unroll_matrices,
)

__all__ = ["AdditiveRecurrence", "TableRecurrence", "TaylorRecurrence"]

# Shape legend: S stacked seeds, B codes, d neurons, T = 2K + 1 turns of the table.

SPREAD = 0.001
"""Initial weights are uniform in +-SPREAD."""


class TableRecurrence(Transformation):
    """F(v, k h) = ReLU((A + B_k) v + b), one matrix B_k for each turn of k grid steps.

    The fully connected network of the paper's claims; between two grid steps the outputs are
    interpolated.

    Source:
        Zhao et al., 2024 (the fully connected version; this form is our reconstruction after
        the nonlinear transformation of Xu et al., 2025).
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = True,
    ) -> None:
        """Draws the weights; see `Transformation` for the arguments."""
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        d, turns = neurons, 2 * max_step + 1
        self.recurrent = nn.Parameter(draw(seeds, "recurrent", d, d))
        self.turning = nn.Parameter(draw(seeds, "turning", turns, d, d))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, d))

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns ReLU((A + B_k) v + b)."""
        weight = self.recurrent + pick(self.turning, k + self.max_step)
        return torch.baddbmm(self.bias, v, weight.mT).relu()

    def unroll(self, turns: Int[Tensor, "seeds rollout"]) -> list[Callable[[Tensor], Tensor]]:
        """Returns v -> F(v, k_t h) for each turn k_t of a roll-out."""
        matrices = self.recurrent + pick_each(self.turning, turns + self.max_step)
        return unroll_matrices(self, matrices, self.bias)

    def all_turns(
        self, v: Float[Tensor, "seeds codes neurons"]
    ) -> Float[Tensor, "seeds turns codes neurons"]:
        """Returns F(v, k h) for k = -K, ..., K in one product."""
        return all_by_matrices(self, self.matrices(), self.bias, v)

    def matrices(self) -> Float[Tensor, "seeds turns neurons neurons"]:
        """Returns A + B_k for k = -K, ..., K: what a plot of the connectivity shows."""
        return self.recurrent[:, None] + self.turning

    def stepper(self) -> Stepper:
        """Returns F for turns of any angle up to the largest."""
        return matrix_stepper(self, self.matrices(), self.bias)


class TaylorRecurrence(Transformation):
    """F(v, dx) = ReLU((A + B1 dx + B2 dx^2) v + b): continuous in dx, with fewer parameters.

    Source:
        Zhao et al., 2024 (our reconstruction, an option; less accurate than the table).
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = True,
    ) -> None:
        """Draws the weights; see `Transformation` for the arguments."""
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        self.terms = nn.Parameter(draw(seeds, "terms", 3, neurons, neurons))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, neurons))

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns ReLU((A + B1 dx + B2 dx^2) v + b) at dx = k h."""
        # In units of the largest turn, so that the three terms learn at one pace.
        r = (k.to(v.dtype) / self.max_step)[:, None, None]
        weight = self.terms[:, 0] + r * self.terms[:, 1] + r.square() * self.terms[:, 2]
        return torch.baddbmm(self.bias, v, weight.mT).relu()

    def matrices(self) -> Float[Tensor, "seeds turns neurons neurons"]:
        """Returns A + B1 dx + B2 dx^2 for dx = -K h, ..., K h."""
        r = torch.linspace(-1, 1, 2 * self.max_step + 1).to(self.terms)
        powers = torch.stack([torch.ones_like(r), r, r.square()])
        return torch.einsum("sjab,jt->stab", self.terms, powers)

    def stepper(self) -> Stepper:
        """Returns F for turns of any angle up to the largest."""
        stacked = self.terms.flatten(1, 2)  # (S, 3 d, d): one product for the three terms

        def step(v: Tensor, dx: Tensor) -> Tensor:
            r = (dx / self.largest_turn).to(v.dtype)[..., None]
            a, b, c = (v @ stacked.mT).chunk(3, -1)
            return self.finish((a + r * b + r.square() * c + self.bias).relu())

        return step


class AdditiveRecurrence(Transformation):
    """F(v, k h) = ReLU(A v + beta_k + b): the turn drives the neurons, it changes no weight.

    A drive that does not depend on the state moves a bump only as far as the ReLU lets it. An
    option to compare with, not a path integrator.

    Source:
        The additive variant of Xu et al., 2025.
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = True,
    ) -> None:
        """Draws the weights; see `Transformation` for the arguments."""
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        self.recurrent = nn.Parameter(draw(seeds, "recurrent", neurons, neurons))
        self.drive = nn.Parameter(draw(seeds, "drive", 2 * max_step + 1, neurons))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, neurons))

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns ReLU(A v + beta_k + b)."""
        bias = self.bias + pick(self.drive, k + self.max_step)[:, None]
        return torch.baddbmm(bias, v, self.recurrent.mT).relu()

    def stepper(self) -> Stepper:
        """Returns F for turns of any angle up to the largest."""
        seeds = torch.arange(len(self.drive), device=self.drive.device)[:, None]

        def turned(v: Tensor, k: Tensor) -> Tensor:
            drive = self.bias + self.drive[seeds, k.expand(v.shape[:2])]
            return self.finish((v @ self.recurrent.mT + drive).relu())

        return between_turns(turned, self)


def draw(seeds: Sequence[int], name: str, *shape: int) -> Float[Tensor, "..."]:
    """Returns uniform numbers in +-SPREAD for each seed, shape (S, *shape)."""
    drawn = [torch.rand(shape, generator=stream(seed, "transformation", name)) for seed in seeds]
    return (2 * torch.stack(drawn) - 1) * SPREAD


def pick(table: Float[Tensor, "seeds turns *rest"], row: Int[Tensor, " seeds"]) -> Tensor:
    """Returns one row of each seed's table, shape (S, *rest)."""
    if len(table) == 1:  # a slice: its gradient costs less than that of a gather
        return table[:, int(row[0])] if not row.is_cuda else table[:, row].squeeze(1)
    return table[torch.arange(len(table), device=table.device), row]


def pick_each(
    table: Float[Tensor, "seeds turns *rest"], rows: Int[Tensor, "seeds rollout"]
) -> Float[Tensor, "rollout seeds *rest"]:
    """Returns the rows of each seed's table for a roll-out.

    All at once, since the gradient of every gather is as large as the table.
    """
    seeds = torch.arange(len(table), device=table.device)
    return table[seeds, rows.T]
