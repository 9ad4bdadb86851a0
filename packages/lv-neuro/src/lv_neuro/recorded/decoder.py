"""Bayesian decoding of the heading from spike counts."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lv_neuro.angles import angular_distance, circular_mean
from lv_neuro.recorded.choice import check_choice
from lv_neuro.recorded.recording import Recording, whole_bins
from lv_neuro.recorded.smoothing import forward_backward
from lv_neuro.recorded.tuning import TuningCurves, circular_kernel

__all__ = ["BayesianDecoder", "Blocks", "Decoded", "alternate_blocks", "cross_decode"]

Prior = Literal["uniform", "occupancy"]
Estimate = Literal["mode", "mean"]


class Decoded(NamedTuple):
    """Headings decoded from spikes, beside the true ones."""

    time: Float[Tensor, " windows"]
    """Starts of the windows in seconds."""
    heading: Float[Tensor, " windows"]
    """Decoded headings, radians in [0, 2 pi)."""
    posterior: Float[Tensor, "windows bins"]
    """Probability of each grid angle."""
    truth: Float[Tensor, " windows"]
    """Recorded headings, circular means over the windows."""
    error: Float[Tensor, " windows"]
    """Angle between the two, radians in [0, pi]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BayesianDecoder:
    """Decodes headings from counts that are Poisson given the heading, cells independent.

    log p(n | counts) = sum_i k_i log f_i(n) - T sum_i f_i(n) + log prior(n) + constant

    with rates f in Hz, counts k and window T in seconds. With `walk`, windows are not decoded one
    by one: the heading follows a random walk on the circle and the posterior takes all windows of
    a stretch into account, past and future.

    Example:
        >>> import torch
        >>> from lv_neuro.recorded import BayesianDecoder, synthetic_recording
        >>> recording = synthetic_recording(120, generator=torch.Generator().manual_seed(0))
        >>> decoder = BayesianDecoder.fit(recording.between(0, 60))
        >>> decoder.decode(recording.between(60, 120)).heading.shape
        torch.Size([300])

    Source:
        Zhang, Ginzburg, McNaughton and Sejnowski, "Interpreting neuronal population activity by
        reconstruction", Journal of Neurophysiology, 1998.
    """

    tuning: TuningCurves
    """Rates of the cells; headings where a rate is NaN are never decoded."""
    prior: Prior = "uniform"
    """Equal probability for all headings, or proportional to the time spent there."""
    floor: float = 1e-3
    """Rates in Hz below it are raised to it, so that one stray spike excludes no heading."""
    walk: float | None = None
    """Standard deviation of the heading's change in a second, radians per square root of a second
    (it grows as the root of time); None means windows are independent."""

    def __post_init__(self) -> None:
        check_choice("prior", self.prior, get_args(Prior))
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor must be positive (Hz), got {self.floor}")
        if self.walk is not None and not 0 < self.walk < math.inf:
            raise ValueError(f"walk must be positive or None, got {self.walk}")
        if not bool(torch.isfinite(self.tuning.rates).all(1).any()):
            raise ValueError(
                "tuning: there is no heading at which all cells have a rate: lower min_occupancy"
            )

    @classmethod
    def fit(
        cls,
        recording: Recording,
        *,
        bins: int = 60,
        smooth: float = 0.0,
        min_occupancy: float = 0.0,
        prior: Prior = "uniform",
        floor: float = 1e-3,
        walk: float | None = None,
    ) -> "BayesianDecoder":
        """Returns a decoder with the tuning curves of a recording.

        Arguments:
            recording: What the tuning curves are taken from.
            bins: Number of headings.
            smooth: Smoothing of the tuning curves, see `Recording.tuning_curves`.
            min_occupancy: Seconds at a heading below which it is never decoded.
            prior: See the class.
            floor: See the class.
            walk: See the class.
        """
        curves = recording.tuning_curves(bins, smooth=smooth, min_occupancy=min_occupancy)
        return cls(tuning=curves, prior=prior, floor=floor, walk=walk)

    def log_likelihood(
        self, counts: Integer[Tensor, "windows cells"], seconds: float
    ) -> Float[Tensor, "windows bins"]:
        """Returns log p(counts | heading) up to a constant per window, -inf where rates are NaN.

        Arguments:
            counts: Spikes per window.
            seconds: Length of the windows.

        Raises:
            ValueError: If the number of cells is not that of the tuning curves.
        """
        rates = self.tuning.rates.double()
        if counts.shape[-1] != rates.shape[1]:
            raise ValueError(
                f"counts must be of the {rates.shape[1]} cells of the tuning curves, got "
                f"{counts.shape[-1]} cells"
            )
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be positive and finite, got {seconds}")
        known = torch.isfinite(rates).all(1)
        rates = torch.where(known[:, None], rates, 1.0).clamp_min(self.floor)
        log = counts.double() @ rates.log().T - seconds * rates.sum(1)
        return torch.where(known, log, -torch.inf)

    def posterior(
        self, counts: Integer[Tensor, "windows cells"], seconds: float
    ) -> Float[Tensor, "windows bins"]:
        """Returns the probability of each grid angle in each window.

        Arguments:
            counts: Spikes per window; the windows follow each other without a break if `walk`.
            seconds: Length of the windows.
        """
        like = self.log_likelihood(counts, seconds)
        prior = torch.zeros_like(like[0])
        if self.prior == "occupancy":
            prior = self.tuning.occupancy.double().log()
        if self.walk is None:
            log = (like + prior).log_softmax(1)
        else:
            step = circular_kernel(like.shape[1], self.walk * math.sqrt(seconds)).to(like.device)
            log = forward_backward(like, prior, step)
        return log.exp().to(self.tuning.rates.dtype)

    def decode(
        self, recording: Recording, *, window: float = 0.2, estimate: Estimate = "mode"
    ) -> Decoded:
        """Returns the decoded headings of a recording beside the true ones.

        Arguments:
            recording: Spikes of the same cells in the same order, and the heading.
            window: Length of the windows in seconds, a multiple of the time bin.
            estimate: "mode" takes the most probable grid angle, "mean" the circular mean of the
                posterior.

        Raises:
            ValueError: If the window does not fit, the number of cells differs, or nobody knows
                the estimate.
        """
        check_choice("estimate", estimate, get_args(Estimate))
        coarse = recording.rebin(whole_bins("window", window, recording.bin_seconds))
        # Without a walk the windows are independent and can be decoded at once.
        parts = [slice(None)] if self.walk is None else coarse.stretches
        posterior = torch.cat([self.posterior(coarse.counts[part], window) for part in parts])
        angle = self.tuning.heading
        if estimate == "mode":
            found = angle[posterior.argmax(1)]
        else:
            found = circular_mean(angle.expand_as(posterior), posterior)
        truth = coarse.heading
        return Decoded(coarse.starts, found, posterior, truth, angular_distance(found, truth))


