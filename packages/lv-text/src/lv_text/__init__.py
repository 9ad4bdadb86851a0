"""Language models with latent thought vectors."""

from importlib.metadata import version

__version__ = version("lv-text")

__all__ = ["__version__"]
