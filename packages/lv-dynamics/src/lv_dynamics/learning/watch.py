"""Honest words about how learning goes."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from lv_dynamics.learning.energy import EnergyLearner
from lv_dynamics.learning.settings import LearningSettings

__all__ = ["LearningHealth"]

_KEPT = ("accept", "step_size", "climb", "posterior_norm", "prior_norm", "mse", "sigma", "horizon")


class LearningHealth:
    """Collects the logs of recent updates and says what is wrong with the chains behind them.

    Arguments:
        settings: What the chains were asked for.
        dim: Numbers D of one latent.
        window: Number of recent updates that the words look at.
    """

    def __init__(self, settings: LearningSettings, dim: int, *, window: int = 50) -> None:
        self.settings, self.dim = settings, dim
        self._recent: deque[dict[str, float]] = deque(maxlen=window)

    def update(self, logs: Mapping[str, float]) -> None:
        """Takes the logs of one update."""
        self._recent.append({name: logs[name] for name in _KEPT if name in logs})

    def words(self, energy: EnergyLearner | None = None) -> list[str]:
        """Returns what the recent updates say, worst first; "healthy" with figures if nothing.

        Arguments:
            energy: The learner of the energy prior, whose own complaints are added.
        """
        if not self._recent:
            return ["no update has been seen yet"]
        mean = self._means()
        found = self._of_chains(mean) + self._of_latents(mean)
        if energy is not None and "prior_norm" in mean:
            found += [word for word in energy.health.words() if not word.startswith("healthy")]
        return found or [self._praise(mean)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the recent logs, for a checkpoint."""
        return {"recent": [dict(logs) for logs in self._recent]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the logs that `state_dict` returned."""
        self._recent.clear()
        self._recent.extend(dict(logs) for logs in state["recent"])

    def _means(self) -> dict[str, float]:
        # Only names of the last update: the warm-up before has others.
        return {
            name: sum(values) / len(values)
            for name in self._recent[-1]
            if (values := [logs[name] for logs in self._recent if name in logs])
        }

    def _of_chains(self, mean: dict[str, float]) -> list[str]:
        found = []
        accept, settings = mean.get("accept"), self.settings
        if accept is not None and accept < 0.4 * settings.target_accept:
            found.append(
                f"chains accept {accept:.0%} of their proposals and should accept "
                f"{settings.target_accept:.0%}: the posterior is stiffer than their smallest "
                "step, or step sizes have not settled; raise sigma or adaptation"
            )
        if accept is not None and mean["step_size"] < 1e-3:
            found.append(
                f"the median step size is {mean['step_size']:.1e}, so chains hardly move: raise "
                "sigma, shorten the horizon, or set table_noise, without which latents collapse"
            )
        # Chains follow a moving posterior and climb a little at each visit; equilibrium of D
        # coordinates fluctuates by sqrt(D / 2) around nothing.
        if "climb" in mean and mean["climb"] > max(1.0, math.sqrt(self.dim / 2)):
            where = "their last step" if settings.method == "short_run" else "each visit"
            found.append(
                f"chains climb {mean['climb']:.1f} nats in {where}: they are not stationary and "
                "their ends no posterior samples; take more steps, or lower lr"
            )
        return found

    def _of_latents(self, mean: dict[str, float]) -> list[str]:
        found = []
        norm, expected = mean["posterior_norm"], mean.get("prior_norm", math.sqrt(self.dim))
        against = "prior samples have" if "prior_norm" in mean else "the reference normal expects"
        if norm > 2 * expected:
            found.append(
                f"posterior latents have length {norm:.1f} where {against} {expected:.1f}: the "
                "prior does not cover them; lower lr or the step size, or raise energy_lr"
            )
        if norm < 0.5 * expected:
            found.append(
                f"posterior latents have length {norm:.1f} where {against} {expected:.1f}: they "
                "have shrunk; raise table_noise, or use fewer latent numbers"
            )
        return found

    def _praise(self, mean: dict[str, float]) -> str:
        figures = [f"mse {mean['mse']:.3g}", f"|z| {mean['posterior_norm']:.2f}"]
        if "prior_norm" in mean:
            figures.append(f"|z| of the prior {mean['prior_norm']:.2f}")
        if "accept" in mean:
            figures.append(f"acceptance {mean['accept']:.0%}, step {mean['step_size']:.3g}")
        return "healthy: " + ", ".join(figures)
