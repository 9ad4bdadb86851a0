"""Watching whether a prior learns, and saying in words when it does not."""

from lv_priors.health.base import Health
from lv_priors.health.energy import EnergyHealth, SymbolHealth
from lv_priors.health.layered import LayeredHealth
from lv_priors.health.transport import TransportHealth

__all__ = ["EnergyHealth", "Health", "LayeredHealth", "SymbolHealth", "TransportHealth"]
