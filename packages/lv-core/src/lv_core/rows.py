"""Rows of tensors in memory or in a file, their copies and their shards."""

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lv_core.storage import Columns, TensorFile, check_settings, described

__all__ = ["RowStore", "check_index", "finite_rows", "merge_shards"]

_CHUNK = 2**24  # bytes of rows that are copied or hashed at a time


class RowStore:
    """Holds rows of several columns, in memory or in a file mapped into memory.

    What the chain stores have in common. The column `mark` (int64) says which rows are held:
    positive = held, with whatever meaning the class gives the number; zero or negative = not
    held, so not copied, saved or hashed. New rows have the mark 0 and take no room until they are
    written. `_rows` holds the own rows by column, `_count` a number that is saved with them.

    Arguments:
        n_rows: Number of rows of the whole store.
        columns: Shape of one row and type, by name of the column.
        settings: Settings of the owner; files and records made with others are refused.
        path: File to map, made where it does not exist; None = in memory.
        device: Where rows in memory live; those of a file live on the CPU.
        shard: `(rank, world)`: this store holds the rows `rank, rank + world, ...` only.

    Raises:
        ValueError: If the file at `path` was made with other settings or is damaged.
    """

    def __init__(
        self,
        n_rows: int,
        columns: Columns,
        *,
        settings: Mapping[str, str],
        path: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.shard, self._settings = shard, dict(settings)
        each = {"mark": ((), torch.int64), **columns}
        self._whole = {name: ((n_rows, *shape), dtype) for name, (shape, dtype) in each.items()}
        self._columns = {**self._whole, "count": ((1,), torch.int64)}
        self._file: TensorFile | None = None
        if path is None:
            own = len(range(shard[0], n_rows, shard[1]))
            self._rows = {
                name: torch.zeros((own, *shape), dtype=dtype, device=device)
                for name, (shape, dtype) in each.items()
            }
            self._count = torch.zeros(1, dtype=torch.int64, device=device)
        else:
            self._file = self._open(Path(path))
            self._rows, self._count = _part(self._file, shard), self._file.tensors["count"]

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of the own rows; those that are not held are zero."""
        held = self._rows["mark"] > 0
        rows = {name: column.clone() for name, column in self._rows.items()}
        for column in rows.values():
            column[~held] = 0
        shard = list(self.shard)
        return {
            "rows": rows,
            "count": int(self._count),
            "n_rows": self._whole["mark"][0][0],
            "shard": shard,
            "settings": dict(self._settings),
        }

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Takes the rows of a record: of the same shard, or its own ones of the whole store.

        Raises:
            ValueError: If columns or settings differ, or the record is of another shard.
        """
        self._load(record)

    def flush(self) -> None:
        """Waits until a file is on the disk; does nothing in memory."""
        if self._file is not None:
            self._file.flush()

    def digest(self) -> str:
        """Returns a hash of the held rows and the count, the same in memory and in a file."""
        return _digest(self._rows, self._count)

    def snapshot(self, path: str | os.PathLike[str]) -> str:
        """Writes a copy of the own rows, which replaces the file at `path` once it is complete.

        A writer that is killed leaves the former file as it was, and a `.partial` file that the
        next call overwrites.

        Returns:
            The digest of the content, to be given to `restore`.

        Raises:
            ValueError: If `path` is the file that this store lives in.
        """
        target = Path(path)
        if self._file is not None and target.exists() and target.samefile(self._file.path):
            raise ValueError(f"path must not be the file that holds the rows, got {target}")
        partial = target.with_name(target.name + ".partial")
        TensorFile.create(partial, self._columns, self._named(self.shard))
        file = TensorFile(partial)
        rows, count = _part(file, self.shard), file.tensors["count"]
        _copy(self._rows, rows)
        count.copy_(self._count)
        file.flush()
        partial.replace(target)
        return _digest(rows, count)

    def restore(self, path: str | os.PathLike[str], digest: str | None = None) -> None:
        """Takes the rows of a snapshot: of the same shard, or its own ones of the whole store.

        Arguments:
            path: File written by `snapshot`.
            digest: What `snapshot` returned; None = the content is not checked.

        Raises:
            ValueError: If the file was made with other settings, by another shard, is damaged, or
                holds another content than `digest` says.
        """
        file = TensorFile(Path(path), writable=False)
        whole = file.metadata.get("shard") == self._named((0, 1))["shard"]
        shard = (0, 1) if whole else self.shard
        file.check(self._columns, self._named(shard))
        count = file.tensors["count"]
        if digest is not None and (found := _digest(_part(file, shard), count)) != digest:
            raise ValueError(
                f"{path} is not the snapshot asked for: its content has the digest {found}, "
                f"expected {digest}; it was overwritten or damaged"
            )
        self._take(_part(file, self.shard), int(count))

    def _load(self, record: dict[str, Any], *, free: Sequence[str] = ()) -> None:
        """Loads a record whose settings named in `free` take the place of the own ones."""
        whole = {
            name: ((record["n_rows"], *column.shape[1:]), column.dtype)
            for name, column in record["rows"].items()
        }
        taken = {name: record["settings"][name] for name in free}
        expected = {**self._settings, **taken}
        check_settings(
            "the record",
            {**described(whole), **record["settings"]},
            {**described(self._whole), **expected},
        )
        shard = tuple(record["shard"])
        rank, world = (0, 1) if shard == self.shard else self.shard
        if shard not in ((0, 1), self.shard):
            raise ValueError(
                f"the record holds the shard {shard}, this store is {self.shard}: merge the "
                "records of all shards first"
            )
        self._take({n: t[rank::world] for n, t in record["rows"].items()}, record["count"])
        self._settings = expected

    def _take(self, rows: Mapping[str, Tensor], count: int) -> None:
        _copy(rows, self._rows)
        self._count.fill_(count)

    def _named(self, shard: tuple[int, int]) -> dict[str, str]:
        return {**self._settings, "shard": f"{shard[0]} of {shard[1]}"}

    def _open(self, path: Path) -> TensorFile:
        settings = self._named((0, 1))  # a live file holds the rows of all processes
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            TensorFile.create(partial, self._columns, settings)
            try:
                # Unlike a rename, a link fails where another process was faster.
                path.hardlink_to(partial)
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        file = TensorFile(path)
        file.check(self._columns, settings)
        return file


def merge_shards(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the record of the whole store from those of all its shards, in any order.

    Raises:
        ValueError: If a shard is missing or given twice, or the records differ in settings.
    """
    world = len(records)
    shards = sorted(tuple(record["shard"]) for record in records)
    if not records or shards != [(rank, world) for rank in range(world)]:
        raise ValueError(f"records must be those of all shards, each once, got {shards}")
    first = records[0]
    rows: dict[str, Tensor] = {
        name: column.new_zeros((first["n_rows"], *column.shape[1:]))
        for name, column in first["rows"].items()
    }
    for record in records:
        check_settings("a shard", record["settings"], first["settings"])
        for name, column in record["rows"].items():
            rows[name][record["shard"][0] :: world] = column.to(rows[name].device)
    count = max(record["count"] for record in records)
    return {**first, "rows": rows, "count": count, "shard": [0, 1]}


def check_index(name: str, index: Tensor, n: int) -> None:
    """Raises unless `index` is a vector of int64 in 0..n-1; waits for the device.

    Raises:
        ValueError: Names the argument and what it holds.
    """
    if index.dtype != torch.int64 or index.ndim != 1:
        shape = tuple(index.shape)
        raise ValueError(f"{name} must be a vector of int64, got {index.dtype} {shape}")
    low, high = (int(v) for v in index.aminmax()) if index.numel() else (0, 0)
    if not 0 <= low <= high < n:
        raise ValueError(f"{name} must lie in 0..{n - 1}, got {low}..{high}")


def finite_rows(values: Tensor) -> Tensor:
    """Returns for each row whether all its elements are finite."""
    return torch.isfinite(values).reshape(len(values), values.shape[1:].numel()).all(1)


def _part(file: TensorFile, shard: tuple[int, int]) -> dict[str, Tensor]:
    rank, world = shard
    return {name: t[rank::world] for name, t in file.tensors.items() if name != "count"}


def _chunks(rows: Mapping[str, Tensor]) -> list[slice]:
    width = sum(column.element_size() * column.shape[1:].numel() for column in rows.values())
    size, n = max(1, _CHUNK // width), len(rows["mark"])
    return [slice(low, min(low + size, n)) for low in range(0, n, size)]


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copies held rows alone, so that a sparse file stays sparse, and lets go of all others."""
    for chunk in _chunks(target):
        old = target["mark"][chunk]
        mark = source["mark"][chunk].clamp(min=0).to(old.device)
        held = mark.nonzero().flatten()
        for name in target.keys() - {"mark"} if held.numel() else ():
            found = source[name][chunk]
            target[name][chunk][held] = found[held.to(found.device)].to(old.device)
        # Last, so that no mark speaks of a row that is still to come.
        changed = (old != mark).nonzero().flatten()
        if changed.numel():
            old[changed] = mark[changed]


def _digest(rows: Mapping[str, Tensor], count: Tensor) -> str:
    total = blake2b(str(int(count)).encode(), digest_size=16)
    for chunk in _chunks(rows):
        held = (rows["mark"][chunk] > 0).nonzero().flatten()
        if held.numel():
            for part in (held + chunk.start, *(rows[name][chunk][held] for name in sorted(rows))):
                # Bytes, as NumPy has no bfloat16.
                total.update(part.contiguous().cpu().view(torch.uint8).numpy())
    return total.hexdigest()
