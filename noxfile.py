# /// script
# dependencies = ["nox>=2025.5.1"]
# ///
"""Sessions of the repository: `nox -l` lists them, plain `nox` runs what a pull request must pass.

Lists of packages and apps are read from the tree and from each pyproject.toml, never repeated.
Daily work needs none of this: `pip install -r requirements.txt`, then `pytest`.
"""

import datetime
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement
from packaging.version import Version

nox.needs_version = ">=2025.5.1"
nox.options.reuse_venv = "yes"
# uv does not read pip's configuration; who has none may pass `-db uv`.
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PACKAGES: dict[str, dict[str, Any]] = {
    path.parent.name: tomllib.loads(path.read_text())["project"]
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
APPS = sorted(path.parent.name for path in ROOT.glob("apps/*/presets"))
CONSTRAINTS = ("-c", "constraints.txt")
# With small latents two busy threads are several times slower than one.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


# What the tree says


def closure(name: str) -> list[str]:
    """Returns a package and the packages of this repository below it, lowest first."""
    needed = [Requirement(line).name for line in PACKAGES[name].get("dependencies", [])]
    order = [below for need in needed if need in PACKAGES for below in closure(need)]
    return list(dict.fromkeys([*order, name]))


def packages_of(app: str) -> list[str]:
    """Returns the packages that an app needs, lowest first, from its import statements."""
    sources = [*(ROOT / "apps" / app).rglob("*.py"), *(ROOT / "apps" / "_runner").rglob("*.py")]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    found = re.findall(r"^\s*(?:from|import) (lv_\w+)", text, flags=re.MULTILINE)
    names = sorted({module.replace("_", "-") for module in found} & PACKAGES.keys())
    return list(dict.fromkeys(low for name in names for low in closure(name)))


def editable(names: list[str]) -> list[str]:
    """Returns pip's arguments that install packages of this repository editable."""
    return [word for name in names for word in ("-e", f"packages/{name}")]


def test_tools(package: str) -> list[str]:
    """Returns pip's arguments for the test tools of a package and of those below it."""
    names = ["test", *(f"test-{name}" for name in closure(package))]
    files = [f"requirements/{name}.txt" for name in names]
    return [word for file in files if (ROOT / file).exists() for word in ("-r", file)]


def sibling_range(version: str) -> str:
    """Returns the range in which siblings of `version` are accepted: one minor while 0.x."""
    release = Version(version)
    upper = f"0.{release.minor + 1}" if release.major == 0 else str(release.major + 1)
    return f">={release.major}.{release.minor},<{upper}"


def set_version(root: Path, version: str) -> list[Path]:
    """Writes `version` and the sibling ranges that follow from it into a checkout.

    Arguments:
        root: Root of the checkout; every `packages/*/pyproject.toml` and `CITATION.cff` change.
        version: The new version, in the form of PEP 440.

    Returns:
        The files that were rewritten.

    Raises:
        packaging.version.InvalidVersion: If `version` is none.
        ValueError: If a pyproject has no line `version = "..."`.
    """
    version = str(Version(version))
    files = sorted(root.glob("packages/*/pyproject.toml"))
    siblings = "|".join(re.escape(path.parent.name) for path in files)
    for path in files:
        text, count = re.subn(
            r'^version = "[^"]*"', f'version = "{version}"', path.read_text(), flags=re.MULTILINE
        )
        if count != 1:
            raise ValueError(f'{path} must hold one line `version = "..."`, has {count}')
        ranges = rf'"({siblings})\s*[<>=~!][^"]*"'
        path.write_text(re.sub(ranges, rf'"\g<1>{sibling_range(version)}"', text))
    citation = root / "CITATION.cff"
    if citation.exists():
        text = re.sub(
            r"^version: .*$", f"version: {version}", citation.read_text(), flags=re.MULTILINE
        )
        citation.write_text(text)
        files.append(citation)
    return files


# What a pull request must pass


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff), formatting (ruff) and declared dependencies (deptry)."""
    session.install(*CONSTRAINTS, "-r", "requirements/lint.txt")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    for name in PACKAGES:
        with session.chdir(ROOT / "packages" / name):
            session.run("deptry", "src")


@nox.session
def types(session: nox.Session) -> None:
    """Check types of all packages (mypy --strict)."""
    session.install(*CONSTRAINTS, *editable(list(PACKAGES)), "-r", "requirements/lint.txt")
    session.run("mypy", *[f"packages/{name}/src" for name in PACKAGES], *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests of packages, apps and repository in one environment."""
    session.install("-r", "requirements.txt")
    session.run("pytest", *session.posargs, env=ENVIRONMENT)


