"""Every python block of READMEs and documentation runs and prints what the text shows."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = [
    *("*.md", "packages/*/*.md", "apps/*.md", "apps/*/*.md", "benchmarks/*.md", "data/*.md"),
    *("docs/*.md", "docs/guide/*.md"),
]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for pattern in PATTERNS for path in ROOT.glob(pattern)
)


SHOWING = (
    *("docs/", "packages/lv-core/", "packages/lv-neuro/", "packages/lv-priors/"),
    "packages/lv-text/",
    "packages/lv-dynamics/",
)
"""Documents that show all that their blocks print."""
# A python block, and the block of text right behind it, which shows what it prints.
SHOWN = re.compile(
    r"^```python\n.*?^```(?:\n\n```text\n(?P<shown>.*?)^```)?", flags=re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"(?<![A-Za-z_])-?\d+(?:\.\d+)?")


def blocks(text: str, language: str = "python") -> Iterator[tuple[int, str]]:
    """Yields first line number and source of each fenced block of a language."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n") + 1, match.group(1)


def run_blocks(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the blocks of one document in order, sharing one namespace; returns what each prints.

    Fails where a block is followed by a block of text that shows another output.
    """
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    outputs = []
    for line, source in blocks(text):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            # Blank lines in front make tracebacks point at the line in the document.
            exec(compile("\n" * (line - 1) + source, name, "exec"), module.__dict__)
        outputs.append(output.getvalue())
    shown = [match["shown"] for match in SHOWN.finditer(text)]
    assert len(shown) == len(outputs)
    pairs = zip(outputs, shown, strict=True)
    assert [d for was, said in pairs if said is not None for d in differences(was, said)] == []
    return outputs


def differences(printed: str, shown: str) -> list[str]:
    """Returns what differs: words must agree, numbers to a tenth and a few of the last digits.

    Chains take other turns on other processors and with other versions of libraries, so that
    estimates move by their standard errors; words, layout and sizes do not.
    """
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (printed, shown)]
    if words[0] != words[1]:
        return [f"printed {printed!r}, shown {shown!r}"]
    wrong = []
    for was, said in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        decimals = len(said.partition(".")[2])
        allowed = 0.1 * abs(float(said)) + (5 * 10.0**-decimals if decimals else 0.0)
        if abs(float(was) - float(said)) > allowed:
            wrong.append(f"printed {was}, shown {said}")
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(
    root: Path, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (root / document).read_text(encoding="utf-8")
    outputs = run_blocks(text, document, monkeypatch)
    if document.startswith(SHOWING):
        shown = [match["shown"] for match in SHOWN.finditer(text)]
        assert [bool(output) for output in outputs] == [bool(said) for said in shown]


@pytest.mark.parametrize(
    "readme", sorted(ROOT.glob("packages/*/README.md")), ids=lambda p: p.parent.name
)
def test_first_example_of_a_package_prints_something(
    readme: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = readme.read_text(encoding="utf-8")
    first = next((source for _, source in blocks(text)), None)
    assert first is not None, f"{readme} holds no python block"
    assert run_blocks(f"```python\n{first}```", str(readme), monkeypatch)[0].strip()


def test_a_failing_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# t\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run_blocks(text, "t.md", monkeypatch)
    assert failure.traceback[-1].lineno + 1 == 10


def test_blocks_share_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\nx = 1\n```\n```text\nnot python\n```\n```python\nassert x == 1\n```\n"
    assert run_blocks(text, "t.md", monkeypatch) == ["", ""]


@pytest.mark.parametrize(
    ("printed", "wrong"),
    [
        ("mean 1.02 of 400 words", 0),
        ("mean 1.20 of 400 words", 1),
        ("mean 1.02 of 500 words", 1),
        ("mean 1.02 of 400 lines", 1),
        ("mean -1.02 of 400 words", 1),
        ("", 1),
    ],
)
def test_other_numbers_and_other_words_are_noticed(
    printed: str, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(differences(printed, "mean 1.00 of 400 words")) == wrong
    text = f"```python\nprint({printed!r})\n```\n\n```text\nmean 1.00 of 400 words\n```\n"
    expected = pytest.raises(AssertionError) if wrong else contextlib.nullcontext()
    with expected:
        run_blocks(text, "t.md", monkeypatch)


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
