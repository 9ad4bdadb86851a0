"""Networks that several packages share."""

from lv_core.nn.mlp import mlp

__all__ = ["mlp"]
