"""Pareto-smoothed importance sampling, against ArviZ and known tails."""

import math

import pytest
import torch
from torch.testing import assert_close

from lv_core import stream
from lv_core.evidence import psis, psis_khat

DOUBLE = torch.float64


def log_weights(n: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(n, 3, generator=stream(0, "psis", n, repr(scale)), dtype=DOUBLE)


@pytest.mark.parametrize("n", [30, 100, 1000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 60.0])
def test_agrees_with_arviz(n, scale) -> None:
    arviz = pytest.importorskip("arviz")
    weights = log_weights(n, scale)
    smoothed, khat = arviz.psislw(weights.T.numpy().copy(), reff=1.0)
    found = psis(weights)
    assert_close(found.khat, torch.as_tensor(khat), atol=1e-9, rtol=1e-9)
    assert_close(found.log_weights, torch.as_tensor(smoothed).T, atol=1e-9, rtol=1e-9)


def quantile_weights(n: int, shape: float) -> torch.Tensor:
    """Weights at the quantiles of a Pareto distribution with tail shape `shape`, shuffled."""
    share = (torch.arange(n, dtype=DOUBLE) + 0.5) / n
    order = torch.randperm(n, generator=stream(0, "order"))
    return (-shape * torch.log1p(-share))[order]


# Values of arviz.psislw (ArviZ 0.23.4) for the weights of `quantile_weights(2000, shape)`.
STORED = {0.3: 0.317129242, 0.7: 0.678643998, 1.2: 1.130549144}


@pytest.mark.parametrize("shape", STORED)
def test_agrees_with_stored_values(shape) -> None:
    khat = psis_khat(quantile_weights(2000, shape)).item()
    assert abs(khat - STORED[shape]) < 1e-6
    # The fit recovers the shape; the prior pulls it by 10 / 135 of its distance from 1/2.
    assert abs(khat - shape) < 0.1
    # Wrong control: without that pull the stored value is missed.
    tail = math.ceil(min(0.2 * 2000, 3 * math.sqrt(2000)))
    assert abs((khat * (tail + 10) - 5) / tail - STORED[shape]) > 1e-3


def test_smoothing_steadies_the_mean_of_a_heavy_tail() -> None:
    # Weights exp(a) with a exponential of mean 0.6: Pareto with shape 0.6, mean 1 / (1 - 0.6).
    a = 0.6 * torch.empty(500, 400, dtype=DOUBLE).exponential_(generator=stream(0, "heavy"))
    smoothed = psis(a)
    # Unnormalised again: the untouched smallest weight fixes the factor.
    low = a.argmin(0, keepdim=True)
    factor = a.gather(0, low) - smoothed.log_weights.gather(0, low)
    plain, steady = a.exp().mean(0), (smoothed.log_weights + factor).exp().mean(0)
    assert steady.std() < 0.9 * plain.std()
    assert ((steady - 2.5).square().mean()) < (plain - 2.5).square().mean()


def test_shifts_and_batches_change_nothing() -> None:
    weights = log_weights(200, 1.0)
    found = psis(weights + 1000.0)
    assert_close(found.khat, psis(weights).khat, atol=1e-6, rtol=0)
    assert_close(found.log_weights.logsumexp(0), torch.zeros(3, dtype=DOUBLE))
    alone = torch.stack([psis_khat(weights[:, i]) for i in range(3)])
    assert_close(found.khat, alone, atol=1e-6, rtol=0)
    shaped = psis(weights.reshape(200, 1, 3))
    assert shaped.khat.shape == (1, 3)
    assert shaped.log_weights.shape == (200, 1, 3)


def test_keeps_the_order_and_the_bulk_of_the_weights() -> None:
    weights = log_weights(500, 1.5)
    smoothed = psis(weights).log_weights
    # Not strictly: several may be cut off at the largest weight.
    assert (smoothed.gather(0, weights.argsort(0)).diff(dim=0) >= 0).all()
    tail = math.ceil(3 * math.sqrt(500))
    order = weights.argsort(0)[:-tail]
    shift = smoothed.gather(0, order) - weights.gather(0, order)
    assert_close(shift, shift[:1].expand_as(shift))


def test_degenerate_weights_get_a_verdict_all_the_same() -> None:
    equal = psis(torch.zeros(100, 2))
    assert (equal.khat == -math.inf).all()
    assert_close(equal.log_weights, torch.full((100, 2), -math.log(100)))
    assert psis_khat(torch.randn(20)).item() == math.inf
    assert psis_khat(torch.zeros(20)).item() == -math.inf
    # One weight above ties that fill the tail: nothing to fit.
    ties = torch.zeros(100)
    ties[3] = 1.0
    found = psis(ties)
    assert found.khat.item() == math.inf
    assert_close(found.log_weights, ties.log_softmax(0))
    # So far apart that all but one vanish in the exponential.
    assert psis_khat(1e5 * torch.arange(100.0)).item() == math.inf


def test_keeps_the_dtype() -> None:
    found = psis(log_weights(100, 1.0).float())
    assert found.khat.dtype == found.log_weights.dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(value) -> None:
    weights = torch.zeros(30)
    weights[4] = value
    with pytest.raises(ValueError, match="log_weights must be finite"):
        psis(weights)
