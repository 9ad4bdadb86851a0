"""Latent neural ODEs with energy-based priors: sequences on their own time grids, no encoder."""

from importlib.metadata import version

__version__ = version("lv-dynamics")

__all__: list[str] = []
