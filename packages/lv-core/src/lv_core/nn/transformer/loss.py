"""Negative log-likelihood of tokens without the matrix of all logits."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core.nn.transformer.ids import check_ids

__all__ = ["token_nll"]

# Shapes: N tokens, D width, V ids.

IGNORED = -100
_CPU_ROWS, _CPU_LOGITS, _GPU_LOGITS = 128, 2**18, 2**27  # measured: caches, and busy kernels

Grads = Literal["none", "hidden", "weight"]


def token_nll(
    hidden: Float[Tensor, "*batch width"],
    weight: Float[Tensor, "outputs width"],
    targets: Int[Tensor, "*batch"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, "*batch"]:
    """Returns the negative log-likelihood of each target in nats.

    nll = logsumexp_v(weight_v . hidden) - weight_target . hidden

    Logits exist for `chunk` tokens at a time. If `hidden` alone needs a gradient, that gradient,
    weight' (softmax - onehot), is formed beside the value: two products with the vocabulary in
    all, none repeated, and nothing stored but a tensor of the shape of `hidden`. If the weight
    needs one too, the logits are formed again on the way back. Under autocast, products take its
    type; values and sums over the vocabulary and over tokens are float32 at least.

    Arguments:
        hidden: States of the decoder.
        weight: `Decoder.head_weight`.
        targets: Ids of the tokens that follow; -100 = ignored, 0 nats.
        chunk: Tokens whose logits are formed at a time; None = a size that suits the
            device: 128 tokens of a large vocabulary on a CPU, about 134 million logits on a GPU.

    Returns:
        Values in the shape of `targets`; float64 for float64 states, else float32.

    Raises:
        ValueError: If shapes disagree, `chunk` is not positive, or an id is out of range (checked
            on a CPU; a GPU stops by itself).
        RuntimeError: On the way back if gradients of gradients are asked for (`create_graph`).

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, eq. 1, for what is computed.

    Example:
        >>> nll = token_nll(hidden, decoder.head_weight, targets).sum(dim=1)  # (B,)
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            "hidden (*batch, width), weight (outputs, width) and targets (*batch) must agree, got "
            f"{tuple(hidden.shape)}, {tuple(weight.shape)} and {tuple(targets.shape)}"
        )
    if chunk is None:
        outputs = weight.shape[0]
        on_cpu = hidden.device.type == "cpu"
        chunk = max(_CPU_ROWS, (_CPU_LOGITS if on_cpu else _GPU_LOGITS) // outputs)
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    check_ids(targets, weight.shape[0], "targets", ignore=IGNORED)
    grads: Grads = "none"
    if torch.is_grad_enabled():
        grads = "weight" if weight.requires_grad else "hidden" if hidden.requires_grad else "none"
    kind = hidden.device.type
    auto = torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64
    dtype = torch.get_autocast_dtype(kind) if auto else hidden.dtype
    rows = hidden.reshape(-1, hidden.shape[-1])
    nll: Tensor = _TokenNll.apply(  # type: ignore[no-untyped-call]
        rows, weight, targets.reshape(-1), chunk, dtype, grads
    )
    return nll.reshape(targets.shape)


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch documents no type
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        dtype: torch.dtype,
        grads: Grads,
    ) -> Tensor:
        ctx.grads, ctx.chunk, ctx.dtype, ctx.kind = grads, chunk, dtype, hidden.dtype
        wide = torch.promote_types(hidden.dtype, torch.float32)
        log_sum = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        nll = torch.empty_like(log_sum)
        kept = targets != IGNORED
        places = targets.clamp(min=0)
        near = torch.empty_like(hidden, dtype=dtype) if grads == "hidden" else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            # Two buffers for all chunks: fresh ones of this size cost a page fault each 4 KiB.
            buffer = matrix.new_empty(min(chunk, len(hidden)), len(matrix))
            shares = torch.empty_like(buffer, dtype=wide)
            for rows in _chunks(len(hidden), chunk):
                size = rows.stop - rows.start
                logits = torch.mm(hidden[rows].to(dtype), matrix.T, out=buffer[:size])
                target = places[rows, None]
                chosen = logits.gather(1, target).to(wide)
                # The largest softmax is at least 1/V, so that its logarithm is accurate: the
                # exponentials of the softmax serve for the sum, too.
                top = logits.amax(1, keepdim=True).to(wide)
                soft = torch.softmax(logits, 1, wide, out=shares[:size])
                log_sum[rows] = (top - soft.amax(1, keepdim=True).log())[:, 0]
                nll[rows] = log_sum[rows] - chosen[:, 0]
                if near is not None:
                    torch.mm(_error(soft, target).to(dtype), matrix, out=near[rows])
        if near is not None:
            near.masked_fill_(~kept[:, None], 0.0)
        nll = nll.masked_fill_(~kept, 0.0)
        if near is not None:
            ctx.save_for_backward(near)
        elif grads == "weight":
            ctx.save_for_backward(hidden, weight, places, kept, log_sum)
        return nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise RuntimeError(
                "token_nll has no second derivatives (create_graph=True): use "
                "functional.cross_entropy of Decoder.logits"
            )
        (grad,) = grads
        rest = (None,) * 4
        if ctx.grads == "hidden":
            (near,) = ctx.saved_tensors
            return (near.to(grad.dtype) * grad[:, None]).to(ctx.kind), None, *rest
        hidden, weight, places, kept, log_sum = ctx.saved_tensors
        wide, dtype = log_sum.dtype, ctx.dtype
        scale = grad * kept
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            buffer = matrix.new_empty(min(ctx.chunk, len(hidden)), len(matrix))
            for rows in _chunks(len(hidden), ctx.chunk):
                states = hidden[rows].to(dtype)
                logits = torch.mm(states, matrix.T, out=buffer[: len(states)])
                soft = logits.to(wide).sub_(log_sum[rows, None]).exp_()
                error = _error(soft, places[rows, None]).to(dtype)
                # Scaled on the side of the width, which is shorter than the vocabulary.
                if to_hidden is not None:
                    to_hidden[rows] = (error @ matrix) * scale[rows, None]
                scaled = (states * scale[rows, None]).to(dtype)
                if dtype == wide:
                    to_weight.addmm_(error.T, scaled)
                else:
                    to_weight += error.T @ scaled
        return to_hidden, to_weight.to(weight.dtype), *rest


def _error(soft: Tensor, target: Tensor) -> Tensor:
    """Returns softmax - onehot, in place of the softmax."""
    return soft.scatter_add_(1, target, soft.new_full(target.shape, -1.0))


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, rows)) for first in range(0, rows, chunk)]
