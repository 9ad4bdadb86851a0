"""The report of a finished run: report.md, and report.html in one file without network."""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from apps._runner.settings import flatten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_claims", "curves", "number", "save_figures", "write_report"]

Row = Mapping[str, object]
LONGEST = 16
PAGE = Path(__file__).with_name("report_page.html")


def number(value: object) -> str:
    """Returns a value as it stands in tables: four significant digits, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    return "-" if value is None else str(value)


def check_claims(claims: Sequence[Mapping[str, object]]) -> None:
    """Raises a ValueError that names what a claim lacks."""
    for claim in claims:
        if missing := {"claim", "paper", "ours", "holds"} - claim.keys():
            raise ValueError(f"claims need {', '.join(sorted(missing))}, got {dict(claim)}")


def curves(folder: Path) -> "Figure | None":
    """Draws every value in metrics.jsonl against the step, a line per split.

    Returns:
        The figure, or None if no value was logged at two steps.
    """
    from matplotlib.figure import Figure

    series: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    path = folder / "metrics.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        line = json.loads(text)
        for key in line.keys() - {"step", "seconds", "split"}:
            value = float("nan") if line[key] is None else line[key]
            series[key][line["split"]].append((line["step"], value))
    drawn = sorted(
        key for key, splits in series.items() if any(len(p) > 1 for p in splits.values())
    )
    if not drawn:
        return None
    rows = -(-len(drawn) // 3)
    figure = Figure(figsize=(9.6, 2.4 * rows), layout="constrained")
    for axes, key in zip(figure.subplots(rows, 3, squeeze=False).flat, drawn, strict=False):
        for split, points in sorted(series[key].items()):
            axes.plot(*zip(*points, strict=True), label=split, linewidth=1.1)
        axes.set_title(key, fontsize=9)
        axes.set_xlabel("step", fontsize=7)
        axes.tick_params(labelsize=7)
        if len(series[key]) > 1:
            axes.legend(fontsize=7, frameon=False)
    for axes in figure.axes[len(drawn) :]:
        axes.set_axis_off()
    return figure


def save_figures(folder: Path, figures: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Writes figures as SVG files; returns for each name its file (or HTML) and its caption.

    Arguments:
        folder: Run folder.
        figures: Name to a matplotlib figure, the text of an SVG image, or other HTML; or a pair
            of one of these and a caption.
    """
    shown = {}
    for name, given in figures.items():
        content, caption = given if isinstance(given, tuple) else (given, name)
        file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".svg"
        if isinstance(content, str):
            if "<svg" not in content[:500]:
                shown[name] = (content, caption)
                continue
            (folder / file).write_text(content, encoding="utf-8")
        else:
            from matplotlib import rc_context

            with rc_context({"svg.hashsalt": file}):  # the same figure gives the same file
                content.savefig(folder / file, format="svg", metadata={"Date": None})
        shown[name] = (file, caption)
    return shown


def write_report(
    folder: Path,
    result: Mapping[str, Any],
    record: Mapping[str, Any],
    figures: Mapping[str, tuple[str, str]],
    tables: Mapping[str, Sequence[Row]],
    notes: str,
) -> Path:
    """Writes report.md and report.html; returns the path of the latter.

    Arguments:
        folder: Run folder.
        result: Content of result.json.
        record: Content of run.json.
        figures: What `save_figures` returned.
        tables: Title to rows; the first row's keys are the columns.
        notes: What this is, in one or a few paragraphs of plain text.
    """
    title = f"{result['app']}: {result['preset']}"
    # Long lists, such as a value for each round and seed, stay in result.json.
    metrics = [
        {"metric": key, "value": value}
        for key, value in flatten(result["metrics"]).items()
        if not isinstance(value, list) or len(np.ravel(value)) <= LONGEST
    ]
    # What a reader came for first: claims, then pictures, then numbers.
    sections = [("Claims", result["claims"])]
    details = [
        *tables.items(),
        ("Metrics", metrics),
        ("Settings", _pairs(record["settings"])),
        ("Environment", _environment(record)),
    ]
    cost = _cost(result, record)
    text = [f"# {title}", "", notes, "", cost]
    page = [f"<p>{escape(part)}</p>" for part in notes.split("\n\n") if part.strip()]
    for heading, rows in sections:
        if rows:
            text += ["", f"## {heading}", "", _markdown(rows)]
            page += [f"<h2>{escape(heading)}</h2>", _html(rows)]
    for name, (content, caption) in figures.items():
        is_file = content.endswith(".svg")
        text += ["", f"![{caption}]({content})" if is_file else f"{caption}: see report.html"]
        page.append(_figure(name, _image(folder / content) if is_file else content, caption))
    for heading, rows in details:
        if rows:
            text += ["", f"## {heading}", "", _markdown(rows)]
            closed = f"<summary>{escape(heading)}</summary>{_html(rows)}"
            page.append(f"<details>{closed}</details>")
    (folder / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    template = Template(PAGE.read_text(encoding="utf-8"))
    html = template.substitute(title=escape(title), subtitle=escape(cost), body="\n".join(page))
    (folder / "report.html").write_text(html, encoding="utf-8")
    return folder / "report.html"


def _cost(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    return (
        f"Cost: {result['seconds']:,.0f} s on {result['hardware']['device']}, "
        f"{result['hardware']['processes']} process(es), {len(record['sessions'])} session(s)"
    )


def _pairs(table: Mapping[str, Any]) -> list[Row]:
    return [{"name": key, "value": value} for key, value in flatten(table).items()]


def _environment(record: Mapping[str, Any]) -> list[Row]:
    last = dict(record["sessions"][-1])
    return [*_pairs(last), *_pairs({"data": record["data"]})]


def _figure(name: str, image: str, caption: str) -> str:
    shown = f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
    return f"<h2>{escape(name)}</h2>{shown}"


def _image(path: Path) -> str:
    # As an image and not inline: ids and styles of several SVGs on one page would clash.
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/svg+xml;base64,{data}">'


def _markdown(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [number(row.get(column)).replace("|", "\\|") for column in columns]
        lines.append("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |")
    return "\n".join(lines)


def _html(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(column)) for column in columns) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return f'<td class="yes">✓ {number(value)}</td>' if value else '<td class="no">✗ no</td>'
    return f"<td>{escape(number(value))}</td>"
