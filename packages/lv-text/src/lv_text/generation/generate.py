"""Drawing tokens one after the other."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_core import DivergenceError, Source
from lv_core.nn import Decoder, KVCache
from lv_core.random import uniform
from lv_text.generation.sampling import Sampling, pick
from lv_text.model import ThoughtModel, evaluating

__all__ = ["Generated", "check_prompt", "generate"]

# Shapes: B sequences, T tokens of the prompt, N new tokens, V ids.

STRIDE = {"cpu": 1, "cuda": 16}
"""Steps between looks at who has finished: on a GPU each look waits for all work so far."""
KEPT = 0.75
"""Sequences are dropped from the batch when at most this share is left: each time the caches of
the others are copied."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """New tokens of each sequence, without the prompt."""

    tokens: Tensor
    """Ids `(B, N)`; EOS behind the first EOS."""
    lengths: Tensor
    """New tokens up to the first EOS, itself included, `(B,)`; N without one."""
    finished: Tensor
    """Whether a sequence ended with EOS, `(B,)`."""
    log_prob: Tensor
    """Log probability of each token under the model, log p(x_t | x_<t, z), nats; 0 behind the
    end. Their sum over a sequence is its log-likelihood given z, however it was drawn."""
    log_draw: Tensor
    """Log probability in the distribution that it was drawn from; 0 behind the end."""


def generate(
    model: ThoughtModel,
    *,
    new_tokens: int,
    prompt: Int[Tensor, "batch time"] | None = None,
    z: Float[Tensor, "batch layers slots width"] | None = None,
    count: int | None = None,
    bos: int | None = None,
    eos: int | None = None,
    sampling: Sampling | None = None,
    generator: Source = None,
    drop_finished: bool = True,
    use_cache: bool = True,
) -> Generated:
    """Draws tokens that follow a prompt or, without one, the BOS token.

    x_t ~ p(x_t | x_t-window..t-1, z)

    Keys and values are kept: those of the latents, and those of the last `window` tokens in each
    layer. Positions are counted from the prompt's first token and end at the model's length: the
    latents speak of one sequence of that length, and were never trained beyond. To write on and
    on, infer them anew for the end of the text, see `complete` and its `replan`.

    All random numbers are drawn at the start, N per sequence, so that what a sequence draws does
    not depend on when others finish. With `Rows` it does not depend on the batch at all, up to
    the rounding of scores.

    Arguments:
        model: The model.
        new_tokens: N, the most tokens drawn for each sequence.
        prompt: What the new tokens follow, without padding; None = BOS alone.
        z: Latents; None = no latents, the autoregressive model.
        count: Sequences, where neither prompt nor latents say so.
        bos: Id that stands in front where there is no prompt; needed then.
        eos: Id that ends a sequence; None = all get N tokens.
        sampling: How tokens are drawn; None = from the model itself.
        generator: Source of randomness; not touched by greedy decoding.
        drop_finished: Whether finished sequences leave the batch; the result is the same.
        use_cache: Whether keys and values are kept; otherwise each token costs a whole forward
            pass, for comparison.

    Raises:
        DivergenceError: If scores are not finite.
        ValueError: If neither prompt nor BOS is given, an id is outside the vocabulary, numbers
            of sequences disagree, or prompt and new tokens are longer than the model's length.

    Example:
        >>> z = prior_samples(model, 4)
        >>> drawn = generate(model, z=z, bos=257, eos=256, new_tokens=100)
        >>> drawn.tokens[0, : drawn.lengths[0]]
    """
    sampling = Sampling() if sampling is None else sampling
    context = _context(model, prompt, z, count, bos)
    _check(model, context, z, new_tokens, eos)
    batch, device = len(context), context.device
    noise = None
    if not sampling.greedy:
        like = torch.empty(0, dtype=torch.float64, device=device)
        noise = uniform((batch, new_tokens), like, generator)
    decoder = model.decoder
    run = (_Cached if use_cache else _Naive)(decoder, z)
    tokens = context.new_full((batch, new_tokens), 0 if eos is None else eos)
    with torch.no_grad(), evaluating(model):
        hidden = run.first(context)
        log_prob = torch.zeros(
            batch,
            new_tokens,
            dtype=torch.promote_types(hidden.dtype, torch.float32),
            device=device,
        )
        log_draw = torch.zeros_like(log_prob)
        seen = None
        if sampling.penalizes:
            ids_known = model.config.vocabulary
            seen = torch.zeros(batch, ids_known, dtype=torch.bool, device=device)
            seen.scatter_(1, context, True)
        stride = STRIDE.get(device.type, 16)
        done = torch.zeros(batch, dtype=torch.bool, device=device)
        rows: Tensor | slice = slice(None)
        for step in range(new_tokens):
            level = None if noise is None else noise[rows, step]
            ids, log_prob[rows, step], log_draw[rows, step] = pick(
                decoder.logits(hidden), level, sampling, seen
            )
            tokens[rows, step] = ids
            if step + 1 == new_tokens:
                break
            if seen is not None:
                seen.scatter_(1, ids[:, None], True)
            if eos is not None:
                done |= ids == eos
                if (step + 1) % stride == 0:
                    left = len(done) - int(done.sum())
                    if left == 0:
                        break
                    if drop_finished and left <= KEPT * len(done):
                        keep = (~done).nonzero()[:, 0]
                        run.keep(keep)
                        ids, done = ids[keep], done[keep]
                        seen = None if seen is None else seen[keep]
                        rows = keep if isinstance(rows, slice) else rows[keep]
            hidden = run.next(ids)
    return _finish(tokens, log_prob, log_draw, eos)


def check_prompt(prompt: Int[Tensor, "batch time"], vocabulary: int) -> None:
    """Raises unless a prompt holds tokens of the vocabulary, on any device.

    Arguments:
        prompt: Ids.
        vocabulary: Number of ids.

    Raises:
        ValueError: If there is no token, or an id is outside the vocabulary.
    """
    if prompt.numel() == 0:
        raise ValueError(
            f"prompt must hold at least one token, got {tuple(prompt.shape)}: begin with BOS"
        )
    low, high = (int(x) for x in prompt.aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"prompt must hold ids in [0, {vocabulary}), got {low if low < 0 else high}: encode "
            "with the vocabulary of this model and leave padding out"
        )


class _Run(Protocol):
    def first(self, prompt: Tensor) -> Tensor: ...
    def next(self, ids: Tensor) -> Tensor: ...
    def keep(self, index: Tensor) -> None: ...


class _Cached:
    """States of the last token, one token's work each."""

    def __init__(self, decoder: Decoder, z: Tensor | None) -> None:
        self.decoder, self.z, self.cache = decoder, z, KVCache(decoder.config)

    def first(self, prompt: Tensor) -> Tensor:
        hidden: Tensor = self.decoder(prompt, self.z, cache=self.cache)
        return hidden[:, -1]

    def next(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.decoder(ids[:, None], cache=self.cache)
        return hidden[:, 0]

    def keep(self, index: Tensor) -> None:
        self.cache.reorder(index)


class _Naive:
    """The same by whole forward passes."""

    def __init__(self, decoder: Decoder, z: Tensor | None) -> None:
        self.decoder, self.z, self.tokens = decoder, z, torch.empty(0)

    def first(self, prompt: Tensor) -> Tensor:
        self.tokens = prompt
        hidden: Tensor = self.decoder(prompt, self.z)
        return hidden[:, -1]

    def next(self, ids: Tensor) -> Tensor:
        return self.first(torch.cat((self.tokens, ids[:, None]), 1))

    def keep(self, index: Tensor) -> None:
        self.tokens = self.tokens[index]
        self.z = None if self.z is None else self.z[index]


def _context(
    model: ThoughtModel,
    prompt: Tensor | None,
    z: Tensor | None,
    count: int | None,
    bos: int | None,
) -> Tensor:
    """Returns what the first new token follows."""
    sizes = {
        name: size
        for name, size in (
            ("prompt", None if prompt is None else len(prompt)),
            ("z", None if z is None else len(z)),
            ("count", count),
        )
        if size is not None
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(f"prompt, z and count must speak of as many sequences, got {sizes}")
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(
            f"there must be at least one sequence, got {sizes}: give prompt, z or count"
        )
    if prompt is not None:
        return prompt.long()
    if bos is None:
        raise ValueError("bos must be given where there is no prompt, got None")
    device = next(model.parameters()).device
    return torch.full((next(iter(sizes.values())), 1), bos, device=device)


def _check(
    model: ThoughtModel, context: Tensor, z: Tensor | None, new_tokens: int, eos: int | None
) -> None:
    config = model.config
    check_prompt(context, config.vocabulary)
    if eos is not None and not 0 <= eos < config.vocabulary:
        raise ValueError(f"eos must be an id in [0, {config.vocabulary}), got {eos}")
    if z is not None and tuple(z.shape[1:]) != config.event:
        raise ValueError(
            f"z must be (batch, *{config.event}) for this model, got {tuple(z.shape)}"
        )
    if new_tokens < 1:
        raise ValueError(f"new_tokens must be at least 1, got {new_tokens}")
    time = context.shape[1]
    if time + new_tokens - 1 > config.length:
        raise ValueError(
            f"new_tokens must be at most {max(config.length + 1 - time, 0)} for a prompt of "
            f"{time} tokens and a model of length {config.length}, got {new_tokens}: shorten the "
            "prompt, or use complete(replan=...), which goes on with new latents"
        )


def _finish(tokens: Tensor, log_prob: Tensor, log_draw: Tensor, eos: int | None) -> Generated:
    """Cuts off what was drawn behind the end and finds the lengths."""
    batch, new_tokens = tokens.shape
    lengths = tokens.new_full((batch,), new_tokens)
    finished = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
    if eos is not None:
        ended = tokens == eos
        finished = ended.any(1)
        lengths = lengths.where(~finished, ended.int().argmax(1) + 1)
        behind = torch.arange(new_tokens, device=tokens.device) >= lengths[:, None]
        tokens = tokens.masked_fill(behind, eos)
        log_prob, log_draw = log_prob.masked_fill(behind, 0.0), log_draw.masked_fill(behind, 0.0)
    if not bool(log_prob.isfinite().all()):
        raise DivergenceError(
            "the scores of a token were not finite: the weights or latents are not, or half "
            "precision overflows"
        )
    return Generated(
        tokens=tokens, lengths=lengths, finished=finished, log_prob=log_prob, log_draw=log_draw
    )
