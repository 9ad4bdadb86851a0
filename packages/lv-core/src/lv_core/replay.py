"""Chains that belong to no data: persistent contrastive divergence."""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lv_core.random import Source, normal, uniform
from lv_core.rows import RowStore, check_index, finite_rows
from lv_core.storage import check_shape

__all__ = ["Drawn", "ReplayBuffer"]


class Drawn(NamedTuple):
    """Chains drawn from a replay buffer."""

    u: Float[Tensor, "n ..."]
    """positions"""
    slots: Int64[Tensor, " n"]
    """where they came from and go back to"""
    fresh: Bool[Tensor, " n"]
    """whether the chain is a new start"""


class ReplayBuffer(RowStore):
    r"""Holds chains in anonymous slots, for persistent contrastive divergence.

    A draw picks slots at random without replacement; with probability `reinit_prob`, or where a
    slot is empty, a new start takes the place of the slot's chain. `put` returns each chain to the
    slot it came from. So the number of `put`s since a chain's start, its age, is geometric in
    the long run:

    $$P(\text{age} = k) = \rho (1 - \rho)^k, \qquad \rho = \texttt{reinit\_prob},$$

    at the time of a draw, with mean $(1 - \rho) / \rho$ (19 for 0.05).

    Which slots, which new starts and their positions depend on the generator alone, except that
    an empty slot has a new start whatever the generator says.

    Arguments:
        capacity: Number of slots.
        event: Shape of one position.
        init: Function `init(n, generator=...)` that returns `n` starts `(n, *event)`, such as
            `prior.init`; None = `scale * N(0, I)`.
        reinit_prob: Probability of a new start at each draw of a slot, 0 to 1.
        scale: Standard deviation of the normal starts.
        dtype: Type of the positions.
        device: Where chains are served, and stored unless there is a `path`.
        path: File to map into memory, as in `ChainBank`.

    Raises:
        ValueError: If a setting is out of range, `scale` is given along with `init`, or the file
            at `path` was made with other settings.

    Source:
        Tieleman, 2008 (persistent chains); Du and Mordatch, "Implicit generation and modeling
        with energy-based models", 2019 (buffer with 5 % new starts).

    Example:
        >>> buffer = ReplayBuffer(10_000, (16,))
        >>> u, slots, _ = buffer.draw(64, generator=generator)
        >>> u = kernel(prior.log_density, u, generator=generator)
        >>> buffer.put(slots, u)
    """

    def __init__(
        self,
        capacity: int,
        event: tuple[int, ...],
        *,
        init: Callable[..., Tensor] | None = None,
        reinit_prob: float = 0.05,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if capacity < 1 or 0 in event:
            raise ValueError(f"capacity and event must be positive, got {capacity} and {event}")
        if not 0 <= reinit_prob <= 1:
            raise ValueError(f"reinit_prob must lie in 0..1, got {reinit_prob}")
        if init is not None and scale != 1.0:
            raise ValueError(f"scale must be left at 1 where init is given, got {scale}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        self.capacity, self.event, self.scale = capacity, tuple(event), scale
        self.reinit_prob, self.device, self._init = reinit_prob, torch.device(device), init
        # The mark of a slot is 0 = empty, else age + 1; the count is that of refused positions.
        super().__init__(
            capacity,
            {"u": (self.event, dtype)},
            settings={"kind": "replay buffer"},
            path=path,
            device=device,
        )

    def __len__(self) -> int:
        """Returns the number of slots that hold a chain."""
        return int((self._rows["mark"] > 0).sum())

    def __repr__(self) -> str:
        where = self.device if self._file is None else self._file.path
        return f"ReplayBuffer({self.capacity}, {self.event}, {self._rows['u'].dtype}, {where})"

    def draw(self, n: int, *, generator: Source = None) -> Drawn:
        """Draws `n` slots without replacement and puts new starts into some of them.

        Arguments:
            n: Number of chains, at most the capacity.
            generator: Source of the slots, the new starts and their positions. A `Shard` gives
                each process a draw of its own, from the buffer of that process.

        Returns:
            Positions (copies), slots, and which of them are new starts.

        Raises:
            ValueError: If `n` is not in 1..capacity, or `init` returns another shape.
        """
        if not 1 <= n <= self.capacity:
            raise ValueError(
                f"n must lie in 1..{self.capacity}, got {n}: a slot cannot be drawn twice at "
                "once; draw fewer chains or raise capacity"
            )
        served = torch.empty(0, dtype=self._rows["u"].dtype, device=self.device)
        # Double precision, so that two slots hardly ever tie.
        keys = uniform((self.capacity,), served.double(), generator)
        slots = torch.sort(keys, stable=True).indices[:n]
        renewed = uniform((n,), served.double(), generator) < self.reinit_prob
        # As many starts as chains, so that the numbers drawn do not depend on what is empty.
        starts = self._starts(served.new_empty((n, *self.event)), generator)
        rows = slots.to(self._rows["mark"].device)
        fresh = renewed | (self._rows["mark"][rows] <= 0).to(self.device)
        over = fresh.reshape(-1, *(1 for _ in self.event))
        u = torch.where(over, starts, self._rows["u"][rows].to(self.device))
        self._write(rows, u, torch.where(fresh, 1, self._rows["mark"][rows].to(self.device)))
        return Drawn(u=u, slots=slots, fresh=fresh)

    def put(self, slots: Int64[Tensor, " n"], u: Float[Tensor, "n ..."]) -> None:
        """Returns chains to their slots and adds one to their age.

        A chain with a non-finite position is not stored: its slot becomes empty, so that the next
        draw finds a new start there, and `refused` counts it.

        Raises:
            ValueError: If a slot occurs twice or is out of range, or the shapes disagree.
        """
        rows = self._checked(slots, u)
        value = u.detach().to(self._rows["u"])
        finite = finite_rows(value)
        kept = finite.reshape(-1, *(1 for _ in self.event))
        mark = self._rows["mark"][rows].clamp(min=1) + 1
        self._write(rows, torch.where(kept, value, 0.0), torch.where(finite, mark, 0))
        self._count.add_((~finite).sum())

    def fill(self, u: Float[Tensor, "n ..."]) -> None:
        """Starts the first slots from given positions, such as data, with age 0.

        Arguments:
            u: At most `capacity` finite positions.

        Raises:
            ValueError: If there are more, a position is not finite, or the shape disagrees.
        """
        if len(u) > self.capacity or tuple(u.shape[1:]) != self.event:
            raise ValueError(
                f"u must have shape (n, *{self.event}) with n <= {self.capacity}, got "
                f"{tuple(u.shape)}"
            )
        value = u.detach().to(self._rows["u"])
        if not bool(torch.isfinite(value).all()):
            raise ValueError("u must be finite: a chain cannot start elsewhere")
        rows = torch.arange(len(u), device=value.device)
        self._write(rows, value, torch.ones_like(rows))

    def age(self, slots: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Returns how often the chain of each slot was put back since its start; 0 if empty."""
        rows = self._checked(slots)
        return (self._rows["mark"][rows] - 1).clamp(min=0).to(self.device)

    @property
    def refused(self) -> int:
        """Number of non-finite chains that `put` has thrown away."""
        return int(self._count)

    def _starts(self, like: Tensor, generator: Source) -> Tensor:
        if self._init is None:
            return self.scale * normal(like, generator)
        starts = self._init(len(like), generator=generator)
        check_shape("the result of init", starts, tuple(like.shape))
        return starts.detach().to(like)

    def _write(self, rows: Tensor, u: Tensor, mark: Tensor) -> None:
        self._rows["u"][rows] = u.to(self._rows["u"])
        self._rows["mark"][rows] = mark.to(self._rows["mark"])

    def _checked(self, slots: Tensor, u: Tensor | None = None) -> Tensor:
        """Returns slots where the rows are; waits for the device, once for each visit."""
        check_index("slots", slots, self.capacity)
        if u is not None:
            check_shape("u", u, (len(slots), *self.event))
        if u is not None and torch.unique(slots).numel() != slots.numel():
            raise ValueError("slots must not contain a slot twice: each holds one chain")
        return slots.to(self._rows["mark"].device)
