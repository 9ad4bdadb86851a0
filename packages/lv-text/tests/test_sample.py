import gzip
import math
import re
from collections import Counter

import pytest
import torch

from lv_text.sample import _Draw, _plural, _with_article, _World, sample_documents
from lv_text.sample_words import FORMS, SHARED, TRADES

SMALL = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
}
TEENS = {
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
}
TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
WORTH = SMALL | TEENS | TENS
ONES = "|".join(sorted(SMALL | TEENS, key=len, reverse=True))
BELOW = rf"(?:(?:{'|'.join(TENS)})(?:-(?:{ONES}))?|{ONES})"
NUMBER = rf"\b(\d+|{BELOW} hundred(?: and {BELOW})?|{BELOW})"


def numbered(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def documents():
    return sample_documents(2000, generator=numbered(0))


def value(words):
    """Reads a number, the other way round from how the documents write it."""
    if words.isdigit():
        return int(words)
    total = 0
    for word in re.split(r"[ -]", words.lower().replace(" and ", " ")):
        if word == "hundred":
            total *= 100
        else:
            total += WORTH[word]
    return total


def test_documents_differ_and_have_the_promised_length(documents):
    assert len(set(documents)) == len(documents) == 2000
    assert min(map(len, documents)) >= 800
    assert max(map(len, documents)) <= 2500


def test_the_same_generator_gives_the_same_documents(documents):
    assert sample_documents(30, generator=numbered(0)) == documents[:30]
    assert sample_documents(30, generator=numbered(1)) != documents[:30]
    torch.manual_seed(4)
    first = sample_documents(2)
    torch.manual_seed(4)
    assert sample_documents(2) == first
    assert sample_documents(0) == []


def test_no_field_is_left_open_and_sentences_begin_with_capitals(documents):
    for text in documents:
        assert not re.search(r"[{}]|  |\.\.|,,| ,", text)
        assert not re.search(r"[.?] [a-z]", text)
        assert not re.search(r"\b(?:A|a) [aeiou]|\ban [^aeiou]", text)


def test_all_forms_trades_and_patterns_occur(documents):
    together = "\n".join(documents)
    for trade in TRADES.values():
        for group in trade.values():
            assert all(phrase in together for phrase in group)
    for template in (*SHARED, *(line for form in FORMS.values() for line in form)):
        longest = max(re.split(r"{\w+}", template), key=len).strip(' ".')
        assert longest[1:] in together  # the first letter may be a capital


def test_sums_are_right(documents):
    sums = (
        (rf"{NUMBER} [a-z ]+? and {NUMBER} more make {NUMBER}\b", lambda a, b, c: a + b == c),
        (
            rf"of {NUMBER} [a-z ]+?, {NUMBER} were sold and {NUMBER} were left",
            lambda a, b, c: a == b + c,
        ),
        (rf"{NUMBER} rows of {NUMBER} [a-z ]+? come to {NUMBER} in", lambda a, b, c: a * b == c),
    )
    checked = []
    for text in documents:
        for pattern, holds in sums:
            found = re.findall(pattern, text.lower())
            assert all(holds(*map(value, numbers)) for numbers in found), (text, found)
            checked += found
    assert any("hundred" in numbers[2] for numbers in checked)
    checked = len(checked)
    assert checked > 1000


def test_words_of_a_document_return_in_it_and_not_in_others(documents):
    """The second half is cheaper to compress behind its own first half than behind another's."""

    def size(text):
        return len(gzip.compress(text.encode(), 9, mtime=0))

    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in documents[:200]]
    own = sum(size(first + second) - size(first) for first, second in halves)
    others = [first for first, _ in halves[1:]] + [halves[0][0]]
    other = sum(size(o + s) - size(o) for o, (_, s) in zip(others, halves, strict=True))
    assert own < 0.9 * other


def test_there_is_something_to_learn_and_it_is_not_trivial(documents):
    text = "\n\n".join(documents)
    counts = Counter(re.findall(r"\w+", text.lower()))
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    assert 5.5 < entropy < 7  # 5.8 nats per word when this was written
    assert len(counts) > 3000
    ratio = len(gzip.compress(text.encode(), 9, mtime=0)) / len(text)
    assert 0.15 < ratio < 0.4  # 0.20 when this was written
    constant = documents[0] * 2000
    assert len(gzip.compress(constant.encode())) / len(constant) < 0.02  # the wrong control


def test_grammar_of_nouns():
    assert [
        _plural(noun) for noun in ("loaf", "box", "ferry", "key", "bolt of cloth", "watch")
    ] == [
        "loaves",
        "boxes",
        "ferries",
        "keys",
        "bolts of cloth",
        "watches",
    ]
    assert [_with_article(noun) for noun in ("apple", "net")] == ["an apple", "a net"]


def test_refuses_negative_counts_and_unknown_fields():
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        sample_documents(-1)
    with pytest.raises(KeyError, match="nonsense"):
        _World(_Draw(numbered(0)))["nonsense"]
