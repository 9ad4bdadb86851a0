"""`python -m apps.ltm generate|evaluate|zero-shot|gsm8k|probe`: what trained models can do."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from apps._runner import cli_errors
from apps._runner.settings import _complaint  # the same words for the same mistakes
from apps.ltm import (
    commands_evaluate,
    commands_generate,
    commands_gsm8k,
    commands_probe,
    commands_zero_shot,
)

__all__ = ["COMMANDS", "command"]

PROG = "python -m apps.ltm"

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "generate": (commands_generate.Settings, commands_generate.run),
    "evaluate": (commands_evaluate.Settings, commands_evaluate.run),
    "zero-shot": (commands_zero_shot.Settings, commands_zero_shot.run),
    "gsm8k": (commands_gsm8k.Settings, commands_gsm8k.run),
    "probe": (commands_probe.Settings, commands_probe.run),
}


def command(argv: Sequence[str]) -> None:
    """Runs a command.

    Arguments:
        argv: Its name and its flags.

    Raises:
        SystemExit: Status 2 with one line on stderr for a mistake, 0 after --help.
    """
    kind, run = COMMANDS[argv[0]]
    prog = f"{PROG} {argv[0]}"
    given = _parse(kind, argv[1:], prog)
    with cli_errors(prog, ValueError, FloatingPointError, FileNotFoundError):
        run(given)


def _parse(kind: type[Any], argv: Sequence[str], prog: str) -> Any:  # noqa: ANN401 - of `kind`
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                kind, args=list(argv), prog=prog, config=(tyro.conf.FlagConversionOff,)
            )
    except SystemExit as end:
        if end.code:
            print(f"{prog}: {_complaint(box.getvalue())}; see --help", file=sys.stderr)
        raise
