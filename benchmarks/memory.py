"""Memory of many short runs whose target changes in between, as in learning an energy."""

import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import markdown, progress
from lv_core import Compiled, Langevin, Mala, stream
from lv_core.nn import mlp
from lv_priors import EnergyPrior

__all__ = ["run"]

DIM, CHAINS = 32, 64


def run(*, quick: bool = False) -> str:
    """Returns how much the resident memory grew over runs with an optimizer step after each."""
    runs = 200 if quick else 2000
    rows = []
    for name, make in VERSIONS.items():
        torch.manual_seed(0)
        prior = EnergyPrior(mlp((DIM, 64, 64, 1)), DIM, closed_form=name.endswith("closed form"))
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-4)
        sampler = make(prior)
        # What is allocated once (buffers, a compiled graph, moments) is no growth.
        for _ in range(runs // 10):
            _update(prior, optimizer, sampler, 0)
        before = _resident()
        for k in range(runs):
            _update(prior, optimizer, sampler, k)
            if k % 100 == 0:
                progress(f"{name}: run {k} of {runs}")
        grown = _resident() - before
        rows.append([name, f"{runs}", f"{before:.0f}", f"{grown:+.1f}"])
    header = ["version", "short runs", "resident memory before, MB", "growth, MB"]
    return (
        "Chains of 20 steps from fresh starts, 64 chains in 32 dimensions, one optimizer step on "
        "the energy after each run, after a tenth as many runs of warm-up.\n\n"
        + markdown(header, rows)
    )


def _update(
    prior: EnergyPrior,
    optimizer: torch.optim.Optimizer,
    sampler: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    k: int,
) -> None:
    generator = stream(0, "memory", k)
    negative = sampler(prior.init(CHAINS, generator=generator), generator)
    positive = torch.empty_like(negative).normal_(generator=generator)
    optimizer.zero_grad()
    prior.loss(positive, negative).loss.backward()
    optimizer.step()


def _plain(prior: EnergyPrior) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    kernel = Langevin(steps=20, step_size=0.2)
    # A new function each time, as in a training loop that closes over its batch.
    return lambda u, generator: kernel(lambda z: prior.log_density(z), u, generator=generator)


def _traced(prior: EnergyPrior) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    kernel = Mala(steps=20, step_size=0.2)
    return lambda u, generator: kernel.run(prior.log_density, u, generator=generator).state.u


def _closed(prior: EnergyPrior) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    prior.sampler = Langevin(steps=20, step_size=0.2)
    return lambda u, generator: prior.sample(len(u), generator=generator)


def _compiled(prior: EnergyPrior) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    sampler = Compiled(Langevin(steps=20, step_size=0.2), prior.log_density)
    return lambda u, generator: sampler(u, generator=generator)


VERSIONS: dict[str, Callable[[EnergyPrior], Callable[..., torch.Tensor]]] = {
    "Langevin": _plain,
    "Mala.run, with its trace": _traced,
    "EnergyPrior.sample, closed form": _closed,
    "Compiled(Langevin)": _compiled,
}


def _resident() -> float:
    """Returns the resident memory of this process in MB (Linux)."""
    gc.collect()
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found.group(1)) / 1024
