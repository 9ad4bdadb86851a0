"""Design tasks: gradual distribution shifting, and the controls with the same oracle budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from apps._runner import Run, UserError
from apps.sgds.data import PROPERTIES, Molecules
from apps.sgds.settings import Objective, Settings, Shift
from apps.sgds.train import Learner, posterior_kernel, prior_kernel, property_kernel
from lv_core import stream
from lv_molecule import PROPERTIES as FUNCTIONS
from lv_molecule import Candidate, Oracle, Pool, SelfiesVocabulary, shift_round
from lv_molecule.metrics import top

__all__ = ["Control", "Outcome", "extend", "prior_control", "screening_control", "shift"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a design task found.

    Arguments:
        calls: Oracle calls made.
        values: Value of every molecule in the order of the calls.
        rounds: One record per round: calls, pool_mean, batch_mean, uniqueness, ...
        quantiles: Value quantiles (0, 5, ..., 100 %) of each round's new molecules.
        best: The best molecules (SMILES, value), best first.
        pool: The final pool.
    """

    calls: int
    values: list[float]
    rounds: list[dict[str, float]]
    quantiles: list[list[float]]
    best: list[tuple[str, float]]
    pool: Pool


def shift(
    run: Run,
    settings: Settings,
    molecules: Molecules,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
    *,
    task: str,
    name: str,
    objective: Objective,
    guided: bool = True,
    initial: Pool | None = None,
) -> Outcome:
    """Runs a task from the learner's present parameters; checkpoints after each round.

    Arguments:
        run: The run.
        settings: All settings.
        molecules: Where the first pool comes from.
        vocabulary: The vocabulary.
        learner: Model and optimisers, changed by learning from the pool.
        task: Name of the task in files and streams.
        name: Property that is raised.
        objective: What the task does.
        guided: Whether the property term acts.
        initial: The first pool; None = held-out molecules with inferred latents.
    """
    sizes = settings.shift
    oracle = Oracle(
        FUNCTIONS[PROPERTIES[name]],
        name=PROPERTIES[name],
        budget=objective.rounds * sizes.samples,
        log=run.folder / f"oracle-{task}.jsonl",
        workers=sizes.workers,
        timeout=sizes.timeout,
        min_heavy_atoms=5,
    )
    record = run.load(task, modules=learner.modules, optimizers=learner.optimizers)
    given = _given(sizes, objective)
    rounds, quantiles, done = [], [], 0
    if record is None:
        (run.folder / f"oracle-{task}.jsonl").unlink(missing_ok=True)  # of a session cut off
        pool = initial or _first_pool(settings, molecules, learner, task, name)
    else:
        _check_same(task, record, given)
        pool, done = Pool.from_state_dict(record["pool"]), record["step"]
        rounds, quantiles = record["rounds"], record["quantiles"]
        try:
            oracle.load_state_dict(record["oracle"])
        except ValueError as error:  # the log was changed or removed
            raise UserError(f"{error}, or remove {task}.pt to run the task anew") from None
    kernel = (property_kernel if guided else prior_kernel)(settings.inference, objective.steps)
    with oracle:
        for k in run.steps(objective.rounds, done, label=task):
            learner.model.eval()
            result = shift_round(
                pool,
                learner.model,
                vocabulary,
                oracle,
                kernel,
                name=name,
                delta=objective.delta,
                count=sizes.samples,
                size=sizes.pool,
                max_length=objective.max_length,
                min_length=objective.min_length,
                cold=objective.cold,
                guided=guided,
                chain=run.generator("shift", task, k),
                strings=run.generator("strings", task, k),
            )
            logs = _learn(run, settings, learner, pool, task, name, k)
            # Of the oracle's calls alone: the first pool is known data.
            new = top(list(oracle.history.values()), 3)
            line = {
                "calls": oracle.calls,
                "pool_mean": pool.values(name).mean().item(),
                "batch_mean": _mean(result.values),
                "predicted_mean": _mean(result.predicted),
                "top1": float(new[0]) if len(new) else float("nan"),
                "top3": float(new[-1]) if len(new) else float("nan"),
                "unique": result.added / result.proposed,
                "invalid": result.invalid / result.proposed,
                "displacement": result.displacement,
                "nll": logs["nll"],
            }
            rounds.append(line)
            quantiles.append(_quantiles(result.values))
            run.log(k, task, **line)
            run.save(
                k + 1,
                task,
                modules=learner.modules,
                optimizers=learner.optimizers,
                given=given,
                pool=pool.state_dict(),
                oracle=oracle.state_dict(),
                rounds=rounds,
                quantiles=quantiles,
            )
    history = {s: v for s, v in oracle.history.items() if v == v}
    best = sorted(history.items(), key=lambda item: -item[1])
    return Outcome(
        calls=oracle.calls,
        values=list(history.values()),
        rounds=rounds,
        quantiles=quantiles,
        best=best[:100],
        pool=pool,
    )


def _given(sizes: Shift, objective: Objective) -> dict[str, Any]:
    """Returns the settings that one task's rounds depend on; their number may grow."""
    other = {"tasks", "workers", "unguided", "plogp", "plogp_unlimited", "qed"}
    given = {key: value for key, value in asdict(sizes).items() if key not in other}
    return {**given, **asdict(objective)}


