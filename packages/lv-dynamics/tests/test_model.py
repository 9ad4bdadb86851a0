import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from lv_core import frozen, stream, value_and_grad
from lv_dynamics.closing import closed_times
from lv_dynamics.config import OdeConfig
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import SolveError, Solver
from lv_priors import EnergyPrior, GaussianPrior

CONFIGS = {
    "static in the dynamics": OdeConfig(observed=(2,), field_hidden=(5,), emission_hidden=(6,)),
    "static in the emission": OdeConfig(
        observed=(2,),
        state=3,
        static=2,
        static_in_dynamics=False,
        static_in_emission=True,
        emission_activation="tanh",
        sigma=0.3,
    ),
    "second order, both": OdeConfig(
        observed=(2,), state=4, static=2, static_in_emission=True, order=2, emission="linear"
    ),
    "no static, Bernoulli": OdeConfig(
        observed=(2,), state=2, static=0, likelihood="bernoulli", emission_activation="silu"
    ),
    "Gaussian prior, adaptive": OdeConfig(
        observed=(2,),
        state=2,
        static=1,
        prior="gaussian",
        emission_activation="tanh",
        solver=Solver(method="dopri5", rtol=1e-9, atol=1e-9),
    ),
}


def model_of(name, *, seed=0):
    torch.manual_seed(seed)
    return EnergyOde(CONFIGS[name]).double()


def irregular(*, batch=3, rows=6, obs=(2,), seed=0, keep=0.6):
    """Sequences of different lengths, on grids of their own, with single entries missing."""
    g = stream(seed, "irregular")
    times = torch.rand(batch, rows, dtype=torch.float64, generator=g).cumsum(1) * 0.3
    values = torch.rand(batch, rows, *obs, dtype=torch.float64, generator=g)
    mask = torch.rand(batch, rows, *obs, generator=g) < keep
    mask[:, 0] = True
    lengths = torch.tensor([rows - k % 3 for k in range(batch)])
    return Sequences(times, values.masked_fill(~mask, math.nan), mask, lengths)


