"""Networks that several packages share."""

from lv_core.nn.mlp import mlp
from lv_core.nn.transformer import Decoder, DecoderConfig, KVCache, token_nll
from lv_core.nn.unet1d import UNet1d

__all__ = ["Decoder", "DecoderConfig", "KVCache", "UNet1d", "mlp", "token_nll"]
