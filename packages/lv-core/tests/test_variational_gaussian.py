"""DiagonalGaussian: densities, divergences and draws of one normal per item."""

import pytest
import torch
from torch.distributions import kl_divergence
from torch.testing import assert_close

from lv_core import Draws, Shard, stream
from lv_core.variational import DiagonalGaussian, free_nats

DOUBLE = torch.float64


def draw(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=DOUBLE)


def example(*shape: int, event_ndim: int = 1, name: str = "q") -> DiagonalGaussian:
    return DiagonalGaussian(
        draw(name + " mean", *shape), 0.5 * draw(name + " scale", *shape), event_ndim=event_ndim
    )


@pytest.mark.parametrize(("shape", "event_ndim"), [((4,), 1), ((3, 4), 1), ((2, 3, 4, 5), 2)])
def test_agrees_with_torch_distributions(shape, event_ndim) -> None:
    q, p = example(*shape, event_ndim=event_ndim), example(*shape, event_ndim=event_ndim, name="p")
    z, reference = draw("z", 6, *shape), q.to_torch()
    assert reference.batch_shape == q.batch_shape
    assert_close(q.log_prob(z), reference.log_prob(z))
    assert_close(q(z), q.log_prob(z))
    assert_close(q.entropy(), reference.entropy())
    assert_close(q.kl(p), kl_divergence(reference, p.to_torch()))
    standard = DiagonalGaussian.standard(q.mean, event_ndim=event_ndim)
    assert_close(q.kl(), kl_divergence(reference, standard.to_torch()))
    assert_close(q.kl(), q.kl(standard))
    # Wrong control: the two directions of the divergence differ.
    assert not torch.allclose(q.kl(p), p.kl(q), rtol=1e-2)


def test_divergence_to_a_given_center_and_scale_is_that_to_the_distribution() -> None:
    q = example(3, 4)
    p = DiagonalGaussian(torch.full((3, 4), 2.0, dtype=DOUBLE), torch.full_like(q.mean, -0.7))
    assert_close(q.kl_to(2.0, -0.7), q.kl(p))
    assert_close(q.kl_to(p.mean[0], p.log_scale[0]), q.kl(p))


def test_one_prior_serves_all_items() -> None:
    q, p = example(3, 4), example(4, name="p")
    whole = DiagonalGaussian(p.mean.expand(3, 4), p.log_scale.expand(3, 4))
    assert_close(q.kl(p), q.kl(whole))


def test_divergence_of_near_equals_keeps_its_digits() -> None:
    # KL = (expm1(2 t) - 2 t) / 2 = t^2 to first order; a difference of exponentials in float32
    # would be rounding alone.
    t = torch.full((1, 1), 1e-4)
    kl = DiagonalGaussian(torch.zeros(1, 1), t).kl()
    assert abs(kl.item() / 1e-8 - 1) < 2e-1
    naive = 0.5 * ((2 * t).exp() - 1 - 2 * t)
    assert abs(naive.item() / 1e-8 - 1) > 2e-1


def test_draws_have_the_moments_of_the_distribution() -> None:
    q = example(3, 2)
    z = q.sample(20_000, generator=stream(0, "draws"))
    assert z.shape == (20_000, 3, 2)
    # Standard errors: of a mean sd / sqrt(n), of a standard deviation sd / sqrt(2 n).
    assert ((z.mean(0) - q.mean).abs() / q.scale).max() < 5 / 20_000**0.5
    assert ((z.std(0) / q.scale - 1).abs()).max() < 5 / 40_000**0.5
    # Wrong control: the log scale is no log variance.
    assert ((z.var(0) / q.scale - 1).abs()).max() > 0.1


def test_gradients_flow_through_draws() -> None:
    q = example(3, 2)
    mean, log_scale = q.mean.requires_grad_(), q.log_scale.requires_grad_()
    eps = draw("eps", 5, 3, 2)
    z = DiagonalGaussian(mean, log_scale).rsample(eps)
    grad = torch.autograd.grad(z.sum(), (mean, log_scale))
    assert_close(grad[0], torch.full_like(mean, 5.0))
    assert_close(grad[1], (eps * q.scale).sum(0))
    assert not DiagonalGaussian(mean, log_scale).detach().mean.requires_grad


def test_ten_draws_are_four_and_then_six() -> None:
    q, generator = example(3, 2), stream(0, "parts")
    parts = [q.sample(n, generator=generator) for n in (4, 6)]
    assert torch.equal(torch.cat(parts), q.sample(10, generator=stream(0, "parts")))


def test_a_shard_splits_the_batch_and_not_the_samples() -> None:
    whole = example(6, 2)
    z = whole.sample(3, generator=stream(0, "shard"))
    for rank, rows in enumerate((slice(0, 3), slice(3, 6))):
        source = Shard(generator=stream(0, "shard"), rank=rank, world=2)
        assert torch.equal(whole[rows].sample(3, generator=source), z[:, rows])


def test_given_draws_are_used_in_order() -> None:
    q, eps = example(3, 2), draw("given", 2, 3, 2)
    assert torch.equal(q.sample(2, generator=Draws(normals=list(eps))), q.rsample(eps))


def test_selects_items() -> None:
    q = example(2, 3, 4, event_ndim=2)
    assert q.batch_shape == (2,)
    assert torch.equal(q[1].mean, q.mean[1])
    assert q[torch.tensor([1, 0])].event_ndim == 2
    with pytest.raises(IndexError, match="no batch axis"):
        example(4)[0]


def test_splits_an_encoders_output() -> None:
    raw = draw("raw", 5, 6)
    q = DiagonalGaussian.split(raw)
    assert torch.equal(torch.cat((q.mean, q.log_scale), -1), raw)
    limited = DiagonalGaussian.split(10 * raw, min_log_scale=-3.0).log_scale
    assert limited.min() >= -3.0
    # Far above the limit the softplus is the identity.
    assert_close(DiagonalGaussian.split(raw + 30, min_log_scale=-3.0).log_scale, q.log_scale + 30)
    with pytest.raises(ValueError, match="even last axis"):
        DiagonalGaussian.split(raw[:, :5])


def test_free_nats_cost_and_push_nothing_below_the_allowance() -> None:
    kl = torch.tensor([0.5, 2.0], requires_grad=True)
    value = free_nats(kl, 1.0)
    assert torch.equal(value.detach(), torch.tensor([1.0, 2.0]))
    assert torch.equal(torch.autograd.grad(value.sum(), kl)[0], torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"nats must not be negative, got -1\.0"):
        free_nats(kl, -1.0)


def test_refuses_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        DiagonalGaussian(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"event_ndim must be in 1\.\.1"):
        DiagonalGaussian(torch.zeros(2), torch.zeros(2), event_ndim=2)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        example(2).sample(0)
