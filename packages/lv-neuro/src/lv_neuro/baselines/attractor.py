"""A ring attractor with weights made by hand, turned by their odd part."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_neuro.angles import check_radians, grid, heading, wrap
from lv_neuro.baselines.attractor_weights import deconvolve, rate_of, settle
from lv_neuro.baselines.ring import circulant, shift
from lv_neuro.integration import apply_turn, integrate
from lv_neuro.walks import Integration

__all__ = ["RingAttractor"]

# Shape legend: N bins (headings on the grid), d neurons, B walks, T time; the leading axis of
# stacked seeds, which learned models have, is 1.

LARGEST_TURN = math.pi / 4
CALIBRATION_TURN = math.radians(9.0)


class RingAttractor(nn.Module):
    """Rate neurons on a ring whose connections hold a bump of activity and move it.

    tau dr/dt = -r + f((W + gamma W') r),   gamma = -gain * tau * angular velocity

    W is circulant and even; W' is its derivative along the ring, circulant and odd. W is
    deconvolved from the wanted tuning curve F in Fourier space, with U = f^{-1}(F):
    W_k = U_k F_k / (lambda max F^2 + F_k^2). By u = (W + gamma W') r the same network reads
    tau du/dt = -u + (W + gamma W') f(u), the usual form; with rates as the state its codes,
    its noise and recorded cells are in one unit. Rates are scaled so that the bump has norm 1.

    A turn lasts `turn_time` and is integrated with Euler steps of `time_step`. Activity off the
    ring decays; along the ring nothing holds it, so noise moves the bump like a diffusing
    particle.

    Example:
        >>> ring = RingAttractor()
        >>> v = ring.step(ring.encode(torch.tensor([1.0])), torch.tensor([0.25]))
        >>> bool((ring.decode(v) - 1.25).abs() < 0.001)
        True

    Attributes:
        gain: Factor of the odd weights, from the calibration.

    Source:
        Zhang, "Representation of Spatial Orientation by the Intrinsic Dynamics of the
        Head-Direction Cell Ensemble", 1996; numbers are ours.
    """

    def __init__(
        self,
        *,
        neurons: int = 100,
        bins: int = 100,
        sigma: float = 0.46,
        base_rate: float = 0.025,
        tau: float = 0.010,
        time_step: float = 0.001,
        turn_time: float = 0.050,
        regularization: float = 1e-4,
        gain: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Makes the weights, lets the bump settle, and calibrates the gain.

        Arguments:
            neurons: Size d of the population.
            bins: Headings N on which `codes` is tabulated.
            sigma: Width of the wanted tuning curve in radians (von Mises, kappa = 1 / sigma^2);
                the regularization widens the settled one a little.
            base_rate: Wanted rate far from the preferred direction, relative to the peak.
            tau: Time constant in seconds.
            time_step: Euler step in seconds, at most `tau`.
            turn_time: Seconds a turn lasts; turns beyond 45 degrees are split into equal parts
                that last as long each.
            regularization: lambda, relative to the largest squared harmonic; small values give
                rough weights and an unstable bump.
            gain: Factor of the odd weights; None means measured, so that the bump turns by what
                it is told at 9 degrees per `turn_time`.
            dtype: Of the weights and of what is computed with them.

        Raises:
            ValueError: If a number is out of its range, or no stable bump of the wanted shape
                comes out.
        """
        super().__init__()
        check_settings(neurons, bins, sigma, base_rate, tau, time_step, turn_time, regularization)
        self.neurons, self.bins = neurons, bins
        self.rate = time_step / tau
        self.substeps = max(1, round(turn_time / time_step))
        self.delay = tau / turn_time
        wanted, weights = deconvolve(neurons, sigma, base_rate, regularization)
        bump = settle(wanted, weights[0])
        norm = float(bump.norm())
        self.scale = 1 / norm
        self.weights: Tensor
        self.bump: Tensor
        both = torch.cat([circulant(kernel).mT for kernel in weights * norm], 1)
        self.register_buffer("weights", both, persistent=False)
        self.register_buffer("bump", bump / norm, persistent=False)
        self.gain = 1.0
        self.gain = self._calibrated() if gain is None else gain
        self.to(dtype)

    @property
    def parameters_count(self) -> int:
        """Numbers that were fitted or learned: the gain."""
        return 1

    @property
    def codes(self) -> Float[Tensor, "seeds bins neurons"]:
        """Settled rates at the grid's headings: row n belongs to heading 2 pi n / bins."""
        return self.encode(grid(self.bins, like=self.bump))

    def encode(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "seeds *batch neurons"]:
        """Returns the settled bump at headings x (radians)."""
        check_radians("x", x)
        return shift(self.bump, x)[None]

    def decode(self, v: Float[Tensor, "seeds *batch neurons"]) -> Float[Tensor, "seeds ..."]:
        """Returns the direction of the population vector sum_i v_i exp(i mu_i), in [0, 2 pi)."""
        mu = grid(self.neurons, like=v)
        return heading(torch.atan2(v @ mu.sin(), v @ mu.cos()))

    def step(
        self, v: Float[Tensor, "seeds batch neurons"], dx: Float[Tensor, "..."]
    ) -> Float[Tensor, "seeds batch neurons"]:
        """Returns the rates after a turn dx that lasted `turn_time`.

        Arguments:
            v: Rates, in units in which the settled bump has norm 1.
            dx: Turns in radians, counter-clockwise positive, shape `(batch,)` or
                `(seeds, batch)`.
        """
        check_radians("dx", dx, kind="turn")
        return apply_turn(self._turn, v, dx.to(v), largest=LARGEST_TURN)

    def response(
        self, turns: Float[Tensor, " speeds"], *, repeats: int = 20
    ) -> Float[Tensor, " speeds"]:
        """Returns how far the bump moves relative to what it is told; 1 is ideal.

        Each turn is repeated without a pause, from the settled bump on, so this is the gain at
        a constant angular velocity of turn / `turn_time`, the start included. Turns are not
        split, so that the range over which the network is linear can be measured.

        Arguments:
            turns: Turns in radians, not 0, below half the circle.
            repeats: How often each is repeated.

        Raises:
            ValueError: If a turn is 0 or reaches half the circle.
        """
        check_radians("turns", turns, kind="turn")
        if bool((turns == 0).any()) or bool((turns.abs() >= math.pi).any()):
            raise ValueError(
                "turns must not be 0 and must stay below half the circle (pi), got "
                f"{turns.tolist()}: further turns cannot be told from turns the other way"
            )
        dx = turns.to(self.bump)[None]
        v = self.encode(torch.zeros_like(dx[0]))
        moved = torch.zeros_like(dx)
        before = self.decode(v)
        for _ in range(repeats):
            v = self._turn(v, dx)
            after = self.decode(v)
            # nearer to the wanted turn than half the circle, which wrapping alone would lose
            moved += dx + wrap(after - before - dx)
            before = after
        return (moved / (repeats * dx))[0]

    @torch.no_grad()
    def integrate(
        self,
        start: Float[Tensor, " walks"],
        turns: Float[Tensor, "walks time"],
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Integration:
        """Follows headings from their turns alone.

        Arguments:
            start: Headings before the first turn, radians.
            turns: Turns in radians, counter-clockwise positive; each lasts `turn_time`.
            noise: Norm (root mean square) of the Gaussian vector added to the rates after each
                turn, once per turn also where turns are split. The settled bump has norm 1; what
                is added does not grow with the norm of the momentary rates.
            generator: Source of the noise; None means torch's global one.

        Raises:
            ValueError: If the noise is negative, or the walks are none.
        """
        return integrate(
            self._turn,
            lambda x: self.encode(x.to(self.bump)),
            self.decode,
            start,
            turns,
            largest=LARGEST_TURN,
            noise=noise,
            generator=generator,
        )

    def _turn(self, v: Tensor, dx: Tensor) -> Tensor:
        gamma = (-self.gain * self.delay) * dx[..., None]
        for _ in range(self.substeps):
            even, odd = (v @ self.weights).chunk(2, -1)
            v = torch.lerp(v, self.scale * rate_of(torch.addcmul(even, gamma, odd)), self.rate)
        return v

    def _calibrated(self) -> float:
        turn = torch.tensor([CALIBRATION_TURN], dtype=self.bump.dtype)
        # The Euler steps bend the response only slightly, so a few divisions converge.
        for _ in range(4):
            self.gain /= float(self.response(turn))
        return self.gain


def check_settings(
    neurons: int,
    bins: int,
    sigma: float,
    base_rate: float,
    tau: float,
    time_step: float,
    turn_time: float,
    regularization: float,
) -> None:
    """Refuses settings out of range.

    Raises:
        ValueError: Names the argument, its value and its range.
    """
    for name, count in (("neurons", neurons), ("bins", bins)):
        if count < 3:
            raise ValueError(f"{name} must be at least 3 for a ring, got {count}")
    for name, value in (
        ("sigma", sigma),
        ("tau", tau),
        ("time_step", time_step),
        ("turn_time", turn_time),
        ("regularization", regularization),
    ):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not 0 < base_rate < 1:
        raise ValueError(f"base_rate must lie between 0 and 1, the peak, got {base_rate}")
    if time_step > tau:
        raise ValueError(f"time_step must not exceed tau={tau} s, got {time_step} s: use tau / 10")
    if time_step > turn_time:
        raise ValueError(f"time_step must not exceed turn_time={turn_time} s, got {time_step} s")
