"""Log densities with known moments: for tests, documentation and benchmarks."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Banana", "Gaussian", "LinearGaussian", "Mixture"]


class Gaussian(nn.Module):
    """Normal distribution with mean `mean` and covariance `covariance`; normalised.

    Arguments:
        mean: Shape `(dim,)`.
        covariance: Shape `(dim, dim)`, positive definite.
    """

    mean: Tensor
    covariance: Tensor
    _root: Tensor

    def __init__(self, mean: Float[Tensor, " dim"], covariance: Float[Tensor, "dim dim"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)
        self.register_buffer("_root", torch.linalg.cholesky(covariance))

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        # All points as columns of one system: ten times faster than a batch of systems.
        centred = (u - self.mean).reshape(-1, u.shape[-1]).T
        white = torch.linalg.solve_triangular(self._root, centred, upper=False)
        log_det = self._root.diagonal().log().sum()
        constant = 0.5 * u.shape[-1] * math.log(2 * math.pi)
        value: Tensor = -0.5 * white.square().sum(0) - log_det - constant
        return value.reshape(u.shape[:-1])

    def sample(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n dim"]:
        """Returns `n` exact draws."""
        eps = torch.empty((n, *self.mean.shape)).to(self.mean).normal_(generator=generator)
        return self.mean + eps @ self._root.T


class Mixture(nn.Module):
    """Equal mixture of spherical normals; normalised.

    Arguments:
        centers: Shape `(components, dim)`.
        scale: Common standard deviation.
    """

    centers: Tensor

    def __init__(self, centers: Float[Tensor, "components dim"], *, scale: float) -> None:
        super().__init__()
        self.register_buffer("centers", centers)
        self.scale = scale

    @classmethod
    def ring(cls, components: int = 8, *, radius: float = 4.0, scale: float = 0.5) -> "Mixture":
        """Returns normals spread evenly over a circle in the plane; mean 0."""
        angle = torch.arange(components) * (2 * math.pi / components)
        return cls(radius * torch.stack((angle.cos(), angle.sin()), dim=-1), scale=scale)

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        squared = (u.unsqueeze(-2) - self.centers).square().sum(-1)
        dim = u.shape[-1]
        constant = math.log(len(self.centers)) + 0.5 * dim * math.log(2 * math.pi * self.scale**2)
        return torch.logsumexp(-0.5 * squared / self.scale**2, dim=-1) - constant


class Banana(nn.Module):
    """Curved density in the plane: x ~ N(0, scale^2), y given x ~ N(bend (x^2 - scale^2), 1).

    Mean zero, variances `scale^2` and `1 + 2 bend^2 scale^4`; normalised.
    """

    def __init__(self, *, scale: float = 2.0, bend: float = 0.5) -> None:
        super().__init__()
        self.scale, self.bend = scale, bend

    def forward(self, u: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Returns the log density."""
        x, y = u.unbind(-1)
        residual = y - self.bend * (x.square() - self.scale**2)
        constant = math.log(2 * math.pi * self.scale)
        return -0.5 * (x / self.scale).square() - 0.5 * residual.square() - constant


class LinearGaussian(nn.Module):
    """The model z ~ N(0, I), x = W z + N(0, noise^2 I): posterior and evidence in closed form.

    Arguments:
        weight: W, shape `(data, latent)`.
        noise: Standard deviation of the data given the latent.
    """

    weight: Tensor

    def __init__(self, weight: Float[Tensor, "data latent"], *, noise: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.noise = noise

    def log_likelihood(
        self, x: Float[Tensor, "*#batch data"], z: Float[Tensor, "*#batch latent"]
    ) -> Float[Tensor, "..."]:
        """Returns `log p(x | z)`; the batch axes of x and z broadcast."""
        squared = (x - z @ self.weight.T).square().sum(-1) / self.noise**2
        constant = 0.5 * x.shape[-1] * math.log(2 * math.pi * self.noise**2)
        return -0.5 * squared - constant

    def posterior(self, x: Float[Tensor, " data"]) -> Gaussian:
        """Returns p(z | x) for one x."""
        precision = torch.eye(self.weight.shape[1]).to(self.weight)
        precision = precision + self.weight.T @ self.weight / self.noise**2
        covariance = torch.linalg.inv(precision)
        mean = covariance @ self.weight.T @ x / self.noise**2
        return Gaussian(mean, 0.5 * (covariance + covariance.T))

    def log_evidence(self, x: Float[Tensor, "*batch data"]) -> Float[Tensor, "*batch"]:
        """Returns `log p(x)`."""
        data = torch.eye(self.weight.shape[0]).to(self.weight)
        covariance = self.weight @ self.weight.T + self.noise**2 * data
        value: Tensor = Gaussian(torch.zeros(len(data)).to(data), covariance)(x)
        return value
