"""What all priors have in common: add a new prior to PRIORS and it must pass every test here."""

import io
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lv_core import Langevin, Shard, posterior, stream, value_and_grad
from lv_core.nn import mlp
from lv_priors import EnergyPrior, GaussianPrior, Prior, PriorLoss
from lv_priors.flow import FlowPrior
from lv_priors.layered import LayeredPrior, Level
from lv_priors.symbol import SymbolEnergyPrior
from lv_priors.transport import TransportPrior

Event = int | tuple[int, ...]


def entries(event: Event) -> int:
    return event if isinstance(event, int) else math.prod(event)


def tilt_of(event: Event, outputs: int = 1) -> nn.Module:
    if isinstance(event, int):
        return mlp((event, 8, outputs))
    return nn.Sequential(nn.Flatten(-len(event)), mlp((math.prod(event), outputs)))


class ConditionalTilt(nn.Module):
    """A tilt of a latent and a condition of two entries."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.axes = 1 if isinstance(event, int) else len(event)
        self.network = mlp((entries(event) + 2, 8, 1))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.network(torch.cat((z.flatten(-self.axes), condition), dim=-1))


def layered(event: Event, **settings: object) -> Prior:
    """Returns two levels where there is room for them; its latents are packed in one axis."""
    total = entries(event)
    first = max(1, total // 2)
    levels = {"top": Level(first)}
    if total > first:
        rest = total - first
        levels["bottom"] = Level(rest, mlp((first, 8, 2 * rest)), scale=None)
    tilted = settings.pop("tilted", False)
    return LayeredPrior(levels, tilt=tilt_of(total) if tilted else None, **settings)


QUICK = Langevin(steps=3, step_size=0.3)


class Member(NamedTuple):
    """How a prior is made for an event, and what is true of it."""

    make: Callable[[Event], Prior]
    learns: bool  # by a loss of its own
    normalised: bool
    packed: bool = False  # has one axis whatever the event


PRIORS = {
    "gaussian": Member(lambda event: GaussianPrior(event, scale=0.5), False, True),
    "gaussian, off centre": Member(
        lambda event: GaussianPrior(
            event, center=torch.full((event,) if isinstance(event, int) else event, 2.0)
        ),
        False,
        True,
    ),
    "energy": Member(
        lambda event: EnergyPrior(tilt_of(event), event, scale=0.5, sampler=QUICK), True, False
    ),
    "energy, held": Member(
        lambda event: EnergyPrior(tilt_of(event), event, sampler=QUICK, energy_l2=0.1),
        True,
        False,
    ),
    "energy, given a condition": Member(
        lambda event: EnergyPrior(
            ConditionalTilt(event), event, sampler=QUICK, conditional=True
        ).given(torch.ones(1, 2)),
        True,
        False,
    ),
    "symbol": Member(
        lambda event: SymbolEnergyPrior(tilt_of(event, 3), event, symbols=3, sampler=QUICK),
        True,
        False,
    ),
    "symbol, given one": Member(
        lambda event: SymbolEnergyPrior(tilt_of(event, 3), event, symbols=3, sampler=QUICK).given(
            torch.tensor([1])
        ),
        True,
        False,
    ),
    "transport, by token": Member(
        lambda event: TransportPrior(
            mlp([event if isinstance(event, int) else event[-1]] * 2), event
        ),
        False,
        True,
    ),
    "transport, flat": Member(
        lambda event: TransportPrior(
            mlp((entries(event), 8, entries(event))), event, layout="flat"
        ),
        False,
        True,
    ),
    "layered": Member(layered, False, True, True),
    "layered, latent": Member(lambda event: layered(event, space="latent"), True, True, True),
    "layered, tilted": Member(
        lambda event: layered(event, tilted=True, sampler=QUICK, energy_l2=0.1), True, False, True
    ),
    "layered, latent, tilted": Member(
        lambda event: layered(event, tilted=True, space="latent", sampler=QUICK),
        True,
        False,
        True,
    ),
    "flow, splines": Member(
        lambda event: FlowPrior.nsf(event, hidden=(8,), transforms=1), True, True
    ),
    "flow, affine": Member(
        lambda event: FlowPrior.maf(event, hidden=(8,), transforms=2), True, True
    ),
    "flow, given a condition": Member(
        lambda event: FlowPrior.maf(event, hidden=(8,), context=2).given(torch.ones(1, 2)),
        True,
        True,
    ),
}
needs_zuko = pytest.mark.skipif(find_spec("zuko") is None, reason="needs lv-priors[flows]")
MEMBERS = [
    pytest.param(member, id=name, marks=needs_zuko if name.startswith("flow") else ())
    for name, member in PRIORS.items()
]
every_member = pytest.mark.parametrize("member", MEMBERS)
every_prior = pytest.mark.parametrize(
    "make", [pytest.param(m.values[0].make, id=m.id, marks=m.marks) for m in MEMBERS]
)


@every_member
@given(batch=st.lists(st.integers(1, 3), max_size=3), event=st.sampled_from([1, 4, (3,), (2, 3)]))
def test_one_density_per_latent_for_any_batch_and_event(member, batch, event) -> None:
    prior = member.make(event)
    shape = (event,) if isinstance(event, int) else event
    if member.packed:
        shape = (math.prod(shape),)
    u = torch.randn(*batch, *shape)
    assert prior.event_shape == shape
    assert prior.log_density(u).shape == tuple(batch)
    assert prior.push(u).shape == u.shape
    flat = prior.log_density(u.reshape(-1, *shape))
    torch.testing.assert_close(prior.log_density(u).reshape(-1), flat)


@every_prior
@pytest.mark.parametrize("event", [4, (2, 3)])
def test_starts_and_samples_have_the_shape_asked_for(make, event) -> None:
    prior = make(event)
    for draw in (prior.init(7), prior.sample(7)):
        assert draw.shape == (7, *prior.event_shape)
        assert torch.isfinite(draw).all()
        assert not draw.requires_grad


@every_prior
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_live_where_the_prior_lives(make, dtype, device) -> None:
    prior = make(4).to(device, dtype)
    for draw in (prior.init(3), prior.sample(3)):
        assert draw.dtype == dtype
        assert draw.device.type == device.type
    assert prior.log_density(prior.sample(3)).dtype == dtype


@every_prior
def test_one_seed_gives_one_result_and_leaves_the_global_generator_alone(make) -> None:
    prior, before = make(4), torch.get_rng_state()
    one, two, three = (prior.sample(5, generator=stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@every_prior
def test_shards_together_equal_the_whole_sample(make) -> None:
    prior = make(4).double()
    shards = [Shard(generator=stream(0), rank=rank, world=2) for rank in (0, 1)]
    parts = torch.cat([prior.sample(3, generator=shard) for shard in shards])
    torch.testing.assert_close(parts, prior.sample(6, generator=stream(0)), rtol=1e-12, atol=1e-12)


@every_prior
def test_sampling_touches_no_gradient_and_no_flag(make) -> None:
    prior = make(4)
    for parameter in prior.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    prior.sample(5)
    assert all(bool((p.grad == 7.0).all()) and p.requires_grad for p in prior.parameters())


@every_prior
def test_density_has_gradients_and_serves_a_posterior(make) -> None:
    prior = make(4).double()
    u = torch.randn(5, 4, dtype=torch.float64)
    target = posterior(prior, lambda z: -z.square().sum(-1))
    value, grad, parts = value_and_grad(target, u)
    assert set(parts) == {"prior", "x"}
    torch.testing.assert_close(value, prior.log_density(u) - prior.push(u).square().sum(-1))
    step = 1e-6 * torch.randn_like(u)
    difference = (target(u + step) - target(u - step)) / 2
    torch.testing.assert_close((grad * step).sum(-1), difference, rtol=1e-4, atol=1e-12)


@every_prior
def test_latents_follow_the_sampling_variable(make) -> None:
    prior = make(4).double()
    u = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(prior.push(u).square().sum(), u)
    assert bool((grad != 0).all())
    # Latents of one chain do not depend on the others.
    torch.testing.assert_close(prior.push(u)[2:3], prior.push(u[2:3]))


@every_prior
def test_shows_its_name_and_every_network(make) -> None:
    prior = make(4)
    shown = repr(prior)
    assert shown.startswith(f"{type(prior).__name__}(")
    assert all(f"({name}): " in shown for name, _ in prior.named_children())
    if not isinstance(prior, GaussianPrior):
        assert "(4,)" in shown or "(2,)" in shown  # the event, or its levels


@every_member
def test_loss_is_a_scalar_with_detached_scalar_logs(member) -> None:
    prior = member.make(4)
    for loss in (
        prior.loss(torch.randn(6, 4)),
        prior.loss(torch.randn(6, 4), torch.randn(3, 4)),
        prior.loss(torch.randn(6, 4), generator=stream(0)),
    ):
        assert isinstance(loss, PriorLoss)
        assert loss.loss.shape == ()
        assert all(t.shape == () and not t.requires_grad for t in loss.logs.values())
        assert loss.loss.requires_grad == member.learns
        if loss.loss.requires_grad:
            loss.loss.backward()
            assert all(p.grad is not None for p in prior.parameters())


@every_prior
def test_survives_saving_with_weights_only(make) -> None:
    prior, file = make(4), io.BytesIO()
    torch.save(prior.state_dict(), file)
    file.seek(0)
    other = make(4)
    other.load_state_dict(torch.load(file, weights_only=True))
    u = torch.randn(5, 4)
    assert torch.equal(other.log_density(u), prior.log_density(u))
    assert torch.equal(other.push(u), prior.push(u))
    assert not any(name.startswith("_") for name in prior.state_dict())


@every_prior
def test_another_event_shape_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"must end in the event shape \(4,\), got \(5, 3\)"):
        make(4).log_density(torch.zeros(5, 3))


@every_member
def test_normaliser_is_known_or_says_what_to_do(member) -> None:
    prior = member.make(4)
    if member.normalised:
        assert prior.log_normalizer() == 0.0
    else:
        with pytest.raises(NotImplementedError, match="annealed importance sampling"):
            prior.log_normalizer()


@pytest.mark.parametrize("event", [0, (), (3, 0), (-1,)])
def test_an_event_without_entries_is_refused(event) -> None:
    with pytest.raises(ValueError, match="event must be one or more positive lengths"):
        GaussianPrior(event)
    with pytest.raises(ValueError, match="event must be one or more positive lengths"):
        EnergyPrior(mlp((1, 1)), event)


def test_gaussian_density_is_that_of_torch() -> None:
    center = torch.randn(2, 3)
    prior = GaussianPrior((2, 3), scale=0.7, center=center)
    u = torch.randn(5, 2, 3)
    reference = torch.distributions.Normal(center, 0.7).log_prob(u).sum((-1, -2))
    torch.testing.assert_close(prior.log_density(u), reference)


def test_gaussian_samples_have_its_moments() -> None:
    n, center = 50_000, torch.tensor([2.0, -1.0])
    draws = GaussianPrior(2, scale=0.5, center=center).sample(n, generator=stream(0, "gaussian"))
    # Standard errors: mean 0.5 / sqrt(n), variance 0.25 sqrt(2 / n).
    assert (draws.mean(0) - center).abs().max() < 5 * 0.5 / n**0.5
    assert (draws.var(0) - 0.25).abs().max() < 5 * 0.25 * (2 / n) ** 0.5
    assert (draws.var(0) - 0.5).abs().max() > 5 * 0.25 * (2 / n) ** 0.5  # control: scale, not ^2


def test_gaussian_has_nothing_to_learn() -> None:
    prior = GaussianPrior(4)
    assert list(prior.parameters()) == []
    assert prior.loss(torch.randn(6, 4)).loss.item() == 0.0


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale) -> None:
    with pytest.raises(ValueError, match="scale must be positive"):
        GaussianPrior(4, scale=scale)
    with pytest.raises(ValueError, match="scale must be positive"):
        EnergyPrior(mlp((4, 1)), 4, scale=scale)


@pytest.mark.parametrize("shape", [(3,), (5, 4), ()])
def test_a_center_of_another_shape_is_refused(shape) -> None:
    with pytest.raises(ValueError, match=r"center must have the event shape \(4,\), got"):
        GaussianPrior(4, center=torch.zeros(shape))
