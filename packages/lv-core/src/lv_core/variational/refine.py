"""Semi-amortised inference: an encoder's guess, improved item by item."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core.density import LogDensity
from lv_core.evidence.bounds import elbo
from lv_core.evidence.estimate import LogEstimate
from lv_core.evidence.joint import Joint, LatentPrior
from lv_core.random import Source
from lv_core.variational.fit import LocalFit
from lv_core.variational.gaussian import DiagonalGaussian
from lv_core.variational.state import FitResult

__all__ = ["Refinement", "refine"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refinement:
    """A refined posterior with the bounds before and after, both on fresh noise.

    Arguments:
        fit: The fit that started from the encoder.
        before: Evidence lower bound of the encoder's posterior, per item.
        after: Evidence lower bound of the refined posterior, per item.
    """

    fit: FitResult
    before: LogEstimate
    after: LogEstimate

    @property
    def gap(self) -> Tensor:
        """What refining gained, `after - before` in nats, shape `(*batch,)`: the inference gap."""
        return self.after.mean - self.before.mean

    @property
    def gap_error(self) -> Tensor:
        """Standard error of the gap, shape `(*batch,)`; the two bounds have separate noise."""
        return torch.hypot(self.after.standard_error, self.before.standard_error)


def refine(
    log_likelihood: LogDensity,
    prior: LatentPrior,
    start: DiagonalGaussian,
    *,
    fit: LocalFit,
    samples: int = 64,
    generator: Source = None,
) -> Refinement:
    """Fits from an encoder's output and reports what that gained.

    Arguments:
        log_likelihood: As in `LocalFit.fit`.
        prior: As in `LocalFit.fit`.
        start: What the encoder says, `encoder(x)`.
        fit: Settings of the fit; a handful of steps of a small learning rate.
        samples: Draws per item for each of the two bounds.
        generator: Source of randomness; the bounds use none of the fit's noise.

    Raises:
        DivergenceError: If too many items became non-finite.

    Source:
        Kim et al., "Semi-amortized variational autoencoders", 2018; the gap: Cremer, Li and
        Duvenaud, "Inference suboptimality in variational autoencoders", 2018.

    Example:
        >>> gain = refine(log_likelihood, None, encoder(x), fit=LocalFit(steps=20, lr=0.02)).gap
    """
    joint = Joint(log_likelihood, prior)
    result = fit.fit(log_likelihood, prior, start, generator=generator)
    before, after = (
        elbo(joint, q, samples=samples, generator=generator, chunk=fit.chunk)
        for q in (start.detach(), result.q)
    )
    return Refinement(fit=result, before=before, after=after)
