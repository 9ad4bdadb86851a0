"""The no-U-turn samplers that `nuts.py` compares, each with its own adaptation."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from lv_core import Adapted, Hmc, LogDensity, Nuts, adapt, stream
from lv_core.diagnostics import ess_bulk
from lv_core.targets import Autoregression, EightSchools

__all__ = ["OURS", "TARGETS", "Result", "Version", "installed"]

CHAINS = 64
TARGETS: Mapping[str, tuple[str, type]] = {
    "eight_schools": ("Eight schools, non-centred (10 dimensions)", EightSchools),
    "autoregression": ("Autoregression of order 7 (9 dimensions)", Autoregression),
}
OURS = f"lv Nuts, {CHAINS} chains"
clock = time.process_time


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of one library: CPU seconds and draws.

    Arguments:
        warmup: Seconds of adaptation.
        sampling: Seconds of sampling.
        leapfrogs: Mean gradient evaluations of one transition of one chain.
        compilation: Seconds of compilation, contained in neither of the others.
        draws: Every scalar of the model, shape `(draws, chains, scalars)`.
    """

    warmup: float
    sampling: float
    leapfrogs: float
    compilation: float = 0.0
    draws: Tensor

    @property
    def ess(self) -> float:
        """The smallest bulk effective sample size of all scalars."""
        return ess_bulk(self.draws).min().item()


Version = Callable[[int], Result]
"""Adapts and samples with the given seed."""


def installed(name: str, warmup: int, draws: int) -> dict[str, Version]:
    """Returns the installed versions; ours comes first."""
    found = {
        OURS: ours(name, warmup, draws, CHAINS),
        "lv Nuts, 1 chain": ours(name, warmup, draws, 1),
    }
    if find_spec("numpyro"):
        found[f"NumPyro NUTS, {CHAINS} chains"] = numpyro(name, warmup, draws)
    if find_spec("pyro"):
        found["Pyro NUTS, 1 chain"] = pyro(name, warmup, draws)
    return found


def ours(name: str, warmup: int, draws: int, chains: int) -> Version:
    """Returns our sampler with its own adaptation."""
    target = TARGETS[name][1]()

    def version(seed: int) -> Result:
        generator = stream(seed, "nuts", chains)
        u = torch.empty(chains, target.dim, dtype=torch.float64).normal_(generator=generator)
        begin = clock()
        adapted = tuned(target, u, warmup, draws, generator)
        middle = clock()
        trace = adapted.kernel.run(target, adapted.state, generator=generator, thin=1)
        end = clock()
        return Result(
            warmup=middle - begin,
            sampling=end - middle,
            leapfrogs=trace.stats["leapfrogs"].double().mean().item(),
            draws=flat(target.named(trace.u)),
        )

    return version


def tuned(
    target: LogDensity, u: Tensor, warmup: int, draws: int, generator: torch.Generator
) -> Adapted:
    """Returns our kernel after `warmup` steps, in the three stages that far starts need.

    A step size for each chain brings all of them near, short trajectories learn the scales, then
    the kernel itself is tuned.
    """
    short = Hmc(steps=1, step_size=0.1, leapfrog=5)
    first, last = 3 * warmup // 10, 3 * warmup // 10
    near = adapt(short, target, u, steps=first, per_chain=True, scale=False, generator=generator)
    middle = warmup - first - last
    rough = adapt(short, target, near.state, steps=middle, generator=generator)
    kernel = Nuts(steps=draws, step_size=rough.kernel.step_size)
    return adapt(kernel, target, rough.state, steps=last, generator=generator)


def numpyro(name: str, warmup: int, draws: int) -> Version:
    """Returns NumPyro's sampler on all chains at once; its model is that of `references.py`.

    `MCMC(chain_method="vectorized")` runs the same two loops, but compiles them anew in every
    call; here they are compiled once, ahead of time.
    """
    import jax
    from numpyro.infer import NUTS

    from benchmarks.references import MODELS, data_of

    data, wanted = data_of(name), TARGETS[name][1]().named(torch.zeros(TARGETS[name][1].dim))
    first = NUTS(MODELS[name][0])

    def start(kernel: NUTS, seed: int):  # noqa: ANN202 - a state of NumPyro
        keys = jax.random.split(jax.random.PRNGKey(seed), CHAINS)
        return kernel.init(keys, warmup, None, model_args=data, model_kwargs={})

    def move(state):  # noqa: ANN001, ANN202
        return first.sample(state, data, {})

    def adapting(state):  # noqa: ANN001, ANN202
        return jax.lax.fori_loop(0, warmup, lambda _, s: move(s), state)

    def sampling(state):  # noqa: ANN001, ANN202
        def one(state, _):  # noqa: ANN001, ANN202
            state = move(state)
            return state, (state.z, state.num_steps)

        return jax.lax.scan(one, state, length=draws)[1]

    state = start(first, 0)
    begin = clock()
    adapting = jax.jit(adapting).lower(state).compile()
    sampling = jax.jit(sampling).lower(state).compile()
    compilation = clock() - begin
    constrained = jax.vmap(jax.vmap(first.postprocess_fn(data, {})))

    def version(seed: int) -> Result:
        # A kernel of its own, as `init` may be called once; not timed, as it compiles.
        state = jax.block_until_ready(start(NUTS(MODELS[name][0]), seed))
        begin = clock()
        state = jax.block_until_ready(adapting(state))
        middle = clock()
        z, leapfrogs = jax.block_until_ready(sampling(state))
        end = clock()
        found = constrained(z)
        return Result(
            warmup=middle - begin,
            sampling=end - middle,
            compilation=compilation,
            leapfrogs=float(leapfrogs.mean()),
            draws=flat({key: torch.from_numpy(np.array(found[key])) for key in wanted}),
        )

    return version


def pyro(name: str, warmup: int, draws: int) -> Version:
    """Returns Pyro's sampler on our log density, which spares it the handlers of its models."""
    import pyro as library
    from pyro.infer.mcmc import MCMC, NUTS

    target = TARGETS[name][1]()

    def version(seed: int) -> Result:
        library.set_rng_seed(seed)
        evaluations, marks = [0], {}

        def potential(z: dict[str, Tensor]) -> Tensor:
            evaluations[0] += 1
            return -target(z["u"])

        def hook(kernel, samples, stage: str, step: int) -> None:  # noqa: ANN001
            if stage == "Warmup" and step == warmup - 1:
                marks["middle"] = (clock(), evaluations[0])

        mcmc = MCMC(
            NUTS(potential_fn=potential),
            num_samples=draws,
            warmup_steps=warmup,
            initial_params={"u": torch.randn(target.dim, dtype=torch.float64)},
            hook_fn=hook,
            disable_progbar=True,
        )
        begin = clock()
        mcmc.run()
        end = clock()
        middle, before = marks["middle"]
        return Result(
            warmup=middle - begin,
            sampling=end - middle,
            leapfrogs=(evaluations[0] - before) / draws,
            draws=flat(target.named(mcmc.get_samples()["u"][:, None])),
        )

    return version


def flat(named: Mapping[str, Tensor]) -> Tensor:
    """Returns named quantities `(draws, chains, ...)` as one tensor `(draws, chains, scalars)`."""
    first = next(iter(named.values()))
    return torch.cat([value.reshape(*first.shape[:2], -1) for value in named.values()], dim=-1)
