"""What a trained model is worth on held-out text, by every definition side by side."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from apps.ltm.aggregate import fit_prior
from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.scores import (
    EVALUATION,
    IGNORED,
    as_record,
    batches,
    bounds,
    second_halves,
    way_of,
    without_latents,
)
from apps.ltm.settings import Settings
from lv_core import Rows
from lv_text import ThoughtEncoder, ThoughtModel, autoregressive_nll, infer
from lv_text.probes import layer_reconstruction

if TYPE_CHECKING:
    from apps.ltm.learner import Learner

__all__ = ["confirm", "evaluate", "quick"]

_WITH_POSTERIOR = ("vb", "amortised", "semi_amortised")


def quick(learner: "Learner", settings: Settings, text: Text) -> dict[str, float]:
    """Returns a few numbers on a few held-out blocks, nats per token, for a curve."""
    cell = learner.cell
    model, encoder = learner.whole()
    blocks = settings.evaluate.quick_blocks
    if cell.kind == "ar":
        nll, tokens = 0.0, 0
        for batch in batches(text, cell, settings, blocks, learner.device):
            nll += float(autoregressive_nll(model, batch.x, batch.y).sum())
            tokens += int((batch.y != IGNORED).sum())
        return {"nll": nll / tokens}
    found = bounds(
        cell,
        model,
        encoder,
        settings,
        text,
        blocks=blocks,
        samples=2,
        device=learner.device,
    )
    numbers = found.per_token()
    names = ("nelbo_shared_noise", "nelbo", "nll_posterior", "kl", "kl_floor", "nll_prior")
    return {name: float(numbers[name]) for name in names}


def evaluate(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
) -> dict[str, Any]:
    """Returns everything that is reported of a model; nats per sequence in lists."""
    given = settings.evaluate
    if cell.kind == "ar":
        return without_latents(cell, model, settings, text, device)
    record: dict[str, Any] = {"bounds": {}}
    steps = (cell.inference.steps, *given.steps)
    ways = {str(n): replace(cell.inference, steps=n, lr=_lr(cell, n)) for n in sorted(set(steps))}
    if cell.kind == "encoder":
        ways = {"encoder": cell.inference}
    elif cell.inference.noise == "shared":
        # the schedule of the released code, whatever the number of steps
        released = {"lr": 0.34, "schedule": "cosine"}
        ways |= {
            f"{n} released": replace(way, **released)  # type: ignore[arg-type]
            for n, way in list(ways.items())
        }
    for name, way in ways.items():
        found = bounds(
            cell,
            model,
            encoder,
            settings,
            text,
            blocks=given.blocks,
            samples=given.samples,
            way=way,
            device=device,
        )
        record["bounds"][name] = as_record(found)
    record["continuation"] = second_halves(cell, model, encoder, settings, text, device)
    record["probes"] = _layers(cell, model, encoder, settings, text, device)
    if given.priors and cell.inference.method in _WITH_POSTERIOR:
        record["priors"] = _with_fitted_priors(cell, model, encoder, settings, text, device)
    return record


def confirm(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
) -> dict[str, Any]:
    """Returns the numbers on the test split, by the inference of training alone."""
    evaluation = replace(settings.evaluate, blocks=settings.evaluate.test_blocks, steps=())
    given = replace(settings, evaluate=evaluation)
    if cell.kind == "ar":
        return without_latents(cell, model, given, text, device, split="test")
    found = bounds(
        cell,
        model,
        encoder,
        given,
        text,
        blocks=evaluation.blocks,
        samples=evaluation.samples,
        device=device,
        split="test",
    )
    return {
        "bounds": {way_of(cell.kind, cell.inference.steps): as_record(found)},
        "continuation": second_halves(cell, model, encoder, given, text, device, split="test"),
    }


def _with_fitted_priors(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
) -> dict[str, Any]:
    """Returns the bounds under priors that were fitted on posteriors of training blocks."""
    given, posteriors = settings.evaluate, []
    for batch in batches(text, cell, settings, given.prior_blocks, device, "train"):
        rows = Rows.of(EVALUATION, batch.index, "aggregate")
        q = infer(model, batch.x, batch.y, cell.inference, encoder=encoder, generator=rows).q
        assert q is not None
        posteriors.append(q)
    found = {}
    for name in given.priors:
        prior = fit_prior(name, posteriors, seed=cell.seed)
        scored = bounds(
            cell,
            model,
            encoder,
            settings,
            text,
            blocks=given.blocks,
            samples=given.samples,
            device=device,
            prior=prior,
        )
        found[name] = as_record(scored)
    return found


def _layers(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
) -> dict[str, list[float]]:
    """Returns what the latents of the first l layers reconstruct, a value for each l."""
    batch = next(batches(text, cell, settings, settings.evaluate.batch_size, device))
    rows = Rows.of(EVALUATION, batch.index, "layers")
    found = infer(model, batch.x, batch.y, cell.inference, encoder=encoder, generator=rows)
    curve = layer_reconstruction(model, batch.x, batch.y, found.z, generator=rows)
    nll = curve.per_token()
    return {
        "layers": [float(l) for l in range(len(curve.nll_mean))],
        "nll_zeros": nll[0].tolist(),
        "nll_prior": nll[1].tolist(),
        "accuracy_zeros": curve.accuracy_mean.mean(1).tolist(),
        "accuracy_prior": curve.accuracy_prior.mean(1).tolist(),
    }


def _lr(cell: Cell, steps: int) -> float | None:
    """A given rate belongs to the steps it was given for: other numbers scale it."""
    given = cell.inference.lr
    return None if given is None else given * cell.inference.steps / steps
