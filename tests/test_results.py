"""The tables of results in the READMEs say what results/ holds, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from apps._runner.table import BEGIN, END, main

ROOT = Path(__file__).parents[1]
RESULTS = sorted(ROOT.glob("results/*/*.json"))


def make_tree(root: Path) -> Path:
    """Makes a repository of one app with one result and its rendered tables."""
    record = {
        "app": "toy",
        "preset": "cpu",
        "device": "cpu",
        "seeds": 3,
        "commit": "0123456789",
        "dirty": False,
        "hardware": {"device": "cpu", "processes": 1},
        "seconds": 61.0,
        "claims": [{"claim": "accuracy", "paper": 0.949, "ours": 0.948, "holds": True}],
    }
    (root / "results" / "toy").mkdir(parents=True)
    (root / "results" / "toy" / "cpu-cpu.json").write_text(json.dumps(record))
    (root / "apps" / "toy").mkdir(parents=True)
    for folder in (root, root / "apps" / "toy"):
        (folder / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    main([], root=root)
    return root


def test_tables_equal_the_recorded_results(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--check"])
    assert status == 0, capsys.readouterr().out


def test_every_recorded_result_is_shown(root: Path) -> None:
    # A page without marks would pass the test above whatever it says.
    pages = {root / "README.md"} if RESULTS else set()
    pages |= {root / "apps" / path.parent.name / "README.md" for path in RESULTS}
    assert [page for page in pages if BEGIN not in page.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_result_belongs_to_a_preset_that_exists(root: Path, path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    assert path.parent.name == result["app"]
    assert path.stem == f"{result['preset']}-{result['device']}"
    assert (root / "apps" / result["app"] / "presets" / f"{result['preset']}.toml").exists()


def test_a_rendered_tree_passes(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    assert main(["--check"], root=root) == 0
    assert "0.948" in (root / "apps" / "toy" / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "apps/toy/README.md"])
def test_a_number_changed_by_hand_is_noticed(tmp_path: Path, page: str) -> None:
    path = make_tree(tmp_path) / page
    path.write_text(path.read_text().replace("0.948", "0.958"))
    assert main(["--check"], root=tmp_path) == 1


def test_a_changed_result_is_noticed(tmp_path: Path) -> None:
    path = make_tree(tmp_path) / "results" / "toy" / "cpu-cpu.json"
    path.write_text(path.read_text().replace("0.948", "0.958"))
    assert main(["--check"], root=tmp_path) == 1


def test_a_removed_result_is_noticed(tmp_path: Path) -> None:
    shutil.rmtree(make_tree(tmp_path) / "results")
    assert main(["--check"], root=tmp_path) == 1
