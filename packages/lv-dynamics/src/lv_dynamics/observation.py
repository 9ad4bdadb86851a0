"""Observation models: the density of what was observed, given what the emission returns."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Bernoulli", "BernoulliInput", "GaussianNoise", "Observation", "RowScore"]

BernoulliInput = Literal["logits", "probabilities"]
"""What the emission returns: logarithms of odds, or probabilities."""

RowScore = Callable[[Tensor], Tensor]
"""From outputs `(*batch, n, *obs)` to log densities of the n rows, `(*batch, n)`."""

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@runtime_checkable
class Observation(Protocol):
    """What a model needs of an observation model; write one for other kinds of data.

    All arguments end in the observation's axes `obs` and broadcast before them. `mean` maps the
    emission's output to the expected observation, `variance` gives the variance around it,
    `log_prob` the log density of each entry. A method `scorer(x, mask)` like that of
    `GaussianNoise` is optional and used where it exists.
    """

    def log_prob(self, x: Tensor, output: Tensor, /) -> Tensor:
        """Returns the log density of each entry."""
        ...

    def mean(self, output: Tensor, /) -> Tensor:
        """Returns the expected observation."""
        ...

    def variance(self, output: Tensor, /) -> Tensor:
        """Returns the variance of an observation around its mean."""
        ...

    def sample(self, output: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns observations drawn given the emission's output."""
        ...


