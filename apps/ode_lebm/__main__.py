"""`python -m apps.ode_lebm [preset] [--flags]`: learn, forecast, compare, report."""

import sys
from collections.abc import Sequence
from pathlib import Path

from apps._runner import Run, UserError, cli_errors, parse
from apps.ode_lebm.settings import Settings

PROG = "python -m apps.ode_lebm"
HERE = Path(__file__).parent
NOTES = (
    "A sequence is explained by one latent vector: the initial state z0 of an ordinary "
    "differential equation, which is carried through time and observed at any times, and static "
    "variables z_s, which stay constant. Their joint prior is N(0, I), tilted by a learned "
    "energy. There is no encoder: latents are inferred by Langevin chains through the solver.\n\n"
    "Paper's claims: forecasts beat those of variational latent ODEs; static variables pay at "
    "long horizons; the energy tells sequences of another kind apart; a Gaussian prior in place "
    "of the energy, or an encoder in place of chains, is worse.\n\n"
    "The paper's tables and settings could not be read and no code of it was found: the method "
    "is exact, settings are those of the code it builds on or ours. Our default learning begins "
    "with a warm-up in which latents are a table improved along with the weights; it is no part "
    "of the published algorithm, whose short cold chains are the variant energy-static-short. "
    "Errors of a block of rows are means over all its rows against noisy data, seen rows included "
    "where the block has them; 'seen' says what inference was given. The published MoNODE numbers "
    "are not comparable in one respect: its static variables are encoded from the whole test "
    "sequence, future included."
)
_MAY_CHANGE = ("processes", "publish", "threads", "save_every", "seeds", "variants", "baselines")


def main(argv: Sequence[str]) -> None:
    """Runs the app with the words of the command line."""
    with cli_errors(PROG, ValueError, FloatingPointError):
        preset, settings = parse(Settings, HERE / "presets", argv, prog=PROG)
        _check(settings)
        run = Run(settings, app="ode_lebm", preset=preset, argv=argv, may_change=_MAY_CHANGE)
        run.load("cells")
        run.save(0, "cells")  # marks the folder as one that --resume may go on with
        _report(run, settings)


def _check(settings: Settings) -> None:
    for name in ("seeds", "processes", "save_every"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(settings, name)}")
    for name in ("systems", "variants", "baselines"):
        given = getattr(settings, name)
        if len(set(given)) < len(given):
            raise UserError(f"{name} must name each one once, got {given}")
    if not settings.systems:
        raise UserError("systems must name at least one data set")
    if not settings.variants:
        raise UserError("variants must name at least one model")
    for name in ("train", "valid", "test"):
        if (value := getattr(settings.data_sets, name)) < 0:
            raise UserError(f"data_sets.{name} must not be negative, got {value}")
    for name in ("encoder_factor", "short_factor"):
        if getattr(settings, name) <= 0:
            raise UserError(f"{name} must be positive, got {getattr(settings, name)}")
    if settings.precision != "fp32":
        raise UserError("this app runs in float32 alone: leave out --precision")
    for name in ("samples", "encoder_draws", "shown"):
        if (value := getattr(settings.evaluate, name)) < 1:
            raise UserError(f"evaluate.{name} must be positive, got {value}")


def _report(run: Run, settings: Settings) -> None:
    from apps._runner.pool import run_pieces
    from apps.ode_lebm import figures, results
    from apps.ode_lebm.cells import config_of, plan
    from apps.ode_lebm.data import find_files
    from apps.ode_lebm.train import run_cell

    cells = plan(settings)
    for cell in cells:  # what cannot work is told before anything is computed
        config_of(cell, settings, (1,))
    files = find_files(run, settings)
    folder = run.folder / "cells"
    folder.mkdir(exist_ok=True)
    device = run.device.type
    processes = 1 if device == "cuda" else settings.processes
    pieces = [(cell, settings, files, folder, device) for cell in cells]
    records = run_pieces(run_cell, pieces, processes=processes)
    run.save(1, "cells")  # holds the time they took, should only the report be made again
    try:
        run.finish(
            results.metrics(records),
            results.claims(records),
            figures.draw(records, folder, settings),
            tables=results.tables(records),
            notes=NOTES,
            seeds=[settings.seed + k for k in range(settings.seeds)],
        )
    finally:  # with --check a claim that does not hold ends the program in finish
        if settings.publish and (run.folder / "result.json").exists():
            print(f"published: {run.publish(HERE.parents[1] / 'results')}")


if __name__ == "__main__":
    main(sys.argv[1:])
