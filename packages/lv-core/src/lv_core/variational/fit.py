"""Local variational inference: a posterior for each item, fitted by gradient steps."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import LogDensity
from lv_core.errors import DivergenceError
from lv_core.evidence.estimate import aside
from lv_core.evidence.joint import Joint, LatentPrior
from lv_core.random import Source
from lv_core.variational.adamw import Moments
from lv_core.variational.gaussian import DiagonalGaussian, sample_noise
from lv_core.variational.objective import ElboTerms, elbo_terms, over_event
from lv_core.variational.settings import FitSettings
from lv_core.variational.slope import Gradient, kl_gate, kl_gradient, loss_slope
from lv_core.variational.state import FitResult, FitState, FitTrace, Stepped

__all__ = ["LocalFit"]


@dataclass(frozen=True, kw_only=True)
class LocalFit(FitSettings):
    """Fits a Gaussian posterior to each item by steps of AdamW on its mean and spread.

    Maximises `E_q[log p(x | z)] - KL(q, prior)` item by item: no amortisation, no parameters; the
    optimiser is arithmetic on tensors, so that given its noise an item's result does not depend
    on its batch; which numbers of a generator an item gets does. Gradients are taken with respect
    to the latent alone.

    With `noise="shared"` one draw serves all steps, and the optimiser learns to use it: any point
    z lies within reach of a small divergence once the noise is known. The objective is then no
    bound on the evidence, and the result says so. It remains a good way to find a z that
    reconstructs.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Hoffman et al., "Stochastic variational inference", 2013 (local variational parameters);
        Kong et al., "Latent Thought Models", 2025 (AdamW, few steps of large learning rate).

    Example:
        >>> fit = LocalFit(steps=200, lr=0.05, samples=8)
        >>> result = fit.fit(log_likelihood, None, fit.start(torch.zeros(32, 16)))
        >>> report = elbo(Joint(log_likelihood), result.q, samples=256)
    """

    def init(self, start: DiagonalGaussian | FitResult, *, generator: Source = None) -> FitState:
        """Returns the state at `start`, with the noise drawn where all steps share it."""
        q = (start.q if isinstance(start, FitResult) else start).detach()
        noise = self._draw(q.mean, generator) if self.noise == "shared" else None
        return replace(self._blank(q), noise=noise)

    def step(self, joint: Joint, state: FitState, *, generator: Source = None) -> Stepped:
        """Returns the state one step on, with the objective and its parts before the step.

        An item with a non-finite objective or gradient goes back to where both were finite,
        stays there, and is marked in `state.bad`; it does not touch the others.

        Raises:
            ValueError: If likelihood or prior does not return one value per item or does not
                depend on its argument.
        """
        q = self.posterior(state)
        noise = self._draw(q.mean, generator) if state.noise is None else state.noise
        terms, slope = loss_slope(
            joint, q, noise, kl_weight=self.kl_weight, nats=self.nats, chunk=self.chunk
        )
        axes = tuple(range(-q.event_ndim, 0))
        finite = torch.isfinite(slope.mean) & torch.isfinite(slope.log_scale)
        bad = state.bad | ~(finite.all(dim=axes) & torch.isfinite(terms.objective))
        stay = over_event(bad, q)
        back = (state.previous_mean, state.previous_spread)
        moved = []
        here = (state.mean, state.spread)
        there = self._move(*here, slope, step=state.step)
        for moments, new, before in zip(here, there, back, strict=True):
            kept = (before, moments.first, moments.second)
            pairs = zip(kept, new, strict=True)
            moved.append(Moments(*(torch.where(stay, old, fresh) for old, fresh in pairs)))
        return Stepped(
            replace(
                self._drift(state, joint.prior),
                mean=moved[0],
                spread=moved[1],
                previous_mean=torch.where(stay, back[0], state.mean.value),
                previous_spread=torch.where(stay, back[1], state.spread.value),
                bad=bad,
                step=state.step + 1,
            ),
            terms,
        )

    def fit(
        self,
        log_likelihood: LogDensity,
        prior: LatentPrior,
        start: DiagonalGaussian | FitResult | FitState,
        *,
        generator: Source = None,
    ) -> FitResult:
        """Returns the fitted posteriors and the course of the fit.

        Arguments:
            log_likelihood: Maps latents to `log p(x | z)`, one value per item: shape
                `(*batch, *event)` to `(*batch,)`, with a leading samples axis on both where more
                than one sample is evaluated at a time.
            prior: `DiagonalGaussian` (its axes broadcast), None for the standard normal, a log
                density, or a prior with `log_density` and `push`; the first two have a closed
                form, for the others the divergence is averaged over the draws. A plain log
                density is taken as normalised; see `Joint`.
            start: Where to begin: `self.start(...)`, the output of an encoder, an earlier result
                (a warm start with a new optimiser), or a state to go on from until `steps`.
            generator: Source of randomness.

        Raises:
            DivergenceError: If more than `max_bad` of the items became non-finite.
            ValueError: If a state already has `steps` steps, or likelihood or prior does not
                return one value per item.
        """
        joint = Joint(log_likelihood, prior)
        state = start if isinstance(start, FitState) else self.init(start, generator=generator)
        if state.step >= self.steps:
            raise ValueError(f"the state has {state.step} steps of {self.steps}: raise steps")
        course = []
        while state.step < self.steps:
            state, terms = self.step(joint, state, generator=generator)
            course.append(terms)
        return self._result(joint, state, course, generator)

    def kl_floor(
        self, q: DiagonalGaussian, prior: LatentPrior = None
    ) -> Float[Tensor, "..."] | None:
        """Returns the divergence that the same steps from `q` leave without any data.

        Few steps, or a schedule that stops early, do not reach the prior from a narrow start;
        the divergence left over is a property of the settings and no information about x.

        Arguments:
            q: Where the fit begins.
            prior: As in `fit`; the floor is None unless it is a `DiagonalGaussian` or None.
        """
        state = self._blank(q.detach())
        for step in range(self.steps):
            state = replace(self._drift(state, prior), step=step + 1)
        return self._floor(state, prior)

    def posterior(self, state: FitState) -> DiagonalGaussian:
        """Returns the distributions that a state stands for."""
        return self._gaussian(state.mean, state.spread, state)

    def _gaussian(self, mean: Moments, spread: Moments, state: FitState) -> DiagonalGaussian:
        log_scale = spread.value / self._unit
        return DiagonalGaussian(mean.value, log_scale, event_ndim=state.event_ndim)

    def _drift(self, state: FitState, prior: LatentPrior) -> FitState:
        # The step that the data would not have changed.
        if not (prior is None or isinstance(prior, DiagonalGaussian)):
            return state
        q = self._gaussian(state.idle_mean, state.idle_spread, state)
        gate = kl_gate(q.kl(prior), q, kl_weight=self.kl_weight, nats=self.nats)
        slope = Gradient(*(gate * grad for grad in kl_gradient(q, prior)))
        mean, spread = self._move(state.idle_mean, state.idle_spread, slope, step=state.step)
        return replace(state, idle_mean=mean, idle_spread=spread)

    def _floor(self, state: FitState, prior: LatentPrior) -> Tensor | None:
        if not (prior is None or isinstance(prior, DiagonalGaussian)):
            return None
        return self._gaussian(state.idle_mean, state.idle_spread, state).kl(prior)

    @property
    def _unit(self) -> float:
        return 2.0 if self.parameter == "log_var" else 1.0

    def _blank(self, q: DiagonalGaussian) -> FitState:
        mean, spread = q.mean, q.log_scale * self._unit
        zero = torch.zeros_like(mean)
        at_mean, at_spread = Moments(mean, zero, zero), Moments(spread, zero, zero)
        return FitState(
            mean=at_mean,
            spread=at_spread,
            idle_mean=at_mean,
            idle_spread=at_spread,
            previous_mean=mean,
            previous_spread=spread,
            bad=torch.zeros(q.batch_shape, dtype=torch.bool, device=mean.device),
            event_ndim=q.event_ndim,
        )

    def _draw(self, like: Tensor, generator: Source) -> Tensor:
        if self.noise == "antithetic":
            half = sample_noise(like, self.samples // 2, generator)
            return torch.cat((half, -half))
        return sample_noise(like, self.samples, generator)

    def _move(
        self, mean: Moments, spread: Moments, slope: Gradient, *, step: int
    ) -> tuple[Moments, Moments]:
        lr, down = self.learning_rate(step), slope.log_scale / self._unit
        return (
            self.update(mean, slope.mean, step=step, lr=lr),
            self.update(spread, down, step=step, lr=lr),
        )

    @torch.no_grad()
    def _result(
        self, joint: Joint, state: FitState, course: list[ElboTerms], generator: Source
    ) -> FitResult:
        q = self.posterior(state)
        noise = state.noise
        if noise is None:
            # Drawn aside, so that more steps go on with the numbers they would have had.
            noise = self._draw(q.mean, aside(generator, "closing evaluation"))
        evaluate = partial(
            elbo_terms,
            joint,
            kl_weight=self.kl_weight,
            nats=self.nats,
            chunk=self.chunk,
            noise=noise,
        )
        terms = evaluate(q)
        # The last step may have led outside the support as well.
        lost = ~torch.isfinite(terms.objective) & ~state.bad
        stay = over_event(lost, q)
        mean = torch.where(stay, state.previous_mean, state.mean.value)
        spread = torch.where(stay, state.previous_spread, state.spread.value)
        state = replace(
            state,
            mean=state.mean._replace(value=mean),
            spread=state.spread._replace(value=spread),
            bad=state.bad | lost,
        )
        self._check(state)
        q = self.posterior(state)
        if bool(lost.any()):
            terms = evaluate(q)  # those above belong to where the lost items no longer are
        return FitResult(
            q=q,
            z=q.rsample(noise),
            objective=terms.objective,
            nll=terms.nll,
            kl=terms.kl,
            kl_floor=self._floor(state, joint.prior),
            bound=self.bound if joint.normalized else "none",
            bad=state.bad,
            trace=FitTrace(*(torch.stack(part) for part in zip(*course, strict=True))),
            state=state,
        )

    def _check(self, state: FitState) -> None:
        share = state.bad.double().mean().item()  # synchronises with the device, once per fit
        if share > self.max_bad:
            raise DivergenceError(
                f"{share:.1%} of the items met a non-finite objective or gradient by step "
                f"{state.step} (tolerated: {self.max_bad:.1%}); lower lr, start with a smaller "
                "scale, or check the log likelihood at the last means"
            )
