"""Recorded head-direction cells: loading, tuning, movement, decoding, made-up recordings."""

from lv_neuro.recorded.binning import binned_recording, from_spikes
from lv_neuro.recorded.decoder import (
    BayesianDecoder,
    Blocks,
    Decoded,
    alternate_blocks,
    cross_decode,
)
from lv_neuro.recorded.files import RecordedSet, load_csv, load_npz, load_recorded
from lv_neuro.recorded.movement import Turns
from lv_neuro.recorded.nwb import from_pynapple, load_nwb
from lv_neuro.recorded.recording import Recording
from lv_neuro.recorded.synthetic import (
    HeadDirectionCells,
    draw_cells,
    head_turns,
    poisson_spikes,
    synthetic_recording,
)
from lv_neuro.recorded.tuning import TuningCurves, tuning_curves

__all__ = [
    "BayesianDecoder",
    "Blocks",
    "Decoded",
    "HeadDirectionCells",
    "RecordedSet",
    "Recording",
    "TuningCurves",
    "Turns",
    "alternate_blocks",
    "binned_recording",
    "cross_decode",
    "draw_cells",
    "from_pynapple",
    "from_spikes",
    "head_turns",
    "load_csv",
    "load_npz",
    "load_nwb",
    "load_recorded",
    "poisson_spikes",
    "synthetic_recording",
    "tuning_curves",
]