def _check_same(task: str, record: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses to go on with rounds that were made with other settings."""
    before = {**given, **record.get("given", {})}
    differing = [
        f"{key} {before[key]!r} -> {given[key]!r}"
        for key in given
        if before[key] != given[key] and (key != "rounds" or record["step"] > given[key])
    ]
    if differing:
        raise UserError(
            f"the task {task} was begun with other settings: {', '.join(differing)}; use those, "
            f"or remove {task}.pt from the run folder to run it anew"
        )


def _first_pool(
    settings: Settings, molecules: Molecules, learner: Learner, task: str, name: str
) -> Pool:
    """Returns held-out molecules with latents inferred given string and property.

    The code starts from latents drawn anew; inferred ones belong to their molecules.
    """
    n, length = settings.shift.pool, getattr(settings.shift, task.split("-")[0]).max_length
    tokens = molecules.holdout_tokens[:n].long()
    values = molecules.holdout_values[name][:n]
    kernel = posterior_kernel(settings.inference, settings.inference.posterior_steps)
    latents = []
    for first in range(0, len(tokens), settings.shift.batch_size):
        part = slice(first, first + settings.shift.batch_size)
        device = learner.run.device
        learner.run.reseed("first dropout", task, first)  # acts with inference_mode "train"
        u = learner.model.prior.init(
            len(tokens[part]), generator=learner.run.generator("first", task, first)
        )
        trace = learner.model.infer(
            kernel,
            u,
            tokens=tokens[part].to(device),
            values={name: values[part].to(device)},
            generator=learner.run.generator("first chain", task, first),
        )
        latents.append(trace.state.u.cpu())
    padded = _pad(tokens, length, learner.model.decoder.end)
    smiles = molecules.holdout_smiles[:n]
    return Pool(Candidate.rows(padded, smiles, {name: values.tolist()}, torch.cat(latents)))


def extend(pool: Pool, length: int, end: int) -> Pool:
    """Returns a fresh pool of the same members with strings padded to a longer limit."""
    members = [
        Candidate(_pad(c.tokens[None], length, end)[0], c.smiles, dict(c.values), c.latent)
        for c in pool
    ]
    return Pool(members)


def _pad(tokens: Tensor, length: int, end: int) -> Tensor:
    missing = max(0, length - tokens.shape[1])
    return torch.cat((tokens, tokens.new_full((len(tokens), missing), end)), dim=1)


def _learn(
    run: Run, settings: Settings, learner: Learner, pool: Pool, task: str, name: str, k: int
) -> dict[str, float]:
    """Makes the passes of maximum likelihood over the pool; returns the mean of the logs."""
    sizes = settings.shift
    kernel = posterior_kernel(settings.inference, sizes.learn_steps)
    tokens, values, latents = pool.tokens(), pool.values(name).float(), pool.latents().clone()
    batch = min(sizes.batch_size, len(pool))
    collected: list[Tensor] = []
    for epoch in range(sizes.passes):
        shuffle = stream(settings.seed, "shuffle", task, k, epoch)
        order = torch.randperm(len(pool), generator=shuffle)
        for place in range(len(pool) // batch):
            index = order[place * batch : (place + 1) * batch]
            names = ("learn", task, k, epoch, place)
            if sizes.learn_warm:
                start = latents[index].to(run.device)
            else:
                start = learner.model.prior.init(batch, generator=learner.source("start", *names))
            z, logs, _ = learner.update(
                names,
                kernel,
                start,
                tokens[index].to(run.device),
                {name: values[index].to(run.device)},
                clip=sizes.learn_clip,
                prior_clip=sizes.learn_clip and settings.train.prior_clip,
            )
            if sizes.learn_warm:
                latents[index] = z.cpu()
            collected.append(logs["nll"])
    if sizes.learn_warm:
        pool.set_latents(latents)
    return {"nll": torch.stack(collected).mean().item()}


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else float("nan")


def _quantiles(values: Tensor) -> list[float]:
    if not len(values):
        return []
    levels = torch.linspace(0, 1, 21, dtype=values.dtype)
    return [float(v) for v in torch.quantile(values, levels)]


@dataclass(frozen=True, kw_only=True)
class Control:
    """Values that a control saw, in the order of its oracle calls."""

    calls: int
    values: list[float]


def prior_control(
    run: Run,
    settings: Settings,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
    *,
    name: str,
    calls: int,
    batch: int = 1000,
) -> Control:
    """Samples the trained prior and scores until as many calls are made: no shifting, no learning.

    Gives up on a batch when thirty draws in a row bring nothing new.
    """
    oracle = Oracle(
        FUNCTIONS[PROPERTIES[name]],
        name=PROPERTIES[name],
        budget=calls,
        log=run.folder / f"oracle-prior-{name}.jsonl",
        workers=settings.shift.workers,
        timeout=settings.shift.timeout,
        min_heavy_atoms=5,
    )
    (run.folder / f"oracle-prior-{name}.jsonl").unlink(missing_ok=True)  # of a session cut off
    learner.model.eval()
    with oracle:
        for k in run.steps(-(-calls // batch), label=f"prior {name}"):
            idle, wanted, part = 0, min(calls, (k + 1) * batch), 0
            while oracle.calls < wanted and idle < 30:
                names = (name, k, part)
                z = learner.model.prior.sample(batch, generator=run.generator("control", *names))
                tokens = learner.model.generate(
                    z,
                    max_length=settings.data_set.max_length,
                    generator=run.generator("control strings", *names),
                )
                before, part = oracle.calls, part + 1
                oracle(vocabulary.tokens_to_smiles(tokens.cpu()))
                idle = idle + 1 if oracle.calls == before else 0
    values = [v for v in oracle.history.values() if v == v]
    return Control(calls=oracle.calls, values=values)


def screening_control(run: Run, molecules: Molecules, *, name: str, calls: int) -> Control:
    """Scores known molecules drawn at random without repeats: all real, none designed."""
    values = molecules.screening[name]
    generator = torch.Generator().manual_seed(run.settings.seed)
    index = torch.randperm(len(values), generator=generator)[:calls]
    return Control(calls=len(index), values=values[index].tolist())
