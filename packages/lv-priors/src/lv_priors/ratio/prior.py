"""A prior whose log density is a normal's plus learned log ratios."""

import math
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import Kernel, Mala, Source, frozen, normal, uniform
from lv_priors.base import Prior, PriorLoss
from lv_priors.energy import match_condition
from lv_priors.ratio.learning import check_samples
from lv_priors.ratio.loss import (
    RatioMass,
    check_magnitude,
    n2ce_loss,
    ratio_mass,
    stage_signs,
    stage_words,
)
from lv_priors.ratio.network import StageNetwork, StageSettings
from lv_priors.ratio.waymarks import (
    Moments,
    balanced_schedule,
    check_coefficients,
    moments,
    named_schedule,
    stage_pairs,
    waymark_moments,
)

__all__ = ["RatioPrior"]


class RatioPrior(Prior):
    """A normal tilted by telescoping ratios: `log p(u) = log N(u; 0, I) + f_1(u) + ... + f_K(u)`.

    f_k tells waymark k - 1 of the aggregate posterior from waymark k, where waymark k is
    `c_k u + sqrt(1 - c_k^2) eps`. Learning is classification, without Markov chains, and leaves a
    normalised density. In joint training freeze the prior (`lv_core.frozen`) where the encoder
    learns, or both run away together, and leave the ratio out of the first few hundred updates.

    `calibrate` gives the stages the moments of the aggregate posterior: they then start from the
    ratios of normals with those moments, and moves of the sampler get the right length. Without
    it they start from N(0, I) itself, good for latents that a KL term holds near it.

    Arguments:
        event: Shape of one latent, or its length.
        stages: Number of ratios K.
        magnitude: Weight M of the noise class; at most a few times the root of the data count.
        schedule: "ldebm", "linear", "balanced" (equally hard stages; from `calibrate` on, before
            it as None), coefficients c_0 = 1 > ... > c_K = 0, or None: "ldebm" for six stages and
            else "linear".
        condition: Length of the condition y of p(u | y), used by `given`; None = no condition.
        coupled: Both waymarks of a stage come from the same latent and noise; False shuffles.
        penalty: Weight of the mean squared log ratio in the loss.
        drawn: Stages in one loss, drawn uniformly; None = all.
        network: Widths, skip connection and reach of the stages.
        sampler: Kernel run on each waymark's density by `sample`; a step size that is a number or
            tensor is in units of the waymark's conditional standard deviations. None is MALA,
            20 steps of 0.6.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Yu et al., "Latent Energy-Based Odyssey", 2024, and "'Noisier' Noise Contrastive Estimation
        is (Almost) Maximum Likelihood", 2026; one stage with M = 1 is the prior of Aneja et al.,
        "A Contrastive Learning Approach for Training Variational Autoencoder Priors", 2021. The
        calibration and the sampler's steps are ours.

    Example:
        >>> prior = RatioPrior(16, condition=1)
        >>> loss = prior.given(y).loss(z_posterior).loss
        >>> designs = prior.given(y_high.expand(256, 1)).sample(256)
    """

    sharded_methods = ("log_density", "stage_log_ratios", "loss", "push")

    coefficients: Tensor

    def __init__(
        self,
        event: int | tuple[int, ...],
        *,
        stages: int = 6,
        magnitude: float = 100.0,
        schedule: Literal["ldebm", "linear", "balanced"] | Tensor | None = None,
        condition: int | None = None,
        coupled: bool = True,
        penalty: float = 0.0,
        drawn: int | None = None,
        network: StageSettings = StageSettings(),  # noqa: B008 - immutable
        sampler: Kernel | None = None,
    ) -> None:
        super().__init__(event)
        check_magnitude(magnitude)
        if not penalty >= 0:
            raise ValueError(f"penalty must not be negative, got {penalty}")
        if condition is not None and condition < 1:
            raise ValueError(f"condition must be a positive length or None, got {condition}")
        self.network = StageNetwork(
            math.prod(self.event_shape), stages, condition=condition or 0, settings=network
        )
        if drawn is not None and not 1 <= drawn <= stages:
            raise ValueError(f"drawn must lie in 1..{stages}, the stages, or be None, got {drawn}")
        if isinstance(schedule, Tensor):
            c = check_coefficients(schedule, stages)
        else:
            c = named_schedule(None if schedule == "balanced" else schedule, stages)
        self.register_buffer("coefficients", c)
        self.stages, self.magnitude, self.penalty = stages, magnitude, penalty
        self.balanced, self.coupled = schedule == "balanced", coupled
        self.drawn, self.condition = drawn, condition
        self.bound: Tensor | None = None
        self.sampler = Mala(steps=20, step_size=0.6) if sampler is None else sampler

    @torch.no_grad()
    def calibrate(self, u_posterior: Float[Tensor, " n ..."]) -> None:
        """Takes the mean and covariance of the aggregate posterior into the stages.

        What has been learned refers to the former moments: call it before learning, or again and
        go on learning. The moments are saved with the weights.

        Arguments:
            u_posterior: Posterior samples of the whole data set, shape `(n, *event)`; clearly
                more than there are dimensions.

        Raises:
            ValueError: If there are fewer than two samples, one is not finite, or they have
                another event shape.
        """
        self.check_event(u_posterior, "u_posterior")
        if u_posterior.numel() < 2 * self.network.dim:
            raise ValueError(
                f"u_posterior must hold two or more samples, got shape {tuple(u_posterior.shape)}"
            )
        flat = u_posterior.reshape(-1, self.network.dim)
        check_samples("u_posterior", flat, flat)
        first = moments(flat)
        eye = torch.eye(self.network.dim).to(first.covariance)
        last = Moments(torch.zeros_like(first.mean), eye)
        if self.balanced:
            self.coefficients.copy_(balanced_schedule(self.stages, first, last))
        self.network.set_moments(waymark_moments(first, last, self.coefficients))

    def log_density(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns `log N(u; 0, I) + sum_k f_k(u)`, `(*batch, *event) -> (*batch,)`.

        Raises:
            ValueError: If `u` has another event shape or the prior needs a condition.
        """
        return self.waymark_density(u, 0)

    def stage_log_ratios(self, u: Float[Tensor, "..."], *, first: int = 0) -> Float[Tensor, "..."]:
        """Returns f_k(u[, y]) of the stages after waymark `first`, `(K - first, *batch)`.

        Arguments:
            u: Latents `(*batch, *event)`.
            first: Number of leading stages left out.
        """
        self.check_event(u)
        batch = tuple(u.shape[: u.ndim - len(self.event_shape)])
        y = self._condition(batch)
        y = None if y is None else y.reshape(-1, y.shape[-1])
        flat = u.reshape(-1, self.network.dim)
        return self.network.every(flat, y, first=first).reshape(-1, *batch)

    def waymark_density(self, u: Float[Tensor, "..."], mark: int) -> Float[Tensor, "..."]:
        """Returns the log density of waymark `mark` < K; 0 = the prior itself."""
        self.check_event(u)
        axes = tuple(range(-len(self.event_shape), 0))
        constant = 0.5 * self.network.dim * math.log(2 * math.pi)
        base = -0.5 * u.square().sum(dim=axes) - constant
        return base + self.stage_log_ratios(u, first=mark).sum(0)

    def given(self, condition: Float[Tensor, "n length"]) -> "RatioPrior":
        """Returns p(u | condition), a view that shares the parameters of this prior.

        Learning the view learns the prior; keep checkpoints of the prior. The last batch axis of
        latents runs over the conditions, unless there is one.

        Arguments:
            condition: One condition for each latent, shape `(n, length)`, or a single one for
                all, shape `(1, length)`.

        Raises:
            ValueError: If the prior takes no condition or one of another length.
        """
        if self.condition is None or condition.ndim != 2 or condition.shape[1] != self.condition:
            raise ValueError(
                f"condition must have shape (n, {self.condition}), the length this prior was made "
                f"with by its argument condition, got {tuple(condition.shape)}"
            )
        view = copy(self)
        view.bound = condition
        return view

    def loss(
        self, u_posterior: Tensor, u_prior: Tensor | None = None, *, generator: Source = None
    ) -> PriorLoss:
        """Returns the mean noise-intensified contrastive loss of the stages.

        Arguments:
            u_posterior: Posterior samples, detached, shape `(n, *event)`.
            u_prior: Not used: the contrast is with noised posterior samples.
            generator: Source of the noise and, if only some are drawn, of the stages.

        Returns:
            The loss, and for each stage k in it `loss_k`, `accuracy_k`, `positive_k`,
            `negative_k` and `mass_k`, see `StageSigns`.
        """
        stage = torch.arange(self.stages, device=u_posterior.device)
        if self.drawn is not None:
            stage = uniform((self.stages,), u_posterior, generator).argsort()[: self.drawn]
        positive, negative = self._contrast(u_posterior, stage, generator)
        losses = n2ce_loss(positive, negative, magnitude=self.magnitude, penalty=self.penalty)
        signs = stage_signs(positive.detach(), negative.detach(), magnitude=self.magnitude)
        # NaN stands for stages not drawn: their names are constant and nothing synchronises.
        logs = {}
        for name, values in signs._asdict().items():
            whole = values.new_full((self.stages,), math.nan).index_copy(0, stage, values)
            logs.update({f"{name}_{k}": value for k, value in enumerate(whole, 1)})
        return PriorLoss(losses.mean(), logs)

    def sample(self, n: int, *, generator: Source = None) -> Tensor:
        """Returns `n` latents by chains that follow the waymarks from N(0, I) to the prior.

        At each waymark the chains are carried over by the affine map between the two waymarks'
        moments, the identity before `calibrate`, and then move by the sampler.
        """
        u = self.init(n, generator=generator)
        with frozen(self):
            for mark in reversed(range(self.stages)):
                u = self.network.carry(u.reshape(n, -1), mark + 1, mark).reshape(u.shape)
                density = partial(self.waymark_density, mark=mark)
                u = self._kernel(mark)(density, u, generator=generator)
        return u

    def log_normalizer(self) -> float:
        """Returns 0: ratios learned by classification leave a normalised density.

        That holds at the optimum; `mass` tells how far a learned prior is from it.
        """
        return 0.0

    @torch.no_grad()
    def mass(self, n: int, *, generator: Source = None) -> RatioMass:
        """Returns the mean of exp(sum_k f_k) over `n` draws of N(0, I), with its error."""
        return ratio_mass(self.stage_log_ratios(self.init(n, generator=generator)).sum(0))

    @torch.no_grad()
    def words(self, u_posterior: Tensor, *, generator: Source = None) -> list[str]:
        """Returns what the stages say on these samples (best: not learned from), worst first."""
        every = torch.arange(self.stages, device=u_posterior.device)
        f = self._contrast(u_posterior, every, generator)
        signs = stage_signs(*f, magnitude=self.magnitude)
        ess = self.mass(len(u_posterior), generator=generator).ess.item()
        lists = {name: value.tolist() for name, value in signs._asdict().items()}
        return stage_words(lists, magnitude=self.magnitude, ess=ess)

    def extra_repr(self) -> str:
        """Shows the event, the stages and the weight of the noise class."""
        return f"event={self.event_shape}, stages={self.stages}, magnitude={self.magnitude}"

    def _condition(self, batch: tuple[int, ...]) -> Tensor | None:
        """Returns the bound conditions expanded over the batch, or None if there are none."""
        if self.condition is None:
            return None
        if self.bound is None:
            raise ValueError("this prior needs a condition: bind it first, prior.given(condition)")
        return match_condition(self.bound, batch)

    def _contrast(self, u: Tensor, stage: Tensor, generator: Source) -> tuple[Tensor, Tensor]:
        """Returns the log ratios of the given stages at positives and at negatives."""
        self.check_event(u, "u_posterior")
        n, z0 = len(u), u.reshape(len(u), -1)
        eps, y = normal(z0, generator), self._condition((n,))
        other, order = None, torch.arange(n, device=u.device)
        if not self.coupled:
            order = uniform((n,), z0, generator).argsort()
            other = z0[order], normal(z0, generator)
        both = None if y is None else torch.cat((y, y[order]))
        pairs = stage_pairs(z0, eps, self.coefficients, other)[stage]
        f: Tensor = self.network(pairs, stage, both)
        return f[:, :n], f[:, n:]

    def _kernel(self, mark: int) -> Kernel:
        """Returns the sampler with its step in units of the waymark's conditional deviations."""
        step = getattr(self.sampler, "step_size", None)
        if not isinstance(step, int | float | Tensor):
            return self.sampler
        precision = self.network.whiten[mark].square().sum(-2).reshape(self.event_shape)
        changed: dict[str, Any] = {"step_size": step * precision.rsqrt()}
        return replace(self.sampler, **changed)
