"""The recurrence of an LSTM over packed sequences, with a hand-written backward pass.

Legend: N tokens of all sequences, B sequences, H hidden, n_t sequences longer than t.

`torch.nn.LSTM` computes more than posterior inference needs: the product of the inputs with their
weights at every step although tokens do not change along a chain, weight gradients, and padding.
Here the inputs enter as pre-activations that the caller computes once, sequences are packed in
order of length so that no padding is touched, and the backward pass forms only the gradients
asked for. Measured at B = 256, H = 256: see benchmarks/README.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["cell", "recurrence"]


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the new hidden and cell state of one LSTM step.

    Arguments:
        gates: Pre-activations (input, forget, candidate, output), shape `(B, 4 H)`; overwritten.
        c: Cell state, shape `(B, H)`.
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid_() * c
    c.addcmul_(i.sigmoid_(), g.tanh_())
    return o.sigmoid_() * torch.tanh(c), c


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        inputs: Tensor,
        latent: Tensor,
        h0: Tensor,
        weight: Tensor,
        counts: Sequence[int],
    ) -> Tensor:
        n_tokens, width = inputs.shape[0], h0.shape[1]
        gates = inputs.new_empty(n_tokens, 4 * width)
        tanh_c = inputs.new_empty(n_tokens, width)
        hidden = inputs.new_empty(n_tokens, width)
        cells = inputs.new_empty(n_tokens, width)
        h, c, at = h0, torch.zeros_like(h0), 0
        transposed = weight.t()
        for n in counts:
            here = slice(at, at + n)
            block = gates[here]
            torch.add(inputs[here], latent[:n], out=block)
            block.addmm_(h[:n], transposed)
            i, f, g, o = block.chunk(4, dim=-1)
            block[:, : 2 * width].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            new_c = torch.mul(f, c[:n], out=cells[here])
            new_c.addcmul_(i, g)
            torch.tanh(new_c, out=tanh_c[here])
            torch.mul(o, tanh_c[here], out=hidden[here])
            h, c, at = hidden[here], new_c, at + n
        ctx.save_for_backward(gates, tanh_c, cells, hidden, h0, weight)
        ctx.counts = tuple(counts)  # type: ignore[attr-defined]
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hidden: Tensor):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        gates, tanh_c, cells, hidden, h0, weight = ctx.saved_tensors
        need_inputs, need_latent, need_h0, need_weight, _ = ctx.needs_input_grad
        counts: tuple[int, ...] = ctx.counts
        batch, width = h0.shape
        keep = need_inputs or need_weight
        d_gates_all = torch.empty_like(gates) if keep else None
        d_latent = gates.new_zeros(batch, 4 * width)
        dh, dc = h0.new_zeros(batch, width), h0.new_zeros(batch, width)
        scratch = gates.new_empty(batch, 4 * width)
        at = gates.shape[0]
        for t in range(len(counts) - 1, -1, -1):
            n = counts[t]
            at -= n
            here = slice(at, at + n)
            i, f, g, o = gates[here].chunk(4, dim=-1)
            out = dh[:n]
            out += d_hidden[here]
            d_gates = scratch[:n] if d_gates_all is None else d_gates_all[here]
            d_i, d_f, d_g, d_o = d_gates.chunk(4, dim=-1)
            tc = tanh_c[here]
            # d c += dh * o * (1 - tanh(c)^2), written with the fused backward of tanh.
            step_dc = dc[:n]
            step_dc += torch.ops.aten.tanh_backward(out * o, tc)
            previous = cells[at - counts[t - 1] : at - counts[t - 1] + n] if t else None
            sigmoid_backward = torch.ops.aten.sigmoid_backward
            sigmoid_backward.grad_input(out * tc, o, grad_input=d_o)
            sigmoid_backward.grad_input(step_dc * g, i, grad_input=d_i)
            torch.ops.aten.tanh_backward.grad_input(step_dc * i, g, grad_input=d_g)
            if previous is None:
                d_f.zero_()
            else:
                sigmoid_backward.grad_input(step_dc * previous, f, grad_input=d_f)
            step_dc *= f
            torch.mm(d_gates, weight, out=out)
            d_latent[:n] += d_gates
        d_weight = None
        if need_weight and d_gates_all is not None:
            d_weight = _weight_gradient(d_gates_all, hidden, h0, counts)
        return (
            d_gates_all if need_inputs else None,
            d_latent if need_latent else None,
            dh if need_h0 else None,
            d_weight,
            None,
        )


def _weight_gradient(
    d_gates: Tensor, hidden: Tensor, h0: Tensor, counts: tuple[int, ...]
) -> Tensor:
    """Returns the gradient of the recurrent weight: one product over all tokens."""
    before = torch.empty_like(hidden)
    before[: counts[0]] = h0[: counts[0]]
    at = counts[0]
    for t in range(1, len(counts)):
        start = at - counts[t - 1]
        before[at : at + counts[t]] = hidden[start : start + counts[t]]
        at += counts[t]
    return d_gates.t() @ before


def recurrence(
    inputs: Tensor, latent: Tensor, h0: Tensor, weight: Tensor, counts: Sequence[int]
) -> Tensor:
    """Returns the hidden states of an LSTM for packed sequences; the cell state starts at 0.

    Arguments:
        inputs: Pre-activations from the tokens, time-major and packed, shape `(N, 4 H)`.
        latent: Pre-activations added at every step (from the latent, and the bias), `(B, 4 H)`.
        h0: Initial hidden state, shape `(B, H)`.
        weight: Recurrent weight, shape `(4 H, H)`, gates in the order input, forget, candidate,
            output as in `torch.nn.LSTM`.
        counts: Number of sequences that reach each step, non-increasing, summing to N.

    Returns:
        Hidden states, packed like `inputs`, shape `(N, H)`. First derivatives only.
    """
    hidden: Tensor = _Recurrence.apply(inputs, latent, h0, weight, counts)  # type: ignore[no-untyped-call]
    return hidden
