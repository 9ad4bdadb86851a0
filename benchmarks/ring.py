"""Training of the head-direction model: one network, stacked networks, and a plain loop."""

import math
import time

import torch
from torch import nn

from benchmarks.measure import in_turns, markdown, matmul_rate
from lv_neuro import HeadDirectionModel, Trainer

__all__ = ["run"]

N, D, LARGEST, ROLLOUT = 100, 100, 5, 5
FULL = 3000
"""Updates of a whole training."""


class PlainRing(nn.Module):
    """One network written as its formulas read, trained by torch's default Adam."""

    def __init__(self) -> None:
        """Draws the same initial distribution as the library."""
        super().__init__()
        self.v = nn.Parameter(torch.nn.functional.normalize(torch.rand(N, D), dim=1))
        self.a = nn.Parameter(0.001 * (2 * torch.rand(D, D) - 1))
        self.b = nn.Parameter(0.001 * (2 * torch.rand(2 * LARGEST + 1, D, D) - 1))
        self.bias = nn.Parameter(torch.zeros(D))
        x = torch.arange(N) * (2 * math.pi / N)
        d = (x[:, None] - x + math.pi) % (2 * math.pi) - math.pi
        self.target = torch.exp(-(d**2) / (2 * 0.65**2))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.003)

    def step(self) -> None:
        """Takes one update."""
        v, place, loss = self.v, 0, torch.zeros(())
        for k in torch.randint(-LARGEST, LARGEST + 1, (ROLLOUT,)).tolist():
            v = torch.relu(v @ (self.a + self.b[k + LARGEST]).T + self.bias)
            v = v / v.norm(dim=1, keepdim=True)
            place += k
            loss = loss + ((v - self.v.roll(-place, 0)) ** 2).sum(1).mean() / ROLLOUT
        loss = loss + ((self.v @ self.v.T - self.target) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 10.0)
        self.optimizer.step()
        with torch.no_grad():
            self.v.clamp_(min=0)
            self.v.div_(self.v.norm(dim=1, keepdim=True))


def run(*, quick: bool = False) -> str:
    """Returns the time of an update for one network and for stacked ones."""
    updates, repetitions = (20, 3) if quick else (100, 9)
    plain = PlainRing()
    work = {"plain loop, one network": lambda: [plain.step() for _ in range(updates)]}
    for seeds in (1, 2, 4, 8):
        model = HeadDirectionModel("fc_table", neurons=D, bins=N, seeds=seeds)
        trainer = Trainer(model, model.default_training())
        name = f"lv, {seeds} stacked" if seeds > 1 else "lv, one network"
        work[name] = lambda trainer=trainer: [trainer.step() for _ in range(updates)]
    times = in_turns(work, repetitions=repetitions)
    one = "lv, one network"
    rows = [
        [
            name,
            f"{1000 * times.median(name) / updates:.2f}",
            f"{FULL * times.median(name) / updates:.1f}",
            times.spread(name, one),
        ]
        for name in work
    ]
    flops = 3 * 2 * N * D * D * ROLLOUT + 3 * 2 * N * N * D
    bound = 1000 * flops / matmul_rate()
    rows.append(["matrix products of one network at the best rate", f"{bound:.2f}", "", ""])
    header = ["version", "ms an update", f"s for {FULL:,} updates", "time / one network"]
    took = time.process_time()
    whole = HeadDirectionModel("fc_table", neurons=D, bins=N)
    whole.fit(iterations=200 if quick else FULL)
    took = time.process_time() - took
    told = "" if quick else f" A whole training of one network took {took:.1f} s of CPU time."
    return (
        f"Fully connected network, d = {D}, N = {N}, roll-outs of {ROLLOUT} turns.{told}\n\n"
        + markdown(header, rows)
    )
