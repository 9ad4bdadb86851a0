"""Docstrings of the packages, with formulas and tables of Markdown, in the markup of Sphinx."""

import re
from collections.abc import Iterable

__all__ = ["to_rest"]


def to_rest(lines: Iterable[str]) -> list[str]:
    """Returns docstring lines with formulas, tables and stray characters as reStructuredText.

    `$$...$$` becomes a math block, `$...$` a math role, a Markdown table a table; outside of code
    and formulas, asterisks, bars and trailing underscores lose the meaning they would have.
    """
    text = "\n".join(lines)
    text = re.sub(r"^([ ]*)\$\$(.+?)\$\$", _block, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?:^[ ]*\|.*\|[ ]*(?:\n|\Z))+", _table, text, flags=re.MULTILINE)
    converted, inside = [], False
    for line in text.split("\n"):
        inside = (inside and (not line.strip() or line.startswith(" "))) or ".. " in line
        code = line.lstrip().startswith((">>>", "...")) or inside or "\0" in line
        converted.append(line.replace("\0", "") if code else _plain(line))
    return converted


def _block(match: re.Match[str]) -> str:
    indent, formula = match.group(1), match.group(2).strip()
    body = "\n".join(f"{indent}   {line.strip()}" for line in formula.split("\n"))
    return f"{indent}.. math::\n\n{body}\n"


def _table(match: re.Match[str]) -> str:
    rows = [
        [cell.strip() for cell in row.strip().strip("|").split("|")]
        for row in match.group(0).strip("\n").split("\n")
    ]
    if len(rows) < 3 or not all(set(cell) <= set("-: ") for cell in rows[1]):
        return match.group(0)
    indent = re.match(r"[ ]*", match.group(0)).group(0)  # type: ignore[union-attr]
    lines = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        for i, cell in enumerate(row):
            lines.append(f"{indent}   {'* -' if i == 0 else '  -'} {_plain(cell)}")
    return "\n".join(f"\0{line}" for line in lines) + "\n\n"


def _plain(line: str) -> str:
    """Escapes what is no markup outside of code and formulas."""
    parts = re.split(r"(``.*?``|`[^`]*`|\$[^$\s](?:[^$]*[^$\s])?\$)", line)
    for i, part in enumerate(parts):
        if part.startswith("$") and part.endswith("$") and len(part) > 2:
            parts[i] = f":math:`{part[1:-1]}`"
        elif part.startswith("`"):
            # A letter right behind the closing backquote, as in a plural, needs a separator.
            parts[i] = part + ("\\ " if re.match(r"\w", parts[i + 1]) else "")
        else:
            parts[i] = re.sub(r"(?<!\\)([*|])", r"\\\1", re.sub(r"(\w)_(?!\w)", r"\1\\_", part))
    return "".join(parts)
