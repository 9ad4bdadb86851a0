"""What a forecaster is worth on test sequences, in the units of the data."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.ode_lebm.data import Bundle
from apps.ode_lebm.forecasters import Forecaster, Samples
from apps.ode_lebm.settings import Settings
from apps.ode_lebm.tasks import Task, tasks_of
from lv_core import frozen, stream
from lv_dynamics import EnergyOde, Sequences
from lv_dynamics.metrics import (
    amplitude,
    auroc,
    coverage,
    error_curve,
    gaussian_crps,
    interval_width,
    median_mse,
    mse,
    r2_of_factors,
)

__all__ = ["Measured", "evaluate"]

LEVEL = 0.9  # of the credible bands


@dataclass(frozen=True)
class Measured:
    """Numbers for the results file and arrays for the figures."""

    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """Forecasts of all test sequences in reported units."""

    mean: Tensor
    best: Tensor
    std: Tensor
    low: Tensor | None
    high: Tensor | None


@torch.no_grad()
def evaluate(system: str, forecaster: Forecaster, data: Bundle, settings: Settings) -> Measured:
    """Returns every measure of one forecaster on one data set."""
    numbers: dict[str, Any] = {"tasks": {}}
    arrays: dict[str, np.ndarray] = {}
    tasks = tasks_of(system, data, settings.seed)
    for place, task in enumerate(tasks):
        samples = forecaster.latents(task.seen)
        predicted = _predict(forecaster, task, samples, data)
        target = _restored(task.target, data)
        numbers["tasks"][task.name] = _scores(predicted, target, task)
        arrays |= _kept(place, task, predicted, target, settings)
        if place == 0 and samples is not None and forecaster.model is not None:
            latent = _latent_numbers(samples, data)
            numbers |= latent.numbers
            arrays |= latent.arrays
            arrays |= {"latents": _array(samples.mean()), "best": _array(samples.best)}
            numbers["swap"] = _swap(system, forecaster.model, samples, data)
            outside = _outside(forecaster, task, samples, data)
            numbers["outside"] = outside.numbers
            arrays |= outside.arrays
    if forecaster.model is not None:
        drawn = _prior_samples(forecaster.model, data, settings)
        numbers["prior"] = drawn.numbers
        arrays |= drawn.arrays
    return Measured(numbers, arrays)


# Forecasts


def _predict(
    forecaster: Forecaster, task: Task, samples: Samples | None, data: Bundle
) -> Prediction:
    image = len(task.target.obs_shape) > 1
    columns: dict[str, list[Tensor]] = {"mean": [], "best": [], "std": [], "low": [], "high": []}
    for part in forecaster.forecasts(task.seen, task.target.times, samples):
        columns["mean"].append(data.restored(part.mean.cpu()))
        columns["best"].append(data.restored(part.best.cpu()))
        columns["std"].append(data.deviations(part.std.cpu()))
        if not image:  # bands of pixels tell nobody anything
            for name, q in (("low", 0.5 - LEVEL / 2), ("high", 0.5 + LEVEL / 2)):
                columns[name].append(data.restored(part.quantile(q).cpu()))
    joined = {name: torch.cat(parts) if parts else None for name, parts in columns.items()}
    return Prediction(**joined)  # type: ignore[arg-type]


def _restored(sequences: Sequences, data: Bundle) -> Sequences:
    return Sequences(
        sequences.times / data.clock,
        data.restored(sequences.values),
        sequences.mask,
        sequences.lengths,
        sequences.factors,
    )


def _scores(predicted: Prediction, target: Sequences, task: Task) -> dict[str, Any]:
    """Returns errors by block of rows, and how honest the bands are."""
    blocks = {}
    for name, (first, last) in task.blocks.items():
        rows = {"first": first, "last": last}
        blocks[name] = {
            "mse": float(mse(predicted.mean, target, **rows)),
            "mse_best": float(mse(predicted.best, target, **rows)),
            "median": float(median_mse(predicted.mean, target, **rows)),
            "median_best": float(median_mse(predicted.best, target, **rows)),
        }
    scores: dict[str, Any] = {"blocks": blocks}
    if predicted.low is not None and predicted.high is not None:
        unseen = Sequences(
            target.times, target.values, target.mask & ~task.seen.mask, target.lengths
        )
        scores |= (
            {
                "coverage": float(coverage(predicted.low, predicted.high, unseen)),
                "width": float(interval_width(predicted.low, predicted.high, unseen)),
                "crps_normal": float(gaussian_crps(predicted.mean, predicted.std, unseen)),
            }
            if bool(unseen.mask.flatten(1).any(1).all())
            else {}
        )
    return scores


def _kept(
    place: int, task: Task, predicted: Prediction, target: Sequences, settings: Settings
) -> dict[str, np.ndarray]:
    """Returns a few sequences, and the error curve of all."""
    few = slice(0, settings.evaluate.shown)
    kept = {
        "times": target.times[few],
        "truth": target.values[few],
        "seen": task.seen.mask[few].flatten(2).any(2),
        "mean": predicted.mean[few],
        "best": predicted.best[few],
    }
    if predicted.low is not None and predicted.high is not None:
        kept |= {"low": predicted.low[few], "high": predicted.high[few]}
    shared = bool((target.times == target.times[:1]).all())
    if shared:
        kept["error"] = error_curve(predicted.mean, target)
        kept["error_times"] = target.times[0]
    return {f"task{place}/{name}": _array(value) for name, value in kept.items()}


# Latents


def _latent_numbers(samples: Samples, data: Bundle) -> Measured:
    """Returns diagnostics of the latents, and what can be read off them."""
    arrays = {f"factor/{name}": _array(value) for name, value in data.test.factors.items()}
    mean = samples.mean().cpu()
    found: dict[str, Any] = {
        "latent_norm": float(torch.linalg.vector_norm(samples.draws, dim=-1).mean()),
        "latent_norm_of_normal": mean.shape[-1] ** 0.5,
    }
    posterior = samples.posterior
    if posterior is not None:
        found |= {
            "accept": float(posterior.accept.mean()),
            "step_size": float(posterior.step_size.median()),
            "doubts": posterior.report(),
        }
    if data.factors:
        true = torch.stack([data.test.factors[name].double() for name in data.factors], 1)
        parts = {"all": mean.double()}
        if posterior is not None and posterior.state < mean.shape[1]:
            parts["static"] = mean[:, posterior.state :].double()
        found["factors"] = {}
        for part, latents in parts.items():
            r2 = r2_of_factors(latents, true, generator=stream(0, "folds"))
            arrays[f"read off/{part}"] = _array(r2.predicted)
            found["factors"][part] = {
                name: {"held_out": float(a), "in_sample": float(b)}
                for name, a, b in zip(data.factors, r2.held_out, r2.in_sample, strict=True)
            }
    return Measured(found, arrays)


def _swap(system: str, model: EnergyOde, samples: Samples, data: Bundle) -> dict[str, float]:
    """Returns how well a digit turns like another one when static variables are exchanged."""
    if system != "rotating_digits" or model.config.static == 0:
        return {}
    test, turn = data.test, 15
    half = len(test) // 2
    one, other = torch.arange(half), torch.arange(half, 2 * half)
    state, static = model.split(samples.best[one])[0], model.split(samples.best[other])[1]
    assert static is not None
    times = test.times[one][:, :turn].to(samples.best)
    with frozen(model):
        made = model.mean(torch.cat((state, static), -1), times).cpu()
        own = model.mean(samples.best[one], times).cpu()
    # The truth is in the data: the other digit, from the angle at which this one starts.
    start = (test.factors["start"] / 24).round().long()
    rows = (start[one] - start[other])[:, None] + torch.arange(turn)
    truth = test.values[other[:, None], rows % turn]
    shown = test.values[one, :turn]
    return {
        "mse": float((made - truth).square().mean()),
        "mse_own_digit": float((made - shown).square().mean()),
        "mse_not_swapped": float((own - truth).square().mean()),
        "mse_reconstruction": float((own - shown).square().mean()),
    }


def _outside(forecaster: Forecaster, task: Task, samples: Samples, data: Bundle) -> Measured:
    """Returns how well scores tell sequences of another kind from the test set's."""
    if data.outside is None or forecaster.model is None:
        return Measured({})
    seen = int(task.seen.rows.sum(1).max())
    other = data.outside.prefix(seen)
    found = forecaster.latents(other)
    assert found is not None
    inside = _unusual(forecaster.model, task.seen, samples)
    outside = _unusual(forecaster.model, other, found)
    numbers = {name: float(auroc(inside[name], outside[name])) for name in inside}
    arrays = {f"inside/{name}": _array(value) for name, value in inside.items()}
    arrays |= {f"outside/{name}": _array(value) for name, value in outside.items()}
    return Measured(numbers, arrays)


