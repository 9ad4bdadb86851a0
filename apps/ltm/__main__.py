"""`python -m apps.ltm [preset] [--flags]`: train all variants, measure, compare, report."""

import sys
from collections.abc import Sequence
from pathlib import Path

from apps._runner import Run, UserError, cli_errors, parse
from apps.ltm.settings import Settings

PROG = "python -m apps.ltm"
HERE = Path(__file__).parent
NOTES = (
    "A causal language model reads, besides the tokens, a latent vector z of the whole sequence "
    "with prior N(0, I). For each sequence a Gaussian posterior q(z) is fitted by a few gradient "
    "steps (fast learning); the decoder learns from the latents found (slow learning).\n\n"
    "The published perplexity is exp of NLL + KL at the very noise that the fit has optimized "
    "against ('shared noise'): that number is no bound on the likelihood, since the optimizer "
    "can hide information in the noise at no cost. Beside it stand valid numbers: the bound at "
    "fresh noise, the importance-weighted bound, and the predictive number, for which latents are "
    "inferred from the first half of a sequence and its second half is scored. Lower is better; "
    "nats per token unless said otherwise.\n\n"
    "The variant 'fixed' shares the noise over the fast steps as the released code does, 'fresh' "
    "draws it anew as the paper's algorithm says; 'path sum' also adds the weight gradients of "
    "the fast steps, which the released code lets leak; 'released' schedules let the fast "
    "learning rate fall from 0.34 as a cosine, as released."
)
_MAY_CHANGE = (
    "fsdp",
    "processes",
    "publish",
    "threads",
    "train.save_every",
    "seeds",
    "parity_seeds",
    "study.pieces",
    "study.finalists",
)


def main(argv: Sequence[str]) -> None:
    """Runs the app with the words of the command line."""
    if argv and argv[0] == "train":  # what happens without a word, too
        argv = argv[1:]
    if argv and argv[0] in ("generate", "evaluate", "zero-shot", "gsm8k", "probe"):
        from apps.ltm.commands import command

        return command(argv)
    with cli_errors(PROG, ValueError, FloatingPointError):
        preset, settings = parse(Settings, HERE / "presets", argv, prog=PROG)
        _check(settings)
        run = Run(settings, app="ltm", preset=preset, argv=argv, may_change=_MAY_CHANGE)
        run.load("cells")
        run.save(0, "cells")  # marks the folder as one that --resume may go on with
        _report(run, settings)


def _check(settings: Settings) -> None:
    for name in ("seeds", "processes"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(settings, name)}")
    if not settings.variants or len(set(settings.variants)) < len(settings.variants):
        raise UserError(f"variants must name each model once, got {settings.variants}")
    plan = settings.train
    for name in ("iterations", "batch_size", "micro_batch", "lr", "clip", "save_every"):
        if not getattr(plan, name) > 0:
            raise UserError(f"train.{name} must be positive, got {getattr(plan, name)}")
    if not 0 < plan.known <= 1:
        raise UserError(f"train.known must be in (0, 1], got {plan.known}")
    if not 0 <= plan.late < 1:
        raise UserError(f"train.late must be in [0, 1), got {plan.late}")
    for name in ("kl_warm_up", "warm_up", "weight_decay", "lr_end"):
        if not getattr(plan, name) >= 0:
            raise UserError(f"train.{name} must not be negative, got {getattr(plan, name)}")
    _check_study(settings)
    for name in ("blocks", "quick_blocks", "batch_size", "samples"):
        if (value := getattr(settings.evaluate, name)) < 1:
            raise UserError(f"evaluate.{name} must be positive, got {value}")
    for name in ("test_blocks", "prior_blocks"):
        if (value := getattr(settings.evaluate, name)) < 0:
            raise UserError(f"evaluate.{name} must not be negative, got {value}")
    if settings.evaluate.priors and settings.evaluate.prior_blocks < 8:
        raise UserError("evaluate.priors are fitted on evaluate.prior_blocks, at least 8")
    if any(steps < 1 for steps in settings.evaluate.steps):
        raise UserError(f"evaluate.steps must be positive, got {settings.evaluate.steps}")
    if settings.evaluate.every < 0:
        raise UserError(f"evaluate.every must not be negative, got {settings.evaluate.every}")
    if settings.corpus.source == "books" and not 1 <= settings.corpus.shards <= 12:
        raise UserError(f"corpus.shards must be in 1..12, got {settings.corpus.shards}")


def _check_study(settings: Settings) -> None:
    from apps.ltm.study import PIECES

    known = {*PIECES, "all"}
    for name in (*settings.study.pieces, *settings.study.finalists):
        if name not in known:
            raise UserError(f"unknown piece {name!r} of the study; there are: {', '.join(PIECES)}")


def _report(run: Run, settings: Settings) -> None:
    from apps._runner.pool import run_pieces
    from apps.ltm import figures, results, results_study
    from apps.ltm.cells import plan
    from apps.ltm.data import open_text
    from apps.ltm.judge import judge_samples
    from apps.ltm.single import run_cell
    from apps.ltm.study import study_cells

    text = open_text(run, settings.corpus)
    make = study_cells if settings.study.pieces else plan
    cells = make(settings, text.vocabulary().size)
    folder = run.folder / "cells"
    folder.mkdir(exist_ok=True)
    device = run.device.type
    alone = device == "cuda" or run.world > 1 or settings.processes == 1
    rest = (run.accelerator,) if alone else ()  # other processes make their own
    pieces = [(cell, settings, text, folder, device, *rest) for cell in cells]
    records = run_pieces(run_cell, pieces, processes=1 if alone else settings.processes)
    run.save(1, "cells")  # holds the time they took, should only the report be made again
    if not run.is_main:
        return
    judge_samples(records, text)
    study = bool(settings.study.pieces)
    more = {"gains": results_study.study_metrics(records)} if study else {}
    tables = results.tables(records)
    try:
        run.finish(
            results.metrics(records) | more,
            (results_study.study_claims if study else results.claims)(records),
            (figures.draw_study if study else figures.draw)(records),
            tables=results_study.study_tables(records) | tables if study else tables,
            notes=NOTES,
            seeds=sorted({record["seed"] for record in records}),
        )
    finally:  # with --check a claim that does not hold ends the program in finish
        if settings.publish and (run.folder / "result.json").exists():
            print(f"published: {run.publish(HERE.parents[1] / 'results')}")


if __name__ == "__main__":
    main(sys.argv[1:])
