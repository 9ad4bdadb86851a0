"""Targets from models of NumPyro."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from lv_core.interop.jax_potential import JaxPotentialTarget, load_jax

__all__ = ["from_numpyro"]


def from_numpyro(
    model: Callable[..., Any],
    /,
    *args: Any,  # noqa: ANN401 - whatever the model takes
    batching: Literal["vmap", "loop"] = "vmap",
    **kwargs: Any,  # noqa: ANN401
) -> JaxPotentialTarget:
    """Returns the posterior of a NumPyro model as a target, value and gradient by JAX.

    NumPyro's `initialize_model` gives the potential energy, the one of its own samplers. The
    target moves in unconstrained space: `init(n)` gives starts, `constrain(u)` the values of all
    sites by name, deterministic ones among them. What passes between JAX and torch, and in which
    precision, is told at `from_potential`.

    Arguments:
        model: The model.
        *args: What the model is called with. Where it has an argument `batching` of its own, bind
            that by `functools.partial`.
        batching: `vmap` vectorises the model over chains; `loop` takes one after the other within
            one compiled loop, for models that fill the memory.
        **kwargs: Likewise.

    Raises:
        ImportError: If NumPyro is not installed.
        RuntimeError: If NumPyro finds no point of finite density.
        ValueError: If the model has no continuous latent site.

    Example:
        >>> target = from_numpyro(eight_schools, effects, errors)
        >>> adapted = adapt(Nuts(steps=1, step_size=0.1), target, target.init(64))
        >>> trace = adapted.kernel.run(target, adapted.state, steps=500, thin=1)
        >>> target.constrain(trace.u)["theta"]  # (500, 64, 8)
    """
    jax, util = load_jax(), _load()
    # The key serves a first look at the model alone; starts are drawn by `init`.
    found = util.initialize_model(
        jax.random.PRNGKey(0),
        model,
        model_args=args,
        model_kwargs=kwargs,
        validate_grad=False,  # `init` looks at gradients, compiled
    )
    free = found.param_info.z
    if not free:
        raise ValueError("the model must have a continuous latent site, got none")
    # In the order of the model, which JAX sorts.
    shapes = {name: tuple(free[name].shape) for name in found.model_trace if name in free}
    return JaxPotentialTarget(
        found.potential_fn, shapes, batching=batching, constrain=found.postprocess_fn
    )


def _load() -> Any:  # noqa: ANN401 - a module that may be absent
    try:
        return import_module("numpyro.infer.util")
    except ImportError as error:
        raise ImportError(
            "from_numpyro needs NumPyro, which lv-core does not require: pip install numpyro"
        ) from error
