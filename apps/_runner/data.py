"""Where data sets are: a folder of the user's, the cache, or a download that fills the cache."""

import csv
import functools
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from zipfile import BadZipFile

import numpy as np

from apps._runner.settings import UserError

__all__ = ["cache_folder", "checksums", "registry", "resolve"]

REGISTRY = Path(__file__).parents[2] / "data" / "registry.toml"
ARRAYS = "*arrays"  # in place of a column's name: all arrays of an .npz
Entry = Mapping[str, Any]


@functools.cache
def registry(path: Path = REGISTRY) -> dict[str, Any]:
    """Returns data/registry.toml."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def cache_folder() -> Path:
    """Returns the folder of the user cache, e.g. ~/.cache/lv."""
    import pooch  # type: ignore[import-untyped]

    return Path(pooch.os_cache("lv"))


def resolve(name: str, data: str = "", *, sets: Mapping[str, Entry] | None = None) -> Path:
    """Returns the folder of a data set in our layout; every file in it has been checked.

    Looks in `data`, in $LV_DATA, in the user cache, and then downloads into the cache.

    Arguments:
        name: Name of the set.
        data: Folder with one sub-folder per set; "" means none.
        sets: The registry; by default data/registry.toml.

    Raises:
        UserError: If the set is unknown, damaged, or nowhere to be had.
    """
    known = registry() if sets is None else sets
    if name not in known:
        raise UserError(f"unknown data set {name!r}; there are: {', '.join(sorted(known))}")
    entry = known[name]
    own = [Path(root).expanduser() for root in (data, os.environ.get("LV_DATA", "")) if root]
    cache = cache_folder()
    searched = []
    for root in (*own, cache):
        folder = root / name
        missing = [
            file["name"] for file in entry["files"] if not (folder / file["name"]).is_file()
        ]
        if not missing:
            for file in entry["files"]:
                _check(folder / file["name"], file, converted=root is cache)
            return folder
        searched.append(f"{folder} (no {missing[0]})" if folder.is_dir() else str(folder))
    _download(name, entry, cache, searched)
    return cache / name


def checksums(
    name: str, folder: Path, *, sets: Mapping[str, Entry] | None = None
) -> dict[str, str]:
    """Returns the sha256 of each file of a resolved set."""
    files = (registry() if sets is None else sets)[name]["files"]
    return {file["name"]: _remembered(folder / file["name"], "") for file in files}


def _check(path: Path, file: Entry, *, converted: bool) -> None:
    """Compares a file with the registry; bytes first, as that is free."""
    size, remedy = path.stat().st_size, "remove it, or replace it by the original"
    right_size = size == file.get("bytes", size)
    found = _remembered(path, "") if right_size else ""
    if found == file["sha256"]:
        return
    if converted and ("column" in file or "arrays_sha256" in file):
        column = file.get("column", "")
        what = f"column {column} has" if column else "arrays have"
        expected = file["column_sha256"] if column else file["arrays_sha256"]
        found = _remembered(path, column or ARRAYS)
        if found == expected:
            return
        raise UserError(f"{path}: the {what} sha256 {found}, expected {expected}; {remedy}")
    if not right_size:
        raise UserError(f"{path} has {size} bytes, expected {file['bytes']}; {remedy}")
    raise UserError(f"{path} has sha256 {found}, expected {file['sha256']}; {remedy}")


def _remembered(path: Path, column: str) -> str:
    """Returns the sha256 of a file, a column or the arrays in it, once per size and time."""
    stat, memory = path.stat(), cache_folder() / "checked.json"
    key = f"{path.resolve()}#{column}"
    try:
        seen = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        seen = {}
    if seen.get(key, [])[:2] == [stat.st_size, stat.st_mtime_ns]:
        return str(seen[key][2])
    if column == ARRAYS:
        digest = _arrays_sha256(path)
    else:
        digest = _column_sha256(path, column) if column else _sha256(path)
    seen[key] = [stat.st_size, stat.st_mtime_ns, digest]
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(seen, indent=1), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        pass  # a read-only cache only costs the time of hashing again
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _column_sha256(path: Path, column: str) -> str:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            values = [row[column] for row in csv.DictReader(file)]
    except (OSError, EOFError, ValueError, KeyError) as error:
        return f"unreadable ({type(error).__name__})"
    return hashlib.sha256("\n".join(values).encode()).hexdigest()


def _arrays_sha256(path: Path) -> str:
    """Hashes what an .npz holds; its bytes depend on the versions of NumPy and zlib."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name in sorted(arrays):
                array = arrays[name]
                array = array.astype(array.dtype.newbyteorder("<"), copy=False)
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.tobytes())
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        return f"unreadable ({type(error).__name__})"
    return digest.hexdigest()


def _download(name: str, entry: Entry, cache: Path, searched: Sequence[str]) -> None:
    """Fetches the sources, converts them beside the cache and moves the checked result in."""
    from apps._runner import convert

    cache.mkdir(parents=True, exist_ok=True)
    advice = (
        f"provide a folder {name} with {', '.join(file['name'] for file in entry['files'])} "
        "in a folder given by --data or LV_DATA, or connect to the network once"
    )
    if not entry["sources"]:
        raise UserError(
            f"data set {name} was not found and has no download; searched "
            f"{', '.join(searched)}; {advice.partition(', or connect')[0]}"
        )
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as temporary:
        sources, made = Path(temporary) / "sources", Path(temporary) / "made"
        made.mkdir()
        for source in entry["sources"]:
            if told := _fetch(source, sources):
                places = ", ".join([*searched, *source["urls"]])
                raise UserError(
                    f"data set {name} was not found; searched {places} ({told}); {advice}"
                )
        getattr(convert, entry["converter"])(sources, made)
        for file in entry["files"]:
            _check(made / file["name"], file, converted=True)
        (cache / name).mkdir(exist_ok=True)
        for file in entry["files"]:
            (made / file["name"]).replace(cache / name / file["name"])


def _fetch(source: Entry, folder: Path) -> str:
    """Tries the URLs in order; returns "" or what the last failure said."""
    import pooch

    told = "no source is known"
    known_hash = f"sha256:{source['sha256']}" if source["sha256"] else None
    for url in source["urls"]:
        try:
            if urlsplit(url).scheme == "file":
                folder.mkdir(exist_ok=True)
                path = folder / source["name"]
                shutil.copyfile(url2pathname(urlsplit(url).path), path)
                if known_hash and not pooch.hashes.hash_matches(path, known_hash):
                    raise ValueError("wrong checksum")
            else:
                pooch.retrieve(url, known_hash, source["name"], folder, progressbar=True)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            told = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        else:
            return ""
    return told
