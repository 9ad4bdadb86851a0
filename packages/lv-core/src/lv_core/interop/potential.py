"""Targets from potentials: functions of named unconstrained values of one chain."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.interop.batching import Batching, over_chains
from lv_core.interop.starts import finite_starts
from lv_core.pack import Pack
from lv_core.random import Source

__all__ = ["PotentialTarget", "TorchPotentialTarget", "from_potential"]


class PotentialTarget(ABC):
    """A log density of one flat unconstrained vector that stands for named values.

    A log density for every kernel, and the way between vectors and names: `unpack` and `pack` for
    the unconstrained values, `constrain` for those the model speaks of.

    Arguments:
        shapes: Name to unconstrained shape, in the order in which they lie in the vector.
        like: Tensor of the dtype and device that starts get; None = torch's defaults.
        constrain: Maps points `(*batch, dim)` to the model's own values, each `(*batch, *shape)`;
            None = the unconstrained values.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        like: Tensor | None = None,
        constrain: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        self.layout = Pack({name: tuple(shape) for name, shape in shapes.items()})
        self._like = torch.empty(0) if like is None else like
        self._constrain = constrain

    @abstractmethod
    def __call__(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density, minus the potential."""

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return self.layout.total

    def pack(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*batch dim"]:
        """Returns unconstrained values `(*batch, *shape)` as flat vectors."""
        return self.layout.pack(values)

    def unpack(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns the unconstrained values by name, each `(*batch, *shape)`."""
        return self.layout.unpack(u)

    @torch.no_grad()
    def constrain(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns the values by name in the model's own space, detached.

        Example:
            >>> to_arviz(trace, split=target.constrain)
        """
        return self.unpack(u) if self._constrain is None else self._constrain(u)

    def init(
        self, n: int, *, radius: float = 2.0, generator: Source = None
    ) -> Float[Tensor, "n dim"]:
        """Returns starts of `n` chains, uniform on `(-radius, radius)`, of finite density.

        Raises:
            ValueError: If `n` or `radius` is not positive, or no such starts are found.
        """
        return finite_starts(
            self, n, (self.dim,), radius=radius, like=self._like, generator=generator
        )

    def __repr__(self) -> str:
        """Shows the names and shapes."""
        return f"{type(self).__name__}({dict(self.layout.shapes)})"


class TorchPotentialTarget(PotentialTarget):
    """A target from a potential written in torch; arguments as in `from_potential`.

    Arguments:
        like: Tensor of the dtype and device that starts get; None = torch's defaults.
    """

    def __init__(
        self,
        potential: Callable[[dict[str, Tensor]], Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        batching: Batching = "vmap",
        like: Tensor | None = None,
        constrain: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(shapes, like=like)
        self._energy = over_chains(lambda u: potential(self.layout.unpack(u)), batching)
        if constrain is not None:
            self._constrain = _named(self.layout, constrain, batching)

    def __call__(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log density, minus the potential.

        Raises:
            ValueError: If `u` has another length, or the potential returns no scalar.
            RuntimeError: If `torch.vmap` cannot vectorise the potential.
        """
        return -self._energy(u.reshape(-1, u.shape[-1])).reshape(u.shape[:-1])


def from_potential(
    potential: Callable[[dict[str, Any]], Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    framework: Literal["torch", "jax"] = "torch",
    batching: Batching = "vmap",
    constrain: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> PotentialTarget:
    """Returns the target whose potential energy (minus log density) is given.

    A potential is what samplers of Pyro and NumPyro take: it maps the named unconstrained values
    of ONE chain to a scalar that is small where the target is probable. Here it serves all chains
    at once.

    A JAX potential is compiled once for each number of chains. Points, values and gradients pass
    between the frameworks as NumPy arrays on the host; the autograd graph of torch sees the
    gradient (so `Sum`, tempering and annealing work), but not what is behind it: no second
    derivatives, no gradients of parameters, no `torch.compile`. For float64, JAX must be set to
    it, as it otherwise computes in float32.

    Arguments:
        potential: Maps a dict of values, each of the shape given, to a scalar.
        shapes: Name to shape of each unconstrained value, `()` for a number.
        framework: Whether the potential computes with tensors of torch or arrays of JAX.
        batching: `vmap` vectorises the potential. With `native` it takes values of shape
            `(n, *shape)` itself and returns `(n,)`. With `loop` it is called for each chain: slow,
            for potentials that cannot be vectorised.
        constrain: Maps the unconstrained values of one chain (of n chains with `native`) to those
            the model speaks of, in the same framework; None = the identity.

    Raises:
        ImportError: If `framework` is "jax" and JAX is not installed.
        ValueError: If there is no block, or `framework` or `batching` is unknown.

    Example:
        >>> def potential(z):
        ...     spread = z["log_tau"].exp()
        ...     return 0.5 * z["log_tau"] ** 2 + 0.5 * (z["theta"] / spread).square().sum() + (
        ...         8 * z["log_tau"]
        ...     )
        >>> target = from_potential(potential, {"log_tau": (), "theta": (8,)})
        >>> adapted = adapt(Nuts(steps=1, step_size=0.1), target, target.init(64))
    """
    if framework == "jax":
        from lv_core.interop.jax_potential import JaxPotentialTarget

        return JaxPotentialTarget(potential, shapes, batching=batching, constrain=constrain)
    if framework != "torch":
        raise ValueError(f"framework must be 'torch' or 'jax', got {framework!r}")
    return TorchPotentialTarget(potential, shapes, batching=batching, constrain=constrain)


def _named(
    layout: Pack, constrain: Callable[[dict[str, Tensor]], dict[str, Tensor]], batching: Batching
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Returns a map of the values of one chain as a map of flat points with any batch axes."""

    def one(u: Tensor) -> dict[str, Tensor]:
        return constrain(layout.unpack(u))

    def every(u: Tensor) -> dict[str, Tensor]:
        rows = u.reshape(-1, u.shape[-1])
        if batching == "native":
            values = one(rows)
        elif batching == "vmap":
            values = torch.vmap(one)(rows)
        else:
            found = [one(row) for row in rows]
            values = {name: torch.stack([value[name] for value in found]) for name in found[0]}
        return {n: v.reshape((*u.shape[:-1], *v.shape[1:])) for n, v in values.items()}

    return every
