"""What the commands share: a model of a finished run, data sets by name, tables as text."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from apps._runner import UserError
from apps._runner.report import number
from apps._runner.run import write_json
from apps.ltm.cells import Cell
from apps.ltm.data import Text, reopen_text
from apps.ltm.settings import Corpus, Evaluate, Generate, Settings, Train
from lv_text import Batch, Inference, ThoughtConfig, ThoughtEncoder, ThoughtModel, Vocabulary

__all__ = ["Common", "Opened", "baseline_of", "batches", "data_set", "open_model", "table"]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command can be told."""

    run: str = "runs/ltm/cpu"
    """folder of a run"""
    model: str = ""
    """name of one of its models, such as fresh-0; empty = its first variant with latents"""
    seed: int = 0
    """all random numbers of the command are derived from it"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when torch sees one"""
    threads: int = 1
    """CPU threads; 0 leaves torch's own choice"""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A trained model with all that belongs to it."""

    folder: Path
    """Of the run."""
    settings: Settings
    """Of the run."""
    text: Text
    """Of the run."""
    vocabulary: Vocabulary
    """Of the text."""
    cell: Cell
    """What was trained."""
    model: ThoughtModel
    """In evaluation mode, on the device."""
    encoder: ThoughtEncoder | None
    """Of amortised methods."""
    device: torch.device
    """Where it is."""

    @property
    def latents(self) -> bool:
        """Whether it was trained with latents."""
        return self.cell.kind != "ar"

    def inference(self, steps: int = 0) -> Inference:
        """Returns how latents are inferred, in so many steps; 0 = as in training."""
        given = self.cell.inference
        if steps < 0:
            raise UserError(f"steps must be positive, or 0 as in training, got {steps}")
        if steps in (0, given.steps):
            return given
        # A given rate belongs to the steps it was given for: other numbers scale it.
        lr = None if given.lr is None else given.lr * given.steps / steps
        return replace(given, steps=steps, lr=lr)

    def need_latents(self, command: str) -> None:
        """Raises for the autoregressive model."""
        if not self.latents:
            raise UserError(
                f"{command} needs a model with latents, {self.cell.name} has none; there are: "
                + ", ".join(n for n in _names(self.folder) if not n.startswith("ar-"))
            )

    def write(self, command: str, found: Mapping[str, Any]) -> None:
        """Writes what a command found to the run folder and says where."""
        path = self.folder / f"{command}-{self.cell.name}.json"
        write_json(path, {"model": self.cell.name, **found})
        print(f"written: {path}")


def open_model(given: Common, *, name: str | None = None) -> Opened:
    """Returns a model of a run.

    Arguments:
        given: Words of the command line.
        name: Another model than that of the command line.

    Raises:
        UserError: If run, text or model are not there.
    """
    from apps.ltm.train import load_model

    folder = Path(given.run).expanduser()
    settings = _settings(folder)
    wanted = name or given.model or _first(folder, settings)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU; use --device cpu")
    if given.threads > 0:
        torch.set_num_threads(given.threads)
    cuda = given.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    text = reopen_text(folder, settings.corpus)
    cell, model, encoder = load_model(folder / "cells", wanted, text)
    if name is None:
        print(f"model: {cell.name} of {folder}", file=sys.stderr)
    return Opened(
        folder=folder,
        settings=settings,
        text=text,
        vocabulary=text.vocabulary(),
        cell=cell,
        model=model.to(device),
        encoder=None if encoder is None else encoder.to(device),
        device=device,
    )


def baseline_of(given: Common, opened: Opened) -> Opened | None:
    """Returns the run's autoregressive model of the same seed; None if there is none."""
    name = f"ar-{opened.cell.seed}"
    if name not in _names(opened.folder) or opened.cell.name == name:
        return None
    return open_model(given, name=name)


def batches(opened: Opened, blocks: int, size: int) -> Iterator[Batch]:
    """Yields held-out blocks, evenly spread over the split."""
    if blocks < 1:
        raise UserError(f"blocks must be positive, got {blocks}")
    store = opened.text.store("valid", opened.cell.model.length, opened.settings.corpus.blocks)
    index = torch.linspace(0, len(store) - 1, min(blocks, len(store))).round().long()
    for part in index.split(size):
        yield store.read(part).to(opened.device)


def data_set(name: str, path: str, data: str) -> Path:
    """Returns where a data set is: a path of the user's, or where the runner looks for it."""
    if path:
        if not Path(path).exists():
            raise UserError(f"path names no file or folder: {path!r}")
        return Path(path)
    from apps._runner.data import resolve

    return resolve(name, data)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns rows as text with aligned columns; the first row's keys are the columns."""
    columns = list(rows[0])
    cells = [columns, *([number(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _names(folder: Path) -> list[str]:
    """Returns the models of a run."""
    return sorted(p.name.removesuffix(".state.pt") for p in folder.glob("cells/*.state.pt"))


def _first(folder: Path, settings: Settings) -> str:
    """Returns the run's first model with latents; its first at all if none has."""
    names = _names(folder)
    if not names:
        raise UserError(f"{folder} holds no trained model yet; resume it with --resume True")
    planned = [f"{v}-{settings.seed}".replace("_", "-") for v in settings.variants if v != "ar"]
    others = [name for name in names if not name.startswith("ar-")]
    return next(name for name in (*planned, *others, *names) if name in names)


def _settings(folder: Path) -> Settings:
    path = folder / "run.json"
    if not path.exists():
        raise UserError(f"{folder} holds no run (no run.json); give the folder of one with --run")
    try:
        record = json.loads(path.read_text("utf-8"))
        app, values = record["app"], dict(record["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if app != "ltm":
        raise UserError(f"{folder} holds a run of the app {app!r}, not of 'ltm'")
    parts = {
        "corpus": Corpus,
        "model": ThoughtConfig,
        "inference": Inference,
        "train": Train,
        "evaluate": Evaluate,
        "generate": Generate,
    }
    try:
        for name, kind in parts.items():
            values[name] = kind(**_tuples(values[name]))
        return Settings(**_tuples(values))
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} was written by another version of the app: {error}") from None


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as the settings hold them: JSON has lists only."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
