"""Settings of the shared decoder."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DecoderConfig"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Settings of a `Decoder`; the defaults are those of a small language model with latents.

    Raises:
        ValueError: If a size is not positive, two settings contradict each other or a needed one
            is missing; the message says which.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025 (`swiglu`, `rms`, `rope`, memory per layer); Kong et al., "Molecule Design by Latent
        Prompt Transformer", 2024 (`gelu`, `layer`, `learned`, shared memory).

    Example:
        >>> small = DecoderConfig(
        ...     vocabulary=50258, width=512, layers=3, heads=8, max_length=1024, window=256,
        ...     cross="per_layer", slots=8, z_rope="spread",
        ... )
    """

    vocabulary: int | None
    """Number of input token ids; None = inputs are embeddings `(batch, time, width)`."""
    width: int
    """Width D of the token states."""
    layers: int
    """Number of blocks L."""
    heads: int
    """Attention heads; they divide the width."""
    max_length: int
    """Most tokens of a sequence, cached ones included."""
    kv_heads: int | None = None
    """Heads of keys and values in self-attention; they divide `heads`. None = as many."""
    mlp: Literal["swiglu", "gelu", "relu"] = "swiglu"
    """`swiglu` = down(silu(gate x) * up x); `gelu` (tanh form) and `relu` = down(f(up x))."""
    mlp_width: int | None = None
    """Inner width; None = 8 D / 3 rounded up to a multiple of 32 for swiglu, else 4 D."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalization before each sub-layer and at the end."""
    norm_eps: float = 1e-5
    """Added to the mean square (rms) or variance (layer)."""
    positions: Literal["rope", "learned", "none"] = "rope"
    """`rope` rotates interleaved pairs (2i, 2i+1) of queries and keys; `learned` adds a vector."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    cross: Literal["per_layer", "shared", "none"] = "none"
    """Whether each cross-attending layer has its own slots or all read the same ones."""
    cross_layers: tuple[int, ...] | None = None
    """Layers that cross-attend, ascending; None = all. Layers below the first one do not depend
    on the memory: `Decoder.lower` computes them once."""
    memory_width: int | None = None
    """Width of a slot; None = D."""
    memory_norm: Literal["none", "shared", "per_layer"] = "none"
    """Normalization of the slots before their keys and values are formed."""
    slots: int | None = None
    """Slots that one layer reads; needed by `z_rope`, otherwise it only checks the memory."""
    z_rope: Literal["none", "spread", "official"] = "none"
    """Rotary positions in cross-attention. `none` = slots are a set; `spread` = queries at token
    positions, slots at 0, s, 2s, ... with s = max_length // slots; `official` = s = max_length //
    (slots of all layers together), as in the released code, where they cover the start only."""
    window: int | None = None
    """Token i sees tokens i - window + 1 to i; None = all before it."""
    bias: bool = False
    """Whether linear layers (never the output layer) and layer norms have biases."""
    dropout: float = 0.0
    """Probability of dropping embeddings, attention weights and residual branches in training."""
    outputs: int | None = None
    """Number of ids that `logits` scores; None = `vocabulary`."""
    tie: bool = True
    """Whether the output layer is the token embedding; no effect without a vocabulary."""
    init_std: float = 0.02
    """Standard deviation of initial weights."""
    scaled_init: Literal["residual", "official"] = "residual"
    """Weights started at init_std / sqrt(2 L): `residual` = what writes to the residual stream
    (attention out, MLP down); `official` = attention out and swiglu's up, as in the released
    code."""

    def __post_init__(self) -> None:
        sizes = {
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "max_length": self.max_length,
            "rope_theta": self.rope_theta,
            "norm_eps": self.norm_eps,
            "init_std": self.init_std,
        }
        sizes |= {n: getattr(self, n) for n in _OPTIONAL if getattr(self, n) is not None}
        for name, value in sizes.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                there = ", ".join(known)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are: {there}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} for {self.width}")
        if self.heads % self.key_heads:
            raise ValueError(f"kv_heads must divide heads, got {self.kv_heads} for {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        self._check_positions()
        self._check_cross()
        if (
            self.vocabulary is not None
            and self.tie
            and self.outputs not in (None, self.vocabulary)
        ):
            raise ValueError(
                f"outputs must equal vocabulary when tie=True, got {self.outputs} and "
                f"{self.vocabulary}: set tie=False for an output layer of its own"
            )
        if self.scaled_init == "official" and self.mlp != "swiglu":
            raise ValueError(
                f"scaled_init='official' scales swiglu's up projection, got mlp={self.mlp!r}: "
                "use scaled_init='residual'"
            )

    def _check_positions(self) -> None:
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(
                f"positions='rope' needs an even width per head, got {self.width} / {self.heads}"
            )
        if self.z_rope != "none":
            if self.positions != "rope" or self.cross == "none":
                raise ValueError(
                    f"z_rope={self.z_rope!r} needs positions='rope' and cross-attention, got "
                    f"positions={self.positions!r} and cross={self.cross!r}: use z_rope='none'"
                )
            if self.slots is None:
                raise ValueError(f"z_rope={self.z_rope!r} needs slots, got None")

    def _check_cross(self) -> None:
        chosen = self.cross_layers
        if chosen is None:
            return
        if self.cross == "none":
            raise ValueError(
                f"cross_layers={chosen} needs cross='per_layer' or 'shared', got 'none'"
            )
        if not chosen or list(chosen) != sorted({l for l in chosen if 0 <= l < self.layers}):
            raise ValueError(
                "cross_layers must be ascending different layers between 0 and "
                f"{self.layers - 1}, got {chosen}; cross='none' switches cross-attention off"
            )

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        """Heads of keys and values in self-attention."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def inner_width(self) -> int:
        """Inner width of the MLP."""
        if self.mlp_width is not None:
            return self.mlp_width
        if self.mlp == "swiglu":
            return -(-8 * self.width // 96) * 32
        return 4 * self.width

    @property
    def slot_width(self) -> int:
        """Width of a slot."""
        return self.width if self.memory_width is None else self.memory_width

    @property
    def crossing(self) -> tuple[int, ...]:
        """Layers that cross-attend."""
        if self.cross == "none":
            return ()
        return tuple(range(self.layers)) if self.cross_layers is None else self.cross_layers

    @property
    def slot_stride(self) -> int:
        """Distance between the rotary positions of neighboring slots; 0 without `z_rope`."""
        if self.z_rope == "none" or self.slots is None:
            return 0
        sets = len(self.crossing) if self.z_rope == "official" and self.cross != "shared" else 1
        return self.max_length // (self.slots * sets)


_OPTIONAL = (
    "vocabulary",
    "kv_heads",
    "mlp_width",
    "memory_width",
    "slots",
    "window",
    "outputs",
)
_CHOICES = {
    "mlp": ("swiglu", "gelu", "relu"),
    "norm": ("rms", "layer"),
    "positions": ("rope", "learned", "none"),
    "cross": ("per_layer", "shared", "none"),
    "memory_norm": ("none", "shared", "per_layer"),
    "z_rope": ("none", "spread", "official"),
    "scaled_init": ("residual", "official"),
}
