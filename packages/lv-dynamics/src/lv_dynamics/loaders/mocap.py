"""Walking: joint angles of subject 35 of the CMU motion capture library."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lv_dynamics.loaders.files import existing, wrong_file
from lv_dynamics.sequences import Sequences

__all__ = ["WalkingSet", "read_mocap35"]

NAMES = {"train": "Xtr", "valid": "Xval", "test": "Xtest"}


@dataclass(frozen=True, kw_only=True, eq=False)
class WalkingSet:
    """Walks of one person: 16, 3 and 4 sequences of 300 frames with 50 joint angles."""

    train: Sequences
    """Xtr, 16 walks"""
    valid: Sequences
    """Xval, 3 walks"""
    test: Sequences
    """Xtest, 4 walks; the protocol shows the first 3 frames and scores all 300"""


def read_mocap35(
    path: str | Path, *, step: float = 0.1, dtype: torch.dtype = torch.float32
) -> WalkingSet:
    """Returns the walks in the split of the ODE2VAE authors, centered joint angles.

    Arguments:
        path: Path of mocap35.mat, with arrays Xtr, Xval and Xtest.
        step: Time from frame to frame; 0.1 in the protocol.
        dtype: Type of the result; the file has float64.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or of another kind, or step is not positive.

    Source:
        Yildiz, Heinonen and Lahdesmaki, "ODE2VAE", 2019; CMU Graphics Lab Motion Capture Database.
    """
    from scipy.io import loadmat

    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    what = "a MATLAB file with the arrays Xtr, Xval and Xtest (walks, frames, angles)"
    path = existing(path, what)
    try:
        content = loadmat(path, variable_names=list(NAMES.values()))
        arrays = {part: content[name] for part, name in NAMES.items()}
    except Exception as error:  # loadmat raises what it stumbles over, IndexError for one
        raise wrong_file(path, what, f"it cannot be read ({type(error).__name__})") from None
    shapes = {name: arrays[part].shape for part, name in NAMES.items()}
    same = len({shape[1:] for shape in shapes.values()}) == 1
    floats = all(array.dtype.kind == "f" and array.ndim == 3 for array in arrays.values())
    if not same or not floats:
        raise wrong_file(path, what, f"the arrays have shapes {shapes}")
    times = torch.arange(shapes["Xtr"][1], dtype=torch.float64) * step
    return WalkingSet(
        **{
            part: Sequences(times, torch.from_numpy(array.astype("f8"))).to(dtype)
            for part, array in arrays.items()
        }
    )
