"""Molecules an oracle scores in a second, with and without worker processes."""

import time
from collections.abc import Callable

from benchmarks.measure import in_turns, markdown
from lv_molecule import Oracle, penalised_logp_unnormalised, qed, recombine

__all__ = ["run"]

FUNCTIONS: dict[str, Callable[[str], float]] = {
    "penalised logP": penalised_logp_unnormalised,
    "QED": qed,
}
WORKERS = (0, 1, 2)


def run(*, quick: bool = False) -> str:
    """Returns the table of both properties."""
    count = 200 if quick else 2000
    molecules = recombine(count)
    rows = []
    for title, function in FUNCTIONS.items():
        timings = in_turns(
            {
                "plain loop": lambda f=function: [f(smiles) for smiles in molecules],
                **{
                    _name(workers): Scoring(function, workers, molecules).run
                    for workers in WORKERS
                },
            },
            repetitions=2 if quick else 7,
            # Workers' time counts: what a user waits, not what this process computes.
            clock=time.perf_counter,
        )
        for name in timings.seconds:
            rate = count / timings.median(name)
            speed = 1.0 / timings.ratio(name, "plain loop")
            rows.append([title, name, f"{rate:.0f}", f"{speed:.2f}"])
    header = ["property", "version", "molecules a second", "times the plain loop"]
    note = (
        f"{count} generated molecules, none of them seen before. The oracle also reads each "
        "string in the calling process, to know it by its canonical form. Workers are started "
        "before the measurement, as in a run."
    )
    return f"{note}\n\n{markdown(header, rows)}"


class Scoring:
    """Scores all molecules with an oracle that has forgotten them, its workers running."""

    def __init__(
        self, function: Callable[[str], float], workers: int, molecules: tuple[str, ...]
    ) -> None:
        self.oracle = Oracle(function, name="benchmark", workers=workers)
        self.fresh = self.oracle.state_dict()
        self.molecules = molecules

    def run(self) -> None:
        """Scores every molecule once.

        Raises:
            RuntimeError: If a molecule got no value: the rates would count work not done.
        """
        self.oracle.load_state_dict(self.fresh)
        status = self.oracle(self.molecules).status
        if set(status) != {"ok"}:
            raise RuntimeError(f"not all molecules were scored: {sorted(set(status))}")


def _name(workers: int) -> str:
    return "Oracle, this process" if workers == 0 else f"Oracle, {workers} worker(s)"
