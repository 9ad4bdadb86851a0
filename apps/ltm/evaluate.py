"""What a trained model is worth on held-out text, by every definition side by side."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.settings import Settings
from lv_core import Rows
from lv_text import (
    Batch,
    Bounds,
    Continuation,
    Inference,
    Inferred,
    ThoughtEncoder,
    ThoughtModel,
    autoregressive_nll,
    continuation,
    evaluate_bounds,
    infer,
)
from lv_text.probes import layer_reconstruction

if TYPE_CHECKING:
    from apps.ltm.train import Learner

__all__ = ["evaluate", "per_token", "quick"]

IGNORED = -100
EVALUATION = 20_240  # seed of all evaluation noise: every model meets the same


def quick(learner: "Learner", settings: Settings, text: Text) -> dict[str, float]:
    """Returns a few numbers on a few held-out blocks, nats per token, for a curve."""
    cell = learner.cell
    model, encoder = learner.whole()
    blocks = settings.evaluate.quick_blocks
    if cell.kind == "ar":
        nll, tokens = 0.0, 0
        for batch in _batches(text, cell, settings, blocks, learner.device):
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
    split = cell.model.length // 2
    if cell.kind == "ar":
        whole, second, tokens = [], [], []
        for batch in _batches(text, cell, settings, given.blocks, device):
            whole.append(autoregressive_nll(model, batch.x, batch.y))
            second.append(autoregressive_nll(model, batch.x, batch.y, split=split))
            tokens.append((batch.y != IGNORED).sum(1))
        nll, rest, count = (torch.cat(parts) for parts in (whole, second, tokens))
        scored = (count - split).clamp(min=0)
        return {
            "nll": _record({"tokens": count, "nll": nll}),
            "continuation": _record({"tokens": scored, "nll": rest}),
        }
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
        record["bounds"][name] = _record(_columns(found))
    parts = []
    for batch in _batches(text, cell, settings, given.blocks, device):
        rows = Rows.of(EVALUATION, batch.index, "continuation")
        parts.append(
            continuation(
                model,
                batch.x,
                batch.y,
                cell.inference,
                split=split,
                samples=given.samples,
                encoder=encoder,
                generator=rows,
            )
        )
    record["continuation"] = _record(_columns(Continuation.cat(parts)))
    record["probes"] = _layers(cell, model, encoder, settings, text, device)
    return record


def bounds(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    *,
    blocks: int,
    samples: int,
    device: torch.device,
    way: Inference | None = None,
) -> Bounds:
    """Infers and scores held-out blocks."""
    way = cell.inference if way is None else way
    parts = []
    for batch in _batches(text, cell, settings, blocks, device):
        inside = Rows.of(EVALUATION, batch.index, "inference")
        outside = Rows.of(EVALUATION, batch.index, "fresh draws")
        found = infer(model, batch.x, batch.y, way, encoder=encoder, generator=inside)
        if found.q is None:
            parts.append(_points(found, batch))
            continue
        parts.append(
            evaluate_bounds(model, batch.x, batch.y, found, samples=samples, generator=outside)
        )
    return Bounds.cat(parts)


def _points(found: Inferred, batch: Batch) -> Bounds:
    """Returns the NLL at points; without a posterior there is no bound: NaN."""
    nothing = torch.full_like(found.nll, math.nan)
    numbers = {field.name: nothing for field in fields(Bounds)}
    tokens = (batch.y != IGNORED).sum(1).to(found.nll.dtype)
    return Bounds(**numbers | {"tokens": tokens, "nll_posterior": found.nll})


def _layers(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
) -> dict[str, list[float]]:
    """Returns what the latents of the first l layers reconstruct, a value for each l."""
    batch = next(_batches(text, cell, settings, settings.evaluate.batch_size, device))
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


def per_token(record: dict[str, Any], name: str) -> float:
    """Returns total nats per total tokens of a record; NaN where there is none."""
    values = [math.nan if v is None else v for v in record[name]]
    return sum(values) / sum(record["tokens"])


def _lr(cell: Cell, steps: int) -> float | None:
    """A given rate belongs to the steps it was given for: other numbers scale it."""
    given = cell.inference.lr
    return None if given is None else given * cell.inference.steps / steps


def _batches(
    text: Text, cell: Cell, settings: Settings, blocks: int, device: torch.device
) -> Iterator[Batch]:
    """Yields held-out blocks, evenly spread over the split."""
    store = text.store("valid", cell.model.length, settings.corpus.blocks)
    count = min(blocks, len(store))
    index = torch.linspace(0, len(store) - 1, count).round().long()
    for part in index.split(settings.evaluate.batch_size):
        yield store.read(part).to(device)


def _columns(found: Bounds | Continuation) -> dict[str, Tensor]:
    return {field.name: getattr(found, field.name) for field in fields(found)}


def _record(columns: dict[str, Tensor]) -> dict[str, list[float]]:
    return {name: [round(float(v), 3) for v in column] for name, column in columns.items()}
