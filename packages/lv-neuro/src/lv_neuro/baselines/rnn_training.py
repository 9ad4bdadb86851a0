"""Training of the recurrent network: Adam on all stacked seeds, each as if it were alone."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.random import stream
from lv_neuro.baselines.rnn import SinCosRnn
from lv_neuro.baselines.rnn_settings import RnnSettings
from lv_neuro.walks import Walks, random_walks

__all__ = ["RnnTrainer"]

CHECK_EVERY = 100


class RnnTrainer:
    """Takes the updates one by one, so that a program can log, save and resume.

    Every seed's walks come from streams of its own, one for each update, and its gradient is
    clipped alone: stacking changes the result of a seed by rounding only.

    Example:
        >>> rnn = SinCosRnn(RnnSettings(iterations=20), seeds=2)
        >>> trainer = RnnTrainer(rnn)
        >>> loss = trainer.step()
        >>> saved = {"rnn": rnn.state_dict(), "trainer": trainer.state_dict()}
    """

    def __init__(self, rnn: SinCosRnn, settings: RnnSettings | None = None) -> None:
        """Starts at update 0.

        Arguments:
            rnn: The network, trained in place.
            settings: How to train; None means the network's own. Others, of which `units`,
                `activation` and `initial` do nothing, train on, for instance on longer walks:
                `replace(rnn.settings, horizon=200, batch_size=50, lr=3e-4)`. Longer walks from
                the start on are learned worse.
        """
        self.rnn, self.done = rnn, 0
        self.settings = rnn.settings if settings is None else settings
        self.parameters = list(rnn.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.settings.lr, fused=True)

    def step(self) -> Float[Tensor, " seeds"]:
        """Takes one update; returns the losses before it, detached.

        Raises:
            FloatingPointError: If a loss is not finite, once every 100 updates.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.done)
        like = self.parameters[0]
        drawn = [self._walks(seed) for seed in self.rnn.seeds]
        stacked = (torch.stack(part).to(like) for part in zip(*drawn, strict=True))
        loss: Tensor = self.rnn(*stacked)
        grads = torch.autograd.grad(loss.sum(), self.parameters)
        squares = torch.stack([g.flatten(1).square().sum(1) for g in grads])
        factor = (self.settings.clip / (squares.sum(0).sqrt() + 1e-12)).clamp(max=1)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            clipped = grad * factor.view(-1, *[1] * (grad.dim() - 1))
            # The fused Adam of the CPU takes a transposed gradient as if it lay like the
            # parameter, and the network learns nothing.
            parameter.grad = clipped.contiguous()
        self.optimizer.step()
        self.done += 1
        if self.done % CHECK_EVERY == 0 and not bool(torch.isfinite(loss).all()):
            raise FloatingPointError(
                f"the loss is not finite after {self.done} updates: {loss.tolist()} (one value "
                "per seed); lower lr or clip, or shorten horizon"
            )
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` needs to go on exactly; the network's state is apart."""
        return {"done": self.done, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken; the network must have been restored too."""
        self.done = int(state["done"])
        self.optimizer.load_state_dict(dict(state["optimizer"]))

    def _walks(self, seed: int) -> Walks:
        s = self.settings
        return random_walks(
            s.batch_size,
            s.horizon,
            bins=s.bins,
            max_step=s.max_step,
            generator=stream(seed, "sin-cos walks", self.done),
        )
