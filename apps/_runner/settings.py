"""Settings of an app: dataclass defaults, then a preset file, then the command line."""

import contextlib
import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

__all__ = ["RunSettings", "UserError", "cli_errors", "flatten", "parse"]

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the user: one line that says what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every app can be told."""

    seed: int = 0
    """all random numbers of the run are derived from it"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when torch sees one; on a GPU float32 products use TF32 unless
    deterministic"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; latents and log densities stay float32"""
    threads: int = 1
    """CPU threads of each process; 0 leaves torch's own choice (small latents are faster on 1)"""
    out: str = ""
    """run folder; empty means runs/<app>/<preset>"""
    data: str = ""
    """folder with one sub-folder per data set; empty means $LV_DATA, the user cache, a download"""
    resume: bool = False
    """continue the run in the folder from its checkpoint"""
    deterministic: bool = False
    """refuse operations whose result varies between runs on a GPU"""
    check: bool = False
    """end with exit status 1 when a claim does not hold"""


@contextlib.contextmanager
def cli_errors(prog: str, *also: type[Exception]) -> Iterator[None]:
    """Ends the program with one line on stderr, without traceback, for mistakes of the user.

    These become exit status 2: `UserError` and the classes in `also` (an app lists the
    ValueErrors its libraries raise for bad input, e.g. `lv_molecule.MoleculeError`).
    Ctrl-C becomes exit status 130. Everything else is a bug and keeps its traceback.

    Arguments:
        prog: The name that starts the line, e.g. `python -m apps.sgds`.
        also: Further exception classes that a user can cause.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *also)
    try:
        yield
    except mistakes as error:
        # A UserError is raised in all processes; others may strike one alone, which must say so.
        if is_first_process() or not isinstance(error, UserError):
            print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if is_first_process():
            print(f"{prog}: stopped; continue with --resume True", file=sys.stderr)
        raise SystemExit(130) from None


def is_first_process() -> bool:
    """Tells whether this process is rank 0 of its torchrun group, or alone."""
    return os.environ.get("RANK", "0") == "0"


def parse(
    settings_type: type[T], presets: Path, argv: Sequence[str], *, prog: str
) -> tuple[str, T]:
    """Reads a preset and the command line.

    Arguments:
        settings_type: Frozen dataclass; every field has a default.
        presets: Folder with the app's `<name>.toml` files.
        argv: Words after the program's name. The first may be a preset's name or the path of
            a .toml file; without it the preset is "smoke".
        prog: Name of the program in help and errors.

    Returns:
        The preset's name (the stem of the file) and the settings.

    Raises:
        UserError: For an unknown preset, or a file that does not fit the settings.
        SystemExit: From tyro, status 2 for a mistake on the command line, 0 for --help.
    """
    named = bool(argv) and not argv[0].startswith("-")
    word, rest = (argv[0], argv[1:]) if named else ("smoke", argv)
    path = _preset_path(word, Path(presets))
    preset = _read_preset(settings_type, path)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            settings = tyro.cli(
                settings_type,
                args=list(rest),
                default=preset,
                prog=f"{prog} {word}",
                config=(tyro.conf.FlagConversionOff,),
                console_outputs=is_first_process(),
            )
    except SystemExit as end:
        if end.code and is_first_process():
            print(f"{prog} {word}: {_complaint(box.getvalue())}; see --help", file=sys.stderr)
        raise
    return path.stem, settings


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested tables as one, with dots between the names: `{"train.steps": 40}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _preset_path(word: str, presets: Path) -> Path:
    if word.endswith(".toml"):
        if not Path(word).is_file():
            raise UserError(f"there is no preset file {word}")
        return Path(word)
    names = sorted(path.stem for path in presets.glob("*.toml"))
    if word not in names:
        raise UserError(f"unknown preset {word!r}; there are: {', '.join(names)}")
    return presets / f"{word}.toml"


def _read_preset(settings_type: type[T], path: Path) -> T:
    try:
        flat = flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    settings, complaint = _try(settings_type, flat)
    if settings is not None:
        return settings
    for key, value in flat.items():  # one by one, only now: which key is it?
        alone, message = _try(settings_type, {key: value})
        if alone is None:
            raise UserError(f"{path}: {key} = {value!r}: {message}")
    raise UserError(f"{path}: {complaint}")


def _try(settings_type: type[T], flat: Mapping[str, Any]) -> tuple[T | None, str]:
    """Parses the words one would type for these keys; returns tyro's complaint as one line."""
    words: list[str] = []
    for key, value in flat.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        else:
            words.append(f"--{key}={value}")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), contextlib.redirect_stdout(box):
            settings = tyro.cli(settings_type, args=words, config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        return None, _complaint(box.getvalue())
    return settings, ""


def _complaint(boxed: str) -> str:
    """Returns what tyro says in its box as one line, without title, rules and frame."""
    lines = [re.sub(r"^[│|]\s*|\s*[│|]$", "", line) for line in boxed.splitlines()]
    told = [line for line in lines if re.search(r"\w", line) and "full helptext" not in line]
    return " ".join(" ".join(told[1:]).split())  # told[0] is the title of the box
