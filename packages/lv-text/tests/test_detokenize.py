import json
import os
import re
from pathlib import Path

import pytest

from lv_text.detokenize import DETOKENIZERS, lambada, lm1b, ptb, scientific_papers, wikitext

WIKITEXT = [
    ("the boys ' room", "the boys' room"),
    ("well @-@ known 1 @,@ 000 and 2 @.@ 5", "well-known 1,000 and 2.5"),
    ("a : b ; c . d ! e ? f , g", "a: b; c. d! e? f, g"),
    ("( a b ) [ c ] { d } ( e )", "(a b) [c] {d} (e)"),
    ('he said " yes " and " no "', 'he said "yes" and "no"'),
    ("the ' old ' way", "the 'old' way"),
    (" = Title = ", " = Title = "),
    ("= = Part = =", "== Part =="),
    ("= = = Piece = = =", "=== Piece ==="),
    ("= = = = Bit = = = =", "==== Bit ===="),
    ("20 ° C", "20°C"),
    ("a \n b \n\n c", "a\nb\n\nc"),
    ("rose N points", "rose 1 points"),
    ("London 's streets", "London's streets"),
    ("<unk> stays", "<unk> stays"),
    ("the end .", "the end ."),  # nothing behind the mark, so the rule does not see it
]
PTB = [
    ("the dog 's tail", "the dog's tail"),
    ("the dogs ' tails", "the dogs' tails"),
    ("it did n't", "it didn't"),
    ("one \n two", "one\ntwo"),
    (r"5\/8", "5/8"),
    ("a N N N N N b", "a 1 1 1 1 1 b"),
    ("paid $ N now", "paid $1 now"),
    ("# N here", "#1 here"),
    ("the <unk> man", "the ? man"),
    ("a , b", "a , b"),
]
LM1B = [
    ("see http : / / a and https : / / b", "see http://a and https://b"),
    ("it 's what they 're", "it's what they're"),
    ("he went home . She stayed .", "he went home. She stayed."),
    ("why ? because ! yes , so : a ; b / c", "why? because! yes, so: a; b/c"),
    ("why ?", "why?"),
    ("yes !", "yes!"),
    ('said " so it is " and', 'said "so it is" and'),
    ("the ( old ) and [ new ]", "the (old) and [new]"),
    ("a ' word or two ' here", "a 'word or two' here"),
    ("$ 5 and £ 6", "$5 and £6"),
]


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [(wikitext, *pair) for pair in WIKITEXT]
    + [(ptb, *pair) for pair in PTB]
    + [(lm1b, *pair) for pair in LM1B],
)
def test_closes_up_what_the_rules_name(rule, text, expected):
    assert rule(text) == expected


def test_lambada_begins_with_a_line_end_and_has_straight_quotes():
    assert lambada("  “Yes,” she said.\n") == '\n"Yes," she said.'


def test_papers_take_the_rules_of_wikitext_first():
    text = "we show ( see fig . 2 ) that a @-@ b is 's ?"
    assert scientific_papers(text) == lm1b(wikitext(text)) == "we show (see fig. 2) that a-b is's?"
    quoted = "in the ' old way ' of doing"
    assert scientific_papers(quoted) == "in the'old way' of doing"
    assert wikitext(lm1b(quoted)) == "in the 'old way' of doing"  # the other order


def test_every_zero_shot_set_has_its_rules():
    assert sorted(DETOKENIZERS) == [
        "ag_news",
        "arxiv",
        "lambada",
        "lm1b",
        "ptb",
        "pubmed",
        "wikitext",
    ]
    assert DETOKENIZERS["ag_news"](" a , b ") == " a , b "
    assert DETOKENIZERS["arxiv"] is DETOKENIZERS["pubmed"] is scientific_papers


@pytest.mark.data
def test_real_wikitext_reads_like_prose():
    folder = Path(os.environ["LV_DATA"]) / "wikitext2-eval"
    text = (folder / "test.txt").read_text(encoding="utf-8")
    found = wikitext(text)
    for mark in (" @-@ ", " @,@ ", " @.@ ", " , ", " ; ", " . ", "= =", " \n", "\n "):
        assert mark in text
        assert mark not in found
    assert "\n== Career ==\n" in found
    assert "a guest-starring role on the television series The Bill in 2000. This was" in found
    # Only spaces, the signs around @ and the letter N are touched.
    bare = re.sub(r" @([-,.])@ ", r"\1", text)
    assert re.sub(r"[\sN1]", "", found) == re.sub(r"[\sN1]", "", bare)
    assert 0.9 < len(found) / len(text) < 0.98


@pytest.mark.data
def test_real_lambada_keeps_its_words():
    path = Path(os.environ["LV_DATA"]) / "lambada" / "lambada_test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines]
    found = [lambada(passage) for passage in passages]
    assert len(found) == 5153
    assert all(text[0] == "\n" and text[1:] == text.strip() for text in found)
    assert not any("“" in text or "”" in text for text in found)
    assert sum("“" in passage for passage in passages) > 0
    words = [passage.replace("“", '"').replace("”", '"').split() for passage in passages]
    assert [text.split() for text in found] == words
