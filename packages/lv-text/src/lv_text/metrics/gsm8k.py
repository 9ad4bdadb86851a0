"""GSM8K problems in context: prompts, numeric grading, pass@k.

Two defects of the released evaluation are excluded here: demonstrations come from the training
split (not from the problems under test), and answers are compared as numbers (not as substrings,
which finds the answer 5 in "costs 15").
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

__all__ = [
    "Problem",
    "Prompt",
    "build_prompt",
    "draw_demonstrations",
    "extract_answer",
    "grade",
    "parity_substring_pass_at_k",
    "pass_at_k",
    "read_problems",
]

# Thousands in groups of three, or plain digits; a minus counts unless something stands before it
# that it could be subtracted from.
NUMBER = re.compile(
    r"(?<![\w.)])(?P<sign>[-\u2212])?(?:[$\u00a3\u20ac]\s?)?(?P<inner>[-\u2212])?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<bare>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?)"
)
MARK = "####"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One word problem with its solution."""

    question: str
    """the problem"""
    solution: str
    """the worked solution; its last line is `#### ` and the final answer"""
    final: str
    """the final answer as written, e.g. `1,080`"""
    answer: Decimal
    """the final answer as a number"""
    split: Literal["train", "test"]
    """where it comes from; demonstrations must be from `train`"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt in two parts."""

    context: str
    """what the latents are inferred on: demonstrations and question"""
    cue: str
    """what is appended before decoding"""


def read_problems(path: str | Path, *, split: Literal["train", "test"]) -> list[Problem]:
    """Reads problems from a file with one JSON object (`question`, `answer`) per line.

    Arguments:
        path: `train.jsonl` or `test.jsonl` of GSM8K.
        split: Which of both it is.

    Raises:
        ValueError: If a line is no such object or its answer has no number after `#### `; the
            message names the line. If there is no problem at all.
    """
    problems = []
    with Path(path).open(encoding="utf-8") as lines:
        for index, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                question, solution = row["question"], row["answer"]
                answer = extract_answer(solution) if MARK in solution else None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {index}: expected a JSON object with texts question and "
                    f"answer, got {line[:80]!r}"
                ) from error
            if answer is None:
                raise ValueError(
                    f"{path}, line {index}: the answer must end in '#### ' and a number, got "
                    f"{solution[-80:]!r}"
                )
            problems.append(
                Problem(
                    question=question,
                    solution=solution,
                    final=solution.rpartition(MARK)[2].strip(),
                    answer=answer,
                    split=split,
                )
            )
    if not problems:
        raise ValueError(f"{path} must hold problems, got an empty file")
    return problems


def draw_demonstrations(
    problems: Sequence[Problem], *, count: int, generator: torch.Generator | None = None
) -> list[Problem]:
    """Draws different problems to be shown as examples.

    Arguments:
        problems: The training split.
        count: How many, 0 or more.
        generator: Source of randomness.

    Raises:
        ValueError: If a problem is not from the training split, or there are fewer than `count`.
    """
    foreign = sum(problem.split != "train" for problem in problems)
    if foreign:
        raise ValueError(
            f"problems must be from the training split, got {foreign} of {len(problems)} that are "
            "not: an example must never be a problem under test"
        )
    if not 0 <= count <= len(problems):
        raise ValueError(f"count must be in 0..{len(problems)}, got {count}")
    at = generator.device if generator is not None else "cpu"
    order = torch.randperm(len(problems), generator=generator, device=at)
    return [problems[index] for index in order[:count].tolist()]


def build_prompt(
    question: str,
    demonstrations: Sequence[Problem] = (),
    *,
    begin: str,
    show: Literal["final", "solution"] = "final",
) -> Prompt:
    """Builds the paper's prompt.

    `begin + "Question: " + q + "Answer: " + a` for each demonstration, then
    `begin + "Question: " + question`, with nothing between; the cue is `"Answer: "`.

    Arguments:
        question: The problem to be solved.
        demonstrations: Solved problems of the training split.
        begin: Text of the beginning-of-text token (end-of-text for GPT-2 baselines).
        show: Whether demonstrations show the final answer, as in the paper, or the worked
            solution.

    Raises:
        ValueError: If a demonstration is from the test split or `show` is unknown.
    """
    if show not in ("final", "solution"):
        raise ValueError(f"unknown show {show!r}; there are: final, solution")
    parts = []
    for one in demonstrations:
        if one.split != "train":
            raise ValueError(f"demonstrations must be from the training split, got {one.split!r}")
        parts.append(f"{begin}Question: {one.question}Answer: {getattr(one, show)}")
    return Prompt(context="".join(parts) + f"{begin}Question: {question}", cue="Answer: ")


