"""States of the tumbling hopper from an .npz file."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lv_dynamics.loaders.files import existing, wrong_file
from lv_dynamics.scaling import Scaling
from lv_dynamics.sequences import Sequences

__all__ = ["HopperSet", "read_hopper"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HopperSet:
    """Trajectories of the hopper, in the units of the simulator."""

    train: Sequences
    """the first 80 percent"""
    test: Sequences
    """the last 20 percent"""
    scaling: Scaling
    """(x - min) / max with the extrema of all 10,000 trajectories, as in published numbers"""


def read_hopper(path: str | Path) -> HopperSet:
    """Returns the data set hopper: states `(N, 200, 14)` at times 0, 1/200, ..., 199/200.

    Positions are channels 0..6, velocities 7..13. The order is kept. For a validation set hold
    out the last training trajectories.

    Arguments:
        path: Path of hopper_2000.npz, with arrays states, min10k and max10k.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or of another kind.

    Source:
        Rubanova et al., "Latent ODEs for irregularly-sampled time series", 2019, code.

    Example:
        >>> data = read_hopper("hopper_2000.npz")
        >>> train = data.train.scaled(data.scaling)
        >>> seen = data.test.scaled(data.scaling).prefix(66).thin(0.5)
    """
    what = "an .npz with the arrays states (N, T, 14), min10k and max10k (14,)"
    path = existing(path, what)
    if not zipfile.is_zipfile(path):
        raise wrong_file(path, what, "it is no archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            states, low, high = (archive[name] for name in ("states", "min10k", "max10k"))
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise wrong_file(path, what, f"it cannot be read ({error})") from None
    floats = all(array.dtype.kind == "f" for array in (states, low, high))
    if states.ndim != 3 or low.shape != states.shape[2:] or high.shape != low.shape or not floats:
        raise wrong_file(
            path,
            what,
            f"the arrays have shapes {states.shape}, {low.shape}, {high.shape} and types "
            f"{states.dtype}, {low.dtype}, {high.dtype}",
        )
    rows = states.shape[1]
    times = torch.arange(rows, dtype=torch.float64) / rows
    data = Sequences(times, torch.from_numpy(states))
    cut = len(data) * 4 // 5
    scaling = Scaling.by_maximum(torch.from_numpy(low), torch.from_numpy(high))
    return HopperSet(train=data[:cut], test=data[cut:], scaling=scaling)
