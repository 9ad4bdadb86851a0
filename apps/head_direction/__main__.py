"""`python -m apps.head_direction [preset] [--flags]`: train, measure, compare, report."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apps._runner import Run, UserError, cli_errors, parse
from apps.head_direction.settings import Settings

PROG = "python -m apps.head_direction"
HERE = Path(__file__).parent
NOTES = (
    "The heading x of an animal is coded by a population v(x) of non-negative rates with norm "
    "one; turning the head by dx updates it by a recurrent network, v(x + dx) = F(v(x), dx). "
    "Learned are the codes and F together, from nothing but that equation and a target for how "
    "similar two codes are.\n\n"
    "Paper's claims: (C1) single neurons have bump-shaped tuning, (C2) the codes form a circle "
    "in their first two principal components, (C3) repeated turns are integrated accurately, "
    "(C4) all this for a fully connected and for a convolutional network.\n\n"
    "Ours are all settings, losses, protocols and measures: no code was published and the "
    "paper's numbers could not be read. Its codes are trained on simulated pairs only; recorded "
    "cells are shown beside the models, nothing is fitted to them, and they have baseline rates "
    "that the models have not."
)
_MAY_CHANGE = ("processes", "publish", "threads", "save_every")


def main(argv: Sequence[str]) -> None:
    """Runs the app with the words of the command line."""
    with cli_errors(PROG, ValueError, FloatingPointError):
        preset, settings = parse(Settings, HERE / "presets", argv, prog=PROG)
        _check(settings)
        run = Run(settings, app="head_direction", preset=preset, argv=argv, may_change=_MAY_CHANGE)
        run.load("cells")
        run.save(0, "cells")  # marks the folder as one that --resume may go on with
        _report(run, settings)


def _check(settings: Settings) -> None:
    for name in ("seeds", "processes", "save_every"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(settings, name)}")
    if not settings.variants:
        raise UserError("variants must name at least one model")
    if settings.precision != "fp32":
        raise UserError("this app runs in float32 alone: leave out --precision")
    if len(set(settings.variants)) < len(settings.variants):
        raise UserError(f"variants must name each model once, got {settings.variants}")
    sweep, evaluate = settings.sweep, settings.evaluate
    if bool(sweep.sigmas) != bool(sweep.neurons):
        raise UserError("sweep.sigmas and sweep.neurons must both be given, or neither")
    for name in ("sigmas", "neurons", "variants"):
        if len(set(getattr(sweep, name))) < len(getattr(sweep, name)):
            raise UserError(f"sweep.{name} must not repeat a value, got {getattr(sweep, name)}")
    for name in ("walks", "segments", "seconds"):
        if getattr(evaluate, name) < 1:
            raise UserError(f"evaluate.{name} must be positive, got {getattr(evaluate, name)}")
    if min(evaluate.lengths, default=0) < 1:
        raise UserError(f"evaluate.lengths must be positive, got {evaluate.lengths}")
    if 0 not in evaluate.noise or min(evaluate.noise) < 0:
        raise UserError(
            f"evaluate.noise must hold 0 and no negative level, got {evaluate.noise}: the claims "
            "are about path integration without noise"
        )


def _report(run: Run, settings: Settings) -> None:
    from apps._runner.pool import run_pieces
    from apps.head_direction import figures, results
    from apps.head_direction.cells import plan
    from apps.head_direction.recorded import load_cells
    from apps.head_direction.train import build, load_model, run_cell

    cells = plan(settings)
    for cell in cells:  # what cannot work is told before anything is computed
        build(cell, replace(settings, seeds=1))
    recorded = load_cells(run, settings)
    folder = run.folder / "cells"
    folder.mkdir(exist_ok=True)
    device = run.device.type
    processes = 1 if device == "cuda" else settings.processes
    pieces = [(cell, settings, folder, recorded.turns, device) for cell in cells]
    records = run_pieces(run_cell, pieces, processes=processes)
    run.save(1, "cells")  # holds the time they took, should only the report be made again
    models = {
        record["name"]: load_model(record, folder)
        for record in records
        if record["group"] == "main"
    }
    try:
        run.finish(
            results.metrics(records, recorded.record),
            results.claims(settings, records, recorded.record),
            figures.draw(settings, records, models, recorded),
            tables=results.tables(records, recorded.record),
            notes=NOTES,
            seeds=records[0]["seeds"],
        )
    finally:  # with --check a claim that does not hold ends the program in finish
        if settings.publish and (run.folder / "result.json").exists():
            print(f"published: {run.publish(HERE.parents[1] / 'results')}")


if __name__ == "__main__":
    main(sys.argv[1:])
