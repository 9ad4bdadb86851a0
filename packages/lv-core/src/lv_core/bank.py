"""Chains tied to data items."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lv_core.chains import ChainState
from lv_core.rows import RowStore, check_index, finite_rows, merge_shards
from lv_core.starts import BLOCK, Starts
from lv_core.storage import SUPPORTED, check_shape

__all__ = ["ChainBank"]

_RESERVED = ("count", "mark", "time", "u")
_STARTED = -1  # the mark of a row that holds its start and was never stored


class ChainBank(RowStore):
    """Holds positions of chains that belong to data items and live as long as the data does.

    Row `i` starts at `scale * N(0, I)`, or at what `init` says, drawn from a stream derived from
    the seed and the row's block, so it depends neither on the order in which rows are visited nor
    on how they are dealt to processes.

    With `path` the rows live in a file mapped into memory, for sets larger than memory; several
    processes of one machine may share it, each with its own `shard`, if all have opened it before
    the first `put`. The live file is no checkpoint, as a crash may leave it between two states:
    save with `state_dict` (a copy in memory) or `snapshot` (on the disk), and resume from that.

    Arguments:
        n_items: Number of data items, of all processes together.
        event: Shape of one position.
        seed: Seed of the starts.
        scale: Standard deviation of the starts.
        init: Other starts: a tensor `(n_items, *event)`, which must not change while the bank
            lives, or a function `init(index, generator=...)` of a block of items, int64 `(n,)`,
            that returns their starts `(n, *event)`. It is no part of a checkpoint: give the same
            when resuming.
        dtype: Type of the rows. Normal starts are drawn in single precision whatever it is.
        device: Where rows are served, and stored unless there is a `path`.
        path: File to map, in the safetensors format; made where it does not exist.
        shard: `(rank, world)`: this bank owns the items with `index % world == rank`, holds only
            those in memory and refuses all others. None = all.
        fields: Further numbers of each chain, such as its step size or momentum, served by
            `get_state`: a shape (starts at zero, has `dtype`), or the start itself as a tensor
            of the shape and type of the field.

    Raises:
        ValueError: If a size, type or shard is out of range, `scale` is given along with `init`,
            a field has a reserved name, or the file at `path` was made with other settings.

    Source:
        Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood
        gradient", 2008 (chains that persist over updates of the model).

    Example:
        >>> bank = ChainBank(len(data), (16,), seed=0)
        >>> u = kernel(posterior_of(data[index]), bank.get(index), generator=generator)
        >>> bank.put(index, u)
    """

    def __init__(
        self,
        n_items: int,
        event: tuple[int, ...],
        *,
        seed: int,
        scale: float = 1.0,
        init: Tensor | Callable[..., Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: str | os.PathLike[str] | None = None,
        shard: tuple[int, int] | None = None,
        fields: Mapping[str, tuple[int, ...] | Tensor] | None = None,
    ) -> None:
        self.event, self.dtype, self.device = tuple(event), dtype, torch.device(device)
        self.shard = rank, world = (0, 1) if shard is None else shard
        if not 0 <= rank < world:
            raise ValueError(f"shard must be (rank, world) with 0 <= rank < world, got {shard}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        self._starts = Starts(n_items=n_items, event=self.event, seed=seed, scale=scale, init=init)
        self._fields = {
            name: start.detach() if isinstance(start, Tensor) else torch.zeros(start, dtype=dtype)
            for name, start in (fields or {}).items()
        }
        if taken := [name for name in self._fields if name in _RESERVED]:
            raise ValueError(f"fields must not have the names {_RESERVED}, got {taken}")
        for name, start in self._fields.items():
            if start.dtype not in SUPPORTED:
                raise ValueError(
                    f"field {name!r} has type {start.dtype}, which cannot be stored; give a "
                    "floating-point, integer or bool tensor"
                )
        columns = {"time": ((), torch.int64), "u": (self.event, dtype)}
        columns |= {name: (tuple(t.shape), t.dtype) for name, t in self._fields.items()}
        if empty := [name for name, (shape, _) in columns.items() if 0 in shape]:
            raise ValueError(f"event and fields must not be empty, got a 0 in shape of {empty}")
        super().__init__(
            n_items,
            columns,
            settings={"kind": "chain bank", **self._starts.settings},
            path=path,
            device=device,
            shard=self.shard,
        )
        self._clock = int(self._count)

    @property
    def n_items(self) -> int:
        """Number of data items, of all processes together."""
        return self._starts.n_items

    @property
    def seed(self) -> int:
        """Seed of the starts."""
        return self._starts.seed

    @property
    def scale(self) -> float:
        """Standard deviation of normal starts."""
        return self._starts.scale

    def __len__(self) -> int:
        """Returns the number of items that this bank owns."""
        return len(self._rows["mark"])

    def __repr__(self) -> str:
        where = self.device if self._file is None else self._file.path
        shard = f", shard={self.shard}" if self.shard != (0, 1) else ""
        return f"ChainBank({self.n_items}, {self.event}, {self.dtype}, {where}{shard})"

    # Positions

    def get(self, index: Int64[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """Returns the positions of items `index`, a copy.

        Raises:
            ValueError: If an index is out of range or belongs to another process.
        """
        rows = self._own(index)
        self._start(rows)
        return self._rows["u"][rows].to(self.device)

    def put(self, index: Int64[Tensor, " n"], u: Float[Tensor, "n ..."]) -> None:
        """Stores `u` as the positions of items `index` and adds one to their age.

        Raises:
            ValueError: If an index occurs twice (which chain should win is undefined), is out of
                range or belongs to another process, if the shapes disagree, or if a position is
                not finite.
        """
        rows = self._own(index)
        self._start_fields(rows[self._rows["mark"][rows] == 0])
        self._put(index, rows, {"u": u})

    def get_state(self, index: Int64[Tensor, " n"]) -> ChainState:
        """Returns the chains of items `index` with their fields in `extra`.

        Log density and gradient are not kept, as the model has changed since: give the state to
        `Kernel.run`, which evaluates anew, or to `Kernel.refresh`. Raises as `get`.
        """
        u, rows = self.get(index), self._own(index)
        extra = {name: self._rows[name][rows].to(self.device) for name in self._fields}
        return ChainState(u=u, extra=extra)

    def put_state(self, index: Int64[Tensor, " n"], state: ChainState) -> None:
        """Stores positions and fields of chains; what else the state holds is left out.

        Raises:
            ValueError: As `put`, or if `state.extra` lacks a field.
        """
        if missing := [name for name in self._fields if name not in state.extra]:
            raise ValueError(f"state.extra must hold every field of the bank, {missing} missing")
        values = {"u": state.u, **{name: state.extra[name] for name in self._fields}}
        self._put(index, self._own(index), values)

    def reset(self, index: Int64[Tensor, " n"]) -> None:
        """Puts the chains of items `index` back at their starts, with age 0; raises as `get`."""
        self._rows["mark"][self._own(index)] = 0

    # Age

    def age(self, index: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Returns how often each item was stored; 0 = never."""
        return self._rows["mark"][self._own(index)].clamp(min=0).to(self.device)

    def staleness(self, index: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Returns how often the bank's `put` was called since each item was last stored.

        With one call for each update of the model this is how many updates a chain is behind;
        items never stored count from the beginning.
        """
        rows = self._own(index)
        time = self._rows["time"][rows] * (self._rows["mark"][rows] > 0)
        return (self._clock - time).to(self.device)

    def oldest(self, n: int) -> Int64[Tensor, " m"]:
        """Returns the `n` own items that were not stored for longest, never stored ones first."""
        time = self._rows["time"] * (self._rows["mark"] > 0)
        rows = torch.sort(time, stable=True).indices[:n]
        return self._items(rows).to(self.device)

    def touched(self) -> Int64[Tensor, " m"]:
        """Returns the own items that were stored, and not reset since, in ascending order."""
        rows = (self._rows["mark"] > 0).nonzero().flatten()
        return self._items(rows).to(self.device)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of all own rows and ages, loadable with `weights_only=True`."""
        return {**super().state_dict(), "seed": self.seed, "scale": self.scale}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Restores rows and ages from a record of the same shard or of the whole bank.

        Seed and scale of a bank in memory become those of the record.

        Raises:
            ValueError: If columns, the kind of `init` or, where mapped, seed or scale differ; or
                the record is of another shard.
        """
        self._load(record, free=("seed", "scale") if self._file is None else ())
        self._starts = replace(self._starts, seed=record["seed"], scale=record["scale"])

    @staticmethod
    def merge(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the record of the whole bank, fit for any division, from those of all shards.

        Raises:
            ValueError: If a shard is missing or given twice, or the records differ in settings.

        Example:
            >>> records = [None] * world
            >>> torch.distributed.all_gather_object(records, bank.state_dict())
            >>> record = ChainBank.merge(records)
        """
        return merge_shards(records)

    # Rows: row r of this bank is item rank + r * world.

    def _items(self, rows: Tensor) -> Tensor:
        return rows * self.shard[1] + self.shard[0]

    def _own(self, index: Tensor) -> Tensor:
        """Returns the rows of items; waits for the device, once for each visit."""
        check_index("index", index, self.n_items)
        rank, world = self.shard
        index = index.to(self._rows["mark"].device)
        if world > 1 and bool((foreign := index % world != rank).any()):
            raise ValueError(
                f"index must hold items of shard {rank} of {world} (index % {world} == {rank}), "
                f"got {index[foreign][:5].tolist()}; deal items to processes as the bank does"
            )
        return index // world

    def _take(self, rows: Mapping[str, Tensor], count: int) -> None:
        super()._take(rows, count)
        self._clock = count

    def _put(self, index: Tensor, rows: Tensor, values: dict[str, Tensor]) -> None:
        if torch.unique(rows).numel() != rows.numel():
            raise ValueError("index must not contain an item twice: each item has one chain")
        fresh = {}
        for name, value in values.items():
            column = self._rows[name]
            check_shape(name, value, (len(rows), *column.shape[1:]))
            fresh[name] = value.detach().to(column)
            bad = ~finite_rows(fresh[name])
            if bool(bad.any()):
                items = index[bad.to(index.device)][:5].tolist()
                raise ValueError(
                    f"{name} must be finite, but is not for items {items}: skip these"
                )
        for name, value in fresh.items():
            self._rows[name][rows] = value
        self._clock += 1
        self._rows["time"][rows] = self._clock
        self._rows["mark"][rows] = self._rows["mark"][rows].clamp(min=0) + 1
        # Processes that share a file all write their number, the largest stays.
        self._count.clamp_(min=self._clock)

    def _start(self, rows: Tensor) -> None:
        """Writes the starts of whole blocks: one block costs as much as one of its rows."""
        mark = self._rows["mark"]
        new = self._items(rows[mark[rows] == 0])
        rank, world = self.shard
        for block in torch.unique(new // BLOCK).tolist():
            bounds = block * BLOCK, min((block + 1) * BLOCK, self.n_items)
            first, last = (-((rank - bound) // world) for bound in bounds)
            own = torch.arange(first, last, device=mark.device)
            own = own[mark[own] == 0]
            self._rows["u"][own] = self._starts.of(self._items(own).cpu()).to(self._rows["u"])
            self._start_fields(own)
            mark[own] = _STARTED

    def _start_fields(self, rows: Tensor) -> None:
        for name, start in self._fields.items():
            self._rows[name][rows] = start.to(self._rows[name].device)
