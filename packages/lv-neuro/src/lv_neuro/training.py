"""Training: Adam on all stacked seeds at once, each as if it were alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.random import stream

if TYPE_CHECKING:
    from lv_neuro.model import HeadDirectionModel

__all__ = ["Losses", "Trainer", "Training"]

BLOCK = 256
"""Iterations whose random turns are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; the defaults are those of the fully connected network."""

    iterations: int = 3000
    """updates"""
    lr: float = 0.003
    """Adam's largest step size"""
    rollout: int = 5
    """turns R of a roll-out; 1 means one step, all turns of the table in every update"""
    noise: float = 0.0
    """expected norm of the noise added to the codes before each turn"""
    clip: float = 10.0
    """largest norm of a seed's gradient"""
    warm_up: float = 0.1
    """share of the iterations over which the step size rises linearly"""
    decay_from: float = 0.3
    """share of the iterations after which it falls linearly"""
    decay_to: float = 0.01
    """share of `lr` that is left at the end"""
    transition_weight: float = 1.0
    """weight of the transformation loss at the beginning, while the codes spread out"""
    refine: float = 100.0
    """factor by which that weight has grown at the end; 1 = none, as suits weights that are shared
    over the ring; without it the fully connected network drifts several times as much"""
    refine_from: float = 0.3
    """share of the iterations from which it grows, geometrically"""
    refine_to: float = 0.9
    """share of the iterations at which it has grown"""
    anti_collapse_weight: float = 1.0
    """weight of the loss that keeps codes apart"""

    def __post_init__(self) -> None:
        """Refuses what cannot be trained.

        Raises:
            ValueError: Names the field and its range.
        """
        for name in ("iterations", "rollout"):
            if getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)}")
        for name in ("iterations", "lr", "rollout", "clip", "refine"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("noise", "transition_weight", "anti_collapse_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.warm_up <= self.decay_from <= 1 or not 0 <= self.decay_to <= 1:
            raise ValueError(
                "0 <= warm_up <= decay_from <= 1 and 0 <= decay_to <= 1 must hold, got "
                f"{self.warm_up}, {self.decay_from} and {self.decay_to}"
            )
        if not 0 <= self.refine_from < self.refine_to <= 1:
            raise ValueError(
                "0 <= refine_from < refine_to <= 1 must hold, got "
                f"{self.refine_from} and {self.refine_to}"
            )

    def transition_weight_at(self, step: int) -> float:
        """Returns the weight of the transformation loss in the update `step`, counted from 0."""
        done = (step + 1) / self.iterations
        grown = (done - self.refine_from) / (self.refine_to - self.refine_from)
        return self.transition_weight * math.pow(self.refine, min(max(grown, 0.0), 1.0))

    def lr_at(self, step: int) -> float:
        """Returns the step size of the update `step`, counted from 0."""
        done = min((step + 1) / self.iterations, 1.0)  # who goes on keeps the last step size
        if done < self.warm_up:
            return self.lr * done / self.warm_up
        if done <= self.decay_from:
            return self.lr
        left = (1 - done) / (1 - self.decay_from)
        return self.lr * (self.decay_to + (1 - self.decay_to) * left)


class Losses(NamedTuple):
    """The losses of one update, one value per seed."""

    total: Float[Tensor, " seeds"]
    """What is minimized."""
    transition: Float[Tensor, " seeds"]
    """Mean squared error of the transformed codes."""
    anti_collapse: Float[Tensor, " seeds"]
    """Distance of the codes' inner products from their target."""
    readout: Float[Tensor, " seeds"]
    """Error of the learned read-out; zero without one."""


class Trainer:
    """Takes the updates one by one, so that a program can log, save and resume.

    Every seed's numbers come from streams of its own and its gradient is clipped alone:
    stacking changes the result of a seed by rounding only.
    """

    def __init__(self, model: "HeadDirectionModel", settings: Training) -> None:
        """Starts at update 0."""
        self.model, self.settings, self.done = model, settings, 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr, fused=True)
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))

    def step(self) -> Losses:
        """Takes one update; returns the losses before it, detached.

        Raises:
            FloatingPointError: If a loss is not finite; every 100th update and the last look.
        """
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr_at(self.done)
        losses: Losses = self.model(
            self._turns(), settings=settings, noise=self._noise(), step=self.done
        )
        grads = torch.autograd.grad(losses.total.sum(), self.parameters)
        for parameter, grad in zip(self.parameters, self._clipped(grads), strict=True):
            parameter.grad = grad
        self.optimizer.step()
        self.model.code.project()
        self.done += 1
        looked_at = self.done % 100 == 0 or self.done == settings.iterations
        if looked_at and not bool(torch.isfinite(losses.total).all()):
            raise FloatingPointError(
                f"the loss is not finite after {self.done} updates: {losses.total.tolist()} "
                "(one value per seed); lower lr"
            )
        return Losses(*(part.detach() for part in losses))

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` needs to go on exactly; the model's state is apart."""
        return {"done": self.done, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken; the model must have been restored too."""
        self.done = int(state["done"])
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        for parameter in self.parameters:
            parameter.grad = None

    def _turns(self) -> Tensor | None:
        """Returns this update's turns (S, R), drawn by blocks from each seed's own stream."""
        if self.settings.rollout == 1:
            return None
        block, place = divmod(self.done, BLOCK)
        if self._block[0] != block:
            self._block = (block, self._draw(block))
        turns: Tensor = self._block[1][place]
        return turns

    def _draw(self, block: int) -> Tensor:
        largest = self.model.max_step
        shape = (BLOCK, self.settings.rollout)
        drawn = [
            torch.randint(-largest, largest + 1, shape, generator=stream(seed, "turns", block))
            for seed in self.model.seeds
        ]
        return torch.stack(drawn, dim=1).to(self.parameters[0].device)

    def _noise(self) -> Tensor | None:
        if self.settings.noise == 0:
            return None
        model = self.model
        shape = (self.settings.rollout, model.bins, model.neurons)
        scale: float = self.settings.noise / model.neurons**0.5
        drawn = [
            scale * torch.randn(shape, generator=stream(seed, "training noise", self.done))
            for seed in model.seeds
        ]
        return torch.stack(drawn, dim=1).to(self.parameters[0].device)

    def _clipped(self, grads: tuple[Tensor, ...]) -> list[Tensor]:
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
        factor = (self.settings.clip / (norms.norm(dim=0) + 1e-6)).clamp(max=1)
        # Rarely anything is clipped. On the CPU, asking costs less than multiplying; on a GPU the
        # answer would have to be waited for.
        if grads[0].device.type != "cpu" or bool((factor < 1).any()):
            grads = tuple(g * factor.view(-1, *[1] * (g.dim() - 1)) for g in grads)
        # The fused Adam walks through memory: a transposed gradient would update other weights.
        return [g.contiguous() for g in grads]