def latents(model, *shape, seed=0):
    return torch.randn(*shape, model.dim, dtype=torch.float64, generator=stream(seed, "z"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_likelihood_is_the_sum_over_observed_entries(name):
    model, data = model_of(name), irregular()
    z = latents(model, 2, 3)
    with torch.no_grad():
        states = model.trajectory(z, data.times)
        output = model.emit(states, model.split(z)[1])
        each = model.noise.log_prob(data.values, output)
        expected = torch.where(data.mask, each, 0.0).sum((-2, -1))
        got = model.log_likelihood(z, data)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    # The wrong control: what is masked counts too.
    assert not torch.allclose(got, each.sum((-2, -1)), rtol=1e-3)
    # The other one: a mean, which would weigh the data less than the prior.
    assert not torch.allclose(got, expected / data.observed, rtol=1e-3)


def test_a_gaussian_likelihood_is_that_of_torch():
    model, data = model_of("static in the emission"), irregular()
    z = latents(model, 3)
    with torch.no_grad():
        mean = model.mean(z, data.times)
        expected = torch.where(data.mask, Normal(mean, 0.3).log_prob(data.values), 0.0)
        torch.testing.assert_close(model.log_likelihood(z, data), expected.sum((1, 2)))
        wide = model.likelihood(data, sigma=0.9)(z)
        expected = torch.where(data.mask, Normal(mean, 0.9).log_prob(data.values), 0.0)
        torch.testing.assert_close(wide, expected.sum((1, 2)))


@pytest.mark.parametrize("name", CONFIGS)
def test_masking_all_but_some_rows_equals_passing_only_those(name):
    model = model_of(name)
    g = stream(0, "rows")
    times = (torch.arange(8, dtype=torch.float64) + 1) * 0.13
    values = torch.rand(3, 8, 2, dtype=torch.float64, generator=g)
    kept = torch.tensor([0, 3, 4])
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[:, kept] = True
    masked = Sequences(times, torch.where(mask[..., None], values, math.nan), mask)
    short = Sequences(times[kept], values[:, kept])
    z = latents(model, 2, 3)
    likelihood = model.likelihood(masked)
    assert len(likelihood.values) == 9
    results = [value_and_grad(model.likelihood(data), z) for data in (masked, short)]
    torch.testing.assert_close(results[0].value, results[1].value, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(results[0].grad, results[1].grad, rtol=1e-6, atol=1e-7)
    # The wrong control: other rows give another value.
    other = Sequences(times[kept + 1], values[:, kept + 1])
    assert not torch.allclose(results[0].value, model.likelihood(other)(z))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_masked_has_no_influence(name):
    model, data = model_of(name), irregular()
    z = latents(model, 3).requires_grad_(True)
    first = model.log_likelihood(z, data)
    spoiled = data.values + torch.where(data.mask, 0.0, 1e3)
    other = Sequences(data.times, spoiled, data.mask, data.lengths)
    second = model.log_likelihood(z, other)
    assert torch.equal(first, second)
    grads = [torch.autograd.grad(v.sum(), z, retain_graph=True)[0] for v in (first, second)]
    assert torch.equal(*grads)
    # Observed entries do have influence: the wrong control.
    moved = Sequences(data.times, data.values + 0.5, data.mask, data.lengths)
    assert not torch.allclose(first, model.log_likelihood(z, moved))


@pytest.mark.parametrize("name", CONFIGS)
def test_sequences_on_their_own_grids_equal_one_by_one(name):
    model, data = model_of(name), irregular()
    z = latents(model, 3)
    with torch.no_grad():
        together = model.log_likelihood(z, data)
        alone = torch.cat([model.log_likelihood(z[[i]], data[i]) for i in range(3)])
    tolerance = 1e-6 if "adaptive" in name else 1e-10
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_with_respect_to_latents_are_exact(name):
    model, data = model_of(name), irregular(batch=2, rows=3)
    z = latents(model, 2).requires_grad_(True)
    likelihood = model.likelihood(data)
    assert torch.autograd.gradcheck(likelihood, z, atol=1e-5, rtol=1e-4)
    expected = torch.autograd.grad(likelihood(z).sum(), z)[0]
    with frozen(model):  # the solver's other path
        fused = value_and_grad(likelihood, z).grad
        assert torch.autograd.gradcheck(likelihood, z, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["static in the dynamics", "second order, both"])
def test_gradients_with_respect_to_parameters_are_exact(name):
    model, data = model_of(name), irregular(batch=2, rows=3)
    z = latents(model, 2)
    losses = model(data, z, latents(model, 4, seed=1))
    names = ["field.network.0.weight", "emission.network.0.bias"]
    parameters = dict(model.named_parameters())
    for which in names:
        weight = parameters[which]
        grad = torch.autograd.grad(losses.model, weight, retain_graph=True)[0].flatten()
        flat = weight.data.view(-1)
        for k in (0, len(flat) // 2):
            saved, numbers = flat[k].item(), []
            for shift in (1e-5, -1e-5):
                flat[k] = saved + shift
                with torch.no_grad():
                    numbers.append(float(model(data, z, latents(model, 4, seed=1)).model))
            flat[k] = saved
            assert (numbers[0] - numbers[1]) / 2e-5 == pytest.approx(float(grad[k]), rel=1e-5)


def test_losses_carry_the_gradients_of_both_parts():
    model, data = model_of("static in the dynamics"), irregular()
    z = latents(model, 2, 3).requires_grad_(True)
    losses = model(data, z, generator=stream(0, "prior"))
    torch.testing.assert_close(losses.model, -model.log_likelihood(z, data).mean())
    assert {"log_likelihood", "gap"} <= losses.logs.keys()
    (losses.model + losses.prior).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert z.grad is None
    plain = model_of("Gaussian prior, adaptive")
    assert float(plain(data, latents(plain, 3)).prior) == 0


def test_the_posterior_is_prior_plus_likelihood():
    model, data = model_of("static in the dynamics"), irregular()
    z = latents(model, 4, 3)
    target = model.posterior(data)
    value, _, parts = value_and_grad(target, z)
    torch.testing.assert_close(parts["prior"], -model.energy(z).detach())
    torch.testing.assert_close(parts["x"], model.log_likelihood(z, data).detach())
    torch.testing.assert_close(value, parts["prior"] + parts["x"])
    torch.testing.assert_close(model.energy(z), 0.5 * z.square().sum(-1) - model.prior.tilt(z))


def test_a_state_is_the_same_number_whatever_other_times_are_asked_for():
    model = model_of("static in the dynamics")
    z = latents(model, 2)
    few = torch.tensor([0.07, 0.33], dtype=torch.float64)
    many = torch.tensor([0.01, 0.07, 0.2, 0.33, 1.234], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.trajectory(z, few), model.trajectory(z, many)[:, [1, 3]], rtol=1e-12, atol=1e-12
        )
    # With a number of steps in place of a size this does not hold: the wrong control.
    other = EnergyOde(OdeConfig(observed=(2,), solver=Solver(method="euler", steps=5))).double()
    with torch.no_grad():
        first, second = other.trajectory(z, few), other.trajectory(z, many)[:, [1, 3]]
    assert not torch.allclose(first, second, rtol=1e-6)


def test_a_sequence_observed_at_its_start_alone_can_be_solved():
    model = model_of("static in the dynamics")
    z = latents(model, 2)
    zero = torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(model.trajectory(z, zero)[:, 0], z[:, :4])
    data = Sequences(zero, torch.zeros(2, 1, 2, dtype=torch.float64))
    assert model.log_likelihood(z, data).shape == (2,)


def test_closed_times_end_at_a_whole_step():
    solver = Solver(step_size=0.1)
    times = torch.tensor([[0.0, 0.42], [0.0, 0.3]])
    closed = closed_times(times, solver)
    expected = torch.tensor([0.5, 0.3], dtype=torch.float64)
    torch.testing.assert_close(closed[:, -1], expected)
    assert (closed.diff(dim=1) >= 0).all()
    for other in (Solver(steps=3), Solver(method="dopri5")):
        assert closed_times(times, other) is times


def test_sums_in_double_precision_follow_the_setting():
    config = OdeConfig(observed=(2,), double_sums=True, sigma=0.3)
    model, data = EnergyOde(config), irregular().to(torch.float32)
    z = torch.randn(3, model.dim)
    value, grad, _ = value_and_grad(model.posterior(data), z)
    assert value.dtype == torch.float64
    assert grad.dtype == torch.float32
    single = EnergyOde(OdeConfig(observed=(2,), sigma=0.3))
    single.load_state_dict(model.state_dict())
    assert single.log_likelihood(z, data).dtype == torch.float32
    torch.testing.assert_close(
        single.log_likelihood(z, data).double(), model.log_likelihood(z, data)
    )


def test_residuals_and_misfit_are_those_of_observed_entries():
    model, data = model_of("no static, Bernoulli"), irregular()
    z = latents(model, 2, 3)
    likelihood = model.likelihood(data)
    with torch.no_grad():
        squares = (data.values - model.mean(z, data.times)).square()
        squares = torch.where(data.mask, squares, 0.0)
        torch.testing.assert_close(
            likelihood.misfit(z), squares.sum((-2, -1)) / data.observed, rtol=1e-7, atol=1e-9
        )
        residuals = likelihood.residuals(z)
    assert residuals.shape == (2, len(likelihood.values), 2)
    torch.testing.assert_close(residuals.square().sum((1, 2)), squares.sum((1, 2, 3)))
    assert (residuals[:, ~likelihood.mask] == 0).all()


def test_images_pass_through_convolutions():
    config = OdeConfig(
        observed=(28, 28), emission="conv", emission_channels=1, static_in_emission=True
    )
    model = EnergyOde(config)
    frames = torch.rand(2, 4, 28, 28)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]]).bool()
    data = Sequences(torch.arange(4) * 0.1, frames, mask)
    likelihood = model.likelihood(data)
    assert likelihood.values.shape == (4, 28, 28)  # frames that nobody saw are not decoded
    value, grad, _ = value_and_grad(likelihood, torch.randn(3, 2, model.dim))
    assert value.shape == (3, 2)
    assert grad.isfinite().all()
    assert model.sample(2, torch.arange(3) * 0.1).mean.max() <= 1


def test_samples_are_sequences_with_noise():
    config = OdeConfig(observed=(1,), sigma=0.2, prior_steps=3)
    model = EnergyOde(config)
    drawn = model.sample(400, torch.arange(5) * 0.1, generator=stream(0, "sample"))
    assert drawn.z.shape == (400, 8)
    assert len(drawn.sequences) == 400
    # 2,000 entries: standard error 0.2 / sqrt(4000) = 0.0032.
    assert abs((drawn.sequences.values - drawn.mean).std() - 0.2) < 0.016
    torch.testing.assert_close(drawn.mean, model.mean(drawn.z, drawn.sequences.times).detach())
    again = model.sample(400, torch.arange(5) * 0.1, generator=stream(0, "sample"))
    assert torch.equal(drawn.sequences.values, again.sequences.values)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_gives_the_same_model_back(name, tmp_path):
    model, data = model_of(name), irregular()
    if CONFIGS[name].likelihood == "gaussian":
        model.noise.set_sigma(0.123)
    model.save(tmp_path / "model.pt")
    other = EnergyOde.load(tmp_path / "model.pt")
    assert other.config == model.config
    z = latents(model, 3)
    torch.testing.assert_close(other.posterior(data)(z), model.posterior(data)(z))
    assert json.loads(json.dumps(model.config.to_dict())) == model.config.to_dict()


class Linear(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.map = nn.Linear(state, state, bias=False)

    def forward(self, y):
        return self.map(y)


def test_custom_modules_take_part_and_are_saved(tmp_path):
    config = OdeConfig(observed=(2,), state=2, static=0)
    modules = {
        "field": Linear(2),
        "emission": nn.Identity(),
        "prior": GaussianPrior(2, scale=2.0),
    }
    model = EnergyOde(config, **modules).double()
    z = torch.randn(3, 2, dtype=torch.float64)
    exact = torch.linalg.matrix_exp(0.5 * model.field.map.weight) @ z.T
    torch.testing.assert_close(
        model.mean(z, torch.tensor([0.5], dtype=torch.float64))[:, 0],
        exact.T,
        rtol=1e-6,
        atol=1e-6,
    )
    path = tmp_path / "custom.pt"
    model.save(path)
    with pytest.raises(ValueError, match="holds weights of other modules"):
        EnergyOde.load(path)
    fresh = {**modules, "field": Linear(2)}
    loaded = EnergyOde.load(path, **fresh)
    assert torch.equal(loaded.field.map.weight, model.field.map.weight)
    assert loaded.field.map.weight.dtype == torch.float64


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no model that EnergyOde\.save wrote"):
        EnergyOde.load(tmp_path / "other.pt")


def test_a_diverging_solve_names_the_sequence():
    class Explosive(nn.Module):
        def forward(self, y):
            return y**3

    config = OdeConfig(observed=(2,), state=2, static=0, prior="gaussian")
    model = EnergyOde(config, field=Explosive(), emission=nn.Identity())
    data = Sequences(torch.arange(1, 60) * 0.1, torch.zeros(3, 59, 2))
    z = torch.zeros(3, 2)
    z[1] = 30.0
    with pytest.raises(SolveError, match="sequence 1") as caught:
        model.log_likelihood(z, data)
    assert caught.value.sequence == (1,)
    values = model.posterior(data)(z)
    assert values.isfinite().tolist() == [True, False, True]


def test_refuses_what_does_not_fit_the_model():
    model, data = model_of("static in the dynamics"), irregular()
    z = latents(model, 3)
    refused = [
        (lambda: model.likelihood(irregular(obs=(3,))), r"shape \(3,\), the model has observed"),
        (lambda: model.likelihood(data.to(torch.float32)), "sequences hold torch.float32"),
        (lambda: model.log_likelihood(z[:2], data), r"\(\*chains, 3, 8\).*got \(2, 8\)"),
        (lambda: model.split(z[:, :5]), "z must end in the 8 numbers"),
        (lambda: model.mean(z, -torch.ones(1, dtype=torch.float64)), "must not be negative"),
        (lambda: model.mean(z, torch.ones(2, 4).double().cumsum(1)), "one row for each sequence"),
        (lambda: model.sample(0, torch.ones(1)), "n must be positive, got 0"),
        (lambda: EnergyOde(model.config, prior=GaussianPrior(3)), r"event shape \(8,\).*\(3,\)"),
        (lambda: EnergyOde(model.config, emission=nn.Identity()).mean(z.float(), torch.ones(1)),
         r"the emission must return shape \(3, 1, 2\)"),
        (lambda: model_of("no static, Bernoulli").likelihood(data, sigma=1.0),
         "sigma must be None for Bernoulli"),
    ]  # fmt: skip
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": 0}, "state must be positive, got 0"),
        ({"static": -1}, "static must not be negative, got -1"),
        ({"observed": ()}, r"observed must be one or more positive lengths, got \(\)"),
        ({"order": 2, "state": 3}, "state must be even for order 2, got 3"),
        ({"static_in_dynamics": False}, "4 static variables enter nothing"),
        ({"likelihood": "bernoulli", "emission_output": "sigmoid"}, "which takes logits"),
        ({"sigma_floor": 0.0}, r"sigma_floor must be positive, got 0\.0"),
        ({"energy_l2": -1.0}, r"energy_l2 must not be negative, got -1\.0"),
        ({"prior_steps": 0}, "prior_steps must be positive, got 0"),
        ({"emission": "conv", "observed": (32, 32)}, r"obs must be \(28, 28\)"),
    ],
)
def test_refuses_settings_that_make_no_model(settings, message):
    with pytest.raises(ValueError, match=message):
        EnergyOde(OdeConfig(**{"observed": (2,), **settings}))


