"""Learning a model, one update at a time.

B sequences of a batch, N observed rows of the batch, D latent numbers.
"""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lv_core import stream
from lv_dynamics.learning.energy import EnergyLearner
from lv_dynamics.learning.noise import NoiseLevel
from lv_dynamics.learning.settings import LearningSettings
from lv_dynamics.learning.sources import (
    AmortizedLatents,
    Batch,
    LatentSource,
    PersistentLatents,
    Proposal,
    ShortRunLatents,
)
from lv_dynamics.learning.validation import reconstruction_error
from lv_dynamics.learning.watch import LearningHealth
from lv_dynamics.learning.weights import seeded_weights
from lv_dynamics.model import EnergyOde
from lv_dynamics.observation import GaussianNoise
from lv_dynamics.recognition import RecognitionNetwork
from lv_dynamics.sequences import Sequences
from lv_priors import EnergyPrior

__all__ = ["Learner"]


class Learner:
    """Takes the updates one by one, so that a program can log, save and resume.

    An update draws latents of a batch from its posterior (see `LearningSettings.method`), takes
    one step of Adam for field and emission against the likelihood at those latents, which solves
    the differential equation once with a graph of the parameters, and one for the energy prior.

    Everything random comes from streams named after the seed, the update and the sequence, so a
    run that is resumed from `state_dict` goes on with the same numbers as one that never stopped.

    Arguments:
        model: The model, changed in place. A model learned before may be learned further.
        sequences: Training set, on the model's device and of its type.
        settings: How it is learned; None = the defaults.
        seed: Seed of batches, chains and noise. The model's weights are the caller's to seed.
        validation: Sequences whose error decides which weights `best` keeps, or a function of the
            model that returns an error; None = the last weights are the best.
        recognition: Network of the encoder method, from sequences to a distribution of latents
            (see `RecognitionNetwork`); None makes one.

    Raises:
        ValueError: If the observations of a set have another shape than the model's, or there is
            a recognition network for a method without one.

    Example:
        >>> learner = Learner(model, train, LearningSettings(iterations=2000), validation=valid)
        >>> while learner.done < learner.settings.iterations:
        ...     logs = learner.step()
        >>> learner.load_best()
    """

    def __init__(
        self,
        model: EnergyOde,
        sequences: Sequences,
        settings: LearningSettings | None = None,
        *,
        seed: int = 0,
        validation: Sequences | Callable[[EnergyOde], float] | None = None,
        recognition: nn.Module | None = None,
    ) -> None:
        self.model, self.seed, self.done = model, seed, 0
        self.settings = settings = LearningSettings() if settings is None else settings
        # Rows without an observation teach nothing; the curriculum counts those that do.
        self.data, self.validation = sequences.compact(), validation
        model.likelihood(self.data[:1])  # refuses data of another kind than the model's
        self.recognition = self._recognition(recognition)
        self.source = self._source()
        self.parameters = [
            parameter
            for name, parameter in model.named_parameters()
            if not name.startswith("prior.") and parameter.requires_grad
        ]
        if self.recognition is not None:
            self.parameters += list(self.recognition.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr, betas=settings.betas)
        prior = model.prior if settings.energy_lr > 0 else None
        self.energy = (
            EnergyLearner(prior, settings, seed) if isinstance(prior, EnergyPrior) else None
        )
        gaussian = isinstance(model.noise, GaussianNoise)
        self.noise = NoiseLevel(model.noise, self.data, settings) if gaussian else None
        self.health = LearningHealth(settings, model.dim)
        self.best: dict[str, Any] | None = None
        self._stages: dict[float, Sequences] = {}

    # One update

    def step(self) -> dict[str, float]:
        """Takes one update; returns its logs.

        `mse` is the mean squared residual over observed entries at the sampled latents, `sigma`
        the noise level (root mean square over entries), `posterior_norm` and `prior_norm` the
        mean lengths of latents, `gap` the tilt of posterior minus prior samples in nats, `accept`
        and `step_size` the mean acceptance and median step of the chains, `climb` what a visit
        added to the log density (short-run: what its last step added), `kl` the divergence of the
        recognition network, `horizon` the share of rows in use, `seconds` the time taken.
        `validation` holds the error after updates that were validated. Names appear in the
        updates that have them.

        Raises:
            FloatingPointError: If the loss is not finite, or a solve diverges.
        """
        began, done, settings = time.perf_counter(), self.done, self.settings
        if self.noise is not None:
            self.noise.before(done)
        batch = self._batch(done)
        proposal = self.source.propose(batch, done)
        logs = self._learn(batch, proposal, done)
        if self.energy is not None and settings.learns_energy(done):
            logs |= self.energy.step(proposal.z, done)
        self.done = done + 1
        if self._validates():
            logs["validation"] = self._validate()
        self.health.update(logs)
        logs["seconds"] = time.perf_counter() - began
        return logs

    def _learn(self, batch: Batch, proposal: Proposal, done: int) -> dict[str, float]:
        noise, likelihood = self.model.noise, batch.likelihood
        outputs = likelihood.outputs(proposal.z)[0]
        values, mask = likelihood.values, likelihood.mask
        each = torch.where(mask, noise.log_prob(values, outputs), 0.0)
        loss = proposal.penalty.sum() - each.sum()
        entries = likelihood.observed.sum()
        wanted = (*self.parameters, *proposal.leaves)
        grads = torch.autograd.grad(loss, wanted, allow_unused=True)
        residual = torch.where(mask, values - noise.mean(outputs.detach()), 0.0)
        length = torch.linalg.vector_norm(proposal.z.detach(), dim=-1).mean()
        logs = {
            "loss": loss.detach() / entries,
            "mse": residual.square().sum() / entries,
            "posterior_norm": length,
            **proposal.logs,
        }
        if isinstance(noise, GaussianNoise):
            logs["sigma"] = noise.sigma.square().mean().sqrt()
        # One synchronisation for all numbers.
        stacked = torch.stack([value.detach().double() for value in logs.values()]).tolist()
        numbers = dict(zip(logs, stacked, strict=True))
        if not abs(numbers["loss"]) < float("inf"):
            bad = ~torch.isfinite(likelihood(proposal.z.detach()))
            raise FloatingPointError(
                f"the loss of update {done} is {numbers['loss']}, from training sequences "
                f"{batch.items[bad][:5].tolist()}: lower lr, raise sigma_start, or scale "
                "observations and times to the order of one"
            )
        self._move(grads[: len(self.parameters)], entries, done)
        self.source.finish(batch, proposal, grads[len(self.parameters) :], done)
        if self.noise is not None:
            self.noise.after(residual, mask, done)
        return {**numbers, "horizon": self.settings.horizon_at(done)}

    def _move(self, grads: tuple[Tensor | None, ...], entries: Tensor, done: int) -> None:
        for parameter, grad in zip(self.parameters, grads, strict=True):
            # Per observed entry, so that clipping means the same at every horizon.
            parameter.grad = None if grad is None else grad / entries
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.settings.decay(done)
        self.optimizer.step()

    # Data

    def _batch(self, done: int) -> Batch:
        n = len(self.data)
        batches = -(-n // self.settings.batch_size)
        epoch, place = divmod(done, batches)
        order = torch.randperm(n, generator=stream(self.seed, "order", epoch))
        index = order.tensor_split(batches)[place].to(self.data.times.device)
        data = self._stage(self.settings.horizon_at(done))[index]
        return Batch(index, data, self.model.likelihood(data))

    def _stage(self, share: float) -> Sequences:
        """Returns the training set with the first rows of each sequence, a share of its own."""
        if share not in self._stages:
            count = (self.data.lengths * share).ceil().long()
            self._stages = {share: self.data.prefix(count).compact()}
        return self._stages[share]

    # Validation

    def _validates(self) -> bool:
        settings, last = self.settings, self.done >= self.settings.iterations
        if self.validation is None or settings.progress(self.done) < settings.curriculum:
            return False
        return last or (settings.validate_every > 0 and self.done % settings.validate_every == 0)

    def _validate(self) -> float:
        if isinstance(self.validation, Sequences):
            error = reconstruction_error(
                self.model,
                self.validation,
                seen=self.settings.validation_seen,
                recognition=self.recognition,
                seed=self.seed,
            )
        else:
            assert self.validation is not None
            error = float(self.validation(self.model))
        if self.best is None or error < self.best["error"]:
            self.best = {"error": error, "done": self.done, **copy.deepcopy(self._weights())}
        return error

    def load_best(self) -> EnergyOde:
        """Puts the weights of lowest validation error, if any, into the model, and returns it."""
        if self.best is not None:
            self._load_weights(self.best)
        return self.model

    def words(self) -> list[str]:
        """Returns what the recent updates say about the run, worst first; one line each."""
        return self.health.words(self.energy)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a run needs to go on exactly; loadable with `weights_only=True`."""
        return {
            "done": self.done,
            "seed": self.seed,
            **self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "source": self.source.state_dict(),
            "energy": None if self.energy is None else self.energy.state_dict(),
            "health": self.health.state_dict(),
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken: with the same data and settings, to the same numbers.

        Raises:
            ValueError: If the state is of a run with another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(
                f"the state is of a run with seed {state['seed']}, this learner has {self.seed}"
            )
        self.done = int(state["done"])
        self._load_weights(state)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.source.load_state_dict(state["source"])
        if self.energy is not None:
            self.energy.load_state_dict(copy.deepcopy(state["energy"]))
        self.health.load_state_dict(state["health"])
        self.best = copy.deepcopy(state["best"])

    def _weights(self) -> dict[str, Any]:
        network = None if self.recognition is None else self.recognition.state_dict()
        return {"model": self.model.state_dict(), "recognition": network}

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.recognition is not None:
            self.recognition.load_state_dict(state["recognition"])

    # Parts

    def _recognition(self, given: nn.Module | None) -> nn.Module | None:
        if self.settings.method != "encoder":
            if given is not None:
                raise ValueError(
                    f"recognition is for the method 'encoder', got {self.settings.method!r}"
                )
            return None
        if given is not None:
            return given
        with seeded_weights(self.seed, "recognition"):
            made = RecognitionNetwork(
                self.data.obs_shape, self.model.dim, hidden=self.settings.encoder_hidden
            )
        return made.to(self.data.values).calibrate(self.data)

    def _source(self) -> LatentSource:
        if self.settings.method == "short_run":
            return ShortRunLatents(self.model, self.settings, self.seed)
        if self.recognition is not None:
            return AmortizedLatents(self.model, self.recognition, self.settings, self.seed)
        return PersistentLatents(self.model, len(self.data), self.settings, self.seed)
