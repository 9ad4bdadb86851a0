"""Decoding prompts of several lengths together, with latents inferred anew in between."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core import DiagonalGaussian, Rows
from lv_core.evidence.joint import LatentPrior
from lv_text.encoder import ThoughtEncoder
from lv_text.generation.generate import generate
from lv_text.generation.latents import Latent, Thought, think
from lv_text.generation.sampling import Sampling
from lv_text.inference import Inference, Inferred
from lv_text.model import ThoughtModel

__all__ = ["Plan", "Setup", "Written", "write_batch"]

# Shapes: B prompts, T tokens, N new tokens; L layers that read latents, M slots, D width of one.

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one inference of the latents had to say."""

    start: int
    """New tokens written before it."""
    tokens: int
    """Tokens that it explained."""
    nll: float
    """-log p(tokens | z) at the fitted z, nats."""
    kl: float
    """Divergence of the posterior from the prior, nats; NaN for methods without a posterior."""
    kl_floor: float
    """What of it the same steps leave without any data; NaN where not defined."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What does not change from prompt to prompt."""

    model: ThoughtModel
    settings: Inference | None
    new_tokens: int
    sampling: Sampling | None
    latent: Latent
    replan: int | None
    context: int
    eos: int | None
    encoder: ThoughtEncoder | None
    prior: LatentPrior

    def think(
        self,
        tokens: Tensor,
        targets: Tensor,
        generator: torch.Generator | Rows | None,
        start: DiagonalGaussian | None = None,
    ) -> Thought:
        """Infers latents by these settings."""
        return think(
            self.model,
            tokens,
            targets,
            self.settings,
            latent=self.latent,
            prior=self.prior,
            encoder=self.encoder,
            start=start,
            generator=generator,
        )


@dataclass(eq=False)
class Written:
    """What has been written for one prompt so far."""

    place: int
    plans: list[Plan]
    z: Tensor | None
    tokens: list[Tensor]
    log_prob: list[Tensor]
    finished: bool = False


def write_batch(
    setup: Setup,
    ids: list[Tensor],
    places: list[int],
    generator: torch.Generator | Rows | None,
) -> Iterator[Written]:
    """Infers prompts together, then decodes those of each length."""
    rows = [ids[place] for place in places]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    # Behind the end, where no scored token sees it, any id will do.
    thought = setup.think(padded[:, :-1].clamp(min=0), padded[:, 1:], _part(generator, places))
    counts = [len(row) for row in rows]
    for count in sorted(set(counts)):
        group = [n for n, other in enumerate(counts) if other == count]
        index = torch.tensor(group, device=padded.device)
        z = None if thought.z is None else thought.z[index]
        q = None if thought.found is None or thought.found.q is None else thought.found.q[index]
        written = [
            Written(places[n], _plans(thought.found, n, 0, count - 1), None, [], []) for n in group
        ]
        _write(setup, padded[index, :count], z, q, written, generator)
        yield from written


def _write(
    setup: Setup,
    tokens: Tensor,
    z: Tensor | None,
    q: DiagonalGaussian | None,
    written: list[Written],
    generator: torch.Generator | Rows | None,
) -> None:
    """Decodes prompts of one length, with new latents in between if asked for."""
    alive, count = written, 0
    while True:
        source = _part(generator, [one.place for one in alive])
        drawn = generate(
            setup.model,
            prompt=tokens,
            z=z,
            new_tokens=min(setup.replan or setup.new_tokens, setup.new_tokens - count),
            eos=setup.eos,
            sampling=setup.sampling,
            generator=source,
        )
        for n, one in enumerate(alive):
            end = int(drawn.lengths[n])
            one.tokens.append(drawn.tokens[n, :end])
            one.log_prob.append(drawn.log_prob[n, :end])
            one.finished = bool(drawn.finished[n])
            one.z = None if z is None else z[n]
        count += drawn.tokens.shape[1]
        keep = (~drawn.finished).nonzero()[:, 0]
        if count == setup.new_tokens or len(keep) == 0:
            return
        alive = [alive[n] for n in keep.tolist()]
        tokens = torch.cat((tokens, drawn.tokens), 1)[keep, -setup.context :]
        thought = setup.think(
            tokens[:, :-1],
            tokens[:, 1:],
            _part(generator, [one.place for one in alive]),
            None if q is None else q[keep],
        )
        z, found = thought
        q = None if found is None else found.q
        for n, one in enumerate(alive):
            one.plans += _plans(found, n, count, tokens.shape[1] - 1)


def _plans(found: Inferred | None, n: int, start: int, tokens: int) -> list[Plan]:
    """Returns the numbers of sequence n."""
    if found is None:
        return []
    floor = torch.nan if found.kl_floor is None else float(found.kl_floor[n])
    return [
        Plan(
            start=start,
            tokens=tokens,
            nll=float(found.nll[n]),
            kl=float(found.kl[n]),
            kl_floor=floor,
        )
    ]


def _part(
    generator: torch.Generator | Rows | None, places: list[int]
) -> torch.Generator | Rows | None:
    """Returns the sources of some of the prompts."""
    if not isinstance(generator, Rows):
        return generator
    return Rows(generators=tuple(generator.generators[place] for place in places))
