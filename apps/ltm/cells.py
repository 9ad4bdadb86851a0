"""Which models a run trains.

A cell is one model with one seed: a variant of the same decoder, or a piece of the study.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from apps.ltm.settings import Settings, Train, Variant
from lv_text import Inference, ThoughtConfig

__all__ = ["Cell", "named", "plan"]

Kind = Literal["ar", "thought", "encoder"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model to train."""

    name: str
    variant: str
    """What it is compared as; seeds of one variant share it."""
    seed: int
    kind: Kind
    """ar: no latents; thought: fast steps, from an encoder if the method is semi_amortised;
    encoder: an encoder alone"""
    model: ThoughtConfig = field(default_factory=ThoughtConfig)
    inference: Inference = field(default_factory=Inference)
    train: Train = field(default_factory=Train)

    @property
    def encoded(self) -> bool:
        """Whether there is an encoder."""
        return self.kind == "encoder" or self.inference.method == "semi_amortised"

    def record(self) -> dict[str, Any]:
        """Returns what a results file keeps."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Cell":
        """Returns the cell of `record`."""
        parts = {
            "model": ThoughtConfig(**record["model"]),
            "inference": Inference(**record["inference"]),
            "train": Train(**record["train"]),
        }
        names = ("name", "variant", "seed", "kind")
        return cls(**{name: record[name] for name in names}, **parts)


def plan(settings: Settings, vocabulary: int) -> list[Cell]:
    """Returns all cells of a run, seed by seed, so that a cut run has whole seeds."""
    cells = []
    for k in range(settings.seeds):
        for variant in settings.variants:
            few = variant in ("path_sum", "wide") and settings.parity_seeds
            if not few or k < settings.parity_seeds:
                cells.append(named(settings, variant, settings.seed + k, vocabulary))
    return cells


def named(settings: Settings, variant: Variant, seed: int, vocabulary: int) -> Cell:
    """Returns the cell of one of the app's variants."""
    inference, train = settings.inference, settings.train
    kind: Kind = {"ar": "ar", "amortised": "encoder"}.get(variant, "thought")  # type: ignore[assignment]
    changes: dict[str, dict[str, Any]] = {
        "fixed": {"noise": "shared", "method": "vb"},
        "path_sum": {"noise": "shared", "method": "vb"},
        "wide": {"noise": "shared", "method": "vb"},
        "fresh": {"noise": "fresh", "method": "vb"},
        "amortised": {"method": "amortised"},
        "semi_amortised": {"noise": "fresh", "method": "semi_amortised"},
    }
    inference = replace(inference, **changes.get(variant, {}))
    if variant == "path_sum":
        train = replace(train, slow_grad="path_sum")
    model = replace(settings.model, vocabulary=vocabulary)
    if variant == "wide":
        model = replace(model, slots=2 * model.slots)
    return Cell(
        name=f"{variant}-{seed}".replace("_", "-"),
        variant=variant,
        seed=seed,
        kind=kind,
        model=model,
        inference=inference,
        train=train,
    )
