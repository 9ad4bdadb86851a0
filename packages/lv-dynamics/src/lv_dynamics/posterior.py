"""What inference found: chains, their scores, and whether to believe them.

R restarts of a chain for each of B sequences, S kept states of each, D = d + q latent numbers.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lv_core.diagnostics import rhat

__all__ = ["Posterior"]

_ENOUGH_DRAWS = 10  # of each chain for R-hat to mean anything


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Samples of the latents of B sequences given what was observed of them."""

    z: Float[Tensor, "restarts batch dim"]
    """end points of the noise-free polish: local maxima of the posterior"""
    log_density: Float[Tensor, "restarts batch"]
    """log p(x, z) there, up to the prior's constant; the score of a restart"""
    log_likelihood: Float[Tensor, "restarts batch"]
    """log p(x | z) there"""
    misfit: Float[Tensor, "restarts batch"]
    """mean squared residual there, over observed entries alone, in the data's squared units"""
    weights: Float[Tensor, "restarts batch"]
    """weight of each restart; they sum to one for each sequence"""
    draws: Float[Tensor, "draws restarts batch dim"]
    """states of the chains: samples where `exact`; else one each, before the polish"""
    exact: bool
    """whether `draws` come from a kernel that leaves the posterior invariant, with fixed steps"""
    accept: Float[Tensor, "restarts batch"]
    """mean acceptance at the end of each chain"""
    step_size: Float[Tensor, "restarts batch"]
    """last step size s of each chain: small where the posterior is sharp"""
    rise: Float[Tensor, "restarts batch"]
    """growth of the mean log density from the third to the last quarter of the last stage"""
    moved: Bool[Tensor, "restarts batch"]
    """chains whose start or a later stage had no finite density and was pulled towards zero"""
    observed: Float[Tensor, " batch"]
    """number of observed entries"""
    state: int
    """numbers d of the dynamic state; the rest of a latent is static"""

    @property
    def restarts(self) -> int:
        """Number R of chains of a sequence."""
        return self.z.shape[0]

    def __len__(self) -> int:
        """Returns the number of sequences."""
        return self.z.shape[1]

    def best(self) -> Float[Tensor, "batch dim"]:
        """Returns for each sequence the restart of the highest score."""
        index = self.log_density.argmax(0)
        return self.z.gather(0, index[None, :, None].expand(1, -1, self.z.shape[-1]))[0]

    def samples(self, most: int | None = None) -> Float[Tensor, "samples batch dim"]:
        """Returns draws of all chains, chains innermost, shape `(S' R, B, D)`.

        Arguments:
            most: Largest number of states of a chain, evenly spaced from the last; None = all.

        Raises:
            ValueError: If `most` is not positive.
        """
        if most is not None and most < 1:
            raise ValueError(f"most must be positive, got {most}")
        count = len(self.draws)
        taken = count if most is None else min(most, count)
        last = torch.arange(taken, device=self.draws.device)
        kept = self.draws[count - 1 - (last * count) // taken]
        return kept.flatten(0, 1)

    def sample_weights(self, most: int | None = None) -> Float[Tensor, "samples batch"]:
        """Returns the weights of `samples(most)`; they sum to one for each sequence."""
        kept = len(self.samples(most)) // self.restarts
        return (self.weights / kept).repeat(kept, 1)

    def mean(self) -> Float[Tensor, "batch dim"]:
        """Returns the weighted mean of the draws."""
        return (self.sample_weights()[..., None] * self.samples()).sum(0)

    @property
    def z_s(self) -> Float[Tensor, "batch static"]:
        """Posterior means of the static variables, which recover a sequence's constants."""
        return self.mean()[:, self.state :]

    def __getitem__(self, index: Tensor | slice) -> "Posterior":
        """Returns the posteriors of some sequences."""
        batch_axis = {n: t.ndim - 1 for n, t in self._tensors().items() if n not in ("z", "draws")}
        batch_axis |= {"z": 1, "draws": 2}
        picked = {
            name: tensor[(slice(None),) * batch_axis[name] + (index,)]
            for name, tensor in self._tensors().items()
        }
        return replace(self, **picked)  # type: ignore[arg-type]

    @classmethod
    def cat(cls, parts: "list[Posterior]") -> "Posterior":
        """Returns the posteriors of several batches of sequences as one.

        Raises:
            ValueError: If there is none.
        """
        if not parts:
            raise ValueError("parts must hold at least one posterior, got none")
        axis = {"z": 1, "draws": 2, "observed": 0}
        joined = {
            name: torch.cat([part._tensors()[name] for part in parts], axis.get(name, 1))
            for name in parts[0]._tensors()
        }
        return replace(parts[0], **joined)  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    def report(self) -> list[str]:
        """Returns in words what casts doubt on the chains; empty if nothing was found.

        The absence of a complaint proves nothing: a mode that no restart visited is not missed.
        """
        total, found = self.accept.numel(), []
        low = int((self.accept < 0.2).sum())
        if low > 0.1 * total:
            found.append(
                f"{low} of {total} chains accept less than 20 % of their proposals: take more "
                "steps, so that the step sizes can adapt, or a smaller step_size"
            )
        # The log density of a Gaussian in D dimensions has the standard deviation sqrt(D / 2).
        spread = math.sqrt(self.z.shape[-1] / 2)
        rising = int((self.rise > 2 * spread).sum())
        if rising > 0.05 * total:
            found.append(
                f"{rising} of {total} chains still climb at the end (more than {2 * spread:.1f} "
                "nats from one quarter to the next): they are not stationary, take more steps"
            )
        if self.exact and len(self.draws) >= _ENOUGH_DRAWS and self.restarts > 1:
            found += self._disagreement(rhat(self.draws).amax(-1))
        share = (self.log_density > self.log_density.amax(0) - 2 * spread).double().mean(0)
        alone = int((share <= 1 / self.restarts).sum()) if self.restarts > 2 else 0
        if alone > 0.2 * len(self):
            found.append(
                f"in {alone} of {len(self)} sequences only one restart of {self.restarts} reached "
                "the best score found: take more restarts, as better ones may exist"
            )
        if pulled := int(self.moved.sum()):
            found.append(
                f"{pulled} of {total} chains met a diverging solve and were pulled towards zero: "
                "the dynamics are unstable where the prior has mass"
            )
        return found

    def _disagreement(self, worst: Tensor) -> list[str]:
        apart = (worst > 1.1).nonzero().flatten().tolist()
        if not apart:
            return []
        shown = ", ".join(map(str, apart[:5])) + (" .." if len(apart) > 5 else "")
        return [
            f"the restarts of {len(apart)} of {len(self)} sequences disagree (R-hat up to "
            f"{float(worst.max()):.2f}; sequences {shown}): several modes, or too few draws"
        ]
