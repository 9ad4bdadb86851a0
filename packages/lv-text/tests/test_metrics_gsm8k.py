"""Reading, prompting and grading of GSM8K problems, with the pitfalls of the released script."""

import itertools
import os
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from lv_core import stream
from lv_text.metrics import (
    Problem,
    build_prompt,
    draw_demonstrations,
    extract_answer,
    grade,
    parity_substring_pass_at_k,
    pass_at_k,
    read_problems,
)


def problem(final="5", split="train", question="How many?"):
    return Problem(
        question=question,
        solution=f"A sum.\n#### {final}",
        final=final,
        answer=Decimal(final.replace(",", "")),
        split=split,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", "72"),
        ("Natalia sold 24 clips.\n#### 72", "72"),
        ("#### 1\n#### 2", "2"),
        ("####  1,080", "1080"),
        ("#### 16,800,000 clips", "16800000"),
        ("#### -12", "-12"),
        ("#### \u221212", "-12"),
        ("#### -$3.50", "-3.50"),
        ("#### $-3.50", "-3.50"),
        ("#### $1,234.50.", "1234.50"),
        ("The answer is 5.", "5"),
        ("costs 15", "15"),
        ("0.2 per minute", "0.2"),
        ("about .5 of it", "0.5"),
        ("12,34 are two numbers", "12"),
        ("1,0000 has no thousands", "1"),
        ("10-5 is a difference", "10"),
        ("x-5", "5"),
        ("- 3 apples in a list", "3"),
        ("(-4) in brackets", "-4"),
        ("50% of it", "50"),
        ("7 Question: and what of 8? Answer: #### 9", "7"),
        ("#### 123456789012345678901234567890123", "123456789012345678901234567890123"),
    ],
)
def test_extracts_the_number(text, expected):
    assert extract_answer(text) == Decimal(expected)


@pytest.mark.parametrize("text", ["", "none", "Question: 5", "5 and then\n####\n6", "#### five"])
def test_finds_no_number_where_there_is_none(text):
    assert extract_answer(text) is None


def test_goes_on_to_the_next_problem_if_told_so():
    assert extract_answer("7 Question: 8 #### 9", stop=()) == 9
    assert extract_answer("7 END 8 #### 9", stop=("END",)) == 7


def test_compares_numbers_and_not_strings():
    texts = [["15", "costs 15", "5.0", "#### 5", "$5.00", "-5", "no"]]
    assert grade(texts, [problem("5")]).tolist() == [
        [False, False, True, True, True, False, False]
    ]
    assert grade([["1080", "1,080", "1.080"]], [problem("1,080")]).tolist() == [
        [True, True, False]
    ]


def test_substrings_solve_what_numbers_do_not():
    texts, problems = [["costs 15", "none"], ["it is 1080", "x"]], [problem("5"), problem("1,080")]
    # 15 holds the digit 5; 1080 lacks the comma of the gold string
    assert parity_substring_pass_at_k(texts, problems) == 0.5
    correct = grade(texts, problems)
    assert pass_at_k(correct, k=2).tolist() == [0.0, 1.0]


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    correct = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    ).bool()
    for k in range(1, 6):
        expected = [
            sum(map(any, subsets)) / len(subsets)
            for subsets in (list(itertools.combinations(row, k)) for row in correct.tolist())
        ]
        assert pass_at_k(correct, k=k).tolist() == pytest.approx(expected)
    # control: independent draws from the empirical rate, 1 - (1 - c / n)^k, are biased
    assert float(pass_at_k(correct, k=3)[0]) != pytest.approx(1 - 0.8**3, abs=0.05)


@pytest.mark.parametrize("k", [0, 6])
def test_pass_at_k_refuses_more_than_there_is(k):
    with pytest.raises(ValueError, match=r"k must be in 1..5"):
        pass_at_k(torch.ones(2, 5, dtype=torch.bool), k=k)


