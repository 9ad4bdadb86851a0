"""The data of a run: training, validation and test sequences, in the units of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apps._runner import UserError
from apps.ode_lebm.settings import Data, Settings
from apps.ode_lebm.systems import SYSTEMS
from lv_core import stream
from lv_dynamics import Scaling, Sequences
from lv_dynamics.loaders import read_hopper, read_mnist, read_mocap35
from lv_dynamics.systems import SPLITS, glyph_digits, hoppers, rotating_digits, split

if TYPE_CHECKING:
    from apps._runner import Run

__all__ = ["Bundle", "Pictures", "find_files", "load"]

INSIDE, OUTSIDE = tuple(range(8)), (8, 9)  # digits that are learned, and those that never are
WINDOW = 100  # hopper steps that interpolation is about
WALKS = "the recorded walks are no formula: give --data-sets.source files"


@dataclass(frozen=True)
class Pictures:
    """Digits that test sequences were made of."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Bundle:
    """The sets of one data set, scaled as the model sees them."""

    train: Sequences
    valid: Sequences
    test: Sequences
    outside: Sequences | None
    """Sequences unlike the training set, of the test set's length."""
    scaling: Scaling
    """From the units of the data to the model's; its inverse comes before every measure."""
    units: Scaling | None = None
    """From the units of the data to those in which errors are published, where they differ."""
    clock: float = 1.0
    """Model time over data time."""
    pictures: Pictures | None = None
    factors: tuple[str, ...] = field(default=())
    """True parameters whose recovery is measured."""

    def restored(self, values: Tensor) -> Tensor:
        """Returns model values in the units in which errors are reported."""
        raw = self.scaling.invert(values)
        return raw if self.units is None else self.units.apply(raw)

    def deviations(self, values: Tensor) -> Tensor:
        """Returns standard deviations likewise."""
        raw = self.scaling.invert_deviation(values)
        return raw if self.units is None else raw / self.units.scale.abs().to(raw)


def find_files(run: "Run", settings: Settings) -> dict[str, Path]:
    """Returns the folders of the data sets that a run needs as files."""
    if settings.data_sets.source == "made":
        if "mocap" in settings.systems:
            raise UserError(WALKS)
        return {}
    needed = {"rotating_digits": "mnist", "mocap": "mocap35"}
    needed |= {"hopper": "hopper", "hopper_windows": "hopper"}
    names = {needed[system] for system in settings.systems if system in needed}
    return {name: run.data(name) for name in sorted(names)}


def load(system: str, settings: Settings, files: Mapping[str, Path], seed: int) -> Bundle:
    """Returns the data of a system.

    Arguments:
        system: Its name.
        settings: Of the run.
        files: Folders by name, from `find_files`.
        seed: Of the data.
    """
    given, plan = settings.data_sets, SYSTEMS[system]
    units, pictures = None, None
    if system == "rotating_digits":
        parts, pictures = _digits(given, files, seed)
    elif system in ("hopper", "hopper_windows"):
        parts, units = _hopper(given, files, windows=system == "hopper_windows", seed=seed)
    elif system == "mocap":
        walks = read_mocap35(files["mocap35"] / "mocap35.mat")
        parts = {"train": walks.train, "valid": walks.valid, "test": walks.test}
    else:
        names = [name for name in ("train", "valid", "test", "shifted") if name in SPLITS[system]]
        parts = {
            name: split(system, name, seed=seed, n=_count(given, name) or None)  # type: ignore[arg-type]
            for name in names
        }
    one = torch.ones(())
    if system == "mocap":
        # Joints move by very different angles, and some never do: one scale for all of them.
        values = parts["train"].values
        scaling = Scaling(offset=values.mean((0, 1)), scale=values.std())
    elif plan.scaled:
        scaling = parts["train"].scaling()
    else:
        scaling = Scaling(offset=0 * one, scale=one)
    seen = {name: _clocked(part.scaled(scaling), plan.clock) for name, part in parts.items()}
    return Bundle(
        train=seen["train"],
        valid=seen["valid"],
        test=seen["test"],
        outside=seen.get("shifted"),
        scaling=scaling,
        units=units,
        clock=plan.clock,
        pictures=pictures,
        factors=_FACTORS.get(system, ()),
    )


_FACTORS = {
    "sinusoid": ("frequency", "amplitude"),
    "predator_prey": ("alpha", "beta", "gamma", "delta"),
    "bouncing_ball": ("friction",),
    "periodic": ("frequency", "offset"),
}


def _count(given: Data, part: str) -> int:
    return int(getattr(given, "test" if part == "shifted" else part))


def _clocked(sequences: Sequences, factor: float) -> Sequences:
    return Sequences(
        sequences.times * factor,
        sequences.values,
        sequences.mask,
        sequences.lengths,
        sequences.factors,
    )


def _digits(
    given: Data, files: Mapping[str, Path], seed: int
) -> tuple[dict[str, Sequences], Pictures]:
    """Returns turning digits 0 to 7; "shifted" are the digits that training never shows."""
    if given.source == "files":
        folder = files["mnist"]
        found = read_mnist(
            folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz"
        )
        images, labels = found.images, found.labels
    else:
        glyphs = glyph_digits(2000, generator=stream(seed, "data", "glyphs"))
        images, labels = glyphs.images, glyphs.labels
    parts = {
        name: split(
            "rotating_digits",
            name,  # type: ignore[arg-type]
            seed=seed,
            n=_count(given, name) or None,
            images=images,
            labels=labels,
            classes=INSIDE,
        )
        for name in ("train", "valid", "test")
    }
    held = slice(round(0.9 * len(images)), None)  # the pictures of the test set
    parts["shifted"] = rotating_digits(
        images[held],
        labels[held],
        len(parts["test"]),
        classes=OUTSIDE,
        loops=3,
        generator=stream(seed, "data", "unseen digits"),
    )
    return parts, Pictures(images[held], labels[held])


def _hopper(
    given: Data, files: Mapping[str, Path], *, windows: bool, seed: int
) -> tuple[dict[str, Sequences], Scaling]:
    if given.source == "files":
        found = read_hopper(files["hopper"] / "hopper_2000.npz")
        train, test, units = found.train, found.test, found.scaling
    else:
        count = (given.train or 1600) + (given.valid or 100), given.test or 400
        train, test = hoppers(count[0]), hoppers(count[1], skip=8000)
        values = train.values.flatten(0, 1)
        units = Scaling.by_maximum(values.amin(0), values.amax(0))
    # The last training trajectories choose among weights: the set has no part for that.
    held = given.valid or 100
    test = test[: given.test] if given.test else test
    first = train[: min(len(train) - held, given.train or len(train))]
    parts = {"train": first, "valid": train[-held:], "test": test}
    if windows:
        for name, part in parts.items():
            generator = stream(seed, "data", "windows", name)
            latest = part.times.shape[1] - WINDOW + 1
            start = torch.randint(latest, (len(part),), generator=generator)
            parts[name] = part.window(start, WINDOW)
    return parts, units
