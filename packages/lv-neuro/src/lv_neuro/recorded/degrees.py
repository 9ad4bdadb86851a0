"""The check for degrees given by mistake, with a warning at the line of the user."""

import inspect
import warnings

from torch import Tensor

from lv_neuro.angles import TURN, check_radians, wrap

__all__ = ["check_angles"]

PACKAGE = __name__.partition(".")[0]


def check_angles(name: str, x: Tensor) -> None:
    """Refuses angles that are no numbers and warns when they look like degrees.

    As `check_radians`, but loaders call each other, so that the line that is to blame is at no
    fixed distance: the warning points at the first line outside of this package.

    Arguments:
        name: Name of the argument, for the message.
        x: The angles, radians.

    Raises:
        TypeError: If `x` holds integers.
        ValueError: If a value is NaN or infinite.
    """
    floats = isinstance(x, Tensor) and x.is_floating_point()
    check_radians(name, wrap(x) if floats else x)  # wrapped angles bring no warning from there
    largest = float(x.abs().max()) if x.numel() else 0.0
    if largest > TURN + 1e-4:
        warnings.warn(
            f"{name} reaches {largest:.4g}: radians are expected, usually in [0, 2 pi); values "
            "above 2 pi look like degrees. Convert with np.deg2rad if they are.",
            UserWarning,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """Returns the stacklevel, for its caller, of the first frame outside of this package."""
    level, frame = 0, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    return level
