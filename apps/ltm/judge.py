"""Prior samples judged by an n-gram model of the training text."""

from collections.abc import Sequence
from typing import Any

import torch

from apps.ltm.data import Text
from lv_text.metrics import NgramJudge

__all__ = ["judge_samples"]

TOKENS = 4_000_000
"""Training tokens that the judge counts; a fixed number keeps it small and comparable."""
BLOCK = 1024


def judge_samples(records: Sequence[dict[str, Any]], text: Text) -> None:
    """Adds to each record's samples their perplexity under a 5-gram model, and that of text.

    No network that could judge ships; an n-gram model sees whether words and phrases are those of
    the training text, and no more. Samples are decoded and encoded again, as others' scripts do.
    """
    if not any(record["samples"]["texts"] for record in records):
        return
    vocabulary = text.vocabulary()
    train = text.store("train", BLOCK)
    rows = min(len(train), TOKENS // BLOCK)
    index = torch.linspace(0, len(train) - 1, rows).round().long()
    judge = NgramJudge.fit(
        (block.numpy() for part in index.split(256) for block in train.read(part).y),
        vocabulary=vocabulary.size,
    )
    held_out = text.store("valid", BLOCK)
    of_text = judge.perplexity(held_out.read(torch.arange(min(32, len(held_out)))).y)
    for record in records:
        encoded = [vocabulary.encode(sample) for sample in record["samples"]["texts"]]
        record["samples"] |= {
            "judge": [judge.perplexity(torch.tensor([ids])) for ids in encoded if ids],
            "judge_of_text": of_text,
        }
