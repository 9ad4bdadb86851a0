"""Versions, ranges and files of the packages agree."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


def project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def requirements(table: dict[str, Any]) -> list[Requirement]:
    return [Requirement(line) for line in table.get("dependencies", [])]


def pins(path: Path) -> dict[str, Version]:
    found = re.findall(r"^([\w-]+)==(\S+)$", path.read_text(), flags=re.MULTILINE)
    return {name: Version(version) for name, version in found}


def disagreements(root: Path, sibling_range: Any) -> list[str]:
    """Names every version or sibling range that differs from that of the first package."""
    folders = sorted(path.parent for path in root.glob("packages/*/pyproject.toml"))
    version = project(folders[0])["version"]
    wrong = []
    for folder in folders:
        table = project(folder)
        if table["version"] != version:
            wrong.append(f"{folder.name} is {table['version']}, {folders[0].name} is {version}")
        for need in requirements(table):
            rule = Requirement(f"{need.name}{sibling_range(version)}").specifier
            if need.name in {other.name for other in folders} and need.specifier != rule:
                wrong.append(f"{folder.name} needs {need}, the rule is {rule}")
    return wrong


def copy_of_metadata(root: Path, to: Path) -> Path:
    for name in NAMES:
        (to / "packages" / name).mkdir(parents=True)
        text = (root / "packages" / name / "pyproject.toml").read_text()
        (to / "packages" / name / "pyproject.toml").write_text(text)
    (to / "CITATION.cff").write_text((root / "CITATION.cff").read_text())
    return to


def test_versions_and_sibling_ranges_agree(root: Path, noxfile: ModuleType) -> None:
    assert disagreements(root, noxfile.sibling_range) == []


def test_a_stray_version_is_noticed(root: Path, noxfile: ModuleType, tmp_path: Path) -> None:
    copy = copy_of_metadata(root, tmp_path)
    path = copy / "packages" / NAMES[-1] / "pyproject.toml"
    path.write_text(path.read_text().replace("lv-core>=0.1", "lv-core>=0.0"))
    assert len(disagreements(copy, noxfile.sibling_range)) == 1


def test_citation_states_the_version(root: Path) -> None:
    version = project(root / "packages" / NAMES[0])["version"]
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_package_is_complete(root: Path, name: str) -> None:
    folder = root / "packages" / name
    module = name.replace("-", "_")
    inner = [f"src/{module}/py.typed", f"src/{module}/__init__.py"]
    for file in ["README.md", "LICENSE", "tests", *inner]:
        assert (folder / file).exists(), f"{name} lacks {file}"
    assert (folder / "LICENSE").read_text() == (root / "LICENSE").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_version_is_written_in_one_place(root: Path, name: str) -> None:
    module = __import__(name.replace("-", "_"))
    assert module.__version__ == importlib.metadata.version(name)
    sources = (root / "packages" / name / "src").rglob("*.py")
    literal = re.compile(r"__version__\s*=\s*[\"']")
    assert [path for path in sources if literal.search(path.read_text())] == []


@pytest.mark.parametrize("name", NAMES)
def test_tested_versions_lie_in_the_declared_ranges(root: Path, name: str) -> None:
    tested = pins(root / "constraints.txt")
    for need in requirements(project(root / "packages" / name)):
        if need.name in NAMES:
            continue
        assert need.name in tested, f"{need.name} of {name} has no line in constraints.txt"
        assert tested[need.name] in need.specifier


@pytest.mark.parametrize("name", ["lv-core", "lv-priors"])
def test_oldest_versions_are_the_lower_bounds(root: Path, name: str) -> None:
    oldest = pins(root / "constraints-oldest.txt")
    for need in requirements(project(root / "packages" / name)):
        if need.name in NAMES:
            continue
        (bound,) = [Version(rule.version) for rule in need.specifier if rule.operator == ">="]
        assert oldest[need.name].release[:2] == bound.release[:2]


def test_torch_is_pinned_without_a_local_suffix(root: Path) -> None:
    # "==2.13.0+cpu" would force one build, "==2.13.0" takes whichever is offered.
    assert pins(root / "constraints.txt")["torch"].local is None


def test_requirements_install_every_package_editable(root: Path) -> None:
    text = (root / "requirements.txt").read_text()
    found = re.findall(r"^-e packages/(\S+)$", text, flags=re.MULTILINE)
    assert sorted(found) == NAMES
    named = {requirement for requirement in re.findall(r"^-[rc] (\S+)$", text, flags=re.MULTILINE)}
    assert all((root / file).exists() for file in named)


def test_every_required_tool_is_pinned(root: Path) -> None:
    tested = pins(root / "constraints.txt")
    for path in sorted(root.glob("requirements/*.txt")):
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
        assert [line for line in lines if line and line not in tested] == []


def test_bump_rewrites_versions_and_ranges(
    root: Path, noxfile: ModuleType, tmp_path: Path
) -> None:
    copy = copy_of_metadata(root, tmp_path)
    noxfile.set_version(copy, "0.2.0")
    assert {project(copy / "packages" / name)["version"] for name in NAMES} == {"0.2.0"}
    assert disagreements(copy, noxfile.sibling_range) == []
    assert "\nversion: 0.2.0\n" in (copy / "CITATION.cff").read_text()
    needs = {need.name: need for need in requirements(project(copy / "packages/lv-molecule"))}
    assert Version("0.2.7") in needs["lv-core"].specifier
    assert Version("0.1.9") not in needs["lv-core"].specifier
    before = {need.name: need for need in requirements(project(root / "packages/lv-molecule"))}
    assert needs["torch"] == before["torch"]


def test_bump_to_the_same_version_changes_nothing(
    root: Path, noxfile: ModuleType, tmp_path: Path
) -> None:
    copy = copy_of_metadata(root, tmp_path)
    noxfile.set_version(copy, project(root / "packages" / NAMES[0])["version"])
    for name in NAMES:
        path = f"packages/{name}/pyproject.toml"
        assert (copy / path).read_text() == (root / path).read_text()


def test_bump_refuses_what_is_no_version(root: Path, noxfile: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InvalidVersion):
        noxfile.set_version(copy_of_metadata(root, tmp_path), "next")


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.1.3", ">=0.1,<0.2"), ("0.12.0", ">=0.12,<0.13"), ("1.4.2", ">=1.4,<2")],
)
def test_sibling_range(noxfile: ModuleType, version: str, accepted: str) -> None:
    assert noxfile.sibling_range(version) == accepted
