"""The modules that the settings of a model stand for."""

from torch import nn

from lv_core import Langevin
from lv_core.nn import mlp
from lv_dynamics.config import OdeConfig
from lv_dynamics.emission import ConvEmission, LinearEmission, PerceptronEmission
from lv_dynamics.field import VectorField
from lv_dynamics.observation import Bernoulli, GaussianNoise
from lv_priors import EnergyPrior, GaussianPrior

__all__ = ["make_emission", "make_field", "make_noise", "make_prior"]


def make_field(config: OdeConfig) -> VectorField:
    """Returns the vector field of the settings."""
    return VectorField(
        config.state,
        static=config.field_static,
        hidden=config.field_hidden,
        activation=config.field_activation,
        order=config.order,
    )


def make_emission(config: OdeConfig) -> nn.Module:
    """Returns the emission of the settings."""
    width, obs = config.emission_width, config.observed
    if config.emission == "linear":
        return LinearEmission(width, obs, output=config.output)
    if config.emission == "conv":
        return ConvEmission(width, obs, channels=config.emission_channels, output=config.output)
    return PerceptronEmission(
        width,
        obs,
        hidden=config.emission_hidden,
        activation=config.emission_activation,
        output=config.output,
    )


def make_noise(config: OdeConfig) -> nn.Module:
    """Returns the observation model of the settings."""
    if config.likelihood == "bernoulli":
        return Bernoulli(config.observed)
    return GaussianNoise(
        config.observed,
        config.sigma,
        per_dimension=config.sigma_per_dimension,
        floor=config.sigma_floor,
    )


def make_prior(config: OdeConfig) -> EnergyPrior | GaussianPrior:
    """Returns the prior of [z0, z_s] of the settings."""
    if config.prior == "gaussian":
        return GaussianPrior(config.dim)
    return EnergyPrior(
        mlp((config.dim, *config.energy_hidden, 1), activation=config.energy_activation),
        config.dim,
        sampler=Langevin(steps=config.prior_steps, step_size=config.prior_step_size),
        energy_l2=config.energy_l2,
        closed_form=True,
    )
