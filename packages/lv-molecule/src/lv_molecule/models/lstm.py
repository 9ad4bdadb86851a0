"""An LSTM that writes a token sequence from a latent vector.

Legend: B sequences, T tokens, N packed tokens, V vocabulary, E embedding, H hidden, D latent.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from lv_core import Source, uniform
from lv_molecule.models.recurrence import cell, recurrence

__all__ = ["LstmDecoder", "PackedTokens"]


@dataclass(frozen=True, kw_only=True)
class PackedTokens:
    """Sequences sorted by length, longest first, and laid out time-major without padding.

    Made once per batch by `LstmDecoder.pack` and used by every step of a chain.

    Arguments:
        order: Which sequence stands at each sorted place, shape `(B,)`.
        counts: Number of sequences that reach each step.
        inputs: Token that enters at each packed place, shape `(N,)`.
        targets: Token that is predicted there, shape `(N,)`.
        rows: Original index of the sequence of each packed place, shape `(N,)`.
        table: Cached pre-activations of the inputs, `(N, 4 H)`, or None.
    """

    order: Tensor
    counts: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    rows: Tensor
    table: Tensor | None = None


class LstmDecoder(nn.Module):
    """p(x | z) of a token sequence: one LSTM layer that sees the latent at every step.

    The input of a step is [embedding of the last token; z], the initial hidden state is linear in
    z, the initial cell state 0, the output a softmax over the vocabulary.

    Arguments:
        vocabulary_size: Number of tokens V, with the end and start symbols.
        latent: Length D of the latent.
        end: Token that ends and pads a sequence.
        start: Token that enters first and is never generated.
        embedding: Width E.
        hidden: Width H.
        dropout: Rate on embeddings and on the LSTM's outputs, in training mode only.
        score_padding: Whether the likelihood counts every place after the first end token too.
            SGDS's code does; counting only the first is a proper density over strings and does
            not fill the loss with trivial terms.
        init_range: Parameters start uniform on [-init_range, init_range].

    Raises:
        ValueError: If `end` and `start` are not two different tokens below `vocabulary_size`.

    Source:
        Kong et al., "Molecule Design by Latent Space Energy-Based Modeling and Gradual
        Distribution Shifting", 2023, section 3 (E 512, H 1024, D 100, dropout 0.2).
    """

    sharded_methods = ("log_likelihood", "pack", "sample")

    def __init__(
        self,
        vocabulary_size: int,
        latent: int,
        *,
        end: int,
        start: int,
        embedding: int = 512,
        hidden: int = 1024,
        dropout: float = 0.2,
        score_padding: bool = False,
        init_range: float = 0.1,
    ) -> None:
        super().__init__()
        if end == start or not (0 <= end < vocabulary_size and 0 <= start < vocabulary_size):
            raise ValueError(
                f"end and start must be two different tokens below {vocabulary_size}, got "
                f"{end=}, {start=}"
            )
        self.end, self.start = end, start
        self.dropout, self.score_padding = dropout, score_padding
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.from_token = nn.Linear(embedding, 4 * hidden, bias=False)
        self.from_latent = nn.Linear(latent, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        self.initial = nn.Linear(latent, hidden)
        self.output = nn.Linear(hidden, vocabulary_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init_range, init_range)

    def pack(self, tokens: Int64[Tensor, "B T"]) -> PackedTokens:
        """Returns the batch in packed form; without dropout also caches its pre-activations.

        The cache holds while the parameters stay as they are: for one chain, not for an update.

        Arguments:
            tokens: Token sequences padded with the end token.
        """
        batch, length = tokens.shape
        ended = tokens == self.end
        lengths = torch.full((batch,), length, device=tokens.device)
        if not self.score_padding:
            # The first end token is predicted too; a full sequence has none.
            first = ended.int().argmax(1)
            lengths = torch.where(ended.any(1), first + 1, lengths)
        order = torch.argsort(lengths, descending=True, stable=True)
        reach = lengths[order, None] > torch.arange(length, device=tokens.device)
        counts = tuple(n for n in reach.sum(0).tolist() if n)
        reach = reach[:, : len(counts)].t()
        shifted = torch.cat((tokens.new_full((batch, 1), self.start), tokens[:, :-1]), dim=1)
        inputs = shifted[order, : len(counts)].t()[reach]
        table = None
        if not (self.training and self.dropout > 0):
            with torch.no_grad():
                table = self.from_token(self.embedding.weight)[inputs]
        return PackedTokens(
            order=order,
            counts=counts,
            inputs=inputs,
            targets=tokens[order, : len(counts)].t()[reach],
            rows=order.expand(len(counts), batch)[reach],
            table=table,
        )

    def log_likelihood(
        self, tokens: Int64[Tensor, "B T"] | PackedTokens, z: Float[Tensor, "B D"]
    ) -> Float[Tensor, " B"]:
        """Returns `log p(x | z)` of each sequence, summed over tokens, in nats.

        Arguments:
            tokens: Sequences padded with the end token, or their packed form. The cache of the
                latter is used where no parameter needs a gradient.
            z: Latents.
        """
        packed = tokens if isinstance(tokens, PackedTokens) else self.pack(tokens)
        table = packed.table
        if table is None or self.embedding.weight.requires_grad or self.training:
            embedded = self.embedding(packed.inputs)
            table = self.from_token(dropout(embedded, self.dropout, self.training))
        z = z[packed.order]
        states = recurrence(
            table,
            self.from_latent(z),
            self.initial(z),
            self.recurrent.weight,
            packed.counts,
        )
        logits = self.output(dropout(states, self.dropout, self.training))
        loss = cross_entropy(logits, packed.targets, reduction="none")
        total = loss.new_zeros(len(z)).index_add(0, packed.rows, loss)
        return -total

    def forward(
        self, tokens: Int64[Tensor, "B T"], z: Float[Tensor, "B D"]
    ) -> Float[Tensor, " B"]:
        """Returns `-log p(x | z)`, what learning minimises."""
        return -self.log_likelihood(tokens, z)

    @torch.no_grad()
    def sample(
        self,
        z: Float[Tensor, "B D"],
        *,
        max_length: int,
        min_length: int = 0,
        temperature: float = 1.0,
        generator: Source = None,
    ) -> Int64[Tensor, "B max_length"]:
        """Returns one sequence per latent by ancestral sampling, dropout off.

        Arguments:
            z: Latents.
            max_length: Longest sequence; what has not ended by then is cut.
            min_length: The end token is forbidden before this many tokens.
            temperature: Divides the logits; 0 takes the most probable token.
            generator: Source of randomness.

        Returns:
            Sequences padded with the end token. The start token never occurs.

        Raises:
            ValueError: If lengths or temperature are out of range.
        """
        if not 0 <= min_length <= max_length or max_length < 1 or temperature < 0:
            raise ValueError(
                "need 0 <= min_length <= max_length, max_length >= 1 and temperature >= 0, got "
                f"{min_length=}, {max_length=}, {temperature=}"
            )
        tokens = z.new_full((len(z), max_length), self.end, dtype=torch.int64)
        by_token = self.from_token(self.embedding.weight)
        by_latent, h = self.from_latent(z), self.initial(z)
        c, last = torch.zeros_like(h), z.new_full((len(z),), self.start, dtype=torch.int64)
        alive = torch.arange(len(z), device=z.device)
        for t in range(max_length):
            h, c = cell(by_token[last] + by_latent + self.recurrent(h), c)
            logits = self.output(h)
            logits[:, self.start] = -torch.inf
            if t < min_length:
                logits[:, self.end] = -torch.inf
            # Every sequence draws at every step, ended or not, so that the numbers a sequence
            # sees do not depend on when others end.
            draw = uniform((len(tokens), 1), z, generator)[alive]
            last = _choose(logits, temperature, draw)
            tokens[alive, t] = last
            going = last != self.end
            alive, last = alive[going], last[going]
            h, c, by_latent = h[going], c[going], by_latent[going]
            if not len(alive):
                break
        return tokens


def _choose(logits: Tensor, temperature: float, draw: Tensor) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    probability = torch.softmax(logits / temperature, dim=-1)
    # Inverse distribution function; the clamp guards against a total rounded below the draw.
    chosen = torch.searchsorted(probability.cumsum(-1), draw, right=True).squeeze(-1)
    impossible = chosen >= logits.shape[-1]
    return torch.where(impossible, probability.argmax(-1), chosen)
