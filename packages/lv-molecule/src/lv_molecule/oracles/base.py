"""The one way in which a run asks for property values: counted, cached, logged, in parallel."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from lv_molecule.oracles.journal import Journal
from lv_molecule.oracles.workers import Outcome, WorkerPool, WorkerStartError, evaluate
from lv_molecule.strings import MoleculeError, parse_molecule

__all__ = ["Oracle", "OracleBatch", "OracleError", "Status"]

Status = Literal["ok", "cached", "invalid", "empty", "failed", "budget"]

# Below this number of calls a share of failures says little.
MIN_CALLS = 20


class OracleError(RuntimeError):
    """Too many calls failed, or the workers could not start; the values are not to be trusted."""


class OracleBatch(NamedTuple):
    """Answer to one batch, in the order asked.

    `smiles` are canonical, None where there is no molecule; `values` are NaN where there is none.
    `status` is "ok" (evaluated now), "cached" (known, free), "invalid" (not a molecule), "empty"
    (too few atoms), "failed" (called without a value, now or before) or "budget" (not called).
    """

    smiles: tuple[str | None, ...]
    values: Float64[np.ndarray, " n"]
    status: tuple[Status, ...]


class Oracle:
    """A property function with an exact budget, a cache by canonical SMILES and a log.

    A call is one evaluation of the function on a new molecule, whether it succeeds or not. Repeats
    and strings that are not molecules are free. A failed molecule is not tried again.

    Arguments:
        function: Gets a canonical SMILES, returns a number. With workers it must be picklable,
            and a script must guard its main program with `if __name__ == "__main__"`.
        name: Name of the property, for the messages and the state.
        budget: Largest number of calls; None means no limit.
        log: File for one JSON line per call, in the order of asking; None means no log.
        workers: Number of worker processes; 0 evaluates in this process.
        timeout: Seconds that one call may take; needs workers, which are killed past it.
        max_failed: Largest share of failed calls in a batch of 20 or more, and in the run.
        min_heavy_atoms: Molecules with fewer heavy atoms are "empty" and not evaluated.

    Raises:
        ValueError: If a number is out of range, or `timeout` is given without workers.
        TypeError: If the function cannot be pickled and workers are asked for.

    Example:
        >>> oracle = Oracle(qed, name="qed", budget=10)
        >>> oracle(["CCO", "OCC", "C1CC", None]).status
        ('ok', 'cached', 'invalid', 'invalid')
    """

    def __init__(
        self,
        function: Callable[[str], float],
        *,
        name: str,
        budget: int | None = None,
        log: Path | None = None,
        workers: int = 0,
        timeout: float | None = None,
        max_failed: float = 0.1,
        min_heavy_atoms: int = 1,
    ) -> None:
        if budget is not None and budget < 0:
            raise ValueError(f"budget must be None or at least 0, got {budget}")
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout must be None or positive seconds, got {timeout}")
        if timeout is not None and workers == 0:
            raise ValueError(f"timeout={timeout} needs workers of at least 1, got workers=0")
        if not 0 <= max_failed <= 1:
            raise ValueError(f"max_failed must be a share in [0, 1], got {max_failed}")
        if min_heavy_atoms < 1:
            raise ValueError(f"min_heavy_atoms must be at least 1, got {min_heavy_atoms}")
        self.name = name
        self.budget = budget
        self.max_failed = max_failed
        self.min_heavy_atoms = min_heavy_atoms
        self._function = function
        self._pool = WorkerPool(function, workers, timeout=timeout) if workers else None
        self._journal = None if log is None else Journal(log)
        # One entry per call, in the order of the calls; NaN marks a failed one.
        self._known: dict[str, float] = {}
        self._failed = 0
        self._first_error = ""

    @property
    def calls(self) -> int:
        """Number of calls made so far."""
        return len(self._known)

    @property
    def remaining(self) -> int | None:
        """Number of calls left; None without a budget."""
        return None if self.budget is None else max(0, self.budget - self.calls)

    @property
    def history(self) -> dict[str, float]:
        """Value of every molecule called, in the order of the calls, NaN where it failed."""
        return dict(self._known)

    def __call__(self, smiles: Sequence[str | None]) -> OracleBatch:
        """Returns the values of some molecules; makes at most `remaining` calls, first come first.

        Arguments:
            smiles: n SMILES strings in any spelling; None counts as invalid.

        Raises:
            OracleError: If the share of failed calls exceeds `max_failed`, or workers cannot
                start. Finished calls stay counted, cached and logged.
            ValueError: If the log file is not the one that this oracle wrote.
        """
        if isinstance(smiles, str):
            raise TypeError("smiles must be a list of SMILES, got one string; pass [smiles]")
        named = [self._identify(string) for string in smiles]
        new: dict[str, int] = {}
        for index, (key, status) in enumerate(named):
            if key is not None and status is None and key not in self._known:
                new.setdefault(key, index)
        called = list(new)[: self.remaining]
        self._evaluate(called)

        values = np.full(len(named), math.nan)
        statuses: list[Status] = []
        for index, (key, status) in enumerate(named):
            if key is None or status is not None:
                statuses.append(status or "invalid")
            elif key not in self._known:
                statuses.append("budget")
            else:
                values[index] = self._known[key]
                if math.isnan(self._known[key]):
                    statuses.append("failed")
                else:
                    statuses.append("ok" if new.get(key) == index else "cached")
        return OracleBatch(tuple(key for key, _ in named), values, tuple(statuses))

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns calls, cache and length of the log, loadable with `weights_only=True`."""
        return {
            "name": self.name,
            "smiles": list(self._known),
            "values": list(self._known.values()),
            "first_error": self._first_error,
            "log": None if self._journal is None else self._journal.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues a run: restores calls and cache and cuts the log back to that moment.

        The budget is this object's own, so a run can be continued with a larger one.

        Raises:
            ValueError: If the state is of another property or the log file does not begin with
                the recorded calls; nothing is changed then.
        """
        if state["name"] != self.name:
            raise ValueError(
                f"state is of the oracle {state['name']!r}, this one is {self.name!r}; load the "
                "state of the same property"
            )
        if self._journal is not None and state["log"] is not None:
            self._journal.load_state_dict(state["log"])
        self._known = dict(zip(state["smiles"], state["values"], strict=True))
        self._failed = sum(math.isnan(value) for value in self._known.values())
        self._first_error = state["first_error"]

    def _identify(self, smiles: str | None) -> tuple[str | None, Status | None]:
        """Returns the canonical SMILES and the status that already follows from it, if any."""
        if smiles is None:
            return None, "invalid"
        if smiles in self._known:  # only canonical spellings are known
            return smiles, None
        if not smiles.strip():
            return None, "empty"
        try:
            molecule = parse_molecule(smiles)
        except MoleculeError:
            return None, "invalid"
        few = molecule.GetNumHeavyAtoms() < self.min_heavy_atoms
        return Chem.MolToSmiles(molecule), "empty" if few else None

    def _evaluate(self, called: Sequence[str]) -> None:
        """Calls the function on new molecules and records each outcome in the order given."""
        if not called:
            return
        journal = nullcontext(None) if self._journal is None else self._journal.opened()
        failed = 0
        with journal as append, closing(self._outcomes(called)) as outcomes:
            for smiles, outcome in outcomes:
                if append is not None:
                    append(self._line(smiles, outcome))
                self._known[smiles] = outcome.value
                if outcome.error is not None:
                    failed += 1
                    self._failed += 1
                    self._first_error = self._first_error or outcome.error
                    # Certain already: do not spend the rest of a hopeless batch.
                    self._refuse_failures(failed, len(called))
        self._refuse_failures(self._failed, self.calls)

    def _outcomes(self, called: Sequence[str]) -> Generator[tuple[str, Outcome], None, None]:
        """Yields molecule and outcome in the order given, each as soon as its turn is complete."""
        if self._pool is None:
            for smiles in called:
                yield smiles, evaluate(self._function, smiles)
            return
        waiting: dict[int, Outcome] = {}
        position = 0
        try:
            with closing(self._pool.run(called)) as results:
                for finished, result in results:
                    waiting[finished] = result
                    while position in waiting:
                        yield called[position], waiting.pop(position)
                        position += 1
        except WorkerStartError as error:
            raise OracleError(f"oracle {self.name!r}: {error}") from error

    def _line(self, smiles: str, outcome: Outcome) -> dict[str, Any]:
        return {
            "call": self.calls + 1,
            "smiles": smiles,
            "value": None if outcome.error else outcome.value,
            "status": "failed" if outcome.error else "ok",
            "seconds": round(outcome.seconds, 6),
            "error": outcome.error,
        }

    def _refuse_failures(self, failed: int, calls: int) -> None:
        if calls < MIN_CALLS or failed <= self.max_failed * calls:
            return
        log = "" if self._journal is None else f"; every call is in {self._journal.path}"
        raise OracleError(
            f"oracle {self.name!r} failed on {failed} of {calls} calls ({failed / calls:.0%}, "
            f"more than max_failed={self.max_failed:g}); first error: {self._first_error}{log}"
        )
