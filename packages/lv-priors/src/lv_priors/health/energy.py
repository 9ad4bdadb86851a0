"""Watching energy-based priors."""

import math

import torch
from torch import Tensor

from lv_priors.energy import EnergyPrior
from lv_priors.health.base import Health, Means
from lv_priors.symbol import SymbolEnergyPrior

__all__ = ["EnergyHealth", "SymbolHealth"]


class EnergyHealth(Health):
    """Collects the signs of health of an energy-based prior, one update at a time.

    Arguments:
        prior: The prior that is watched.
        window: Number of recent updates that the words look at.
        max_gap: Mean tilt gap (nats) beyond which the prior is called diverging.

    Source:
        The symptoms are those reported for latent-space and image energy models: Pang et al.
        2020; Grathwohl et al. 2020; Xiao et al. 2021.
    """

    def __init__(self, prior: EnergyPrior, *, window: int = 50, max_gap: float = 50.0) -> None:
        super().__init__(window=window)
        self.prior, self.max_gap = prior, max_gap

    @torch.no_grad()
    def update(self, z_posterior: Tensor, z_prior: Tensor) -> dict[str, float]:
        """Returns the signs at this update; z of shape `(n, *event)`. Synchronises once.

        The signs: `gap` (mean tilt of posterior minus prior samples), standard deviation and
        largest absolute entry of both sets, and `drift`, the ratio of the prior samples' standard
        deviation to that of the reference normal.
        """
        return self._record(self._signs(z_posterior, z_prior))

    def _signs(self, z_posterior: Tensor, z_prior: Tensor) -> dict[str, Tensor]:
        # Two passes, as conditions of a bound prior belong to one set.
        return {
            "gap": self.prior.tilt(z_posterior).mean() - self.prior.tilt(z_prior).mean(),
            "std_posterior": z_posterior.std(),
            "std_prior": z_prior.std(),
            "absmax_posterior": z_posterior.abs().amax(),
            "absmax_prior": z_prior.abs().amax(),
            "drift": z_prior.std() / self.prior.scale,
        }

    def _complaints(self, mean: Means) -> list[str]:
        found = []
        if abs(mean["gap"]) > self.max_gap:
            found.append(
                f"the tilt gap averages {mean['gap']:.1f} nats and should stay near 0: lower the "
                "prior's learning rate, clip its gradient, or set energy_l2"
            )
        if mean["drift"] > 4.0:
            found.append(
                f"prior samples are {mean['drift']:.1f} times as wide as the reference normal: "
                "the chain escapes; shorten its step size or add steps"
            )
        if mean["std_prior"] < 0.2 * mean["std_posterior"]:
            found.append(
                "prior samples are much narrower than posterior samples: the prior has collapsed "
                "to a point; raise the temperature of its chain or set energy_l2"
            )
        return found

    def _praise(self, mean: Means) -> str:
        return (
            f"gap {mean['gap']:.2f} nats, prior samples {mean['drift']:.2f} times as wide as the "
            "reference normal"
        )


class SymbolHealth(EnergyHealth):
    """Watches a symbol prior: the signs of an energy prior, and whether symbols are used.

    Further signs, over posterior samples: `unused`, the number of symbols whose mean p(y | z) is
    below a tenth of an equal share, and `blur`, the mean entropy of p(y | z) over log K (0 =
    every latent has its symbol, 1 = symbols mean nothing).

    Arguments:
        prior: The prior that is watched.
        window: Number of recent updates that the words look at.
        max_gap: Mean tilt gap (nats) beyond which the prior is called diverging.
    """

    prior: SymbolEnergyPrior

    def __init__(
        self, prior: SymbolEnergyPrior, *, window: int = 50, max_gap: float = 50.0
    ) -> None:
        super().__init__(prior, window=window, max_gap=max_gap)

    def _signs(self, z_posterior: Tensor, z_prior: Tensor) -> dict[str, Tensor]:
        log_prob = self.prior.symbol_log_prob(z_posterior)
        share = log_prob.exp().mean(dim=0)
        entropy = -(log_prob.exp() * log_prob).sum(dim=-1).mean()
        return {
            **super()._signs(z_posterior, z_prior),
            "unused": (share < 0.1 / self.prior.symbols).sum(),
            "blur": entropy / math.log(self.prior.symbols),
        }

    def _complaints(self, mean: Means) -> list[str]:
        found = super()._complaints(mean)
        if mean["unused"] >= 1:
            found.append(
                f"{mean['unused']:.0f} of {self.prior.symbols} symbols are unused, below a tenth "
                "of an equal share: use fewer symbols, or give known ones to loss(symbols=)"
            )
        if mean["blur"] > 0.95:
            found.append(
                f"the entropy of p(y | z) is {mean['blur']:.0%} of its maximum: symbols do not "
                "tell latents apart; give known ones to loss(symbols=) or raise symbol_weight"
            )
        return found

    def _praise(self, mean: Means) -> str:
        return f"{super()._praise(mean)}, entropy of symbols {mean['blur']:.0%} of its maximum"
