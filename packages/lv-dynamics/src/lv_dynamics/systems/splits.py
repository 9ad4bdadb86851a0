"""Training, validation and test sets in the sizes that papers use, each a function of a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lv_core import stream
from lv_dynamics.sequences import Sequences
from lv_dynamics.systems.bouncing_ball import bouncing_balls
from lv_dynamics.systems.damped_pendulum import pendulum
from lv_dynamics.systems.digit import rotating_digits
from lv_dynamics.systems.hopper import hoppers
from lv_dynamics.systems.predator_prey import lotka_volterra
from lv_dynamics.systems.sinusoid import irregular_times, periodic, sinusoids
from lv_dynamics.systems.spiral import spirals

__all__ = ["SPLITS", "Part", "Size", "System", "split"]

System = Literal[
    "bouncing_ball",
    "hopper",
    "pendulum",
    "periodic",
    "predator_prey",
    "rotating_digits",
    "sinusoid",
    "spiral",
]
Part = Literal["train", "valid", "test", "shifted"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a part is, and what is special about it."""

    n: int
    """number of sequences"""
    rows: int
    """points or frames in each"""
    options: tuple[tuple[str, Any], ...] = ()
    """arguments of the generator that differ in this part"""


def _sizes(
    train: tuple[int, int], valid: tuple[int, int], test: tuple[int, int]
) -> dict[str, Size]:
    sizes = {"train": train, "valid": valid, "test": test}
    return {part: Size(n=n, rows=rows) for part, (n, rows) in sizes.items()}


# train, valid and test are those of the papers except where a comment says "ours"; "shifted" is
# ours throughout: a test set with parameters outside the range of training.
SPLITS: dict[str, dict[str, Size]] = {
    "sinusoid": {
        **_sizes((300, 50), (50, 50), (50, 150)),
        "shifted": Size(n=50, rows=150, options=(("frequency", (1.0, 1.25)),)),
    },
    "predator_prey": {
        **_sizes((600, 100), (100, 100), (100, 300)),
        "shifted": Size(n=100, rows=300, options=(("growth", (3.5, 4.5)),)),
    },
    "bouncing_ball": {
        **_sizes((1000, 20), (100, 20), (100, 40)),
        "shifted": Size(n=100, rows=40, options=(("friction", (0.02, 0.04)),)),
    },
    # 45 frames are 3 turns of 15
    "rotating_digits": _sizes((1000, 16), (100, 45), (100, 45)),
    # ours: 100 for validation; the papers split 1000 into 800 and 200
    "periodic": {
        **_sizes((800, 100), (100, 100), (200, 100)),
        "shifted": Size(n=200, rows=100, options=(("frequency", (0.8, 1.0)),)),
    },
    "spiral": _sizes((1000, 100), (100, 100), (100, 100)),  # ours: validation and test
    "pendulum": {  # ours
        **_sizes((300, 50), (50, 50), (50, 150)),
        "shifted": Size(n=50, rows=150, options=(("length", (0.5, 1.0)),)),
    },
    # ours: the last 400 of the 8,000 training trajectories are for validation
    "hopper": _sizes((7600, 200), (400, 200), (2000, 200)),
}
_SKIPPED = {"train": 0, "valid": 7600, "test": 8000}
_SYSTEMS: dict[str, Callable[..., Sequences]] = {
    "bouncing_ball": bouncing_balls,
    "pendulum": pendulum,
    "predator_prey": lotka_volterra,
    "sinusoid": sinusoids,
}


def split(
    system: System, part: Part, *, seed: int = 0, n: int | None = None, **options: object
) -> Sequences:
    """Returns a part of the data of a system, in the sizes of SPLITS.

    Parts are independent draws: the generator is `lv_core.stream(seed, "data", system, part)`.
    Except: all parts of "periodic" share their times, which belong to the seed; "hopper" has the
    seed of its recipe (123) and ignores `seed`; "rotating_digits" needs `images` and `labels`, of
    which the parts take disjoint pictures (80, 10 and 10 percent, in their order).

    Arguments:
        system: Name of the system.
        part: "train", "valid", "test", or, where SPLITS has it, "shifted": a test set with
            parameters that training never sees.
        seed: Seed of the data.
        n: Number of sequences, when it shall not be the usual one.
        **options: Arguments of the generator function.

    Raises:
        ValueError: If the system has no such part.

    Example:
        >>> train, test = split("sinusoid", "train"), split("sinusoid", "test", noise=0.0)
    """
    if system not in SPLITS:
        raise ValueError(f"unknown system {system!r}; there are: {', '.join(get_args(System))}")
    if part not in SPLITS[system]:
        raise ValueError(f"{system} has no part {part!r}; there are: {', '.join(SPLITS[system])}")
    size = SPLITS[system][part]
    count = size.n if n is None else n
    arguments: dict[str, Any] = {**dict(size.options), **options}
    if system == "hopper":
        return hoppers(count, arguments.pop("rows", size.rows), skip=_SKIPPED[part], **arguments)
    generator = stream(seed, "data", system, part)
    if system == "rotating_digits":
        images, labels = arguments.pop("images"), arguments.pop("labels")
        cuts = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
        low, high = (round(share * len(images)) for share in cuts[part])
        loops = arguments.pop("loops", 0 if part == "train" else 3)
        return rotating_digits(
            images[low:high],
            labels[low:high],
            count,
            loops=loops,
            generator=generator,
            **arguments,
        )
    if system == "spiral":
        return spirals(count, generator=generator, **arguments)
    rows = arguments.pop("rows", size.rows)
    if system == "periodic":
        shared = stream(seed, "data", system, "times")
        horizon = arguments.get("horizon", 5.0)
        if "times" not in arguments:
            arguments["times"] = irregular_times(rows, horizon, generator=shared)
        return periodic(count, rows, generator=generator, **arguments)
    return _SYSTEMS[system](count, rows, generator=generator, **arguments)
