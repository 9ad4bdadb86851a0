r"""Undoing the spaces that tokenized benchmark texts have around punctuation.

Published zero-shot numbers depend on these rules, so they are kept as they are, oddities
included: `s '` closes up in every text of `wikitext`, whether the quote ends or begins there.
"""

import re
from collections.abc import Callable, Mapping

__all__ = ["DETOKENIZERS", "lambada", "lm1b", "ptb", "scientific_papers", "wikitext"]

_Rule = tuple[str, str] | tuple[re.Pattern[str], str]
"""What is replaced, as a string or a pattern, and by what."""

_DEGREE, _POUND = chr(176), chr(163)

_WIKITEXT: list[_Rule] = [
    ("s '", "s'"),
    *((f" @{mark}@ ", mark) for mark in "-,."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r'"\s*([^"]*?)\s*"'), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
    ("= = = =", "===="),  # longest first, as each is part of the next
    ("= = =", "==="),
    ("= =", "=="),
    (f" {_DEGREE} ", _DEGREE),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]

_PTB: list[_Rule] = [
    (" 's", "'s"),
    ("s ' ", "s' "),
    (" n't", "n't"),
    (" \n ", "\n"),
    ("\\/", "/"),
    *[(" N ", " 1 ")] * 10,  # a pass leaves every other one of a run, as they share their spaces
    ("$ 1", "$1"),
    ("# 1", "#1"),
    ("<unk>", "?"),
]

_LM1B: list[_Rule] = [
    ("http : / / ", "http://"),
    ("https : / / ", "https://"),
    (re.compile(r" '(\w+)"), r"'\1"),
    (re.compile(r" (\w+) \. "), r" \1. "),
    (re.compile(r" (\w+) \.$"), r" \1."),
    (" ? ", "? "),
    (re.compile(r" \?$"), "?"),
    (" ! ", "! "),
    (re.compile(r" !$"), "!"),
    *((f" {mark} ", f"{mark} ") for mark in ",:;"),
    (" / ", "/"),
    (re.compile(r'" ([^"]+) "'), r'"\1"'),
    (re.compile(r"' ([^']+) '"), r"'\1'"),
    (re.compile(r"\( ([^()]+) \)"), r"(\1)"),
    (re.compile(r"\[ ([^\[\]]+) \]"), r"[\1]"),
    ("$ ", "$"),
    (f"{_POUND} ", _POUND),
]

_LAMBADA: list[_Rule] = [("\u201c", '"'), ("\u201d", '"')]


def wikitext(text: str) -> str:
    """Returns text of WikiText with the spaces of ordinary prose.

    Closes up `@-@`, `@,@`, `@.@`, punctuation, brackets, quotes, headings (`= =`) and line ends;
    `N` becomes `1`. `<unk>` stays.

    Arguments:
        text: A line or a whole article.

    Example:
        >>> wikitext("a guest @-@ starring role ( 2 @,@ 000 people ) .")
        'a guest-starring role (2,000 people) .'

    Source:
        Rules used for zero-shot perplexity by Lou et al. 2024 and Sahoo et al. 2024, and by
        Kong et al. 2025.
    """
    return _apply(_WIKITEXT, text)


def ptb(text: str) -> str:
    r"""Returns text of the Penn Treebank with the spaces of ordinary prose.

    Closes up `'s`, `n't`, `\/`, dollar and number signs; `N` becomes `1` and `<unk>` becomes `?`.

    Arguments:
        text: A line or more.

    Example:
        >>> ptb("it did n't rise $ N N times")
        "it didn't rise $1 1 times"

    Source:
        As `wikitext`.
    """
    return _apply(_PTB, text)


def lm1b(text: str) -> str:
    """Returns a sentence of the One Billion Word benchmark with the spaces of ordinary prose.

    Arguments:
        text: One sentence: the rules for the last mark look at the end of the text.

    Example:
        >>> lm1b('He paid $ 5 , she said . " Really ? "')
        'He paid $5, she said. "Really?"'

    Source:
        As `wikitext`.
    """
    return _apply(_LM1B, text)


def lambada(text: str) -> str:
    """Returns a passage of LAMBADA with straight double quotes, after a line end.

    Arguments:
        text: A passage.

    Source:
        As `wikitext`.
    """
    return "\n" + _apply(_LAMBADA, text).strip()


def scientific_papers(text: str) -> str:
    """Returns an article of arXiv or PubMed: first the rules of `wikitext`, then of `lm1b`.

    Arguments:
        text: An article.

    Source:
        As `wikitext`.
    """
    return lm1b(wikitext(text))


def _apply(rules: list[_Rule], text: str) -> str:
    for old, new in rules:
        text = text.replace(old, new) if isinstance(old, str) else old.sub(new, text)
    return text


def _as_it_is(text: str) -> str:
    return text


DETOKENIZERS: Mapping[str, Callable[[str], str]] = {
    "ag_news": _as_it_is,
    "arxiv": scientific_papers,
    "lambada": lambada,
    "lm1b": lm1b,
    "ptb": ptb,
    "pubmed": scientific_papers,
    "wikitext": wikitext,
}
"""The rules for each zero-shot set; AG News has none."""
