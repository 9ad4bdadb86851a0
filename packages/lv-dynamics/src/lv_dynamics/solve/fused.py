"""Fixed-step solves of a frozen vector field without a graph, the backward pass written out."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lv_dynamics.field import VectorField
from lv_dynamics.solve.grid import TimeGrid
from lv_dynamics.solve.network import BufferedField
from lv_dynamics.solve.tableau import TABLEAUS

__all__ = ["can_fuse", "solve_fused"]


def can_fuse(field: object, *tensors: Tensor | None) -> bool:
    """Returns whether the fused solve gives all gradients that are asked for.

    Arguments:
        field: What is to be solved; a `VectorField` itself, since a subclass may compute
            something else.
        tensors: Start and static part.
    """
    if type(field) is not VectorField:
        return False
    parameters = list(field.parameters())
    same = all(t is None or t.dtype == parameters[0].dtype for t in tensors)
    frozen = not torch.is_grad_enabled() or not any(p.requires_grad for p in parameters)
    return same and frozen


def solve_fused(
    field: VectorField,
    start: Float[Tensor, "batch state"],
    static: Float[Tensor, "batch static"] | None,
    grid: TimeGrid,
) -> Float[Tensor, "batch time state"]:
    """Returns what `solve_plain` returns, differentiable in start and static alone, once.

    Raises:
        ValueError: If the widths do not fit the field.
    """
    if start.shape[-1] != field.state:
        raise ValueError(
            f"start must end in the {field.state} numbers of the state, "
            f"got shape {tuple(start.shape)}"
        )
    width = 0 if static is None else static.shape[-1]
    if width != field.static:
        raise ValueError(
            f"static must end in the {field.static} static numbers of this field (None if 0), "
            f"got {None if static is None else tuple(static.shape)}"
        )
    solution: Tensor = _FusedSolve.apply(start, static, field, grid)  # type: ignore[no-untyped-call]
    return solution


class _FusedSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        start: Tensor,
        static: Tensor | None,
        field: VectorField,
        grid: TimeGrid,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:2])
        run = _Run(field, start, static, grid, keep=wanted)
        solution = run.forward(start)
        if wanted:
            ctx.run = run
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        total = ctx.run.backward(grad)
        state = ctx.run.network.state
        static = total[state:].t() if ctx.needs_input_grad[1] else None
        return (total[:state].t() if ctx.needs_input_grad[0] else None), static, None, None


class _Run:
    """Buffers of one solve.

    The increments `h k_i` of every step are kept beside its state. Sums over stages are made of
    scaled additions, never of matrix products: the precision that an app allows its products
    (TF32, bfloat16) is meant for networks, and would round the state itself.
    """

    def __init__(
        self,
        field: VectorField,
        start: Tensor,
        static: Tensor | None,
        grid: TimeGrid,
        *,
        keep: bool,
    ) -> None:
        tableau = TABLEAUS[grid.settings.method]
        self.grid, self.stages, self.keep = grid, len(tableau.weights), keep
        self._rows = [_terms(row) for row in (*tableau.stages, tableau.weights)]
        # The gradient of stage j is b_j times lambda plus sum_i a_ij times that of stage i pulled
        # back. Divided by b_j it needs one addition a term and no scaling of lambda.
        self._scales = [b if b != 0 else 1.0 for b in tableau.weights]
        self._first = [b != 0 for b in tableau.weights]
        self._columns = [
            _terms([row[j] if j < len(row) else 0.0 for row in ((), *tableau.stages)])
            for j in range(self.stages)
        ]
        self.dense = grid.value_weights is not None
        batch = len(start)
        self.shared = grid.rows == 1
        evaluations = grid.steps * self.stages + self.dense
        self.network = BufferedField(
            field,
            None if static is None else static.detach().t(),
            batch,
            evaluations=evaluations if keep else 1,
            scale=grid.sizes[0, 0] if self.shared else None,
        )
        self.width = field.state + field.static

    def forward(self, start: Tensor) -> Tensor:
        steps, stages, network = self.grid.steps, self.stages, self.network
        shape = (network.state, len(start))
        states = start.new_empty(steps + 1, *shape)
        slopes = start.new_empty(steps + 1, *shape) if self.dense else None
        increments = list(start.new_empty(stages, *shape).unbind(0))
        stage = start.new_empty(shape)
        states[0] = start.detach().t()
        nodes = states.unbind(0)
        rows = [[(c, increments[i]) for c, i in row] for row in self._rows]
        sizes = self.grid.sizes.unbind(0)
        slot = 0
        for step in range(steps):
            y = at = nodes[step]
            for i, increment in enumerate(increments):
                network.velocity(at, slot, increment)
                if i == 0 and slopes is not None:
                    slopes[step] = increment
                if not self.shared:
                    increment.mul_(sizes[step])
                slot += self.keep
                at = y
                out = stage if i + 1 < stages else nodes[step + 1]
                for c, k in rows[i]:
                    at = torch.add(at, k, alpha=c, out=out)
        if slopes is not None:
            network.velocity(nodes[steps], slot, slopes[steps])
        return self._output(states, slopes)

    def backward(self, grad: Tensor) -> Tensor:
        steps, stages, network = self.grid.steps, self.stages, self.network
        d, batch = network.state, grad.shape[0]
        into_states, into_slopes = self._seeds(grad.permute(1, 2, 0).contiguous())
        total = grad.new_zeros(self.width, batch)
        upper = total[:d]
        pulled = list(grad.new_empty(stages, self.width, batch).unbind(0))
        scales = self._scales
        columns = [
            [(c * scales[i] / scales[j], pulled[i][:d]) for c, i in column]
            for j, column in enumerate(self._columns)
        ]
        zero, kappa = grad.new_zeros(d, batch), grad.new_empty(d, batch)
        seeds = into_states.unbind(0)
        slope_seeds = None if into_slopes is None else into_slopes.unbind(0)
        sizes = self.grid.sizes.unbind(0)
        slot = steps * stages
        if slope_seeds is not None:
            network.pull(slope_seeds[steps], slot, total)
        upper.add_(seeds[steps])
        for step in range(steps - 1, -1, -1):
            for j in range(stages - 1, -1, -1):
                slot -= 1
                at = upper if self._first[j] else zero
                for c, p in columns[j]:
                    at = torch.add(at, p, alpha=c, out=kappa)
                if not self.shared:
                    at = torch.mul(at, sizes[step], out=kappa)
                if j == 0 and slope_seeds is not None:
                    at = torch.add(at, slope_seeds[step], alpha=1 / scales[0], out=kappa)
                network.pull(at, slot, pulled[j])
            for c, p in zip(scales, pulled, strict=True):
                total.add_(p, alpha=c)
            upper.add_(seeds[step])
        return total

    def _output(self, states: Tensor, slopes: Tensor | None) -> Tensor:
        grid = self.grid
        if slopes is None or grid.value_weights is None or grid.slope_weights is None:
            return self._pick(states, grid.index).permute(2, 0, 1).contiguous()
        total = None
        for i, (value, slope) in enumerate(self._interpolation()):
            part = value * self._pick(states, grid.index + i)
            part.addcmul_(slope, self._pick(slopes, grid.index + i))
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.permute(2, 0, 1).contiguous()

    def _seeds(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        grid = self.grid
        into_states = grad.new_zeros(grid.steps + 1, *grad.shape[1:])
        if not self.dense:
            self._spread(into_states, grid.index, grad)
            return into_states, None
        into_slopes = torch.zeros_like(into_states)
        for i, (value, slope) in enumerate(self._interpolation()):
            self._spread(into_states, grid.index + i, value * grad)
            self._spread(into_slopes, grid.index + i, slope * grad)
        return into_states, into_slopes

    def _interpolation(self) -> list[tuple[Tensor, Tensor]]:
        grid = self.grid
        assert grid.value_weights is not None
        assert grid.slope_weights is not None
        # (nodes, rows, time) to (nodes, time, 1, rows); increments of a shared grid hold h.
        value = grid.value_weights.permute(0, 2, 1)[:, :, None]
        slope = grid.slope_weights.permute(0, 2, 1)[:, :, None]
        if self.shared:
            slope = slope / grid.sizes[0, 0]
        return list(zip(value, slope, strict=True))

    def _pick(self, nodes: Tensor, index: Tensor) -> Tensor:
        if self.shared:
            return nodes.index_select(0, index[0])
        return nodes.gather(0, index.t()[:, None].expand(-1, nodes.shape[1], -1))

    def _spread(self, nodes: Tensor, index: Tensor, values: Tensor) -> None:
        if self.shared:
            nodes.index_add_(0, index[0], values)
        else:
            nodes.scatter_add_(0, index.t()[:, None].expand(-1, nodes.shape[1], -1), values)


def _terms(row: Sequence[float]) -> list[tuple[float, int]]:
    return [(c, i) for i, c in enumerate(row) if c != 0]
