"""Training operations of a cell, by the paper's count and by ours."""

import time

import torch

from apps.ltm.cells import Cell
from lv_text import ThoughtConfig
from lv_text.metrics import TrainingFlops, training_flops

__all__ = ["equal_iterations", "operations", "throughput", "used_parameters"]


def operations(cell: Cell) -> dict[str, float]:
    """Returns operations per token and of the whole training, in units of 1e9.

    Updates without latents (the autoregressive model, and the first ones of a cell with a late
    start) have no fast steps; inference from a part of the tokens costs that part; an encoder is
    counted as a second decoder without latents.
    """
    plain = _count(cell.model, 0, latents=False)
    share = 0.0
    if cell.kind == "ar":
        each, paper, frozen = plain.counted.total, plain.paper, plain.frozen
    else:
        fast = 0
        if cell.kind == "thought":
            fast = cell.inference.steps * cell.inference.samples
        full = _count(cell.model, fast, latents=True)
        slow = _count(cell.model, 0, latents=True).counted.total
        inferring = (full.counted.total - slow) * cell.train.known
        encoder = plain.counted.total * cell.train.known if cell.encoded else 0.0
        share = cell.train.late
        each = share * plain.counted.total + (1 - share) * (slow + inferring + encoder)
        paper = share * plain.paper + (1 - share) * full.paper
        frozen = share * plain.frozen + (1 - share) * full.frozen
    tokens = cell.train.iterations * cell.train.batch_size * cell.model.length
    return {
        "paper_per_token": paper / 1e9,
        "frozen_per_token": frozen / 1e9,
        "counted_per_token": each / 1e9,
        "counted": each * tokens / 1e9,
    }


def equal_iterations(baseline: Cell, cell: Cell) -> int:
    """Returns the updates of `cell` that cost what the training of `baseline` costs."""
    one = operations(cell)["counted"] / cell.train.iterations
    return max(1, round(operations(baseline)["counted"] / one))


def used_parameters(cell: Cell, names: dict[str, int]) -> int:
    """Returns the number of parameters that a cell uses: without latents no cross-attention."""
    idle = cell.kind == "ar"
    return sum(n for name, n in names.items() if not (idle and ".cross" in name))


def throughput(
    cell: Cell, seconds: float, device: torch.device, precision: str
) -> dict[str, float]:
    """Returns the speed of training: tokens, operations, and their share of the matmul rate.

    The rate is measured here, in the run's precision, on large square matrices.

    Arguments:
        cell: What was trained.
        seconds: Time of training on the clock.
        device: Where.
        precision: "fp32" or "bf16".
    """
    found = operations(cell)
    tokens = cell.train.iterations * cell.train.batch_size * cell.model.length
    rate = _matmul_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    done = found["counted"] / max(seconds, 1e-9)
    return {
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "gflop_per_second": done,
        "matmul_gflop_per_second": rate,
        "utilization": done / rate,
    }


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the best rate of a square product in units of 1e9 operations a second."""
    size = 8192 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def _count(model: ThoughtConfig, fast: int, *, latents: bool) -> TrainingFlops:
    return training_flops(
        layers=model.layers,
        width=model.width,
        mlp_width=model.decoder().inner_width,
        vocabulary=model.vocabulary,
        length=model.length,
        window=model.window,
        slots=model.slots if latents else 0,
        latent_layers=model.reading if latents else 0,
        fast_steps=fast,
    )
