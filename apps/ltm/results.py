"""Numbers, claims and tables of a run."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from apps.ltm.scores import per_token, way_of

__all__ = ["by_variant", "claims", "metrics", "tables"]

Record = dict[str, Any]

TITLES = {
    "ar": "autoregressive, no latents",
    "fixed": "fixed noise",
    "fresh": "fresh noise",
    "amortised": "amortised (VAE)",
    "semi_amortised": "semi-amortised",
    "path_sum": "fixed noise, path sum",
    "wide": "fixed noise, twice the latents",
}
NUMBERS = (
    "nelbo_shared_noise",
    "nelbo",
    "iwae",
    "nll_posterior",
    "kl",
    "kl_floor",
    "nll_prior",
    "nll_zero",
    "nll_swapped",
)


def by_variant(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records of each variant, one per seed."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["variant"], []).append(record)
    return found


def metrics(records: Sequence[Record]) -> dict[str, Any]:
    """Returns what the results file keeps: nats per token in lists, one value per seed."""
    kept: dict[str, Any] = {}
    for variant, group in by_variant(records).items():
        numbers: dict[str, Any] = {
            "seeds": [record["seed"] for record in group],
            "parameters": group[0]["parameters"],
            "training_tokens": group[0]["tokens"],
            "training_gflop": round(group[0]["operations"]["counted"], 1),
            "seconds": [record["seconds"] for record in group],
            "continuation": _continuation(group),
            "entropy_of_samples": [_mean(record["samples"]["entropy"]) for record in group],
            "entropy_of_text": [_mean(record["samples"]["entropy_of_text"]) for record in group],
            "judge_perplexity_of_samples": [
                _mean(record["samples"].get("judge", ())) for record in group
            ],
            "judge_perplexity_of_text": group[0]["samples"].get("judge_of_text", math.nan),
            "throughput": [record["throughput"] for record in group],
        }
        if variant == "ar":
            numbers["nll"] = [_per_token(r["held_out"]["nll"], "nll") for r in group]
        else:
            numbers["bounds"] = {
                way: {
                    name: [_per_token(r["held_out"]["bounds"][way], name) for r in group]
                    for name in NUMBERS
                }
                for way in group[0]["held_out"]["bounds"]
            }
        kept[variant] = numbers
    return kept


def claims(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns the statements of the paper and what became of them, whichever way."""
    groups = by_variant(records)
    found: list[dict[str, Any]] = []

    def add(claim: str, paper: str, ours: str, holds: bool) -> None:
        found.append({"claim": claim, "paper": paper, "ours": ours, "holds": holds})

    baseline = _values(groups.get("ar", []), "", "nll")
    for variant in ("fixed", "path_sum"):
        if variant in groups and baseline:
            _noise_claims(add, groups[variant], variant, baseline)
    if "fresh" in groups and baseline:
        _valid_claim(add, groups["fresh"], "fresh", baseline)
    for variant in ("amortised", "semi_amortised"):
        if variant in groups:
            _collapse_claim(add, groups[variant], variant)
    for variant in ("fixed", "fresh"):
        if variant in groups and "ar" in groups:
            _predictive_claim(add, groups[variant], groups["ar"], variant)
    if "fixed" in groups and "wide" in groups:
        _width_claim(add, groups["fixed"], groups["wide"])
    for variant in ("fixed", "fresh"):
        if variant in groups:
            _entropy_claim(add, groups[variant], variant)
    return found


def tables(records: Sequence[Record]) -> dict[str, list[dict[str, object]]]:
    """Returns the tables of the report."""
    rows, steps = [], []
    for variant, group in by_variant(records).items():
        row: dict[str, object] = {"model": TITLES.get(variant, variant)}
        if variant == "ar":
            row["exact NLL"] = _list(_values(group, "", "nll"))
        else:
            way = _way(group[0])
            row |= {
                "shared-noise number (no bound)": _list(_values(group, way, NUMBERS[0])),
                "valid bound": _list(_values(group, way, "nelbo")),
                "IWAE": _list(_values(group, way, "iwae")),
                "KL": _list(_values(group, way, "kl")),
                "KL floor": _list(_values(group, way, "kl_floor")),
            }
        row["predictive"] = _list(_continuation(group)["nll"])
        row["training GFLOP"] = f"{group[0]['operations']['counted']:,.0f}"
        row["seeds"] = len(group)
        rows.append(row)
        if variant == "ar":
            continue
        for way in group[0]["held_out"]["bounds"]:
            values = {name: _list(_values(group, way, name)) for name in NUMBERS}
            steps.append({"model": TITLES.get(variant, variant), "inference steps": way} | values)
    return {
        "Held-out text, nats per token": rows,
        "Against inference steps at fixed weights, nats per token": steps,
        "Perplexities": _perplexities(records),
        "Samples of the prior, and speed": _samples(records),
    }


