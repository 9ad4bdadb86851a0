"""The figures of the report."""

from collections.abc import Sequence
from typing import Any

from apps.ltm import figures_numbers, figures_study, figures_text, figures_training

__all__ = ["draw", "draw_study"]


def draw(records: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Returns figure (or HTML) and caption by title.

    Arguments:
        records: What the cells found, see `single.run_cell`. What a record lacks, such as
            "probes", is left out.
    """
    if not records:
        return {}
    found = {
        "Every number side by side": figures_numbers.side_by_side(records),
        "Against inference steps": figures_numbers.against_steps(records),
        "Predictive protocol": figures_numbers.predictive_gain(records),
        "Training curves": figures_training.training_curves(records),
        "Divergence and its floor": figures_training.divergence(records),
        "Latents by layer": figures_text.layers(records),
        "Samples from the prior": figures_text.prior_samples(records),
        "Reconstructions": figures_text.reconstructions(records),
    }
    return {title: drawn for title, drawn in found.items() if drawn is not None}


def draw_study(records: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Returns the figures of a study: what every piece gains, here and on the test split."""
    found = {
        "Gains over the autoregressive model": figures_study.study_gains(records),
        "Gains on the test split": figures_study.study_gains(records, split="test"),
        "Training curves": figures_training.training_curves(records),
    }
    return {title: drawn for title, drawn in found.items() if drawn is not None}
