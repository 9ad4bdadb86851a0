"""Learning a model: settings, updates, and the whole run in one call."""

from lv_dynamics.learning.fit import fit
from lv_dynamics.learning.learner import Learner
from lv_dynamics.learning.settings import LearningSettings
from lv_dynamics.learning.validation import reconstruction_error

__all__ = ["Learner", "LearningSettings", "fit", "reconstruction_error"]
