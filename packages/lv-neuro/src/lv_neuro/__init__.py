"""Head-direction cells as a learned representation of the rotation group."""

from importlib.metadata import version

__version__ = version("lv-neuro")
