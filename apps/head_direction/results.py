"""From what the cells found to metrics, claims and tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps.head_direction.settings import Settings

__all__ = ["claims", "metrics", "tables"]

Record = Mapping[str, Any]
"""What one cell found; see `cells.run_cell`."""

Add = Callable[[str, object, object, bool], None]
"""Appends a claim: claim, paper, ours, holds."""

TITLES = {"fc_table": "fully connected", "conv": "convolutional", "linear_group": "linear group"}


def metrics(records: Sequence[Record], recorded: Record) -> dict[str, Any]:
    """Returns the numbers of the results file: one list entry per seed."""
    found: dict[str, Any] = {"recorded": dict(recorded)}
    for record in records:
        found[str(record["name"])] = {
            "group": record["group"],
            "parameters": record["parameters"],
            "training_seconds_all_seeds": record["training_seconds"],
            **_path_errors(record),
            **{f"head_turns_{s}s": v for s, v in _turn_errors(record).items()},
            **_tuning_numbers(record),
            **_kept(record),
        }
    return found


def claims(
    settings: Settings, records: Sequence[Record], recorded: Record
) -> list[dict[str, Any]]:
    """Returns the claims: what the paper says, what we measured, whether it held."""
    found: list[dict[str, Any]] = []

    def add(claim: str, paper: object, ours: object, holds: bool) -> None:
        found.append({"claim": claim, "paper": paper, "ours": ours, "holds": bool(holds)})

    main = [r for r in records if r["group"] == "main"]
    for record in main:
        _marks(add, record)
        if record["model"]["variant"] in ("fc_table", "conv"):
            _integration_marks(add, record, records)
            _width_mark(add, record, recorded)
    for record in records:
        if record["group"] == "ablation":
            _ablation_mark(add, record)
    return found


def tables(records: Sequence[Record], recorded: Record) -> dict[str, list[dict[str, object]]]:
    """Returns the tables of the report."""
    main = [r for r in records if r["group"] == "main"]
    measures = {
        "Gaussian fit R^2, median": "gaussian_r2_median",
        "Gaussian fit R^2, 10 % quantile": "gaussian_r2_low",
        "tuning width sigma (deg), median": "tuning_sigma",
        "full width at half height (deg), median": "half_width",
        "bumps per neuron": "bumps",
        "mean vector length, median": "mean_vector_length",
        "largest gap of preferred directions (deg)": "largest_gap",
        "active neurons": "active",
        "radius CV in PC1-2": "radius_cv",
        "winding number": "winding",
        "share of variance in PC1-2": "variance_share",
        "topography": "topography",
        "group law error": "group_law",
        "identity error": "identity",
        "distance of frequencies to integers": "frequency_distance",
    }
    side = []
    for title, key in measures.items():
        row: dict[str, object] = {"measure": title}
        for record in main:
            row[_title(record)] = _list(record["report"].get(key))
        row["recorded cells"] = recorded.get(key)
        side.append(row)
    return {
        "Learned and recorded, one value per seed": side,
        "Path integration: mean error in degrees after the last turn": [
            _path_row(r) for r in records if r["group"] in ("main", "baseline")
        ],
        "Recorded head turns: mean error in degrees": [
            {"model": _title(r)} | {f"{s} s": _list(v, 2) for s, v in _turn_errors(r).items()}
            for r in records
            if r["group"] in ("main", "baseline") and r["turns"]
        ],
        "Ablations": [_short_row(r) for r in records if r["group"] in ("main", "ablation")],
        "Sweep": [_short_row(r) for r in records if r["group"] == "sweep"],
        "Recorded cells": [
            {"measure": key, "value": value}
            for key, value in recorded.items()
            if key != "tuning_sigmas"
        ],
    }


# Claims


def _marks(add: Add, record: Record) -> None:
    """C1, C2 and C3 of one main model, every seed."""
    values, title = record["report"], _title(record)
    at = f"{title}, every seed"
    r2, bumps = values["gaussian_r2_median"], values["bumps"]
    add(
        f"C1 median R^2 of a Gaussian > 0.95: {at}",
        "bump-shaped tuning",
        _list(r2),
        _above(r2, 0.95),
    )
    add(
        f"C1 bumps per neuron < 1.15: {at}",
        "bump-shaped tuning",
        _list(bumps),
        _below(bumps, 1.15),
    )
    cv, winding = values["radius_cv"], values["winding"]
    add(f"C2 radius CV in PC1-2 < 0.03: {at}", "a clean circle", _list(cv), _below(cv, 0.03))
    add(
        f"C2 winding number 1: {at}",
        "a clean circle",
        _list(winding),
        all(abs(abs(w) - 1) < 0.02 for w in winding),
    )
    errors = record["paths"]["0"]["at"]
    shortest = min(errors, key=int)
    add(
        f"C3 path integration, {shortest} turns, no noise, error < 2 deg: {at}",
        "accurate path integration",
        _list(errors[shortest], 3),
        _below(errors[shortest], 2),
    )
    if "topography" in values:
        order = values["topography"]
        add(
            f"C4 topography > 0.95: {at}",
            "holds for convolution too",
            _list(order),
            _above(order, 0.95),
        )


def _integration_marks(add: Add, record: Record, records: Sequence[Record]) -> None:
    """Long walks, and the recurrent networks on the same walks."""
    paths, title = record["paths"], _title(record)
    longest = max(int(n) for n in paths["0"]["at"])
    if longest >= 1000:
        errors = paths["0"]["at"][str(longest)]
        add(
            f"path integration, {longest} turns, no noise, error < 0.5 deg: {title}, every seed",
            "not reported",
            _list(errors, 3),
            _below(errors, 0.5),
        )
    for level, found in paths.items():
        if level == "steps":
            continue
        for rnn in (r for r in records if r["kind"] == "rnn"):
            ours = found["at"][str(longest)]
            theirs = rnn["paths"][level]["at"][str(longest)]
            add(
                f"path integration, {longest} turns, noise {level}: {title} "
                f"({record['parameters']:,} parameters) below {rnn['name']} "
                f"({rnn['parameters']:,} parameters), worst seed against best",
                "not reported",
                f"{max(ours):.3g} against {min(theirs):.3g} deg",
                max(ours) < min(theirs),
            )


def _width_mark(add: Add, record: Record, recorded: Record) -> None:
    low, high = recorded["tuning_sigma_range"]
    widths = record["report"]["tuning_sigma"]
    add(
        f"tuning width inside the range of the {len(recorded['tuning_sigmas'])} recorded cells "
        f"({low:.1f} to {high:.1f} deg): {_title(record)}, every seed",
        "as in biological cells",
        _list(widths, 1),
        all(low <= width <= high for width in widths),
    )


def _ablation_mark(add: Add, record: Record) -> None:
    """What must fail without its ingredient."""
    values, model = record["report"], record["model"]
    title = f"ablation {record['name']}, every seed"
    if not model["non_negative"]:
        r2 = values["gaussian_r2_median"]
        add(
            f"no bumps without non-negativity, R^2 < 0.8: {title}",
            "implied",
            _list(r2),
            _below(r2, 0.8),
        )
    if model["anti_collapse"] == "none":
        error = record["paths"]["0"]["at"]
        first = error[min(error, key=int)]
        add(
            f"nothing without the anti-collapse loss, path error > 45 deg (chance 90): {title}",
            "implied",
            _list(first, 1),
            _above(first, 45),
        )


# Numbers


def _path_errors(record: Record) -> dict[str, Any]:
    return {
        f"path_error_T{length}_noise{level}": [round(v, 4) for v in values]
        for level, found in record["paths"].items()
        if level != "steps"
        for length, values in found["at"].items()
    }


def _turn_errors(record: Record) -> dict[int, list[float]]:
    turns = record["turns"]
    return {s: [row[i] for row in turns["error"]] for i, s in enumerate(turns.get("seconds", ()))}


def _tuning_numbers(record: Record) -> dict[str, Any]:
    """Returns the tuning of a baseline, whose report holds nothing else."""
    if record["report"]:
        return {}
    return {name: values for name, values in record["tuning"].items() if name != "sigma"}


def _kept(record: Record) -> dict[str, Any]:
    """Returns the report's numbers; of a sweep's model only what its maps show."""
    wanted = record["report"]
    if record["group"] == "sweep":
        names = ("gaussian_r2_median", "tuning_sigma", "bumps", "radius_cv", "winding", "active")
        wanted = {name: wanted[name] for name in names}
    return {name: [float(f"{v:.5g}") for v in values] for name, values in wanted.items()}


def _path_row(record: Record) -> dict[str, object]:
    row: dict[str, object] = {"model": _title(record), "parameters": record["parameters"]}
    for level, found in record["paths"].items():
        if level != "steps":
            for length, values in found["at"].items():
                row[f"T={length}, noise {level}"] = _list(values, 2)
    return row


def _short_row(record: Record) -> dict[str, object]:
    values, model = record["report"], record["model"]
    row: dict[str, object] = {
        "model": record["name"],
        "sigma": model["sigma"],
        "neurons": model["neurons"],
        "R^2": _list(values["gaussian_r2_median"]),
        "width (deg)": _list(values["tuning_sigma"], 1),
        "bumps": _list(values["bumps"], 2),
        "radius CV": _list(values["radius_cv"]),
        "winding": _list(values["winding"], 2),
    }
    for level, found in record["paths"].items():
        if level != "steps":
            for length, errors in found["at"].items():
                row[f"T={length}, noise {level}"] = _list(errors, 2)
    return row


def _title(record: Record) -> str:
    if record["kind"] == "model":
        variant = record["model"]["variant"]
        return TITLES.get(variant, variant)
    return str(record["name"])


def _list(values: Sequence[float] | None, digits: int = 3) -> str | None:
    return None if values is None else ", ".join(f"{v:.{digits}f}" for v in values)


# NaN, as of a collapsed code, is neither.


def _above(values: Sequence[float], bound: float) -> bool:
    return all(value > bound for value in values)


def _below(values: Sequence[float], bound: float) -> bool:
    return all(value < bound for value in values)
