"""What a fit of ratios carries from step to step: networks, optimiser, coordinates, seed."""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lv_core import stream
from lv_priors.ratio.loss import ratio_mass, stage_signs
from lv_priors.ratio.network import StageNetwork, StageSettings
from lv_priors.ratio.waymarks import Moments, moments, stage_pairs

__all__ = ["FitRecord", "Learning", "check_samples"]


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """What the held-out samples say at one step; lists hold one number for each stage."""

    step: int
    """steps done"""
    loss: list[float]
    """loss, beside `chance_loss(magnitude)` at f = 0"""
    accuracy: list[float]
    """balanced accuracy of the sign of f"""
    positive: list[float]
    """mean log ratio (nats) at the numerator's samples"""
    negative: list[float]
    """mean log ratio at the denominator's samples"""
    mass: list[float]
    """mean ratio at the denominator's samples; 1 for a normalised ratio"""
    gain: list[float]
    """factor in [0, 1] of the perceptron; near 0 where the skip connection says it all"""
    ess: float
    """effective share of denominator samples weighted by the whole ratio"""


class Learning:
    """The state of a fit.

    Arguments:
        dim: Length of a sample.
        stages: Number of ratios.
        settings: Settings of the network.
        seed: Seed of all streams of the fit.
        like: Tensor whose dtype and device the networks take.
    """

    def __init__(
        self, dim: int, stages: int, settings: StageSettings, *, seed: int, like: Tensor
    ) -> None:
        self.seed, self.step, self.dim = seed, 0, dim
        self.center = like.new_zeros(dim)
        self.scale = like.new_ones(dim)
        self.coefficients = like.new_zeros(stages + 1, dtype=torch.float64)
        self.seen: dict[str, tuple[Tensor, ...]] = {}
        # Layers draw their first weights from the global generator, which is the user's.
        with torch.random.fork_rng(devices=[]):
            self.learner = StageNetwork(dim, stages, settings=settings)
        self.learner.reset(stream(seed, "network"))
        self.learner.to(like)
        self.network = deepcopy(self.learner).requires_grad_(False)
        fast = [] if self.learner.polynomial is None else [self.learner.polynomial]
        slow = [w for w in self.learner.parameters() if all(w is not f for f in fast)]
        groups = [{"params": slow, "factor": 1.0}, {"params": fast, "factor": 10.0}]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]])

    def standardized(self, x: Tensor) -> Tensor:
        """Returns samples in the coordinates of the network."""
        return (x - self.center) / self.scale

    def recognise(self, **sets: Tensor | None) -> None:
        """Keeps the moments of the sets at first, and then refuses sets with other moments.

        Raises:
            ValueError: If a set differs from that of the first call.
        """
        now = {name: tuple(moments(x)) for name, x in sets.items() if x is not None}
        self.seen = self.seen or now
        for name in sets:
            ours, theirs = self.seen.get(name, ()), now.get(name, ())
            # Devices add up in different orders; other samples differ by far more.
            if len(ours) != len(theirs) or not all(map(_agree, ours, theirs)):
                raise ValueError(
                    f"{name} must be the samples that the first {self.step} steps learned from, "
                    "got others, by their mean and covariance: make a new estimator for them"
                )

    def split(self, x: Tensor, holdout: float, name: str) -> tuple[Tensor, Tensor]:
        """Returns standardised samples to learn from, and those kept for monitoring.

        Raises:
            ValueError: If there are fewer than four.
        """
        if len(x) < 4:
            raise ValueError(
                f"{name} must hold four or more samples, two to learn from and two held out, got "
                f"{len(x)}"
            )
        order = torch.randperm(len(x), generator=stream(self.seed, "split", name)).to(x.device)
        # A single held-out sample weighs 1 whatever its ratio, so it says nothing of the spread.
        held = min(max(2, round(holdout * len(x))), len(x) - 2)
        x = self.standardized(x)
        return x[order[held:]], x[order[:held]]

    def set_path(self, path: Moments, coefficients: Tensor) -> None:
        """Sets the waymarks' moments and coefficients."""
        self.coefficients = coefficients.to(self.coefficients)
        self.learner.set_moments(path)
        self.network.set_moments(path)

    def update(self, loss: Tensor, lr: float, clip: float) -> None:
        """Makes one step of Adam with the gradient clipped to norm `clip`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learner.parameters(), clip)
        self.optimizer.step()
        self.step += 1

    @torch.no_grad()
    def smooth(self, average: float) -> None:
        """Moves the averaged weights towards the learner's."""
        # A fifth of the steps done, so that the start does not weigh on a short fit.
        keep = min(average, self.step / (self.step + 5))
        mean: list[Tensor] = list(self.network.parameters())
        now: list[Tensor] = list(self.learner.parameters())
        torch._foreach_lerp_(mean, now, 1 - keep)

    @torch.no_grad()
    def record(self, p: Tensor, q: Tensor, magnitude: float) -> FitRecord:
        """Scales the averaged perceptron by held-out samples; returns what they say about it.

        The gain of each stage is the factor in [0, 1] of least loss on at most 16384 standardised
        pairs. The noise of learning, which has no part in their loss, is damped by it, most of
        all where the skip connection is right and the perceptron is nothing but noise.
        """
        n = min(len(p), len(q), 16384)
        every = torch.arange(self.network.stages, device=p.device)
        x = stage_pairs(p[:n], q[:n], self.coefficients)
        fixed, perceptron = self.network.parts(x, every)
        gain = best_gain(fixed, perceptron, magnitude)
        self.network.gain.copy_(gain)
        f = fixed + gain[:, None] * perceptron
        signs = stage_signs(f[:, :n], f[:, n:], magnitude=magnitude)
        ess = ratio_mass(self.network.every(q[:n]).sum(0)).ess.item()
        lists = {name: value.tolist() for name, value in signs._asdict().items()}
        return FitRecord(step=self.step, ess=ess, gain=gain.tolist(), **lists)

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers alone, loadable with `weights_only=True`."""
        plain = {n: getattr(self, n) for n in ("seed", "step", "dim")}
        tensors = {n: getattr(self, n) for n in ("center", "scale", "coefficients", "seen")}
        parts = {n: getattr(self, n).state_dict() for n in ("learner", "network", "optimizer")}
        return deepcopy({**plain, **tensors, **parts})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        state = deepcopy(state)
        for name in ("seed", "step", "dim", "center", "scale", "coefficients", "seen"):
            setattr(self, name, state[name])
        for name in ("learner", "network", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


def _agree(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.to(b), b, rtol=1e-6, atol=1e-9 * b.abs().max().item())


def best_gain(fixed: Tensor, perceptron: Tensor, magnitude: float) -> Tensor:
    """Returns the factor in [0, 1] at which `fixed + factor * perceptron` has the least loss.

    The loss is convex in the factor, so halving the interval finds where its slope changes sign.

    Arguments:
        fixed: Shape `(stages, n + n)`, positives before negatives.
        perceptron: Likewise.
        magnitude: M of the loss.
    """
    n, log_m = fixed.shape[1] // 2, math.log(magnitude)
    low, high = torch.zeros_like(fixed[:, 0]), torch.ones_like(fixed[:, 0])
    for _ in range(20):
        middle = 0.5 * (low + high)
        f = fixed + middle[:, None] * perceptron
        up = (torch.sigmoid(log_m - f[:, :n]) * perceptron[:, :n]).mean(1)
        down = (torch.sigmoid(f[:, n:] - log_m) * perceptron[:, n:]).mean(1)
        rises = magnitude * down > up
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    return 0.5 * (low + high)


def check_samples(name: str, x: Tensor, like: Tensor) -> None:
    """Raises unless `x` holds two or more finite samples of the dimension of `like`.

    Raises:
        ValueError: Names the set and its shape.
    """
    if x.ndim != 2 or len(x) < 2 or x.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"{name} must have shape (n, dim) with n at least 2 and the dimension of p, got "
            f"{tuple(x.shape)} beside {tuple(like.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite: remove rows that hold NaN or infinity")
