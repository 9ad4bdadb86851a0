"""What belongs to a data set rather than to a budget: sizes, wiring, noise, solver.

Latent sizes and wiring of static variables are those of the MoNODE code for its data sets and of
the latent ODE code for the hopper; where neither says anything the choice is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lv_core.nn.mlp import Activation
from lv_dynamics.field import FieldActivation
from lv_dynamics.solve import Method

__all__ = ["SYSTEMS", "SystemPlan"]


@dataclass(frozen=True, kw_only=True)
class SystemPlan:
    """A data set's own settings."""

    title: str
    """In tables and figures."""
    state: int
    """d, beside static variables."""
    static: int
    """q."""
    counted: bool = True
    """Whether a model without static variables has d + q dynamic ones instead of d."""
    in_dynamics: bool = True
    """Whether static variables enter the vector field."""
    in_emission: bool = False
    """Whether they enter the emission."""
    field_hidden: tuple[int, ...] = (100, 100)
    field_activation: FieldActivation = "tanh"
    emission_hidden: tuple[int, ...] = (100, 100)
    emission_activation: Activation = "tanh"
    sigma: float | Literal["learned"] = "learned"
    """Standard deviation of the noise, in units of the scaled data."""
    method: Method = "rk4"
    step_size: float = 0.1
    """Of the solver, in the time unit of the data."""
    scaled: bool = True
    """Whether the model sees values of mean 0 and deviation 1 in each channel."""
    clock: float = 1.0
    """Factor on the times, so that they are of the order of the dynamics."""
    learning: Mapping[str, Any] = field(default_factory=dict)
    """What learning needs to do otherwise."""


SYSTEMS: dict[str, SystemPlan] = {
    "sinusoid": SystemPlan(title="sinusoids", state=4, static=4, scaled=False, step_size=0.2),
    "predator_prey": SystemPlan(
        title="predator and prey",
        state=8,
        static=8,
        step_size=0.2,
        # what has been observed of them is never negative and has sharp peaks
        emission_activation="silu",
    ),
    "bouncing_ball": SystemPlan(
        title="bouncing ball",
        state=8,
        static=4,
        emission_hidden=(200, 400),
        emission_activation="silu",
        sigma=0.3,
        scaled=False,
        clock=0.1,  # frames are one time unit apart
    ),
    "rotating_digits": SystemPlan(
        title="rotating digits",
        state=16,
        static=16,
        in_dynamics=False,
        in_emission=True,
        emission_hidden=(200, 400),
        emission_activation="silu",
        sigma=0.3,
        scaled=False,
    ),
    "hopper": SystemPlan(
        title="hopper, extrapolation",
        state=15,
        static=5,
        counted=False,
        in_emission=True,
        emission_activation="silu",
        field_activation="silu",
        clock=5.0,  # a trajectory of one second
        step_size=0.25,
    ),
    "hopper_windows": SystemPlan(
        title="hopper, interpolation",
        state=15,
        static=5,
        counted=False,
        in_emission=True,
        emission_activation="silu",
        field_activation="silu",
        clock=5.0,
        step_size=0.125,
        learning={"shown": "subsets"},
    ),
    "periodic": SystemPlan(
        title="periodic, irregular",
        state=4,
        static=4,
        in_emission=True,
        step_size=0.2,
        learning={"shown": "subsets"},
    ),
    "mocap": SystemPlan(
        title="walking",
        state=8,
        static=16,
        in_emission=True,
        field_hidden=(128, 128),
        emission_hidden=(128, 128),
        emission_activation="silu",
        step_size=0.2,
    ),
}
