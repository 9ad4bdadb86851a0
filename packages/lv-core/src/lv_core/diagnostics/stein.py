"""The kernelised Stein discrepancy: how far samples are from a target known up to a constant."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lv_core.density import LogDensity, value_and_grad
from lv_core.random import Source, uniform

__all__ = ["SteinDiscrepancy", "ksd"]

_ROWS = 512
"""Rows of the kernel matrix held at once; bounds the memory at any number of samples."""


class SteinDiscrepancy(NamedTuple):
    """The squared discrepancy between samples and a target.

    `u_statistic` is unbiased and may be negative; `error` is its standard error, valid where the
    samples are independent and do not come from the target (from the target, trust `p_value`);
    `v_statistic` is never negative and biased upwards; `p_value` is that of the wild bootstrap
    for "the samples come from the target", NaN where none was asked for; `bandwidth` is the
    length scale used.
    """

    u_statistic: Float[Tensor, ""]
    error: Float[Tensor, ""]
    v_statistic: Float[Tensor, ""]
    p_value: Float[Tensor, ""]
    bandwidth: float


def ksd(
    samples: Float[Tensor, " n *event"],
    log_density: LogDensity,
    *,
    kernel: Literal["imq", "rbf"] = "imq",
    bandwidth: float | None = None,
    bootstraps: int = 0,
    change: float = 0.5,
    generator: Source = None,
) -> SteinDiscrepancy:
    """Returns the kernelised Stein discrepancy (squared) of samples from a target.

    The mean over pairs of `s(x).s(y) k + s(x).grad_y k + s(y).grad_x k + div_x grad_y k` with the
    score s = grad log p: needs no normalising constant and no samples of the target, so it suits
    chains too short for R-hat. It is blind to modes that no sample has found.

    Arguments:
        samples: Samples to judge, at least two.
        log_density: The target.
        kernel: "imq", (1 + r^2/h^2)^(-1/2), which also sees samples escaping in high dimensions;
            or "rbf", exp(-r^2 / 2h^2).
        bandwidth: h > 0; None = the median distance between samples.
        bootstraps: Number of bootstrap draws for the p-value; 0 = none.
        change: Probability that the bootstrap's sign changes from one sample to the next, in
            (0, 0.5]. 0.5 for independent samples; for draws of one chain in their order, about
            one over the number of draws that are correlated.
        generator: Source of the bootstrap's randomness.

    Raises:
        ValueError: If there are fewer than two samples, one is not finite, or a setting is out
            of range.

    Source:
        Liu, Lee and Jordan, 2016, and Chwialkowski, Strathmann and Gretton, 2016 (discrepancy and
        wild bootstrap); Gorham and Mackey, "Measuring sample quality with kernels", 2017 (IMQ).
    """
    _check(samples, kernel, bandwidth, bootstraps, change)
    score = value_and_grad(log_density, samples).grad.flatten(1)
    x = samples.detach().flatten(1)
    n = len(x)
    h = _median_distance(x) if bandwidth is None else bandwidth
    signs = _signs(x, bootstraps, change, generator)
    rows, diagonal = [], []
    # Off-diagonal quadratic forms of the signs: what the U-statistic is under the target.
    forms = x.new_zeros(bootstraps)
    for start in range(0, n, _ROWS):
        part = slice(start, min(start + _ROWS, n))
        block = _stein_kernel(x[part], score[part], x, score, kernel, h)
        own = block.diagonal(start)
        rows.append(block.sum(1))
        diagonal.append(own)
        forms = forms + ((signs[:, part] @ block) * signs).sum(1) - own.sum()
    row, own = torch.cat(rows), torch.cat(diagonal)
    u_statistic = (row - own).sum() / (n * (n - 1))
    mean_over_others = (row - own) / (n - 1)
    p_value = x.new_tensor(math.nan)
    if bootstraps:
        above = (forms / (n * (n - 1)) >= u_statistic).sum()
        p_value = ((above + 1) / (bootstraps + 1)).to(x)
    return SteinDiscrepancy(
        u_statistic=u_statistic,
        error=2 * mean_over_others.std() / n**0.5,
        v_statistic=row.sum() / n**2,
        p_value=p_value,
        bandwidth=h,
    )


def _check(
    samples: Tensor, kernel: str, bandwidth: float | None, bootstraps: int, change: float
) -> None:
    if samples.ndim < 2 or len(samples) < 2:
        raise ValueError(
            f"samples must have shape (n, *event) with n >= 2, got {tuple(samples.shape)}"
        )
    lost = int((~samples.flatten(1).isfinite().all(1)).sum())
    if lost:
        raise ValueError(
            f"samples must be finite, got {lost} of {len(samples)} that hold NaN or infinity: "
            "find out why the sampler diverged, or remove them knowingly"
        )
    if kernel not in ("imq", "rbf"):
        raise ValueError(f"unknown kernel {kernel!r}; there are: imq, rbf")
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive or None, got {bandwidth}")
    if bootstraps < 0:
        raise ValueError(f"bootstraps must not be negative, got {bootstraps}")
    if not 0 < change <= 0.5:
        raise ValueError(f"change must lie in (0, 0.5], got {change}")


def _median_distance(x: Tensor) -> float:
    # A few hundred samples fix the length scale well enough; all pairs would be a waste.
    some = x[:: max(1, len(x) // 500)]
    distance = torch.pdist(some).median().item()
    if not distance > 0:
        raise ValueError("most samples coincide: give a bandwidth, or judge samples that differ")
    return distance


def _signs(x: Tensor, bootstraps: int, change: float, generator: Source) -> Tensor:
    if not bootstraps:
        return x.new_zeros(0, len(x))
    flips = uniform((bootstraps, len(x)), x, generator) < change
    return 1.0 - 2.0 * (flips.cumsum(1) % 2).to(x)


def _stein_kernel(
    x: Tensor, score_x: Tensor, y: Tensor, score_y: Tensor, kernel: str, h: float
) -> Tensor:
    # A radial kernel phi(r^2) and its two derivatives with respect to r^2.
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    if kernel == "rbf":
        value = (-0.5 * squared / h**2).exp()
        first, second = -0.5 / h**2 * value, 0.25 / h**4 * value
    else:
        base = 1 + squared / h**2
        value = base**-0.5
        first, second = -0.5 / h**2 * base**-1.5, 0.75 / h**4 * base**-2.5
    # (s(y) - s(x)).(x - y), by products of matrices.
    cross = x @ score_y.T - (y * score_y).sum(1) - (x * score_x).sum(1)[:, None] + score_x @ y.T
    trace = -(2 * x.shape[1] * first + 4 * squared * second)
    return (score_x @ score_y.T) * value + 2 * first * cross + trace
