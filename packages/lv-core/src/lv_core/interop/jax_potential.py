"""Targets from potentials written in JAX."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import Evaluation
from lv_core.interop.batching import Batching, check_batching
from lv_core.interop.given_gradient import given_gradient
from lv_core.interop.potential import PotentialTarget
from lv_core.pack import Pack

__all__ = ["JaxPotentialTarget", "load_jax"]


def load_jax() -> Any:  # noqa: ANN401 - a module that may be absent
    """Returns the module jax.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return import_module("jax")
    except ImportError as error:
        raise ImportError(
            "targets of JAX need JAX, which lv-core does not require: pip install jax"
        ) from error


class JaxPotentialTarget(PotentialTarget):
    """A target from a potential written in JAX; arguments as in `from_potential`.

    `evaluate` asks JAX for value and gradient in one compiled call.
    """

    def __init__(
        self,
        potential: Callable[[dict[str, Any]], Any],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        batching: Batching = "vmap",
        constrain: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        jax = load_jax()
        check_batching(batching)
        like = torch.from_numpy(np.zeros(0, dtype=jax.numpy.zeros(0).dtype))
        super().__init__(shapes, like=like)
        split = partial(_split, self.layout)
        self._run = jax.jit(_value_and_gradient(potential, split, batching))
        if constrain is not None:
            every = _over_chains(lambda u: constrain(split(u)), batching)
            self._constrain = _through(jax.jit(every))

    def __call__(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density, minus the potential; differentiable once.

        Raises:
            ValueError: As `evaluate` does.
        """
        return given_gradient(self.evaluate, u)

    def evaluate(self, u: Float[Tensor, "*batch dim"]) -> Evaluation:
        """Returns value and gradient, both by JAX.

        Raises:
            ValueError: If `u` has another length or a dtype in which JAX does not compute, or the
                potential returns no scalar.
        """
        if u.shape[-1:] != (self.dim,):
            raise ValueError(f"u must end in {self.dim} entries, got shape {tuple(u.shape)}")
        value, grad = self._run(to_jax(u.reshape(-1, self.dim)))
        return Evaluation(
            to_torch(value, u).reshape(u.shape[:-1]), to_torch(grad, u).reshape(u.shape), {}
        )


def to_jax(u: Tensor) -> Any:  # noqa: ANN401 - an array of a module that may be absent
    """Returns a copy of a tensor as an array of JAX.

    Raises:
        ValueError: If its dtype is neither float32 nor float64, or is float64 and JAX does not
            compute in it.
    """
    jax = load_jax()
    if u.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"u must be float32 or float64 for a target of JAX, got {u.dtype}")
    # A copy: JAX computes later and might look into a tensor that has changed by then.
    array = jax.numpy.array(u.detach().cpu().numpy())
    if u.dtype == torch.float64 and array.dtype != np.float64:
        raise ValueError(
            "u is float64 but JAX computes in float32: call jax.config.update('jax_enable_x64', "
            "True) before the model is made, or run the chains in float32"
        )
    return array


def to_torch(array: Any, like: Tensor) -> Tensor:  # noqa: ANN401
    """Returns a copy of an array as a tensor; floats get the dtype of `like`, all its device."""
    tensor = torch.from_numpy(np.array(array))
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(device=like.device, dtype=dtype)


def _split(layout: Pack, u: Any) -> dict[str, Any]:  # noqa: ANN401
    blocks, start = {}, 0
    for name, length in layout.lengths.items():
        piece = u[..., start : start + length]
        blocks[name] = piece.reshape((*u.shape[:-1], *layout.shapes[name]))
        start += length
    return blocks


def _value_and_gradient(
    potential: Callable[[dict[str, Any]], Any],
    split: Callable[[Any], dict[str, Any]],
    batching: Batching,
) -> Callable[[Any], tuple[Any, Any]]:
    """Returns the map of points `(n, dim)` to log densities and their gradients."""
    jax = load_jax()

    def log_density(u: Any) -> Any:  # noqa: ANN401
        energy = potential(split(u))
        if jax.numpy.shape(energy) != u.shape[:-1]:
            raise ValueError(
                f"the potential must return shape {u.shape[:-1]} for values with these batch axes "
                f"(() is one chain: sum over all axes), got {jax.numpy.shape(energy)}"
            )
        return -energy

    def native(u: Any) -> tuple[Any, Any]:  # noqa: ANN401
        value, pull = jax.vjp(log_density, u)
        return value, pull(jax.numpy.ones_like(value))[0]

    if batching == "native":
        return native
    return _over_chains(jax.value_and_grad(log_density), batching)


def _over_chains(function: Callable[[Any], Any], batching: Batching) -> Callable[[Any], Any]:
    if batching == "native":
        return function
    jax = load_jax()
    return partial(jax.lax.map, function) if batching == "loop" else jax.vmap(function)


def _through(every: Callable[[Any], dict[str, Any]]) -> Callable[[Tensor], dict[str, Tensor]]:
    """Returns a map of arrays `(n, dim)` as one of tensors with any batch axes."""

    def named(u: Tensor) -> dict[str, Tensor]:
        values = every(to_jax(u.reshape(-1, u.shape[-1])))
        return {
            name: to_torch(value, u).reshape((*u.shape[:-1], *value.shape[1:]))
            for name, value in values.items()
        }

    return named
