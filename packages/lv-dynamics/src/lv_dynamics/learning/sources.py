"""Where the latents of an update come from.

B sequences of a batch, D latent numbers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lv_core import (
    ChainBank,
    Langevin,
    Mala,
    OnlineStepSize,
    Rows,
    frozen,
    normal,
    posterior,
    uniform,
)
from lv_core.kernels.online import FACTOR
from lv_dynamics.learning.settings import LearningSettings
from lv_dynamics.likelihood import SequenceLikelihood
from lv_dynamics.model import EnergyOde
from lv_dynamics.sequences import Sequences
from lv_priors import EnergyPrior

__all__ = [
    "AmortizedLatents",
    "Batch",
    "LatentSource",
    "PersistentLatents",
    "Proposal",
    "ShortRunLatents",
]


class Batch(NamedTuple):
    """Sequences of one update: their numbers, the rows in use, and the likelihood of those."""

    items: Tensor
    data: Sequences
    likelihood: SequenceLikelihood


class Proposal(NamedTuple):
    """Latents of a batch, and what learning them needs.

    `z` has shape `(B, D)` and a graph where latents are learned along with the model; `penalty`,
    shape `(B,)`, is added to the negative log-likelihood; `leaves` are tensors whose gradients
    `finish` wants; `logs` are scalars.
    """

    z: Tensor
    penalty: Tensor
    leaves: tuple[Tensor, ...]
    logs: dict[str, Tensor]


@runtime_checkable
class LatentSource(Protocol):
    """What the learner needs of a source of latents."""

    def propose(self, batch: Batch, done: int) -> Proposal:
        """Returns latents of the sequences of a batch, for the update after `done` ones."""
        ...

    def finish(
        self, batch: Batch, proposal: Proposal, grads: tuple[Tensor, ...], done: int
    ) -> None:
        """Takes the gradients of the summed loss with respect to the leaves."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        ...


