"""`evaluate`: a trained model's bounds on held-out text against inference steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from apps._runner import UserError
from apps.ltm.commands_open import Common, baseline_of, open_model, table
from lv_core.random import stream
from lv_text.metrics import BootstrapEstimate, bootstrap, paired_bootstrap

__all__ = ["Settings", "run"]

COLUMNS = {
    "nelbo_shared_noise": "shared-noise number",
    "nelbo": "valid bound",
    "iwae": "IWAE",
    "nll_posterior": "NLL, fresh draws",
    "kl": "KL",
    "kl_floor": "KL floor",
    "nll_prior": "NLL, prior draws",
    "nll_swapped": "NLL, swapped z",
}


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Bounds on held-out text, side by side, at several numbers of inference steps."""

    steps: tuple[int, ...] = ()
    """inference steps beside those of training; none = as in the run's settings"""
    blocks: int = 16
    """held-out blocks"""
    samples: int = 16
    """fresh draws of the valid bounds"""
    batch_size: int = 16
    """blocks at a time"""


def run(given: Settings) -> None:
    """Prints the bounds as a table and writes them to evaluate-<model>.json."""
    from apps.ltm.evaluate import evaluate

    for name in ("blocks", "samples", "batch_size"):
        if getattr(given, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(given, name)}")
    if any(steps < 1 for steps in given.steps):
        raise UserError(f"steps must be positive, got {given.steps}")
    opened = open_model(given)
    plan = replace(
        opened.settings.evaluate,
        blocks=given.blocks,
        samples=given.samples,
        batch_size=given.batch_size,
        steps=given.steps or opened.settings.evaluate.steps,
    )
    settings = replace(opened.settings, evaluate=plan)
    found, against = {}, baseline_of(given, opened)
    for one in (opened, against):
        if one is not None:
            found[one.cell.name] = evaluate(
                one.cell, one.model, one.encoder, settings, one.text, one.device
            )
    own = found[opened.cell.name]
    base = found[against.cell.name] if against is not None else None
    summary = _summary(opened.cell.name, own, against.cell.name if against else "", base)
    shared = opened.latents and opened.cell.inference.noise == "shared"
    count = len(own["continuation"]["tokens"])
    _print(summary, blocks=count, shared=shared and opened.cell.kind == "thought")
    opened.write("evaluate", {"blocks": count, "per_token": summary, "held_out": found})


def _summary(
    name: str, own: Mapping[str, Any], base_name: str, base: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns nats per token with standard errors over blocks."""
    plain = {name: own} if "nll" in own else {base_name: base} if base is not None else {}
    summary: dict[str, Any] = {
        "bounds": {
            way: {column: _estimate(costs, column) for column in COLUMNS}
            for way, costs in own.get("bounds", {}).items()
        },
        "exact": {which: _estimate(r["nll"], "nll") for which, r in plain.items()},
        "predictive": {
            which: _estimate(r["continuation"], "nll")
            for which, r in ({name: own} | plain).items()
        },
    }
    if base is not None:
        summary["predictive_gain"] = _gain(own["continuation"], base["continuation"])
    return summary


def _gain(own: Mapping[str, Any], base: Mapping[str, Any]) -> list[float]:
    """Returns the paired gain over the baseline per token and its standard error."""
    one, other, tokens = (torch.tensor(x) for x in (own["nll"], base["nll"], own["tokens"]))
    value = float((other - one).sum() / tokens.sum())
    if len(one) < 2 or not math.isfinite(value):
        return [value, math.nan]
    found = paired_bootstrap(other, one, tokens.long(), generator=stream(0, "predictive gain"))
    return [found.value, found.standard_error]


def _estimate(costs: Mapping[str, Any], column: str) -> list[float]:
    """Returns total nats over total tokens and its standard error; NaN where not defined."""
    values = torch.tensor([math.nan if v is None else v for v in costs[column]])
    tokens = torch.tensor(costs["tokens"])
    value = float(values.sum() / tokens.sum())
    if len(values) < 2 or not math.isfinite(value):
        return [value, math.nan]
    found: BootstrapEstimate = bootstrap(
        values, tokens.long(), statistic="nats", generator=stream(0, "evaluate")
    )
    return [found.value, found.standard_error]


def _print(summary: Mapping[str, Any], *, blocks: int, shared: bool) -> None:
    print(f"nats per token on {blocks} held-out blocks, standard errors over blocks")
    rows = [
        {"inference steps": way} | {COLUMNS[name]: _pair(pair) for name, pair in numbers.items()}
        for way, numbers in summary["bounds"].items()
    ]
    if rows:
        print(f"\n{table(rows)}\n")
        if shared:
            print(
                "The shared-noise number is NO bound: it scores with the noise that inference has "
                "optimized against. Valid bound and IWAE use fresh draws."
            )
        else:
            print(
                "This model's noise is fresh in each step: its shared-noise number is the valid "
                "bound at one draw."
            )
    for which, pair in summary["exact"].items():
        print(f"exact NLL without latents, {which}: {_pair(pair)}")
    for which, pair in summary["predictive"].items():
        print(f"predictive, second halves given the first, {which}: {_pair(pair)}")
    if "predictive_gain" in summary:
        gain = _pair(summary["predictive_gain"])
        print(f"predictive gain over the autoregressive model, paired: {gain}")


def _pair(pair: list[float]) -> str:
    value, error = pair
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if not math.isfinite(error) else f"{value:.3f} ± {error:.3f}"
