"""Normalization of token states."""

from torch import nn

from lv_core.nn.transformer.config import DecoderConfig

__all__ = ["make_norm"]


def make_norm(config: DecoderConfig, width: int | None = None) -> nn.Module:
    """Returns a normalization layer of the decoder's kind.

    Arguments:
        config: Settings of the decoder.
        width: Features; None = the decoder's width.
    """
    size = config.width if width is None else width
    if config.norm == "rms":
        return nn.RMSNorm(size, eps=config.norm_eps)
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.bias)
