"""Negative log-likelihood of tokens without the matrix of all logits."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core.nn.transformer.ids import check_ids

__all__ = ["token_nll"]

# Shapes: N tokens, D width, V ids.

IGNORED = -100
_CPU_ROWS, _CPU_IDS, _GPU_LOGITS = 1024, 1024, 2**27  # measured: caches, and busy kernels

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

    Logits exist for `chunk` tokens at a time, on a CPU for 1,024 ids of them, whose exponentials
    are summed against the largest logit so far. If `hidden` alone needs a gradient, that gradient,
    weight' (softmax - onehot), is formed beside the value: two products with the vocabulary in
    all, none repeated, and nothing stored but a tensor of the shape of `hidden`. If the weight
    needs one too, the logits are formed again on the way back. Under autocast, products take its
    type; values and sums over the vocabulary and over tokens are float32 at least.

    Arguments:
        hidden: States of the decoder.
        weight: `Decoder.head_weight`.
        targets: Ids of the tokens that follow; -100 = ignored, 0 nats.
        chunk: Tokens whose logits are formed at a time; None = a size that suits the
            device: 1,024 tokens on a CPU, about 134 million logits on a GPU.

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
        on_cpu = hidden.device.type == "cpu"
        chunk = _CPU_ROWS if on_cpu else max(128, _GPU_LOGITS // weight.shape[0])
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
        near = torch.empty_like(hidden, dtype=wide) if grads == "hidden" else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            for rows in _chunks(len(hidden), chunk):
                states, target = hidden[rows].to(dtype), places[rows, None]
                toward = None if near is None else near[rows]
                total, chosen = _log_sum(states, matrix, target, wide, toward)
                log_sum[rows], nll[rows] = total[:, 0], (total - chosen)[:, 0]
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
            return (near * grad[:, None]).to(ctx.kind), None, *rest
        hidden, weight, places, kept, log_sum = ctx.saved_tensors
        wide, dtype = log_sum.dtype, ctx.dtype
        scale = grad * kept
        to_hidden = torch.zeros_like(hidden, dtype=wide) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            for rows in _chunks(len(hidden), ctx.chunk):
                states, times = hidden[rows].to(dtype), scale[rows, None]
                # Scaled on the side of the width, which is shorter than the vocabulary.
                scaled = (states * times).to(dtype)
                for ids, logits in _tiles(states, matrix):
                    soft = logits.to(wide).sub_(log_sum[rows, None]).exp_()
                    soft = _error(soft, places[rows, None], ids).to(dtype)
                    if to_hidden is not None:
                        _add_product(to_hidden[rows], soft, matrix[ids])
                    _add_product(to_weight[ids], soft.T, scaled)
                if to_hidden is not None:
                    to_hidden[rows] *= times
        to_hidden = None if to_hidden is None else to_hidden.to(ctx.kind)
        return to_hidden, to_weight.to(weight.dtype), *rest


def _log_sum(
    states: Tensor, matrix: Tensor, target: Tensor, wide: torch.dtype, near: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns logsumexp and the target's logit, `(N, 1)` each; fills `near` with the gradient."""
    level = torch.full((len(states), 1), -torch.inf, dtype=wide, device=states.device)
    chosen, total = torch.zeros_like(level), torch.zeros_like(level)
    for ids, logits in _tiles(states, matrix):
        place, inside = _inside(target, ids)
        chosen = torch.where(inside, logits.gather(1, place).to(wide), chosen)
        before, (parts, level) = level, _exponentials(logits, level)
        shrink = (before - level).exp_()  # what was summed so far refers to the level before
        total.mul_(shrink).add_(parts.sum(1, keepdim=True))
        if near is not None and ids.start == 0:
            near.copy_(torch.mm(parts.to(matrix.dtype), matrix[ids]))
        elif near is not None:
            _add_product(near.mul_(shrink), parts.to(matrix.dtype), matrix[ids])
    if near is not None:
        near.div_(total).sub_(matrix[target[:, 0]])
    return level + total.log_(), chosen


def _exponentials(logits: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Returns exp(logits - new level) and the new level `(N, 1)`; uses the logits up."""
    top = logits.amax(1, keepdim=True).to(level.dtype)
    if logits.device.type == "cpu":
        top = torch.maximum(top, level)
        return logits.to(level.dtype).sub_(top).exp_(), top
    # All ids at once, in one kernel. The largest softmax is at least 1/V, so that its logarithm
    # is accurate.
    parts = torch.softmax(logits, 1, level.dtype)
    return parts, top - parts.amax(1, keepdim=True).log_()


def _tiles(states: Tensor, matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields ids and their logits: all at once on a GPU; on a CPU as many as its caches hold.

    The logits of each round lie in the buffer of the last: fresh ones of this size cost a page
    fault each 4 KiB.
    """
    size = _CPU_IDS if states.device.type == "cpu" else len(matrix)
    buffer = matrix.new_empty(len(states) * min(size, len(matrix)))
    for ids in _chunks(len(matrix), size):
        part = matrix[ids]
        out = buffer[: len(states) * len(part)].view(len(states), len(part))
        yield ids, torch.mm(states, part.T, out=out)


def _inside(target: Tensor, ids: slice) -> tuple[Tensor, Tensor]:
    """Returns the place of each target among some ids, clamped, and whether it is one of them."""
    place = target - ids.start
    width = ids.stop - ids.start
    return place.clamp(0, width - 1), (place >= 0) & (place < width)


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    if to.dtype == a.dtype:
        to.addmm_(a, b)
    else:
        to += a @ b


def _error(soft: Tensor, target: Tensor, ids: slice) -> Tensor:
    """Returns softmax - onehot, in place of the softmax."""
    place, inside = _inside(target, ids)
    return soft.scatter_add_(1, place, -inside.to(soft.dtype))


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, rows)) for first in range(0, rows, chunk)]
