"""Training operations of a cell, by the paper's count and by ours."""

from apps.ltm.cells import Cell
from lv_text.metrics import training_flops

__all__ = ["equal_iterations", "operations"]


def operations(cell: Cell) -> dict[str, float]:
    """Returns operations per token and of the whole training, in units of 1e9.

    Without latents there are no fast steps; an encoder is counted as a second decoder.
    """
    fast = 0 if cell.kind in ("ar", "encoder") else cell.inference.steps * cell.inference.samples
    model = cell.model
    counted = training_flops(
        layers=model.layers,
        width=model.width,
        vocabulary=model.vocabulary,
        length=model.length,
        window=model.window,
        slots=0 if cell.kind == "ar" else model.slots,
        latent_layers=0 if cell.kind == "ar" else model.reading,
        fast_steps=fast,
        mlp_width=model.decoder().inner_width,
    )
    times = 2 if cell.encoded else 1
    tokens = cell.train.iterations * cell.train.batch_size * model.length
    return {
        "paper_per_token": counted.paper / 1e9,
        "frozen_per_token": counted.frozen / 1e9,
        "counted_per_token": times * counted.counted.total / 1e9,
        "counted": times * counted.counted.total * tokens / 1e9,
    }


def equal_iterations(baseline: Cell, cell: Cell) -> int:
    """Returns the updates of a baseline that cost what the training of `cell` costs."""
    ours = operations(cell)["counted"]
    one = operations(baseline)["counted"] / baseline.train.iterations
    return round(ours / one)