def _unusual(model: EnergyOde, seen: Sequences, samples: Samples) -> dict[str, Tensor]:
    """Returns scores of sequences, larger = more unusual."""
    device = samples.draws.device
    with frozen(model):
        energy = (samples.weights * model.energy(samples.draws)).sum(0)
        likelihood = model.log_likelihood(samples.best, seen.compact().to(device))
        joint = likelihood - model.energy(samples.best)
    count = seen.observed.to(device)
    return {
        "prior energy": energy.cpu(),
        "misfit": (-likelihood / count).cpu(),
        "posterior energy": (-joint / count).cpu(),
    }


def _prior_samples(model: EnergyOde, data: Bundle, settings: Settings) -> Measured:
    """Returns how strongly samples of the model swing, beside the data, and a few of them."""
    times = data.train.times[0]
    drawn = model.sample(
        settings.evaluate.samples,
        times.to(next(model.parameters()).device),
        generator=stream(settings.seed, "prior samples"),
    )
    mean = drawn.mean.cpu()
    few = _array(data.restored(mean[: settings.evaluate.shown]))
    arrays = {"prior/times": _array(times / data.clock), "prior/values": few}
    arrays["prior/z"] = _array(drawn.z)
    if len(data.train.obs_shape) > 1:
        return Measured({}, arrays)
    ours = amplitude(Sequences(times, data.restored(mean)))
    theirs = amplitude(_restored(data.train, data))
    return Measured(
        {
            "amplitude": float(ours.mean),
            "amplitude_spread": float(ours.spread),
            "amplitude_of_data": float(theirs.mean),
            "amplitude_spread_of_data": float(theirs.spread),
        },
        arrays,
    )


def _array(value: Tensor) -> np.ndarray:
    kept = value.detach().cpu()
    return np.asarray(kept.float() if kept.is_floating_point() else kept)
