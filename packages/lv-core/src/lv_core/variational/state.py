"""What a local fit carries from step to step, and what it returns."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lv_core.variational.adamw import Moments
from lv_core.variational.gaussian import DiagonalGaussian
from lv_core.variational.objective import ElboTerms

__all__ = ["FitResult", "FitState", "FitTrace", "Stepped"]


_MOMENTS = ("mean", "spread", "idle_mean", "idle_spread")


@dataclass(frozen=True, kw_only=True, eq=False)
class FitState:
    """Everything a fit needs to go on; a plain record of tensors, hence a checkpoint.

    Arguments:
        mean: Means with their moments, `(*batch, *event)` each.
        spread: Log scales, or log variances where the fit works on those, with their moments.
        previous_mean: Means one step back, where an item returns that meets a non-finite value.
        previous_spread: Spreads one step back.
        bad: True for items frozen after a non-finite value, shape `(*batch,)`.
        noise: The draws shared by all steps, `(samples, *batch, *event)`; None where each step
            draws its own.
        idle_mean: Where the same steps have led without any data, with their moments: what the
            floor of the divergence is read from, whichever settings took the steps, and however
            often the fit was broken off. It stays at the start where the prior has no closed
            form.
        idle_spread: The spreads that go with it.
        event_ndim: How many of the last axes belong to one item.
        step: Steps done.
    """

    mean: Moments
    spread: Moments
    previous_mean: Tensor
    previous_spread: Tensor
    bad: Tensor
    idle_mean: Moments
    idle_spread: Moments
    noise: Tensor | None = None
    event_ndim: int = 1
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**record, **{name: tuple(record[name]) for name in _MOMENTS}}

    @classmethod
    def from_state_dict(cls, record: dict[str, Any]) -> "FitState":
        """Returns the state saved by `state_dict`."""
        moments = {name: Moments(*record[name]) for name in _MOMENTS}
        return cls(**{**record, **moments})


class Stepped(NamedTuple):
    """A step of a fit: where it led, and the bound with its parts before it."""

    state: FitState
    terms: ElboTerms


class FitTrace(NamedTuple):
    """The objective and its parts before each step, `(steps, *batch)` each, in nats."""

    objective: Tensor
    nll: Tensor
    kl: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """Local posteriors, and what the fit had to say; all detached.

    `objective`, `nll` and `kl` are the values at `q` for the draws `z`: with fresh noise a noisy
    but honest estimate of the bound, with shared noise not a bound at all, since the fit has seen
    that noise. Report `lv_core.evidence.elbo` or `iwae` in either case.

    Arguments:
        q: The fitted distributions.
        z: Draws of the sampling variable, `(samples, *batch, *event)`; with shared noise those
            that the fit optimised, which reconstruct better than any other.
        objective: `-nll - kl_weight max(kl, free nats)`, `(*batch,)`.
        nll: Negative log-likelihood, `(*batch,)`.
        kl: Divergence from the prior, `(*batch,)`.
        kl_floor: The divergence that is left when the same steps are taken without any data:
            what a fit of so few steps cannot pay off. Of all steps since the start, those before
            the fit was resumed included. None where it has no closed form.
        bound: "lower" where the objective is a lower bound in expectation, "none" otherwise, as
            with an unnormalised prior; a prior that is a plain function is taken as normalised.
        bad: True for items frozen after a non-finite value.
        trace: The course of the fit.
        state: Where the fit stands; more steps go on from here. With the same generator, or its
            saved state, they are bit for bit those of a fit that never stopped, for the draws
            `z` come from a stream of their own. Not so without a generator or with `Draws`,
            from which fresh noise for `z` takes its share.
    """

    q: DiagonalGaussian
    z: Tensor
    objective: Tensor
    nll: Tensor
    kl: Tensor
    kl_floor: Tensor | None
    bound: Literal["lower", "none"]
    bad: Tensor
    trace: FitTrace
    state: FitState

    @property
    def is_bound(self) -> bool:
        """Whether the objective is a lower bound on the log evidence in expectation."""
        return self.bound == "lower"

    def logs(self) -> dict[str, Tensor]:
        """Returns scalar means over the items that are not bad, by name, for a training log.

        `objective`, named `objective_not_a_bound` where it is none; `nll`, `kl`, `bad` (share
        of the items), and with a closed-form prior `kl_floor` and `kl_above_floor`. A divergence
        at its floor says that the latent carries nothing. All means are 0 where every item is bad.
        """
        good = ~self.bad

        def mean(value: Tensor) -> Tensor:
            return torch.where(good, value, 0.0).sum() / good.sum().clamp(min=1)

        name = "objective" if self.is_bound else "objective_not_a_bound"
        logs = {name: mean(self.objective), "nll": mean(self.nll), "kl": mean(self.kl)}
        if self.kl_floor is not None:
            logs["kl_floor"] = mean(self.kl_floor)
            logs["kl_above_floor"] = mean(self.kl - self.kl_floor)
        logs["bad"] = self.bad.to(self.nll.dtype).mean()
        return logs
