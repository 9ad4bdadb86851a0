"""The figures of the report, drawn from what one or several seeds found."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lv_molecule.metrics import top_k_against_calls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "tables"]

Record = Mapping[str, Any]

_UNITS = {"plogp": "penalised logP, unnormalised", "qed": "QED"}
_TITLES = {
    "plogp": "p-logP",
    "plogp-unguided": "p-logP, no property term",
    "plogp_unlimited": "p-logP, no length limit",
    "qed": "QED",
}
_COLORS = {"shift": "#0b6e99", "unguided": "#7a52a0", "prior": "#b5541c", "screening": "#6b7280"}


def draw(records: Sequence[Record]) -> dict[str, tuple[object, str]]:
    """Returns figure and caption by title."""
    found: dict[str, tuple[object, str]] = {}
    tasks = records[0]["tasks"]
    found["Property density per round"] = (
        _density(records[0]),
        f"Densities of the new molecules of each round (seed {records[0]['seed']}), from the "
        "first round (dark) to the last (light); the dashed line is the best known molecule.",
    )
    if any(task in tasks for task in ("plogp", "qed")):
        found["Best molecules against oracle calls"] = (
            _against_calls(records),
            "Mean of the 100 best and best single value against oracle calls, one line per seed; "
            "the controls have the same budget.",
        )
    found["Reconstruction"] = (
        _reconstruction(records[0]),
        "Negative log-likelihood of held-out molecules given a latent inferred from the molecule "
        "and given one drawn from the prior: the gap is what the latent knows.",
    )
    found["Target against achieved"] = (
        _conditional(records),
        "Molecules generated for a target value from fresh starts: mean of the oracle (with "
        "standard error) and of the model's own prediction; the dashed line is the identity, the "
        "dotted one the mean of the data.",
    )
    for task in tasks:
        best = _merged(records, task)[:12]
        found[f"Best molecules: {_TITLES[task]}"] = (
            _grid(
                [s for s, _ in best],
                [f"{v:.3f}" if "qed" in task else f"{v:.2f}" for _, v in best],
            ),
            f"The best molecules of the task {_TITLES[task]} over all seeds with their value"
            " (" + _UNITS[task.split("_")[0].split("-")[0]] + ").",
        )
    examples = records[0]["evaluation"]["prior"]["examples"]
    found["Samples of the trained prior"] = (
        _grid(examples, [""] * len(examples)),
        f"The first valid molecules drawn before any shifting (seed {records[0]['seed']}).",
    )
    return found


def tables(records: Sequence[Record]) -> dict[str, list[dict[str, object]]]:
    """Returns the tables of the report: the best molecules, and how each task went."""
    found: dict[str, list[dict[str, object]]] = {}
    for task in records[0]["tasks"]:
        name = _TITLES[task]
        found[f"Rounds: {name} (seed {records[0]['seed']})"] = [
            {"round": k + 1, **row} for k, row in enumerate(records[0]["tasks"][task]["rounds"])
        ]
        found[f"Top 10: {name}, all seeds"] = [
            {"rank": k + 1, "SMILES": smiles, "value": value}
            for k, (smiles, value) in enumerate(_merged(records, task)[:10])
        ]
    if not all(record["health"] == [] for record in records):
        found["Health of the prior after training"] = [
            {"seed": record["seed"], "says": words}
            for record in records
            for words in record["health"]
        ]
    return found


def _merged(records: Sequence[Record], task: str) -> list[tuple[str, float]]:
    best: dict[str, float] = {}
    for record in records:
        best |= dict(record["tasks"][task]["best"])
    return sorted(best.items(), key=lambda item: -item[1])


def _figure(count: int) -> tuple["Figure", list["Axes"]]:
    """Returns a figure with `count` axes, two in a row."""
    from matplotlib.figure import Figure

    columns, rows = min(count, 2), -(-count // 2)
    figure = Figure(figsize=(4.8 * columns, 3.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    for one in axes[count:]:
        one.set_axis_off()
    return figure, axes[:count]


def _density(record: Record) -> "Figure":
    from matplotlib import colormaps

    tasks = {task: part for task, part in record["tasks"].items() if part["rounds"]}
    figure, axes = _figure(len(tasks))
    for ax, (task, part) in zip(axes, tasks.items(), strict=True):
        calls = [0, *(row["calls"] for row in part["rounds"])]
        values = np.asarray(part["values"], dtype=float)
        low, high = np.quantile(values, [0.002, 1.0])
        grid = np.linspace(low, high + 0.05 * (high - low), 240)
        colors = colormaps["viridis"](np.linspace(0.05, 0.95, len(calls) - 1))
        for k, color in enumerate(colors):
            new = values[calls[k] : calls[k + 1]]
            if len(new) > 4:
                ax.plot(grid, _smooth(new, grid), color=color, linewidth=1.2)
        unit = task.split("_")[0].split("-")[0]
        ax.axvline(record["data_max"][unit], color="0.4", linestyle="--", linewidth=1)
        ax.set_xlabel(_UNITS[unit])
        ax.set_ylabel("density")
        ax.set_title(_TITLES[task], fontsize=10)
    return figure


def _smooth(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Returns a Gaussian kernel density with Silverman's bandwidth."""
    spread = min(values.std(), (np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.34)
    width = max(0.9 * spread * len(values) ** -0.2, 1e-3 * (grid[-1] - grid[0]))
    scaled = (grid[:, None] - values[None]) / width
    return np.exp(-0.5 * scaled**2).sum(1) / (len(values) * width * np.sqrt(2 * np.pi))


def _against_calls(records: Sequence[Record]) -> "Figure":
    names = [name for name in ("plogp", "qed") if name in records[0]["tasks"]]
    figure, axes = _figure(2 * len(names))
    for i, name in enumerate(names):
        for ax, k in zip(axes[2 * i : 2 * i + 2], (100, 1), strict=True):
            low = np.inf
            for record in records:
                lines = {"shift": record["tasks"][name]["values"]}
                if f"{name}-unguided" in record["tasks"]:
                    lines["unguided"] = record["tasks"][f"{name}-unguided"]["values"]
                for control in ("prior", "screening"):
                    lines[control] = record["controls"][f"{control}-{name}"]["values"]
                for label, values in lines.items():
                    curve = np.asarray(top_k_against_calls(values, k))
                    step = max(1, len(curve) // 400)
                    first = record is records[0]
                    # The first calls span the whole range and would flatten all that follows.
                    low = min(low, curve[min(max(k, len(curve) // 50), len(curve)) - 1])
                    ax.plot(
                        np.arange(1, len(curve) + 1)[k - 1 :: step],
                        curve[k - 1 :: step],
                        color=_COLORS[label],
                        linewidth=1.3,
                        alpha=0.85,
                        label=label if first else None,
                    )
            ax.set_ylim(bottom=low)
            ax.set_xlabel("oracle calls")
            ax.set_ylabel(_UNITS[name])
            ax.set_title(
                f"{_TITLES[name]}: " + ("best" if k == 1 else "mean of best 100"), size=10
            )
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _reconstruction(record: Record) -> "Figure":
    figure, (ax,) = _figure(1)
    histogram = record["evaluation"]["reconstruction"]["histogram"]
    both = np.concatenate([np.asarray(v) for v in histogram.values()])
    bins = np.linspace(0, np.quantile(both, 0.995), 50)
    for (name, values), color in zip(histogram.items(), ("#0b6e99", "#b5541c"), strict=True):
        mean = float(np.mean(values))
        ax.hist(values, bins=bins, alpha=0.55, color=color, label=f"{name} z, mean {mean:.1f}")
    ax.set_xlabel("negative log-likelihood (nats per molecule)")
    ax.set_ylabel("held-out molecules")
    ax.legend(frameon=False, fontsize=8)
    return figure


def _conditional(records: Sequence[Record]) -> "Figure":
    names = list(records[0]["evaluation"]["conditional"])
    figure, axes = _figure(len(names))
    for ax, name in zip(axes, names, strict=True):
        for record in records:
            rows = record["evaluation"]["conditional"][name]
            target = [row["target"] for row in rows]
            first = record is records[0]
            ax.errorbar(
                target,
                [row["achieved"] for row in rows],
                yerr=[row["error"] for row in rows],
                color=_COLORS["shift"],
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label="oracle" if first else None,
            )
            ax.plot(
                target,
                [row["head"] for row in rows],
                color=_COLORS["prior"],
                marker="x",
                markersize=4,
                linewidth=1.0,
                label="predicted" if first else None,
            )
        ax.plot(target, target, color="0.4", linestyle="--", linewidth=1)
        mean = records[0]["evaluation"]["prior"][f"{name}_mean_data"]
        ax.axhline(mean, color="0.4", linestyle=":", linewidth=1)
        ax.set_xlabel(f"target ({_UNITS[name]})")
        ax.set_ylabel("mean of generated molecules")
        ax.legend(frameon=False, fontsize=8)
    return figure


def _grid(smiles: Sequence[str], legends: Sequence[str]) -> str:
    from rdkit import Chem
    from rdkit.Chem import Draw

    if not smiles:
        return "<p>No valid molecule.</p>"
    mols = [Chem.MolFromSmiles(s) for s in smiles]
    svg = Draw.MolsToGridImage(
        mols, molsPerRow=4, subImgSize=(240, 200), legends=list(legends), useSVG=True
    )
    return str(svg[svg.index("<svg") :])
