"""The figures of the report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from apps.head_direction import figures_grid, figures_paths, figures_ring, figures_tuning
from apps.head_direction.figure_style import Record
from apps.head_direction.recorded import RecordedCells
from apps.head_direction.settings import Settings
from lv_neuro import HeadDirectionModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(
    settings: Settings,
    records: Sequence[Record],
    models: Mapping[str, HeadDirectionModel],
    recorded: RecordedCells,
) -> dict[str, tuple["Figure", str]]:
    """Returns figure and caption by title.

    Arguments:
        settings: Of the run.
        records: What the cells found, at least one of the group "main".
        models: The main models by name, on the CPU; their first seed is drawn where one is.
        recorded: The cells they are held against.
    """
    found = {
        "Tuning curves": figures_tuning.tuning_curves(records, models, recorded),
        "Circle in principal components": figures_tuning.principal_circles(
            records, models, recorded
        ),
        "Path integration": figures_paths.path_integration(settings, records, models),
        "Recorded head turns": figures_paths.head_turns(records, recorded),
        "Error correction": figures_paths.error_correction(records),
        "Connectivity": figures_ring.connectivity(records, models),
        "Topography": figures_ring.ring_order(records, models),
        "Tuning widths: learned and recorded": figures_tuning.tuning_widths(
            records, models, recorded
        ),
        "Decoding recorded spikes": figures_paths.decoded_spikes(recorded),
        "Sweep": figures_grid.sweep(settings, records),
        "Ablations": figures_grid.ablations(settings, records),
    }
    return {title: drawn for title, drawn in found.items() if drawn is not None}