def extract_answer(text: str, *, stop: Sequence[str] = ("Question:",)) -> Decimal | None:
    """Reads the final answer of a solution.

    The first number behind the last `####`, or the first number of all where there is no such
    mark. Understands thousands separators, decimals, signs and currency signs.

    Arguments:
        text: A generated or given solution.
        stop: The text ends at the first of these: models go on with problems of their own.

    Returns:
        The number, or None if there is none.
    """
    for end in stop:
        text = text.partition(end)[0]
    if MARK in text:
        text = text.rpartition(MARK)[2].partition("\n")[0]
    found = NUMBER.search(text)
    if found is None:
        return None
    number = Decimal((found["digits"] or found["bare"]).replace(",", ""))
    # not a product, which would round to 28 digits
    return number.copy_negate() if found["sign"] or found["inner"] else number


def grade(
    generations: Sequence[Sequence[str]], problems: Sequence[Problem]
) -> Bool[Tensor, "problems repetitions"]:
    """Tells which generated solutions end in the right number.

    Arguments:
        generations: Texts by problem and repetition, equally many for each problem.
        problems: The problems, in the same order.

    Raises:
        ValueError: If the numbers of problems or repetitions disagree.
    """
    _check_texts(generations, problems)
    return torch.tensor(
        [
            [extract_answer(text) == problem.answer for text in texts]
            for texts, problem in zip(generations, problems, strict=True)
        ],
        dtype=torch.bool,
    )


def pass_at_k(
    correct: Bool[Tensor, "problems repetitions"], *, k: int
) -> Float64[Tensor, " problems"]:
    """Estimates for each problem the probability that one of k repetitions is right.

    pass@k = 1 - C(n - c, k) / C(n, k) for c right ones among n, unbiased for independent
    repetitions; for n = k it is "some repetition is right".

    Arguments:
        correct: Result of `grade`.
        k: Repetitions granted, 1..n.

    Raises:
        ValueError: If k is out of range.

    Source:
        Chen et al., "Evaluating Large Language Models Trained on Code", 2021, eq. 1.
    """
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (repetitions), got {k}")
    wrong = (n - correct.sum(1)).double()
    # C(w, k) / C(n, k) = prod_i (w - i) / (n - i), 0 as soon as w < k
    steps = torch.arange(k, dtype=torch.float64, device=correct.device)
    return 1 - ((wrong[:, None] - steps).clamp(min=0) / (n - steps)).prod(1)


def parity_substring_pass_at_k(
    generations: Sequence[Sequence[str]], problems: Sequence[Problem]
) -> float:
    """Computes the score of the paper's release, for comparison with its figures ONLY.

    Counts a problem as solved if its final answer occurs as a substring in any repetition, so
    that "costs 15" solves a problem whose answer is 5. It overstates; report `pass_at_k`.

    Arguments:
        generations: Texts by problem and repetition; k is the number of repetitions.
        problems: The problems, in the same order.

    Raises:
        ValueError: If the numbers of problems or repetitions disagree.
    """
    _check_texts(generations, problems)
    solved = [
        any(problem.final in text for text in texts)
        for texts, problem in zip(generations, problems, strict=True)
    ]
    return sum(solved) / len(solved)


def _check_texts(generations: Sequence[Sequence[str]], problems: Sequence[Problem]) -> None:
    """Refuses texts that do not fit the problems."""
    counts = sorted({len(texts) for texts in generations})
    if len(generations) != len(problems) or not problems or len(counts) != 1 or not counts[0]:
        raise ValueError(
            f"generations must hold equally many texts, one or more, for each of the "
            f"{len(problems)} problems, got {len(generations)} lists of lengths {counts}"
        )
