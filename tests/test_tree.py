"""What is committed is small and belongs to no one machine."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

LIMIT = 1024 * 1024  # bytes; data and weights do not belong into the repository
# An absolute path into somebody's folders, not part of an address or of a longer path.
MACHINE_PATH = re.compile(
    r"(?<![\w.~}:/-])(?:/(?:work|home|root|Users|tmp|mnt|scratch|opt)/[\w.-]|[A-Z]:\\Users\\)"
)


def machine_paths(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if MACHINE_PATH.search(line)]


def test_no_file_is_over_one_mebibyte(root: Path, tracked: list[Path]) -> None:
    large = {str(path.relative_to(root)): path.stat().st_size for path in tracked}
    assert {name: size for name, size in large.items() if size > LIMIT} == {}


def test_no_file_names_a_machine_path(root: Path, tracked: list[Path]) -> None:
    found = {}
    for path in tracked:
        try:
            lines = machine_paths(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:  # an image
            continue
        if lines and path != Path(__file__):
            found[str(path.relative_to(root))] = lines
    assert found == {}


@pytest.mark.parametrize(
    "line",
    ["cd /opt/lv", 'open("/home/ann/data.csv")', "--out=/tmp/x", r"C:\Users\ann", "/mnt/runs"],
)
def test_a_machine_path_is_noticed(line: str) -> None:
    assert machine_paths(line) == [line]


@pytest.mark.parametrize(
    "line", ["https://example.org/home/ann", "runs/tmp/x", "#!/usr/bin/env bash", "a/opt/b"]
)
def test_other_paths_are_allowed(line: str) -> None:
    assert machine_paths(line) == []


def test_ci_script_is_executable_and_parses(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    subprocess.run([bash, "-n", str(script)], check=True)


def test_all_green_waits_for_every_job(root: Path) -> None:
    text = (root / ".github" / "workflows" / "ci.yml").read_text()
    jobs = re.findall(r"^  ([\w-]+):", text.split("\njobs:\n")[1], flags=re.MULTILINE)
    (needs,) = re.findall(r"all-green:.*?needs: \[([^\]]*)\]", text, flags=re.DOTALL)
    assert sorted([*needs.split(", "), "all-green"]) == sorted(jobs)
