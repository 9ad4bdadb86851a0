"""Watching priors that carry noise to latents."""

import torch
from torch import Tensor

from lv_priors.health.base import Health, Means, spread
from lv_priors.transport import TransportPrior

__all__ = ["TransportHealth"]


class TransportHealth(Health):
    """Watches a transport prior: whether the latent still follows the noise.

    Arguments:
        prior: The prior that is watched.
        window: Number of recent updates that the words look at.
        rows: Number of samples from which directions are counted, which costs a singular value
            decomposition.
    """

    def __init__(self, prior: TransportPrior, *, window: int = 50, rows: int = 256) -> None:
        super().__init__(window=window)
        if rows < 2:
            raise ValueError(f"rows must be at least 2, got {rows}")
        self.prior, self.rows = prior, rows

    @torch.no_grad()
    def update(self, u_posterior: Tensor) -> dict[str, float]:
        """Returns the signs at this update; u of shape `(n, *event)`, n at least 2.

        The signs: `std_noise`, `std_latent` (over samples, root mean square over entries), and
        `dead`, the share of directions of the latent, of those that n samples can show, whose
        spread is below a thousandth of the widest.
        """
        z = self.prior.push(u_posterior).flatten(1)
        shown = z[: self.rows]
        # Zeros for non-finite entries, which the decomposition refuses; the spread reports them.
        singular = torch.linalg.svdvals((shown - shown.mean(dim=0)).nan_to_num(0.0, 0.0, 0.0))
        directions = min(len(shown) - 1, shown.shape[1])
        singular = singular[:directions]
        return self._record(
            {
                "std_noise": spread(u_posterior.flatten(1)),
                "std_latent": spread(z),
                "dead": (singular <= 1e-3 * singular[0]).double().mean(),
            }
        )

    def _complaints(self, mean: Means) -> list[str]:
        found = []
        if mean["std_latent"] < 0.01 * mean["std_noise"]:
            found.append(
                f"latents have a standard deviation of {mean['std_latent']:.2g} only: the network "
                "has collapsed to a point; lower its learning rate, or start it as the identity "
                "(UNet1d(residual=True))"
            )
        if mean["dead"] > 0.1:
            found.append(
                f"{mean['dead']:.0%} of the directions of the latent are dead, the noise does not "
                "reach them: use a smaller latent, or start the network as the identity"
            )
        if not 0.5 < mean["std_noise"] < 2.0:
            found.append(
                f"posterior noise is {mean['std_noise']:.2g} times as wide as the prior's: check "
                "temperature and step size of the chain, or whether one term of the posterior "
                "is averaged where it should be summed"
            )
        return found

    def _praise(self, mean: Means) -> str:
        return (
            f"standard deviation {mean['std_noise']:.2f} of the noise, {mean['std_latent']:.2f} "
            f"of the latent, {mean['dead']:.0%} of its directions dead"
        )
