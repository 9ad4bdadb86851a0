"""What a decoder remembers of the tokens it has seen, for generation."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from lv_core.nn.transformer.config import DecoderConfig
from lv_core.nn.transformer.cross import Slots

__all__ = ["KVCache", "LayerCache"]


@dataclass
class LayerCache:
    """Keys and values of the last `capacity` tokens of one layer, in a ring of fixed shape.

    Token t lies at place `t % capacity`. Attention does not mind the order, so a single new token
    reads the ring as it lies.
    """

    capacity: int
    key: Tensor | None = None
    value: Tensor | None = None
    slots: Slots | None = None
    """Keys and values of the memory, if the layer reads one."""

    def store(self, key: Tensor, value: Tensor, start: int) -> None:
        """Writes keys and values `(batch, time, heads, width)` of tokens from `start` on."""
        if key.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "a cache carries no gradient: decode under torch.no_grad() or with a frozen "
                "decoder and a detached memory"
            )
        batch, time, *rest = key.shape
        if self.key is None or self.value is None:
            self.key = key.new_zeros(batch, self.capacity, *rest)
            self.value = torch.zeros_like(self.key)
        keep = min(time, self.capacity)
        place = (start + time - keep) % self.capacity
        split = time - keep + min(keep, self.capacity - place)  # from here on at the front again
        for ring, new in ((self.key, key), (self.value, value)):
            ring[:, place : place + split - (time - keep)] = new[:, time - keep : split]
            if split < time:
                ring[:, : time - split] = new[:, split:]

    def last(self, tokens: int, length: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values of the last `tokens` of `length` tokens, in order."""
        if self.key is None or self.value is None:
            raise RuntimeError("the cache is empty")
        place = torch.arange(length - tokens, length, device=self.key.device) % self.capacity
        return self.key.index_select(1, place), self.value.index_select(1, place)

    def all(self, length: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values of all stored tokens, in the order of the ring, as views."""
        if self.key is None or self.value is None:
            raise RuntimeError("the cache is empty")
        filled = min(length, self.capacity)
        return self.key[:, :filled], self.value[:, :filled]


@dataclass
class KVCache:
    """Keys and values of a `Decoder`, so that each new token costs one token's work.

    Holds `min(window, max_length)` tokens per layer, and the keys and values of the memory, which
    are formed once. Buffers are made at the first call, in its batch size, type and device, and
    keep their shape. The first call hands the memory over; later calls leave it out.

    Arguments:
        config: The decoder's settings.

    Example:
        >>> cache = KVCache(decoder.config)
        >>> hidden = decoder(prompt, memory, cache=cache)
        >>> hidden = decoder(next_token, cache=cache)
    """

    config: DecoderConfig
    length: int = field(default=0, init=False)
    """Tokens seen so far."""
    layers: list[LayerCache] = field(init=False, repr=False)
    batch: int = field(default=0, init=False)
    """Sequences it holds."""

    def __post_init__(self) -> None:
        most = self.config.max_length
        capacity = most if self.config.window is None else min(self.config.window, most)
        self.layers = [LayerCache(capacity) for _ in range(self.config.layers)]

    @property
    def nbytes(self) -> int:
        """Bytes held for tokens and memory."""
        held = [x for layer in self.layers for x in (layer.key, layer.value, *(layer.slots or ()))]
        return sum(x.nbytes for x in held if x is not None)

    def reorder(self, index: Int[Tensor, " new_batch"]) -> None:
        """Keeps or repeats sequences: sequence i becomes what `index[i]` was (beams, dropping).

        Arguments:
            index: Old sequence of each new one; any number of them.
        """
        for layer in self.layers:
            if layer.key is not None and layer.value is not None:
                layer.key = layer.key.index_select(0, index)
                layer.value = layer.value.index_select(0, index)
            if layer.slots is not None:
                layer.slots = layer.slots.select(index)
        self.batch = len(index)
