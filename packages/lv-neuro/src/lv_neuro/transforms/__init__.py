"""Transformations F(v, dx): what a turn of the head does to the population."""

from lv_neuro.transforms.base import Stepper, Transformation
from lv_neuro.transforms.conv import ConvRecurrence
from lv_neuro.transforms.linear import LinearGroup, LinearPoly, Spectrum
from lv_neuro.transforms.table import AdditiveRecurrence, TableRecurrence, TaylorRecurrence

__all__ = [
    "AdditiveRecurrence",
    "ConvRecurrence",
    "LinearGroup",
    "LinearPoly",
    "Spectrum",
    "Stepper",
    "TableRecurrence",
    "TaylorRecurrence",
    "Transformation",
]
