"""Costs of blocks of text under a trained model, by every definition."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.settings import Settings
from lv_core import Rows
from lv_core.evidence.joint import LatentPrior
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

__all__ = [
    "EVALUATION",
    "IGNORED",
    "Split",
    "as_record",
    "batches",
    "bounds",
    "per_token",
    "second_halves",
    "way_of",
    "without_latents",
]

Split = Literal["train", "valid", "test"]
IGNORED = -100
EVALUATION = 20_240  # seed of all evaluation noise: every model meets the same


def way_of(kind: str, steps: int) -> str:
    """Returns the name of the inference that a model was trained with."""
    return "encoder" if kind == "encoder" else str(steps)


def batches(
    text: Text,
    cell: Cell,
    settings: Settings,
    blocks: int,
    device: torch.device,
    split: Split = "valid",
) -> Iterator[Batch]:
    """Yields blocks, evenly spread over the split."""
    store = text.store(split, cell.model.length, settings.corpus.blocks)
    count = min(blocks, len(store))
    index = torch.linspace(0, len(store) - 1, count).round().long()
    for part in index.split(settings.evaluate.batch_size):
        yield store.read(part).to(device)


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
    prior: LatentPrior = None,
    split: Split = "valid",
) -> Bounds:
    """Infers and scores held-out blocks."""
    way = cell.inference if way is None else way
    parts = []
    for batch in batches(text, cell, settings, blocks, device, split):
        inside = Rows.of(EVALUATION, batch.index, "inference")
        outside = Rows.of(EVALUATION, batch.index, "fresh draws")
        found = infer(model, batch.x, batch.y, way, prior=prior, encoder=encoder, generator=inside)
        if found.q is None:
            parts.append(_points(found, batch))
            continue
        parts.append(
            evaluate_bounds(
                model,
                batch.x,
                batch.y,
                found,
                samples=samples,
                prior=prior,
                generator=outside,
            )
        )
    return Bounds.cat(parts)


def _points(found: Inferred, batch: Batch) -> Bounds:
    """Returns the NLL at points; without a posterior there is no bound: NaN."""
    nothing = torch.full_like(found.nll, math.nan)
    numbers = {field.name: nothing for field in fields(Bounds)}
    tokens = (batch.y != IGNORED).sum(1).to(found.nll.dtype)
    return Bounds(**numbers | {"tokens": tokens, "nll_posterior": found.nll})


def second_halves(
    cell: Cell,
    model: ThoughtModel,
    encoder: ThoughtEncoder | None,
    settings: Settings,
    text: Text,
    device: torch.device,
    *,
    split: Split = "valid",
) -> dict[str, list[float]]:
    """Returns the costs of second halves, with latents of the first ones."""
    parts = []
    for batch in batches(text, cell, settings, settings.evaluate.blocks, device, split):
        parts.append(
            continuation(
                model,
                batch.x,
                batch.y,
                cell.inference,
                split=cell.model.length // 2,
                samples=settings.evaluate.samples,
                encoder=encoder,
                generator=Rows.of(EVALUATION, batch.index, "continuation"),
            )
        )
    return as_record(Continuation.cat(parts))


def without_latents(
    cell: Cell,
    model: ThoughtModel,
    settings: Settings,
    text: Text,
    device: torch.device,
    *,
    split: Split = "valid",
) -> dict[str, Any]:
    """Returns the exact costs of whole blocks and of their second halves."""
    half = cell.model.length // 2
    whole, second, tokens = [], [], []
    for batch in batches(text, cell, settings, settings.evaluate.blocks, device, split):
        whole.append(autoregressive_nll(model, batch.x, batch.y))
        second.append(autoregressive_nll(model, batch.x, batch.y, split=half))
        tokens.append((batch.y != IGNORED).sum(1))
    nll, rest, count = (torch.cat(parts) for parts in (whole, second, tokens))
    scored = (count - half).clamp(min=0)
    return {
        "nll": as_record({"tokens": count, "nll": nll}),
        "continuation": as_record({"tokens": scored, "nll": rest}),
    }


def as_record(found: Bounds | Continuation | Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Returns numbers of sequences as lists for a JSON file."""
    columns = found
    if not isinstance(found, Mapping):
        columns = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: [round(float(v), 3) for v in column] for name, column in columns.items()}


def per_token(record: dict[str, Any], name: str) -> float:
    """Returns total nats per total tokens of a record; NaN where there is none."""
    values = [math.nan if v is None else v for v in record[name]]
    return sum(values) / sum(record["tokens"])
