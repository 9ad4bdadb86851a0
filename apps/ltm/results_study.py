"""What the study found: every piece against the autoregressive model of the same seed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from apps.ltm.scores import way_of
from apps.ltm.study import PIECES
from lv_core.random import stream
from lv_text.metrics import paired_bootstrap

__all__ = ["MEASURES", "Gain", "gains", "study_claims", "study_metrics", "study_tables"]

Record = Mapping[str, Any]

MEASURES = {
    "bound": "valid bound",
    "iwae": "importance-weighted bound",
    "gaussian": "valid bound, fitted Gaussian prior",
    "flow": "valid bound, fitted flow prior",
    "predictive": "second halves given the first",
}
"""Measures by name. All but the last bound the log-likelihood of whole sequences from one side,
so that a gain under them is a gain of the model; the last is a proper predictive likelihood."""


class Gain(NamedTuple):
    """Nats per token by which a piece beats the autoregressive model of its seed."""

    seed: int
    value: float
    low: float
    """Lower end of the 95 % interval of a paired bootstrap over sequences."""
    high: float


def gains(
    records: Sequence[Record], *, split: str = "held_out"
) -> dict[str, dict[str, list[Gain]]]:
    """Returns the gains of each piece by measure, one for each seed.

    Arguments:
        records: Of the cells, those of the autoregressive model among them.
        split: "held_out" or "test".
    """
    bases = {r["seed"]: r[split] for r in records if r["kind"] == "ar" and split in r}
    found: dict[str, dict[str, list[Gain]]] = {}
    for record in records:
        base = bases.get(record["seed"])
        if record["kind"] == "ar" or base is None or split not in record:
            continue
        kept = found.setdefault(record["variant"], {})
        for measure, (ours, theirs, tokens) in _pairs(record, record[split], base).items():
            kept.setdefault(measure, []).append(_gain(record["seed"], ours, theirs, tokens))
    return found


def study_metrics(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the gains as the results file keeps them: value, low, high for each seed."""
    return {
        split: {
            piece: {
                measure: [[g.seed, *(round(v, 5) for v in g[1:])] for g in row]
                for measure, row in measures.items()
            }
            for piece, measures in gains(records, split=split).items()
        }
        for split in ("held_out", "test")
    }


def study_claims(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns, for both questions of the study, whether some piece with all seeds says yes.

    A piece is chosen by the held-out split and must win on the test split, at every seed, with
    the whole 95 % interval.
    """
    chosen_by, confirmed_by = gains(records), gains(records, split="test")
    seeds = {r["seed"] for r in records if r["kind"] == "ar"}
    claims = []
    for question, measures in (
        ("by a valid bound", ("bound", "iwae", "gaussian", "flow")),
        ("by the predictive protocol", ("predictive",)),
    ):
        tried = [
            (sum(g.value for g in row) / len(row), piece, measure)
            for piece, kept in chosen_by.items()
            for measure in measures
            if len(row := kept.get(measure, [])) == len(seeds) and _finite(row)
        ]
        if not tried:
            continue
        value, piece, measure = max(tried)
        # The test split is scored by the inference of training under N(0, I) alone.
        test = confirmed_by.get(piece, {}).get(measure, [])
        shown = test or chosen_by[piece][measure]
        claims.append(
            {
                "claim": f"a model with latents beats the autoregressive one {question}, at equal "
                f"training operations, in all {len(seeds)} seeds",
                "paper": "not reported",
                "ours": f"best of {len(tried)}: {piece} ({MEASURES[measure]}), gain "
                f"{value:+.3f} held out; {'test' if test else 'held out, again'}: "
                + ", ".join(f"{g.value:+.3f} [{g.low:+.3f}, {g.high:+.3f}]" for g in shown),
                "holds": all(g.low > 0 for g in [*shown, *chosen_by[piece][measure]]),
            }
        )
    return claims


def study_tables(records: Sequence[Record]) -> dict[str, list[dict[str, object]]]:
    """Returns what was tried, and the finalists on the test split."""
    tables = {}
    for title, split in (
        ("What was tried: gain over the autoregressive model, nats per token", "held_out"),
        ("The same on the test split", "test"),
    ):
        rows: list[dict[str, object]] = []
        for piece, measures in gains(records, split=split).items():
            own = [r for r in records if r["variant"] == piece]
            row: dict[str, object] = {"piece": piece}
            if split == "held_out":
                row |= {"what": PIECES[piece].why, "updates": own[0]["train"]["iterations"]}
                row["KL a token"] = ", ".join(_kl(r) for r in own)
            for measure, title_of in MEASURES.items():
                if any(measure in m for m in gains(records, split=split).values()):
                    row[title_of] = "; ".join(_shown(g) for g in measures.get(measure, ()))
            row["seeds"] = len(own)
            rows.append(row)
        if rows:
            tables[title] = rows
    return tables


def _pairs(
    record: Record, scored: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]:
    """Returns costs of ours, of the baseline, and tokens of each sequence, by measure."""
    own = scored["bounds"][way_of(record["kind"], record["inference"]["steps"])]
    exact, tokens = base["nll"]["nll"], own["tokens"]
    found = {"bound": (own["nelbo"], exact, tokens), "iwae": (own["iwae"], exact, tokens)}
    for prior, numbers in scored.get("priors", {}).items():
        found[prior] = (numbers["nelbo"], exact, tokens)
    second = scored["continuation"]
    found["predictive"] = (second["nll"], base["continuation"]["nll"], second["tokens"])
    return {name: triple for name, triple in found.items() if not math.isnan(triple[0][0])}


def _gain(
    seed: int, ours: Sequence[float], theirs: Sequence[float], tokens: Sequence[float]
) -> Gain:
    mine, base = torch.tensor(ours), torch.tensor(theirs)
    counts = torch.tensor(tokens).long()
    keep = counts > 0  # a short last block may have no second half
    estimate = paired_bootstrap(
        base[keep], mine[keep], counts[keep], generator=stream(seed, "study bootstrap")
    )
    return Gain(seed, estimate.value, estimate.low, estimate.high)


def _kl(record: Record) -> str:
    numbers = record["held_out"]["bounds"][way_of(record["kind"], record["inference"]["steps"])]
    kl = float(sum(numbers["kl"]) / sum(numbers["tokens"]))
    return "-" if math.isnan(kl) else f"{kl:.4f}"  # a point has no divergence


def _shown(gain: Gain) -> str:
    return f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def _finite(row: Sequence[Gain]) -> bool:
    return all(math.isfinite(g.value) for g in row)
