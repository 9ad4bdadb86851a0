"""Draws of chains as a distribution of torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from lv_core.chains import Trace
from lv_core.diagnostics.convergence import mcse_mean
from lv_core.diagnostics.layout import draws_of
from lv_core.interop.distribution import real_support
from lv_core.random import Source, uniform

__all__ = ["Expectation", "SampledPosterior"]


class Expectation(NamedTuple):
    """A mean over draws and its Monte Carlo standard error, of one shape."""

    value: Tensor
    error: Tensor


class SampledPosterior(Distribution):
    """The empirical distribution of draws, for code that expects a distribution of torch.

    Samples are drawn from the draws with replacement; moments and quantiles are those of the
    draws. It has no density: `log_prob` refuses and says what to do. Nothing here judges the
    chains; see `lv_core.diagnostics.chain_report`.

    Arguments:
        draws: Shape `(draws, chains, *batch, *event)`.
        batch_ndim: Number of axes behind the chains that are items, each with a posterior of its
            own.
        split: Maps points `(..., *batch, *event)` to named values, such as `layout.unpack` of a
            `Pack` or `target.constrain`; `to_arviz` takes the same. None = one block `u`.
        support: None = all real numbers.

    Raises:
        ValueError: If there are no draws, or too few axes.

    Example:
        >>> posterior = SampledPosterior.from_trace(trace, split=target.constrain)
        >>> posterior.expectation(lambda u: target.constrain(u)["tau"])  # value and its error
        >>> posterior.named["theta"].shape  # (draws, chains, 8)
        >>> tree = to_arviz(trace, split=target.constrain)  # the same names in ArviZ
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch's interface
    has_rsample = False

    def __init__(
        self,
        draws: Float[Tensor, "draws chains ..."],
        *,
        batch_ndim: int = 0,
        split: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
        support: Constraint | None = None,
    ) -> None:
        if draws.ndim < 2 or not len(draws) or not draws.shape[1]:
            raise ValueError(
                f"draws must have shape (draws, chains, *batch, *event) with at least one of "
                f"each, got {tuple(draws.shape)}"
            )
        if not 0 <= batch_ndim <= draws.ndim - 2:
            raise ValueError(
                f"batch_ndim must be in 0..{draws.ndim - 2} for draws of shape "
                f"{tuple(draws.shape)}, got {batch_ndim}"
            )
        self.draws, self._split = draws.detach(), split
        batch, event = draws.shape[2 : 2 + batch_ndim], draws.shape[2 + batch_ndim :]
        self._support = real_support(len(event)) if support is None else support
        super().__init__(batch, event, validate_args=False)

    @classmethod
    def from_trace(
        cls,
        trace: Trace,
        *,
        push: Callable[[Tensor], Tensor] | None = None,
        split: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
        chain_axis: int | None = 0,
        support: Constraint | None = None,
    ) -> "SampledPosterior":
        """Returns the kept positions of a run as a distribution.

        Arguments:
            trace: The record of `Kernel.run(thin=...)`.
            push: Maps positions to the latents to report, such as `prior.push`, keeping the batch
                axes; None = the identity.
            split: As in the class, of what `push` returns.
            chain_axis: Batch axis whose chains share one target; other batch axes are items. None
                = no two chains share one, every chain is an item with its draws.
            support: Of what `push` returns.

        Raises:
            ValueError: If nothing was kept, or there is no such batch axis.
        """
        draws = draws_of(trace, chain_axis)
        batch_ndim = trace.log_density.ndim - (1 if chain_axis is None else 2)
        if push is not None:
            with torch.no_grad():
                draws = push(draws)
        return cls(draws, batch_ndim=max(batch_ndim, 0), split=split, support=support)

    @property
    def support(self) -> Constraint:
        """Where the distribution lives."""
        return self._support

    @property
    def named(self) -> dict[str, Tensor]:
        """The draws by name, each `(draws, chains, *batch, *shape)`."""
        return {"u": self.draws} if self._split is None else dict(self._split(self.draws))

    @property
    def mean(self) -> Tensor:
        """The mean, shape `(*batch, *event)`."""
        return self._rows.mean(0)

    @property
    def variance(self) -> Tensor:
        """The unbiased variance of each component, shape `(*batch, *event)`."""
        return self._rows.var(0)

    def quantile(self, probability: float | Tensor) -> Tensor:
        """Returns quantiles of each component, interpolated linearly between draws.

        Arguments:
            probability: In [0, 1]; a tensor gives its shape in front.

        Returns:
            Shape `(*probability, *batch, *event)`.

        Raises:
            ValueError: If a probability is outside [0, 1].
        """
        p = torch.as_tensor(probability, dtype=torch.float64, device=self.draws.device)
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"probability must lie in [0, 1], got {probability}")
        # torch.quantile refuses more than 2^24 numbers.
        ordered = self._rows.sort(0).values
        place = p.flatten() * (len(ordered) - 1)
        low = place.floor().long().clamp(max=max(len(ordered) - 2, 0))
        part = (place - low).to(ordered).reshape(-1, *(1,) * (ordered.ndim - 1))
        above = ordered[(low + 1).clamp(max=len(ordered) - 1)]
        found = torch.lerp(ordered[low], above, part)
        return found.reshape((*p.shape, *ordered.shape[1:]))

    def expectation(self, function: Callable[[Tensor], Tensor] | None = None) -> Expectation:
        """Returns the mean of a function of the draws and its Monte Carlo standard error.

        The error accounts for autocorrelation: the deviation over the root of the effective sample
        size. It is NaN where there are fewer than four draws per chain.

        Arguments:
            function: Maps `(draws, chains, *batch, *event)` to `(draws, chains, ...)`; None = the
                identity.

        Raises:
            ValueError: If the function changes the first two axes.
        """
        with torch.no_grad():
            values = self.draws if function is None else function(self.draws)
        first = self.draws.shape[:2]
        if values.shape[:2] != first:
            raise ValueError(
                f"function must keep the first two axes {tuple(first)} (draws, chains), got shape "
                f"{tuple(values.shape)}"
            )
        values = values if values.is_floating_point() else values.to(self.draws.dtype)
        return Expectation(values.flatten(0, 1).mean(0), mcse_mean(values).to(values))

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = torch.Size(), *, generator: Source = None
    ) -> Tensor:
        """Returns draws picked at random with replacement, `(*sample_shape, *batch, *event)`.

        All items of a batch come from one draw, so that what they share stays together.

        Arguments:
            sample_shape: Shape of the samples.
            generator: Source of randomness; None = torch's global generator.
        """
        shape = torch.Size(sample_shape)
        rows = self._rows
        like = torch.empty(0, dtype=torch.float64, device=rows.device)
        # A product of a number below one may still round up to the number of rows.
        index = (uniform((shape.numel(),), like, generator) * len(rows)).long()
        return rows[index.clamp(max=len(rows) - 1)].reshape(self._extended_shape(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Raises, since draws have no density.

        Raises:
            NotImplementedError: Always; the message says what to do.
        """
        raise NotImplementedError(
            "draws have no density: evaluate the target that was sampled (to_torch_distribution "
            "with a log_normalizer), or fit a distribution to the draws, in the simplest case "
            "DiagonalGaussian(posterior.mean, posterior.stddev.log()).to_torch()"
        )

    def __repr__(self) -> str:
        """Shows the number of draws and the shapes."""
        return (
            f"SampledPosterior(draws={len(self.draws)}, chains={self.draws.shape[1]}, "
            f"event_shape={tuple(self.event_shape)}, batch_shape={tuple(self.batch_shape)})"
        )

    @property
    def _rows(self) -> Tensor:
        return self.draws.flatten(0, 1)
