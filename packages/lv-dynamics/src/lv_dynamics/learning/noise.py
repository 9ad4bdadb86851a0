"""The noise level of the likelihood while a model is learned."""

import torch
from torch import Tensor

from lv_dynamics.learning.settings import LearningSettings
from lv_dynamics.observation import GaussianNoise
from lv_dynamics.sequences import Sequences

__all__ = ["NoiseLevel"]


class NoiseLevel:
    """Anneals sigma from the scale of the data to its end, then leaves it or follows residuals.

    A large sigma at the start makes the posterior of the latents wide, so that they can move
    before the dynamics is known.

    Arguments:
        noise: The observation model, changed in place.
        data: The training set, which gives the scale.
        settings: Where annealing starts and ends.
    """

    def __init__(self, noise: GaussianNoise, data: Sequences, settings: LearningSettings) -> None:
        self.noise, self.settings = noise, settings
        mask = data.mask.expand(data.values.shape)
        count = mask.sum((0, 1)).clamp(min=1)
        mean = data.values.sum((0, 1)) / count
        square = torch.where(mask, data.values - mean, 0.0).square().sum((0, 1))
        # Pooled where entries share a sigma; an entry that is constant or never seen counts as 1.
        # Constant means up to rounding: of a joint that never moves scaling leaves some 1e-8,
        # whose square as a variance would make the loss infinite.
        rounding = 16 * torch.finfo(square.dtype).eps * data.values.abs().max()
        total = count.sum_to_size(noise.sigma.shape)
        spread = (square.sum_to_size(noise.sigma.shape) / total).sqrt().to(noise.sigma)
        spread = torch.where(spread > rounding, spread, 1.0)
        self._start = settings.sigma_start * spread
        self._end = settings.sigma_end * spread if noise.learned else noise.sigma.clone()

    def before(self, done: int) -> None:
        """Sets sigma for the update after `done` ones, unless it is learned by now."""
        share = self.settings.sigma_share_at(done)
        if self.settings.anneal > 0 and (share > 0 or not self.noise.learned):
            # Never below the end, also where the model's sigma is larger than the start.
            start = torch.maximum(self._start, self._end)
            self.noise.set_sigma(self._end * (start / self._end) ** share)

    def after(self, residual: Tensor, mask: Tensor, done: int) -> None:
        """Follows the residuals of this update where sigma is learned and annealing has ended."""
        if self.noise.learned and self.settings.sigma_share_at(done) == 0:
            self.noise.fit(residual, mask, rate=self.settings.sigma_rate)
