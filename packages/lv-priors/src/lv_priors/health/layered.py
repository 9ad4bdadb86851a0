"""Watching hierarchies."""

import torch
from torch import Tensor

from lv_priors.health.base import Health, Means, spread
from lv_priors.layered import LayeredPrior

__all__ = ["LayeredHealth"]


class LayeredHealth(Health):
    """Watches a hierarchy: whether each level moves, and what moves it.

    Arguments:
        prior: The prior that is watched.
        window: Number of recent updates that the words look at.
    """

    def __init__(self, prior: LayeredPrior, *, window: int = 50) -> None:
        super().__init__(window=window)
        self.prior = prior

    @torch.no_grad()
    def update(self, u_posterior: Tensor) -> dict[str, float]:
        """Returns the signs at this update; u of shape `(n, total)`, n at least 2.

        The signs of each level: `std/name`, the standard deviation of its latent, and
        `from_above/name`, the share of its variance that its mean given the levels above has.
        """
        layout = self.prior.layout
        z = self.prior.push(u_posterior)
        mean, log_scale = (layout.unpack(part) for part in self.prior.moments(z))
        signs = {}
        for name, latent in layout.unpack(z).items():
            above = mean[name].var(dim=0).mean()
            own = (2 * log_scale[name]).exp().mean()
            signs[f"std/{name}"] = spread(latent.flatten(1))
            signs[f"from_above/{name}"] = above / (above + own)
        return self._record(signs)

    def _complaints(self, mean: Means) -> list[str]:
        names = list(self.prior.layout.shapes)
        widest = max(mean[f"std/{name}"] for name in names)
        found = []
        for name in names:
            share = mean[f"from_above/{name}"]
            if mean[f"std/{name}"] < 0.01 * widest:
                found.append(
                    f"level {name!r} has collapsed to a point (standard deviation "
                    f"{mean[f'std/{name}']:.2g}): give it a fixed scale or drop it"
                )
            elif share > 0.99:
                found.append(
                    f"the noise of level {name!r} is dead, {share:.1%} of its variance comes from "
                    "above: raise its scale or drop it"
                )
            elif name != names[0] and share < 0.01:
                found.append(
                    f"level {name!r} ignores the levels above, which make {share:.1%} of its "
                    "variance: they are dead unless the decoder uses them itself"
                )
        return found

    def _praise(self, mean: Means) -> str:
        names = list(self.prior.layout.shapes)[1:]
        shares = ", ".join(f"{mean[f'from_above/{n}']:.0%} of {n}" for n in names)
        return f"levels move, from above: {shares or 'nothing, a single level'}"
