"""Networks that several packages share."""

from lv_core.nn.mlp import mlp
from lv_core.nn.unet1d import UNet1d

__all__ = ["UNet1d", "mlp"]
