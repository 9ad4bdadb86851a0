"""One seed from data to design: train, evaluate, run the tasks and their controls."""

from dataclasses import asdict
from typing import Any

from apps._runner import Run
from apps.sgds.data import Molecules, load
from apps.sgds.design import Outcome, extend, prior_control, screening_control, shift
from apps.sgds.evaluate import evaluate
from apps.sgds.settings import Settings
from apps.sgds.train import Learner, build, train
from lv_molecule import SelfiesVocabulary
from lv_molecule.metrics import internal_diversity

__all__ = ["run_one"]


def run_one(run: Run, settings: Settings) -> dict[str, Any]:
    """Returns everything that the report of this seed needs, as plain numbers and lists."""
    molecules = load(run, settings.data_set)
    model, vocabulary = build(settings, molecules)
    learner = Learner.of(run, settings, model)
    health = train(run, settings, molecules, learner)
    found: dict[str, Any] = {
        "seed": settings.seed,
        "health": health,
        "data_max": {name: float(v.max()) for name, v in molecules.screening.items()},
    }
    if not run.is_main:
        return found  # design rounds are one process's work: their pools are small
    learner = learner.alone()
    kept, given = run.load("evaluation"), asdict(settings.evaluate)
    if kept is None or kept.get("given", given) != given:  # a resumed run may ask for more
        run.reseed("evaluation dropout")  # acts with inference_mode "train"
        kept = {"evaluation": evaluate(run, settings, molecules, vocabulary, learner)}
        run.save(0, "evaluation", evaluation=kept["evaluation"], given=given)
    found["evaluation"] = kept["evaluation"]
    run.weights(model, {"app": "sgds", "symbols": list(molecules.symbols)})
    found["tasks"], found["controls"] = {}, {}
    for task in settings.shift.tasks:
        _task(run, settings, molecules, vocabulary, learner, task, found)
    return found


def _task(
    run: Run,
    settings: Settings,
    molecules: Molecules,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
    task: str,
    found: dict[str, Any],
) -> None:
    """Runs one task and its controls into `found`."""
    name = "qed" if task == "qed" else "plogp"
    initial, objective = None, getattr(settings.shift, task)
    if task == "plogp_unlimited":
        record = run.load("plogp", modules=learner.modules, optimizers=learner.optimizers)
        assert record is not None
        from lv_molecule import Pool

        pool = Pool.from_state_dict(record["pool"])
        initial = extend(pool, objective.max_length, learner.model.decoder.end)
    else:
        run.load("state", modules=learner.modules, optimizers=learner.optimizers)
    common: dict[str, Any] = {"name": name, "objective": objective, "initial": initial}
    outcome = shift(run, settings, molecules, vocabulary, learner, task=task, **common)
    found["tasks"][task] = _record(outcome, molecules)
    if task == "plogp_unlimited":
        return
    screened = screening_control(run, molecules, name=name, calls=outcome.calls)
    found["controls"][f"screening-{name}"] = {"calls": screened.calls, "values": screened.values}
    kept = run.load(f"prior-{name}")
    # More rounds in a resumed run want more calls of the control too.
    if kept is None or kept.get("asked", kept["calls"]) != outcome.calls:
        run.load("state", modules=learner.modules, optimizers=learner.optimizers)
        control = prior_control(run, settings, vocabulary, learner, name=name, calls=outcome.calls)
        kept = {"asked": outcome.calls, "calls": control.calls, "values": control.values}
        run.save(0, f"prior-{name}", **kept)
    found["controls"][f"prior-{name}"] = {"calls": kept["calls"], "values": kept["values"]}
    if task == "plogp" and settings.shift.unguided:
        run.load("state", modules=learner.modules, optimizers=learner.optimizers)
        unguided = shift(
            run,
            settings,
            molecules,
            vocabulary,
            learner,
            task="plogp-unguided",
            guided=False,
            **common,
        )
        found["tasks"]["plogp-unguided"] = _record(unguided, molecules)


def _record(outcome: Outcome, molecules: Molecules) -> dict[str, Any]:
    top = [smiles for smiles, _ in outcome.best]
    novel = sum(smiles not in molecules.reference for smiles in top)
    return {
        "calls": outcome.calls,
        "values": outcome.values,
        "rounds": outcome.rounds,
        "quantiles": outcome.quantiles,
        "best": outcome.best,
        "novel": novel / max(1, len(top)),
        "diversity": internal_diversity(top) if len(top) > 1 else 0.0,
    }
