"""Texts of a trained model: drawn from the prior, and reconstructed from posteriors."""

from typing import Any

import torch

from apps.ltm.cells import Cell
from apps.ltm.data import Text
from apps.ltm.settings import Settings
from lv_core import Rows
from lv_text import ThoughtModel
from lv_text.generation import Sampling, generate, prior_samples
from lv_text.metrics import entropy

__all__ = ["prior_texts"]

SAMPLES = 20_241  # seed of samples for the report


def prior_texts(
    cell: Cell, model: ThoughtModel, settings: Settings, text: Text, device: torch.device
) -> dict[str, Any]:
    """Returns samples z ~ p(z), x ~ p(x | z) as text, and the entropy of their tokens.

    The entropy of held-out text of the same length stands beside it: repetition shows as less.
    """
    given, vocabulary = settings.generate, text.vocabulary()
    if given.samples < 1:
        return {"texts": [], "entropy": [], "entropy_of_text": []}
    rows = Rows.of(SAMPLES, range(given.samples), "prior samples")
    z = None
    if cell.kind != "ar":
        z = prior_samples(model, given.samples, scale=given.scale, generator=rows)
    drawn = generate(
        model,
        z=z,
        count=given.samples,
        bos=vocabulary.bos,
        new_tokens=given.tokens or cell.model.length - 1,
        sampling=Sampling(temperature=given.temperature, top_p=given.top_p),
        generator=rows,
    )
    store = text.store("valid", cell.model.length, settings.corpus.blocks)
    real = store.read(torch.linspace(0, len(store) - 1, 32).round().long()).y
    return {
        "texts": [vocabulary.decode(ids.tolist()) for ids in drawn.tokens],
        "entropy": [float(e) for e in entropy(drawn.tokens)],
        "entropy_of_text": [float(e) for e in entropy(real[:, : drawn.tokens.shape[1]])],
    }