# Claims


def _noise_claims(add: Any, group: Sequence[Record], variant: str, baseline: list[float]) -> None:  # noqa: ANN401
    title, way = TITLES[variant], _way(group[0])
    shared = _values(group, way, "nelbo_shared_noise")
    kl, floor = _values(group, way, "kl"), _values(group, way, "kl_floor")
    fitted = [a - b for a, b in zip(shared, kl, strict=True)]
    add(
        f"(1) {title}: NLL at the fitted latents below the autoregressive NLL, KL above its floor",
        "yes (training curves)",
        f"NLL {_list(fitted)} against {_list(baseline)}; KL {_list(kl)}, floor {_list(floor)}",
        max(fitted) < min(baseline) and all(a > b for a, b in zip(kl, floor, strict=True)),
    )
    ways = _own_ways(group[0])
    course = [_values(group, name, "nelbo_shared_noise") for name in ways]
    falling = all(
        later < earlier
        for one, two in pairwise(course)
        for earlier, later in zip(one, two, strict=True)
    )
    add(
        f"(2) {title}: shared-noise number falls with the inference steps {', '.join(ways)}",
        "11.8, 7.2, 3.4 in perplexity at 16, 32, 64 steps (LTM-Small)",
        "; ".join(_list(values) for values in course),
        falling,
    )
    valid = [_values(group, name, "nelbo") for name in ways]
    add(
        f"{title}: the VALID bound falls below the autoregressive NLL at any number of steps",
        "not reported",
        f"best {min(min(v) for v in valid):.3f} against {_list(baseline)}",
        max(min(v[k] for v in valid) for k in range(len(group))) < min(baseline),
    )
    lowest = [min(v[k] for v in course) for k in range(len(group))]
    add(
        f"{title}: the shared-noise number falls below the autoregressive NLL at some steps",
        "yes: perplexity far below models of equal size",
        f"{_list(lowest)} against {_list(baseline)}",
        max(lowest) < min(baseline),
    )
    swapped = _values(group, way, "nll_swapped")
    add(
        f"(4) {title}: latents of another sequence raise the NLL by more than 0.1",
        "not reported",
        f"{_list(fitted)} to {_list(swapped)}",
        all(b - a > 0.1 for a, b in zip(fitted, swapped, strict=True)),
    )


def _valid_claim(add: Any, group: Sequence[Record], variant: str, baseline: list[float]) -> None:  # noqa: ANN401
    ways = _own_ways(group[0])
    best = [min(_values([record], way, "iwae")[0] for way in ways) for record in group]
    add(
        f"{TITLES[variant]}: the importance-weighted bound falls below the autoregressive NLL",
        "not reported",
        f"{_list(best)} against {_list(baseline)}",
        max(best) < min(baseline),
    )
    kl = _values(group, _way(group[0]), "kl")
    floor = _values(group, _way(group[0]), "kl_floor")
    add(
        f"{TITLES[variant]}: KL rises above its floor by more than 0.01",
        "not reported",
        f"KL {_list(kl)}, floor {_list(floor)}",
        all(a - b > 0.01 for a, b in zip(kl, floor, strict=True)),
    )


def _collapse_claim(add: Any, group: Sequence[Record], variant: str) -> None:  # noqa: ANN401
    kl = _values(group, _way(group[0]), "kl")
    add(
        f"(3) {TITLES[variant]} at KL weight 1: KL below 0.02",
        "collapses",
        _list(kl, 4),
        max(kl) < 0.02,
    )