def test_refuses_unknown_settings(wrong_types):
    with pytest.raises(ValueError, match="unknown prior 'flow'; there are: energy, gaussian"):
        OdeConfig(observed=(1,), prior="flow")


def test_a_record_with_unknown_settings_is_refused():
    with pytest.raises(ValueError, match=r"unknown settings \['width'\]"):
        OdeConfig.from_dict({"observed": [1], "width": 3})
    assert OdeConfig.from_dict({"observed": [1]}) == OdeConfig(observed=(1,))


def test_the_default_prior_is_the_published_one():
    model = EnergyOde(OdeConfig(observed=(1,)))
    assert isinstance(model.prior, EnergyPrior)
    assert [layer.out_features for layer in model.prior.network[::2]] == [200, 200, 1]
    assert (model.prior.sampler.steps, model.prior.sampler.step_size) == (60, 0.4)


def test_the_output_of_the_emission_follows_the_setting():
    model = EnergyOde(OdeConfig(observed=(2,), emission_output="sigmoid"))
    assert model.emission.output == "sigmoid"
    # Unchecked times and states are the same numbers.
    z, times = torch.randn(3, model.dim), torch.tensor([0.2, 0.55, 0.55])
    checked = model.trajectory(z, times)
    assert torch.equal(model.trajectory(z, times, check=False), checked)
    assert torch.equal(checked[:, 1], checked[:, 2])
