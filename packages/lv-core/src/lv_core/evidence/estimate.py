"""Estimates on the log scale, with what says how far to trust them."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.random import Draws, Rows, Shard, Source, stream

__all__ = ["LogEstimate", "effective_sample_size", "fresh_noise", "log_mean_exp"]

Bound = Literal["lower", "upper", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogEstimate:
    """An estimate of a log evidence for each item, detached.

    Arguments:
        mean: The estimate in nats, shape `(*batch,)`.
        standard_error: Its standard error, same shape; NaN where one sample gives none. For the
            logarithm of a mean it is the delta method's, too small where `ess` is a few.
        ess: Effective number of the importance weights behind it, between 1 and the number of
            samples, same shape.
        samples: Number of samples (weights, chains) for each item and repeat.
        bound: Whether the expectation lies below ("lower") or above ("upper") the log evidence;
            "none" where neither is guaranteed.
    """

    mean: Tensor
    standard_error: Tensor
    ess: Tensor
    samples: int
    bound: Bound

    def total(self) -> "LogEstimate":
        """Returns the estimate for the whole data set: the sum over items, assumed independent.

        The effective size of the sum is the smallest of any item.
        """
        return LogEstimate(
            mean=self.mean.sum(),
            standard_error=self.standard_error.square().sum().sqrt(),
            ess=self.ess.min(),
            samples=self.samples,
            bound=self.bound,
        )


def effective_sample_size(log_weights: Float[Tensor, " n *batch"]) -> Float[Tensor, "*batch"]:
    """Returns `(sum w)^2 / sum w^2` along the first axis, between 1 and n.

    Source:
        Kish, "Survey sampling", 1965.
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def log_mean_exp(log_weights: Float[Tensor, " n *batch"], *, bound: Bound) -> LogEstimate:
    """Returns the logarithm of the mean weight along the first axis, by the delta method.

    The standard error of `log mean w` is `sd(w) / (mean(w) sqrt(n))` to first order.
    """
    n = len(log_weights)
    ess = effective_sample_size(log_weights)
    # mean(w^2) / mean(w)^2 = n / ess, and the unbiased variance has n - 1.
    relative = (n / ess - 1).clamp(min=0.0) / (n - 1) if n > 1 else torch.full_like(ess, math.nan)
    mean = log_weights.logsumexp(0) - math.log(n)
    return LogEstimate(mean=mean, standard_error=relative.sqrt(), ess=ess, samples=n, bound=bound)


def plain_mean(
    values: Float[Tensor, " n *batch"],
    *,
    ess: Float[Tensor, "*batch"],
    samples: int,
    bound: Bound,
) -> LogEstimate:
    """Returns the mean of `values` along the first axis with its standard error."""
    n = len(values)
    mean = values.mean(0)
    error = values.std(0) / math.sqrt(n) if n > 1 else torch.full_like(mean, math.nan)
    return LogEstimate(mean=mean, standard_error=error, ess=ess, samples=samples, bound=bound)


def fresh_noise(source: Source, device: torch.device) -> Source:
    """Returns a source whose numbers are none that `source` itself would hand out.

    A report must not reuse the noise that its subject was fitted to. Were the two to draw from
    equal generators, say both rebuilt from one seed, they would do just that; so a report draws
    a seed and goes on with a stream of its own. Given draws are passed on as they are.

    Arguments:
        source: What the caller gave.
        device: Where the numbers will be used; matters for torch's global generator alone.
    """
    if isinstance(source, Draws):
        return source
    if isinstance(source, Shard):
        child = fresh_noise(source.generator, device)
        assert isinstance(child, torch.Generator)
        return Shard(generator=child, rank=source.rank, world=source.world)
    if isinstance(source, Rows):
        children = [fresh_noise(row, device) for row in source.generators]
        return Rows(generators=tuple(c for c in children if isinstance(c, torch.Generator)))
    where = device if source is None else source.device
    # One synchronisation per report, not per step.
    seed = torch.empty((), dtype=torch.int64, device=where).random_(generator=source).item()
    return stream(int(seed), "fresh noise", device=where)


def aside(source: Source, name: str) -> Source:
    """Returns a stream that is a function of where `source` stands, and draws nothing from it.

    A fit that reports where it stands and then goes on must take the steps it would have taken.
    Torch's global generator and given draws are passed on as they are, and drawn from.

    Arguments:
        source: What the caller gave.
        name: What the stream is for; another name gives other numbers.
    """
    if isinstance(source, Shard):
        child = aside(source.generator, name)
        assert isinstance(child, torch.Generator)
        return Shard(generator=child, rank=source.rank, world=source.world)
    if isinstance(source, Rows):
        rows = [aside(row, name) for row in source.generators]
        return Rows(generators=tuple(r for r in rows if isinstance(r, torch.Generator)))
    if not isinstance(source, torch.Generator):
        return source
    # One synchronisation where the device is no CPU, per result and not per step.
    copy = torch.Generator(device=source.device)
    copy.set_state(source.get_state())
    seed = torch.empty((), dtype=torch.int64, device=source.device).random_(generator=copy).item()
    return stream(int(seed), name, device=source.device)
