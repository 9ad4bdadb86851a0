"""Which models a run learns.

A cell is one data set, one variant or baseline, and one seed.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from apps.ode_lebm.settings import Settings
from apps.ode_lebm.systems import SYSTEMS
from lv_dynamics import OdeConfig, Solver
from lv_dynamics.learning import LearningSettings

__all__ = ["Cell", "config_of", "learning_of", "plan"]

Kind = Literal["ode", "baseline", "trivial"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model to learn, or the forecasts that need none."""

    system: str
    variant: str
    """What it is compared as."""
    seed: int
    kind: Kind

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.system}-{self.variant}-{self.seed}".replace("_", "-")

    def record(self) -> dict[str, Any]:
        """Returns what a results file keeps."""
        return {"name": self.name, **asdict(self)}


def plan(settings: Settings) -> list[Cell]:
    """Returns all cells, seed by seed, so that a cut run has whole seeds."""
    cells = [
        Cell(system=system, variant="trivial", seed=settings.seed, kind="trivial")
        for system in settings.systems
    ]
    for k in range(settings.seeds):
        for system in settings.systems:
            names = [(variant, "ode") for variant in settings.variants]
            names += [(baseline, "baseline") for baseline in settings.baselines]
            cells += [
                Cell(system=system, variant=name, seed=settings.seed + k, kind=kind)  # type: ignore[arg-type]
                for name, kind in names
            ]
    return cells


def config_of(cell: Cell, settings: Settings, observed: tuple[int, ...]) -> OdeConfig:
    """Returns the sizes of a cell's model."""
    given, system = settings.model, SYSTEMS[cell.system]
    prior, static, _ = cell.variant.split("-") if cell.kind == "ode" else ("gaussian", "plain", "")
    state, constant = given.state or system.state, given.static or system.static
    if static == "plain":  # as many numbers in all, unless the data set has none by nature
        state, constant = (state + constant if system.counted else state), 0
    image = len(observed) > 1
    return OdeConfig(
        observed=observed,
        state=state,
        static=constant,
        static_in_dynamics=system.in_dynamics,
        static_in_emission=system.in_emission,
        field_hidden=given.field_hidden or system.field_hidden,
        field_activation=system.field_activation,
        emission="conv" if image and given.conv else "perceptron",
        emission_hidden=given.emission_hidden or system.emission_hidden,
        emission_activation=system.emission_activation,
        emission_output="sigmoid" if image else "auto",
        sigma=system.sigma,
        prior="energy" if prior == "energy" else "gaussian",
        energy_hidden=given.energy_hidden,
        energy_l2=given.energy_l2,
        prior_steps=given.prior_steps,
        solver=Solver(method=system.method, step_size=given.step_size or system.step_size),
    )


def learning_of(cell: Cell, settings: Settings) -> LearningSettings:
    """Returns how a cell's model is learned."""
    way = cell.variant.rsplit("-", 1)[-1]
    changes = SYSTEMS[cell.system].learning
    found = replace(settings.learning, **{n: v for n, v in changes.items()})
    if way == "encoder":
        updates = round(found.iterations * settings.encoder_factor)
        return replace(found, method="encoder", iterations=updates)
    if way == "short":
        updates = round(found.iterations * settings.short_factor)
        return replace(found, method="short_run", iterations=updates)
    return replace(found, method="persistent")
