"""Going on with a text: infer its thoughts, then write with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lv_core import Rows
from lv_core.evidence.joint import LatentPrior
from lv_text.encoder import ThoughtEncoder
from lv_text.generation.latents import Latent
from lv_text.generation.sampling import Sampling
from lv_text.generation.writing import Plan, Setup, Written, write_batch
from lv_text.inference import Inference
from lv_text.model import ThoughtModel
from lv_text.vocabulary import Vocabulary

__all__ = ["Completion", "complete"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """A text and how it goes on."""

    prompt: str
    """The text that was given."""
    text: str
    """What follows, without it."""
    tokens: Tensor
    """Ids of what follows, `(n,)`, the final EOS included."""
    log_prob: Tensor
    """Log probability of each under the model, `(n,)`, nats."""
    finished: bool
    """Whether it ended with EOS."""
    plans: tuple[Plan, ...]
    """The inference on the prompt, then those of `replan`; none for latent='none'."""
    z: Tensor | None
    """The last latents it was written with, `(L, M, D)`."""


def complete(
    model: ThoughtModel,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    settings: Inference | None = None,
    *,
    new_tokens: int,
    sampling: Sampling | None = None,
    latent: Latent = "fitted",
    replan: int | None = None,
    context: int | None = None,
    bos: bool = True,
    eos: bool = True,
    encoder: ThoughtEncoder | None = None,
    prior: LatentPrior = None,
    batch: int = 32,
    generator: torch.Generator | Rows | None = None,
) -> list[Completion]:
    """Infers q(z | prompt) and writes on with a z of it, the prompt as context.

    Prompts of any lengths are inferred together; those of equal length are decoded together, as
    padding would shift positions. With `Rows` (one generator per prompt) a result does not depend
    on the other prompts, up to the rounding of scores.

    With `replan`, latents are inferred anew after so many new tokens, from the last `context`
    tokens, prompt included; the decoder then sees these tokens alone. vb goes on from the last
    posterior, other methods begin anew. Text may then be longer than the model's length.

    Arguments:
        model: The model.
        vocabulary: The one it was trained with.
        prompts: Texts, none empty.
        settings: How latents are inferred; None = the defaults of `Inference`.
        new_tokens: Most tokens written for each prompt.
        sampling: How tokens are drawn; None = from the model itself.
        latent: Which z of the posterior; "none" = the autoregressive model without latents.
        replan: New tokens between two inferences; None = only one, on the whole prompt.
        context: Tokens that each inference and the decoder see with `replan`, also at first;
            None = as many as leave room for `replan` new ones.
        bos: Whether BOS stands before the prompt, as before documents in training.
        eos: Whether EOS ends a completion.
        encoder: Of amortised methods.
        prior: The prior; None = N(0, I).
        batch: Prompts that are inferred together.
        generator: Source of randomness; `Rows` = one for each prompt.

    Returns:
        One completion for each prompt, in their order.

    Raises:
        ValueError: If a prompt is empty, or too long for the model with its new tokens, the
            vocabulary is not the model's, or a number is out of range.

    Source:
        Kong et al., "Latent Thought Models with Variational Bayes Inference-Time Computation",
        2025, conditional generation.

    Example:
        >>> found = complete(model, vocabulary, ["Once upon a time"], new_tokens=50)[0]
        >>> found.text, found.plans[0].kl
    """
    length = model.config.length
    if vocabulary.size != model.config.vocabulary:
        raise ValueError(
            f"vocabulary must have the {model.config.vocabulary} ids of the model, got "
            f"{vocabulary.size}: load the one that the model was trained with"
        )
    if isinstance(generator, Rows) and len(generator.generators) != len(prompts):
        raise ValueError(
            f"generator must hold one of {len(prompts)} prompts each, got "
            f"{len(generator.generators)}"
        )
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if new_tokens < 1:
        raise ValueError(f"new_tokens must be at least 1, got {new_tokens}")
    setup = Setup(
        model=model,
        settings=settings,
        new_tokens=new_tokens,
        sampling=sampling,
        latent=latent,
        replan=replan,
        context=_seen(length, replan, context),
        eos=vocabulary.eos if eos else None,
        encoder=encoder,
        prior=prior,
    )
    ids = _encode(vocabulary, prompts, setup, bos=bos)
    done: dict[int, Written] = {}
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # little padding
    for first in range(0, len(order), batch):
        for written in write_batch(setup, ids, order[first : first + batch], generator):
            done[written.place] = written
    return [_completion(text, done[place], vocabulary) for place, text in enumerate(prompts)]


def _seen(length: int, replan: int | None, context: int | None) -> int:
    """Returns the tokens that inference and decoder see."""
    if replan is None:
        if context is not None:
            raise ValueError(f"context={context} belongs to replan, which is None: set both")
        return length
    if not 1 <= replan < length:
        raise ValueError(f"replan must be in 1..{length - 1} or None, got {replan}")
    most = length + 1 - replan
    context = most if context is None else context
    if not 2 <= context <= most:
        raise ValueError(
            f"context must be in 2..{most} for replan={replan} and a model of length {length}, "
            f"got {context}"
        )
    return context


def _encode(
    vocabulary: Vocabulary, prompts: Sequence[str], setup: Setup, *, bos: bool
) -> list[Tensor]:
    """Returns the ids of each prompt."""
    device = next(setup.model.parameters()).device
    front = [vocabulary.bos] if bos else []
    rows = []
    for place, found in enumerate(vocabulary.encode_batch(prompts)):
        ids = front + found
        if not found:
            raise ValueError(f"prompts must not be empty, got {prompts[place]!r} at place {place}")
        if len(ids) < 2 and setup.latent != "none":
            raise ValueError(
                f"prompts must have two tokens at least, to infer latents of the second, got "
                f"{prompts[place]!r} at place {place}: use bos=True"
            )
        room = setup.model.config.length + 1 - setup.new_tokens
        if setup.replan is None and len(ids) > room:
            raise ValueError(
                f"prompts must have at most {max(room, 0)} tokens for a model of length "
                f"{setup.model.config.length} and {setup.new_tokens} new ones, got {len(ids)} at "
                f"place {place}: cut it, or set replan, which sees the last tokens only"
            )
        rows.append(torch.tensor(ids[-setup.context :], device=device))
    return rows


def _completion(prompt: str, written: Written, vocabulary: Vocabulary) -> Completion:
    tokens = torch.cat(written.tokens).cpu()
    return Completion(
        prompt=prompt,
        text=vocabulary.decode(tokens, special=False),
        tokens=tokens,
        log_prob=torch.cat(written.log_prob).cpu(),
        finished=written.finished,
        plans=tuple(written.plans),
        z=written.z,
    )
