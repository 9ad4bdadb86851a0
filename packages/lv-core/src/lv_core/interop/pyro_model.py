"""Targets from models of Pyro."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from lv_core.interop.potential import TorchPotentialTarget

__all__ = ["from_pyro"]


def from_pyro(
    model: Callable[..., Any],
    /,
    *args: Any,  # noqa: ANN401 - whatever the model takes
    batching: Literal["vmap", "loop"] = "vmap",
    **kwargs: Any,  # noqa: ANN401
) -> TorchPotentialTarget:
    """Returns the posterior of a Pyro model as a target for all chains at once.

    Pyro's `initialize_model` says which sites there are and how they are transformed; the value
    is minus the potential energy of Pyro's own samplers, the logarithms of the transforms'
    Jacobian determinants included. The target moves in unconstrained space: `init(n)` gives
    starts, `constrain(u)` the values of all sites by name, deterministic ones among them. Pyro's
    validation is off while the model is evaluated, so that a chain that leaves the support is
    rejected instead of ending the run. The global random state is left as it was.

    Arguments:
        model: The model.
        *args: What the model is called with. Where it has an argument `batching` of its own, bind
            that by `functools.partial`.
        batching: `vmap` vectorises the model over chains. `loop` calls Pyro's own potential for
            each chain: slow, but also for models with discrete sites, which Pyro sums out (their
            deterministic sites are not reported), and for those with branches on values.
        **kwargs: Likewise.

    Raises:
        ImportError: If Pyro is not installed.
        NotImplementedError: If the model subsamples its data.
        ValueError: If the model has no continuous latent site, or `vmap` meets a discrete one.

    Example:
        >>> target = from_pyro(eight_schools, effects, errors)
        >>> adapted = adapt(Nuts(steps=1, step_size=0.1), target, target.init(64))
        >>> trace = adapted.kernel.run(target, adapted.state, steps=500, thin=1)
        >>> target.constrain(trace.u)["theta"]  # (500, 64, 8)
    """
    pyro = _load()
    # The model is run once to see its sites, and draws from the global generators.
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        _, summed, transforms, prototype = import_module("pyro.infer.mcmc.util").initialize_model(
            model, args, kwargs, initial_params={}
        )
    discrete = [n for n, s in prototype.iter_stochastic_nodes() if s["fn"].has_enumerate_support]
    if not transforms:
        raise ValueError(f"the model must have a continuous latent site, got {discrete}")
    if discrete and batching == "vmap":
        raise ValueError(
            f"the model has discrete sites {discrete}, which Pyro sums out in a way that "
            "torch.vmap cannot follow: give batching='loop', or sum them out in the model"
        )
    free = {name: map_(prototype.nodes[name]["value"]) for name, map_ in transforms.items()}

    def conditioned(values: dict[str, Tensor]) -> Any:  # noqa: ANN401
        bound = pyro.poutine.condition(model, values)
        return pyro.poutine.trace(bound).get_trace(*args, **kwargs)

    def inverse(z: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: transforms[name].inv(value) for name, value in z.items()}

    def potential(z: dict[str, Tensor]) -> Tensor:
        with pyro.validation_enabled(False):
            if batching == "loop":
                energy: Tensor = summed(z)
                return energy
            # Not Pyro's own function, which prepares for discrete sites in a way vmap refuses.
            values = inverse(z)
            total: Tensor = conditioned(values).log_prob_sum()
            for name, map_ in transforms.items():
                total = total - map_.log_abs_det_jacobian(values[name], z[name]).sum()
            return -total

    def constrain(z: dict[str, Tensor]) -> dict[str, Tensor]:
        with pyro.validation_enabled(False):
            values = inverse(z)
            if discrete:
                return values
            nodes = conditioned(values).nodes.items()
            made = {n: s for n, s in nodes if s.get("infer", {}).get("_deterministic")}
            return {**values, **{name: site["value"] for name, site in made.items()}}

    return TorchPotentialTarget(
        potential,
        {name: tuple(value.shape) for name, value in free.items()},
        batching=batching,
        like=next(iter(free.values())),
        constrain=constrain,
    )


def _load() -> Any:  # noqa: ANN401 - a module that may be absent
    try:
        return import_module("pyro")
    except ImportError as error:
        raise ImportError(
            "from_pyro needs Pyro, which lv-core does not require: pip install pyro-ppl"
        ) from error
