"""Watching whether an energy-based prior learns, and saying in words when it does not."""

from collections import deque

import torch
from torch import Tensor

from lv_priors.energy import EnergyPrior

__all__ = ["EnergyHealth"]


class EnergyHealth:
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
        if window < 2:
            raise ValueError(f"window must be at least 2, got {window}")
        self.prior, self.max_gap = prior, max_gap
        self._recent: deque[dict[str, float]] = deque(maxlen=window)

    @torch.no_grad()
    def update(self, z_posterior: Tensor, z_prior: Tensor) -> dict[str, float]:
        """Returns the signs at this update; z of shape `(n, *event)`. Synchronises once.

        The signs: `gap` (mean tilt of posterior minus prior samples), standard deviation and
        largest absolute entry of both sets, and `drift`, the ratio of the prior samples' standard
        deviation to that of the reference normal.
        """
        both = self.prior.tilt(torch.cat((z_posterior, z_prior)))
        n = len(z_posterior)
        names = ("gap", "std_posterior", "std_prior", "absmax_posterior", "absmax_prior", "drift")
        signs = torch.stack(
            (
                both[:n].mean() - both[n:].mean(),
                z_posterior.std(),
                z_prior.std(),
                z_posterior.abs().amax(),
                z_prior.abs().amax(),
                z_prior.std() / self.prior.scale,
            )
        ).tolist()
        record = dict(zip(names, signs, strict=True))
        self._recent.append(record)
        return record

    def state_dict(self) -> dict[str, list[dict[str, float]]]:
        """Returns the recent signs, for a checkpoint."""
        return {"recent": [dict(record) for record in self._recent]}

    def load_state_dict(self, state: dict[str, list[dict[str, float]]]) -> None:
        """Goes on from the signs that `state_dict` returned."""
        self._recent.clear()
        self._recent.extend(dict(record) for record in state["recent"])

    def words(self) -> list[str]:
        """Returns what the recent updates say, worst first; one line each."""
        if not self._recent:
            return ["no update has been seen yet"]
        mean = {k: sum(r[k] for r in self._recent) / len(self._recent) for k in self._recent[0]}
        last = self._recent[-1]
        found = []
        if not all(map(_finite, last.values())):
            found.append(
                "a sign is not finite: the prior has diverged; go back to a checkpoint and lower "
                "its learning rate or the step size of its chain"
            )
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
        return found or [
            f"healthy: gap {mean['gap']:.2f} nats, prior samples {mean['drift']:.2f} times as "
            "wide as the reference normal"
        ]


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
