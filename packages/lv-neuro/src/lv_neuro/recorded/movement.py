"""What the head did: angular velocity, turns and walks taken from recorded headings."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d

from lv_neuro.angles import heading as into_turn
from lv_neuro.angles import wrap
from lv_neuro.walks import Walks

__all__ = ["Turns", "angular_velocity", "segments", "turns"]


class Turns(NamedTuple):
    """Head turns from one time bin to the next."""

    before: Float[Tensor, " turns"]
    """Headings before the turns, in [0, 2 pi)."""
    turn: Float[Tensor, " turns"]
    """Turns in radians, in [-pi, pi), counter-clockwise positive."""


def turns(heading: Float[Tensor, " time"], stretches: Sequence[slice]) -> Turns:
    """Returns the turns between neighboring bins, the short way; none across breaks."""
    turn = torch.cat([wrap(heading[part].diff()) for part in stretches])
    before = torch.cat([heading[part][:-1] for part in stretches])
    return Turns(before, turn)


def angular_velocity(
    heading: Float[Tensor, " time"],
    stretches: Sequence[slice],
    bin_seconds: float,
    *,
    smooth: float,
) -> Float[Tensor, " time"]:
    """Returns d heading / dt in rad/s, smoothed by a Gaussian in time.

    The unwrapped heading is differenced (centrally, one-sided at the ends of a stretch) and the
    differences are smoothed, which is the same as smoothing the unwrapped heading first, but
    leaves a constant velocity as it is at the ends too.

    Arguments:
        heading: Headings in radians.
        stretches: Parts of the recording without a break.
        bin_seconds: Length of a time bin.
        smooth: Standard deviation of the Gaussian in seconds; 0 means no smoothing.

    Returns:
        One velocity per time bin; NaN in a stretch of a single bin.
    """
    if not 0 <= smooth < math.inf:
        raise ValueError(f"smooth must be finite and not negative (seconds), got {smooth}")
    width = smooth / bin_seconds
    reach = math.ceil(5 * width)
    lag = torch.arange(-reach, reach + 1, dtype=torch.float64, device=heading.device)
    kernel = torch.exp(-0.5 * (lag / max(width, 1e-9)) ** 2)[None, None]
    out = torch.full_like(heading, torch.nan)
    for part in stretches:
        turn = wrap(heading[part].double().diff())
        if turn.numel() == 0:
            continue
        ends = torch.cat([turn[:1], (turn[1:] + turn[:-1]) / 2, turn[-1:]])
        both = torch.stack([ends, torch.ones_like(ends)])[:, None]
        total = conv1d(both, kernel, padding=reach)[:, 0]
        out[part] = (total[0] / total[1] / bin_seconds).to(out.dtype)
    return out


def segments(moves: Turns, walks: int, steps: int, *, max_turn: float | None) -> Walks:
    """Returns pieces of recorded movement as walks.

    Starts are spread evenly over the recording; pieces overlap where `walks * steps` exceeds the
    number of turns. The truth is the sum of the turns that are returned: after clamping it is not
    the recorded heading any more, and turns across breaks are left out of both.

    Arguments:
        moves: All turns of the recording.
        walks: How many pieces.
        steps: Turns in each.
        max_turn: Largest turn in radians, larger ones are clamped; None means as recorded.

    Raises:
        ValueError: If a number is not positive, or the recording is shorter than one piece.
    """
    for name, value in (("walks", walks), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    if max_turn is not None and not 0 < max_turn <= math.pi:
        raise ValueError(
            f"max_turn must be in (0, pi] radians or None, got {max_turn:.4g}: is it degrees?"
        )
    known = moves.turn.shape[0]
    if steps > known:
        raise ValueError(
            f"steps must not exceed the {known} turns of the recording, got {steps}: ask for "
            "shorter walks or shorter steps"
        )
    first = torch.linspace(0, known - steps, walks, dtype=torch.float64).long()
    turn = moves.turn[first[:, None] + torch.arange(steps)]
    if max_turn is not None:
        turn = turn.clamp(-max_turn, max_turn)
    start = moves.before[first]
    # Summed in double precision, so that the truth of long walks is not worn by rounding.
    truth = into_turn(start.double()[:, None] + turn.double().cumsum(1)).to(turn.dtype)
    return Walks(into_turn(start), turn, into_turn(truth))
