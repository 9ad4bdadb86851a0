"""Learning a model in one call."""

from collections.abc import Callable

from torch import nn

from lv_dynamics.learning.learner import Learner
from lv_dynamics.learning.settings import LearningSettings
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences

__all__ = ["fit"]


def fit(
    model: EnergyOde,
    sequences: Sequences,
    settings: LearningSettings | None = None,
    *,
    seed: int = 0,
    validation: Sequences | Callable[[EnergyOde], float] | None = None,
    recognition: nn.Module | None = None,
    progress: Callable[[int, dict[str, float]], bool | None] | None = None,
) -> EnergyOde:
    """Learns the model in place and returns it, with the weights of lowest validation error.

    Arguments:
        model: The model.
        sequences: Training set.
        settings: How it is learned; None = the defaults.
        seed: Seed of batches, chains and noise.
        validation: Sequences, or a function of the model, that decides which weights are kept;
            None = the last ones.
        recognition: Network of the encoder method, learned in place.
        progress: Called as `progress(done, logs)` after each update; returning True stops.

    Raises:
        ValueError: If data, model and settings do not fit together.
        FloatingPointError: If learning diverges.

    Example:
        >>> model = fit(EnergyOde(OdeConfig(observed=(1,))), train, seed=0, validation=valid)
        >>> infer(model, test.prefix(25))
    """
    learner = Learner(
        model, sequences, settings, seed=seed, validation=validation, recognition=recognition
    )
    while learner.done < learner.settings.iterations:
        logs = learner.step()
        if progress is not None and progress(learner.done, logs):
            break
    return learner.load_best()
