"""Refining an encoder's posterior, and the gap that reports."""

import torch
from torch import Tensor
from torch.testing import assert_close

from lv_core import stream
from lv_core.targets import LinearGaussian
from lv_core.variational import DiagonalGaussian, LocalFit, refine

DOUBLE = torch.float64
# Orthogonal columns: the posterior is diagonal and the bound can reach the evidence.
WEIGHT = torch.eye(5, 3, dtype=DOUBLE) * 1.5
MODEL = LinearGaussian(WEIGHT, noise=0.8)
DATA = torch.randn(6, 5, generator=stream(0, "data"), dtype=DOUBLE)


def likelihood(z: Tensor) -> Tensor:
    return MODEL.log_likelihood(DATA, z)


def exact() -> DiagonalGaussian:
    posteriors = [MODEL.posterior(x) for x in DATA]
    return DiagonalGaussian(
        torch.stack([p.mean for p in posteriors]),
        torch.stack([p.covariance.diagonal().sqrt().log() for p in posteriors]),
    )


def test_the_gap_is_the_divergence_that_refining_removes() -> None:
    posterior = exact()
    start = DiagonalGaussian(posterior.mean + 0.3, posterior.log_scale + 0.4)
    fit = LocalFit(steps=400, lr=0.05, schedule="cosine", samples=16)
    refined = refine(likelihood, None, start, fit=fit, samples=2000, generator=stream(0, "refine"))
    # ELBO(q) = log p(x) - KL(q, posterior), so the gap is the encoder's divergence.
    expected = start.kl(posterior)
    # Five standard errors, and what the fit itself leaves (below 0.01 nats).
    assert ((refined.gap - expected).abs() < 5 * refined.gap_error + 0.01).all()
    assert_close(refined.gap, refined.after.mean - refined.before.mean)
    # Wrong control: the divergence the other way round.
    assert ((refined.gap - posterior.kl(start)).abs() > 5 * refined.gap_error + 0.01).all()


def test_an_optimal_encoder_has_no_gap() -> None:
    fit = LocalFit(steps=5, lr=1e-4, samples=4)
    refined = refine(likelihood, None, exact(), fit=fit, samples=500, generator=stream(0, "none"))
    assert (refined.gap.abs() < 5 * refined.gap_error + 1e-3).all()


def test_the_two_bounds_use_noise_of_their_own() -> None:
    fit = LocalFit(steps=1, lr=1e-9)
    refined = refine(likelihood, None, exact(), fit=fit, samples=2, generator=stream(0, "own"))
    start = DiagonalGaussian(exact().mean, exact().log_scale + 0.5)
    noisy = refine(likelihood, None, start, fit=fit, samples=2, generator=stream(0, "own"))
    # Hardly moved, so equal noise would give equal bounds.
    assert (noisy.gap.abs() > 1e-4).any()
    assert refined.fit.q.mean.shape == (6, 3)
