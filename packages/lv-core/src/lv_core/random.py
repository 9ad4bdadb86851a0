"""Derived random streams: noise that is a function of names, not of history.

A stream is rebuilt from the seed and the names of what it is for, so a resumed or re-sharded run
goes on with the same numbers although no generator state was ever saved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Draws", "Rows", "Shard", "Source", "normal", "stream", "uniform"]


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator that is a function of its arguments alone.

    Arguments:
        seed: The seed of the run.
        *names: What the stream is for, such as `("posterior", step, rank)`; strings or integers.
        device: Where the numbers are drawn; CPU and CUDA give different numbers.

    Raises:
        TypeError: If a name is neither a string nor an integer (a float would hash by its
            rounding error).
    """
    for name in names:
        if not isinstance(name, str | int):
            raise TypeError(f"names must be strings or integers, got {name!r}")
    # Plain types, as NumPy's strings have another representation than equal built-in ones.
    plain = (str(name) if isinstance(name, str) else int(name) for name in names)
    digest = blake2b(repr((int(seed), *plain)).encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    # Seeds are kept below 2**63: negative ones are read differently on CUDA.
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A generator whose draws are the rows of one process in the draw of the whole batch.

    Every process draws the numbers for all `world` equal parts and keeps its own, so two
    processes together use exactly the noise that one process would. Costs `world` times the
    random numbers, which is small beside a decoder.
    """

    generator: torch.Generator
    """stream that all processes share"""
    rank: int
    """which part is ours, counted from 0"""
    world: int
    """number of parts"""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be in 0..world-1, got rank {self.rank}, {self.world=}")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A generator for each item: its numbers depend on nothing but what it is.

    Batches may be cut, mixed and spread over processes as one likes; an item keeps its noise. All
    numbers are drawn on the CPU, hence are the same on every device.

    Example:
        >>> noise = Rows.of(0, [17, 4], "posterior", 3)  # items 17 and 4 in update 3
        >>> normal(torch.empty(2, 5), noise)[1]  # is what item 4 gets in any other batch
    """

    generators: tuple[torch.Generator, ...]
    """one per row of the batch"""

    @classmethod
    def of(cls, seed: int, items: Sequence[int] | Tensor, *names: str | int) -> "Rows":
        """Returns the streams `stream(seed, *names, item)`.

        Arguments:
            seed: The seed of the run.
            items: Number of each row of the batch, such as its place in the data set.
            *names: What the streams are for.
        """
        numbers = items.tolist() if isinstance(items, Tensor) else items
        return cls(generators=tuple(stream(seed, *names, int(item)) for item in numbers))

    def fill(self, like: Tensor, kind: Literal["normal", "uniform"]) -> Tensor:
        """Returns random numbers with the shape, dtype and device of `like`, row by row.

        Raises:
            ValueError: If `like` has another number of rows.
        """
        if not like.ndim or len(like) != len(self.generators):
            raise ValueError(
                f"a source of {len(self.generators)} rows draws for as many, got shape "
                f"{tuple(like.shape)}; the first axis must be the batch"
            )
        drawn = torch.empty(like.shape, dtype=like.dtype)
        for row, generator in zip(drawn, self.generators, strict=True):
            if kind == "normal":
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)
        return drawn.to(like.device)


class Draws:
    """Given numbers in place of random ones, handed out in order.

    Compiled loops take their noise as an input, since a generator cannot enter a compiled graph;
    tests and comparisons between frameworks say exactly which numbers a step uses.

    Arguments:
        normals: Standard normal tensors, in the order in which they will be asked for.
        uniforms: Tensors uniform on [0, 1), likewise.

    Example:
        >>> state, info = kernel.step(target, state, generator=Draws(normals=[eps]))
    """

    def __init__(self, normals: Sequence[Tensor] = (), uniforms: Sequence[Tensor] = ()) -> None:
        self._left = {"normal": list(normals), "uniform": list(uniforms)}

    def take(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Returns the next tensor of a kind, `"normal"` or `"uniform"`.

        Raises:
            ValueError: If none is left or the next one has another shape.
        """
        if not self._left[kind]:
            raise ValueError(f"no {kind} draw is left: give one tensor for each draw of the step")
        taken = self._left[kind].pop(0)
        if tuple(taken.shape) != tuple(shape):
            raise ValueError(
                f"the next {kind} draw must have shape {tuple(shape)}, got {tuple(taken.shape)}"
            )
        return taken


Source = torch.Generator | Shard | Rows | Draws | None
"""Where a function draws from; None is torch's global generator."""


def normal(like: Tensor, source: Source = None, *, out: Tensor | None = None) -> Tensor:
    """Draws standard normal numbers with the shape, dtype and device of `like`.

    Arguments:
        like: Tensor whose first axis is the batch.
        source: Generator, shard of one, one for each row, given draws, or None for the global
            generator.
        out: Buffer to fill instead of allocating; only a generator fills it.
    """
    if isinstance(source, Draws):
        return source.take("normal", like.shape)
    if isinstance(source, Rows):
        return source.fill(like, "normal")
    if isinstance(source, Shard):
        n = like.shape[0]
        whole = torch.empty(
            (n * source.world, *like.shape[1:]), dtype=like.dtype, device=like.device
        )
        return whole.normal_(generator=source.generator)[n * source.rank : n * (source.rank + 1)]
    # Contiguous, as the order of the draws must not depend on how `like` lies in memory.
    fresh = torch.contiguous_format
    buffer = torch.empty_like(like, memory_format=fresh) if out is None else out
    return buffer.normal_(generator=source)


def uniform(shape: Sequence[int], like: Tensor, source: Source = None) -> Tensor:
    """Draws numbers uniform on [0, 1) with the dtype and device of `like`; first axis = batch."""
    if isinstance(source, Draws):
        return source.take("uniform", shape)
    if isinstance(source, Rows):
        return source.fill(like.new_empty(tuple(shape)), "uniform")
    if isinstance(source, Shard):
        n = shape[0]
        whole = torch.empty((n * source.world, *shape[1:]), dtype=like.dtype, device=like.device)
        return whole.uniform_(generator=source.generator)[n * source.rank : n * (source.rank + 1)]
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device).uniform_(
        generator=source
    )
