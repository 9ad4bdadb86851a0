"""Vector fields: perceptrons that give the velocity of a latent state."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FieldActivation", "VectorField"]

FieldActivation = Literal["softplus", "tanh", "silu", "elu", "gelu"]
"""Activations with a continuous derivative; kinks cost a solver its order."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
}


class VectorField(nn.Module):
    """Autonomous velocity of a latent state, given what does not change along a sequence.

    First order:  dy/dt = net([y, s]).
    Second order: y = [position, velocity], dy/dt = [velocity, net([y, s])].

    Arguments:
        state: Width d of the state; even for second order.
        static: Width q of the static part s; 0 = none.
        hidden: Widths of the hidden layers.
        activation: A smooth one; solvers lose their order at kinks.
        order: Of the differential equation.
        zero_last: Starts with a last layer of zeros: the flow that stands still (first order) or
            moves straight on (second order).

    Raises:
        ValueError: If a width is not positive, `state` is odd for second order, or the activation
            or the order is unknown.

    Source:
        Sizes and activations of Auzina et al., "Modulated Neural ODEs", 2023.

    Example:
        >>> field = VectorField(4, static=2)
        >>> start, static = torch.randn(8, 4), torch.randn(8, 2)
        >>> states = solve(field, start, torch.arange(50) * 0.1, static=static)
    """

    def __init__(
        self,
        state: int,
        *,
        static: int = 0,
        hidden: Sequence[int] = (100, 100),
        activation: FieldActivation = "softplus",
        order: Literal[1, 2] = 1,
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        if state < 1 or static < 0 or min(hidden, default=1) < 1:
            raise ValueError(
                "state and the widths in hidden must be positive and static not negative, got "
                f"state {state}, hidden {tuple(hidden)}, static {static}"
            )
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        if order == 2 and state % 2:
            raise ValueError(
                f"state must be even for order 2 ([position, velocity]), got state {state}"
            )
        if activation not in _ACTIVATIONS:
            known = ", ".join(get_args(FieldActivation))
            raise ValueError(f"unknown activation {activation!r}; there are: {known}")
        self.state, self.static, self.order = state, static, order
        self.activation: FieldActivation = activation
        sizes = (state + static, *hidden, state // order)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
        self.network = nn.Sequential(*layers[:-1])
        if zero_last:
            last = self.linear[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @property
    def linear(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in self.network if isinstance(layer, nn.Linear)]

    def forward(
        self,
        y: Float[Tensor, "*batch state"],
        static: Float[Tensor, "*batch static"] | None = None,
    ) -> Float[Tensor, "*batch state"]:
        """Returns dy/dt.

        Arguments:
            y: States; for order 2 `[position, velocity]`.
            static: What stays constant along each sequence; None for fields without a static part.

        Raises:
            ValueError: If the last axis of `y` or `static` has another width than the field's, or
                `static` is missing or not wanted.
        """
        return self.bind(static)(y)

    def bind(
        self, static: Float[Tensor, "*batch static"] | None
    ) -> Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]:
        """Returns y -> dy/dt with the static part of the first layer computed once.

        Raises:
            ValueError: If `static` is missing, not wanted or of another width than the field's.
        """
        width = 0 if static is None else static.shape[-1]
        if width != self.static:
            got = "None" if static is None else f"shape {tuple(static.shape)}"
            raise ValueError(
                f"static must end in the {self.static} static numbers of this field (None if 0), "
                f"got {got}"
            )
        first, rest = self.linear[0], self.network[1:]
        weight, bias = first.weight[:, : self.state], first.bias
        shift = bias if static is None else static @ first.weight[:, self.state :].T + bias

        def velocity(y: Tensor) -> Tensor:
            if y.shape[-1] != self.state:
                raise ValueError(
                    f"y must end in the {self.state} numbers of the state, "
                    f"got shape {tuple(y.shape)}"
                )
            change: Tensor = rest(y @ weight.T + shift)
            if self.order == 1:
                return change
            return torch.cat((y[..., self.state // 2 :], change), dim=-1)

        return velocity
