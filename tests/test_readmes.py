"""Every python block of every README runs as it stands, and commands name what exists."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = ["*.md", "packages/*/*.md", "apps/*.md", "apps/*/*.md", "benchmarks/*.md", "data/*.md"]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for pattern in PATTERNS for path in ROOT.glob(pattern)
)


def blocks(text: str, language: str = "python") -> Iterator[tuple[int, str]]:
    """Yields first line number and source of each fenced block of a language."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n") + 1, match.group(1)


def run_blocks(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the blocks of one document in order, sharing one namespace; returns their number."""
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    count = 0
    for line, source in blocks(text):
        # Blank lines in front make tracebacks point at the line in the document.
        exec(compile("\n" * (line - 1) + source, name, "exec"), module.__dict__)
        count += 1
    return count


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(
    root: Path, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks((root / document).read_text(encoding="utf-8"), document, monkeypatch)


@pytest.mark.parametrize(
    "readme", sorted(ROOT.glob("packages/*/README.md")), ids=lambda p: p.parent.name
)
def test_first_example_of_a_package_prints_something(
    readme: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = readme.read_text(encoding="utf-8")
    first = next((source for _, source in blocks(text)), None)
    assert first is not None, f"{readme} holds no python block"
    run_blocks(f"```python\n{first}```", str(readme), monkeypatch)
    assert capsys.readouterr().out.strip()


def test_a_failing_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# t\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run_blocks(text, "t.md", monkeypatch)
    assert failure.traceback[-1].lineno + 1 == 10


def test_blocks_share_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\nx = 1\n```\n```text\nnot python\n```\n```python\nassert x == 1\n```\n"
    assert run_blocks(text, "t.md", monkeypatch) == 2


def test_documents_name_sessions_and_apps_that_exist(root: Path, noxfile: ModuleType) -> None:
    sessions = set(noxfile.nox.registry.get())
    sessions |= {f"package({name})" for name in noxfile.PACKAGES}
    sessions |= {f"app({name})" for name in noxfile.APPS}
    wrong = []
    for document in DOCUMENTS:
        text = (root / document).read_text(encoding="utf-8")
        named = re.findall(r'nox -s "?([a-z]+(?:\([a-z_-]+\))?)', text)
        wrong += [f"{document}: nox -s {name}" for name in named if name not in sessions]
        modules = re.findall(r"python -m apps\.([a-z]\w*)", text)
        wrong += [f"{document}: apps.{name}" for name in modules if name not in noxfile.APPS]
    assert wrong == []
