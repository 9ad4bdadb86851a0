"""When adaptation learns scales, and when only the step size."""

import math

__all__ = ["slow_windows"]


def slow_windows(steps: int, chains: int) -> tuple[int, tuple[int, ...]]:
    """Returns the step at which scales begin to be learned, and the steps after which they change.

    As in Stan: 75 steps for the step size alone, windows that double, 50 steps for the step size
    alone; of fewer than 150 steps 15 %, 75 % and 10 %; below 20 no windows. The first window has
    25 steps for up to ten chains; more chains see as many positions in fewer steps, so it shrinks
    to 10 steps for 25 chains or more and there is time for more windows.

    Arguments:
        steps: Steps of the whole adaptation.
        chains: Number of chains whose positions are pooled.
    """
    if steps < 20:
        return steps, ()
    width = max(10, min(25, math.ceil(250 / chains)))
    first, last = (75, 50) if steps >= 150 else (int(0.15 * steps), int(0.1 * steps))
    ends, position, stop = list[int](), first, steps - last
    while position < stop:
        position += width
        width *= 2
        # A window without room for the next one is extended to the end.
        if position + width > stop:
            position = stop
        ends.append(position)
    return first, tuple(ends)
