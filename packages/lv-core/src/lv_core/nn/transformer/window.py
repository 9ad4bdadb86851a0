"""Causal self-attention, over everything before or over a sliding window."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["band_mask", "causal_attention"]

# Shapes: B sequences, T tokens, H heads, E width of a head, W window, N blocks of W tokens.
# Tensors are (B, T, H, E): what a linear layer yields and the next one takes, without copies.


def causal_attention(
    query: Float[Tensor, "batch time heads width"],
    key: Float[Tensor, "batch time key_heads width"],
    value: Float[Tensor, "batch time key_heads width"],
    *,
    window: int | None = None,
    dropout: float = 0.0,
    mask: Float[Tensor, "rows 1 window two_windows"] | None = None,
) -> Float[Tensor, "batch time heads width"]:
    """Returns softmax attention of each token to itself and the tokens before it.

    out_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s  over  t - window < s <= t

    Memory grows linearly with time: no mask over pairs of tokens is formed. With a window shorter
    than the sequence, a CPU takes blocks of `window` tokens, each of which attends to itself and
    the block before; a GPU takes FlexAttention with a block mask (not for float64, dropout, heads
    of less than 16 features or sizes that are no power of 2, which take the blocks as well).

    Arguments:
        query: Queries.
        key: Keys; `key_heads` divides `heads`, and each serves as many neighboring query heads.
        value: Values.
        window: Tokens that each token sees, itself included; None = all before it.
        dropout: Probability of dropping an attention weight.
        mask: `band_mask` of these sizes, to form it once for many layers; None = formed here.
    """
    if window is None or window >= query.shape[1]:
        q, k, v = (x.transpose(1, 2) for x in (query, *_repeat(query, key, value)))
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return out.transpose(1, 2)
    if query.is_cuda and mask is None and _flexible(query, dropout):
        return _flex(query, key, value, window)
    return _banded(query, key, value, window, dropout, mask)


def band_mask(
    batch: int, time: int, window: int, *, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "rows 1 window two_windows"]:
    """Returns what is added to the scores of blocks against themselves and the block before.

    Row i of a block sees columns i + 1 to i + window of its 2 window columns; the first block has
    none before it. 0 = seen, -inf = hidden.

    Arguments:
        batch: Sequences B.
        time: Tokens T of each.
        window: Tokens that each sees.
        dtype: Type of the queries.
        device: Their device.

    Returns:
        The mask of shape `(B blocks, 1, window, 2 window)`: size B T 2 window.
    """
    blocks = -(-time // window)
    row = torch.arange(window, device=device)[:, None]
    column = torch.arange(2 * window, device=device)
    seen = ((column > row) & (column <= row + window)).repeat(blocks, 1, 1)
    seen[0, :, :window] = False
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
    return mask[None].expand(batch, -1, -1, -1).reshape(-1, 1, window, 2 * window)


def _banded(
    query: Tensor, key: Tensor, value: Tensor, window: int, dropout: float, mask: Tensor | None
) -> Tensor:
    batch, time = query.shape[:2]
    blocks = -(-time // window)
    if mask is None:
        mask = band_mask(batch, time, window, dtype=query.dtype, device=query.device)
    # Tokens behind the end fill the last block; nothing before them sees them.
    behind = blocks * window - time
    q, k, v = (
        torch.unflatten(
            functional.pad(x, (0, 0, 0, 0, 0, behind)) if behind else x, 1, (-1, window)
        )
        for x in (query, *_repeat(query, key, value))
    )
    k, v = _with_block_before(k), _with_block_before(v)
    q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # (B N, H, W or 2 W, E)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).reshape(batch, blocks * window, *out.shape[1::2])[:, :time]


def _with_block_before(x: Tensor) -> Tensor:
    """Puts each block (B, N, W, H, E) behind the one before it: (B, N, 2 W, H, E).

    The first gets zeros, which the mask hides.
    """
    if torch.compiler.is_compiling():  # which fuses the passes itself
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)
        return torch.cat((before, x), dim=2)
    out: Tensor = _WithBlockBefore.apply(x)  # type: ignore[no-untyped-call]
    return out


class _WithBlockBefore(torch.autograd.Function):
    """The same in two passes over the keys forwards and two back instead of five and six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch documents no type
        batch, blocks, window, *rest = x.shape
        out = x.new_empty(batch, blocks, 2 * window, *rest)
        out[:, :, window:] = x
        out[:, 1:, :window] = x[:, :-1]
        out[:, 0, :window] = 0.0
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        (grad,) = grads
        window = grad.shape[2] // 2
        out = grad[:, :, window:].clone(memory_format=torch.contiguous_format)
        out[:, :-1] += grad[:, 1:, :window]
        return out


def _repeat(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    times = query.shape[2] // key.shape[2]
    if times == 1:
        return key, value
    return key.repeat_interleave(times, dim=2), value.repeat_interleave(times, dim=2)


def _flexible(query: Tensor, dropout: float) -> bool:
    """Says whether FlexAttention's kernels take these queries."""
    width = query.shape[3]
    power = width >= 16 and width & (width - 1) == 0
    return dropout == 0 and power and query.dtype != torch.float64


def _flex(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    mask = _block_mask(query.shape[1], window, query.device)
    grouped = query.shape[2] != key.shape[2]
    attend = _flex_attention(query.is_cuda and not torch.compiler.is_compiling())
    out: Tensor = attend(q, k, v, block_mask=mask, enable_gqa=grouped)
    return out.transpose(1, 2)


@lru_cache(maxsize=2)
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    if compiled:
        return cast("Callable[..., Tensor]", torch.compile(flex_attention))
    return cast("Callable[..., Tensor]", flex_attention)


@lru_cache(maxsize=16)
def _block_mask(time: int, window: int, device: torch.device) -> object:
    """Returns the blocks of 128 tokens that see each other, for any batch and heads."""
    from torch.nn.attention.flex_attention import create_block_mask

    # No `def`: run-time type checks would wrap it, and torch counts its arguments.
    return create_block_mask(
        lambda batch, head, row, column: (column <= row) & (row - column < window),
        None,
        None,
        time,
        time,
        device=str(device),
    )
