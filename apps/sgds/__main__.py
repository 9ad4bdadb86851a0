"""`python -m apps.sgds [preset] [--flags]`: one run, or several seeds and their common report."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from apps._runner import Run, UserError, cli_errors, parse
from apps._runner.run import write_json
from apps._runner.seeds import run_seeds
from apps._runner.settings import flatten
from apps.sgds import results
from apps.sgds.settings import Objective, Settings

PROG = "python -m apps.sgds"
HERE = Path(__file__).parent
NOTES = (
    "SGDS learns molecules and their properties together: a latent vector z with a learned "
    "energy-based prior writes the molecule as a SELFIES string and predicts its properties. "
    "Design then moves the model, round by round: sample latents for slightly better values than "
    "the pool has, decode, score with the oracle, keep the best, learn from them.\n\n"
    "p-logP is the unnormalised score logP - SA - (number of rings with more than six atoms); "
    "long chains raise it without limit, so its winners are no drug candidates. QED lies in "
    "[0, 1]. The oracle is RDKit."
)


# What a resumed run may be given anew: a trained model can be taken to other design tasks.
_DESIGN = [
    f"{part.name}.{key}"
    for part in fields(Settings)
    if part.name in ("shift", "evaluate")
    for key in flatten(asdict(part.default))  # type: ignore[call-overload]
] + ["seeds", "processes", "publish"]


def main(argv: Sequence[str]) -> None:
    """Runs the app with the words of the command line."""
    from lv_molecule import MoleculeError, OracleError

    with cli_errors(PROG, MoleculeError, OracleError, FloatingPointError):
        preset, settings = parse(Settings, HERE / "presets", argv, prog=PROG)
        _check(settings)
        run = Run(settings, app="sgds", preset=preset, argv=argv, may_change=_DESIGN)
        if settings.seeds > 1:
            records = _several(run, settings, argv)
        else:
            from apps.sgds.single import run_one

            records = [run_one(run, settings)]
        if run.is_main:
            _finish(run, settings, records)


def _check(settings: Settings) -> None:
    tasks = settings.shift.tasks
    if "plogp_unlimited" in tasks and "plogp" not in tasks[: tasks.index("plogp_unlimited")]:
        raise UserError(
            "the task plogp_unlimited goes on from plogp: add plogp to shift.tasks, before it"
        )
    if len(set(tasks)) < len(tasks):
        raise UserError(f"shift.tasks must not repeat a task, got {', '.join(tasks)}")
    if settings.shift.pool > settings.data_set.holdout:
        raise UserError(
            f"shift.pool is {settings.shift.pool} but the first pool comes from the "
            f"{settings.data_set.holdout} held-out molecules: lower it or raise data_set.holdout"
        )
    for task in tasks:
        _check_lengths(task, getattr(settings.shift, task), settings.data_set.max_length)
    for key, value in flatten(asdict(settings)).items():
        _check_range(key, value)
    if settings.precision != "fp32":
        raise UserError(
            f"this app runs in float32 alone: leave out --precision {settings.precision}"
        )
    if settings.seeds > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several seeds are processes already: under torchrun use --seeds 1")


def _check_lengths(task: str, objective: Objective, longest: int) -> None:
    if objective.max_length < longest:
        raise UserError(
            f"shift.{task}.max_length is {objective.max_length} but strings of the first pool "
            f"have up to {longest} symbols: raise it or lower data_set.max_length"
        )
    if objective.min_length > objective.max_length:
        raise UserError(
            f"shift.{task}.min_length is {objective.min_length}, above its max_length "
            f"{objective.max_length}: lower it"
        )


_MAY_BE_ZERO = ("seed", "threads", "dropout", "noise_factor", "min_length", "workers")


def _check_range(key: str, value: object) -> None:
    last = key.split(".")[-1]
    if isinstance(value, bool) or not isinstance(value, int | float) or last == "delta":
        return
    if value < 0 or (value == 0 and last not in _MAY_BE_ZERO):
        rule = "must not be negative" if last in _MAY_BE_ZERO else "must be positive"
        raise UserError(f"{key} {rule}, got {value}")


def _several(run: Run, settings: Settings, argv: Sequence[str]) -> list[dict[str, Any]]:
    """Runs the seeds as processes of their own and returns what they found."""
    run.load("seeds")
    run.save(0, "seeds")  # marks the folder as one that --resume may go on with
    seeds = [settings.seed + k for k in range(settings.seeds)]
    words = [*_without(argv), "--seeds", "1"]
    run_seeds("apps.sgds", words, seeds=seeds, out=run.folder, processes=settings.processes)
    run.save(1, "seeds")  # holds the time they took, should only the report be made again
    return [json.loads((run.folder / f"seed-{s}" / "design.json").read_text()) for s in seeds]


def _without(argv: Sequence[str]) -> list[str]:
    """Returns the words without what belongs to the common run alone."""
    names = {"--out", "--resume", "--seeds", "--seed", "--publish", "--check", "--processes"}
    words, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif word.split("=")[0] not in names:
            words.append(word)
    return words if words and not words[0].startswith("-") else ["smoke", *words]


def _finish(run: Run, settings: Settings, records: list[dict[str, Any]]) -> None:
    from apps.sgds import figures

    write_json(run.folder / "design.json", records[0] if len(records) == 1 else records)
    try:
        run.finish(
            results.metrics(records),
            results.claims(settings, records),
            figures.draw(records),
            tables=figures.tables(records),
            notes=NOTES,
            seeds=[record["seed"] for record in records],
        )
    finally:  # with --check a claim that does not hold ends the program in finish
        if settings.publish and (run.folder / "result.json").exists():
            print(f"published: {run.publish(HERE.parents[1] / 'results')}")


if __name__ == "__main__":
    main(sys.argv[1:])
