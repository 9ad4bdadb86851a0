"""Results, the report, the tables in READMEs, several seeds."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apps.__main__ import render as render_apps
from apps.__main__ import rows
from apps._runner import Run, RunSettings, UserError, table
from apps._runner.report import number
from apps._runner.seeds import run_seeds, summarise

HOLDS = {"claim": "accuracy beats chance", "paper": 0.949, "ours": 0.948, "holds": True}
FAILS = {"claim": "a | b <c>", "paper": None, "ours": [1, 2.0], "holds": False}


def finish(folder, *, check=False, claims=(HOLDS, FAILS), **given):
    settings = RunSettings(out=str(folder), check=check, seed=3)
    run = Run(settings, app="made_up", preset="cpu", argv=["cpu"])
    run.log(0, loss=2.0)
    run.log(1, loss=1.0, bad=float("inf"))
    run.log(1, split="test", loss=1.5)
    return run, run.finish({"accuracy": 0.948, "per": {"x": float("nan")}}, claims, **given)


def test_result_holds_metrics_claims_and_what_made_them(tmp_path):
    _, result = finish(tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"] == {"accuracy": 0.948, "per": {"x": None}}
    assert result["claims"] == [HOLDS, FAILS]
    assert result["seeds"] == [3]
    assert {"commit", "dirty", "hardware", "versions", "seconds", "settings"} <= result.keys()


def test_the_last_line_names_the_report(tmp_path, capsys):
    finish(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"


def test_the_report_is_one_file_without_network(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    finish(
        tmp_path,
        figures={
            "A line": (figure, "Goes up."),
            "Molecules": '<svg xmlns="http://www.w3.org/2000/svg"><text>C</text></svg>',
            "Words": "<p>plain html</p>",
        },
        tables={"Best": [{"smiles": "CCO", "score": 1.23456}]},
        notes="What this is.\n\nA second paragraph with <tags>.",
    )
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 3  # two figures and the curves
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "url(" not in page
    assert "$" not in page
    for part in (
        "<p>What this is.</p>",
        "&lt;tags&gt;",
        "Goes up.",
        "<p>plain html</p>",
        "a | b &lt;c&gt;",
        '<td class="yes">✓ yes</td>',
        '<td class="no">✗ no</td>',
        "<td>1.235</td>",
        "<td>per.x</td>",
        "Settings",
        "Environment",
    ):
        assert part in page
    text = (tmp_path / "report.md").read_text()
    assert "![Goes up.](a-line.svg)" in text
    assert r"| a \| b <c> | - | 1, 2 | no |" in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "a-line.svg",
        "molecules.svg",
        "curves.svg",
    }


def test_the_same_figure_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        finish(tmp_path / name)
    assert (tmp_path / "a/curves.svg").read_bytes() == (tmp_path / "b/curves.svg").read_bytes()


def test_check_ends_with_status_1_when_a_claim_fails(tmp_path):
    finish(tmp_path / "holds", check=True, claims=[HOLDS])
    with pytest.raises(SystemExit) as end:
        finish(tmp_path / "fails", check=True)
    assert end.value.code == 1
    assert (tmp_path / "fails" / "report.html").exists()


def test_a_claim_without_all_its_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="claims need holds, got"):
        finish(tmp_path, claims=[{"claim": "x", "paper": 1, "ours": 1}])


def test_resuming_a_finished_run_makes_it_unfinished(tmp_path):
    run, _ = finish(tmp_path)
    run.save(2)
    settings = RunSettings(out=str(tmp_path), resume=True, seed=3)
    Run(settings, app="made_up", preset="cpu")
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "result.previous.json").exists()


def test_numbers_are_short():
    told = [number(x) for x in (0.123456, 123456.7, 12, None, True, [1, 0.5], "text")]
    assert told == ["0.1235", "123,457", "12", "-", "yes", "1, 0.5", "text"]


def test_tables_are_rendered_between_the_marks_and_checked(tmp_path, capsys):
    run, _ = finish(tmp_path / "run")
    path = run.publish(tmp_path / "results")
    assert path == tmp_path / "results" / "made_up" / f"cpu-{run.device.type}.json"
    assert "settings" not in json.loads(path.read_text())
    pages = [tmp_path / "README.md", tmp_path / "apps" / "made_up" / "README.md"]
    pages[1].parent.mkdir(parents=True)
    for page in pages:
        page.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    (tmp_path / "apps" / "other").mkdir()
    (tmp_path / "apps" / "other" / "README.md").write_text("no marks\n")
    assert table.main(["--check"], tmp_path) == 1
    assert "apps/made_up/README.md is out of date" in capsys.readouterr().out
    assert "old" in pages[0].read_text()
    assert table.main([], tmp_path) == 0
    assert table.main(["--check"], tmp_path) == 0
    text = pages[0].read_text()
    assert text.startswith("before\n<!-- results:begin -->\n| app | metric | paper |")
    assert text.endswith("<!-- results:end -->\nafter\n")
    cells = "| accuracy beats chance | 0.949 | 0.948 (cpu) | yes | 3 |"
    assert "| [made_up](apps/made_up) " + cells in text
    assert "**no**" in text
    assert cells in pages[1].read_text()
    assert "apps/made_up" not in pages[1].read_text()
    assert table.render(tmp_path / "nowhere") == "No results yet."


def test_the_table_of_apps_lists_folders_with_presets(tmp_path):
    folder = tmp_path / "apps" / "made_up"
    (folder / "presets").mkdir(parents=True)
    (folder / "README.md").write_text("# A paper (2020)\n\ntext\n# Not this\n")
    (folder / "train.py").write_text("import lv_molecule\n")
    (folder / "presets" / "cpu.toml").write_text("# 1 h, 2 cores\nseed = 1\n")
    (folder / "presets" / "smoke.toml").write_text("# 2 min, 2 cores.\n")
    (tmp_path / "apps" / "_runner").mkdir()
    run, _ = finish(tmp_path / "run")
    run.publish(tmp_path / "results")
    text = render_apps(rows(tmp_path / "apps", tmp_path / "results"))
    row = (
        "| A paper (2020) | apps.made_up | lv-molecule | smoke: 2 min, 2 cores; cpu: 1 h, 2 cores "
    )
    assert text.splitlines()[2].startswith(row)
    assert "1 of 2" in text
    assert len(text.splitlines()) == 3


CHILD = """
import json, pathlib, sys, time
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(words["--out"])
(out / "run.json").open("x")
print("seed", words["--seed"], "says", sys.argv[1])
if sys.argv[1] == "fail":
    sys.exit("went wrong")
