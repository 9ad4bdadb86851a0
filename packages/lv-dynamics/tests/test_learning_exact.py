"""Learning against closed forms on a model that is linear and Gaussian throughout.

With a linear field and a linear emission x = m + J z + sigma eps, so that
log p(x) = log N(x; m, J J^T + sigma^2 I), and its gradient is known.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lv_core import stream
from lv_dynamics.config import OdeConfig
from lv_dynamics.learning import Learner, LearningSettings
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import Solver

SIGMA, ROWS = 0.5, 4


def linear_model() -> EnergyOde:
    torch.manual_seed(0)
    config = OdeConfig(
        observed=(1,),
        state=2,
        static=0,
        field_hidden=(),
        emission="linear",
        sigma=SIGMA,
        prior="gaussian",
        solver=Solver(method="rk4", step_size=0.5),
    )
    model = EnergyOde(config).double()
    with torch.no_grad():
        model.emission.network[0].weight.copy_(torch.tensor([[1.0, 0.5]]))
    return model


TIMES = torch.linspace(0.0, 1.5, ROWS, dtype=torch.float64)


def data(n: int) -> Sequences:
    values = 1.5 * torch.randn(n, ROWS, 1, generator=stream(0, "data"), dtype=torch.float64)
    return Sequences(TIMES, values)


def exact_log_likelihood(model: EnergyOde, sequences: Sequences) -> Tensor:
    """Returns log p(x) of each sequence, differentiable in the parameters."""
    points = torch.cat((torch.zeros(1, 2), torch.eye(2))).double()
    means = model.mean(points, TIMES)[..., 0]
    center, jacobian = means[0], (means[1:] - means[:1]).T
    noise = SIGMA**2 * torch.eye(ROWS, dtype=torch.float64)
    marginal = MultivariateNormal(center, jacobian @ jacobian.T + noise)
    return marginal.log_prob(sequences.values[..., 0])


STILL = LearningSettings(
    iterations=1000, lr=0.0, warm_up=0.0, curriculum=0.0, anneal=0.0, batch_size=64, clip=1e9
)


def test_the_mean_gradient_is_that_of_maximum_likelihood():
    model, sequences = linear_model(), data(64)
    exact = exact_log_likelihood(model, sequences).sum()
    parameters = [*model.field.parameters(), *model.emission.parameters()]
    gradient = -torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    gradient = gradient / sequences.observed.sum()
    s = replace(STILL, step_size=0.5, adaptation=0.02, steps=6)
    learner = Learner(model, sequences, s)
    drawn = []
    for _ in range(120):
        learner.step()
        drawn.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    # Twelve means of eight visits each, nearly independent, after 24 to forget the start.
    batches = torch.stack(drawn[24:]).reshape(12, 8, -1).mean(1)
    error = batches.std(0) / 12**0.5
    assert float(((batches.mean(0) - gradient).abs() / error).max()) < 5
    # At latents that do not know the observations the gradient is another one.
    z = torch.randn(500, 64, 2, generator=stream(1, "prior"), dtype=torch.float64)
    wrong = -model.log_likelihood(z, sequences).mean(0).sum() / sequences.observed.sum()
    wrong = torch.cat([g.flatten() for g in torch.autograd.grad(wrong, parameters)])
    assert float(((wrong - gradient).abs() / error).max()) > 20


def test_the_bound_of_the_recognition_network_is_below_the_likelihood_and_comes_close():
    model, sequences = linear_model(), data(64)
    with torch.no_grad():
        exact = float(exact_log_likelihood(model, sequences).mean())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    s = replace(
        STILL,
        method="encoder",
        lr=0.01,
        iterations=250,
        shown="all",
        encoder_hidden=16,
        kl_warm_up=0.0,
    )
    learner = Learner(model, sequences, s)

    def bound() -> float:
        with torch.no_grad():
            q = learner.recognition(sequences)
            z = q.sample(400, generator=stream(2, "bound"))
            value = model.log_likelihood(z, sequences) - q.kl()
        return float(value.mean())

    untrained = bound()
    for _ in range(s.iterations):
        learner.step()
    # The standard error of the bound over 400 x 64 draws is about 0.01.
    assert exact - 1.0 < bound() < exact + 0.05
    assert untrained < exact - 2.0
