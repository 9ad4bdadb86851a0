"""Dynamics of a ring: path integration, the group law, what happens off the ring.

Shape legend: S stacked seeds, N bins, d neurons, B walks or codes, T time, K largest turn in bins.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lv_neuro.analysis.tuning import check_codes
from lv_neuro.angles import angular_distance, grid
from lv_neuro.walks import PathIntegrator, Walks

__all__ = [
    "ErrorCorrection",
    "GeneratorFrequencies",
    "PathErrors",
    "RingModel",
    "error_correction",
    "generator_frequencies",
    "group_law",
    "identity_error",
    "path_integration",
]


@runtime_checkable
class RingModel(Protocol):
    """A code book of headings, and turns of it."""

    @property
    def codes(self) -> Tensor:
        """The codes at headings 2 pi n / N, shape `(seeds, bins, neurons)`."""
        ...

    def step(self, v: Tensor, dx: Tensor) -> Tensor:
        """Returns F(v, dx) for codes `(seeds, batch, neurons)` and turns `(batch,)`, radians."""
        ...

    def decode(self, v: Tensor) -> Tensor:
        """Returns the headings `(seeds, batch)` of codes `(seeds, batch, neurons)`."""
        ...


class PathErrors(NamedTuple):
    """Errors of path integration."""

    error: Float[Tensor, "seeds walks time"]
    """|decoded - true heading|, wrapped, after each turn (radians, in [0, pi])."""
    at_end: Float[Tensor, " seeds"]
    """Mean over walks after the last turn (degrees); chance is 90."""
    mean: Float[Tensor, " seeds"]
    """Mean over walks and turns (degrees)."""
    curve: Float[Tensor, "seeds time"]
    """Mean over walks after each turn (degrees)."""


class ErrorCorrection(NamedTuple):
    """What turns by 0 do to disturbed codes."""

    off_ring: Float[Tensor, "seeds scales applications"]
    """Mean of 1 - max_n cos(v, V_n): how far codes are from the code book."""
    heading_error: Float[Tensor, "seeds scales applications"]
    """Mean |decoded - true heading| (degrees)."""


class GeneratorFrequencies(NamedTuple):
    """How far the frequencies of a generator are from whole numbers."""

    nearest: Float[Tensor, "seeds modes"]
    """The nearest whole numbers."""
    distance: Float[Tensor, "seeds modes"]
    """Distance to them, in [0, 0.5]."""
    weighted: Float[Tensor, " seeds"]
    """Mean distance, weighted by energy; NaN without energy."""


def path_integration(
    integrator: PathIntegrator,
    walks: Walks,
    *,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> PathErrors:
    """Measures how well headings are followed from turns alone.

    Arguments:
        integrator: Model or baseline.
        walks: Walks with the true headings, e.g. from `random_walks`.
        noise: Expected norm of the vector added to the state after each turn, relative to the norm
            1 of a code. Errors grow with it as sqrt(time): report it beside every error.
        generator: Source of the noise; None means torch's global one.

    Raises:
        ValueError: If the integrator's headings do not fit the walks.

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024
        (multi-step path integration).
    """
    with torch.no_grad():
        found = integrator.integrate(walks.start, walks.turns, noise=noise, generator=generator)
    truth = walks.heading.to(found.heading)
    if found.heading.shape[1:] != truth.shape:
        raise ValueError(
            f"integrator must return headings of shape (seeds, {truth.shape[0]}, "
            f"{truth.shape[1]}) for these walks, got {tuple(found.heading.shape)}"
        )
    error = angular_distance(found.heading, truth)
    curve = torch.rad2deg(error.mean(dim=1))
    return PathErrors(error, curve[:, -1], curve.mean(dim=-1), curve)


def group_law(model: RingModel, *, max_step: int = 5) -> Float[Tensor, " seeds"]:
    """Returns the mean of ||F(F(v, a), b) - F(v, a + b)|| over codes and turns.

    Turns are whole grid steps with |a|, |b| and |a + b| <= K. Codes have norm one, so 0 is exact
    and sqrt(2) is no relation. A transformation that turns at a wrong speed obeys the law just as
    well: that shows in `path_integration`.

    Arguments:
        model: The ring.
        max_step: K, the largest turn in bins that the model has learned.

    Raises:
        ValueError: If `max_step` is not in 1, ..., (N - 1) / 2, or the codes are no tuning curves.

    Source:
        Zhao et al., 2024 (F is a representation of the rotation group).
    """
    codes = _codes(model)
    bins = codes.shape[1]
    if not 1 <= max_step < bins / 2:
        raise ValueError(
            f"max_step must be in 1, ..., (bins - 1) / 2 with bins={bins}, got {max_step}"
        )
    errors: list[Tensor] = []
    with torch.no_grad():
        turned = {a: _turn(model, codes, a, bins) for a in range(-max_step, max_step + 1)}
        for a, once in turned.items():
            for b in range(max(-max_step, -max_step - a), min(max_step, max_step - a) + 1):
                twice = _turn(model, once, b, bins)
                errors.append((twice - turned[a + b]).square().sum(dim=-1).sqrt().mean(dim=-1))
    return torch.stack(errors).mean(dim=0)


def identity_error(model: RingModel) -> Float[Tensor, " seeds"]:
    """Returns the mean of ||F(v, 0) - v|| over the codes.

    Source:
        Zhao et al., 2024 (F(., 0) is the identity on the codes).
    """
    codes = _codes(model)
    with torch.no_grad():
        moved: Tensor = _turn(model, codes, 0, codes.shape[1]) - codes
    return moved.square().sum(dim=-1).sqrt().mean(dim=-1)


def error_correction(
    model: RingModel,
    *,
    scales: Sequence[float] = (0.3, 0.6, 1.0),
    applications: Sequence[int] = (0, 1, 3, 10),
    rectify: bool = True,
    generator: torch.Generator | None = None,
) -> ErrorCorrection:
    """Disturbs every code and applies F(., 0) again and again.

    Starts are v = normalize(ReLU(V + scale * randn / sqrt(d))). A line attractor removes noise off
    the ring and keeps noise along it: `off_ring` falls, `heading_error` stays.

    Arguments:
        model: The ring.
        scales: Expected norms of the disturbance; codes have norm one.
        applications: Numbers of applications after which to measure, each at least 0.
        rectify: Whether starts are cut at 0; False for codes that may be negative.
        generator: Source of the noise; None means torch's global one.

    Returns:
        Means over the code book. `off_ring` compares with the N codes of the book only, so codes
        on the ring between two of them keep a small remainder.

    Raises:
        ValueError: If `scales` or `applications` is empty or holds negative numbers.

    Source:
        Zhao et al., 2024; protocol and scales are ours.
    """
    for name, values in (("scales", scales), ("applications", applications)):
        if not values or min(values) < 0:
            raise ValueError(f"{name} must hold numbers of at least 0, got {tuple(values)}")
    codes = _codes(model)
    seeds, bins, neurons = codes.shape
    noise = torch.randn(
        (len(scales), bins, neurons),  # one draw for all seeds, so that stacking changes nothing
        generator=generator,
        dtype=codes.dtype,
        device=codes.device,
    )
    size = torch.tensor(scales, dtype=codes.dtype, device=codes.device)[:, None, None]
    v = codes[:, None] + size * noise / math.sqrt(neurons)
    v = _normalize(v.relu() if rectify else v).flatten(1, 2)
    book = _normalize(codes)
    truth = grid(bins, like=codes).repeat(len(scales))
    still = torch.zeros_like(truth)
    measured: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for done in range(max(applications) + 1):
            if done:
                v = model.step(v, still)
            if done in applications:
                distance = 1 - (_normalize(v) @ book.mT).amax(dim=-1)
                error = torch.rad2deg(angular_distance(model.decode(v), truth))
                measured[done] = (
                    distance.view(seeds, len(scales), bins).mean(dim=-1),
                    error.view(seeds, len(scales), bins).mean(dim=-1),
                )
    off_ring, heading_error = (
        torch.stack([measured[done][part] for done in applications], dim=-1) for part in (0, 1)
    )
    return ErrorCorrection(off_ring, heading_error)


def generator_frequencies(
    frequencies: Float[Tensor, "seeds modes"], energy: Float[Tensor, "seeds modes"]
) -> GeneratorFrequencies:
    """Compares the frequencies of a linear generator B with whole numbers.

    exp(2 pi B) is the identity on the codes if and only if every mode in which codes have energy
    has a frequency |Im eig(B)| that is a whole number: the irreducible representations of U(1).

    Arguments:
        frequencies: Im eig(B) of each mode; the sign does not matter.
        energy: Mean squared size of the codes in each mode, not negative.

    Raises:
        ValueError: If shapes differ, a value is not finite, or an energy is negative.

    Source:
        Zhao et al., 2024 (U(1) group representation).
    """
    if frequencies.shape != energy.shape:
        raise ValueError(
            "frequencies and energy must have one value per mode each, got shapes "
            f"{tuple(frequencies.shape)} and {tuple(energy.shape)}"
        )
    if not bool(torch.isfinite(frequencies).all() & torch.isfinite(energy).all()):
        raise ValueError("frequencies and energy must be finite, got NaN or infinite values")
    if bool((energy < 0).any()):
        raise ValueError(f"energy must not be negative, got {float(energy.min())}")
    nearest = frequencies.abs().round()
    distance = (frequencies.abs() - nearest).abs()
    weighted = (energy * distance).sum(dim=-1) / energy.sum(dim=-1)
    return GeneratorFrequencies(nearest, distance, weighted)


def _codes(model: RingModel) -> Tensor:
    codes = model.codes.detach()
    check_codes(codes, name="model.codes")
    if codes.ndim != 3:
        raise ValueError(
            f"model.codes must have shape (seeds, bins, neurons), got {tuple(codes.shape)}"
        )
    return codes


def _turn(model: RingModel, v: Tensor, steps: int, bins: int) -> Tensor:
    """Returns F(v, steps h) with the same turn for all codes."""
    return model.step(v, v.new_full((v.shape[1],), steps * 2 * math.pi / bins))


def _normalize(v: Tensor) -> Tensor:
    return torch.nn.functional.normalize(v, dim=-1)
