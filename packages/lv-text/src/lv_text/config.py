"""Sizes of a language model with latent thoughts."""

from dataclasses import dataclass
from typing import Literal

from lv_core.nn import DecoderConfig

__all__ = ["ThoughtConfig"]


@dataclass(frozen=True, kw_only=True)
class ThoughtConfig:
    """Sizes of a `ThoughtModel`; the defaults are LTM-Small of the paper.

    Raises:
        ValueError: If a size is not positive or sizes do not fit each other.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, model sizes; the number of layers of LTM-Small follows from its parameters.
    """

    vocabulary: int = 50_258
    """Token ids."""
    width: int = 512
    """Width D of token states."""
    layers: int = 3
    """Blocks."""
    heads: int = 8
    """Attention heads."""
    length: int = 1024
    """Most tokens of a sequence."""
    window: int | None = 256
    """Tokens that each token sees in one layer, itself included; None = all before it."""
    slots: int = 8
    """Latent vectors that one layer reads; the paper's N_z counts those of all layers."""
    slot_width: int | None = None
    """Width of a latent vector; None = `width`, as in the paper."""
    z_layers: int | None = None
    """Only the last so many layers read latents; None = all, as in the paper."""
    z_rope: Literal["spread", "official", "none"] = "spread"
    """Rotary positions of the latents: spread over the sequence, as the released code has them
    (crowded at the beginning), or none."""
    memory_norm: Literal["none", "per_layer"] = "none"
    """Normalization of latents before each layer's keys and values; the paper has none."""
    dropout: float = 0.0
    """Probability of dropping residual branches in training."""
    scaled_init: Literal["residual", "official"] = "residual"
    """Which projections start smaller: those that write to the residual stream, or those of the
    released code."""

    def __post_init__(self) -> None:
        if self.z_layers is not None and not 1 <= self.z_layers <= self.layers:
            raise ValueError(
                f"z_layers must be in 1..layers = {self.layers} or None for all, got "
                f"{self.z_layers}; for no latents call the model with z=None"
            )
        if self.slots < 1:
            raise ValueError(f"slots must be positive, got {self.slots}")
        self.decoder()  # the decoder checks the rest

    @classmethod
    def small(cls, vocabulary: int = 50_258) -> "ThoughtConfig":
        """Returns LTM-Small: 3 layers, 24 latent vectors; 38.4 M parameters with GPT-2's ids."""
        return cls(vocabulary=vocabulary)

    @classmethod
    def medium(cls, vocabulary: int = 50_258) -> "ThoughtConfig":
        """Returns LTM-Medium: 6 layers, 24 latent vectors; 51.0 M parameters with GPT-2's ids."""
        return cls(vocabulary=vocabulary, layers=6, slots=4)

    @classmethod
    def large(cls, vocabulary: int = 50_258) -> "ThoughtConfig":
        """Returns LTM-Large: 12 layers, 96 latent vectors; 76.3 M parameters with GPT-2's ids."""
        return cls(vocabulary=vocabulary, layers=12, slots=8)

    @classmethod
    def tiny(cls, vocabulary: int = 1024) -> "ThoughtConfig":
        """Returns a model for one CPU core: 3 layers of width 128, 12 latent vectors.

        Its 12 latent numbers per token are those of LTM-Small.
        """
        return cls(vocabulary=vocabulary, width=128, heads=4, length=128, window=32, slots=4)

    @property
    def reading(self) -> int:
        """Layers that read latents."""
        return self.layers if self.z_layers is None else self.z_layers

    @property
    def event(self) -> tuple[int, int, int]:
        """Shape of a latent: (reading layers, slots, slot width)."""
        return self.reading, self.slots, self.slot_width or self.width

    def decoder(self) -> DecoderConfig:
        """Returns the settings of the decoder."""
        first = self.layers - self.reading
        return DecoderConfig(
            vocabulary=self.vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            max_length=self.length,
            cross="per_layer",
            cross_layers=tuple(range(first, self.layers)) if first else None,
            memory_width=self.slot_width,
            memory_norm=self.memory_norm,
            slots=self.slots,
            z_rope=self.z_rope,
            window=self.window,
            dropout=self.dropout,
            scaled_init=self.scaled_init,
        )
