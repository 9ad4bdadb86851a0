"""A causal decoder that cross-attends to latent slots."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lv_core.nn.transformer.block import Block, Frame
from lv_core.nn.transformer.cache import KVCache
from lv_core.nn.transformer.config import DecoderConfig
from lv_core.nn.transformer.ids import check_ids
from lv_core.nn.transformer.norm import make_norm
from lv_core.nn.transformer.rotary import rotary_angles
from lv_core.nn.transformer.start import start_weights
from lv_core.nn.transformer.window import band_mask

__all__ = ["Decoder"]

# Shapes: B sequences, T tokens, D width, L cross-attending layers, M slots, V outputs.


class Decoder(nn.Module):
    """Maps tokens and latent slots to states from which the next tokens are scored.

    p(x | z) = prod_t p(x_t | x_<t, z);  logits_t = head(norm(block_L(... block_1(embed(x_<t)))))

    A pre-norm Transformer for text, molecules and, with embeddings as inputs, plans. The memory z
    is `(B, L, M, D)` with one set of slots for each cross-attending layer in order
    (`cross="per_layer"`) or `(B, M, D)` for all (`"shared"`). Without memory, cross-attention is
    left out: the autoregressive baseline on the same blocks.

    Inference of z at frozen weights keeps no graph below the first cross-attention. What does
    not depend on z is computed once with `lower` and used again while z changes:

        lower = decoder.lower(tokens)
        for step in range(steps):
            hidden = decoder.upper(lower, z)

    Arguments:
        config: Settings.
        generator: Source of the initial weights; None = torch's global one.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025; Kong et al., "Molecule Design by Latent Prompt Transformer", 2024; Kong et al.,
        "Latent Plan Transformer for Trajectory Abstraction", 2024.

    Example:
        >>> decoder = Decoder(DecoderConfig(
        ...     vocabulary=1024, width=128, layers=3, heads=4, max_length=128, window=32,
        ...     cross="per_layer",
        ... ))
        >>> hidden = decoder(tokens[:, :-1], z)  # (B, T, 128)
        >>> nll = token_nll(hidden, decoder.head_weight, tokens[:, 1:])  # (B, T), nats
    """

    def __init__(self, config: DecoderConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width, crossing = config.width, config.crossing
        self.first_cross = crossing[0] if crossing else config.layers
        if config.vocabulary is not None:
            self.tokens = nn.Embedding(config.vocabulary, width)
        if config.positions == "learned":
            self.places = nn.Embedding(config.max_length, width)
        self.drop = nn.Dropout(config.dropout)
        shared = config.memory_norm == "shared"
        self.memory_norm = make_norm(config, config.slot_width) if shared else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(config, cross=l in crossing) for l in range(config.layers)
        )
        self.norm = make_norm(config)
        outputs = config.outputs or config.vocabulary
        self._tied = config.tie and config.vocabulary is not None
        if outputs is not None and not self._tied:
            self.head = nn.Linear(width, outputs, bias=False)
        start_weights(self, config, generator)

    def forward(
        self,
        inputs: Int[Tensor, "batch time"] | Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch *slots slot_width"] | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Returns the states behind the last norm.

        Arguments:
            inputs: Token ids, or embeddings if the decoder has no vocabulary.
            memory: Slots z; None leaves cross-attention out. Cast to the type of the states.
            cache: What was seen before: `inputs` continue it, and it is extended in place. The
                memory goes with the first call alone.

        Raises:
            ValueError: If a shape or an id is none of this decoder's, the sequence outgrows
                `max_length`, or a memory is given for a cache that has begun.
        """
        start = 0 if cache is None else cache.length
        hidden = self.embed(inputs, start=start)
        frame = self._frame(hidden, start)
        if cache is not None:
            self._check_cache(memory, hidden, cache)
        memories = self._memories(memory, hidden)
        for l, block in enumerate(self.blocks):
            layer = None if cache is None else cache.layers[l]
            hidden = block(hidden, frame, memories[l], layer, "all")
        if cache is not None:
            cache.length += hidden.shape[1]
        states: Tensor = self.norm(hidden)
        return states

    def lower(
        self, inputs: Int[Tensor, "batch time"] | Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Returns the states at the first cross-attention, which do not depend on the memory.

        They hold the embedding, all layers below the first that cross-attends, and the
        self-attention of that one. `upper(lower(x), z)` equals `forward(x, z)`.

        Arguments:
            inputs: Token ids, or embeddings if the decoder has no vocabulary.
        """
        hidden = self.embed(inputs)
        frame = self._frame(hidden, 0)
        for l, block in enumerate(self.blocks[: self.first_cross + 1]):
            part = "attention" if l == self.first_cross else "all"
            hidden = block(hidden, frame, None, None, part)
        return hidden

    def upper(
        self,
        lower: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch *slots slot_width"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Returns the states behind the last norm from those at the first cross-attention.

        Arguments:
            lower: What `lower` returned.
            memory: Slots z; None leaves cross-attention out.
        """
        frame = self._frame(lower, 0)
        memories = self._memories(memory, lower)
        hidden = lower
        for l in range(self.first_cross, self.config.layers):
            part = "rest" if l == self.first_cross else "all"
            hidden = self.blocks[l](hidden, frame, memories[l], None, part)
        states: Tensor = self.norm(hidden)
        return states

    def embed(
        self,
        inputs: Int[Tensor, "batch time"] | Float[Tensor, "batch time width"],
        *,
        start: int = 0,
    ) -> Float[Tensor, "batch time width"]:
        """Returns what the first block sees: token embeddings plus learned positions, if any.

        Arguments:
            inputs: Token ids, or embeddings if the decoder has no vocabulary.
            start: Position of the first one.
        """
        config = self.config
        ids = config.vocabulary is not None
        if inputs.ndim != (2 if ids else 3) or inputs.is_floating_point() == ids:
            wanted = "token ids (batch, time)" if ids else "embeddings (batch, time, width)"
            raise ValueError(
                f"inputs must be {wanted} for vocabulary={config.vocabulary}, got "
                f"{tuple(inputs.shape)} of {inputs.dtype}"
            )
        end = start + inputs.shape[1]
        if inputs.shape[1] == 0 or end > config.max_length:
            raise ValueError(
                f"inputs must hold 1 to max_length={config.max_length} tokens, cached ones "
                f"included, got {inputs.shape[1]} after {start}: cut the sequence"
            )
        if config.vocabulary is not None:
            check_ids(inputs, config.vocabulary, "inputs")
            hidden = self.tokens(inputs)
        elif inputs.shape[2] != config.width:
            raise ValueError(f"inputs must be {config.width} wide, got {tuple(inputs.shape)}")
        else:
            hidden = inputs
        if config.positions == "learned":
            hidden = hidden + self.places.weight[start:end]
        dropped: Tensor = self.drop(hidden)
        return dropped

    @property
    def head_weight(self) -> Float[Tensor, "outputs width"]:
        """The matrix of the output layer, for `token_nll`; the token embedding when tied.

        Raises:
            ValueError: If the decoder scores no ids.
        """
        if self._tied:
            return self.tokens.weight
        if not hasattr(self, "head"):
            raise ValueError("a decoder with vocabulary=None scores ids only if outputs is set")
        return self.head.weight

    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch outputs"]:
        """Returns the scores of the next token; for losses use `token_nll`, which keeps none.

        Arguments:
            hidden: States of `forward`.
        """
        return functional.linear(hidden, self.head_weight)

    def parameters_count(self) -> int:
        """Returns the number of parameters; a tied embedding counts once."""
        return sum(p.numel() for p in self.parameters())

    def _frame(self, hidden: Tensor, start: int) -> Frame:
        config, time, device = self.config, hidden.shape[1], hidden.device
        angles = cross = slots = None
        if config.positions == "rope":
            places = torch.arange(start, start + time, device=device)
            angles = self._angles(places, hidden)
        if config.z_rope != "none" and config.slots is not None:
            places = torch.arange(config.slots, device=device) * config.slot_stride
            cross, slots = angles, self._angles(places, hidden)
        mask = None
        window = config.window
        if window is not None and window < time and device.type == "cpu":
            auto = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if auto else hidden.dtype
            mask = band_mask(hidden.shape[0], time, window, dtype=dtype, device=device)
        return Frame(start, angles, cross, slots, mask)

    def _angles(self, places: Tensor, hidden: Tensor) -> Tensor:
        config = self.config
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        return rotary_angles(places, config.head_width, theta=config.rope_theta, dtype=dtype)

    def _check_cache(self, memory: Tensor | None, hidden: Tensor, cache: KVCache) -> None:
        if cache.config != self.config:
            raise ValueError("cache must be made with the config of this decoder, got another")
        if cache.length == 0:
            cache.batch = hidden.shape[0]
        elif memory is not None:
            raise ValueError(
                "memory must be given with the first call of a cache only, got one after "
                f"{cache.length} tokens, whose states hold the old one: begin a new cache"
            )
        elif hidden.shape[0] != cache.batch:
            raise ValueError(
                f"inputs must hold the {cache.batch} sequences of the cache, got "
                f"{hidden.shape[0]}: KVCache.reorder changes them"
            )

    def _memories(self, memory: Tensor | None, hidden: Tensor) -> list[Tensor | None]:
        config = self.config
        memories: list[Tensor | None] = [None] * config.layers
        if memory is None:
            return memories
        per_layer = config.cross == "per_layer"
        sets = (len(config.crossing),) if per_layer else ()
        wanted = (hidden.shape[0], *sets, config.slots, config.slot_width)
        shape = tuple(memory.shape)
        fits = len(shape) == len(wanted) and all(
            want in (None, got) for want, got in zip(wanted, shape, strict=True)
        )
        if config.cross == "none" or not fits or shape[-2] == 0:
            names = "(batch, layers, slots, width)" if per_layer else "(batch, slots, width)"
            raise ValueError(
                f"memory must be {names} = {tuple('any' if w is None else w for w in wanted)} "
                f"for cross={config.cross!r}, got {shape}"
            )
        memory = self.memory_norm(memory.to(hidden.dtype))
        for n, l in enumerate(config.crossing):
            memories[l] = memory[:, n] if per_layer else memory
        return memories
