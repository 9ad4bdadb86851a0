"""The papers' sampler settings by name, each with its source."""

from lv_core import GradientStep, Langevin, Sequence

__all__ = ["sgds_joint", "sgds_posterior", "sgds_prior", "sgds_shift"]

# SGDS, official code: s = 0.5 in the convention of lv (drift s^2/2), noise factor 0.5, hence
# temperature 0.25; 20 steps; the property term enters as a noise-free second stage.
_STEP_SIZE = 0.5
_TEMPERATURE = 0.25


def sgds_prior(steps: int = 20) -> Langevin:
    """Returns the chain of the prior: 20 tempered Langevin steps from N(0, I).

    Source: Kong et al., SGDS, 2023, official settings.
    """
    return Langevin(steps=steps, step_size=_STEP_SIZE, temperature=_TEMPERATURE)


def sgds_posterior(steps: int = 20, *, clip: float | None = None) -> Sequence:
    """Returns the two-stage posterior chain for a `Sum` with terms `prior`, `x` and `y`.

    Each step is a Langevin step on prior and likelihood of the string, then a noise-free step of
    the same size on the property term at the moved point.

    Source: Kong et al., SGDS, 2023, official settings; `clip` is ours.
    """
    langevin = Langevin(steps=1, step_size=_STEP_SIZE, temperature=_TEMPERATURE, clip=clip)
    guided = GradientStep(step_size=_STEP_SIZE, clip=clip)
    return Sequence(stages=((langevin, ("prior", "x")), (guided, ("y",))), steps=steps)


def sgds_shift(steps: int = 2, *, clip: float | None = None) -> Sequence:
    """Returns the property-conditioned chain: 2 warm steps, on terms `prior` and `y`.

    Source: Kong et al., SGDS, 2023, official settings (20 to 30 steps when started cold).
    """
    langevin = Langevin(steps=1, step_size=_STEP_SIZE, temperature=_TEMPERATURE, clip=clip)
    guided = GradientStep(step_size=_STEP_SIZE, clip=clip)
    return Sequence(stages=((langevin, ("prior",)), (guided, ("y",))), steps=steps)


def sgds_joint(steps: int = 20, *, clip: float | None = None) -> Langevin:
    """Returns the joint chain, the default for new work: one gradient for all terms.

    The noise then acts on the property term as well; step size and temperature are SGDS's.
    """
    return Langevin(steps=steps, step_size=_STEP_SIZE, temperature=_TEMPERATURE, clip=clip)
