"""Cross-attention of tokens to a few latent slots."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lv_core.nn.transformer.config import DecoderConfig
from lv_core.nn.transformer.norm import make_norm
from lv_core.nn.transformer.rotary import rotate

__all__ = ["CrossAttention", "Slots"]

# Shapes: B sequences, T tokens, M slots, H heads, E width of a head, D width.


class Slots(NamedTuple):
    """What a layer's cross-attention needs of its memory, formed once per memory."""

    key: Tensor
    """Keys `(B, M, H, E)`, or `(B, H M, D)` when folded."""
    value: Tensor
    """Values, likewise."""
    bias: Tensor | None
    """Folded: the query bias's share of the scores, `(B, H M, 1)`."""

    def select(self, index: Tensor) -> "Slots":
        """Returns the slots of chosen sequences."""
        bias = None if self.bias is None else self.bias.index_select(0, index)
        return Slots(self.key.index_select(0, index), self.value.index_select(0, index), bias)


class CrossAttention(nn.Module):
    """Attention of tokens to the slots of a memory, without mask.

    out_t = out( softmax_m(query(x_t) . key(z_m) / sqrt(E)) value(z_m) )  for each head

    Slots are few, so that the products with them are cheaper than the projections of the tokens.
    When 2 H M <= D the projections are therefore folded into the slots: query(x) . key(z_m) =
    x . (Wq' key(z_m)), and likewise for values and output. A token then costs 2 H M D products
    instead of 2 D^2. Equal up to rounding. Rotated queries cannot be folded; their output is.

    Arguments:
        config: Settings of the decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.dropout = config.dropout
        own = config.memory_norm == "per_layer"
        self.memory_norm = make_norm(config, config.slot_width) if own else nn.Identity()
        self.query = nn.Linear(config.width, config.width, bias=config.bias)
        self.key_value = nn.Linear(config.slot_width, 2 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def slots(
        self,
        memory: Float[Tensor, "batch slots slot_width"],
        angles: Float[Tensor, "slots pairs 2"] | None,
    ) -> Slots:
        """Returns keys and values of a memory.

        Arguments:
            memory: The slots of this layer.
            angles: Their rotary angles; None = not rotated.
        """
        key_value = self.key_value(self.memory_norm(memory))
        key, value = key_value.unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        if angles is not None:
            key = rotate(key, angles)
        heads, slots = self.heads, memory.shape[1]
        if 2 * heads * slots > self.query.in_features:
            return Slots(key, value, None)
        bias = None
        key = key * self.head_width**-0.5
        if angles is None:
            if self.query.bias is not None:
                own = torch.unflatten(self.query.bias, 0, (heads, self.head_width)).to(key.dtype)
                bias = torch.einsum("bmhe,he->bhm", key, own).flatten(1)[:, :, None]
            weight = torch.unflatten(self.query.weight, 0, (heads, self.head_width))
            key = torch.einsum("bmhe,hed->bhmd", key, weight).flatten(1, 2)
        else:
            # Head h's keys stand in its own features, zeros elsewhere: one product for all heads.
            apart = torch.eye(heads, dtype=key.dtype, device=key.device)
            key = torch.einsum("bmhe,hg->bhmge", key, apart).flatten(1, 2).flatten(2)
        weight = torch.unflatten(self.out.weight, 1, (heads, self.head_width))
        value = torch.einsum("bmhe,dhe->bhmd", value, weight).flatten(1, 2)
        return Slots(key, value, bias)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        slots: Slots,
        angles: Float[Tensor, "time pairs 2"] | None,
    ) -> Float[Tensor, "batch time width"]:
        """Returns what each token reads from the slots.

        Arguments:
            x: Normalized token states.
            slots: What `slots` returned.
            angles: Rotary angles of the tokens; None = not rotated.
        """
        dropout = self.dropout if self.training else 0.0
        folded = slots.key.ndim == 3
        if angles is not None:
            query = self.query(x).unflatten(-1, (self.heads, self.head_width))
            query = rotate(query, angles)
            x = query.flatten(2)
        if not folded:
            if angles is None:
                query = self.query(x).unflatten(-1, (self.heads, self.head_width))
            q, k, v = (y.transpose(1, 2) for y in (query, slots.key, slots.value))
            out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
            mixed: Tensor = self.out(out.transpose(1, 2).flatten(2))
            return mixed
        # Tokens stand last: a softmax over a few slots in the last axis takes 20 times as long.
        score = torch.matmul(slots.key, x.mT)
        if slots.bias is not None:
            score = score + slots.bias
        weight = torch.unflatten(score, 1, (self.heads, -1)).softmax(dim=2)
        weight = functional.dropout(weight, dropout, self.training).flatten(1, 2)
        out = torch.matmul(weight.mT, slots.value)
        return out if self.out.bias is None else out + self.out.bias
