"""The network of all stage log ratios.

Legend: S stages in a call, n points, D length of a flattened event, C length of a condition.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_priors.ratio.waymarks import Moments, check_stages

__all__ = ["StageNetwork", "StageSettings"]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a `StageNetwork` is made of.

    Raises:
        ValueError: If a number or name is out of range.
    """

    width: int = 200
    """units of each hidden layer"""
    depth: int = 2
    """hidden layers"""
    embedding: int = 16
    """length of the vector that tells the shared trunk its stage"""
    heads: Literal["shared", "separate"] = "shared"
    """one output layer, or one for each stage"""
    activation: Literal["leaky_relu", "silu"] = "leaky_relu"
    """LeakyReLU of slope 0.2, or SiLU, whose gradient is smooth"""
    skip: Literal["gaussian", "quadratic", "none"] = "gaussian"
    """what is added to the multi-layer perceptron. "gaussian": the log ratio of the normals with
    the waymarks' moments, fixed, so that the perceptron learns only what is not normal and the
    ratio keeps a proper tail where there are no samples; "quadratic": a second-order polynomial
    that is learned; "none": nothing"""
    reach: float | None = 2.0
    """the perceptron sees a whitened point of norm rho beyond R = sqrt(D) + reach as if it lay on
    that sphere, and its output fades as (R / rho)^2: far from the samples of a stage, where those
    of other stages lie, what remains is the skip connection. None lets it extrapolate"""

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.embedding) < 1:
            raise ValueError(
                "width, depth and embedding must be at least 1, got "
                f"{self.width}, {self.depth}, {self.embedding}"
            )
        for name, value, known in (
            ("heads", self.heads, ("shared", "separate")),
            ("activation", self.activation, ("leaky_relu", "silu")),
            ("skip", self.skip, ("gaussian", "quadratic", "none")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.reach is not None and not self.reach > 0:
            raise ValueError(f"reach must be positive or None, got {self.reach}")


class StageNetwork(nn.Module):
    """Log ratios of all stages: `f_k(x[, y]) = skip_k(x) + gain_k mlp(whiten_k(x), k[, y])`.

    All stages in a call go through the trunk in one pass. The perceptron and the learned
    polynomial start at 0, so learning starts at chance or at the skip connection. The gain, 1
    unless `RatioEstimator` sets it, is no parameter.

    Arguments:
        dim: Length D of a point.
        stages: Number of stages K.
        condition: Length C of the condition y; 0 = none.
        settings: Widths and options.

    Raises:
        ValueError: If a length is out of range.

    Source:
        Shared trunk and heads: Rhodes et al., "Telescoping Density-Ratio Estimation", 2020; two
        layers of 200 LeakyReLU(0.2) units: Yu et al., "Learning Energy-Based Prior Model with
        Diffusion-Amortized MCMC", 2023. The moment-matched skip connection is ours.
    """

    gain: Tensor
    mean: Tensor
    whiten: Tensor
    half_log_det: Tensor
    middle: Tensor
    middle_whiten: Tensor

    def __init__(
        self,
        dim: int,
        stages: int,
        *,
        condition: int = 0,
        settings: StageSettings = StageSettings(),
    ) -> None:
        super().__init__()
        check_stages(stages)
        if dim < 1 or condition < 0:
            raise ValueError(
                f"dim must be positive and condition not negative, got {dim}, {condition}"
            )
        self.dim, self.stages, self.condition, self.settings = dim, stages, condition, settings
        width = settings.width
        self.input = nn.Linear(dim + condition, width)
        self.embedding = nn.Embedding(stages, settings.embedding)
        self.stage = nn.Linear(settings.embedding, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.depth - 1))
        heads = stages if settings.heads == "separate" else 1
        self.head = nn.Parameter(torch.zeros(heads, width))
        self.constant = nn.Parameter(torch.zeros(stages))
        size = dim + dim * (dim + 1) // 2 if settings.skip == "quadratic" else 0
        self.polynomial = nn.Parameter(torch.zeros(stages, size)) if size else None
        self.activation = nn.SiLU() if settings.activation == "silu" else nn.LeakyReLU(0.2)
        eye = torch.eye(dim)
        self.register_buffer("mean", torch.zeros(stages + 1, dim))
        self.register_buffer("whiten", eye.repeat(stages + 1, 1, 1))
        self.register_buffer("half_log_det", torch.zeros(stages + 1))
        self.register_buffer("gain", torch.ones(stages))
        self.register_buffer("middle", torch.zeros(stages, dim))
        self.register_buffer("middle_whiten", eye.repeat(stages, 1, 1))

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draws the weights of the hidden layers and the embedding afresh; sets the rest to 0.

        Weights and biases are uniform within 1 / sqrt(fan in), embeddings standard normal.
        """
        self.embedding.weight.normal_(generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
        for output in (self.head, self.constant, self.polynomial):
            if output is not None:
                output.zero_()

    @torch.no_grad()
    def set_moments(self, waymarks: Moments, *, ridge: float = 1e-6) -> None:
        """Sets the moments of the K + 1 waymarks: skip connection and whitening follow from them.

        Arguments:
            waymarks: Means `(K + 1, D)` and covariances `(K + 1, D, D)`.
            ridge: Added to the diagonal, times the mean variance, against singular covariances.

        Raises:
            ValueError: If the number of waymarks or the dimension differs.
        """
        mean, cov = waymarks.mean.double(), waymarks.covariance.double()
        if mean.shape != self.mean.shape or cov.shape != self.whiten.shape:
            raise ValueError(
                f"waymarks must have shapes {tuple(self.mean.shape)} and "
                f"{tuple(self.whiten.shape)}, got {tuple(mean.shape)} and {tuple(cov.shape)}"
            )
        eye = torch.eye(self.dim, dtype=cov.dtype, device=cov.device)
        size = cov.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
        cov = cov + ridge * size[:, None, None] * eye
        half_gap = 0.5 * (mean[1:] - mean[:-1])
        # A stage sees an even mixture of its two waymarks.
        both = 0.5 * (cov[1:] + cov[:-1]) + half_gap[:, :, None] * half_gap[:, None, :]
        whiten, half_log_det = _inverse_factor(cov)
        self.mean.copy_(mean)
        self.whiten.copy_(whiten)
        self.half_log_det.copy_(half_log_det)
        self.middle.copy_(mean[:-1] + half_gap)
        self.middle_whiten.copy_(_inverse_factor(both)[0])

    def forward(
        self,
        x: Float[Tensor, "S n D"],
        stage: Int[Tensor, " S"],
        condition: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "S n"]:
        """Returns f of stage `stage[s]` (counted from 0) at the points `x[s]`.

        Arguments:
            x: Points of each stage.
            stage: Which stage each slice belongs to.
            condition: y, shape `(n, C)`, the same for all stages, or `(S, n, C)`.
        """
        fixed, perceptron = self.parts(x, stage, condition)
        return fixed + self.gain[stage][:, None] * perceptron

    def parts(
        self,
        x: Float[Tensor, "S n D"],
        stage: Int[Tensor, " S"],
        condition: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "S n"], Float[Tensor, "S n"]]:
        """Returns skip connection and constant, and the perceptron without its gain."""
        white = _whitened(x, self.middle[stage], self.middle_whiten[stage])
        seen, shrink = white, None
        if self.settings.reach is not None:
            norm = torch.linalg.vector_norm(white, dim=-1, keepdim=True)
            radius = math.sqrt(self.dim) + self.settings.reach
            shrink = radius / norm.clamp(min=radius)
            seen = white * shrink
        if condition is not None:
            seen = torch.cat((seen, condition.expand(*x.shape[:2], -1)), dim=-1)
        hidden = self.input(seen) + self.stage(self.embedding(stage))[:, None]
        for layer in self.hidden:
            hidden = layer(self.activation(hidden))
        head = self.head[stage] if len(self.head) > 1 else self.head.expand(len(stage), -1)
        perceptron = torch.einsum("snw,sw->sn", self.activation(hidden), head)
        if shrink is not None:
            perceptron = perceptron * shrink.squeeze(-1).square()
        f = self.constant[stage][:, None].expand_as(perceptron)
        if self.polynomial is not None:
            f = f + torch.einsum("snf,sf->sn", _polynomial(white), self.polynomial[stage])
        if self.settings.skip == "gaussian":
            f = f + self._log_normal(x, stage) - self._log_normal(x, stage + 1)
        return f, perceptron

    def every(
        self, x: Float[Tensor, "n D"], condition: Tensor | None = None, *, first: int = 0
    ) -> Float[Tensor, "S n"]:
        """Returns the stages from `first` on at the same points, shape `(K - first, n)`."""
        stage = torch.arange(first, self.stages, device=x.device)
        return self.forward(x.expand(len(stage), -1, -1), stage, condition)

    def carry(self, x: Float[Tensor, "n D"], source: int, target: int) -> Float[Tensor, "n D"]:
        """Returns the points moved by the affine map from one waymark's moments to another's."""
        white = (x - self.mean[source]) @ self.whiten[source].mT
        lower = torch.linalg.solve_triangular(self.whiten[target], white.mT, upper=False)
        moved: Tensor = self.mean[target] + lower.mT
        return moved

    def _log_normal(self, x: Tensor, mark: Tensor) -> Tensor:
        white = _whitened(x, self.mean[mark], self.whiten[mark])
        return -0.5 * white.square().sum(-1) - self.half_log_det[mark][:, None]


def _whitened(x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    return torch.matmul(x - mean[:, None], factor.mT)


def _inverse_factor(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Returns A with A cov A' = I, and half the log determinant of cov."""
    lower = torch.linalg.cholesky(cov)
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device).expand_as(cov)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse, lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _polynomial(white: Tensor) -> Tensor:
    """Returns first- and second-order terms, orthonormal under N(0, I)."""
    d = white.shape[-1]
    row, col = torch.triu_indices(d, d, device=white.device)
    product = white[..., row] * white[..., col]
    same = row == col
    square = torch.where(same, (product - 1) * math.sqrt(0.5), product)
    return torch.cat((white, square), dim=-1)
