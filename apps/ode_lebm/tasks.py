"""What is forecast from what: the protocols of each data set."""

from collections.abc import Mapping
from dataclasses import dataclass

from apps.ode_lebm.data import Bundle
from lv_core import stream
from lv_dynamics import Sequences

__all__ = ["Task", "tasks_of"]


@dataclass(frozen=True)
class Task:
    """Rows that a model sees, and blocks of rows that are scored."""

    name: str
    seen: Sequences
    target: Sequences
    blocks: Mapping[str, tuple[int, int]]
    """First row and row after the last, by name; errors of a block are means over its rows."""


def tasks_of(system: str, data: Bundle, seed: int) -> list[Task]:
    """Returns the tasks on the test set; the first one is the main one, drawn in figures."""
    test = data.test
    rows = test.times.shape[1]
    if system == "sinusoid":
        return [
            _prefix(test, 50, {"to 50": (0, 50), "to 150": (0, 150), "ahead": (50, 150)}),
            _prefix(test, 25, {"to 50": (0, 50), "to 150": (0, 150), "ahead": (25, 150)}),
            _prefix(test, 10, {"to 50": (0, 50), "to 150": (0, 150), "ahead": (10, 150)}),
        ]
    if system == "predator_prey":
        return [
            _prefix(test, 100, {"to 100": (0, 100), "to 300": (0, 300), "ahead": (100, 300)}),
            _prefix(test, 40, {"to 100": (0, 100), "to 300": (0, 300), "ahead": (40, 300)}),
        ]
    if system == "bouncing_ball":
        return [
            _prefix(test, 20, {"to 20": (0, 20), "to 40": (0, 40), "ahead": (20, 40)}),
            _prefix(test, 10, {"to 20": (0, 20), "ahead": (10, 40)}),
        ]
    if system == "rotating_digits":
        return [
            _prefix(test, 15, {"first turn": (0, 15), "next turns": (15, 45)}),
            _prefix(test, 5, {"first turn": (0, 15), "next turns": (15, 45)}),
        ]
    if system == "hopper":
        third = rows // 3
        thinned = test.prefix(third).thin(0.3, generator=stream(seed, "task", "thin"))
        blocks = {"ahead": (third, rows), "seen": (0, third)}
        return [
            _prefix(test, third, blocks),
            Task(f"30 % of {third} seen", thinned, test, blocks),
        ]
    if system == "mocap":
        return [_prefix(test, 75, {"all": (0, rows)}), _prefix(test, 3, {"all": (0, rows)})]
    shares = (0.1, 0.2, 0.3, 0.5) if system == "hopper_windows" else (0.5, 0.3, 0.2, 0.1)
    found = [
        Task(
            f"{share:.0%} seen",
            test.thin(share, generator=stream(seed, "task", f"{share:.2f}")),
            test,
            {"all": (0, rows)},
        )
        for share in shares
    ]
    if system == "periodic":
        found.append(_prefix(test, rows // 2, {"ahead": (rows // 2, rows)}))
    return found


def _prefix(test: Sequences, count: int, blocks: Mapping[str, tuple[int, int]]) -> Task:
    rows = test.times.shape[1]
    cut = {name: (first, min(last, rows)) for name, (first, last) in blocks.items()}
    return Task(f"{count} seen", test.prefix(min(count, rows)), test, cut)
