"""English prose that is made on the spot, so that examples and tests need no download.

A small grammar tells of invented people and places. Each document draws a hidden world once - its
form, trade, people, things, weather, habits of speech - and all its sentences are about that
world: what is learned in the first lines helps with the later ones, which is what a latent
variable per document can carry. Sums are right, lists come back, names recur.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch

from lv_text.sample_words import (
    ANIMALS,
    CLOSINGS,
    COLORS,
    DREAMS,
    ENDS,
    FEARS,
    FOODS,
    FORMS,
    HABITS,
    HOWS,
    LINKS,
    NUMBERS,
    OPENINGS,
    SHARED,
    SPEECH,
    SYLLABLES,
    TENS,
    TIMES,
    TRADES,
    TRAITS,
    WEATHERS,
)

__all__ = ["sample_documents"]

_Item = TypeVar("_Item")
_SHORTEST, _LONGEST = 900, 1700  # characters at which no further paragraph is begun


def sample_documents(count: int, *, generator: torch.Generator | None = None) -> list[str]:
    """Returns documents of English prose of about 800 to 2,500 characters each.

    Six forms (story, diary, letter, article, conversation, accounts) about eight trades, with
    people and places of invented names. The first documents do not depend on `count`.

    Arguments:
        count: Number of documents.
        generator: Draws the documents; None = torch's global generator.

    Returns:
        The documents; paragraphs are separated by an empty line.

    Raises:
        ValueError: If `count` is negative.

    Example:
        >>> documents = sample_documents(2000, generator=torch.Generator().manual_seed(0))
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    draw = _Draw(generator)
    return [_document(draw) for _ in range(count)]


class _Draw:
    """Choices from one stream of uniform numbers, fetched many at a time."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator
        self._left: list[float] = []

    def below(self, n: int) -> int:
        if not self._left:
            fresh = torch.rand(4096, generator=self._generator, dtype=torch.float64)
            self._left = fresh.tolist()
        return int(self._left.pop() * n)

    def one(self, items: Sequence[_Item]) -> _Item:
        return items[self.below(len(items))]

    def some(self, items: Sequence[_Item], n: int) -> list[_Item]:
        """Returns `n` different items in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(n)]


