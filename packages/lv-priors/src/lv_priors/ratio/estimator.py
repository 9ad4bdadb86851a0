"""Density ratios between two sets of samples, learned stage by stage."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core import normal, stream
from lv_priors.ratio.learning import FitRecord, Learning, check_samples
from lv_priors.ratio.loss import check_magnitude, n2ce_loss, stage_words
from lv_priors.ratio.network import StageNetwork, StageSettings
from lv_priors.ratio.waymarks import (
    Moments,
    balanced_schedule,
    check_coefficients,
    check_stages,
    moments,
    named_schedule,
    stage_pairs,
    waymark_moments,
)

__all__ = ["RatioEstimator"]


class RatioEstimator:
    """Estimates log p(x)/q(x) from samples by telescoping ratios and noise-intensified contrast.

    log p/q = f_1 + ... + f_K, where f_k tells waymark k - 1 from waymark k. Waymarks mix one
    sample of each set, `c_k x_p + sqrt(1 - c_k^2) x_q` in coordinates standardised inside; with
    `q=None` the denominator is N(0, I) and they are the noised samples of a diffusion. A single
    classifier (K = 1, M = 1) saturates when the sets hardly overlap.

    By default each stage adds to its perceptron the log ratio of normals with the waymarks'
    moments, and scales the perceptron by a held-out factor in [0, 1]. Between normal samples the
    first part alone is the maximum-likelihood estimate and the factor is near 0; without it
    (`StageSettings(skip="none")`) a perceptron errs by many nats where one set has no samples.
    `skip="quadratic"` learns a second-order polynomial instead. Whatever the method, samples bound
    what can be known far from them: n samples of a normal q determine log q at a whitened distance
    rho only to about `rho^2 / sqrt(2 n)` nats.

    Arguments:
        stages: Number of ratios K.
        magnitude: Weight M of the noise class.
        schedule: "balanced" (equally hard stages, from the moments), "ldebm", "linear", or the
            coefficients c_0 = 1 > ... > c_K = 0 themselves.
        coupled: Both waymarks of a stage come from the same pair of samples; False shuffles.
        penalty: Weight of the mean squared log ratio.
        network: Widths, skip connection and reach of the stages.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Yu et al., "'Noisier' Noise Contrastive Estimation is (Almost) Maximum Likelihood", 2026;
        Rhodes et al., "Telescoping Density-Ratio Estimation", 2020.

    Example:
        >>> estimator = RatioEstimator().fit(x_p, x_q, steps=1000, generator=stream(0, "fit"))
        >>> estimator.log_ratio(x)  # nats, shape (n,)
    """

    def __init__(
        self,
        *,
        stages: int = 6,
        magnitude: float = 100.0,
        schedule: Literal["balanced", "ldebm", "linear"] | Tensor = "balanced",
        coupled: bool = True,
        penalty: float = 0.0,
        network: StageSettings = StageSettings(),  # noqa: B008 - immutable
    ) -> None:
        check_stages(stages)
        check_magnitude(magnitude)
        if isinstance(schedule, Tensor):
            check_coefficients(schedule, stages)
        elif schedule != "balanced":
            named_schedule(schedule, stages)
        if not penalty >= 0:
            raise ValueError(f"penalty must not be negative, got {penalty}")
        self.stages, self.magnitude, self.schedule = stages, magnitude, schedule
        self.coupled, self.penalty, self.settings = coupled, penalty, network
        self.records: list[FitRecord] = []
        self._learning: Learning | None = None

    @property
    def step(self) -> int:
        """Updates done."""
        return 0 if self._learning is None else self._learning.step

    @property
    def network(self) -> StageNetwork:
        """The averaged network that answers, in standardised coordinates.

        Raises:
            ValueError: If nothing has been fitted or loaded.
        """
        return self._fitted().network

    def fit(
        self,
        p: Float[Tensor, "n dim"],
        q: Float[Tensor, "m dim"] | None = None,
        *,
        steps: int = 2000,
        batch_size: int = 256,
        lr: float = 2e-3,
        average: float = 0.999,
        clip: float = 100.0,
        holdout: float = 0.1,
        monitor_every: int = 100,
        callback: Callable[[FitRecord], bool | None] | None = None,
        generator: torch.Generator | None = None,
    ) -> "RatioEstimator":
        """Learns the ratio and returns the estimator itself.

        Adam with a rate that falls to 0 as half a cosine; the network that answers is a moving
        average. Everything random in step t is a function of one seed and t, so an estimator that
        was loaded from `state_dict` goes on to exactly the weights of an uninterrupted fit, given
        the same samples and settings; other samples are refused, judged by their moments.

        Arguments:
            p: Samples of the numerator.
            q: Samples of the denominator; None = N(0, I), drawn afresh in each step.
            steps: Updates in all, those before a resume included.
            batch_size: Pairs of samples in an update; each visits all stages.
            lr: Rate at the start; the polynomial of `skip="quadratic"`, whose terms are
                orthonormal, learns ten times as fast.
            average: Largest decay of the moving average of the weights, whose memory is at most
                a fifth of the steps done.
            clip: Largest norm of the gradient.
            holdout: Share of the samples kept for monitoring, in (0, 1); two or more.
            monitor_every: Steps between records.
            callback: Called with each record; returning True stops the fit.
            generator: Source of the seed; None = torch's global generator.

        Raises:
            ValueError: If a set has fewer than four samples, the dimensions differ, a setting is
                out of range, all steps are done already, or the samples before were others.
        """
        if min(steps, batch_size, monitor_every) < 1 or not (lr > 0 and clip > 0):
            raise ValueError(
                "steps, batch_size, monitor_every, lr and clip must be positive, got "
                f"{steps}, {batch_size}, {monitor_every}, {lr}, {clip}"
            )
        if not (0 < holdout < 1 and 0 <= average < 1):
            raise ValueError(
                f"holdout must lie in (0, 1) and average in [0, 1), got {holdout}, {average}"
            )
        check_samples("p", p, p)
        if q is not None:
            check_samples("q", q, p)
        dtype = p.dtype if self._learning is None else self._learning.center.dtype
        p, q = p.to(dtype), None if q is None else q.to(dtype)
        if self._learning is None:
            seed = int(torch.randint(2**62, (1,), generator=generator).item())
            self._learning = self._start(p, q, seed, holdout)
        now = self._learning
        if now.step >= steps:
            raise ValueError(
                f"the estimator has made {now.step} of {steps} steps: raise steps to go on, or "
                "make a new estimator for other samples"
            )
        now.recognise(p=p, q=q)
        p, p_held = now.split(p, holdout, "p")
        if q is None:
            q_held = normal(p_held, stream(now.seed, "base", device=p.device))
        else:
            q, q_held = now.split(q, holdout, "q")
        every = torch.arange(self.stages, device=p.device)
        while now.step < steps:
            draw = stream(now.seed, "step", now.step, device=p.device)
            pair = _draw(p, q, batch_size, draw)
            other = None if self.coupled else _draw(p, q, batch_size, draw)
            f = now.learner(stage_pairs(*pair, now.coefficients, other), every)
            loss = n2ce_loss(
                f[:, :batch_size],
                f[:, batch_size:],
                magnitude=self.magnitude,
                penalty=self.penalty,
            )
            fall = 0.5 * (1 + math.cos(math.pi * now.step / steps))
            now.update(loss.mean(), lr * fall, clip)
            now.smooth(average)
            if now.step % monitor_every == 0 or now.step == steps:
                self.records.append(now.record(p_held, q_held, self.magnitude))
                if callback is not None and callback(self.records[-1]):
                    break
        return self

    @torch.no_grad()
    def stage_log_ratios(
        self, x: Float[Tensor, "*batch dim"], *, chunk: int = 8192
    ) -> Float[Tensor, "..."]:
        """Returns f_k(x) (nats) of all stages from p to q, shape `(stages, *batch)`.

        The network has the dtype of the fit's p; the result has that of `x`.

        Arguments:
            x: Points, in the units of the samples.
            chunk: Points that go through the network at once.

        Raises:
            ValueError: If nothing has been fitted, or the dimension differs.
        """
        now = self._fitted()
        if x.shape[-1:] != now.center.shape:
            raise ValueError(f"x must end in dimension {now.dim}, got shape {tuple(x.shape)}")
        flat = now.standardized(x.to(now.center.dtype)).reshape(-1, now.dim)
        parts = [now.network.every(part) for part in torch.split(flat, chunk)]
        return torch.cat(parts, dim=1).reshape(self.stages, *x.shape[:-1]).to(x.dtype)

    def log_ratio(
        self, x: Float[Tensor, "*batch dim"], *, chunk: int = 8192
    ) -> Float[Tensor, "*batch"]:
        """Returns the estimate of log p(x)/q(x) in nats, the sum over the stages."""
        return self.stage_log_ratios(x, chunk=chunk).sum(0)

    def words(self) -> list[str]:
        """Returns what the last record says about the health of the stages, worst first."""
        if not self.records:
            return ["no record has been made yet"]
        last = asdict(self.records[-1])
        signs = {name: value for name, value in last.items() if isinstance(value, list)}
        return stage_words(signs, magnitude=self.magnitude, ess=last["ess"])

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state of learning: networks, moments of Adam, step, seed, records."""
        return {
            "setting": self._setting(),
            "learning": self._fitted().state_dict(),
            "records": [asdict(record) for record in self.records],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned, on the device where its tensors are.

        Raises:
            ValueError: If the estimator has other settings than the saved one.
        """
        if state["setting"] != self._setting():
            raise ValueError(
                f"the state belongs to an estimator with settings {state['setting']}, this one "
                f"has {self._setting()}: make one with the same settings"
            )
        saved = state["learning"]
        self._learning = Learning(
            saved["dim"], self.stages, self.settings, seed=saved["seed"], like=saved["center"]
        )
        self._learning.load_state_dict(saved)
        self.records = [FitRecord(**record) for record in state["records"]]

    def _setting(self) -> dict[str, Any]:
        plain = {"stages": self.stages, "magnitude": self.magnitude, "coupled": self.coupled}
        return {**plain, "penalty": self.penalty, **asdict(self.settings)}

    def _fitted(self) -> Learning:
        if self._learning is None:
            raise ValueError("the estimator knows no ratio yet: call fit or load_state_dict")
        return self._learning

    def _start(self, p: Tensor, q: Tensor | None, seed: int, holdout: float) -> Learning:
        dim = p.shape[1]
        now = Learning(dim, self.stages, self.settings, seed=seed, like=p)
        if q is not None:
            # Waymarks shrink towards the origin on the way, so it should lie between the sets.
            both = (moments(p), moments(q))
            half = 0.5 * (both[0].mean - both[1].mean)
            var = 0.5 * sum(m.covariance.diagonal() for m in both) + half.square()
            now.center = (0.5 * (both[0].mean + both[1].mean)).to(p)
            now.scale = torch.where(var > 0, var.sqrt(), 1.0).to(p)
        first = moments(now.split(p, holdout, "p")[0])
        eye = torch.eye(dim, dtype=torch.float64, device=p.device)
        last = Moments(eye.new_zeros(dim), eye)
        if q is not None:
            last = moments(now.split(q, holdout, "q")[0])
        if isinstance(self.schedule, Tensor):
            c = self.schedule.double()
        elif self.schedule == "balanced":
            c = balanced_schedule(self.stages, first, last)
        else:
            c = named_schedule(self.schedule, self.stages)
        now.set_path(waymark_moments(first, last, c.to(p.device)), c)
        return now


def _draw(p: Tensor, q: Tensor | None, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns n pairs of samples; those of a normal denominator are new."""
    first = p[torch.randint(len(p), (n,), generator=draw, device=p.device)]
    if q is None:
        return first, normal(first, draw)
    return first, q[torch.randint(len(q), (n,), generator=draw, device=p.device)]
