"""The noxfile offers the documented sessions, and derives its lists from the tree."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

RARE = {"package", "demo", "slow", "bench", "build", "bump", "tables"}


def listed(root: Path, *words: str) -> set[str]:
    command = [sys.executable, "-m", "nox", "-f", str(root / "noxfile.py"), "-l", "--json", *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {entry["session"] for entry in json.loads(output)}


def test_a_pull_request_runs_lint_types_and_tests(noxfile: ModuleType) -> None:
    functions = noxfile.nox.registry.get()
    defaults = {name for name, function in functions.items() if function.default}
    assert defaults - {"app"} == {"lint", "types", "tests"}
    assert functions.keys() >= RARE


def test_every_session_explains_itself(noxfile: ModuleType) -> None:
    functions = noxfile.nox.registry.get()
    assert [
        name for name, function in functions.items() if not (function.func.__doc__ or "")
    ] == []


def test_package_sessions_are_the_packages(root: Path) -> None:
    names = {path.parent.name for path in root.glob("packages/*/pyproject.toml")}
    assert listed(root, "-s", "package") == {f"package({name})" for name in names}


def test_app_sessions_are_the_apps(root: Path) -> None:
    names = {path.parent.name for path in root.glob("apps/*/presets")}
    if not names:
        pytest.skip("needs an app")
    assert listed(root, "-s", "app") == {f"app({name})" for name in names}


def test_closure_lists_lower_packages_first(noxfile: ModuleType) -> None:
    assert noxfile.closure("lv-molecule") == ["lv-core", "lv-priors", "lv-molecule"]
    assert noxfile.closure("lv-core") == ["lv-core"]