class _World(dict[str, str]):
    """What a document is about: fields of the templates, drawn once or, if fleeting, anew."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw
        self.form = draw.one(list(FORMS))
        trade = draw.one(list(TRADES))
        self.words = TRADES[trade]
        self.things = draw.some(self.words["things"], 5)
        self.spots = draw.some(self.words["spots"], 3)
        self.acts = draw.some(self.words["acts"], 4)
        self.weathers = draw.some(WEATHERS[draw.one(list(WEATHERS))], 4)
        self.times, self.hows = draw.some(TIMES, 4), draw.some(HOWS, 4)
        self.links, self.speech = draw.some(LINKS, 3), draw.some(SPEECH, 2)
        self.in_digits = draw.below(3) == 0
        names: list[str] = []
        while len(names) < 4:
            if (name := self._name()) not in names:
                names.append(name)
        super().__init__(
            a=names[0],
            b=names[1],
            c=names[2],
            town=names[3] + draw.one(ENDS),
            trade=trade,
            worker=self.words["worker"][0],
            helper=self.words["worker"][1],
            thing=self.things[0],
            other=self.things[1],
            spot=self.spots[0],
            corner=self.spots[1],
            one_thing=_with_article(self.things[0]),
            one_worker=_with_article(self.words["worker"][0]),
            trait=draw.one(TRAITS),
            btrait=draw.one(TRAITS),
            dream=draw.one(DREAMS),
            fear=draw.one(FEARS),
            habit=draw.one(HABITS),
            animal=draw.one(ANIMALS),
            color=draw.one(COLORS),
            food=draw.one(FOODS),
        )
        for prefix in ("", "b"):
            he = draw.below(2)
            for name, pair in (("he", "she he"), ("his", "her his"), ("him", "her him")):
                self[prefix + name] = pair.split()[he]
        self.years = 2 + draw.below(40)

    def _name(self) -> str:
        first, middle, last = SYLLABLES
        inner = self.draw.one(middle) if self.draw.below(3) == 0 else ""
        return (self.draw.one(first) + inner + self.draw.one(last)).replace("sss", "ss")

    def __missing__(self, field: str) -> str:
        draw = self.draw
        match field:
            case "any":
                return draw.one(self.things)
            case "place":
                return draw.one(self.spots)
            case "act":
                return draw.one(self.acts)
            case "weather":
                return draw.one(self.weathers)
            case "time":
                return draw.one(self.times)
            case "how":
                return draw.one(self.hows)
            case "link":
                return draw.one(self.links)
            case "said":
                return draw.one(self.speech)
            case "years":
                return self.number(self.years)
            case "few":
                return self.number(2 + draw.below(8))
            case "list":
                return self.listing()
            case "all":
                return _joined([f"the {thing}" for thing in self.things[:3]])
            case "sum":
                return self.sum()
        raise KeyError(field)

    def number(self, n: int) -> str:
        if self.in_digits:
            return str(n)
        if n < 20:
            return NUMBERS[n]
        if n < 100:
            return TENS[n // 10] + (f"-{NUMBERS[n % 10]}" if n % 10 else "")
        rest = f" and {self.number(n % 100)}" if n % 100 else ""
        return f"{NUMBERS[n // 100]} hundred{rest}"

    def listing(self) -> str:
        chosen = self.draw.some(self.things, 2 + self.draw.below(3))
        return _joined(
            [
                _with_article(thing)
                if self.draw.below(2)
                else f"{self.number(2 + self.draw.below(11))} {_plural(thing)}"
                for thing in chosen
            ]
        )

    def sum(self) -> str:
        m, n = 2 + self.draw.below(11), 2 + self.draw.below(11)
        first, second = self.number(m), self.number(n)
        things = _plural(self.draw.one(self.things))
        match self.draw.below(3):
            case 0:
                return f"{first} {things} and {second} more make {self.number(m + n)}"
            case 1:
                whole = self.number(m + n)
                return f"of {whole} {things}, {first} were sold and {second} were left"
        return f"{first} rows of {second} {things} come to {self.number(m * n)} in all"

    def sentence(self, template: str) -> str:
        """Returns a template with its fields filled, beginning with a capital."""
        # Twice, as some fields hold fields themselves.
        text = template.format_map(self).format_map(self)
        # Behind a quotation mark, if there is one.
        at = next(i for i, letter in enumerate(text) if letter.isalnum())
        return text[:at] + text[at].upper() + text[at + 1 :]


def _document(draw: _Draw) -> str:
    world = _World(draw)
    opening = world.sentence(draw.one(OPENINGS[world.form]))
    paragraphs, length = [opening], len(opening)
    target = _SHORTEST + draw.below(_LONGEST - _SHORTEST)
    own, shared = list(FORMS[world.form]), list(SHARED)
    left: list[str] = []
    told: set[str] = set()
    while length < target:
        sentences: list[str] = []
        size = 3 + draw.below(3)
        while len(sentences) < size:
            # Each template once before any comes again, and no sentence word for word.
            left = left or draw.some([*own, *shared], len(own) + len(shared))
            sentence = world.sentence(left.pop())
            if sentence not in told:
                sentences.append(sentence)
                told.add(sentence)
        separator = "\n" if world.form == "conversation" else " "
        paragraphs.append(separator.join(sentences))
        length += len(paragraphs[-1])
    paragraphs.append(world.sentence(draw.one(CLOSINGS[world.form])))
    return "\n\n".join(paragraphs)


def _joined(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    first, of, rest = noun.partition(" of ")
    if of:
        return _plural(first) + of + rest
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
