"""A tiny app for the tests: dropout, AdamW, noise from streams; kills itself when told."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from apps._runner import Run, RunSettings, cli_errors, parse


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """A loop that fits noise."""

    steps: int = 20
    every: int = 5
    kill_at: int = -1
    rate: float = 0.01


def main(argv, presets):
    """Fits a linear map to noise."""
    with cli_errors("loop"):
        name, settings = parse(Settings, presets, argv, prog="loop")
        run = Run(settings, app="loop", preset=name, argv=argv, may_change=("kill_at",))
        net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        model = run.accelerator.prepare(net) if run.world > 1 else net
        optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate)
        parts = {"modules": {"net": model}, "optimizers": {"adam": optimizer}}
        state = run.load(**parts) or {"step": 0, "total": 0.0}
        total = state["total"]
        for step in run.steps(settings.steps, state["step"]):
            run.reseed("dropout", step, run.rank)
            x = torch.randn(16, 3, generator=run.generator("x", step, run.rank))
            loss = (model(x).squeeze(-1) - x.sum(-1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            run.log(step, loss=loss.detach(), total=total)
            if step == settings.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if (step + 1) % settings.every == 0:
                run.save(step + 1, **parts, total=total)
        run.weights(net, {"sizes": [3, 8, 1]})
        claims = [{"claim": "the total is finite", "paper": 1.0, "ours": total, "holds": True}]
        return run.finish({"total": total}, claims, notes="A loop that fits noise.")


if __name__ == "__main__":
    main(sys.argv[1:], Path(os.environ["LOOP_PRESETS"]))
