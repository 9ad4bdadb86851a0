"""From the scores of the next token to a draw of it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from lv_core import Source
from lv_core.random import uniform

__all__ = ["Drawn", "Sampling", "pick", "probabilities", "sample"]

# Shapes: B sequences, V ids, K ids that are left to draw from.

HEAD = 1024
"""Ids that are ranked before all of them are; more if they are less than one of 16."""
ROUNDING = 1e-9
"""Distance from the asked mass within which the head is not trusted to hold it."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn from its scores; the defaults draw from the model itself.

    Steps, in this order; each sees what the one before left, renormalized:

    1. repetition_penalty r: scores of ids seen before are divided by r if positive, else
       multiplied by it.
    2. temperature t: p ~ exp(score / t). 0 takes the id of the largest score and stops here.
    3. top_k: the k most probable ids stay.
    4. top_p: the fewest most probable ids whose mass is at least p stay.
    5. min_p: ids stay that have at least min_p times the probability of the most probable one.

    Of equally probable ids at the edge of steps 3 and 4 any may stay.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Holtzman et al., "The curious case of neural text degeneration", 2020 (top_p); Keskar et
        al., "CTRL: a conditional Transformer language model for controllable generation", 2019
        (repetition_penalty).

    Example:
        >>> Sampling(temperature=0.0)  # greedy
        >>> Sampling(temperature=0.8, top_k=50, top_p=0.95)
    """

    temperature: float = 1.0
    """below 1 sharper than the model, above 1 flatter; 0 = the most probable token"""
    top_k: int | None = None
    """ids that stay; None or more than there are = all"""
    top_p: float | None = None
    """mass that stays at least, in (0, 1]; None = all"""
    min_p: float | None = None
    """share of the largest probability that an id must have, in (0, 1]; None = none"""
    repetition_penalty: float | None = None
    """above 1 discourages ids of the prompt and of what was drawn; None or 1 = none"""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature must be finite and not negative (0 = greedy), got {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None for all, got {self.top_k}")
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name} must be in (0, 1] or None, got {share}")
        penalty = self.repetition_penalty
        if penalty is not None and not 0 < penalty < math.inf:
            raise ValueError(
                f"repetition_penalty must be positive and finite or None, got {penalty}"
            )

    @property
    def greedy(self) -> bool:
        """Whether nothing is random."""
        return self.temperature == 0

    @property
    def penalizes(self) -> bool:
        """Whether ids seen before matter."""
        return self.repetition_penalty not in (None, 1)


class Drawn(NamedTuple):
    """The next token of each sequence, `(B,)` each."""

    ids: Tensor
    """What was drawn."""
    log_prob: Tensor
    """Its log probability under the model, before any of the steps of `Sampling`, nats."""
    log_draw: Tensor
    """Its log probability in the distribution that it was drawn from, nats; 0 when greedy."""


class _Left(NamedTuple):
    """What is left to draw from."""

    mass: Tensor
    """Probabilities (B, K), zeros where dropped, not normalized."""
    ids: Tensor | None
    """Ids (B, K) of them, most probable first; None = 0..V-1."""


def sample(
    logits: Float[Tensor, "batch ids"],
    sampling: Sampling | None = None,
    *,
    seen: Bool[Tensor, "batch ids"] | None = None,
    generator: Source = None,
) -> Drawn:
    """Draws the next token of each sequence by inverting the distribution function.

    One number of the generator per sequence; none when greedy. With `Rows` a sequence's token
    depends on its own generator and scores alone.

    Arguments:
        logits: Scores of all ids.
        sampling: How; None = from the model itself.
        seen: Ids in the sequence so far, for `repetition_penalty`.
        generator: Source of randomness.

    Raises:
        ValueError: If `repetition_penalty` is set and `seen` is not given.

    Example:
        >>> drawn = sample(decoder.logits(hidden[:, -1]), Sampling(top_k=50))
    """
    sampling = Sampling() if sampling is None else sampling
    _check(sampling, seen)
    level = None
    if not sampling.greedy:
        level = uniform((len(logits),), logits.new_empty(0, dtype=torch.float64), generator)
    return pick(logits, level, sampling, seen)


def probabilities(
    logits: Float[Tensor, "batch ids"],
    sampling: Sampling | None = None,
    *,
    seen: Bool[Tensor, "batch ids"] | None = None,
) -> Float64[Tensor, "batch ids"]:
    """Returns the distribution that `sample` draws from.

    Arguments:
        logits: Scores of all ids.
        sampling: How; None = the model's own distribution.
        seen: Ids in the sequence so far, for `repetition_penalty`.

    Raises:
        ValueError: If `repetition_penalty` is set and `seen` is not given.
    """
    sampling = Sampling() if sampling is None else sampling
    _check(sampling, seen)
    scores = _penalized(logits, sampling, seen)
    if sampling.greedy:
        best = scores.argmax(-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, best, 1.0)
    left = _left(scores, sampling)
    share = left.mass / left.mass.sum(-1, keepdim=True)
    if left.ids is None:
        return share
    return torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, left.ids, share)


def pick(
    logits: Float[Tensor, "batch ids"],
    level: Float64[Tensor, " batch"] | None,
    sampling: Sampling,
    seen: Bool[Tensor, "batch ids"] | None = None,
) -> Drawn:
    """Returns the token at a given level of the distribution function; `sample` without checks.

    id = the first one with F(id) > level, F = cumulative distribution in the order of the ids, or
    of falling probability if any are dropped

    Arguments:
        logits: Scores of all ids.
        level: Numbers in [0, 1); not read when greedy.
        sampling: How.
        seen: Ids in the sequence so far, for `repetition_penalty`.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    scores = _penalized(logits, sampling, seen)
    if level is None or sampling.greedy:
        ids = scores.argmax(-1, keepdim=True)
        log_draw = torch.zeros(len(ids), dtype=wide, device=ids.device)
    else:
        left = _left(scores, sampling)
        # float64: in float32 the sum over a large vocabulary loses rare ids altogether.
        reached = left.mass.cumsum(-1)
        total = reached[:, -1:]
        # Level < 1 in float64 stays below the total after rounding, so that an id of no mass is
        # never found; the clamp is for scores that are no numbers.
        place = torch.searchsorted(reached, level[:, None] * total, right=True)
        place = place.clamp(max=reached.shape[1] - 1)
        log_draw = (left.mass.gather(-1, place) / total).log()[:, 0].to(wide)
        ids = place if left.ids is None else left.ids.gather(-1, place)
    chosen = logits.gather(-1, ids)[:, 0].to(wide)
    return Drawn(ids[:, 0], chosen - logits.to(wide).logsumexp(-1), log_draw)


