"""Generators of sequences whose equations are known, for trials, tests and comparisons."""

from lv_dynamics.systems.bouncing_ball import (
    BallStates,
    ball_frames,
    ball_states,
    bouncing_balls,
)
from lv_dynamics.systems.damped_pendulum import pendulum
from lv_dynamics.systems.digit import rotating_digits
from lv_dynamics.systems.glyph import Glyphs, glyph_digits
from lv_dynamics.systems.hopper import hoppers
from lv_dynamics.systems.predator_prey import lotka_volterra
from lv_dynamics.systems.sinusoid import irregular_times, periodic, sinusoids
from lv_dynamics.systems.spiral import spirals
from lv_dynamics.systems.splits import SPLITS, Part, Size, System, split

__all__ = [
    "SPLITS",
    "BallStates",
    "Glyphs",
    "Part",
    "Size",
    "System",
    "ball_frames",
    "ball_states",
    "bouncing_balls",
    "glyph_digits",
    "hoppers",
    "irregular_times",
    "lotka_volterra",
    "pendulum",
    "periodic",
    "rotating_digits",
    "sinusoids",
    "spirals",
    "split",
]
