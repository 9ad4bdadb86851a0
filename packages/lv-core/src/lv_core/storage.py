"""Tensors that are a file."""

import json
import mmap
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["SUPPORTED", "Columns", "TensorFile", "check_settings", "check_shape", "described"]

Columns = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of tensors by name."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
SUPPORTED = frozenset(_DTYPES)
"""Types that can be stored."""
_NAMES = {name: dtype for dtype, name in _DTYPES.items()}
_PAGE = 4096


class TensorFile:
    """Maps a file of named tensors into memory: what is written to a tensor is in the file.

    The layout is that of the safetensors format, so other programs can read the file. All
    processes of one machine that open it see the same memory.

    Arguments:
        path: The file; must exist.
        writable: Whether the tensors may be written; writing to others crashes the process.

    Raises:
        ValueError: If the file is none of tensors, or is cut short.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path = path
        with path.open("r+b" if writable else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(length, size)))
                metadata: dict[str, str] = header.pop("__metadata__", {})
                entries = {
                    name: (entry["data_offsets"], _NAMES[entry["dtype"]], entry["shape"])
                    for name, entry in header.items()
                }
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is no file of tensors: its header is damaged") from error
            needed = (
                8 + length + max((offsets[1] for offsets, _, _ in entries.values()), default=0)
            )
            if size < needed:
                raise ValueError(f"{path} is cut short: it has {size} bytes and needs {needed}")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(file.fileno(), 0, access=access)
        self.metadata = metadata
        self.tensors: dict[str, Tensor] = {}
        with warnings.catch_warnings():
            # torch warns of memory that must not be written to; a reader does not write.
            warnings.simplefilter("ignore", UserWarning)
            for name, ((low, high), dtype, shape) in entries.items():
                flat = torch.frombuffer(
                    self._map,
                    dtype=dtype,
                    count=(high - low) // dtype.itemsize,
                    offset=8 + length + low,
                )
                self.tensors[name] = flat.view(shape)

    @staticmethod
    def create(path: Path, columns: Columns, metadata: Mapping[str, str]) -> None:
        """Writes a file of zeros, which takes no room on the disk until rows are written."""
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        # Wide types first, so that every tensor begins at a multiple of its element's size.
        for name, (shape, dtype) in sorted(columns.items(), key=lambda c: -c[1][1].itemsize):
            start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {
                "dtype": _DTYPES[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % _PAGE)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
            file.flush()
            os.fsync(file.fileno())

    def check(self, columns: Columns, metadata: Mapping[str, str]) -> None:
        """Compares the header with what is expected.

        Raises:
            ValueError: Names every difference.
        """
        found = {name: (tuple(t.shape), t.dtype) for name, t in self.tensors.items()}
        check_settings(
            str(self.path),
            {**described(found), **self.metadata},
            {**described(columns), **metadata},
        )

    def flush(self) -> None:
        """Waits until everything written is on the disk."""
        self._map.flush()


def described(columns: Columns) -> dict[str, str]:
    """Returns type and shape of each column as text."""
    return {name: f"{_DTYPES[dtype]} {tuple(shape)}" for name, (shape, dtype) in columns.items()}


def check_settings(what: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Compares the settings that something was saved with to those of who loads it.

    Raises:
        ValueError: Names every difference.
    """
    wrong = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(
            f"{what} was made with other settings: {'; '.join(wrong)}; take another one or use "
            "its settings"
        )


def check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """Raises unless a tensor has a shape.

    Raises:
        ValueError: Names the tensor and both shapes.
    """
    if tuple(value.shape) != expected:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(value.shape)}")
