"""`gsm8k`: word problems in context, graded as numbers, beside the release's substring score."""

from dataclasses import dataclass
from typing import Literal

import torch

from apps._runner import UserError
from apps.ltm.commands_open import Common, Opened, data_set, open_model
from lv_core import Rows
from lv_core.random import stream
from lv_text.generation import Latent, Sampling, generate
from lv_text.generation.latents import think
from lv_text.metrics import (
    Problem,
    build_prompt,
    draw_demonstrations,
    grade,
    parity_substring_pass_at_k,
    pass_at_k,
    read_problems,
)
from lv_text.vocabulary.base import BOS

__all__ = ["Settings", "run"]

PUBLISHED_TOKENS = 50


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """GSM8K in context: z inferred from demonstrations and question, then the answer."""

    count: int = 16
    """problems, the first ones of the test split"""
    shots: int = 0
    """demonstrations, drawn from the TRAINING split for each problem"""
    show: Literal["final", "solution"] = "final"
    """what demonstrations show: the final answer, as in the paper, or the worked solution"""
    repetitions: int = 5
    """answers for each problem, from latents of their own"""
    tokens: int = 0
    """new tokens; 0 = 50 as in the paper, at most half of the model's length"""
    temperature: float = 0.0
    """0 = greedy, as in the paper: repetitions then differ by their latents only"""
    steps: int = 0
    """inference steps; 0 = as in training"""
    latent: Latent = "fitted"
    """the latents that inference found, a fresh draw of the posterior, its mean, or none"""
    path: str = ""
    """folder with train.jsonl and test.jsonl; empty = where data sets are looked for"""
    data: str = ""
    """folder with one sub-folder per data set; empty means $LV_DATA, the user cache"""


def run(given: Settings) -> None:
    """Prints both scores and writes them, with all answers, to gsm8k-<model>.json."""
    for name in ("count", "repetitions"):
        if getattr(given, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(given, name)}")
    opened = open_model(given)
    length = opened.cell.model.length
    new = given.tokens or min(PUBLISHED_TOKENS, length // 2)
    if not 0 < new < length:
        raise UserError(f"tokens must be in 1..{length - 1} for this model, got {given.tokens}")
    folder = data_set("gsm8k", given.path, given.data)
    examples = read_problems(folder / "train.jsonl", split="train")
    problems = read_problems(folder / "test.jsonl", split="test")[: given.count]
    answers, cut = [], 0
    for place, problem in enumerate(problems):
        source = stream(given.seed, "demonstrations", place)
        shown = draw_demonstrations(examples, count=given.shots, generator=source)
        texts, was_cut = _answers(given, opened, problem, shown, place, new)
        answers.append(texts)
        cut += was_cut
    correct = grade(answers, problems)
    scores = {}
    for k in sorted({1, given.repetitions}):
        each = pass_at_k(correct, k=k)
        error = float(each.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")
        scores[f"pass@{k}"] = [float(each.mean()), error]
    parity = parity_substring_pass_at_k(answers, problems)
    kind = "no latents" if not opened.latents else f"latents: {given.latent}"
    print(f"GSM8K, {len(problems)} problems, {given.shots} demonstrations, {kind}")
    for name, (value, error) in scores.items():
        print(f"{name}: {value:.1%} ± {error:.1%} (answers compared as numbers)")
    print(
        f"parity_substring_pass@{given.repetitions}: {parity:.1%} (as released: the answer occurs "
        "anywhere in a text; overstates, for comparison with the published figure only)"
    )
    if given.temperature == 0 and (not opened.latents or given.latent == "none"):
        print("greedy and without latents all repetitions are alike: set --temperature")
    print(f"prompts cut on the left to fit {length} tokens: {cut} of {len(problems)}")
    first = problems[0]
    print(f"\nfirst problem: {first.question}\nright answer: {first.final}; the model's:")
    for text in answers[0]:
        print(f"  {text!r}")
    opened.write(
        f"gsm8k-{given.shots}-shot",
        {
            "problems": len(problems),
            "shots": given.shots,
            "repetitions": given.repetitions,
            "prompts_cut": cut,
            "scores": scores,
            f"parity_substring_pass@{given.repetitions}": parity,
            "answers": [
                {"question": problem.question, "final": problem.final, "texts": texts}
                for problem, texts in zip(problems, answers, strict=True)
            ],
        },
    )


def _answers(
    given: Settings,
    opened: Opened,
    problem: Problem,
    shown: list[Problem],
    place: int,
    new: int,
) -> tuple[list[str], bool]:
    """Returns the answers to one problem, and whether its prompt had to be cut."""
    vocabulary, length = opened.vocabulary, opened.cell.model.length
    prompt = build_prompt(problem.question, shown, begin=BOS, show=given.show)
    context = vocabulary.encode(prompt.context, special=True)
    cue = vocabulary.encode(prompt.cue)
    room = length + 1 - new - len(cue)
    if room < 2:
        raise UserError(f"tokens must leave room for the question, got {new} of {length}")
    count = given.repetitions
    kept = torch.tensor([context[-room:]] * count, device=opened.device)
    rows = Rows.of(given.seed, range(count), "gsm8k", place)
    # As in the release: latents of demonstrations and question, without the cue.
    thought = think(
        opened.model,
        kept[:, :-1],
        kept[:, 1:],
        opened.inference(given.steps),
        latent=given.latent if opened.latents else "none",
        encoder=opened.encoder,
        generator=rows,
    )
    drawn = generate(
        opened.model,
        prompt=torch.cat((kept, kept.new_tensor([cue] * count)), 1),
        z=thought.z,
        new_tokens=new,
        eos=vocabulary.eos,
        sampling=Sampling(temperature=given.temperature),
        generator=rows,
    )
    texts = [
        vocabulary.decode(ids[: int(n)], special=False)
        for ids, n in zip(drawn.tokens, drawn.lengths, strict=True)
    ]
    return texts, len(context) > room
