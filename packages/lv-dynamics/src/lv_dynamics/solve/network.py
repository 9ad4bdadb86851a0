"""The network of a vector field in buffers: columns are sequences, no graph, no allocation."""

import torch
from jaxtyping import Float
from torch import Tensor

from lv_dynamics.field import VectorField
from lv_dynamics.solve.activation import BUFFERED

__all__ = ["BufferedField"]


class BufferedField:
    """Evaluates h * f forwards and its transposed Jacobian backwards, as often as told.

    Tensors have one column for each sequence, `(width, batch)`: biases and the static part of
    the first layer then are full matrices that the products accumulate onto.

    Arguments:
        field: The vector field; its parameters are read here and not followed.
        batch: Number of sequences.
        static: The static part, `(static, batch)`, or None.
        evaluations: How many evaluations are kept for the way back.
        scale: A factor of all velocities, one number; folded into the last layer.
    """

    def __init__(
        self,
        field: VectorField,
        static: Float[Tensor, "static batch"] | None,
        batch: int,
        *,
        evaluations: int,
        scale: Float[Tensor, ""] | None,
    ) -> None:
        form = BUFFERED[field.activation]
        self._form, self.state = form, field.state
        linear = field.linear
        # Position and velocity: the network gives the lower half.
        self.top = 0 if field.order == 1 else field.state // 2
        self.scale = scale
        signs = [1.0, *[form.sign] * (len(linear) - 1), 1.0]
        forward, backward, biases = [], [], []
        for i, layer in enumerate(linear):
            weight, bias = layer.weight.detach(), layer.bias.detach()[:, None]
            if signs[i + 1] < 0:
                weight, bias = -weight, -bias
            if signs[i] < 0:
                weight = -weight
            if i == len(linear) - 1 and scale is not None:
                weight, bias = weight * scale, bias * scale
            # All inputs on the way back: the static part has a gradient too.
            # A copy, since an optimizer may move the weights before the way back.
            backward.append(weight.t().clone(memory_format=torch.contiguous_format))
            if i == 0:
                if static is not None:
                    bias = torch.addmm(bias, weight[:, field.state :], static)
                weight = weight[:, : field.state].contiguous()
            forward.append(weight)
            biases.append(bias.expand(-1, batch).contiguous())
        raw = [bias.new_empty(len(bias), batch) for bias in biases[:-1]]
        value = [torch.empty_like(r) for r in raw]
        self._hidden = list(zip(biases[:-1], forward[:-1], raw, value, strict=True))
        self._last = biases[-1], forward[-1]
        self._back = list(zip(backward[:0:-1], raw[::-1], strict=True))
        self._first = backward[0]
        kept = [r.new_empty(evaluations, *r.shape).unbind(0) for r in raw]
        self._kept = list(zip(*kept, strict=True)) if kept else [()] * evaluations

    def velocity(self, y: Tensor, slot: int, out: Tensor) -> None:
        """Writes `scale f(y)` into `out`, both `(state, batch)`; keeps what slot `slot` holds."""
        form, addmm, hidden = self._form, torch.addmm, y
        forward, keeps_raw, keeps_value = form.forward, form.keeps_raw, form.keeps_value
        for (bias, weight, raw, value), kept in zip(self._hidden, self._kept[slot], strict=True):
            source = kept if keeps_raw else raw
            target = kept if keeps_value else value
            addmm(bias, weight, hidden, out=source)
            forward(source, kept, target)
            hidden = target
        bias, weight = self._last
        if self.top:
            addmm(bias, weight, hidden, out=out[self.top :])
            _scaled(y[self.top :], self.scale, out[: self.top])
        else:
            addmm(bias, weight, hidden, out=out)

    def pull(self, grad: Tensor, slot: int, out: Tensor) -> None:
        """Writes the product of the transposed Jacobian of a kept evaluation with `grad`.

        Arguments:
            grad: With respect to the velocity, `(state, batch)`.
            slot: Of the evaluation.
            out: With respect to state and static part, `(state + static, batch)`.
        """
        mm, backward = torch.mm, self._form.backward
        back = grad[self.top :] if self.top else grad
        for (weight, buffer), kept in zip(self._back, reversed(self._kept[slot]), strict=True):
            mm(weight, back, out=buffer)
            backward(buffer, kept, buffer)
            back = buffer
        mm(self._first, back, out=out)
        if self.top:
            lower = out[self.top : self.state]
            above = grad[: self.top]
            lower.add_(above if self.scale is None else above * self.scale)


def _scaled(velocity: Tensor, scale: Tensor | None, out: Tensor) -> None:
    if scale is None:
        out.copy_(velocity)
    else:
        torch.mul(velocity, scale, out=out)