class PersistentLatents:
    """One latent for each sequence for the whole run: a table that Adam improves, then a chain.

    The chain of a sequence starts where its row of the table ended, and keeps a step size of its
    own. Noise comes from streams of the sequence and the update, so with given parameters a chain
    does not depend on which other sequences share its batch.

    Arguments:
        model: The model that is learned.
        n_items: Number of sequences.
        settings: How it is learned.
        seed: Seed of all streams.
    """

    def __init__(
        self, model: EnergyOde, n_items: int, settings: LearningSettings, seed: int
    ) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        like = next(model.parameters())
        self.bank = ChainBank(
            n_items,
            (model.dim,),
            seed=seed,
            scale=settings.table_start if settings.warm_up > 0 else 1.0,
            dtype=like.dtype,
            device=like.device,
            fields={FACTOR: (), "adam_mean": (model.dim,), "adam_square": (model.dim,)},
        )
        size = settings.step_size
        self._kernel = OnlineStepSize(
            kernel=Mala(steps=1, step_size=size),
            steps=settings.steps,
            rate=settings.adaptation,
            target_accept=settings.target_accept,
            # The step size itself stays within exp(-8) and 1, the scale of the prior.
            smallest=min(math.exp(-8) / size, 1.0),
            largest=max(1.0 / size, 1.0),
        )

    def propose(self, batch: Batch, done: int) -> Proposal:
        """Returns rows of the table with noise during the warm-up, then positions of chains."""
        if self.settings.in_warm_up(done):
            return self._from_table(batch.items, done)
        return self._from_chains(batch, done)

    def _from_table(self, index: Tensor, done: int) -> Proposal:
        row = self.bank.get(index).requires_grad_(True)
        noise = normal(row.detach(), Rows.of(self.seed, index, "table", done))
        z = row + self.settings.table_noise * noise
        with frozen(self.model.prior):
            penalty = -self.model.prior.log_density(z)
        return Proposal(z, penalty, (row,), {})

    def _from_chains(self, batch: Batch, done: int) -> Proposal:
        source = Rows.of(self.seed, batch.items, "posterior", done)
        with frozen(self.model):
            target = posterior(self.model.prior, batch.likelihood)
            start = self.bank.get_state(batch.items)
            trace = self._kernel.run(target, start, generator=source)
        state = trace.state
        self.bank.put_state(batch.items, state)
        assert trace.accept is not None
        assert state.log_density is not None
        # In equilibrium a visit changes the log density by nothing on average.
        climb = state.log_density - trace.log_density[0]
        logs = {
            "accept": trace.accept.mean(),
            "step_size": self.settings.step_size * state.extra[FACTOR].exp().median(),
            "climb": climb.mean(),
        }
        return Proposal(state.u, torch.zeros_like(state.log_density), (), logs)

    @torch.no_grad()
    def finish(
        self, batch: Batch, proposal: Proposal, grads: tuple[Tensor, ...], done: int
    ) -> None:
        """Takes a step of Adam for rows of the table; chains have moved already."""
        if not proposal.leaves:
            return
        index, (row,), (grad,) = batch.items, proposal.leaves, grads
        state = self.bank.get_state(index)
        first, second = self.settings.betas
        visits = (self.bank.age(index) + 1).to(row).unsqueeze(-1)
        mean = first * state.extra["adam_mean"] + (1 - first) * grad
        square = second * state.extra["adam_square"] + (1 - second) * grad.square()
        scale = (square / (1 - second**visits)).sqrt() + 1e-8
        lr = self.settings.table_lr * self.settings.decay(done)
        moved = row.detach() - lr * mean / (1 - first**visits) / scale
        state.extra.update(adam_mean=mean, adam_square=square)
        self.bank.put_state(index, type(state)(u=moved, extra=state.extra))

    def state_dict(self) -> dict[str, Any]:
        """Returns the bank."""
        return {"bank": self.bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the bank."""
        self.bank.load_state_dict(state["bank"])


class ShortRunLatents:
    """Fresh Langevin chains from N(0, I) in every update, without accept step.

    Arguments:
        model: The model that is learned.
        settings: How it is learned.
        seed: Seed of all streams.

    Source:
        Nijkamp et al., "Learning non-convergent non-persistent short-run MCMC", 2019; Pang et
        al., 2020 (20 steps of 0.1).
    """

    def __init__(self, model: EnergyOde, settings: LearningSettings, seed: int) -> None:
        self.model, self.seed = model, seed
        self._kernel = Langevin(
            steps=settings.langevin_steps, step_size=settings.langevin_step_size
        )

    def propose(self, batch: Batch, done: int) -> Proposal:
        """Returns the ends of the chains."""
        source = Rows.of(self.seed, batch.items, "posterior", done)
        like = next(self.model.parameters())
        start = normal(like.new_empty(len(batch.items), self.model.dim), source)
        with frozen(self.model):
            target = posterior(self.model.prior, batch.likelihood)
            trace = self._kernel.run(target, start, generator=source)
        # The last position is not evaluated: the climb ends one step before it.
        climb = trace.log_density[-1] - trace.log_density[-2:][0]
        return Proposal(trace.state.u, torch.zeros_like(climb), (), {"climb": climb.mean()})

    def finish(
        self, batch: Batch, proposal: Proposal, grads: tuple[Tensor, ...], done: int
    ) -> None:
        """Does nothing: there is nothing to keep."""

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: chains are a function of seed, update and sequence."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores nothing."""


class AmortizedLatents:
    """One draw from a recognition network for each sequence, and its divergence from the prior.

    `KL(q, p) = KL(q, N(0, I)) - E_q tilt + log Z`: the first term in closed form, the tilt at the
    draw, log Z left out as no draw depends on it.

    Arguments:
        model: The model that is learned.
        network: The recognition network, learned along with it: maps sequences to distributions
            with `rsample(eps)` and `kl()`, the divergence from N(0, I).
        settings: How it is learned.
        seed: Seed of all streams.
    """

    def __init__(
        self, model: EnergyOde, network: nn.Module, settings: LearningSettings, seed: int
    ) -> None:
        self.model, self.network, self.settings, self.seed = model, network, settings, seed

    def propose(self, batch: Batch, done: int) -> Proposal:
        """Returns reparametrised draws; the penalty is the weighted divergence."""
        source = Rows.of(self.seed, batch.items, "encoder", done)
        q = self.network(self._shown(batch.data, source))
        z = q.rsample(normal(q.mean.detach(), source))
        kl = q.kl()
        if isinstance(self.model.prior, EnergyPrior):
            with frozen(self.model.prior):
                kl = kl - self.model.prior.tilt(z)
        weight = self.settings.kl_weight_at(done)
        return Proposal(z, weight * kl, (), {"kl": kl.detach().mean()})

    def _shown(self, data: Sequences, source: Rows) -> Sequences:
        if self.settings.shown == "all":
            return data
        observed = data.rows
        rows = observed.sum(1)
        lot = torch.stack([torch.rand(2, generator=g) for g in source.generators]).to(data.times)
        count = (lot[:, 0] * rows).ceil().clamp(min=1)
        count = torch.where(lot[:, 1] < 0.5, count, rows).long()
        if self.settings.shown == "prefixes":
            return data.prefix(count, of="observed")
        score = uniform(observed.shape, data.times, source)
        # Rows that were never observed come last.
        place = torch.where(observed, score, 2.0).argsort(1).argsort(1)
        return data.only(place < count[:, None])

    def finish(
        self, batch: Batch, proposal: Proposal, grads: tuple[Tensor, ...], done: int
    ) -> None:
        """Does nothing: the network's parameters are the learner's to update."""

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: the network is saved with the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores nothing."""
