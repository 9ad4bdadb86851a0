"""The latent ODE: a variational autoencoder with a Gaussian prior and a recognition network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core import frozen, stream
from lv_dynamics.baselines.record import mixture
from lv_dynamics.config import OdeConfig
from lv_dynamics.forecast import Forecast
from lv_dynamics.learning import Learner, LearningSettings
from lv_dynamics.learning.weights import seeded_weights
from lv_dynamics.model import EnergyOde
from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.sequences import Sequences

__all__ = ["LatentOde"]


class LatentOde:
    """A latent ODE learned by the ELBO, in the interface of the other baselines.

    The same generator as `EnergyOde` with the prior N(0, I); a recurrent network run backwards in
    time gives the posterior. Forecasts average draws of it.

    Arguments:
        config: Settings of the generator; its prior is replaced by N(0, I).
        settings: How it is learned; the method is replaced by "encoder". A `kl_weight` other than
            one makes it a beta-VAE.
        hidden: Width of the recognition network's state.
        cell: Its cell, "gru" or "ode_rnn".

    Source:
        Chen et al., "Neural ordinary differential equations", 2018; Rubanova et al., "Latent ODEs
        for irregularly-sampled time series", 2019.

    Example:
        >>> baseline = LatentOde(OdeConfig(observed=(1,), state=8, static=0)).fit(train, seed=0)
        >>> baseline.predict(test.prefix(25), test.times, draws=50).mean
    """

    def __init__(
        self,
        config: OdeConfig,
        settings: LearningSettings | None = None,
        *,
        hidden: int = 100,
        cell: Literal["gru", "ode_rnn"] = "gru",
    ) -> None:
        self.config = replace(config, prior="gaussian")
        given = LearningSettings() if settings is None else settings
        self.settings = replace(given, method="encoder")
        self.hidden, self.cell = hidden, cell
        self.model: EnergyOde | None = None
        self.network: nn.Module | None = None

    def fit(
        self,
        train: Sequences,
        *,
        seed: int = 0,
        progress: Callable[[int, dict[str, float]], bool | None] | None = None,
        validation: Sequences | None = None,
    ) -> "LatentOde":
        """Learns generator and recognition network from new weights; returns itself.

        Arguments:
            train: Training set.
            seed: Seed of weights, batches and noise.
            progress: Called as `progress(done, logs)` after each update; returning True stops.
            validation: Sequences whose reconstruction error decides which weights are kept; None
                = the last ones.

        Raises:
            ValueError: If the data do not fit the config.
            FloatingPointError: If learning diverges.
        """
        with seeded_weights(seed, "latent ode"):
            model = EnergyOde(self.config).to(train.values)
            network = self._network(train).to(train.values)
        learner = Learner(
            model, train, self.settings, seed=seed, validation=validation, recognition=network
        )
        while learner.done < self.settings.iterations:
            logs = learner.step()
            if progress is not None and progress(learner.done, logs):
                break
        self.model, self.network = learner.load_best(), network
        return self

    def _network(self, train: Sequences) -> nn.Module:
        network = RecognitionNetwork(
            self.config.observed, self.config.dim, hidden=self.hidden, cell=self.cell
        )
        return network.to(train.values).calibrate(train)

    @torch.no_grad()
    def predict(
        self,
        observed: Sequences,
        times: Float[Tensor, "..."],
        *,
        draws: int = 50,
        seed: int = 0,
    ) -> Forecast:
        """Returns the forecast at the given times; its point forecast is that of the mean latent.

        Arguments:
            observed: What is known of each sequence.
            times: `(Q,)` for all sequences or `(B, Q)`.
            draws: Latents drawn for each sequence.
            seed: Seed of the draws.

        Raises:
            ValueError: If `fit` was not called, `draws` is not positive, or shapes do not fit.
        """
        if self.model is None or self.network is None:
            raise ValueError("call fit(train) first: there is no model yet")
        if draws < 1:
            raise ValueError(f"draws must be positive, got {draws}")
        model, q = self.model, self.network(observed)
        eps = q.mean.new_empty(draws, *q.mean.shape)
        z = q.rsample(eps.normal_(generator=stream(seed, "draws", device=eps.device)))
        times = times.to(z)
        with frozen(model):
            output = model.emit(model.trajectory(z, times), model.split(z)[1])
            best = model.mean(q.mean, times)
        return mixture(times, model.noise.mean(output), model.noise.variance(output), best)
