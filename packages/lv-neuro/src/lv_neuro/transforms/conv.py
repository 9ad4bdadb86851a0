"""The convolutional network: neurons on a ring, weights that depend on distance alone."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_neuro.transforms.base import Stepper, Transformation
from lv_neuro.transforms.matrices import all_by_matrices, matrix_stepper, unroll_matrices
from lv_neuro.transforms.table import draw, pick, pick_each

__all__ = ["ConvRecurrence"]

# Shape legend: S stacked seeds, B codes, d = C m neurons: C channels of m on a ring, w width.


class ConvRecurrence(Transformation):
    """F(v, k h) = ReLU((A + B_k) v + b), A and B_k circular convolutions over the neurons.

    The d neurons lie on a ring (C rings of d / C neurons with several channels); a weight depends
    on the distance of two neurons only, and reaches (w - 1) / 2 neurons far. With normalized
    dynamics the preferred directions come out in the order of the ring.

    Source:
        Zhao et al., 2024 (the convolutional version; the number of channels is unknown).
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: Sequence[int] = (0,),
        renormalize: bool = True,
        kernel_width: int = 21,
        channels: int = 1,
    ) -> None:
        """Draws the kernels; see `Transformation` for the other arguments.

        Arguments:
            neurons: Size d of the population over all channels.
            bins: Headings N on the grid.
            max_step: Largest turn K, in grid steps.
            seeds: One seed for each stacked network.
            renormalize: Whether F is divided by its norm.
            kernel_width: Neurons w that a kernel covers: odd, at most the ring's, and above
                2 K d / (C N) + 1, as a bump must be carried as far as the largest turn.
            channels: Rings C.

        Raises:
            ValueError: If the channels do not divide the neurons or the kernel does not fit.
        """
        super().__init__(
            neurons=neurons, bins=bins, max_step=max_step, seeds=seeds, renormalize=renormalize
        )
        if channels < 1 or neurons % channels:
            raise ValueError(
                f"channels must divide neurons={neurons}, got {channels}: rings are equally long"
            )
        ring = neurons // channels
        if kernel_width % 2 == 0 or not 1 <= kernel_width <= ring:
            raise ValueError(
                f"kernel_width must be odd and at most the ring's {ring} neurons, "
                f"got {kernel_width}"
            )
        reach = 2 * max_step * ring / bins + 1
        if kernel_width <= reach:
            raise ValueError(
                f"kernel_width must exceed {reach:g}, got {kernel_width}: the largest turn of "
                f"{max_step} steps carries a bump {max_step * ring / bins:g} neurons; widen the "
                "kernel or lower max_step"
            )
        self.channels, self.ring, self.kernel_width = channels, ring, kernel_width
        turns, c, w = 2 * max_step + 1, channels, kernel_width
        self.recurrent = nn.Parameter(draw(seeds, "recurrent", c, c, w))
        self.turning = nn.Parameter(draw(seeds, "turning", turns, c, c, w))
        self.bias = nn.Parameter(torch.zeros(len(seeds), c))
        distance = torch.arange(ring)[:, None] - torch.arange(ring)[None]
        distance = torch.remainder(distance + ring // 2, ring) - ring // 2
        # Where a weight stands in the kernel; beyond its reach it is the zero appended to it.
        place = torch.where(distance.abs() <= w // 2, distance + w // 2, w)
        self.place: Tensor
        self.register_buffer("place", place.flatten(), persistent=False)

    def turn(
        self, v: Float[Tensor, "seeds codes neurons"], k: Int[Tensor, " seeds"]
    ) -> Float[Tensor, "seeds codes neurons"]:
        """Returns ReLU((A + B_k) v + b)."""
        weight = self._circulant(self.recurrent + pick(self.turning, k + self.max_step))
        return torch.baddbmm(self._bias(), v, weight.mT).relu()

    def unroll(self, turns: Int[Tensor, "seeds rollout"]) -> list[Callable[[Tensor], Tensor]]:
        """Returns v -> F(v, k_t h) for each turn k_t of a roll-out."""
        kernels = self.recurrent + pick_each(self.turning, turns + self.max_step)
        matrices = self._circulant(kernels.flatten(0, 1))
        return unroll_matrices(
            self, matrices.view(*kernels.shape[:2], *matrices.shape[1:]), self._bias()
        )

    def all_turns(
        self, v: Float[Tensor, "seeds codes neurons"]
    ) -> Float[Tensor, "seeds turns codes neurons"]:
        """Returns F(v, k h) for k = -K, ..., K in one product."""
        return all_by_matrices(self, self.matrices(), self._bias(), v)

    def kernels(self) -> Float[Tensor, "seeds turns channels channels width"]:
        """Returns the kernels of A + B_k for k = -K, ..., K; the middle is distance zero."""
        return self.recurrent[:, None] + self.turning

    def matrices(self) -> Float[Tensor, "seeds turns neurons neurons"]:
        """Returns A + B_k for k = -K, ..., K as matrices: block-circulant."""
        kernels = self.kernels()
        return self._circulant(kernels.flatten(0, 1)).view(*kernels.shape[:2], *[self.neurons] * 2)

    def stepper(self) -> Stepper:
        """Returns F for turns of any angle up to the largest."""
        return matrix_stepper(self, self.matrices(), self._bias())

    def _circulant(self, kernel: Tensor) -> Tensor:
        """Makes (S, C, C, w) into (S, d, d): gathering and one product beat a small conv1d."""
        padded = nn.functional.pad(kernel, (0, 1))
        rings = (self.channels, self.channels, self.ring, self.ring)
        blocks = padded.index_select(-1, self.place).view(len(kernel), *rings)
        return blocks.transpose(2, 3).reshape(len(kernel), self.neurons, self.neurons)

    def _bias(self) -> Tensor:
        return self.bias.repeat_interleave(self.ring, dim=1)[:, None]
