"""A perceptron's log density with its gradient written out."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lv_core.density import Evaluation
from lv_core.nn.activation import BufferedActivation, buffered_activation

__all__ = ["PerceptronTarget"]


class _Hidden(NamedTuple):
    """Buffers of one hidden layer, each `(chains, width)`."""

    raw: Tensor
    value: Tensor
    back: Tensor


class PerceptronTarget:
    """Log density `f(u) - |u|^2 / (2 scale^2)` of a perceptron f, gradient in closed form.

    The same numbers as automatic differentiation up to rounding, cheaper for the usual tilt of a
    latent energy-based prior: no graph, and buffers that last from call to call. With several
    outputs f is the logsumexp of the outputs. The network's parameters are read at each call, so
    an optimizer may change them in between; `evaluate` leaves their gradients alone.

    Arguments:
        network: `nn.Sequential` of `Linear` layers with activations between them (`GELU`, `SiLU`,
            `Tanh`, `ReLU`, `LeakyReLU`), as `lv_core.nn.mlp` makes it.
        scale: Standard deviation of the reference normal; None = no reference.

    Raises:
        TypeError: If the network holds a layer without closed form.
        ValueError: If `scale` is not positive or layers and activations do not alternate.

    Example:
        >>> target = PerceptronTarget(mlp((64, 200, 200, 1)), scale=1.0)
        >>> z = Langevin(steps=60, step_size=0.4)(target, torch.randn(256, 64))
    """

    def __init__(self, network: nn.Module, *, scale: float | None = 1.0) -> None:
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive or None, got {scale}")
        self.network, self.scale = network, scale
        self._linear, self._activations = _layers(network)
        self._size: tuple[int, torch.dtype, torch.device, tuple[int, ...]] | None = None

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the log density, differentiable, `(*batch, dim) -> (*batch,)`."""
        output: Tensor = self.network(u)
        total = output.squeeze(-1) if output.shape[-1] == 1 else torch.logsumexp(output, dim=-1)
        if self.scale is None:
            return total
        return total - u.square().sum(-1) * (0.5 / self.scale**2)

    @torch.no_grad()
    def evaluate(self, u: Tensor) -> Evaluation:
        """Returns value and gradient; the gradient lies in a buffer of the next call.

        Raises:
            ValueError: If `u` does not end in the number of inputs, or has another dtype than
                the network.
        """
        first, last = self._linear[0], self._linear[-1]
        if u.shape[-1] != first.in_features or u.dtype != first.weight.dtype:
            raise ValueError(
                f"u must end in {first.in_features} coordinates of {first.weight.dtype}, got "
                f"shape {tuple(u.shape)} of {u.dtype}"
            )
        x = u.detach().reshape(-1, first.in_features)
        self._allocate(x)
        hidden = x
        for i, (raw, value, _) in enumerate(self._hidden):
            # Not addmm, which first copies the bias into every row.
            torch.mm(hidden, self._transposed[i], out=raw)
            if self._linear[i].bias is not None:
                raw.add_(self._linear[i].bias)
            self._activations[i].forward(raw, value)
            hidden = value
        if last.out_features == 1:
            total = torch.mv(hidden, last.weight[0])
            total = total if last.bias is None else total.add_(last.bias)
            back = last.weight.expand(len(x), -1)
        else:
            outputs = nn.functional.linear(hidden, last.weight, last.bias)
            total = torch.logsumexp(outputs, dim=-1)
            back = torch.softmax(outputs, dim=-1) @ last.weight
        for i in range(len(self._hidden) - 1, -1, -1):
            raw, value, _ = self._hidden[i]
            self._activations[i].backward(back, raw, value, value)
            out = self._hidden[i - 1].back if i > 0 else self._grad
            back = torch.mm(value, self._linear[i].weight, out=out)
        grad = self._grad if self._hidden else self._grad.copy_(back)
        if self.scale is not None:
            grad.add_(x, alpha=-1 / self.scale**2)
        if self.scale is not None:
            # One kernel, unlike the sum of squares; its own derivative at 0 is not needed here.
            norm = torch.linalg.vector_norm(x, dim=-1)
            total = total.addcmul_(norm, norm, value=-0.5 / self.scale**2)
        value = total.reshape(u.shape[:-1])
        return Evaluation(value, grad.reshape(u.shape), {})

    def _allocate(self, x: Tensor) -> None:
        # Views of the weights stay valid while an optimizer writes in place, not beyond.
        places = tuple(linear.weight.data_ptr() for linear in self._linear)
        size = (len(x), x.dtype, x.device, places)
        if size == self._size:
            return
        self._size = size
        hidden = self._linear[:-1]
        self._transposed = [linear.weight.detach().t() for linear in hidden]
        self._hidden = [
            _Hidden(*(x.new_empty(len(x), linear.out_features) for _ in range(3)))
            for linear in hidden
        ]
        self._grad = torch.empty_like(x, memory_format=torch.contiguous_format)


def _layers(network: nn.Module) -> tuple[list[nn.Linear], list[BufferedActivation]]:
    if not isinstance(network, nn.Sequential):
        raise TypeError(f"network must be an nn.Sequential, got {type(network).__name__}")
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    others = [layer for layer in network if not isinstance(layer, nn.Linear)]
    activations = [buffered_activation(layer) for layer in others]
    kinds = [isinstance(layer, nn.Linear) for layer in network]
    alternate = all(one != two for one, two in pairwise(kinds))
    if not (kinds and kinds[0] and kinds[-1] and alternate):
        raise ValueError(
            "network must be linear layers with one activation between each two, got "
            f"{[type(layer).__name__ for layer in network]}"
        )
    return linear, activations