@pytest.mark.parametrize("texts", [[], [["a"]], [["a"], ["b", "c"]], [[], []]])
def test_refuses_texts_that_do_not_fit_the_problems(texts):
    with pytest.raises(ValueError, match="for each of the 2 problems"):
        grade(texts, [problem(), problem()])
    with pytest.raises(ValueError, match="for each of the 2 problems"):
        parity_substring_pass_at_k(texts, [problem(), problem()])


def test_builds_the_prompt_of_the_paper():
    shown = [problem("1", question="One?"), problem("2", question="Two?")]
    got = build_prompt("Three?", shown, begin="<b>")
    assert got.context == "<b>Question: One?Answer: 1<b>Question: Two?Answer: 2<b>Question: Three?"
    assert got.cue == "Answer: "
    worked = build_prompt("Three?", shown[:1], begin="", show="solution")
    assert worked.context == "Question: One?Answer: A sum.\n#### 1Question: Three?"
    assert build_prompt("Three?", begin="<b>").context == "<b>Question: Three?"


def test_demonstrations_come_from_the_training_split_alone():
    train = [problem(str(i)) for i in range(20)]
    drawn = draw_demonstrations(train, count=5, generator=stream(0, "shots"))
    assert len({one.final for one in drawn}) == 5
    assert drawn == draw_demonstrations(train, count=5, generator=stream(0, "shots"))
    assert drawn != draw_demonstrations(train, count=5, generator=stream(1, "shots"))
    with pytest.raises(ValueError, match="got 1 of 21 that are not"):
        draw_demonstrations([*train, problem(split="test")], count=5)
    with pytest.raises(ValueError, match="must be from the training split, got 'test'"):
        build_prompt("Three?", [problem(split="test")], begin="")


def test_draws_every_problem_equally_often():
    train = [problem(str(i)) for i in range(4)]
    generator = stream(0, "often")
    counts = torch.zeros(4)
    for _ in range(2000):
        for one in draw_demonstrations(train, count=2, generator=generator):
            counts[int(one.final)] += 1
    # binomial(2000, 1/2): standard deviation 22
    assert float((counts - 1000).abs().max()) < 110


@pytest.mark.parametrize("count", [-1, 3])
def test_refuses_to_draw_more_than_there_are(count):
    with pytest.raises(ValueError, match=r"count must be in 0..2"):
        draw_demonstrations([problem(), problem()], count=count)


def test_refuses_unknown_solutions(wrong_types):
    with pytest.raises(ValueError, match="unknown show 'all'"):
        build_prompt("Three?", begin="", show="all")


def test_reads_problems_and_skips_empty_lines(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "Q?", "answer": "A.\\n#### 1,080"}\n\n', encoding="utf-8")
    (got,) = read_problems(path, split="train")
    assert (got.question, got.final, got.answer, got.split) == ("Q?", "1,080", 1080, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{cut off", "line 2: expected a JSON object"),
        ('["question"]', "line 2: expected a JSON object"),
        ('{"question": "Q?"}', "line 2: expected a JSON object"),
        ('{"question": "Q?", "answer": 5}', "line 2: expected a JSON object"),
        ('{"question": "Q?", "answer": "5"}', "line 2: the answer must end in"),
        ('{"question": "Q?", "answer": "#### five"}', "line 2: the answer must end in"),
    ],
)
def test_names_the_line_that_is_no_problem(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"question": "Q?", "answer": "#### 1"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_problems(path, split="test")


def test_refuses_empty_files(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="must hold problems"):
        read_problems(tmp_path / "none.jsonl", split="test")


@pytest.mark.data
def test_reads_all_problems_and_solves_them_with_their_own_solutions():
    folder = Path(os.environ["LV_DATA"]) / "gsm8k"
    train = read_problems(folder / "train.jsonl", split="train")
    test = read_problems(folder / "test.jsonl", split="test")
    assert (len(train), len(test)) == (7473, 1319)
    assert bool(grade([[one.solution] for one in train], train).all())
    # control: the release's rule also accepts many solutions of another problem
    shifted = [[one.solution] for one in test[1:] + test[:1]]
    honest = float(pass_at_k(grade(shifted, test), k=1).mean())
    assert honest < 0.03 < 0.15 < parity_substring_pass_at_k(shifted, test)
