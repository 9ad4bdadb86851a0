"""What watchers of all priors share."""

import math
from abc import ABC, abstractmethod
from collections import deque

import torch
from torch import Tensor

__all__ = ["Health", "Means", "spread"]

Means = dict[str, float]
"""Name of a sign to its value, or to its mean over the recent updates."""


class Health(ABC):
    """What watchers of all priors share: signs of recent updates, kept and put into words.

    Arguments:
        window: Number of recent updates that the words look at.

    Raises:
        ValueError: If `window` is below 2.
    """

    def __init__(self, *, window: int = 50) -> None:
        if window < 2:
            raise ValueError(f"window must be at least 2, got {window}")
        self._recent: deque[Means] = deque(maxlen=window)

    @abstractmethod
    def _complaints(self, mean: Means) -> list[str]:
        """Returns what the means of the recent signs say against the prior, worst first."""

    @abstractmethod
    def _praise(self, mean: Means) -> str:
        """Returns the figures that go with a healthy prior."""

    def _record(self, signs: dict[str, Tensor]) -> Means:
        # One synchronisation for all signs.
        values = torch.stack([sign.double() for sign in signs.values()]).tolist()
        record = dict(zip(signs, values, strict=True))
        self._recent.append(record)
        return record

    def state_dict(self) -> dict[str, list[Means]]:
        """Returns the recent signs, for a checkpoint."""
        return {"recent": [dict(record) for record in self._recent]}

    def load_state_dict(self, state: dict[str, list[Means]]) -> None:
        """Goes on from the signs that `state_dict` returned."""
        self._recent.clear()
        self._recent.extend(dict(record) for record in state["recent"])

    def words(self) -> list[str]:
        """Returns what the recent updates say, worst first; one line each."""
        if not self._recent:
            return ["no update has been seen yet"]
        sound = [r for r in self._recent if all(map(math.isfinite, r.values()))]
        lost, found = len(self._recent) - len(sound), []
        if lost:
            found.append(
                f"a sign is not finite in {lost} of the last {len(self._recent)} updates: the "
                "prior has diverged; go back to a checkpoint and lower its learning rate or the "
                "step size of its chain"
            )
        # NaN compares as false with every bound, which would hide other complaints.
        if not sound:
            return found
        mean = {k: sum(r[k] for r in sound) / len(sound) for k in sound[0]}
        found += self._complaints(mean)
        return found or [f"healthy: {self._praise(mean)}"]


def spread(x: Tensor) -> Tensor:
    """Returns the standard deviation over the first axis, root mean square over the others."""
    return x.var(dim=0).mean().sqrt()
