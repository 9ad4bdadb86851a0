"""Everything that forecasts, in one interface for the evaluation."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from apps.ode_lebm.data import Bundle
from apps.ode_lebm.settings import Evaluate
from lv_core import frozen, normal, stream
from lv_dynamics import EnergyOde, Forecast, Posterior, Sequences, forecast, infer
from lv_dynamics.baselines import GruForecaster, MonodeLike, Trivial
from lv_dynamics.baselines.record import mixture
from lv_dynamics.baselines.trivial import TrivialKind
from lv_dynamics.recognition import RecognitionNetwork

__all__ = ["Chains", "Encoder", "Forecaster", "Learned", "Samples", "WithoutModel"]

CHUNK = 25  # sequences forecast at a time, for memory
DRAWS = 5  # kept states of each chain that are carried on


@dataclass(frozen=True)
class Samples:
    """Latents of sequences: draws `(S, B, D)`, their weights `(S, B)` and a best one `(B, D)`."""

    draws: Tensor
    weights: Tensor
    best: Tensor
    posterior: Posterior | None = None
    """What chains found, with their diagnostics."""

    def mean(self) -> Tensor:
        """Returns the mean latent of each sequence."""
        return (self.weights[..., None] * self.draws).sum(0)


class Forecaster(Protocol):
    """What the evaluation needs; `model` is None where there are no latents to look at."""

    name: str
    model: EnergyOde | None

    def latents(self, seen: Sequences) -> Samples | None:
        """Returns latents of sequences, None without a model of them."""
        ...

    def forecasts(self, seen: Sequences, times: Tensor, samples: Samples | None) -> list[Forecast]:
        """Returns forecasts at times `(B, T)`, in chunks of sequences.

        Arguments:
            seen: What is known.
            times: Times asked for.
            samples: What `latents(seen)` returned.
        """
        ...


class Chains:
    """Latents by annealed restarts of Langevin chains."""

    def __init__(self, model: EnergyOde, given: Evaluate, seed: int) -> None:
        self.name, self.model, self.given, self.seed = "chains", model, given, seed

    def latents(self, seen: Sequences) -> Samples:
        """Returns draws of the chains, weighted by the scores of their restarts."""
        device = next(self.model.parameters()).device
        found = infer(
            self.model,
            seen.compact().to(device),
            settings=replace(self.given.inference, batch_size=100),
            seed=self.seed,
        )
        return Samples(found.samples(), found.sample_weights(), found.best(), found)

    def forecasts(self, seen: Sequences, times: Tensor, samples: Samples | None) -> list[Forecast]:
        """Carries the latents on."""
        found = self.latents(seen) if samples is None else samples
        assert found.posterior is not None
        parts = torch.arange(len(seen)).split(CHUNK)
        return [
            forecast(self.model, found.posterior[part], times[part], most=DRAWS) for part in parts
        ]


class Encoder:
    """Latents by a recognition network."""

    def __init__(
        self, model: EnergyOde, network: RecognitionNetwork, given: Evaluate, seed: int
    ) -> None:
        self.name, self.model, self.network = "encoder", model, network
        self.draws, self.seed = given.encoder_draws, seed

    @torch.no_grad()
    def latents(self, seen: Sequences) -> Samples:
        """Returns draws of the network's normal distribution; its mean is the best one."""
        device = next(self.model.parameters()).device
        q = self.network(seen.to(device))
        eps = normal(q.mean.new_empty(self.draws, *q.mean.shape), stream(self.seed, "encoder"))
        z = q.mean + q.log_scale.exp() * eps.to(q.mean)
        return Samples(z, torch.full_like(z[..., 0], 1 / self.draws), q.mean)

    @torch.no_grad()
    def forecasts(self, seen: Sequences, times: Tensor, samples: Samples | None) -> list[Forecast]:
        """Carries the latents on."""
        found = self.latents(seen) if samples is None else samples
        model, parts = self.model, torch.arange(len(seen)).split(CHUNK)
        made = []
        with frozen(model):
            for part in parts:
                z, when = found.draws[:, part], times[part].to(found.draws)
                output = model.emit(model.trajectory(z, when), model.split(z)[1])
                best = model.mean(found.best[part], when)
                mean, variance = model.noise.mean(output), model.noise.variance(output)
                made.append(mixture(when, mean, variance, best))
        return made


class Learned:
    """A learned baseline of lv-dynamics."""

    def __init__(self, baseline: MonodeLike | GruForecaster, given: Evaluate, seed: int) -> None:
        self.name, self.baseline, self.seed = type(baseline).__name__, baseline, seed
        self.model, self.draws = None, given.encoder_draws

    def latents(self, seen: Sequences) -> None:
        """Returns None."""

    def forecasts(self, seen: Sequences, times: Tensor, samples: Samples | None) -> list[Forecast]:
        """Asks the baseline."""
        return [
            self.baseline.predict(seen[part], times[part], draws=self.draws, seed=self.seed)
            for part in torch.arange(len(seen)).split(CHUNK)
        ]


class WithoutModel:
    """A forecast that needs no learning."""

    def __init__(self, kind: TrivialKind, data: Bundle) -> None:
        self.name, self.model = kind, None
        self.rule = Trivial(kind).fit(data.train)

    def latents(self, seen: Sequences) -> None:
        """Returns None."""

    def forecasts(self, seen: Sequences, times: Tensor, samples: Samples | None) -> list[Forecast]:
        """Applies the rule."""
        return [
            self.rule.predict(seen[part], times[part])
            for part in torch.arange(len(seen)).split(CHUNK)
        ]
