"""The joint distribution test of posterior samplers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.diagnostics.convergence import mcse_mean
from lv_core.random import Source

__all__ = ["JointTest", "geweke_joint_test"]


class JointTest(NamedTuple):
    """Two estimates of the same expectations, and their difference in standard errors.

    `z` is approximately standard normal where the transition leaves the posterior invariant;
    `marginal` and `successive` are the estimates by the two simulators.
    """

    z: Float[Tensor, " statistics"]
    marginal: Float[Tensor, " statistics"]
    successive: Float[Tensor, " statistics"]


def geweke_joint_test(
    prior: Callable[..., Tensor],
    simulate: Callable[..., Tensor],
    transition: Callable[..., Tensor],
    *,
    statistics: Callable[[Tensor, Tensor], Tensor] | None = None,
    chains: int = 100,
    draws: int = 200,
    generator: Source = None,
) -> JointTest:
    """Returns whether a transition leaves the posterior invariant, by Geweke's joint test.

    Two ways to the joint distribution of parameters z and data x: directly, z from the prior and
    x from the likelihood; and in turns, z from the transition given x, x from the likelihood
    given z. Both have the same expectations exactly if the transition leaves p(z | x) invariant;
    it need not mix, a single step per turn will do. Finds errors (a wrong noise scale, a missing
    Metropolis term) that look like a plausible posterior.

    Arguments:
        prior: Called as `prior(n, generator=...)`; returns parameters `(n, *event)`.
        simulate: Called as `simulate(z, generator=...)`; returns data `(n, *data)`.
        transition: Called as `transition(z, x, generator=...)`; returns new parameters.
        statistics: Maps `(z, x)` to `(n, statistics)`; None = every coordinate of z and its
            square.
        chains: Number of parallel successions, at least two.
        draws: Number of turns of each, at least eight.
        generator: Source of all randomness.

    Raises:
        ValueError: If `chains` or `draws` is too small, or the statistics are not a matrix with
            one row per chain.

    Source:
        Geweke, "Getting it right: joint distribution tests of posterior simulators", 2004.
    """
    if chains < 2 or draws < 8:
        raise ValueError(f"need chains >= 2 and draws >= 8, got {chains=}, {draws=}")
    measure = _moments if statistics is None else statistics
    z = prior(chains * draws, generator=generator)
    direct = measure(z, simulate(z, generator=generator))
    if direct.ndim != 2 or len(direct) != chains * draws:
        raise ValueError(
            f"statistics must return shape (n, statistics) for n = {chains * draws} pairs, got "
            f"{tuple(direct.shape)}"
        )
    # Starting from the joint itself needs no burn-in: only a wrong transition leaves it.
    z = prior(chains, generator=generator)
    rows = []
    for _ in range(draws):
        x = simulate(z, generator=generator)
        z = transition(z, x, generator=generator)
        rows.append(measure(z, x))
    turns = torch.stack(rows).double()
    direct = direct.double()
    variance = direct.var(0) / len(direct) + mcse_mean(turns).square()
    marginal, successive = direct.mean(0), turns.mean((0, 1))
    return JointTest((successive - marginal) / variance.sqrt(), marginal, successive)


def _moments(z: Tensor, x: Tensor) -> Tensor:
    flat = z.flatten(1)
    return torch.cat((flat, flat.square()), dim=1)
