"""Every app is complete, its presets parse, and `python -m apps` lists exactly the apps."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
APPS = sorted(path.parent.name for path in ROOT.glob("apps/*/presets"))
PRESETS = sorted(ROOT.glob("apps/*/presets/*.toml"))

# Without an app there is nothing to parse: these tests then show up as skipped.


def parse_preset(path: Path) -> tuple[str, Any]:
    """Parses a preset against the settings of the app that owns it."""
    from apps._runner.settings import parse

    app = path.parent.parent.name
    settings = importlib.import_module(f"apps.{app}.settings").Settings
    return parse(settings, path.parent, [str(path)], prog=f"python -m apps.{app}")


@pytest.mark.parametrize("app", APPS)
def test_app_is_complete(root: Path, app: str) -> None:
    folder = root / "apps" / app
    modules = ["__main__.py", "settings.py", "train.py", "evaluate.py"]
    for file in ["README.md", *modules, "presets/smoke.toml", "tests"]:
        assert (folder / file).exists(), f"apps/{app} lacks {file}"


def test_every_folder_of_apps_is_an_app_or_glue(root: Path) -> None:
    folders = {path.parent.name for path in root.glob("apps/*/*.py")}
    assert {name for name in folders if not name.startswith("_")} == set(APPS)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_preset_parses(path: Path) -> None:
    name, _ = parse_preset(path)
    assert name == path.stem


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_preset_begins_with_what_it_costs(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("app", APPS)
def test_a_preset_with_an_unknown_key_is_refused(app: str, tmp_path: Path) -> None:
    from apps._runner.settings import UserError

    path = tmp_path / app / "presets" / "odd.toml"
    path.parent.mkdir(parents=True)
    path.write_text("no_such_setting = 1\n")
    with pytest.raises(UserError, match="no_such_setting"):
        parse_preset(path)


def test_the_overview_lists_exactly_the_apps(root: Path) -> None:
    if not (root / "apps" / "__main__.py").exists():
        pytest.skip("needs apps/__main__.py")
    words = [sys.executable, "-m", "apps"]
    shown = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"\bapps[./](?!_)(\w+)", shown)) == set(APPS)
