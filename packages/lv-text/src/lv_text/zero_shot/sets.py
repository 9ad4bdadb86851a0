"""Readers of benchmark texts in the formats in which they are published.

Each takes a folder, whose file is then checked against its published checksum, or any file in
the same format, which is read as it is.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

__all__ = [
    "read_ag_news",
    "read_lambada",
    "read_scitldr",
    "read_tinyshakespeare",
    "read_wikitext",
]

Where = str | os.PathLike[str]

_SHA256 = {
    "wikitext valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "wikitext test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "lambada lambada_test.jsonl": (
        "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
    ),
    "ag_news test.csv": "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
    "scitldr dev.jsonl": "3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e",
    "scitldr test.jsonl": "fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9",
    "scitldr train.jsonl": "b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119",
    "tinyshakespeare input.txt": (
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    ),
}


def read_wikitext(
    path: Where,
    *,
    split: Literal["valid", "test"] = "valid",
    unit: Literal["line", "article"] = "line",
) -> Iterator[str]:
    """Iterates over WikiText-2 (the tokenized release, with `<unk>`).

    Published numbers are of lines, each an example of its own, blank ones included as empty
    texts. Numbers of the tokenized and the raw release differ.

    Arguments:
        path: Folder with `valid.txt` and `test.txt`, or a file in this format.
        split: Which file of a folder.
        unit: Lines with their line ends, or whole articles.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or empty, or an option is unknown.

    Source:
        Merity et al., "Pointer Sentinel Mixture Models", 2016.
    """
    if unit not in ("line", "article"):
        raise ValueError(f"unknown unit {unit!r}; there are: article, line")
    file = _file(path, "wikitext", _named(split, "txt", "valid", "test"))
    # Not splitlines, which also cuts at characters inside of lines.
    lines = _text(file).removesuffix("\n").split("\n")
    if unit == "line":
        return (line + "\n" if line.strip() else "" for line in lines)
    starts = [k for k in range(len(lines)) if _is_title(lines, k)]
    if not starts:
        raise ValueError(f"{file} holds no title such as ' = Title = ': use unit='line'")
    ends = [*starts[1:], len(lines)]
    return ("\n".join(lines[a:b]).strip() + "\n" for a, b in zip(starts, ends, strict=True))


def read_lambada(path: Where) -> Iterator[str]:
    """Iterates over the passages of LAMBADA's test set in plain text.

    Arguments:
        path: Folder with `lambada_test.jsonl`, or a file of JSON objects with a `text` each.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or empty.

    Source:
        Paperno et al., "The LAMBADA dataset", 2016, in the variant of Radford et al., 2019.
    """
    file = _file(path, "lambada", "lambada_test.jsonl")
    return (_string(row, "text", place) for row, place in _rows(file))


def read_ag_news(path: Where, *, titles: bool = True) -> Iterator[str]:
    """Iterates over the test set of AG News.

    Arguments:
        path: Folder with `test.csv`, or a file with the columns class, title, description.
        titles: Whether the title stands before the description, with a space between.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or empty.

    Source:
        Zhang, Zhao and LeCun, "Character-level Convolutional Networks for Text Classification",
        2015.
    """
    file = _file(path, "ag_news", "test.csv")
    texts = []
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        for row in reader:
            if len(row) != 3:
                raise ValueError(
                    f"{file} is damaged: 3 columns in each row, got {len(row)} in line "
                    f"{reader.line_num}"
                )
            texts.append(" ".join(row[1:]) if titles else row[2])
    except csv.Error as error:
        raise ValueError(f"{file} is damaged in line {reader.line_num}: {error}") from error
    return iter(texts)


def read_scitldr(path: Where, *, split: Literal["train", "dev", "test"] = "test") -> Iterator[str]:
    """Iterates over the abstracts of SciTLDR-A, computer-science papers.

    A stand-in for, and not to be reported as, the full articles of `scientific_papers`.

    Arguments:
        path: Folder with `test.jsonl` and others, or a file of JSON objects with the list of
            sentences `source` each.
        split: Which file of a folder.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or empty, or the split is unknown.

    Source:
        Cachola et al., "TLDR: Extreme Summarization of Scientific Documents", 2020.
    """
    file = _file(path, "scitldr", _named(split, "jsonl", "train", "dev", "test"))
    return (_sentences(row, place) for row, place in _rows(file))


def read_tinyshakespeare(path: Where) -> Iterator[str]:
    """Iterates over Tiny Shakespeare, which is one text.

    Arguments:
        path: Folder with `input.txt`, or a text file.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged or empty.
    """
    return iter([_text(_file(path, "tinyshakespeare", "input.txt"))])


def _named(split: str, ending: str, *splits: str) -> str:
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; there are: {', '.join(sorted(splits))}")
    return f"{split}.{ending}"


def _file(path: Where, name: str, inside: str) -> Path:
    """Returns the file of a set; that of a folder is checked first."""
    found = Path(path)
    if found.is_file():
        return found
    if not (found / inside).is_file():
        raise FileNotFoundError(
            f"{found} must be a file or a folder with {inside}: fetch the set, or correct the path"
        )
    digest = hashlib.sha256((found / inside).read_bytes()).hexdigest()
    if digest != _SHA256[f"{name} {inside}"]:
        raise ValueError(
            f"{found / inside} is damaged or another release: its checksum is {digest[:12]}, "
            f"expected {_SHA256[f'{name} {inside}'][:12]}; fetch it again, or give the path of "
            "the file itself to read it as it is"
        )
    return found / inside


def _text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: no UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise ValueError(f"{file} is empty: fetch it again")
    return text


def _rows(file: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Returns the JSON objects of a file and where they stand; all are read before the first."""
    rows = []
    for number, line in enumerate(_text(file).removesuffix("\n").split("\n"), 1):
        place = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is damaged: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place} must be a JSON object, got {type(row).__name__}")
        rows.append((row, place))
    return iter(rows)


def _string(row: dict[str, object], field: str, place: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{place} must hold a string {field!r}, got {type(value).__name__}")
    return value


def _sentences(row: dict[str, object], place: str) -> str:
    value = row.get("source")
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{place} must hold a list of strings 'source', got {value!r:.40}")
    return " ".join(value)


def _is_title(lines: list[str], k: int) -> bool:
    """Returns whether a line is the title of an article; sections have two signs or more."""
    text = lines[k].strip()
    alone = not any(line.strip() for line in (*lines[max(k - 1, 0) : k], *lines[k + 1 : k + 2]))
    # Formulas of running text begin and end with a sign, too, but do not stand alone.
    return (
        alone
        and len(text) > 4
        and text.startswith("= ")
        and text.endswith(" =")
        and not text.startswith("= =")
    )
