"""The pool of scored molecules that a design run works on.

A molecule's tokens, SMILES, values and latent stay in one record: sorting, trimming and shuffling
cannot put them out of step. Shapes: N members, T tokens, D latent width.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

__all__ = ["Candidate", "Pool", "ScoredMolecule"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One molecule of a pool.

    Arguments:
        tokens: Token ids as generated, shape `(length,)`, int64. Kept since encoding the SMILES
            again may need symbols that the vocabulary lacks.
        smiles: Canonical SMILES; the identity of the molecule.
        values: Finite property values by name, in their original units.
        latent: The latent that belongs to the tokens, shape `(dim,)`.
    """

    tokens: Int64[Tensor, " length"]
    smiles: str
    values: Mapping[str, float]
    latent: Float[Tensor, " dim"]

    @staticmethod
    def rows(
        tokens: Int64[Tensor, "n length"],
        smiles: Sequence[str | None],
        values: Mapping[str, Sequence[float]],
        latents: Float[Tensor, "n dim"],
    ) -> "list[Candidate]":
        """Returns one record per row, without rows that have no SMILES or a NaN value.

        Arguments:
            tokens: Token ids, shape `(n, length)`.
            smiles: Canonical SMILES, None where the row is not a molecule.
            values: For each property n values, NaN where there is none (as an oracle gives them).
            latents: Latents, shape `(n, dim)`.

        Raises:
            ValueError: If the four do not have the same number of rows.
        """
        counts = {"tokens": len(tokens), "smiles": len(smiles), "latents": len(latents)}
        counts |= {f"values[{name!r}]": len(column) for name, column in values.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"all arguments must have the same number of rows, got {counts}")
        columns = {name: [float(v) for v in column] for name, column in values.items()}
        found = []
        for index, string in enumerate(smiles):
            scores = {name: column[index] for name, column in columns.items()}
            if string is not None and not any(math.isnan(v) for v in scores.values()):
                found.append(Candidate(tokens[index], string, scores, latents[index]))
        return found


class ScoredMolecule(NamedTuple):
    """A molecule that was scored at some time of the run."""

    smiles: str
    values: dict[str, float]


