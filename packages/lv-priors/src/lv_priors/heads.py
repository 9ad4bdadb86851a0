"""Predicting properties from latents, with one transformation of targets everywhere."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core.nn.mlp import Activation, mlp

__all__ = ["PropertyHead", "TargetTransform"]


class TargetTransform(nn.Module):
    """Standardises targets: `t = (y - mean) / std`, learned from the training set once.

    Arguments:
        mean: Mean of the targets, in their unit.
        std: Their standard deviation.

    Raises:
        ValueError: If `std` is not positive and finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
            raise ValueError(f"std must be positive and finite, got mean {mean}, std {std}")
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    @classmethod
    def fit(cls, values: Float[Tensor, " n"]) -> "TargetTransform":
        """Returns the transformation that gives `values` mean 0 and standard deviation 1.

        Raises:
            ValueError: If a value is not finite, or all are equal.
        """
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"values must be finite, got {bad} that are not")
        # Not std == 0, which rounding of the mean can hide.
        if values.numel() < 2 or bool(values.min() == values.max()):
            raise ValueError("values must not all be equal: there is nothing to standardise")
        return cls(values.double().mean().item(), values.double().std().item())

    def apply_to(self, y: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Returns standardised targets."""
        return (y - self.mean) / self.std

    def invert(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Returns targets in their own unit."""
        return t * self.std + self.mean


class PropertyHead(nn.Module):
    """p(y | z) = N(transform(y); s(z), 1 / (2 precision)) with s a perceptron.

    Arguments:
        sizes: Widths from latent to output, ending in 1.
        activation: Activation between the layers.
        output: `linear`, or `sigmoid` for targets in (0, 1); a sigmoid needs a transform that
            keeps targets in that range.
        precision: lambda, the weight of the squared error: `-log p = lambda (t - s)^2 + const`.
        transform: What turns a target y into t; None leaves it alone.

    Raises:
        ValueError: If the last size is not 1 or the precision is not positive.

    Source:
        Kong et al., "Molecule Design by Latent Space Energy-Based Modeling and Gradual
        Distribution Shifting", 2023, section 3 (lambda = 10).
    """

    transform: TargetTransform

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation = "silu",
        output: Literal["linear", "sigmoid"] = "linear",
        precision: float = 10.0,
        transform: TargetTransform | None = None,
    ) -> None:
        super().__init__()
        if not sizes or sizes[-1] != 1:
            raise ValueError(f"sizes must end in 1, got {tuple(sizes)}")
        if not precision > 0:
            raise ValueError(f"precision must be positive, got {precision}")
        self.network = mlp(sizes, activation=activation)
        self.output = output
        self.precision = precision
        self.transform = TargetTransform() if transform is None else transform

    def mean(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns s(z), in transformed units."""
        value: Tensor = self.network(z).squeeze(-1)
        return torch.sigmoid(value) if self.output == "sigmoid" else value

    def predict(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the predicted property in its own unit."""
        return self.transform.invert(self.mean(z))

    def squared_error(
        self, y: Float[Tensor, "*batch"], z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch"]:
        """Returns `(transform(y) - s(z))^2`."""
        return (self.transform.apply_to(y) - self.mean(z)).square()

    def log_prob(
        self, y: Float[Tensor, "*batch"], z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the log density of the transformed target; y in its own unit."""
        constant = 0.5 * math.log(self.precision / math.pi)
        return constant - self.precision * self.squared_error(y, z)

    def forward(
        self, y: Float[Tensor, "*batch"], z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch"]:
        """Returns `-log_prob(y, z)`, what learning minimises."""
        return -self.log_prob(y, z)
