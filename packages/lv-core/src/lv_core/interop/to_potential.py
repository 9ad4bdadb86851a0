"""Log densities as potentials for the samplers of Pyro and NumPyro."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lv_core.density import LogDensity, check_batch_shape, value_and_grad
from lv_core.interop.given_gradient import given_gradient
from lv_core.interop.jax_potential import load_jax
from lv_core.pack import Pack

__all__ = ["Potential", "to_jax_potential", "to_potential"]


@dataclass(frozen=True)
class Potential:
    """Minus a log density, of named values of one chain; made by `to_potential`.

    A record, so that samplers can send it to other processes.
    """

    log_density: LogDensity
    layout: Pack

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Returns the potential energy, `(*batch,)`, of values `(*batch, *shape)`."""
        u = self.layout.pack(values)
        # Networks may insist on a batch axis.
        points = u.reshape(-1, self.layout.total)
        own = getattr(self.log_density, "evaluate", None)
        value = self.log_density(points) if own is None else given_gradient(own, points)
        check_batch_shape(value, points)
        return -value.reshape(u.shape[:-1])


def to_potential(log_density: LogDensity, shapes: Mapping[str, tuple[int, ...]]) -> Potential:
    """Returns a log density over flat vectors as a potential of named values, for Pyro.

    Pyro wants one chain and a scalar: `NUTS(potential_fn=...)` with
    `MCMC(..., initial_params={name: tensor of the shape given})`. Pyro knows nothing of
    constraints then; apply them to its samples.

    Arguments:
        log_density: Maps `(n, total)` to `(n,)`.
        shapes: Name to shape of each value, in the order in which they lie in the vector.

    Raises:
        ValueError: If there is no block.

    Example:
        >>> kernel = pyro.infer.NUTS(potential_fn=to_potential(target, {"u": (10,)}))
        >>> mcmc = pyro.infer.MCMC(kernel, 500, initial_params={"u": torch.zeros(10)})
    """
    return Potential(log_density, Pack({name: tuple(shape) for name, shape in shapes.items()}))


def to_jax_potential(
    log_density: LogDensity,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    device: torch.device | str = "cpu",
) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a log density of torch as a potential that JAX can trace, for NumPyro.

    JAX cannot look into torch: its compiled loop calls back for every value and gradient, on the
    host. So this suits densities that cost more than the call, in NumPyro's NUTS and HMC. Chains
    that JAX vectorises come as one batch (`chain_method="vectorized"`). Second derivatives and
    forward mode are not available, and gradients of torch parameters are left alone.

    Arguments:
        log_density: Maps `(n, total)` to `(n,)`.
        shapes: Name to shape of each value, in the order in which they lie in the vector.
        device: Where the log density computes.

    Raises:
        ImportError: If JAX is not installed.
        ValueError: If there is no block.

    Example:
        >>> kernel = numpyro.infer.NUTS(potential_fn=to_jax_potential(target, {"u": (10,)}))
        >>> mcmc = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=500)
        >>> mcmc.run(jax.random.PRNGKey(0), init_params={"u": jnp.zeros(10)})
    """
    jax = load_jax()
    layout = Pack({name: tuple(shape) for name, shape in shapes.items()})

    def on_host(u: Any) -> tuple[Any, Any]:  # noqa: ANN401 - arrays of JAX
        array = np.array(u)
        points = torch.from_numpy(array).to(device).reshape(-1, layout.total)
        value, grad, _ = value_and_grad(log_density, points)
        energy = -value.cpu().numpy().astype(array.dtype).reshape(array.shape[:-1])
        return energy, -grad.cpu().numpy().astype(array.dtype).reshape(array.shape)

    def both(u: Any) -> tuple[Any, Any]:  # noqa: ANN401
        result = (jax.ShapeDtypeStruct((), u.dtype), jax.ShapeDtypeStruct(u.shape, u.dtype))
        pair: tuple[Any, Any] = jax.pure_callback(on_host, result, u, vmap_method="expand_dims")
        return pair

    energy = jax.custom_vjp(lambda u: both(u)[0])
    energy.defvjp(both, lambda grad, upper: (upper * grad,))

    def potential(values: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if set(values) != set(layout.shapes):
            raise ValueError(f"values must be {list(layout.shapes)}, got {list(values)}")
        pieces = [jax.numpy.reshape(values[name], -1) for name in layout.shapes]
        return energy(jax.numpy.concatenate(pieces))

    return potential