class Pool:
    """Scored molecules without repeats over the whole run.

    Active members carry tokens and latents. Trimming drops members, but a molecule once added
    stays known: it is not added again, and `best` still finds it.

    Example:
        >>> member = Candidate(torch.tensor([0, 1]), "CO", {"qed": 0.4}, torch.zeros(3))
        >>> pool = Pool([member])
        >>> pool.add([member]), len(pool)
        (0, 1)
    """

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self._active: list[Candidate] = []
        self._names: tuple[str, ...] = ()
        self._scored: dict[str, tuple[float, ...]] = {}
        self.add(candidates)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the properties that every member has; empty before the first member."""
        return self._names

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._active)

    def __getitem__(self, index: int) -> Candidate:
        return self._active[index]

    def __repr__(self) -> str:
        return f"Pool({len(self)} active, {self.scored} scored, {', '.join(self._names)})"

    @property
    def scored(self) -> int:
        """Number of distinct molecules ever added."""
        return len(self._scored)

    def seen(self, smiles: str) -> bool:
        """Returns whether a canonical SMILES was ever added, even if it is no longer active."""
        return smiles in self._scored

    def add(self, candidates: Iterable[Candidate]) -> int:
        """Adds the candidates that were never seen in this run, in order.

        Tensors are copied. Nothing is added if any new candidate is refused.

        Arguments:
            candidates: Records with canonical SMILES (`canonical`); a repeat keeps the values and
                the latent of the first record.

        Returns:
            The number of new members.

        Raises:
            ValueError: If a value or latent is not finite, or names or shapes differ.
        """
        new: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.smiles not in self._scored:
                new.setdefault(candidate.smiles, candidate)
        if not new:
            return 0
        first = next(iter(new.values()))
        names = self._names or tuple(first.values)
        model = self._active[0] if self._active else first
        for candidate in new.values():
            _check(candidate, names, model)
        # One copy of the whole batch: rows must not change with the caller's tensors.
        tokens = torch.stack([c.tokens for c in new.values()]).unbind()
        latents = torch.stack([c.latent.detach() for c in new.values()])
        _check_finite(latents)
        self._names = names
        for candidate, row, latent in zip(new.values(), tokens, latents.unbind(), strict=True):
            values = {name: float(candidate.values[name]) for name in names}
            self._active.append(Candidate(row, candidate.smiles, values, latent))
            self._scored[candidate.smiles] = tuple(values.values())
        return len(new)

    def tokens(self) -> Int64[Tensor, "n length"]:
        """Returns the token ids of the active members."""
        self._require_members()
        return torch.stack([candidate.tokens for candidate in self._active])

    def latents(self) -> Float[Tensor, "n dim"]:
        """Returns the latents of the active members."""
        self._require_members()
        return torch.stack([candidate.latent for candidate in self._active])

    def values(self, name: str) -> Float64[Tensor, " n"]:
        """Returns one property of the active members, in original units."""
        self._check_name(name)
        return torch.tensor([c.values[name] for c in self._active], dtype=torch.float64)

    def smiles(self) -> list[str]:
        """Returns the canonical SMILES of the active members."""
        return [candidate.smiles for candidate in self._active]

    def set_latents(
        self, latents: Float[Tensor, "n dim"], *, index: Sequence[int] | Tensor | None = None
    ) -> None:
        """Replaces latents of active members.

        Arguments:
            latents: New latents, shape `(n, dim)`; copied.
            index: Positions of the members, n distinct integers; None means all, in order.

        Raises:
            ValueError: If the shape does not fit or a latent is not finite.
        """
        self._require_members()
        positions = range(len(self)) if index is None else _integers(index)
        expected = (len(positions), *self._active[0].latent.shape)
        if latents.shape != expected:
            raise ValueError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
        _check_finite(latents)
        for position, latent in zip(positions, latents.detach().clone().unbind(), strict=True):
            self._active[position] = replace(self._active[position], latent=latent)

    def top(self, n: int, name: str, maximise: bool = True) -> list[Candidate]:
        """Returns the n best active members, best first, ties in the order of adding."""
        return [self._active[position] for position in self._order(name, maximise)[:n]]

    def keep_top(self, n: int, name: str, maximise: bool = True) -> None:
        """Keeps the n best members active, best first, ties in the order of adding."""
        self.keep(self._order(name, maximise)[:n])

    def keep(self, index: Sequence[int] | Tensor) -> None:
        """Keeps the members at the given positions, in that order; the others stay known.

        Raises:
            ValueError: If a position is repeated.
        """
        positions = _integers(index)
        if len(set(positions)) != len(positions):
            raise ValueError("index must hold distinct positions, got a repeat")
        self._active = [self._active[position] for position in positions]

    def best(self, n: int, name: str, maximise: bool = True) -> tuple[ScoredMolecule, ...]:
        """Returns the n best molecules of the whole run, active or not, best first.

        Ties keep the order of adding. Tokens and latents of dropped members are not kept.
        """
        self._check_name(name)
        column = self._names.index(name)
        ranked = sorted(self._scored.items(), key=lambda item: item[1][column], reverse=maximise)
        return tuple(
            ScoredMolecule(smiles, dict(zip(self._names, values, strict=True)))
            for smiles, values in ranked[:n]
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the pool as tensors and lists, loadable with `weights_only=True`."""
        empty = torch.empty(0, 0)
        return {
            "names": list(self._names),
            "smiles": self.smiles(),
            "tokens": self.tokens() if self._active else empty.long(),
            "latents": self.latents() if self._active else empty,
            "scored_smiles": list(self._scored),
            "scored_values": torch.tensor(list(self._scored.values()), dtype=torch.float64),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Pool":
        """Returns the pool that `state_dict` described; members and order are the same."""
        pool = cls()
        pool._names = tuple(state["names"])
        rows = (tuple(row) for row in state["scored_values"].tolist())
        pool._scored = dict(zip(state["scored_smiles"], rows, strict=True))
        tokens, latents = state["tokens"].clone(), state["latents"].clone()
        for index, smiles in enumerate(state["smiles"]):
            values = dict(zip(pool._names, pool._scored[smiles], strict=True))
            pool._active.append(Candidate(tokens[index], smiles, values, latents[index]))
        return pool

    def _order(self, name: str, maximise: bool) -> list[int]:
        # sorted(reverse=True) keeps the order of equal elements.
        values = self.values(name).tolist()
        return sorted(range(len(values)), key=values.__getitem__, reverse=maximise)

    def _check_name(self, name: str) -> None:
        if not self._scored:
            raise ValueError("the pool is empty; add candidates first")
        if name not in self._names:
            raise ValueError(f"unknown property {name!r}; there are: {', '.join(self._names)}")

    def _require_members(self) -> None:
        if not self._active:
            raise ValueError("the pool has no active members; add candidates")


def _integers(index: Sequence[int] | Tensor) -> list[int]:
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return [int(position) for position in index.nonzero().flatten().tolist()]
    return [int(position) for position in index]


def _check_finite(latents: Tensor) -> None:
    if not torch.isfinite(latents).all():
        raise ValueError("latents must be finite, got inf or NaN; did a chain diverge?")


def _check(candidate: Candidate, names: tuple[str, ...], model: Candidate) -> None:
    """Raises ValueError if a record does not fit the other members."""
    where = f"of {candidate.smiles!r} must"
    if not names or set(candidate.values) != set(names):
        raise ValueError(
            f"values {where} have the names {sorted(names)}, got {sorted(candidate.values)}"
        )
    for name, value in candidate.values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"value {name!r} {where} be finite, got {value}; leave the molecule out"
            )
    shapes = tuple(candidate.tokens.shape), tuple(candidate.latent.shape)
    expected = tuple(model.tokens.shape), tuple(model.latent.shape)
    if shapes != expected or candidate.tokens.ndim != 1 or candidate.latent.ndim != 1:
        raise ValueError(
            f"tokens and latent {where} be vectors of the common shapes {expected}, got {shapes}"
        )