class GaussianNoise(nn.Module):
    """Independent normal noise around the emission's output: `x = g + sigma eps`.

    sigma is a buffer, one number for each entry of an observation or one for all. It is fixed,
    annealed (`set_sigma` at each stage) or learned in closed form: `fit` sets it to the root mean
    square of the residuals of posterior samples, which is where the likelihood's derivative with
    respect to it vanishes. `learned` only tells the learner whether to do so.

    Arguments:
        obs: Shape of one observation.
        sigma: Standard deviation in units of the data, or "learned", which starts at one.
        per_dimension: Whether each entry of an observation has its own.
        floor: Smallest value that `fit` gives; an emission that interpolates its data would
            otherwise shrink sigma without end.

    Raises:
        ValueError: If `sigma` or `floor` is not positive or `obs` not a shape.

    Example:
        >>> noise = GaussianNoise((2,), 0.1)
        >>> noise.log_prob(torch.zeros(5, 2), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    sigma: Tensor

    def __init__(
        self,
        obs: Sequence[int],
        sigma: float | Literal["learned"] = "learned",
        *,
        per_dimension: bool = True,
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        self.obs = _checked_obs(obs)
        self.learned = sigma == "learned"
        start = 1.0 if isinstance(sigma, str) else float(sigma)
        if isinstance(sigma, str) and sigma != "learned":
            raise ValueError(f"sigma must be a number or 'learned', got {sigma!r}")
        if not (start > 0 and math.isfinite(start)):
            raise ValueError(f"sigma must be positive, got {sigma}")
        if not floor > 0:
            raise ValueError(f"floor must be positive, got {floor}")
        self.floor = float(floor)
        shape = self.obs if per_dimension else (1,) * len(self.obs)
        self.register_buffer("sigma", torch.full(shape, start))

    def log_prob(
        self, x: Float[Tensor, "..."], output: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Returns `-(x - g)^2 / (2 sigma^2) - log sigma - log sqrt(2 pi)` for each entry."""
        scaled = (x - output) / self.sigma
        return -0.5 * scaled.square() - self.sigma.log() - _LOG_ROOT_2PI

    def scorer(
        self,
        x: Float[Tensor, "n ..."],
        mask: Bool[Tensor, "n ..."],
        *,
        sigma: float | Float[Tensor, "..."] | None = None,
        dtype: torch.dtype | None = None,
    ) -> RowScore:
        """Returns a function from outputs `(*batch, n, *obs)` to log densities `(*batch, n)`.

        The sum over the observed entries of each row. What does not depend on the output is
        computed here, once: samplers call the function in their inner loop.

        Arguments:
            x: Observations.
            mask: True where observed; axes of length 1 stand for whole rows.
            sigma: In place of the module's own; must broadcast to an observation.
            dtype: Of the sums; None = that of the outputs.

        Raises:
            ValueError: If `sigma` is not positive or does not broadcast.
        """
        own = self.sigma if sigma is None else _positive(sigma, self.sigma)
        scale = _broadcastable(own.to(x), self.obs) if sigma is not None else own.to(x)
        axes = tuple(range(-len(self.obs), 0))
        weight = torch.where(mask, math.sqrt(0.5) / scale, 0.0).expand_as(x)
        shift = -torch.where(mask, x * weight, 0.0)
        each = torch.where(mask, -scale.log() - _LOG_ROOT_2PI, 0.0).expand_as(x)
        constant = each.sum(axes, dtype=dtype)
        weight = weight.contiguous()

        def score(output: Tensor) -> Tensor:
            residual = torch.addcmul(shift, output, weight)
            return constant - residual.square().sum(axes, dtype=dtype)

        return score

    def mean(self, output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the output itself."""
        return output

    def variance(self, output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns sigma^2, expanded to the shape of the output."""
        return self.sigma.square().expand_as(output)

    def sample(
        self, output: Float[Tensor, "..."], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Returns `g + sigma eps`."""
        eps = torch.empty_like(output, memory_format=torch.contiguous_format)
        return output + self.sigma * eps.normal_(generator=generator)

    @torch.no_grad()
    def set_sigma(self, sigma: float | Float[Tensor, "..."]) -> None:
        """Sets sigma to a number or a tensor that broadcasts to its shape; no floor.

        Raises:
            ValueError: If a value is not positive or the shape does not broadcast.
        """
        value = _positive(sigma, self.sigma)
        self.sigma.copy_(_broadcastable(value, tuple(self.sigma.shape)))

    @torch.no_grad()
    def fit(
        self,
        residual: Float[Tensor, "..."],
        mask: Bool[Tensor, "..."],
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "..."]:
        """Sets sigma^2 to the mean of squared residuals over observed entries; returns sigma.

        An entry of the observation that is never observed here keeps its sigma.

        Arguments:
            residual: Observation minus the emission's output at posterior samples,
                `(*batch, *obs)`; may be anything, NaN included, where not observed.
            mask: Which entries were observed, broadcastable to `residual`.
            rate: Share of the new sigma^2 in the result, in (0, 1]; below one it is a running
                mean over batches.

        Raises:
            ValueError: If `rate` is out of range or the residuals end in another shape.

        Source:
            The zero of the derivative of the expected log-likelihood with respect to sigma.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"rate must lie in (0, 1], got {rate}")
        n = len(self.obs)
        if tuple(residual.shape[residual.ndim - n :]) != self.obs or residual.ndim < n:
            raise ValueError(
                f"residual must end in the observation's shape {self.obs}, got "
                f"{tuple(residual.shape)}"
            )
        seen = mask.expand_as(residual)
        squares = torch.where(seen, residual, 0.0).square()
        # Down to the shape of sigma: over the batch, and over the entries that share it.
        squares, count = (x.reshape(-1, *self.obs).sum(0) for x in (squares, seen))
        total = squares.sum_to_size(self.sigma.shape)
        count = count.to(total).sum_to_size(self.sigma.shape)
        found = torch.where(count > 0, total / count.clamp(min=1.0), self.sigma.square())
        mixed = (1 - rate) * self.sigma.square() + rate * found
        fitted = torch.where(count > 0, mixed.sqrt().clamp(min=self.floor), self.sigma)
        self.sigma.copy_(fitted)
        return self.sigma.clone()

    def extra_repr(self) -> str:
        """Shows the shape, and sigma where it is one number."""
        low, high = (float(v) for v in self.sigma.aminmax())
        shown = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
        return f"obs={self.obs}, sigma={shown}, learned={self.learned}"


class Bernoulli(nn.Module):
    """Independent binary entries; pixels between 0 and 1 enter as expected values.

    For x in (0, 1) the value is a cross-entropy and no log density; sampling of the latent needs
    no more.

    Arguments:
        obs: Shape of one observation.
        inputs: Whether the emission returns logits, which are exact for any value, or
            probabilities, which are not once they round to 0 or 1.

    Raises:
        ValueError: If `inputs` is unknown or `obs` not a shape.
    """

    def __init__(self, obs: Sequence[int], *, inputs: BernoulliInput = "logits") -> None:
        super().__init__()
        self.obs = _checked_obs(obs)
        if inputs not in get_args(BernoulliInput):
            raise ValueError(f"unknown inputs {inputs!r}; there are: logits, probabilities")
        self.inputs = inputs

    def log_prob(
        self, x: Float[Tensor, "..."], output: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Returns `x log p + (1 - x) log(1 - p)` for each entry."""
        if self.inputs == "logits":
            return x * output - nn.functional.softplus(output)
        certain: Tensor = torch.xlogy(x, output) + torch.special.xlog1py(1 - x, -output)
        return certain

    def mean(self, output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probabilities."""
        return torch.sigmoid(output) if self.inputs == "logits" else output

    def variance(self, output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `p (1 - p)`."""
        p = self.mean(output)
        return p * (1 - p)

    def sample(
        self, output: Float[Tensor, "..."], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Returns zeros and ones."""
        return torch.bernoulli(self.mean(output), generator=generator)

    def extra_repr(self) -> str:
        """Shows the shape and what the emission returns."""
        return f"obs={self.obs}, inputs={self.inputs!r}"


def _checked_obs(obs: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in obs)
    if not shape or min(shape) < 1:
        raise ValueError(f"obs must be one or more positive lengths, got {shape}")
    return shape


def _positive(sigma: float | Tensor, like: Tensor) -> Tensor:
    value = torch.as_tensor(sigma, dtype=like.dtype, device=like.device)
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"sigma must be positive, got {value.min().item()} at the smallest")
    return value


def _broadcastable(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"sigma must broadcast to the shape {shape}, got {tuple(value.shape)}"
        ) from None
