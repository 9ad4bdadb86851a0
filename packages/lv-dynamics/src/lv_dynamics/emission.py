"""Emissions: networks from a latent state to the parameters of an observation."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core.nn import mlp
from lv_core.nn.mlp import Activation

__all__ = ["ConvEmission", "EmissionOutput", "LinearEmission", "PerceptronEmission"]

EmissionOutput = Literal["linear", "sigmoid"]
"""What follows the last layer: nothing (means, logits), or a sigmoid (means in (0, 1))."""

_IMAGE = 28


class PerceptronEmission(nn.Module):
    """A perceptron from the latent to an observation of any shape.

    Arguments:
        width: Numbers of the latent that enter.
        obs: Shape of one observation.
        hidden: Widths of the hidden layers.
        activation: Name of the activation between them.
        output: What follows the last layer.

    Raises:
        ValueError: If a width or a length of `obs` is not positive, or a name is unknown.

    Source:
        MoNODE code (Auzina et al., 2023): two hidden layers of 100 units with ReLU.

    Example:
        >>> PerceptronEmission(4, (2,))(torch.randn(8, 50, 4)).shape
        torch.Size([8, 50, 2])
    """

    def __init__(
        self,
        width: int,
        obs: Sequence[int],
        *,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        output: EmissionOutput = "linear",
    ) -> None:
        super().__init__()
        self.width, self.obs = _checked(width, obs, output)
        self.output = output
        sizes = (self.width, *hidden, math.prod(self.obs))
        self.network = mlp(sizes, activation=activation)

    def forward(self, latent: Float[Tensor, "*batch width"]) -> Float[Tensor, "..."]:
        """Returns the observation's parameters, shape `(*batch, *obs)`.

        Raises:
            ValueError: If the latent has another width.
        """
        _check_width(latent, self.width)
        flat = self.network(latent)
        return _finish(flat.reshape(*latent.shape[:-1], *self.obs), self.output)


class LinearEmission(PerceptronEmission):
    """An affine map of the latent: `C z + c`.

    Arguments:
        width: Numbers of the latent that enter.
        obs: Shape of one observation.
        output: What follows the map.

    Raises:
        ValueError: If a width or a length of `obs` is not positive, or a name is unknown.

    Source:
        Latent ODE code (Rubanova et al., 2019), whose emission is one linear layer.
    """

    def __init__(
        self, width: int, obs: Sequence[int], *, output: EmissionOutput = "linear"
    ) -> None:
        super().__init__(width, obs, hidden=(), output=output)


class ConvEmission(nn.Module):
    """Transposed convolutions from the latent to an image of 28 x 28 pixels, no batch norm.

    With n channels: linear to `4n x 4 x 4`, then transposed convolutions to `8n x 6 x 6`,
    `4n x 13 x 13`, `2n x 28 x 28` and `1 x 28 x 28`, with ReLU between them. Batch norm would
    make the gradient of one sequence depend on the others of its batch.

    Arguments:
        width: Numbers of the latent that enter.
        obs: Shape of one observation, `(28, 28)` or `(1, 28, 28)`.
        channels: n; 16 for digits, 8 for balls.
        output: What follows the last layer.

    Raises:
        ValueError: If `obs` is another shape, a number is not positive, or a name is unknown.

    Source:
        Decoder of the MoNODE code (Auzina et al., 2023) without its batch norm.
    """

    def __init__(
        self,
        width: int,
        obs: Sequence[int] = (_IMAGE, _IMAGE),
        *,
        channels: int = 16,
        output: EmissionOutput = "sigmoid",
    ) -> None:
        super().__init__()
        self.width, self.obs = _checked(width, obs, output)
        if self.obs not in {(_IMAGE, _IMAGE), (1, _IMAGE, _IMAGE)}:
            raise ValueError(
                f"obs must be (28, 28) or (1, 28, 28) for the convolutional emission, got "
                f"{self.obs}: resize the images, or use the perceptron emission"
            )
        if channels < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        self.channels, self.output = channels, output
        n = channels
        self.start = nn.Linear(self.width, 4 * n * 16)
        self.network = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(4 * n, 8 * n, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(8 * n, 4 * n, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * n, 2 * n, 5, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * n, 1, 5, padding=2),
        )

    def forward(self, latent: Float[Tensor, "*batch width"]) -> Float[Tensor, "..."]:
        """Returns the pixels, shape `(*batch, *obs)`.

        Raises:
            ValueError: If the latent has another width.
        """
        _check_width(latent, self.width)
        batch = latent.shape[:-1]
        # Convolutions take one batch axis, and none of length 0 on every backend.
        flat = latent.reshape(-1, self.width)
        if len(flat) == 0:
            return latent.new_zeros((*batch, *self.obs))
        seed = self.start(flat).reshape(-1, 4 * self.channels, 4, 4)
        return _finish(self.network(seed).reshape(*batch, *self.obs), self.output)


def _finish(value: Tensor, output: EmissionOutput) -> Tensor:
    return torch.sigmoid(value) if output == "sigmoid" else value


def _checked(width: int, obs: Sequence[int], output: str) -> tuple[int, tuple[int, ...]]:
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    shape = tuple(int(n) for n in obs)
    if not shape or min(shape) < 1:
        raise ValueError(f"obs must be one or more positive lengths, got {shape}")
    if output not in get_args(EmissionOutput):
        raise ValueError(f"unknown output {output!r}; there are: linear, sigmoid")
    return width, shape


def _check_width(latent: Tensor, width: int) -> None:
    if latent.shape[-1] != width:
        raise ValueError(
            f"latent must end in the {width} numbers that enter the emission, got shape "
            f"{tuple(latent.shape)}"
        )
