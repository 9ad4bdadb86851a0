"""Log evidence between a lower and an upper bound: bidirectional Monte Carlo."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import LogDensity
from lv_core.evidence.ais import AisResult, ais, ais_reverse
from lv_core.evidence.path import Base, base_density, draw_base
from lv_core.evidence.tune import tune_path
from lv_core.kernels.base import Kernel

__all__ = ["Sandwich", "bdmc", "bidirectional"]


@runtime_checkable
class Simulate(Protocol):
    """Draws data given latents."""

    def __call__(self, z: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns one draw of p(x | z) for each item of z, shape `(*batch, *event)`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sandwich:
    """The two directions of one annealing path.

    Arguments:
        forward: From the base; its estimate is a lower bound in expectation.
        reverse: From exact draws of the target; its estimate is an upper bound. Neither is one
            for a kernel without a Metropolis rule, see `AisResult.log_z`.
    """

    forward: AisResult
    reverse: AisResult

    @property
    def gap(self) -> Tensor:
        """Upper minus lower estimate, shape `(*batch,)`: about the largest error of either."""
        return self.reverse.log_z.mean - self.forward.log_z.mean

    @property
    def gap_error(self) -> Tensor:
        """Standard error of the gap, shape `(*batch,)`."""
        return torch.hypot(self.forward.log_z.standard_error, self.reverse.log_z.standard_error)


def bidirectional(
    base: Base,
    target: LogDensity,
    samples: Float[Tensor, "chains ..."],
    *,
    kernel: Kernel | None = None,
    betas: Float[Tensor, " n"] | int = 100,
    batch: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
) -> Sandwich:
    """Returns forward and reverse annealing between a base and a target with exact draws.

    Arguments:
        base: Normalised start of the path.
        target: Unnormalised log density.
        samples: Exact draws of the target, shape `(chains, *batch, *event)`; as many chains go
            forward.
        kernel: Reversible Metropolis kernel; None = `Mala` tuned by a pilot, for both directions.
        betas: As in `ais`.
        batch: Shape of the items, as in `ais`.
        generator: Source of randomness.

    Raises:
        ValueError: As `ais` and `ais_reverse`.

    Source:
        Grosse, Ghahramani and Adams, 2015.
    """
    chains = len(samples)
    if kernel is None:
        kernel = tune_path(
            base, target, betas=betas, chains=chains, batch=batch, generator=generator
        )
    return Sandwich(
        forward=ais(
            base,
            target,
            kernel=kernel,
            betas=betas,
            chains=chains,
            batch=batch,
            generator=generator,
        ),
        reverse=ais_reverse(
            base, target, samples, kernel=kernel, betas=betas, generator=generator
        ),
    )


def bdmc(
    prior: Base,
    simulate: Simulate,
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
    *,
    items: int,
    kernel: Kernel | None = None,
    betas: Float[Tensor, " n"] | int = 100,
    chains: int = 16,
    generator: torch.Generator | None = None,
) -> Sandwich:
    """Brackets the log evidence of data simulated from the model itself.

    A latent drawn from the prior is one exact posterior draw given the data simulated from it:
    the reverse chains of an item all start there. The gap tells how well annealing with these
    settings works for data like the model's own; on real data only the forward half is at hand.

    Arguments:
        prior: Base to draw latents from, one event at a time.
        simulate: `simulate(z, generator=...)` draws data for latents `(items, *event)`.
        log_likelihood: `log_likelihood(x, z)` with latents `(chains, items, *event)`, returning
            `(chains, items)`.
        items: Simulated data items.
        kernel: Reversible Metropolis kernel; None = `Mala` tuned by a pilot.
        betas: As in `ais`.
        chains: Chains per item and direction.
        generator: Source of randomness.

    Returns:
        The sandwich per item. Within an item the reverse chains share their start, so the upper
        bound's standard error is too small there; the spread over items is the honest one.

    Raises:
        ValueError: As `ais`.

    Source:
        Grosse, Ancha and Roy, "Measuring the reliability of MCMC inference with bidirectional
        Monte Carlo", 2016.
    """
    z = draw_base(prior, 1, (items,), generator)
    x = simulate(z[0], generator=generator)
    log_prior = base_density(prior)

    def target(u: Tensor) -> Tensor:
        return log_prior(u) + log_likelihood(x, u)

    starts = z.expand(chains, *z.shape[1:]).clone()
    return bidirectional(
        prior, target, starts, kernel=kernel, betas=betas, batch=(items,), generator=generator
    )
