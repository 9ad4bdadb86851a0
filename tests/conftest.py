"""Fixtures of the tests about the repository itself."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """Gives the root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def noxfile(root: Path) -> ModuleType:
    """Gives the noxfile as a module."""
    spec = importlib.util.spec_from_file_location("noxfile", root / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Gives the files that git tracks, or would if all were added."""
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("needs git and a checkout of it")
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    paths = [root / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]
