"""Posteriors of four standard models, as log densities of one flat unconstrained vector.

Positive, ordered and simplex parameters enter through transforms, and the logarithm of the
transform's Jacobian determinant belongs to the density of `u`. `named(u)` gives the parameters
back under the names that the model uses. Data come with each model. Both take any batch axes, and
compute in the dtype and on the device of `u`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

__all__ = ["Autoregression", "EightSchools", "OrderedMixture", "ScaledRegression"]


class EightSchools(nn.Module):
    """Effects of coaching in eight schools, with partial pooling; non-centred, 10 dimensions.

    y_i ~ N(theta_i, s_i^2),  theta_i = mu + tau eta_i,  eta_i ~ N(0, 1),
    mu ~ N(0, 5^2),  tau ~ half-Cauchy(5);  u = (mu, log tau, eta_1 .. eta_8)

    Source:
        Rubin, "Estimation in Parallel Randomized Experiments", Journal of Educational
        Statistics, 1981, table 1 (data); Gelman et al., "Bayesian Data Analysis", section 5.5.

    Example:
        >>> target = EightSchools()
        >>> trace = kernel.run(target, torch.randn(64, target.dim), steps=1000, thin=1)
        >>> target.named(trace.u)["tau"].mean()
    """

    dim = 10
    effects: Tensor
    errors: Tensor

    def __init__(self) -> None:
        super().__init__()
        effects = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
        errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
        self.register_buffer("effects", torch.tensor(effects, dtype=torch.float64))
        self.register_buffer("errors", torch.tensor(errors, dtype=torch.float64))

    def named(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns `mu` and `tau`, shape `(*batch,)`, and `theta`, shape `(*batch, 8)`."""
        mu, tau = u[..., 0], u[..., 1].exp()
        return {"mu": mu, "tau": tau, "theta": mu[..., None] + tau[..., None] * u[..., 2:]}

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log joint density of data and `u`."""
        mu, tau, theta = self.named(u).values()
        errors = self.errors.to(u)
        prior = _log_normal(mu, math.log(5)) + _log_half_cauchy(tau, 5.0)
        prior = prior + _log_normal(u[..., 2:]).sum(-1)
        residual = (self.effects.to(u) - theta) / errors
        return prior + (_log_normal(residual) - errors.log()).sum(-1) + u[..., 1]


class ScaledRegression(nn.Module):
    """Linear regression on five predictors whose scales span four decades; 7 dimensions.

    y_i ~ N(intercept + sum_j coefficients_j x_ij, sigma^2),  intercept ~ N(0, 10^2),
    coefficients_j ~ N(0, 10^2),  sigma ~ Exponential(1);  u = (intercept, coefficients,
    log sigma)

    Predictor j has mean and standard deviation `10^(j-2)`, j = 0 .. 4, so that the posterior
    deviations of the coefficients span four decades too: the case for a step size per coordinate.
    100 simulated observations.

    Source:
        Own simulation; Gelman et al., "Bayesian Data Analysis", chapter 14 (the model).
    """

    dim = 7
    x: Tensor
    y: Tensor

    def __init__(self) -> None:
        super().__init__()
        scales = torch.tensor([1e-2, 1e-1, 1.0, 1e1, 1e2], dtype=torch.float64)
        x = (1 + _noise(500, seed=1).reshape(100, 5)).round(decimals=3) * scales
        coefficients = torch.tensor([2.0, -2.0, 1.0, 0.05, -0.005], dtype=torch.float64)
        y = 1 + x @ coefficients + 0.5 * _noise(100, seed=2)
        self.register_buffer("x", x)
        self.register_buffer("y", y.round(decimals=3))

    def named(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns `intercept` and `sigma`, `(*batch,)`, and `coefficients`, `(*batch, 5)`."""
        return {"intercept": u[..., 0], "coefficients": u[..., 1:-1], "sigma": u[..., -1].exp()}

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log joint density of data and `u`."""
        intercept, coefficients, sigma = self.named(u).values()
        log_sigma = u[..., -1]
        prior = _log_normal(u[..., :-1], math.log(10)).sum(-1) - sigma
        fitted = intercept[..., None] + coefficients @ self.x.to(u).T
        residual = self.y.to(u) - fitted
        return prior + _log_normal(residual, log_sigma[..., None]).sum(-1) + log_sigma


class Autoregression(nn.Module):
    """Autoregressive time series of order 7; 9 dimensions.

    y_t ~ N(intercept + sum_k coefficients_k y_(t-k), sigma^2), t = 8 .. 200,
    intercept, coefficients_k ~ N(0, 10^2),  sigma ~ half-Cauchy(2.5);
    u = (intercept, coefficients, log sigma)

    Conditional on the first seven values; stationarity is not imposed. 200 simulated values.

    Source:
        Own simulation; Box and Jenkins, "Time Series Analysis", 1970 (the model).
    """

    dim = 9
    series: Tensor
    lags: Tensor

    def __init__(self) -> None:
        super().__init__()
        coefficients = [0.6, -0.3, 0.2, -0.1, 0.1, -0.2, 0.3]
        values = [0.0] * 7
        for eps in _noise(200, seed=3).tolist():
            past = sum(b * values[-k] for k, b in enumerate(coefficients, start=1))
            values.append(0.2 + past + 0.8 * eps)
        series = torch.tensor(values[7:], dtype=torch.float64).round(decimals=3)
        self.register_buffer("series", series)
        # Row t holds y_(t-1), .., y_(t-7).
        self.register_buffer("lags", series[:-1].unfold(0, 7, 1).flip(-1).contiguous())

    def named(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns `intercept` and `sigma`, `(*batch,)`, and `coefficients`, `(*batch, 7)`."""
        return {"intercept": u[..., 0], "coefficients": u[..., 1:-1], "sigma": u[..., -1].exp()}

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log joint density of data and `u`."""
        intercept, coefficients, sigma = self.named(u).values()
        log_sigma = u[..., -1]
        prior = _log_normal(u[..., :-1], math.log(10)).sum(-1) + _log_half_cauchy(sigma, 2.5)
        fitted = intercept[..., None] + coefficients @ self.lags.to(u).T
        residual = self.series[7:].to(u) - fitted
        return prior + _log_normal(residual, log_sigma[..., None]).sum(-1) + log_sigma


class OrderedMixture(nn.Module):
    """Mixture of two overlapping normals with ordered means; 5 dimensions.

    y_i ~ sum_k weights_k N(means_k, scales_k^2),  means_1 < means_2,
    means_k ~ N(0, 3^2),  log scales_k ~ N(0, 0.5^2),  weights ~ Dirichlet(3, 3);
    u = (means_1, log(means_2 - means_1), log scales, logit weights_1)

    The order keeps the components from changing places. 200 simulated observations.

    Source:
        Own simulation; Jasra, Holmes, Stephens, "Markov Chain Monte Carlo Methods and the Label
        Switching Problem in Bayesian Mixture Modeling", Statistical Science, 2005 (order as
        the constraint that identifies the components).
    """

    dim = 5
    data: Tensor

    def __init__(self) -> None:
        super().__init__()
        eps = _noise(200, seed=4)
        data = torch.cat((-1.5 + 0.8 * eps[:70], 1.5 + eps[70:]))
        self.register_buffer("data", data.round(decimals=3))

    def named(self, u: Float[Tensor, "*batch dim"]) -> dict[str, Tensor]:
        """Returns `means`, `scales` and `weights`, each of shape `(*batch, 2)`."""
        means = torch.stack((u[..., 0], u[..., 0] + u[..., 1].exp()), dim=-1)
        first = u[..., 4].sigmoid()
        weights = torch.stack((first, 1 - first), dim=-1)
        return {"means": means, "scales": u[..., 2:4].exp(), "weights": weights}

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the log joint density of data and `u`, up to the `log 2` of the order."""
        means, log_scales = self.named(u)["means"], u[..., 2:4]
        log_weights = logsigmoid(torch.stack((u[..., 4], -u[..., 4]), dim=-1))
        prior = _log_normal(means, math.log(3)).sum(-1)
        prior = prior + _log_normal(log_scales, math.log(0.5)).sum(-1)
        # Density Gamma(6) / Gamma(3)^2 (w_1 w_2)^2 and Jacobian w_1 w_2 of the logit.
        prior = prior + math.log(30) + 3 * log_weights.sum(-1)
        residual = self.data.to(u)[:, None] - means[..., None, :]
        each = _log_normal(residual, log_scales[..., None, :]) + log_weights[..., None, :]
        return prior + each.logsumexp(-1).sum(-1) + u[..., 1]


def _log_normal(residual: Tensor, log_scale: Tensor | float = 0.0) -> Tensor:
    scale = log_scale.exp() if isinstance(log_scale, Tensor) else math.exp(log_scale)
    return -0.5 * (residual / scale).square() - log_scale - 0.5 * math.log(2 * math.pi)


def _log_half_cauchy(x: Tensor, scale: float) -> Tensor:
    return math.log(2 / (math.pi * scale)) - (x / scale).square().log1p()


def _noise(n: int, *, seed: int) -> Tensor:
    """Returns `n` standard normal numbers that no version of a library can change.

    A linear congruential generator modulo 2^64 with Knuth's constants (MMIX), its upper 53 bits
    put through the normal quantile function.
    """
    state, uniforms = seed, []
    for _ in range(n + 10):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        uniforms.append(((state >> 11) + 0.5) / 2**53)
    # The first states still resemble one another for small seeds.
    normal: Tensor = torch.special.ndtri(torch.tensor(uniforms[10:], dtype=torch.float64))
    return normal
