"""The figures of the report."""

from collections.abc import Sequence
from pathlib import Path

from apps.ode_lebm import (
    figures_compare,
    figures_factors,
    figures_forecast,
    figures_frames,
    figures_latent,
)
from apps.ode_lebm.figures_style import Record, Study
from apps.ode_lebm.results import TITLES, groups_of
from apps.ode_lebm.settings import Settings

__all__ = ["draw"]


def draw(records: Sequence[Record], folder: Path, settings: Settings) -> dict[str, object]:
    """Returns figure (or HTML) and caption by title, data set by data set.

    Arguments:
        records: What the cells found, see `train.run_cell`. What they lack is left out.
        folder: Folder of the cells, for their arrays and weights.
        settings: Of the run.
    """
    found: dict[str, object] = {}
    for system, groups in groups_of(dict(record) for record in records).items():
        ordered = {name: groups[name] for name in TITLES if name in groups}
        study = Study(system, ordered, folder, settings)
        drawn = {
            "all variants": figures_compare.all_variants(study),
            "forecasts": figures_forecast.trajectories(study),
            "frames": figures_frames.strips(study),
            "film": figures_frames.film(study),
            "error over time": figures_forecast.error_curves(study),
            "exchanged static variables": figures_frames.swapped(study),
            "static factors": figures_factors.recovered_factors(study),
            "sequences of another kind": figures_factors.unusual_sequences(study),
            "latent paths": figures_latent.phase_portraits(study),
            "energy landscape": figures_latent.energy_landscapes(study),
            "samples of the prior": figures_forecast.generated(study)
            or figures_frames.generated_frames(study),
            "learning": figures_compare.learning_curves(study),
        }
        found |= {f"{study.title}: {k}": v for k, v in drawn.items() if v is not None}
    return found
