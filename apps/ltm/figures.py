"""The figures of the report."""

from collections.abc import Sequence
from typing import Any

from apps.ltm import figures_numbers, figures_text, figures_training

__all__ = ["draw"]


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
