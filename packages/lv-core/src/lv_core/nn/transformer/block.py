"""One layer of the decoder."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lv_core.nn.transformer.cache import LayerCache
from lv_core.nn.transformer.config import DecoderConfig
from lv_core.nn.transformer.cross import CrossAttention
from lv_core.nn.transformer.norm import make_norm
from lv_core.nn.transformer.rotary import rotate
from lv_core.nn.transformer.window import causal_attention

__all__ = ["Block", "Frame", "Mlp", "SelfAttention"]


class Frame(NamedTuple):
    """What all layers of one call share."""

    start: int
    """Position of the first token."""
    angles: Tensor | None
    """Rotary angles of the tokens."""
    cross_angles: Tensor | None
    """Those of the queries of cross-attention."""
    slot_angles: Tensor | None
    """Rotary angles of the slots."""
    mask: Tensor | None
    """The band of a sliding window on a CPU."""


class SelfAttention(nn.Module):
    """Causal multi-head attention of tokens to tokens.

    Arguments:
        config: Settings of the decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads
        self.head_width, self.window = config.head_width, config.window
        self.dropout = config.dropout
        width = (self.heads + 2 * self.key_heads) * self.head_width
        self.qkv = nn.Linear(config.width, width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, x: Float[Tensor, "batch time width"], frame: Frame, cache: LayerCache | None
    ) -> Float[Tensor, "batch time width"]:
        """Returns what each token reads from itself and those before it.

        Arguments:
            x: Normalized token states.
            frame: Positions of these tokens.
            cache: Keys and values of the tokens before them, to which theirs are added.
        """
        both = self.heads + self.key_heads
        qkv = self.qkv(x).unflatten(-1, (both + self.key_heads, self.head_width))
        query_key, value = qkv.split((both, self.key_heads), dim=2)
        if frame.angles is not None:
            query_key = rotate(query_key, frame.angles)
        query, key = query_key.split((self.heads, self.key_heads), dim=2)
        if cache is not None and x.shape[1] == 1:
            cache.store(key, value, frame.start)
            out = self._one(query, *cache.all(frame.start + 1))
        else:
            out = self._many(query, key, value, frame, cache)
        mixed: Tensor = self.out(out.flatten(2))
        return mixed

    def _one(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One new token sees all that its cache holds."""
        times = self.heads // self.key_heads
        # Query heads that share a key head stand as rows of it: nothing is repeated.
        q = torch.unflatten(query, 2, (self.key_heads, times)).flatten(0, 1)  # (B, Hk, times, E)
        k, v = key.transpose(1, 2), value.transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return out.flatten(1, 2)[:, None]

    def _many(
        self, query: Tensor, key: Tensor, value: Tensor, frame: Frame, cache: LayerCache | None
    ) -> Tensor:
        """Several tokens see each other and what the cache holds of those before them."""
        time, before, mask = query.shape[1], 0, frame.mask
        if cache is not None:
            new = key, value
            before = frame.start if self.window is None else min(frame.start, self.window - 1)
            if before:
                old_key, old_value = cache.last(before, frame.start)
                key, value = torch.cat((old_key, key), 1), torch.cat((old_value, value), 1)
                # Queries of the tokens before are zeros whose output is dropped: keeps the band.
                query = functional.pad(query, (0, 0, 0, 0, before, 0))
                mask = None
            cache.store(*new, frame.start)
        dropout = self.dropout if self.training else 0.0
        out = causal_attention(query, key, value, window=self.window, dropout=dropout, mask=mask)
        return out[:, before : before + time]


class Mlp(nn.Module):
    """The feed-forward sub-layer: down(f(up x)), or down(silu(gate x) * up x).

    Arguments:
        config: Settings of the decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        width, inner, bias = config.width, config.inner_width, config.bias
        if config.mlp == "swiglu":
            self.gate = nn.Linear(width, inner, bias=bias)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Returns the update of each token state."""
        inner: Tensor = self.up(x)
        if self.kind == "swiglu":
            inner = functional.silu(self.gate(x)) * inner
        elif self.kind == "gelu":
            inner = functional.gelu(inner, approximate="tanh")
        else:
            inner = inner.relu()
        out: Tensor = self.down(inner)
        return out


class Block(nn.Module):
    """A pre-norm layer: self-attention, cross-attention if it has one, MLP.

    x <- x + attention(norm(x));  x <- x + cross(norm(x), z);  x <- x + mlp(norm(x))

    Arguments:
        config: Settings of the decoder.
        cross: Whether the layer cross-attends.
    """

    def __init__(self, config: DecoderConfig, *, cross: bool) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config)
        self.cross_norm = make_norm(config) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        frame: Frame,
        memory: Float[Tensor, "batch slots slot_width"] | None,
        cache: LayerCache | None,
        part: Literal["all", "attention", "rest"],
    ) -> Float[Tensor, "batch time width"]:
        """Returns the states behind the layer.

        Arguments:
            x: Token states.
            frame: Positions of these tokens.
            memory: Slots of this layer; None = those of the cache or, if it has none,
                cross-attention is left out.
            cache: Keys and values of the tokens before; it keeps those of the memory, too.
            part: Self-attention alone, what follows it, or both.
        """
        if part != "rest":
            x = x + self.drop(self.attention(self.attention_norm(x), frame, cache))
        if part == "attention":
            return x
        if self.cross is not None and self.cross_norm is not None:
            slots = None if cache is None else cache.slots
            if memory is not None:
                slots = self.cross.slots(memory, frame.slot_angles)
                if cache is not None:
                    cache.slots = slots
            if slots is not None:
                x = x + self.drop(self.cross(self.cross_norm(x), slots, frame.cross_angles))
        out: Tensor = x + self.drop(self.mlp(self.mlp_norm(x)))
        return out
