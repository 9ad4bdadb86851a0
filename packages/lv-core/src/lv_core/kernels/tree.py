"""What the no-U-turn sampler keeps of a growing trajectory."""

from typing import NamedTuple

import torch
from torch import Tensor

from lv_core.kernels.base import over_event
from lv_core.kernels.leapfrog import dot

__all__ = ["CHUNK", "Candidate", "Tally", "Turns", "pick", "straight", "uniforms_per_step"]

CHUNK = 16
"""Leaves of a subtree that are kept at a time; then one candidate is drawn from them."""


def uniforms_per_step(max_depth: int) -> int:
    """Returns how many uniform numbers one chain needs for one transition at most.

    Two for each doubling (direction, and whether its candidate replaces the sample) and one for
    each chunk of leaves.
    """
    return 2 * max_depth + sum(max(1, (1 << depth) // CHUNK) for depth in range(max_depth))


class Candidate(NamedTuple):
    """A point of the trajectory that may become the next sample."""

    log_weight: Tensor
    """of this point, or of all points it was drawn from: logarithm of exp(H(start) - H)"""
    error: Tensor
    """energy error of this point, `(*batch,)`"""
    value: Tensor
    u: Tensor
    grad: Tensor
    parts: dict[str, Tensor]


def pick(points: list[Candidate], v: Tensor) -> Candidate:
    """Returns a point drawn in proportion to the weights, for each chain its own.

    Arguments:
        points: Candidates; their number is the same for all chains.
        v: Uniform numbers, shape `(*batch,)`.
    """
    if len(points) == 1:
        return points[0]
    weights = torch.stack([point.log_weight for point in points])
    total = weights.logsumexp(0)
    cumulative = (weights - total).exp_().cumsum(0)
    # The last bound is one up to rounding: leaving it out keeps the index in range.
    index = (cumulative[:-1] <= v).sum(0, keepdim=True)

    def chosen(tensors: list[Tensor]) -> Tensor:
        stacked = torch.stack(tensors)
        where = over_event(index, stacked).expand(1, *stacked.shape[1:])
        return stacked.gather(0, where)[0]

    return Candidate(
        log_weight=total,
        error=chosen([point.error for point in points]),
        value=chosen([point.value for point in points]),
        u=chosen([point.u for point in points]),
        grad=chosen([point.grad for point in points]),
        parts={n: chosen([point.parts[n] for point in points]) for n in points[0].parts},
    )


def straight(pairs: list[tuple[Tensor, Tensor]], axes: tuple[int, ...]) -> Tensor:
    """Returns for which chains all inner products of the pairs are positive.

    One stack in place of many small products: at a few dozen chains an operation costs the same
    for one pair as for six.
    """
    first = torch.stack([pair[0] for pair in pairs])
    second = torch.stack([pair[1] for pair in pairs])
    # Axes count from the front of one tensor; the stack has one more.
    return dot(first, second, tuple(axis + 1 for axis in axes)).amin(0) > 0


class Turns:
    """Finds U-turns within a subtree while its leaves come one by one.

    Leaf n (counted from 0) completes, for each of its trailing one bits, a balanced subtree that
    ends at n. Such a subtree is checked between its ends and across the seam of its two halves.
    All momenta that any later check needs are held in a number of slots that is logarithmic in
    the number of leaves: starts of open subtrees by the number of one bits of their leaf, ends of
    left halves by the number of trailing ones.

    All chains are at the same leaf, so slots are plain references and nothing is copied.

    Source:
        Phan et al., "Composable effects for flexible and accelerated probabilistic programming in
        NumPyro", 2019; Lao and Dillon, "Unrolled implementation of no-U-turn sampler", 2020; the
        checks across the seam: Stan's implementation, discussed by Betancourt, 2017.
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        self._axes = axes
        self._starts: dict[int, Tensor] = {}
        self._before: dict[int, Tensor | None] = {}
        self._ends: dict[int, Tensor] = {}
        self._leaf = 0
        self.total: Tensor | None = None
        """sum of the momenta of all leaves so far"""

    def add(self, p: Tensor) -> Tensor | None:
        """Takes the momenta of the next leaf; returns which chains go on, None = all of them."""
        n, ones = self._leaf, self._leaf.bit_count()
        trailing = (~n & (n + 1)).bit_length() - 1
        before = self.total
        self._starts[ones], self._before[ones] = p, before
        self._ends[trailing] = p
        total = p if before is None else before + p
        self.total, self._leaf = total, n + 1
        result: Tensor | None = None
        for level in range(1, trailing + 1):
            ok = self._check(level, ones, p, total)
            result = ok if result is None else result & ok
        return result

    def _check(self, level: int, ones: int, p: Tensor, total: Tensor) -> Tensor:
        start = self._starts[ones - level]
        if level == 1:  # two leaves: the seam lies between the ends
            rho = start + p
            return straight([(start, rho), (p, rho)], self._axes)
        before, seam = self._before[ones - level], self._before[ones - level + 1]
        right, left_end = self._starts[ones - level + 1], self._ends[level - 1]
        assert seam is not None
        whole = total if before is None else total - before
        left = seam if before is None else seam - before
        across_left, across_right = left + right, total - seam + left_end
        return straight(
            [
                (start, whole),
                (p, whole),
                (start, across_left),
                (right, across_left),
                (left_end, across_right),
                (p, across_right),
            ],
            self._axes,
        )


class Tally:
    """Counts what a transition reports; looks at many leaves at once."""

    def __init__(self, like: Tensor, max_energy_error: float) -> None:
        self._limit = max_energy_error
        self._weights: list[Tensor] = []
        self._active: list[Tensor] = []
        self.accept = torch.zeros_like(like)
        """sum of min(1, exp(H(start) - H)) over the leaves"""
        self.leapfrogs = torch.zeros_like(like, dtype=torch.int64)
        self.divergent = torch.zeros_like(like, dtype=torch.bool)
        self.bad = self.divergent

    def add(self, log_weight: Tensor, active: Tensor) -> None:
        """Takes the weights of a leaf and which chains made it."""
        self._weights.append(log_weight)
        self._active.append(active)
        if len(self._weights) == 4 * CHUNK:
            self.flush()

    def flush(self) -> None:
        """Adds the leaves that are not counted yet."""
        if not self._weights:
            return
        weights, active = torch.stack(self._weights), torch.stack(self._active)
        self._weights, self._active = [], []
        finite = torch.isfinite(weights)
        accept = weights.clamp(max=0.0).exp_()
        # A running sum, since the order in which a plain sum adds depends on how many leaves the
        # longest trajectory of the batch has.
        summed = torch.where(active & finite, accept, 0.0).cumsum(0)[-1]
        self.accept = self.accept + summed
        self.leapfrogs = self.leapfrogs + active.sum(0)
        passed = finite & (weights >= -self._limit)
        self.divergent = self.divergent | (active & ~passed).any(0)
        self.bad = self.bad | (active & ~finite).any(0)
