"""What latents hold: by layer, by slot, by swapping, along paths, and for linear classifiers."""

from lv_text.probes.ablation import SlotAblation, slot_ablation
from lv_text.probes.interpolation import interpolate
from lv_text.probes.labels import LabelProbe, bag_of_words, label_probe
from lv_text.probes.layers import (
    LayerDecoding,
    LayerReconstruction,
    layer_decoding,
    layer_reconstruction,
)
from lv_text.probes.linear import LinearProbe, linear_probe
from lv_text.probes.swap import SwapTest, swap_test

__all__ = [
    "LabelProbe",
    "LayerDecoding",
    "LayerReconstruction",
    "LinearProbe",
    "SlotAblation",
    "SwapTest",
    "bag_of_words",
    "interpolate",
    "label_probe",
    "layer_decoding",
    "layer_reconstruction",
    "linear_probe",
    "slot_ablation",
    "swap_test",
]
