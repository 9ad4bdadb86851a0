"""Initial weights of the decoder."""

import torch
from torch import nn

from lv_core.nn.transformer.config import DecoderConfig

__all__ = ["start_weights"]


def start_weights(
    decoder: nn.Module, config: DecoderConfig, generator: torch.Generator | None
) -> None:
    """Draws all matrices from N(0, init_std^2), those that `scaled_init` names smaller.

    Biases start at 0, norms at 1. The smaller ones have init_std / sqrt(2 L), as in GPT-2, so that
    the residual stream does not grow with depth.

    Arguments:
        decoder: The network.
        config: Its settings.
        generator: Source of the numbers; None = torch's global one.
    """
    scaled = {
        "residual": ("attention.out.weight", "cross.out.weight", "mlp.down.weight"),
        "official": ("attention.out.weight", "cross.out.weight", "mlp.up.weight"),
    }[config.scaled_init]
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim >= 2:
                small = (2 * config.layers) ** -0.5 if name.endswith(scaled) else 1.0
                parameter.normal_(0.0, config.init_std * small, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
