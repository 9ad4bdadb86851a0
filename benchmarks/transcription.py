"""Learning of SGDS in plain PyTorch, as the official program proceeds.

Written from the description of the procedure, for comparison only. Every switch of `Levers`
changes one thing on the way from that procedure to ours, so that each can be timed by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, nll_loss
from torch.nn.utils.rnn import pack_padded_sequence

from lv_core.nn.mlp import mlp
from lv_molecule import LstmDecoder
from lv_molecule.models.recurrence import recurrence

__all__ = ["Levers", "PlainDecoder", "Procedure", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and constants that both sides share."""

    vocabulary: int = 109
    end: int = 107
    start: int = 108
    length: int = 72
    latent: int = 64
    embedding: int = 128
    hidden: int = 256
    dropout: float = 0.2
    batch: int = 256
    steps: int = 10
    step_size: float = 0.5
    noise_factor: float = 0.5
    scale: float = 0.5
    precision: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Levers:
    """What differs from the official procedure; all off = the official procedure."""

    frozen: bool = False
    """parameters require no gradient inside the chains"""
    one_backward: bool = False
    """likelihood and prior share one backward pass in a step of the chain"""
    no_dropout: bool = False
    """no dropout inside the chain"""
    packed: bool = False
    """places after the first end token are neither computed nor scored"""
    custom: bool = False
    """`lv_molecule`'s recurrence instead of `nn.LSTM`"""
    table: bool = False
    """the tokens' share of the gates is looked up, not multiplied; needs `custom`, `no_dropout`"""
    weights_in_chain: bool = False
    """`.backward()` instead of `autograd.grad` in the posterior chain: a step back, for scale"""


class PlainDecoder(nn.Module):
    """p(x | z): embeddings joined with the latent at every step, `nn.LSTM`, log-softmax."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.embedding + settings.latent
        self.embedding = nn.Embedding(settings.vocabulary, settings.embedding)
        self.lstm = nn.LSTM(width, settings.hidden, batch_first=True)
        self.initial = nn.Linear(settings.latent, settings.hidden)
        self.output = nn.Linear(settings.hidden, settings.vocabulary)

    def nll(
        self,
        tokens: Tensor,
        z: Tensor,
        *,
        rate: float,
        levers: Levers,
        table: Tensor | None = None,
    ) -> Tensor:
        """Returns the negative log-likelihood of all strings, a scalar.

        Arguments:
            tokens: Strings after the start token, shape `(B, T)`.
            z: Latents, shape `(B, D)`.
            rate: Dropout rate.
            levers: What to compute differently.
            table: What `tabulate` returned for these strings, with the lever `table`.
        """
        batch, length = tokens.shape
        start = tokens.new_full((batch, 1), self.settings.start)
        before = torch.cat((start, tokens[:, :-1]), dim=1)
        if levers.custom:
            return self._custom(tokens, before, z, rate, levers, table)
        embedded = dropout(self.embedding(before), rate)
        joined = torch.cat((embedded, z.unsqueeze(1).expand(-1, length, -1)), dim=-1)
        h = self.initial(z).unsqueeze(0)
        if levers.packed:
            order, lengths, _ = plan(tokens, self.settings.end)
            packed = pack_padded_sequence(joined[order], lengths, batch_first=True)
            states = self.lstm(packed, (h[:, order], torch.zeros_like(h)))[0].data
            targets = pack_padded_sequence(tokens[order], lengths, batch_first=True).data
        else:
            states, _ = self.lstm(joined, (h, torch.zeros_like(h)))
            states, targets = states.flatten(0, 1), tokens.flatten()
        logits = self.output(dropout(states, rate))
        return nll_loss(torch.log_softmax(logits, -1), targets, reduction="sum")

    @torch.no_grad()
    def tabulate(self, tokens: Tensor, levers: Levers) -> Tensor:
        """Returns the tokens' share of the gates at every packed place, shape `(N, 4 H)`."""
        order, lengths, _ = self._layout(tokens, levers)
        before = torch.cat((tokens.new_full((len(tokens), 1), self.settings.start), tokens), 1)
        inputs = pack_padded_sequence(before[order], lengths, batch_first=True).data
        by_token = self.lstm.weight_ih_l0[:, : self.settings.embedding]
        return (self.embedding.weight @ by_token.t())[inputs]

    def _layout(self, tokens: Tensor, levers: Levers) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        if levers.packed:
            return plan(tokens, self.settings.end)
        batch, length = tokens.shape
        return torch.arange(batch), torch.full((batch,), length), (batch,) * length

    def _custom(
        self,
        tokens: Tensor,
        before: Tensor,
        z: Tensor,
        rate: float,
        levers: Levers,
        table: Tensor | None,
    ) -> Tensor:
        order, lengths, counts = self._layout(tokens, levers)
        targets = pack_padded_sequence(tokens[order], lengths, batch_first=True).data
        widths = (self.settings.embedding, self.settings.latent)
        by_token, by_latent = self.lstm.weight_ih_l0.split(widths, dim=1)
        if table is None:
            inputs = pack_padded_sequence(before[order], lengths, batch_first=True).data
            table = dropout(self.embedding(inputs), rate) @ by_token.t()
        z = z[order]
        bias = self.lstm.bias_ih_l0 + self.lstm.bias_hh_l0
        latent = torch.addmm(bias, z, by_latent.t())
        states = recurrence(table, latent, self.initial(z), self.lstm.weight_hh_l0, counts)
        logits = self.output(dropout(states, rate))
        return nll_loss(torch.log_softmax(logits, -1), targets, reduction="sum")

    def load(self, decoder: LstmDecoder) -> None:
        """Takes the parameters of our decoder, which joins the two biases into one."""
        pairs = {
            self.embedding.weight: decoder.embedding.weight,
            self.lstm.weight_ih_l0: torch.cat(
                (decoder.from_token.weight, decoder.from_latent.weight), dim=1
            ),
            self.lstm.bias_ih_l0: decoder.from_latent.bias,
            self.lstm.bias_hh_l0: torch.zeros_like(decoder.from_latent.bias),
            self.lstm.weight_hh_l0: decoder.recurrent.weight,
            self.initial.weight: decoder.initial.weight,
            self.initial.bias: decoder.initial.bias,
            self.output.weight: decoder.output.weight,
            self.output.bias: decoder.output.bias,
        }
        with torch.no_grad():
            for mine, theirs in pairs.items():
                mine.copy_(theirs)


