"""The shared decoder: a causal Transformer that cross-attends to latent slots."""

from lv_core.nn.transformer.cache import KVCache
from lv_core.nn.transformer.config import DecoderConfig
from lv_core.nn.transformer.decoder import Decoder
from lv_core.nn.transformer.loss import token_nll
from lv_core.nn.transformer.rotary import rotary_angles, rotate
from lv_core.nn.transformer.window import causal_attention

__all__ = [
    "Decoder",
    "DecoderConfig",
    "KVCache",
    "causal_attention",
    "rotary_angles",
    "rotate",
    "token_nll",
]