def _check(sampling: Sampling, seen: Tensor | None) -> None:
    if sampling.penalizes and seen is None:
        raise ValueError(
            f"seen must be given for repetition_penalty={sampling.repetition_penalty}, got None: "
            "mark the ids of the sequence so far"
        )


def _penalized(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    factor = sampling.repetition_penalty
    if factor is None or seen is None:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def _left(scores: Tensor, sampling: Sampling) -> _Left:
    """Returns what steps 2 to 5 leave of penalized scores."""
    ids, edge = None, sampling.top_p
    share: Tensor | float = 1.0
    if edge is not None and edge >= 1:
        edge = None
    count = scores.shape[-1]
    if sampling.temperature != 1:
        # Less the largest first: tiny temperatures must not overflow.
        scores = (scores - scores.amax(-1, keepdim=True)).double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < count:
        scores, ids = scores.topk(sampling.top_k)
    elif edge is not None:
        scores, ids, share = _ranked(scores, edge)
    mass = scores.softmax(-1, torch.float64)
    if edge is not None:
        before = functional.pad(mass.cumsum(-1)[..., :-1], (1, 0))
        mass = mass.where(before * share < edge, 0.0)
    if sampling.min_p is not None:
        least = sampling.min_p * mass.amax(-1, keepdim=True)
        mass = mass.where(mass >= least, 0.0)
    return _Left(mass, ids)


def _ranked(scores: Tensor, edge: float) -> tuple[Tensor, Tensor, Tensor | float]:
    """Returns scores from the largest on, their ids, and the share of all mass that they hold.

    Sorting a whole vocabulary costs a CPU as much as the rest of a step, and most of the time the
    head of it holds the mass that is asked for. A GPU would have to be waited for to know.
    """
    count = scores.shape[-1]
    if scores.device.type == "cpu" and count >= 2 * HEAD:
        top, ids = scores.topk(max(HEAD, count // 16))
        share = (top.double().logsumexp(-1, True) - scores.double().logsumexp(-1, True)).exp()
        if bool((share > edge + ROUNDING).all()):
            return top, ids, share
    top, ids = scores.sort(descending=True)
    return top, ids, 1.0
