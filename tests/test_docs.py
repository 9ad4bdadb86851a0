"""The pages of the documentation hang together; test_readmes.py runs their blocks."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def dead_links(text: str, folder: Path) -> list[str]:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    return [link for link in links if not (folder / link.partition("#")[0]).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    assert dead_links((DOCS / page).read_text(encoding="utf-8"), (DOCS / page).parent) == []


def test_a_dead_link_is_noticed() -> None:
    assert dead_links("[a](index.md) [b](gone.md) [c](https://x.org)", DOCS) == ["gone.md"]


def test_every_page_is_in_the_table_of_contents() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^((?:guide|api)/[\w-]+)$", text, flags=re.MULTILINE)
    assert sorted(["index", *listed]) == sorted(page.removesuffix(".md") for page in PAGES)


def test_every_figure_is_shown_and_drawn() -> None:
    """Figures come from the script, but for the one that a README draws itself."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    script = (DOCS / "figures.py").read_text(encoding="utf-8")
    figures = [path for path in (DOCS / "_static").iterdir() if path.suffix in (".png", ".svg")]
    assert figures
    for figure in figures:
        assert f"_static/{figure.name})" in text
        assert figure.name in script or figure.name == "energy-prior.png"


@pytest.mark.parametrize("package", ["lv-core", "lv-priors"])
def test_readme_names_everything_that_is_public(package: str) -> None:
    names = set(import_module(package.replace("-", "_")).__all__)
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What there is")[2]
    assert sorted(names - set(re.findall(r"`(\w+)", table))) == []
