"""The tables of results in the READMEs, rendered from results/<app>/<preset>-<device>.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps._runner.report import number

__all__ = ["main", "publish", "render", "update"]

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
COLUMNS = ("metric", "paper", "ours", "holds", "seeds", "commit", "hardware", "time")
KEPT = ("app", "preset", "device", "seeds", "commit", "dirty", "hardware", "versions", "seconds")


def publish(folder: Path, results: Path) -> Path:
    """Copies from a run's result.json what is worth keeping into the results folder."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    kept = {key: result[key] for key in (*KEPT, "date", "metrics", "claims")}
    path = results / str(result["app"]) / f"{result['preset']}-{result['device']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def render(results: Path, app: str = "") -> str:
    """Returns the Markdown table of all results, or of one app; one row per claim."""
    columns = COLUMNS if app else ("app", *COLUMNS)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for path in sorted(results.glob(f"{app or '*'}/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for claim in result["claims"]:
            row = _row(result, claim)
            lines.append("| " + " | ".join(row[column] for column in columns) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No results yet."


def update(text: str, table: str) -> str:
    """Returns `text` with `table` between the two marks, unchanged if it has none."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return f"{head}{begin}\n{table}\n{end}{tail}" if end else text


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Renders all READMEs; with --check changes nothing and returns 1 if one is out of date."""
    pages = {root / "README.md": ""}
    pages |= {path: path.parent.name for path in sorted(root.glob("apps/*/README.md"))}
    stale = 0
    for path, app in pages.items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = update(old, render(root / "results", app))
        if new == old:
            continue
        if "--check" in argv:
            stale += 1
            print(f"{path.relative_to(root)} is out of date: run python -m apps._runner.table")
        else:
            path.write_text(new, encoding="utf-8")
            print(f"rendered {path.relative_to(root)}")
    return 1 if stale else 0


def _row(result: dict[str, Any], claim: dict[str, Any]) -> dict[str, str]:
    hardware = result["hardware"]
    processes = f" x {hardware['processes']}" if hardware["processes"] > 1 else ""
    seconds = result["seconds"]
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    row = {
        "app": f"[{result['app']}](apps/{result['app']})",
        "metric": claim["claim"],
        "paper": number(claim["paper"]),
        "ours": f"{number(claim['ours'])} ({result['preset']})",
        "holds": "yes" if claim["holds"] else "**no**",
        "seeds": number(result["seeds"]),
        "commit": result["commit"][:8] + ("+" if result["dirty"] else ""),
        "hardware": f"{hardware['device']}{processes}",
        "time": time,
    }
    return {key: " ".join(cell.split()).replace("|", "\\|") for key, cell in row.items()}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
