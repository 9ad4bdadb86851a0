"""Several latents in one vector, by name: `lv_core.pack.Pack`, which the layered prior uses."""

from lv_core.pack import Pack

__all__ = ["Pack"]
