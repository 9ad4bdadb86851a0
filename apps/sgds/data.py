"""Molecules as tokens and property values; prepared once and cached."""

import csv
import gzip
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pooch
import torch
from torch import Tensor
from tqdm import tqdm

from apps._runner import Run, UserError
from apps.sgds.settings import Data

__all__ = ["PROPERTIES", "Molecules", "load"]

PROPERTIES = {"plogp": "penalised_logp_unnormalised", "qed": "qed"}
"""Name in the app to name in `lv_molecule.PROPERTIES`."""

T = TypeVar("T")

_FORMAT = 3
_EMBEDDED = 8000
_SMALL = 2000  # below this many molecules, starting processes costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Molecules:
    """What a run learns from.

    Arguments:
        symbols: The vocabulary, sorted.
        tokens: Training strings, shape `(n, length)`, int16 to save memory.
        values: Training values by property, each of shape `(n,)`.
        holdout_smiles: Held-out molecules, canonical.
        holdout_tokens: Their strings.
        holdout_values: Their values.
        reference: Canonical SMILES of ALL known molecules (training and held-out, whatever the
            subset), against which novelty is judged.
        screening: Values by property of all known molecules, for the random-screening control.
    """

    symbols: tuple[str, ...]
    tokens: Tensor
    values: dict[str, Tensor]
    holdout_smiles: list[str]
    holdout_tokens: Tensor
    holdout_values: dict[str, Tensor]
    reference: frozenset[str]
    screening: dict[str, Tensor]


def load(run: Run, settings: Data) -> Molecules:
    """Returns the molecules of a run; the slow conversion is cached for the next one."""
    folder = run.data("zinc250k") if settings.source == "zinc250k" else None
    # Canonical SMILES and SELFIES are spelt otherwise by other versions of these libraries.
    made_by = [version(name) for name in ("rdkit", "selfies", "lv-molecule")]
    key = json.dumps([_FORMAT, made_by, asdict(settings), str(folder and _stamp(folder))])
    name = f"{settings.source}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    path = Path(pooch.os_cache("lv")) / "sgds" / name
    if path.exists():
        try:
            return _unpack(torch.load(path, weights_only=True))
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
            path.unlink()  # a cache of ours, damaged: made anew from the checked source
    rows = _embedded(settings) if folder is None else _zinc(folder)
    record = _prepare(rows, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(record, temporary)
    temporary.replace(path)
    return _unpack(record)


def _stamp(folder: Path) -> list[int]:
    return [p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()]


def _unpack(record: dict[str, Any]) -> Molecules:
    fields = {**record, "symbols": tuple(record["symbols"])}
    return Molecules(**{**fields, "reference": frozenset(record["reference"])})


Row = tuple[str, dict[str, float], bool]  # SMILES, values, held out


def _zinc(folder: Path) -> list[Row]:
    lines = (folder / "sgds_test10k.txt").read_text(encoding="utf-8").splitlines()[1:]
    held = {line.split()[0] for line in lines if line.strip()}
    rows = []
    with gzip.open(folder / "zinc250k_props.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            plogp = float(line["logP"]) - float(line["SA"]) - float(line["n_large_rings"])
            values = {"plogp": plogp, "qed": float(line["QED"])}
            rows.append((line["smiles"], values, line["smiles"] in held))
    return rows


def _embedded(settings: Data) -> list[Row]:
    from lv_molecule.generator import recombine

    wanted = _EMBEDDED - settings.holdout if settings.molecules is None else settings.molecules
    smiles = list(recombine(wanted + settings.holdout, seed=0))
    scores = [row for chunk in _chunked(_score, smiles, "properties") for row in chunk]
    # Their order is already random: the first ones are held out.
    return [(s, scores[i], i < settings.holdout) for i, s in enumerate(smiles)]


def _score(smiles: list[str]) -> list[dict[str, float]]:
    from lv_molecule import PROPERTIES as FUNCTIONS

    return [{n: FUNCTIONS[known](s) for n, known in PROPERTIES.items()} for s in smiles]


def _encode(smiles: list[str]) -> list[tuple[str, str]]:
    from lv_molecule import canonical, smiles_to_selfies

    return [(canonical(s), smiles_to_selfies(s)) for s in smiles]


def _chunked(function: Callable[[list[str]], T], smiles: list[str], label: str) -> Iterator[T]:
    """Applies a function to chunks of molecules on all cores and shows how far it is."""
    chunks = [smiles[i : i + 250] for i in range(0, len(smiles), 250)]
    workers = min(16, os.cpu_count() or 1)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(smiles), desc=label, mininterval=2, unit="mol"))
        results: Iterator[T] = map(function, chunks)
        if len(smiles) >= _SMALL:
            # Spawned: torch has threads by now, and forking a process with threads can hang.
            executor = ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn"))
            results = stack.enter_context(executor).map(function, chunks)
        for chunk, result in zip(chunks, results, strict=True):
            bar.update(len(chunk))
            yield result


def _prepare(rows: list[Row], settings: Data) -> dict[str, Any]:
    from lv_molecule import SelfiesVocabulary

    smiles = [row[0] for row in rows]
    encoded = [pair for chunk in _chunked(_encode, smiles, "SELFIES") for pair in chunk]
    strings = [selfies for _, selfies in encoded]
    vocabulary = SelfiesVocabulary.from_selfies(strings)
    short = [s.count("[") <= settings.max_length for s in strings]
    train = [i for i, row in enumerate(rows) if short[i] and not row[2]]
    held = [i for i, row in enumerate(rows) if short[i] and row[2]]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = len(train) if settings.molecules is None else settings.molecules
    if wanted > len(train) or settings.holdout > len(held):
        raise UserError(
            f"data_set asks for {wanted} training and {settings.holdout} held-out molecules; "
            f"{settings.source} has {len(train)} and {len(held)} of at most "
            f"{settings.max_length} symbols"
        )
    train, held = [train[i] for i in order[:wanted]], held[: settings.holdout]

    def tokens(index: list[int]) -> Tensor:
        return vocabulary.encode([strings[i] for i in index], settings.max_length).short()

    def values(index: list[int]) -> dict[str, Tensor]:
        return {n: torch.tensor([rows[i][1][n] for i in index]).float() for n in PROPERTIES}

    return {
        "symbols": list(vocabulary.symbols),
        "tokens": tokens(train),
        "values": values(train),
        "holdout_smiles": [encoded[i][0] for i in held],
        "holdout_tokens": tokens(held),
        "holdout_values": values(held),
        "reference": [canonical for canonical, _ in encoded],
        "screening": values(list(range(len(rows)))),
    }
