"""Targets from functions of one chain."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from lv_core.interop.batching import Batching, over_chains

__all__ = ["FunctionTarget", "from_log_prob"]


class FunctionTarget:
    """A log density made of a function of one chain by `from_log_prob`."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, batching: Batching, event_ndim: int
    ) -> None:
        if event_ndim < 0:
            raise ValueError(f"event_ndim must not be negative, got {event_ndim}")
        self._over_chains = over_chains(function, batching)
        self.event_ndim = event_ndim

    def __call__(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log density, `(*batch, *event)` to `(*batch,)`.

        Raises:
            ValueError: If `u` has too few axes, or the function returns no scalar.
            RuntimeError: If `torch.vmap` cannot vectorise the function.
        """
        if u.ndim < self.event_ndim:
            raise ValueError(
                f"u must have at least event_ndim={self.event_ndim} axes, got {tuple(u.shape)}"
            )
        batch = u.shape[: u.ndim - self.event_ndim]
        rows = u.reshape((math.prod(batch), *u.shape[u.ndim - self.event_ndim :]))
        return self._over_chains(rows).reshape(batch)


def from_log_prob(
    function: Callable[[Tensor], Tensor], *, batching: Batching = "vmap", event_ndim: int = 1
) -> FunctionTarget:
    """Returns the target of a log density that is written for one chain.

    The form in which hamiltorch and many scripts have it: one vector of parameters to one number.

    Arguments:
        function: Maps one point `(*event,)` to its log density, a scalar tensor.
        batching: `vmap` vectorises the function, `loop` calls it for each chain, `native` hands
            it `(n, *event)` for `(n,)`.
        event_ndim: Number of axes of one point.

    Raises:
        ValueError: If `batching` is unknown or `event_ndim` negative.

    Example:
        >>> target = from_log_prob(lambda w: -0.5 * (x @ w - y).square().sum() - 0.5 * (w @ w))
        >>> trace = kernel.run(target, torch.randn(64, 3), thin=1)
    """
    return FunctionTarget(function, batching=batching, event_ndim=event_ndim)
