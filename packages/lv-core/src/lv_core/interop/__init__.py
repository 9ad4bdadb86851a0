"""Targets from, and results for, other libraries: torch.distributions, Pyro, NumPyro, JAX."""

from lv_core.interop.batching import Batching
from lv_core.interop.distribution import DensityDistribution, Draw, to_torch_distribution
from lv_core.interop.from_distribution import DistributionTarget, from_distribution
from lv_core.interop.from_function import FunctionTarget, from_log_prob
from lv_core.interop.numpyro_model import from_numpyro
from lv_core.interop.potential import PotentialTarget, from_potential
from lv_core.interop.pyro_model import from_pyro
from lv_core.interop.sampled import Expectation, SampledPosterior
from lv_core.interop.to_potential import Potential, to_jax_potential, to_potential

__all__ = [
    "Batching",
    "DensityDistribution",
    "DistributionTarget",
    "Draw",
    "Expectation",
    "FunctionTarget",
    "Potential",
    "PotentialTarget",
    "SampledPosterior",
    "from_distribution",
    "from_log_prob",
    "from_numpyro",
    "from_potential",
    "from_pyro",
    "to_jax_potential",
    "to_potential",
    "to_torch_distribution",
]
