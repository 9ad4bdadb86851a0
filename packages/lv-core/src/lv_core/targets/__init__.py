"""Log densities to try samplers on: for tests, documentation and benchmarks.

Densities with known moments, normalizer or evidence, most with exact draws; and posteriors of
four standard models on data that come with them.
"""

from lv_core.targets.curved import Banana, DoubleWell, Funnel
from lv_core.targets.normal import Gaussian, LinearGaussian, Mixture
from lv_core.targets.posteriors import (
    Autoregression,
    EightSchools,
    OrderedMixture,
    ScaledRegression,
)

__all__ = [
    "Autoregression",
    "Banana",
    "DoubleWell",
    "EightSchools",
    "Funnel",
    "Gaussian",
    "LinearGaussian",
    "Mixture",
    "OrderedMixture",
    "ScaledRegression",
]