def plan(tokens: Tensor, end: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Returns order by length, the sorted lengths with the first end token, and the counts."""
    ended = tokens == end
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1])
    order = torch.argsort(lengths, descending=True)
    lengths = lengths[order]
    reach = lengths[:, None] > torch.arange(int(lengths[0]))
    return order, lengths, tuple(reach.sum(0).tolist())


class Procedure:
    """Model, optimizers and one training iteration of the official program."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.decoder = PlainDecoder(settings)
        self.tilt = mlp((settings.latent, 200, 200, 1), activation="gelu")
        self.head = mlp((settings.latent, 200, 200, 1), activation="silu")
        self.likelihood = [*self.decoder.parameters(), *self.head.parameters()]
        self.prior = list(self.tilt.parameters())
        for parameter in self.likelihood + self.prior:
            nn.init.uniform_(parameter, -0.1, 0.1)
        self.optimizer = torch.optim.Adam(self.likelihood, lr=1e-3)
        self.optimizer_prior = torch.optim.Adam(self.prior, lr=1e-4)

    def posterior(self, tokens: Tensor, y: Tensor, levers: Levers) -> Tensor:
        """Returns latents after the chain given string and property; norms logged each step."""
        settings, norms = self.settings, []
        h = 0.5 * settings.step_size**2
        rate = 0.0 if levers.no_dropout else settings.dropout
        table = self.decoder.tabulate(tokens, levers) if levers.table else None
        z = torch.randn(len(tokens), settings.latent)
        for _ in range(settings.steps):
            z = z.detach().clone().requires_grad_(True)
            nll = self.decoder.nll(tokens, z, rate=rate, levers=levers, table=table)
            energy = -self.tilt(z).sum()
            if levers.weights_in_chain:
                (nll + energy).backward()
                grad = z.grad
            elif levers.one_backward:
                grad = torch.autograd.grad(nll + energy, z)[0]
            else:
                grad_energy = torch.autograd.grad(energy, z)[0]
                grad = torch.autograd.grad(nll, z)[0] + grad_energy
            norms.append(grad.norm(dim=1).mean().item())
            z = z - h * (grad + z / settings.scale**2)
            z = z + settings.noise_factor * settings.step_size * torch.randn_like(z)
            error = (y - self.head(z).squeeze(-1)).square().sum()
            z = z - h * settings.precision * torch.autograd.grad(error, z)[0]
        return z.detach()

    def prior_chain(self, batch: int) -> Tensor:
        """Returns latents after the chain of the prior, by `.backward()`."""
        settings, norms = self.settings, []
        h = 0.5 * settings.step_size**2
        z = torch.randn(batch, settings.latent)
        for _ in range(settings.steps):
            z = z.detach().clone().requires_grad_(True)
            (-self.tilt(z).sum()).backward()  # with frozen parameters z alone gets a gradient
            norms.append(z.grad.norm(dim=1).mean().item())
            z = z - h * (z.grad + z / settings.scale**2)
            z = z + settings.noise_factor * settings.step_size * torch.randn_like(z)
        return z.detach()

    def iteration(self, tokens: Tensor, y: Tensor, levers: Levers) -> None:
        """Runs both chains and both updates."""
        settings = self.settings
        self._require(not levers.frozen)
        z = self.posterior(tokens, y, levers)
        self._require(True)
        nll = self.decoder.nll(tokens, z, rate=settings.dropout, levers=learning(levers))
        error = (y - self.head(z).squeeze(-1)).square().mean()
        self.optimizer.zero_grad()
        (nll / len(tokens) + settings.precision * error).backward()
        nn.utils.clip_grad_norm_(self.likelihood, 5.0)
        self.optimizer.step()

        self._require(not levers.frozen)
        z_prior = self.prior_chain(len(tokens))
        self._require(True)
        self.optimizer_prior.zero_grad()
        (self.tilt(z_prior).mean() - self.tilt(z).mean()).backward()
        nn.utils.clip_grad_norm_(self.prior, 1.0)
        self.optimizer_prior.step()

    def _require(self, flag: bool) -> None:
        for parameter in self.likelihood + self.prior:
            parameter.requires_grad_(flag)


def learning(levers: Levers) -> Levers:
    """Returns the levers that act on the update's own pass: tokens are multiplied there."""
    return Levers(packed=levers.packed, custom=levers.custom)
