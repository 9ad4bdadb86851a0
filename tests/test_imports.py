"""Imports point downwards: lv_core < lv_priors < domain packages < apps."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and full name of every absolute import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def layer(module: str) -> int:
    """Returns the layer of a package of ours: it may import lower ones and itself."""
    return {"lv_core": 0, "lv_priors": 1}.get(module, 2)


def allowed(importer: str, target: str) -> bool:
    """Says whether a file of `importer` (lv_x, apps._runner or apps.x) may import `target`."""
    top, _, rest = target.partition(".")
    if top == "apps":
        app = rest.split(".")[0]
        glue = {"_runner"} | ({"__main__"} if importer == "apps._runner" else set())
        return importer == f"apps.{app}" or (importer.startswith("apps.") and app in glue)
    if not top.startswith("lv_") or importer.startswith("apps."):
        return True
    return top == importer or layer(top) < layer(importer)


def forbidden_imports(root: Path) -> list[str]:
    """Names every import in packages/ and apps/ that breaks the order."""
    files = [
        (path, path.relative_to(root / "packages").parts[0].replace("-", "_"))
        for path in root.glob("packages/*/*/**/*.py")
    ]
    files += [
        (path, f"apps.{path.relative_to(root).parts[1]}") for path in root.glob("apps/*/**/*.py")
    ]
    return [
        f"{path.relative_to(root)}:{line} imports {target}"
        for path, importer in sorted(files)
        for line, target in imported(path)
        if not allowed(importer, target)
    ]


def test_no_module_imports_upwards(root: Path) -> None:
    assert forbidden_imports(root) == []


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("packages/lv-core/src/lv_core/a.py", "import lv_priors"),
        ("packages/lv-core/tests/test_a.py", "from lv_priors.base import Prior"),
        ("packages/lv-priors/src/lv_priors/a.py", "def f():\n    from lv_molecule import pool"),
        ("packages/lv-molecule/src/lv_molecule/a.py", "import lv_text.model as model"),
        ("packages/lv-molecule/src/lv_molecule/a.py", "from apps._runner import run"),
        ("apps/_runner/run.py", "from apps.sgds import train"),
        ("apps/sgds/train.py", "from apps import ltm"),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, file: str, statement: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(statement)
    (found,) = forbidden_imports(tmp_path)
    assert found.startswith(file)


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("packages/lv-priors/src/lv_priors/a.py", "from lv_core import Langevin"),
        ("packages/lv-molecule/src/lv_molecule/a.py", "from lv_molecule.pool import Pool"),
        ("packages/lv-molecule/src/lv_molecule/a.py", "from . import pool"),
        ("apps/sgds/train.py", "from apps._runner.run import Run\nfrom apps.sgds import settings"),
        ("apps/sgds/train.py", "import lv_molecule, torch"),
    ],
)
def test_a_downward_import_is_allowed(tmp_path: Path, file: str, statement: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(statement)
    assert forbidden_imports(tmp_path) == []
