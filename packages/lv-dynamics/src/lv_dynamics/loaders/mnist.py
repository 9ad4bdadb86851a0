"""Handwritten digits from idx files."""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from lv_dynamics.loaders.files import existing, wrong_file

__all__ = ["Digits", "read_idx", "read_mnist"]


class Digits(NamedTuple):
    """Pictures of digits with their labels."""

    images: UInt8[Tensor, "digits height width"]
    """Gray values 0..255, ink is bright."""
    labels: Int[Tensor, " digits"]
    """Which digit, 0..9, int64."""


def read_mnist(images: str | Path, labels: str | Path) -> Digits:
    """Returns the pictures and labels of MNIST or a set of the same format.

    Arguments:
        images: Path of e.g. t10k-images-idx3-ubyte.gz, gzipped or not.
        labels: Path of e.g. t10k-labels-idx1-ubyte.gz, gzipped or not.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, of another kind, or the two differ in number.

    Example:
        >>> digits = read_mnist("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
        >>> train = rotating_digits(digits.images, digits.labels, 1000)
    """
    pictures, classes = read_idx(images, axes=3), read_idx(labels, axes=1)
    if len(pictures) != len(classes):
        raise ValueError(
            f"{images} holds {len(pictures)} pictures but {labels} {len(classes)} labels: take "
            "files that belong together"
        )
    return Digits(pictures, classes.long())


def read_idx(path: str | Path, *, axes: int) -> UInt8[Tensor, "..."]:
    """Returns the bytes of an idx file as a tensor.

    Arguments:
        path: Path of the file, gzipped or not.
        axes: How many axes it must have.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or of another kind.
    """
    what = f"an idx file of bytes with {axes} axes"
    path = existing(path, what)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise wrong_file(path, what, f"it cannot be unpacked ({error})") from None
    head = 4 + 4 * axes
    if len(raw) < head:
        raise wrong_file(path, what, f"it has {len(raw)} bytes, fewer than a header of {head}")
    magic = int.from_bytes(raw[:4], "big")
    if magic != 0x800 + axes:
        raise wrong_file(path, what, f"it begins with the number {magic}, not {0x800 + axes}")
    shape = tuple(int.from_bytes(raw[4 * k : 4 * k + 4], "big") for k in range(1, axes + 1))
    if len(raw) != head + prod(shape):
        raise wrong_file(
            path, what, f"its header says {prod(shape)} bytes in {shape}, it has {len(raw) - head}"
        )
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=head).reshape(shape).copy())
