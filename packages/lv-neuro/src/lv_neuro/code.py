"""The code book: one non-negative unit vector of firing rates for each heading."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_core.random import stream
from lv_neuro.angles import TURN, grid, heading

__all__ = ["RingCode"]

# Shape legend: S stacked seeds, N bins (headings on the grid), d neurons.

TINY = 1e-12


class RingCode(nn.Module):
    """A table of codes v(x) at N equispaced headings, interpolated in between.

    Row n of `table` is the population's activity at heading 2 pi n / N. Every row has norm 1
    and, by default, no negative entry; `project` restores both after an optimizer's step.
    Seeds are stacked: the table has shape (S, N, d).

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024; the
        parameterization follows the grid-cell models of the same group (Xu et al., "On Conformal
        Isometry of Grid Cells", 2025), since the paper's own could not be read.
    """

    def __init__(
        self,
        *,
        bins: int = 100,
        neurons: int = 100,
        seeds: Sequence[int] = (0,),
        non_negative: bool = True,
    ) -> None:
        """Draws small uniform rates, then normalizes.

        Arguments:
            bins: Headings N on the grid.
            neurons: Size d of the population.
            seeds: One seed for each stacked code; equal seeds give equal codes.
            non_negative: Firing rates cannot be negative; False drops the constraint (ablation).
        """
        super().__init__()
        self.bins, self.neurons, self.non_negative = bins, neurons, non_negative
        start = [_initial(seed, bins, neurons, non_negative) for seed in seeds]
        self.table = nn.Parameter(torch.stack(start))
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Sets negative rates to zero (where they are not allowed) and every norm to one.

        Not differentiated through: it is applied to the parameters after the optimizer's step.
        """
        if self.non_negative:
            self.table.clamp_(min=0)
        self.table.div_(self.table.norm(dim=-1, keepdim=True).clamp_min(TINY))

    def encode(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "seeds *batch neurons"]:
        """Returns v(x): neighbouring rows interpolated linearly on the circle, norm 1.

        Arguments:
            x: Headings in radians, the same for all seeds.
        """
        return self.look_up(x.expand(len(self.table), *x.shape))

    def look_up(self, x: Float[Tensor, "seeds ..."]) -> Float[Tensor, "seeds *batch neurons"]:
        """Returns v(x) like `encode`, with headings of its own for each seed."""
        place = heading(x).to(self.table.dtype) * (self.bins / TURN)
        low = place.floor()
        share = (place - low)[..., None]
        n = low.long() % self.bins
        v = (1 - share) * self._rows(n) + share * self._rows((n + 1) % self.bins)
        return nn.functional.normalize(v, dim=-1)

    def decode(
        self, v: Float[Tensor, "seeds *batch neurons"], *, sharpness: float | None = None
    ) -> Float[Tensor, "seeds ..."]:
        """Returns the heading whose code is nearest to v, finer than the grid.

        x = arg sum_n softmax_n(sharpness <v, V_n>) exp(2 pi i n / N)

        Arguments:
            v: Codes of norm about 1.
            sharpness: Inverse temperature of the softmax; infinity would be the nearest row. None
                means what gives neighbouring rows a share, see `sharpness`: about 200 for 100
                headings and a kernel of 0.65 rad.

        Returns:
            Headings in [0, 2 pi).
        """
        flat = v[:, None].flatten(1, -2)  # the new axis serves v without a batch
        sharp = self.sharpness()[:, None, None] if sharpness is None else sharpness
        return heading_of(flat @ self.table.mT, sharp).view(v.shape[:-1])

    def sharpness(self) -> Float[Tensor, " seeds"]:
        """Returns 0.93 / mean (1 - <V_n, V_{n+1}>): the softmax then weighs a neighbour by 0.4.

        A fixed number decodes coarse grids and narrow kernels to the nearest row, which is off by
        a quarter of a bin on average; this one is off by less than a tenth of that.
        """
        table = self.table.detach()
        apart = 1 - (table * table.roll(-1, 1)).sum(-1).mean(-1)
        return 0.93 / apart.clamp_min(1e-6)  # a collapsed code has no neighbours

    def gram(self) -> Float[Tensor, "seeds bins bins"]:
        """Returns the inner products <V_n, V_m> of all codes."""
        return self.table @ self.table.mT

    def _rows(self, n: Int[Tensor, "seeds ..."]) -> Float[Tensor, "seeds *batch neurons"]:
        seeds = torch.arange(len(self.table), device=n.device)
        return self.table[seeds.view(-1, *[1] * (n.dim() - 1)), n]


def heading_of(
    scores: Float[Tensor, "*batch bins"], sharpness: float | Tensor
) -> Float[Tensor, "*batch"]:
    """Returns the circular mean of the grid's headings under softmax(sharpness * scores)."""
    weight = torch.softmax(sharpness * scores, dim=-1)
    x = grid(scores.shape[-1], like=scores)
    return heading(torch.atan2(weight @ x.sin(), weight @ x.cos()))


def _initial(
    seed: int, bins: int, neurons: int, non_negative: bool
) -> Float[Tensor, "bins neurons"]:
    generator = stream(seed, "ring code")
    # A clamped normal would begin with half of the entries at zero, where no gradient flows.
    start = torch.rand(bins, neurons, generator=generator)
    return 0.002 * (start if non_negative else 2 * start - 1)