class Blocks(NamedTuple):
    """Two halves of a recording in alternating blocks of time."""

    even: Recording
    """First, third, ... block."""
    odd: Recording
    """Second, fourth, ... block."""


def alternate_blocks(recording: Recording, seconds: float = 30.0) -> Blocks:
    """Returns the two halves of a recording that alternate every `seconds`.

    Raises:
        ValueError: If the recording ends within the first block.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    since = recording.starts - recording.starts[0] + 1e-6 * recording.bin_seconds
    odd = torch.remainder((since / seconds).floor(), 2) == 1
    if not bool(odd.any()):
        raise ValueError(
            f"seconds must be shorter than the recording, which is {float(since[-1]):.4g} s long, "
            f"got {seconds}"
        )
    return Blocks(recording.keep(~odd), recording.keep(odd))


def cross_decode(
    recording: Recording,
    *,
    block: float = 30.0,
    window: float = 0.2,
    estimate: Estimate = "mode",
    bins: int = 60,
    smooth: float = 0.0,
    prior: Prior = "uniform",
    floor: float = 1e-3,
    walk: float | None = None,
) -> Decoded:
    """Returns headings of a whole recording, each decoded with curves from the other half.

    The halves are blocks of time that alternate every `block` seconds; the result is in the order
    of time. Arguments as for `BayesianDecoder`.
    """
    halves = alternate_blocks(recording, block)
    found = [
        BayesianDecoder.fit(
            train, bins=bins, smooth=smooth, prior=prior, floor=floor, walk=walk
        ).decode(test, window=window, estimate=estimate)
        for train, test in (halves, halves[::-1])
    ]
    order = torch.cat([part.time for part in found]).argsort()
    return Decoded(*(torch.cat(both)[order] for both in zip(*found, strict=True)))
