"""`generate`: texts from draws of the prior, or texts that go on from a prompt."""

import math
from dataclasses import dataclass

from apps._runner import UserError
from apps.ltm.commands_open import Common, Opened, open_model
from lv_core import Rows
from lv_text.generation import Latent, Plan, Sampling, complete, generate, prior_samples

__all__ = ["Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Writes texts: z from the prior, or z inferred from a prompt."""

    prompt: str = ""
    """text to go on from; empty = draws of the prior"""
    count: int = 4
    """texts"""
    tokens: int = 0
    """most new tokens; 0 = what fits the model's length"""
    temperature: float = 1.0
    """0 = greedy"""
    top_p: float = 1.0
    """smallest set of tokens with this mass"""
    top_k: int = 0
    """most probable tokens that stay; 0 = all"""
    scale: float = 1.0
    """factor on draws of the prior; not 1 = not the model's distribution"""
    steps: int = 0
    """with a prompt: inference steps; 0 = as in training"""
    latent: Latent = "fitted"
    """with a prompt: the latents that inference found, a fresh draw of the posterior, its mean,
    or none"""
    replan: int = 0
    """with a prompt: new tokens between two inferences, from the last tokens; 0 = only one"""
    context: int = 0
    """with replan: tokens that inference and decoder see; 0 = what fits"""


def run(given: Settings) -> None:
    """Prints the texts."""
    if given.count < 1:
        raise UserError(f"count must be positive, got {given.count}")
    if given.tokens < 0:
        raise UserError(f"tokens must be positive, or 0 for what fits, got {given.tokens}")
    if not given.prompt and (given.replan or given.context):
        raise UserError("replan and context belong to a prompt: give --prompt too")
    if given.prompt and given.scale != 1:
        raise UserError("scale is a factor on draws of the prior: leave out --prompt or --scale")
    sampling = Sampling(
        temperature=given.temperature,
        top_p=None if given.top_p == 1 else given.top_p,
        top_k=given.top_k or None,
    )
    opened = open_model(given)
    write = _continued if given.prompt else _prior
    for place, (head, text) in enumerate(write(given, opened, sampling), 1):
        print(f"--- {place}, {head}\n{text}")


def _prior(given: Settings, opened: Opened, sampling: Sampling) -> list[tuple[str, str]]:
    """Draws z from the prior and x from p(x | z)."""
    model, vocabulary = opened.model, opened.vocabulary
    rows = Rows.of(given.seed, range(given.count), "generate")
    z = None
    if opened.latents:
        z = prior_samples(model, given.count, scale=given.scale, generator=rows)
    drawn = generate(
        model,
        z=z,
        count=given.count,
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        new_tokens=given.tokens or model.config.length,
        sampling=sampling,
        generator=rows,
    )
    found = []
    for ids, length, cost in zip(drawn.tokens, drawn.lengths, drawn.log_prob, strict=True):
        kept = ids[: int(length)]
        mean = -float(cost.sum()) / len(kept)
        source, name = "no latents", "NLL"
        if opened.latents:
            source, name = "z from the prior", "NLL given z"
        head = f"{source}: {len(kept)} tokens, {name} {mean:.3f} nats per token"
        found.append((head, vocabulary.decode(kept, special=False)))
    return found


def _continued(given: Settings, opened: Opened, sampling: Sampling) -> list[tuple[str, str]]:
    """Infers z from the prompt and goes on with it."""
    model, vocabulary = opened.model, opened.vocabulary
    latent: Latent = given.latent if opened.latents else "none"
    room = model.config.length
    if not given.replan:
        room -= len(vocabulary.encode(given.prompt))  # BOS stands before it
    if not given.tokens and room < 1:
        raise UserError(
            f"the prompt fills the model's length of {model.config.length} tokens; cut it, or set "
            "--replan, which sees the last tokens only"
        )
    completions = complete(
        model,
        vocabulary,
        [given.prompt] * given.count,
        opened.inference(given.steps),
        new_tokens=given.tokens or room,
        sampling=sampling,
        latent=latent,
        replan=given.replan or None,
        context=given.context or None,
        encoder=opened.encoder,
        generator=Rows.of(given.seed, range(given.count), "generate"),
    )
    found = []
    for one in completions:
        plans = ", ".join(_divergence(plan) for plan in one.plans)
        said = f"KL of each inference, nats: {plans}" if plans else "no latents"
        found.append((f"{len(one.tokens)} tokens, {said}", f"{one.prompt}|{one.text}"))
    return found


def _divergence(plan: Plan) -> str:
    """Returns the divergence of an inference with its floor, where steps leave one."""
    floor = "" if math.isnan(plan.kl_floor) else f" (floor {plan.kl_floor:.2f})"
    return f"{plan.kl:.2f}{floor}"