def _predictive_claim(
    add: Any,  # noqa: ANN401
    group: Sequence[Record],
    baseline: Sequence[Record],
    variant: str,
) -> None:
    ours, theirs = _continuation(group)["nll"], _continuation(baseline)["nll"]
    add(
        f"{TITLES[variant]}: second halves predicted better than by the autoregressive model",
        "not reported",
        f"{_list(ours)} against {_list(theirs)}",
        max(ours) < min(theirs),
    )


def _width_claim(add: Any, narrow: Sequence[Record], wide: Sequence[Record]) -> None:  # noqa: ANN401
    ways = [way for way in _own_ways(narrow[0]) if way in _own_ways(wide[0])]
    pairs = [
        (way, _mean(_values(narrow, way, NUMBERS[0])), _mean(_values(wide, way, NUMBERS[0])))
        for way in ways
    ]
    add(
        "(2) more latents win, by the shared-noise number, from 64 inference steps on only",
        "yes",
        "; ".join(f"{way} steps: {a:.3f} against {b:.3f}" for way, a, b in pairs),
        all((b < a) == (int(way) >= 64) for way, a, b in pairs),
    )


def _entropy_claim(add: Any, group: Sequence[Record], variant: str) -> None:  # noqa: ANN401
    ours = [_mean(record["samples"]["entropy"]) for record in group]
    text = [_mean(record["samples"]["entropy_of_text"]) for record in group]
    add(
        f"(5) {TITLES[variant]}: entropy of prior samples within 0.3 nats of the text's",
        "not reported",
        f"{_list(ours, 2)} against {_list(text, 2)}",
        all(abs(a - b) < 0.3 for a, b in zip(ours, text, strict=True)),
    )


# Numbers


def _way(record: Record) -> str:
    """Returns the name of the inference that a model was trained with."""
    return way_of(record["kind"], record["inference"]["steps"])


def _own_ways(record: Record) -> list[str]:
    """Returns the numbers of steps, without the released schedule."""
    return [way for way in record["held_out"]["bounds"] if "released" not in way]


def _values(group: Sequence[Record], way: str, name: str) -> list[float]:
    if name == "nll":
        return [_per_token(record["held_out"]["nll"], "nll") for record in group]
    return [_per_token(record["held_out"]["bounds"][way], name) for record in group]


def _continuation(group: Sequence[Record]) -> dict[str, list[float]]:
    names = [name for name in group[0]["held_out"]["continuation"] if name != "tokens"]
    return {
        name: [_per_token(record["held_out"]["continuation"], name) for record in group]
        for name in names
    }


def _per_token(record: Record, name: str) -> float:
    return round(per_token(record, name), 5)


def _perplexities(records: Sequence[Record]) -> list[dict[str, object]]:
    """Returns both aggregates: exp of total nats per token, and the release's mean of exps."""
    rows = []
    for variant, group in by_variant(records).items():
        names = ("nll",) if variant == "ar" else ("nelbo_shared_noise", "nelbo", "iwae")
        for name in names:
            found = [
                record["held_out"]["nll"]
                if variant == "ar"
                else record["held_out"]["bounds"][_way(record)]
                for record in group
            ]
            rows.append(
                {
                    "model": TITLES.get(variant, variant),
                    "number": name,
                    "exp of the mean": _list([math.exp(per_token(r, name)) for r in found], 1),
                    "mean over sequences (as released)": _list(
                        [
                            _mean([_exp(a / b) for a, b in zip(r[name], r["tokens"], strict=True)])
                            for r in found
                        ],
                        1,
                    ),
                }
            )
    return rows


def _samples(records: Sequence[Record]) -> list[dict[str, object]]:
    rows = []
    for variant, group in by_variant(records).items():
        drawn = [record["samples"] for record in group]
        rows.append(
            {
                "model": TITLES.get(variant, variant),
                "entropy (nats)": _list([_mean(s["entropy"]) for s in drawn], 2),
                "of text": _list([_mean(s["entropy_of_text"]) for s in drawn], 2),
                "5-gram perplexity": _list([_mean(s.get("judge", ())) for s in drawn], 0),
                "of held-out text": f"{drawn[0].get('judge_of_text', math.nan):.0f}",
                "training tokens a second": _list(
                    [r["throughput"]["tokens_per_second"] for r in group], 0
                ),
                "share of the matmul rate": _list(
                    [r["throughput"]["utilization"] for r in group], 2
                ),
            }
        )
    return rows


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _list(values: Sequence[float], digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
