"""The study: which honest use of latents, if any, beats the same decoder without them?

Each piece changes one thing or a few, and is trained with as many operations as the
autoregressive model of the same study, inference included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from apps.ltm.cells import Cell, Kind
from apps.ltm.operations import equal_iterations
from apps.ltm.settings import Settings

__all__ = ["PIECES", "Piece", "study_cells"]

Changes = Mapping[str, Any]

# Latents that begin at the prior: no divergence is left over by too few steps.
AT_PRIOR: Changes = {"init_log_var": 0.0, "init_log_var_noise": 0.0, "weight_decay": 0.0}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One configuration."""

    why: str
    """What it tries."""
    kind: Kind = "thought"
    model: Changes = field(default_factory=dict)
    inference: Changes = field(default_factory=dict)
    train: Changes = field(default_factory=dict)


LATE: Changes = {"late": 0.9}
HALF: Changes = {"late": 0.9, "known": 0.5}

PIECES: dict[str, Piece] = {
    "ar": Piece(why="no latents: the baseline", kind="ar"),
    "paper": Piece(why="as the paper's algorithm: fresh noise, 16 steps, from the start"),
    "four-steps": Piece(why="fewer steps, more updates", inference={"steps": 4}),
    "at-prior": Piece(
        why="posteriors begin at the prior, so that no divergence is left over",
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
    ),
    "samples": Piece(
        why="several draws per step: less noisy gradients",
        inference={"steps": 4, "lr": 0.2, "samples": 4, **AT_PRIOR},
    ),
    "free-nats": Piece(
        why="a divergence of 0.1 nats per token costs nothing",
        inference={"steps": 8, "lr": 0.1, "free_nats": 51.2, **AT_PRIOR},
    ),
    "few-latents": Piece(
        why="one latent vector, read by the last layer alone",
        model={"slots": 1, "z_layers": 1},
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
    ),
    "wide-latents": Piece(
        why="one latent vector four times as wide",
        model={"slots": 1, "z_layers": 1, "slot_width": 384},
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
    ),
    "warm": Piece(
        why="inference goes on where the last visit ended",
        inference={"steps": 4, "lr": 0.1, **AT_PRIOR},
        train={"warm_start": True},
    ),
    "semi": Piece(
        why="an encoder starts the fit",
        inference={"method": "semi_amortised", "steps": 2, "lr": 0.05, **AT_PRIOR},
    ),
    "vae": Piece(why="an encoder alone", kind="encoder", inference={"method": "amortised"}),
    "late": Piece(
        why="the decoder learns alone first: cheap updates, then latents",
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
        train=LATE,
    ),
    "late-few": Piece(
        why="late, one latent vector in the last layer",
        model={"slots": 1, "z_layers": 1},
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
        train=LATE,
    ),
    "half": Piece(
        why="late; latents from the first half, learning on both: trained for prediction",
        inference={"steps": 8, "lr": 0.1, **AT_PRIOR},
        train=HALF,
    ),
    "half-map": Piece(
        why="late, from the first half, the most probable latent: a learned prompt",
        inference={"method": "map", "steps": 4, "lr": 0.1, **AT_PRIOR},
        train=HALF,
    ),
    "half-map-upper": Piece(
        why="the same, latents in the last layer alone: cheaper steps",
        model={"z_layers": 1},
        inference={"method": "map", "steps": 4, "lr": 0.1, **AT_PRIOR},
        train=HALF,
    ),
    "half-vae": Piece(
        why="late, an encoder of the first half",
        kind="encoder",
        inference={"method": "amortised"},
        train=HALF,
    ),
    "half-semi": Piece(
        why="late, from the first half, an encoder starts the fit",
        inference={"method": "semi_amortised", "steps": 2, "lr": 0.05, **AT_PRIOR},
        train=HALF,
    ),
}


def study_cells(settings: Settings, vocabulary: int) -> list[Cell]:
    """Returns the pieces of a study: one seed of each, then the other seeds of the finalists."""
    given = settings.study
    names = list(PIECES) if given.pieces == ("all",) else list(given.pieces)
    cells = [_cell(settings, name, settings.seed, vocabulary) for name in names]
    for k in range(1, settings.seeds):
        cells += [_cell(settings, name, settings.seed + k, vocabulary) for name in given.finalists]
    return cells


def _cell(settings: Settings, name: str, seed: int, vocabulary: int) -> Cell:
    base = Cell(
        name="ar",
        variant="ar",
        seed=seed,
        kind="ar",
        model=replace(settings.model, vocabulary=vocabulary),
        inference=settings.inference,
        train=settings.train,
    )
    piece = PIECES[name]
    cell = replace(
        base,
        name=f"{name}-{seed}",
        variant=name,
        kind=piece.kind,
        model=replace(base.model, **piece.model),
        inference=replace(base.inference, **piece.inference),
        train=replace(base.train, **piece.train),
    )
    iterations = equal_iterations(base, cell)
    warm_up = round(cell.train.warm_up * iterations / base.train.iterations)
    return replace(cell, train=replace(cell.train, iterations=iterations, warm_up=warm_up))