if sys.argv[1] == "sleep":
    time.sleep(60)
seed = int(words["--seed"])
metrics = {"score": seed, "nested": {"x": 2.0 * seed}, "word": "a", "flag": True}
(out / "result.json").write_text(json.dumps({"metrics": metrics, "words": words}))
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "seed_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "seed_child"


def test_seeds_run_side_by_side_and_are_skipped_when_finished(child, tmp_path):
    out = tmp_path / "runs"
    (out / "seed-2").mkdir(parents=True)
    (out / "seed-2" / "run.json").write_text("{}")  # ended before its first checkpoint
    results = run_seeds(child, ["cpu"], seeds=[1, 2, 3], out=out, processes=2)
    assert [result["metrics"]["score"] for result in results] == [1, 2, 3]
    assert (out / "seed-3" / "log.txt").read_text() == "seed 3 says cpu\n"
    assert "--resume" not in results[1]["words"]
    assert run_seeds(child, ["fail"], seeds=[1, 2], out=out, processes=1) == results[:2]
    told = summarise(results)
    assert told["score"] == {"mean": 2.0, "min": 1.0, "max": 3.0, "std": 1.0, "n": 3}
    assert told["nested.x"]["mean"] == 4.0
    assert told.keys() == {"score", "nested.x"}
    assert summarise(results[:1])["score"]["std"] == 0.0


def test_an_unfinished_seed_is_resumed(child, tmp_path):
    out = tmp_path / "runs"
    (out / "seed-1").mkdir(parents=True)
    (out / "seed-1" / "state.pt").write_text("")
    results = run_seeds(child, ["cpu"], seeds=[1], out=out, processes=1)
    assert results[0]["words"]["--resume"] == "True"


def test_a_failing_seed_names_its_log_and_the_last_line(child, tmp_path):
    with pytest.raises(UserError) as error:
        run_seeds(child, ["fail"], seeds=[5], out=tmp_path, processes=1)
    log = tmp_path / "seed-5" / "log.txt"
    assert str(error.value) == f"a seed ended with status 1; see {log}: went wrong"


@pytest.mark.dist
def test_ending_the_parent_ends_the_children(child, tmp_path):
    code = (
        "from pathlib import Path\nfrom apps._runner.seeds import run_seeds\n"
        f"run_seeds({child!r}, ['sleep'], seeds=[1], out=Path({str(tmp_path)!r}), processes=1)\n"
    )
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin"}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    started = tmp_path / "seed-1" / "run.json"
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert parent.wait(20) != 0
    assert time.monotonic() - began < 15  # it waits for its child, which would sleep for 60 s