# Rare jobs


@nox.session(default=False)
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def package(session: nox.Session, package: str) -> None:
    """Install one package alone, as a user would, and run its tests with shapes checked."""
    paths = [f"./packages/{name}" for name in closure(package)]
    session.install(*CONSTRAINTS, *paths, *test_tools(package))
    shapes = f"--jaxtyping-packages={package.replace('-', '_')},beartype.beartype"
    session.run("pytest", f"packages/{package}", shapes, *session.posargs, env=ENVIRONMENT)


def install_app(session: nox.Session, app: str) -> None:
    """Installs what one app needs."""
    names = packages_of(app)
    session.install(*CONSTRAINTS, *editable(names), "-r", "requirements/apps.txt")


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Reproduce one paper on embedded data in minutes: app sgds at preset smoke."""
    install_app(session, "sgds")
    words = list(session.posargs)
    # A finished folder is refused, so each demo gets its own unless the user names one.
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", f"runs/demo/{datetime.datetime.now():%Y%m%d-%H%M%S}"]
    session.run("python", "-m", "apps.sgds", "smoke", *words, env=ENVIRONMENT)


@nox.session(default=False)
@nox.parametrize("app", [nox.param(name, id=name) for name in APPS])
def app(session: nox.Session, app: str) -> None:
    """Run one app with nothing set up before: nox -s "app(sgds)" -- cpu --train.steps 500."""
    install_app(session, app)
    session.run("python", "-m", f"apps.{app}", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Run the tests marked slow, then every smoke preset end to end."""
    session.install("-r", "requirements.txt")
    session.run("pytest", "-m", "slow", *session.posargs, env=ENVIRONMENT, success_codes=[0, 5])
    for name in APPS:
        out = Path(session.create_tmp()) / f"smoke-{name}"
        shutil.rmtree(out, ignore_errors=True)
        words = ["smoke", "--out", str(out), "--check", "True"]
        session.run("python", "-m", f"apps.{name}", *words, env=ENVIRONMENT)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed against the naive version and the installed peers."""
    paths = editable(list(PACKAGES))
    session.install(*CONSTRAINTS, *paths, "-r", "requirements/bench.txt")
    session.run("python", "-m", "benchmarks", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into build/docs; a warning is an error."""
    names = ["lv-core", "lv-priors"]
    session.install(*CONSTRAINTS, *editable(names), "-r", "requirements/docs.txt")
    words = session.posargs or ["-W", "--keep-going", "-n"]
    session.run("sphinx-build", *words, "docs", "build/docs", env=ENVIRONMENT)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build sdist and wheel of each package into dist/ and check what they hold."""
    session.install(*CONSTRAINTS, "build", "twine")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for name in PACKAGES:
        session.run("python", "-m", "build", "--outdir", str(dist), f"packages/{name}")
    archives = sorted(str(path) for path in dist.iterdir())
    session.run("twine", "check", "--strict", *archives)
    for wheel in sorted(dist.glob("*.whl")):
        module = wheel.name.split("-")[0]
        held = zipfile.ZipFile(wheel).namelist()
        for end in (f"{module}/__init__.py", f"{module}/py.typed", "licenses/LICENSE"):
            if not any(path.endswith(end) for path in held):
                session.error(f"{wheel.name} lacks {end}")
        session.log(f"{wheel.name}: {len(held)} files")


@nox.session(default=False, venv_backend="none")
def bump(session: nox.Session) -> None:
    """Write a new version and its sibling ranges into all packages: nox -s bump -- 0.2.0."""
    if len(session.posargs) != 1:
        session.error("bump takes one version, as in: nox -s bump -- 0.2.0")
    for path in set_version(ROOT, session.posargs[0]):
        session.log(f"rewrote {path.relative_to(ROOT)}")


@nox.session(default=False)
def tables(session: nox.Session) -> None:
    """Write the numbers of results/ into the tables of the READMEs."""
    session.install(*CONSTRAINTS, *editable(list(PACKAGES)), "-r", "requirements/apps.txt")
    session.run("python", "-m", "apps._runner.table", *session.posargs, env=ENVIRONMENT)


if __name__ == "__main__":
    nox.main()
