"""Loaders of data sets and tables; each takes a path and never looks for data itself."""

from lv_dynamics.loaders.hopper import HopperSet, read_hopper
from lv_dynamics.loaders.mnist import Digits, read_idx, read_mnist
from lv_dynamics.loaders.mocap import WalkingSet, read_mocap35
from lv_dynamics.loaders.table import MISSING, read_csv

__all__ = [
    "MISSING",
    "Digits",
    "HopperSet",
    "WalkingSet",
    "read_csv",
    "read_hopper",
    "read_idx",
    "read_mnist",
    "read_mocap35",
]
