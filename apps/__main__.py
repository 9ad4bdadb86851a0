"""Prints the table of apps: `python -m apps`."""

import json
from collections.abc import Sequence
from pathlib import Path

APPS = Path(__file__).parent
PACKAGES = ("lv_text", "lv_molecule", "lv_rl", "lv_dynamics", "lv_neuro", "lv_dialogue", "lv_bbo")


def rows(apps: Path, results: Path) -> list[dict[str, str]]:
    """Returns one row per folder of `apps` that has presets."""
    return [
        {
            "paper": _title(folder),
            "app": f"apps.{folder.name}",
            "package": _packages(folder),
            "presets": "; ".join(_cost(path) for path in _presets(folder)),
            "reproduced": _claims(results / folder.name),
        }
        for folder in sorted(path.parent for path in apps.glob("*/presets"))
    ]


def render(table: Sequence[dict[str, str]]) -> str:
    """Returns the table as Markdown."""
    head = ("paper", "app", "package", "presets with cost", "claim reproduced?")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in table]
    return "\n".join(lines)


def _presets(folder: Path) -> list[Path]:
    order = ("smoke", "cpu", "gpu", "paper")
    rank = {name: number for number, name in enumerate(order)}
    return sorted(
        (folder / "presets").glob("*.toml"), key=lambda p: (rank.get(p.stem, len(order)), p.stem)
    )


def _cost(preset: Path) -> str:
    lines = preset.read_text(encoding="utf-8").splitlines()
    first = lines[0] if lines and lines[0].startswith("#") else "# cost not stated"
    return f"{preset.stem}: {first.lstrip('# ').rstrip('.')}"


def _title(folder: Path) -> str:
    page = folder / "README.md"
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    return next((line[2:].strip() for line in lines if line.startswith("# ")), folder.name)


def _packages(folder: Path) -> str:
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return ", ".join(name.replace("_", "-") for name in PACKAGES if name in code) or "lv-core"


def _claims(folder: Path) -> str:
    told = []
    for path in sorted(folder.glob("*.json")):
        holds = [claim["holds"] for claim in json.loads(path.read_text("utf-8"))["claims"]]
        told.append(f"{path.stem}: {sum(holds)} of {len(holds)}")
    return "; ".join(told) or "not yet"


if __name__ == "__main__":
    print(render(rows(APPS, APPS.parent / "results")))
